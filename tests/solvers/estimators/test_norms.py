"""Norms of operators of any shape against singular values."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from estimator_contract import TRIALS, N, ToleranceContract, covers, quietly, unbiased
from solver_cases import joined, line, problem, rounding
from torch import Tensor

from eigenspan.linops import Dense
from eigenspan.solvers.estimators.estimates import EstimateStatus
from eigenspan.solvers.estimators.norms import frobenius_norm, nuclear_norm, spectral_norm
from eigenspan.solvers.estimators.range_sketch import Spherical

M = 25


def rectangle(sigma: Tensor, m: int = M, n: int = N) -> Tensor:
    """An (m, n) matrix of these singular values."""
    left, right = (torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0] for size in (m, n))
    return (left[:, : len(sigma)] * sigma.double()) @ right[:, : len(sigma)].mT


DECAY = torch.arange(1, M + 1, dtype=torch.float64) ** -1.0
SHAPES = pytest.mark.parametrize("transposed", [False, True], ids=["wide", "tall"])


class TestFrobeniusByHutchinson(ToleranceContract):
    function = staticmethod(partial(frobenius_norm, method="hutchinson", max_products=60))
    square = False

    def truth(self, matrix: Tensor) -> Tensor:
        return matrix.norm()


class TestFrobeniusOfRange(TestFrobeniusByHutchinson):
    function = staticmethod(partial(frobenius_norm, method="xtrace", max_products=60))
    transposes = True


class TestNuclear(ToleranceContract):
    function = staticmethod(partial(nuclear_norm, max_products=60, steps=12))
    square = False
    transposes = True

    def truth(self, matrix: Tensor) -> Tensor:
        return torch.linalg.svdvals(matrix).sum()


class TestSpectral(ToleranceContract):
    function = staticmethod(partial(spectral_norm, max_products=30))
    square = False
    transposes = True

    def numbers(self, result) -> Tensor:
        return torch.tensor([result.lower, result.upper], dtype=torch.float64)

    def truth(self, matrix: Tensor) -> Tensor:
        return torch.linalg.svdvals(matrix)[0]

    def holds(self, result, truth: Tensor) -> bool:
        return result.lower <= float(truth) * (1 + 1e-6) <= result.upper * (1 + 2e-6)


# -- Frobenius --------------------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("rank", [1, 6])
def test_frobenius_is_exact_for_low_rank(rank, transposed, device):
    for dtype in (torch.float64, torch.float32):
        A = rectangle(line(1, 2, rank) if rank > 1 else torch.ones(1))
        A = A.mT.contiguous() if transposed else A
        result = frobenius_norm(Dense(A.to(device, dtype)), max_products=16)
        assert float(result) == pytest.approx(float(A.norm()), rel=rounding(dtype))
        assert float(result.standard_error) <= rounding(dtype) * float(A.norm())
        assert result.products == 8 + rank


@SHAPES
def test_frobenius_of_the_whole_range(transposed):
    A = rectangle(DECAY).mT if transposed else rectangle(DECAY)
    result = frobenius_norm(A, max_products=1000)
    assert float(result) == pytest.approx(float(A.norm()), rel=1e-12)
    assert result.products == (M + 1) + M


def test_frobenius_by_hutchinson_is_exact_for_orthogonal_columns():
    result = frobenius_norm(torch.eye(M, N, dtype=torch.float64) * 3, "hutchinson", max_products=20)
    assert float(result) == pytest.approx(3 * math.sqrt(M), rel=1e-13)


def left_out(A: Tensor, omega: Tensor) -> Tensor:
    """The mean of ‖A Q‖² + ‖(I - QQᵀ) Aᵀ ω‖² by a basis made afresh for each vector."""
    estimates = []
    for j in range(omega.shape[1]):
        Q = torch.linalg.qr(A.mT @ omega[:, [i for i in range(omega.shape[1]) if i != j]])[0]
        image = A.mT @ omega[:, j]
        estimates.append((A @ Q).square().sum() + (image - Q @ (Q.mT @ image)).square().sum())
    return torch.stack(estimates).mean()


def test_frobenius_is_the_mean_over_bases_of_all_vectors_but_one():
    A, omega = rectangle(DECAY), Spherical(M, 9, seed=0, purpose="norm", dtype=torch.float64).columns(0, 9)
    result = frobenius_norm(A, max_products=18)
    squared = left_out(A, omega)
    assert float(result) == pytest.approx(float(squared.sqrt()), rel=1e-11)
    others = torch.stack([left_out(A, omega[:, [i for i in range(9) if i != j]]) for j in range(9)])
    error = others.std() * math.sqrt(8)
    assert float(result.standard_error) == pytest.approx(float(error / (2 * squared.sqrt())), rel=1e-8)
    # The lower end of the interval is the root of that of the square.
    lower = squared - 2.306004135 * error  # Student's t, 8 degrees of freedom
    assert float(result.interval[0]) == pytest.approx(float(lower.clamp(min=0).sqrt()), rel=1e-6)


@pytest.mark.parametrize(("method", "cost"), [("hutchinson", 1), ("xtrace", 2)])
def test_square_of_frobenius_has_no_bias(method, cost):
    A = rectangle(DECAY)
    norms = [float(frobenius_norm(A, method, max_products=5 * cost, seed=seed)) for seed in range(50)]
    assert unbiased(torch.tensor(norms).square(), float(A.square().sum()))


@TRIALS
@pytest.mark.parametrize(
    ("method", "sigma", "tol"),
    [
        ("hutchinson", torch.ones(1), 0.3),
        ("hutchinson", line(1, 2, M), 0.1),
        ("xtrace", DECAY, 0.05),
        ("xtrace", joined([1.0] * 10, [1e-3] * (M - 10)), 0.1),
    ],
    ids=["rank one", "flat", "decay", "step"],
)
def test_frobenius_margins_hold_wherever_it_stops(method, sigma, tol, trials):
    A = rectangle(sigma)
    results = [quietly(frobenius_norm, A, method, tol=tol, max_products=300, seed=seed) for seed in range(trials)]
    assert covers([abs(float(r) - float(A.norm())) <= float(r.margin) for r in results], 0.95)


# -- spectral ---------------------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("products", [1, 2, 7])
def test_spectral_bounds(products, transposed):
    """The lower bound always holds; the upper one as often as it says, at a confidence low enough to tell."""
    A = rectangle(joined([1.2], line(0.1, 1, M - 1)))
    A = A.mT if transposed else A
    for confidence in (0.3, 0.9):
        bounds = [spectral_norm(A, max_products=products, confidence=confidence, seed=seed) for seed in range(30)]
        assert all(b.lower <= 1.2 * (1 + 1e-12) for b in bounds)
        assert covers([b.upper >= 1.2 * (1 - 1e-12) for b in bounds], confidence)
        assert all(b.products == products for b in bounds)


def test_spectral_lower_bound_is_the_largest_in_the_krylov_space(device):
    A, q = rectangle(DECAY), Spherical(N, 1, seed=0, purpose="spectral norm", dtype=torch.float64).columns(0, 1)
    for products in (1, 2, 5, 6):
        vectors, powers = [], q
        for _ in range((products + 1) // 2):
            vectors.append(powers)
            powers = A.mT @ (A @ powers)
        right = torch.linalg.qr(torch.cat(vectors, 1))[0]
        image = torch.linalg.qr(A @ right)[0]
        space, operator = (right, A) if products % 2 else (image, A.mT)
        found = spectral_norm(A.to(device), max_products=products).lower
        assert found == pytest.approx(float(torch.linalg.svdvals(operator @ space)[0]), rel=1e-10)


def test_spectral_upper_bound_is_that_of_chebyshev():
    """With the quantile of |qᵀv| from random unit vectors."""
    A, taken = rectangle(line(0.5, 1, M)), 9
    result = spectral_norm(A, max_products=taken, confidence=0.8)
    normal = torch.randn(200_000, N, dtype=torch.float64)
    least = float((normal[:, 0].abs() / normal.norm(dim=1)).quantile(0.2))
    assert result.upper == pytest.approx(result.lower * math.cosh(math.acosh(1 / least) / taken), rel=2e-3)


def test_spectral_bounds_meet_where_the_space_closes(device):
    for dtype, width in ((torch.float64, 1e-11), (torch.float32, 1e-2)):
        A = rectangle(torch.tensor([3.0, 2.0, 1.0]))
        result = spectral_norm(Dense(A.to(device, dtype)), tol=0.5, max_products=60)
        assert result.status is EstimateStatus.REACHED
        assert result.lower == pytest.approx(3, rel=rounding(dtype))
        closed = spectral_norm(Dense(A.to(device, dtype)), max_products=60)
        assert closed.products <= 9  # six that find something new, and those that find roundings
        assert 0 <= closed.upper - closed.lower <= width * closed.lower


def test_a_hidden_direction_is_not_ruled_out_by_rounding():
    """A space of the identity closes at once, which in single precision says little of what q has little of."""
    result = spectral_norm(torch.eye(N), max_products=60)
    assert result.products == 2
    assert 1 + 1e-6 < result.upper < 1.01
    assert spectral_norm(torch.eye(N, dtype=torch.float64), max_products=60).upper < 1 + 1e-10


def test_spectral_tolerance_takes_no_more_products_than_it_needs():
    A = rectangle(line(0.5, 1, M))
    result = spectral_norm(A, tol=0.05, max_products=100)
    assert result.upper - result.lower <= 0.05 * result.lower
    fewer = spectral_norm(A, max_products=result.products - 1)
    assert fewer.upper - fewer.lower > 0.05 * fewer.lower


# -- nuclear ----------------------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("steps", [2, 3, 6, 7])
def test_nuclear_bounds_are_certain_for_each_vector(steps, transposed):
    """n qᵀ √(AᵀA) q of every vector, by singular values, lies between the two quadratures of it."""
    A = rectangle(DECAY)
    A = A.mT.contiguous() if transposed else A
    n = A.shape[1]
    _, sigma, Vt = torch.linalg.svd(A, full_matrices=False)
    result = nuclear_norm(A, steps=steps, max_products=8 * steps)
    q = Spherical(n, 8, seed=0, purpose="nuclear norm", dtype=torch.float64).columns(0, 8)
    mean = float((sigma[:, None] * (Vt @ q).square()).sum(0).mean())
    assert result.samples == 8
    assert abs(float(result) - mean) <= float(result.bias)
    assert float(result.bias) < 0.7 * mean


def test_nuclear_bias_falls_with_the_steps_to_nothing(device):
    A = rectangle(line(1, 3, M)).to(device)
    biases = [float(nuclear_norm(A, steps=steps, max_products=4 * steps).bias) for steps in (4, 8, 16, 60)]
    assert biases[0] > 2 * biases[1] > 4 * biases[2] > 8 * biases[3]
    assert biases[3] < 1e-10


def test_nuclear_asks_for_steps_where_vectors_do_not_help():
    result = quietly(nuclear_norm, rectangle(DECAY), tol=1e-3, steps=4, max_products=400)
    assert result.status is EstimateStatus.OUT_OF_STEPS
    assert "raise steps or tol" in repr(result)


def test_nuclear_is_that_of_a_symmetric_operator_of_both_signs():
    A = problem(line(-1, 1.2, N))
    result = nuclear_norm(A.operator, tol=0.1, max_products=3000)
    assert result.status is EstimateStatus.REACHED
    assert float(result) == pytest.approx(float(A.eigenvalues.abs().sum()), rel=0.1)


def test_nuclear_keeps_small_singular_values():
    """Those below the root of a rounding, which AᵀA would lose: many of them sum up to more than the largest."""
    sigma = joined([1e-4], [1e-5] * (M - 1))
    A = rectangle(joined([1.0], sigma)[:M]).float()
    result = nuclear_norm(A, max_products=4000, steps=40)
    assert float(result.bias) < 1e-4
    error = (float(result) - float(torch.linalg.svdvals(A.double()).sum())) / float(result.standard_error)
    assert abs(error) < 4


@TRIALS
@pytest.mark.parametrize("sigma", [torch.ones(1), DECAY], ids=["rank one", "decay"])
def test_nuclear_margins_hold_wherever_it_stops(sigma, trials):
    A = rectangle(sigma)
    results = [quietly(nuclear_norm, A, tol=0.6, steps=8, max_products=240, seed=seed) for seed in range(trials)]
    truth = float(torch.linalg.svdvals(A).sum())
    assert covers([abs(float(r) - truth) <= float(r.margin) for r in results], 0.95)
