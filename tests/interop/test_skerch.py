"""Sketches of skerch on our operators, and its operators as ours, in float64.

A sketch as wide as the operator is exact up to rounding times a condition number of random matrices: 1e-6.
"""

import curvature_cases as cases
import pytest
import torch
from interop_cases import EXTRA
from torch import nn

import eigenspan as es

pytest.importorskip("skerch", reason=EXTRA)
from skerch.a_posteriori import apost_error
from skerch.algorithms import seigh, ssvd
from skerch.linops import CompositeLinOp, DiagonalLinOp


@pytest.mark.parametrize("recovery", ["hmt", "singlepass"])
def test_seigh(recovery):
    H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(11))
    values, vectors = seigh(H, H.device, H.dtype, 53, noise_type="gaussian", recovery_type=recovery, seed=1)
    expected = torch.linalg.eigvalsh(cases.dense_hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(11)))
    torch.testing.assert_close(values.sort().values, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close((vectors * values) @ vectors.mT, H.to_dense(), rtol=0, atol=1e-6)


def test_ssvd():
    """Both J and Jᵀ are multiplied, from the left and from the right."""
    J = es.Jacobian(cases.mlp(), (cases.classes(11)[0], None))
    U, S, Vh = ssvd(J, J.device, J.dtype, 33, noise_type="gaussian", recovery_type="hmt", seed=1)
    expected = cases.dense_jacobian(cases.mlp(), cases.classes(11)[0]).reshape(33, 53)
    torch.testing.assert_close(U * S @ Vh, expected, rtol=0, atol=1e-6)


def test_its_estimate_of_our_error():
    """Of a sketch of half the rank, in the Frobenius norm; 50 random vectors give it within a fifth, by far."""
    H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(11))
    eig = es.SketchedEigh(outer=10).solve(H)
    low = es.Congruence(es.as_operator(eig.eigenvalues.diag()), es.as_operator(eig.eigenvectors).T)
    (_, _, error), _ = apost_error(H, low, H.device, H.dtype, num_meas=50, seed=2, noise_type="rademacher")
    assert error**0.5 == pytest.approx(float((H - low).to_dense().norm()), rel=0.2)


def test_its_operators_as_ours():
    """They have no dtype and no device, so that these are said."""
    diagonal, matrix = torch.linspace(1, 2, 6, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    theirs = CompositeLinOp([("D", DiagonalLinOp(diagonal)), ("M", matrix)])
    A = es.as_operator(lambda X: theirs @ X, shape=theirs.shape, dtype=torch.float64)
    torch.testing.assert_close(A.to_dense(), diagonal[:, None] * matrix, rtol=1e-12, atol=0)
