"""Algorithms of hessian-eigenthings on our operators, and its operators as ours, in float64."""

import curvature_cases as cases
import pytest
import torch
from interop_cases import EXTRA
from torch import nn

import eigenspan as es

eigenthings = pytest.importorskip("hessian_eigenthings", reason=EXTRA)

LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def H():  # noqa: N802
    return es.Hessian(cases.mlp(), LOSS, cases.classes(11))


@pytest.fixture
def theirs(H):
    """Their interface multiplies vectors: a product of ours."""
    return eigenthings.LambdaOperator(H.__matmul__, size=H.shape[0], dtype=H.dtype)


@pytest.fixture
def values():
    values = torch.linalg.eigvalsh(cases.dense_hessian(cases.mlp(), LOSS, cases.classes(11)))
    return values[values.abs().argsort(descending=True)]


def test_lanczos(theirs, values):
    found = eigenthings.lanczos(theirs, k=4, max_iter=50, tol=1e-10, reorthogonalize=True, seed=0)
    torch.testing.assert_close(found.eigenvalues, values[:4], rtol=0, atol=1e-8)  # as converged, with a margin


def test_deflated_power_iteration(theirs, values):
    """It stops at relative changes of 1e-6; neighbours are a few per cent apart."""
    found = eigenthings.deflated_power_iteration(theirs, k=2, max_iter=2000, tol=1e-6, seed=0)
    torch.testing.assert_close(found.eigenvalues, values[:2], rtol=1e-4, atol=0)


def test_trace(theirs, values):
    """Within five of its standard errors."""
    found = eigenthings.trace(theirs, num_matvecs=60, seed=0)
    assert abs(found.estimate - float(values.sum())) < 5 * found.stderr


def test_its_operators_as_ours(H):
    """One vector at a time; products are derivatives, although ours keep no graphs."""
    A = eigenthings.HessianOperator(cases.mlp(), [cases.classes(11)], eigenthings.supervised_loss(LOSS))
    columns = es.as_operator(
        lambda X: torch.stack([A @ x for x in X.mT], dim=1),
        shape=(A.size, A.size),
        dtype=A.dtype,
        structure=es.Structure.SYMMETRIC,
    )
    torch.testing.assert_close(columns.to_dense(), H.to_dense(), rtol=0, atol=1e-10)  # float64, sums of 11 samples
    ours, eig = (es.BlockLanczos(k=3).solve(operator) for operator in (H, columns))
    torch.testing.assert_close(eig.eigenvalues, ours.eigenvalues, rtol=0, atol=1e-8)
