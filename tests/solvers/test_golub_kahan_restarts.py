"""Restarts of block Golub-Kahan: what a limit of the bases costs, and that residual norms stay true."""

from __future__ import annotations

import pytest
import torch
from solver_cases import quietly, rounding
from svd_cases import problem, separate, through_functions, true_residuals

from eigenspan.solvers import Status
from eigenspan.solvers.basis import Basis
from eigenspan.solvers.golub_kahan import BlockGolubKahan


@pytest.fixture
def separated(device):
    return separate(device)


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("block_size", [1, 3])
def test_bases_stay_within_the_limit(separated, monkeypatch, k, block_size):
    largest, append = 0, Basis.append

    def measured(basis, block):
        nonlocal largest
        append(basis, block)
        largest = max(largest, basis.size)

    monkeypatch.setattr(Basis, "append", measured)
    solver = BlockGolubKahan(k=k, block_size=block_size)
    limited = BlockGolubKahan(k=k, block_size=block_size, max_basis=solver.least_basis)
    result = limited.solve(separated.operator)
    assert result.report.status is Status.CONVERGED
    # A random vector may have joined the block, and brought as many left and right ones.
    assert largest <= limited.max_basis + 2
    expected = solver.solve(separated.operator)
    assert largest > limited.max_basis + 2
    assert expected.report.products < result.report.products
    torch.testing.assert_close(result.singular_values, expected.singular_values, rtol=0, atol=3e-9)


def test_twice_as_many_vectors_as_triplets_cost_few_products_more(device):
    truth = problem(torch.arange(1, 301, dtype=torch.float64) ** -0.5, (300, 300), device=device)
    free, limited = (
        BlockGolubKahan(k=40, max_basis=limit).solve(truth.operator).report.products for limit in (None, 80)
    )
    assert free < limited < 1.4 * free


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_residual_norms_stay_true_for_hundreds_of_restarts(dtype, device):
    truth = problem(torch.linspace(1, 0, 100, dtype=torch.float64), (100, 120), dtype, device)
    solver = BlockGolubKahan(k=2, block_size=1, max_basis=5, tol=1e-5)
    result = solver.solve(truth.operator)
    assert result.report.status is Status.CONVERGED
    assert result.report.products > 300
    residuals = true_residuals(result, truth.matrix)
    unit = 10 * rounding(dtype)
    torch.testing.assert_close(result.residual_norms.double().cpu(), residuals, rtol=1e-6, atol=unit)


@pytest.mark.parametrize("max_basis", [None, 24])
@pytest.mark.parametrize("size", [1e-6, 1e-3])
def test_products_that_are_not_quite_adjoint_show_in_the_residual_norms(separated, size, max_basis):
    """And are never called converged below that."""
    A = separated.operator
    noise = torch.randn(200, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(A.device)
    inexact = A.matrix.mT + size * noise / 30
    solver = BlockGolubKahan(k=6, block_size=3, max_basis=max_basis, max_products=400, check_adjoint=False)
    result = quietly(solver, through_functions(A, inexact))
    assert result.report.status is not Status.CONVERGED
    U, sigma, V = result.left_vectors, result.singular_values, result.right_vectors
    right, left = A.matrix @ V - U * sigma, inexact @ U - V * sigma
    residuals = torch.hypot(right.norm(dim=0), left.norm(dim=0)) / 2**0.5
    assert float(residuals.min()) > 1e-2 * size
    torch.testing.assert_close(result.residual_norms, residuals, rtol=0.2 if max_basis else 1e-6, atol=0)


def test_basis_too_small_to_restart():
    with pytest.raises(ValueError, match=r"max_basis=11 is too small .* k=6 .* blocks of 2: choose at least 12"):
        BlockGolubKahan(k=6, block_size=2, max_basis=11)
    assert BlockGolubKahan(k=6, block_size=2).least_basis == 12
    assert BlockGolubKahan(k=200).least_basis == 230
