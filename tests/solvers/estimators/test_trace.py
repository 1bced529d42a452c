"""The trace against dense twins: exact where it must be, without bias, with errors as large as they say."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from estimator_contract import TRIALS, N, ToleranceContract, covers, quietly, unbiased
from solver_cases import joined, line, problem, rounding
from torch import Tensor

from eigenspan.linops import Dense, Function, Hessian
from eigenspan.solvers import Rademacher
from eigenspan.solvers.estimators.range_sketch import Spherical
from eigenspan.solvers.estimators.trace import trace

METHODS = ["hutchinson", "hutch++", "xtrace"]
COST = {"hutchinson": 1, "hutch++": 3, "xtrace": 2}


class TraceContract(ToleranceContract):
    def truth(self, matrix: Tensor) -> Tensor:
        return matrix.trace()


class TestHutchinson(TraceContract):
    function = staticmethod(partial(trace, method="hutchinson", max_products=60))


class TestHutchPlusPlus(TraceContract):
    function = staticmethod(partial(trace, method="hutch++", max_products=60))


class TestXTrace(TraceContract):
    function = staticmethod(partial(trace, method="xtrace", max_products=60))


def unsymmetric(n=N, decay=0.0):
    """A square matrix with singular values j^-decay and unlike left and right singular vectors."""
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for _ in range(2))
    return (left * torch.arange(1, n + 1, dtype=torch.float64) ** -decay) @ right.mT


# -- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_exact_for_low_rank(method, rank, device):
    for dtype in (torch.float64, torch.float32):
        matrix = torch.randn(N, rank, dtype=torch.float64) @ torch.randn(rank, N, dtype=torch.float64)
        result = trace(Dense(matrix.to(device, dtype)), method, max_products=8 * COST[method])
        unit = rounding(dtype) * float(torch.linalg.svdvals(matrix).sum()) * math.sqrt(N)
        assert abs(float(result) - float(matrix.trace())) <= unit
        assert float(result.standard_error) <= unit
        # The second pass multiplies no more vectors than the rank.
        assert result.products == 8 * (COST[method] - 1) + rank


@pytest.mark.parametrize("method", METHODS)
def test_exact_for_multiples_of_the_identity(method, device):
    result = trace(-2.5 * torch.eye(N, dtype=torch.float64, device=device), method, max_products=30)
    assert float(result) == pytest.approx(-2.5 * N, rel=1e-12)
    assert float(result.standard_error) <= 1e-10


def test_hutchinson_is_exact_for_a_diagonal():
    result = trace(torch.diag(line(-3, 5, N)), "hutchinson", max_products=30)
    assert float(result) == pytest.approx(float(N), rel=1e-12)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_as_many_vectors_as_rows_are_enough(method, device):
    matrix = unsymmetric().to(device)
    result = trace(matrix, method, max_products=1000)
    assert float(result) == pytest.approx(float(matrix.trace()), abs=1e-11)
    assert float(result.standard_error) <= 1e-10
    assert result.samples == N + 1
    assert result.products == (N + 1) * (COST[method] - 1) + N


def test_all_but_one_of_the_rows():
    """With n vectors the complement of the others is one line, on which the remainder is known."""
    matrix = unsymmetric()
    assert float(trace(matrix, max_products=2 * N)) == pytest.approx(float(matrix.trace()), abs=1e-9)


# -- dense twins ------------------------------------------------------------------------------------------------------


def columns(kind, purpose, count, n=N):
    return kind(n, count, seed=0, purpose=purpose, dtype=torch.float64).columns(0, count)


def leave_one_out(A: Tensor, omega: Tensor) -> Tensor:
    """The estimates of XTrace by a basis made afresh for each, as defined."""
    n, s = omega.shape
    estimates = []
    for j in range(s):
        Q = torch.linalg.qr(A @ omega[:, [i for i in range(s) if i != j]])[0]
        u = omega[:, j] - Q @ (Q.mT @ omega[:, j])
        u *= math.sqrt(n - s + 1) / u.norm()
        estimates.append((Q.mT @ A @ Q).trace() + u @ A @ u)
    return torch.stack(estimates)


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_xtrace_is_the_mean_over_bases_of_all_vectors_but_one(decay):
    A, omega = unsymmetric(decay=decay), columns(Spherical, "trace range", 9)
    result = trace(A, max_products=18)
    assert float(result) == pytest.approx(float(leave_one_out(A, omega).mean()), abs=1e-11)
    others = [leave_one_out(A, omega[:, [i for i in range(9) if i != j]]).mean() for j in range(9)]
    jackknife = torch.stack(others).std() * math.sqrt(8)
    assert float(result.standard_error) == pytest.approx(float(jackknife), rel=1e-8)


def test_hutch_plus_plus_is_a_trace_and_the_mean_of_a_remainder():
    A, G = unsymmetric(decay=1.0), columns(Spherical, "trace", 9)
    Q = torch.linalg.qr(A @ columns(Spherical, "trace range", 9))[0]
    U = G - Q @ (Q.mT @ G)
    U *= math.sqrt(N - 9) / U.norm(dim=0)
    samples = (Q.mT @ A @ Q).trace() + (U * (A @ U)).sum(0)
    result = trace(A, "hutch++", max_products=27)
    assert float(result) == pytest.approx(float(samples.mean()), abs=1e-12)
    assert float(result.standard_error) == pytest.approx(float(samples.std()) / 3, rel=1e-9)


def test_growth_in_looks_gives_what_one_look_does():
    """With a tolerance vectors join bit by bit; the numbers are those of all of them at once."""
    A = unsymmetric(decay=1.0)
    for method in METHODS:
        grown = quietly(trace, A, method, tol=1e-9, max_products=25 * COST[method])
        assert grown.samples == 25
        at_once = trace(A, method, max_products=25 * COST[method])
        assert float(grown) == pytest.approx(float(at_once), abs=1e-11)
        assert float(grown.standard_error) == pytest.approx(float(at_once.standard_error), rel=1e-8)
        assert float(grown.margin) > float(at_once.margin)  # it pays for the looks


def test_variance_of_hutchinson_is_that_in_closed_form():
    """2 (‖A‖² - Σ aᵢᵢ²) for a symmetric A: from 1500 samples, which tell it to a few percent."""
    A = problem(line(-1, 2, N)).matrix
    omega = columns(Rademacher, "trace", 1500)
    exact = 2 * (A.square().sum() - A.diagonal().square().sum())
    result = trace(A, "hutchinson", max_products=1500)
    assert float(result) == pytest.approx(float((omega * (A @ omega)).sum(0).mean()), rel=1e-12)
    assert float(result.standard_error.square() * 1500) == pytest.approx(float(exact), rel=0.15)


# -- statistics -------------------------------------------------------------------------------------------------------

SPECTRA = {
    "flat": line(1, 3, N),
    "indefinite": line(-1, 1.3, N),
    "decay": torch.arange(1, N + 1, dtype=torch.float64) ** -1.5,
    # Samples are χ² variables with one degree of freedom, the most skewed of quadratic forms.
    "one leads": joined([1000.0], [1.0] * (N - 1)),
    # With as many vectors as the rank of the upper part the published error estimate is several times too small.
    "step": joined([1.0] * 12, [1e-3] * (N - 12)),
}


@pytest.mark.parametrize("method", METHODS)
def test_no_bias(method):
    A = unsymmetric(decay=0.5)
    values = torch.tensor([float(trace(A, method, max_products=5 * COST[method], seed=seed)) for seed in range(50)])
    assert unbiased(values, float(A.trace()))


@TRIALS
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_margins_hold_as_often_as_they_say(method, name, trials):
    A = problem(SPECTRA[name])
    results = [trace(A.operator, method, max_products=12 * COST[method], seed=seed) for seed in range(trials)]
    truth = float(A.matrix.trace())
    assert covers([abs(float(r) - truth) <= float(r.margin) for r in results], 0.95)
    # The standard errors are of the size of the errors, whose median is 0.67 of it if they are normal, and not below.
    ratios = torch.tensor([abs(float(r) - truth) / float(r.standard_error) for r in results])
    assert 0.1 < float(ratios.median()) < 1.3


@TRIALS
@pytest.mark.parametrize(
    ("method", "name", "tol"),
    [
        ("hutchinson", "flat", 0.05),
        ("hutchinson", "one leads", 0.5),
        ("hutch++", "decay", 0.05),
        ("xtrace", "decay", 0.1),
        ("xtrace", "indefinite", 0.5),
    ],
)
def test_margins_hold_wherever_it_stops(method, name, tol, trials):
    """Of estimates that stop as soon as they seem to be good enough, which they may do at several looks."""
    A = problem(SPECTRA[name])
    truth = float(A.matrix.trace())
    results = [quietly(trace, A.operator, method, tol=tol, max_products=300, seed=seed) for seed in range(trials)]
    assert len({result.samples for result in results}) > 1
    assert covers([abs(float(r) - truth) <= float(r.margin) for r in results], 0.95)
    for result in results:
        assert result.status.is_success is (float(result.margin) <= tol * abs(float(result)))


def test_xtrace_is_more_accurate_than_hutch_plus_plus_and_that_than_hutchinson():
    A = problem(SPECTRA["decay"])
    errors = []
    for method in METHODS:
        values = torch.tensor([float(trace(A.operator, method, max_products=30, seed=seed)) for seed in range(20)])
        errors.append(float((values - A.matrix.trace()).square().mean().sqrt()))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


# -- the operator of a model ------------------------------------------------------------------------------------------


def test_trace_of_a_hessian():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    H = Hessian(model, torch.nn.CrossEntropyLoss(), (torch.randn(30, 4), torch.randint(2, (30,))))
    result = trace(H, tol=0.05, max_products=200)
    assert float(result) == pytest.approx(float(H.to_dense().trace()), rel=0.05)
    assert not result.value.requires_grad


def test_shared_names_of_streams_do_not_tie_methods_together():
    """The vectors of the remainder of Hutch++ are independent of those that span its range."""
    first, second = columns(Spherical, "trace", 20), columns(Spherical, "trace range", 20)
    assert float((first.mT @ second / N).abs().max()) < 5 / math.sqrt(N)


def test_linear_only_in_one_direction_is_enough():
    """No method multiplies by the transpose."""
    A = unsymmetric()
    one_sided = Function(lambda X: A @ X, A.shape, A.dtype)
    for method in METHODS:
        assert float(trace(one_sided, method)) == pytest.approx(float(trace(A, method)), rel=1e-12)
