"""The diagonal against dense twins, entry by entry."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from estimator_contract import TRIALS, N, ToleranceContract, covers, quietly, unbiased
from solver_cases import joined, line, problem, rounding
from torch import Tensor

from eigenspan.linops import Dense
from eigenspan.solvers import Rademacher
from eigenspan.solvers.estimators.diagonal import diagonal

METHODS = ["hutchinson", "xdiag"]
COST = {"hutchinson": 1, "xdiag": 2}


class DiagonalContract(ToleranceContract):
    def truth(self, matrix: Tensor) -> Tensor:
        return matrix.diagonal()


class TestHutchinson(DiagonalContract):
    function = staticmethod(partial(diagonal, method="hutchinson", max_products=60))


class TestXDiag(DiagonalContract):
    function = staticmethod(partial(diagonal, method="xdiag", max_products=60))
    transposes = True


def matrix_of(decay):
    """A square matrix with singular values j^-decay and unlike left and right singular vectors."""
    left, right = (torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0] for _ in range(2))
    return (left * torch.arange(1, N + 1, dtype=torch.float64) ** -decay) @ right.mT


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_xdiag_is_exact_for_low_rank(rank, device):
    for dtype in (torch.float64, torch.float32):
        matrix = torch.randn(N, rank, dtype=torch.float64) @ torch.randn(rank, N, dtype=torch.float64)
        result = diagonal(Dense(matrix.to(device, dtype)), max_products=16)
        unit = rounding(dtype) * float(matrix.norm())
        assert (result.value.dtype, result.value.device.type, result.value.shape) == (dtype, device, (N,))
        assert float((result.value.cpu() - matrix.diagonal()).abs().max()) <= unit
        assert float(result.standard_error.max()) <= unit
        assert result.products == 8 + rank


def test_hutchinson_is_exact_for_a_diagonal(device):
    entries = line(-3, 5, N).to(device)
    result = diagonal(torch.diag(entries), "hutchinson", max_products=20)
    torch.testing.assert_close(result.value, entries, rtol=1e-13, atol=0)
    assert float(result.standard_error.max()) <= 1e-13


def test_as_many_vectors_as_rows_are_enough(device):
    matrix = matrix_of(0.5).to(device)
    result = diagonal(matrix, max_products=1000)
    torch.testing.assert_close(result.value, matrix.diagonal(), rtol=0, atol=1e-12)
    assert result.products == (N + 20) + N


def leave_one_out(A: Tensor, omega: Tensor) -> Tensor:
    """The estimate of XDiag by a basis made afresh for each vector, as defined."""
    estimates = []
    for j in range(omega.shape[1]):
        Q = torch.linalg.qr(A @ omega[:, [i for i in range(omega.shape[1]) if i != j]])[0]
        image = A @ omega[:, j]
        estimates.append((Q * (A.mT @ Q)).sum(1) + omega[:, j] * (image - Q @ (Q.mT @ image)))
    return torch.stack(estimates).mean(0)


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_xdiag_is_the_mean_over_bases_of_all_vectors_but_one(decay, device):
    A, omega = matrix_of(decay), Rademacher(N, 9, seed=0, purpose="diagonal", dtype=torch.float64).columns(0, 9)
    result = diagonal(A.to(device), max_products=18)
    torch.testing.assert_close(result.value.cpu(), leave_one_out(A, omega), rtol=0, atol=1e-11)
    others = torch.stack([leave_one_out(A, omega[:, [i for i in range(9) if i != j]]) for j in range(9)])
    torch.testing.assert_close(result.standard_error.cpu(), others.std(0) * math.sqrt(8), rtol=1e-8, atol=1e-13)


def test_hutchinson_is_a_mean_with_the_variance_in_closed_form():
    """Σ aᵢⱼ² over j != i, for one entry."""
    A, omega = matrix_of(0.0), Rademacher(N, 1500, seed=0, purpose="diagonal", dtype=torch.float64).columns(0, 1500)
    result, samples = diagonal(A, "hutchinson", max_products=1500), omega * (A @ omega)
    torch.testing.assert_close(result.value, samples.mean(1), rtol=0, atol=1e-13)
    torch.testing.assert_close(result.standard_error, samples.std(1) / math.sqrt(1500), rtol=1e-10, atol=0)
    exact = A.square().sum(1) - A.diagonal().square()
    torch.testing.assert_close(result.standard_error.square() * 1500, exact, rtol=0.25, atol=0)


def test_squares_of_the_mean_do_not_cancel():
    """A large diagonal, which all samples share, leaves the variance of the small rest."""
    A = matrix_of(0.0)
    shifted = A + 1e9 * torch.eye(N, dtype=torch.float64)
    expected, found = (diagonal(M, "hutchinson", max_products=30).standard_error for M in (A, shifted))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_growth_in_looks_gives_what_one_look_does(method):
    A = matrix_of(1.0)
    grown = quietly(diagonal, A, method, tol=1e-9, max_products=25 * COST[method])
    at_once = diagonal(A, method, max_products=25 * COST[method])
    assert grown.samples == at_once.samples == 25
    torch.testing.assert_close(grown.value, at_once.value, rtol=0, atol=1e-11)
    torch.testing.assert_close(grown.standard_error, at_once.standard_error, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_no_bias(method):
    A = matrix_of(0.5)
    values = torch.stack([diagonal(A, method, max_products=5 * COST[method], seed=seed).value for seed in range(50)])
    assert unbiased(values, A.diagonal())


SPECTRA = {
    "flat": line(1, 3, N),
    "decay": torch.arange(1, N + 1, dtype=torch.float64) ** -1.5,
    "one leads": joined([1000.0], [1.0] * (N - 1)),
    "step": joined([1.0] * 12, [1e-3] * (N - 12)),
}


@TRIALS
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_margins_hold_as_often_as_they_say(method, name, trials):
    """Those of entries, of 40 in each trial that are not independent, and that of the norm."""
    A, entries, norms = problem(SPECTRA[name]), [], []
    for seed in range(trials):
        result = diagonal(A.operator, method, max_products=12 * COST[method], seed=seed)
        error = (result.value - A.matrix.diagonal()).abs()
        entries.append(float((error <= result.margin).double().mean()))
        norms.append(bool(error.norm() <= result.margin.norm()))
    assert covers(norms, 0.95)
    share = torch.tensor(entries)
    assert float(share.mean()) >= 0.95 - 3 * max(0.002, float(share.std()) / math.sqrt(trials))


@TRIALS
@pytest.mark.parametrize(("method", "name", "tol"), [("hutchinson", "flat", 0.176), ("xdiag", "decay", 0.2)])
def test_margins_hold_wherever_it_stops(method, name, tol, trials):
    A, hits, counts = problem(SPECTRA[name]), [], set()
    for seed in range(trials):
        result = quietly(diagonal, A.operator, method, tol=tol, max_products=400, seed=seed)
        counts.add(result.samples)
        hits.append(bool((result.value - A.matrix.diagonal()).norm() <= result.margin.norm()))
        assert result.status.is_success is bool(result.margin.norm() <= tol * result.value.norm())
    assert len(counts) > 1
    assert covers(hits, 0.95)


@TRIALS
def test_margins_of_a_diagonal_matrix_hold_from_ten_samples_on(trials):
    """Its rows see few random signs, which may agree: with four samples a fifth of the margins would fail."""
    A = (0.5 ** torch.arange(20, dtype=torch.float64)).diag()
    results = [diagonal(A, max_products=20, seed=seed) for seed in range(trials)]
    share = torch.tensor([float(((r.value - A.diagonal()).abs() <= r.margin).double().mean()) for r in results])
    assert float(share.mean()) >= 0.95 - 3 * max(0.002, float(share.std()) / math.sqrt(trials))
