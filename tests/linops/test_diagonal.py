"""Exact diagonals of operators with a factor, against those of the dense matrix."""

from __future__ import annotations

import curvature_cases as cases
import pytest
import torch
from torch import nn

import eigenspan as es
from eigenspan.linops import Counted, Dense, Function

# Two ways to sum tens of products of order one.
RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
KINDS = [es.GGN, es.EmpiricalFisher, es.MonteCarloFisher]


def curvature(kind, dtype=torch.float64, device="cpu"):
    batch = cases.classes(device=device, dtype=dtype)
    return kind(cases.mlp(device, dtype), nn.CrossEntropyLoss(), batch, engine="retained", micro_batch_size=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", RTOL, ids=str)
def test_is_that_of_the_dense_matrix(kind, dtype, device):
    A = curvature(kind, dtype, device)
    expected = A.to_dense().diagonal()
    for block_size in (1, 4, 100):
        diagonal = es.exact_diagonal(A, block_size=block_size)
        torch.testing.assert_close(diagonal, expected, rtol=RTOL[dtype], atol=0.01 * RTOL[dtype])


def test_of_sums_multiples_and_congruences():
    G, F = curvature(es.GGN), curvature(es.EmpiricalFisher)
    A = (2 * G + F).masked(es.MaskSubspace.random(53, 20, dtype=torch.float64))
    torch.testing.assert_close(es.exact_diagonal(A), A.to_dense().diagonal(), rtol=1e-10, atol=1e-12)


def test_squares_are_summed_in_float64(device):
    """2²⁴ and then a thousand ones, each of which a float32 sum would lose."""
    B = Dense(torch.tensor([4096.0] + [1.0] * 1000, device=device)[:, None])
    assert es.exact_diagonal(B.T @ B, block_size=1).tolist() == [2.0**24 + 1000]


def test_takes_one_product_a_row():
    B = Counted(Dense(torch.randn(7, 4, dtype=torch.float64)))
    es.exact_diagonal(B.T @ B, block_size=3)
    assert (B.products, B.calls) == (7, 3)


def test_a_factor_without_rows():
    B = Dense(torch.zeros(0, 4))
    assert es.exact_diagonal(B.T @ B).tolist() == [0.0] * 4


def test_without_a_factor():
    for A in (curvature(es.Hessian), Function(lambda X: X, (3, 3), torch.float32)):
        with pytest.raises(TypeError, match=r"no factor B .* eigenspan\.diagonal\(A\) estimates the diagonal"):
            es.exact_diagonal(A)


def test_bad_arguments():
    with pytest.raises(TypeError, match="takes an operator, got Tensor"):
        es.exact_diagonal(torch.eye(3))
    with pytest.raises(ValueError, match="block_size is an integer >= 1, got 0"):
        es.exact_diagonal(curvature(es.GGN), block_size=0)
