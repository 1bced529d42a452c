"""Spectral densities against eigenvalues: each vector's bounds for certain, and their means within errors."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from estimator_contract import TRIALS, ToleranceContract, covers, unbiased
from estimator_contract import N as SMALL
from solver_cases import joined, line, problem, rounding
from torch import Tensor

from eigenspan.linops import Function, Structure
from eigenspan.solvers.estimators.density import SpectralDensity, eigenvalue_count, spectral_density
from eigenspan.solvers.estimators.range_sketch import Spherical

N = 60
INF = math.inf


class TestCount(ToleranceContract):
    function = staticmethod(partial(eigenvalue_count, lower=0.0, upper=INF, steps=6))
    symmetric = True

    def truth(self, matrix: Tensor) -> Tensor:
        return (torch.linalg.eigvalsh(matrix) >= 0).double().sum()

    def test_zero(self, dtype, device):
        """All eigenvalues are at zero: within an interval around it, out of another, on either side of its end."""
        A = problem(torch.zeros(SMALL), dtype, device).operator
        assert float(self.estimate(A, lower=-1.0, upper=1.0)) == SMALL
        assert float(self.estimate(A, lower=1.0, upper=2.0)) == 0
        open_one = self.estimate(A, lower=0.0)
        assert (float(open_one), float(open_one.bias)) == (SMALL / 2, SMALL / 2)

    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
    def test_scale_is_a_factor(self, dtype, device, scale):
        """Of the ends; the count stays."""
        A = problem(line(-1, 2, SMALL), dtype, device).operator
        expected = self.numbers(self.estimate(A, lower=0.3, upper=1.5))
        found = self.numbers(self.estimate(A * scale, lower=0.3 * scale, upper=1.5 * scale))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e3 * rounding(dtype) * SMALL)

    @pytest.mark.parametrize(("lower", "upper"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (INF, INF), (0.0, math.nan)])
    def test_intervals_that_are_none(self, A, lower, upper):
        with pytest.raises(ValueError, match="an interval has lower < upper, got lower="):
            self.estimate(A, lower=lower, upper=upper)


def density(values: Tensor, dtype=torch.float64, device="cpu", **options) -> tuple[SpectralDensity, Tensor]:
    """That of a symmetric operator of these eigenvalues, and the weights of its starting vectors, (vectors, N)."""
    A = problem(values, dtype, device)
    result = spectral_density(A.operator, **options)
    q = Spherical(N, len(result.nodes), seed=options.get("seed", 0), purpose="density", dtype=torch.float64)
    vectors = q.columns(0, len(result.nodes)) / math.sqrt(N)
    return result, (A.eigenvectors.mT @ vectors).square().mT


GAP = joined(line(-1, -0.5, 20), line(0.5, 1.5, N - 20))


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def test_exact_where_steps_reach_the_number_of_distinct_eigenvalues(dtype, device):
    values = joined([2.0] * 25, [-1.0] * 15, [0.5] * (N - 40))
    result, masses = density(values, dtype, device, steps=3)
    assert result.is_exact
    assert result.products == 30
    atol = rounding(dtype)
    expected = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).expand(10, 3)
    torch.testing.assert_close(result.nodes, expected, rtol=0, atol=atol)
    weights = torch.stack([masses[:, 25:40].sum(1), masses[:, 40:].sum(1), masses[:, :25].sum(1)], 1)
    torch.testing.assert_close(result.weights, weights, rtol=0, atol=atol)
    for f in (torch.abs, torch.cos, torch.ones_like):
        integral = result.integral(f)
        assert float(integral.bias) == 0
        assert float(integral) == pytest.approx(float((masses * f(values)).sum(1).mean()), abs=atol)
    for p in (0, 1, 7):
        assert float(result.moment(p)) == pytest.approx(float((masses * values**p).sum(1).mean()), abs=atol * 2**p)


def test_one_distinct_eigenvalue(dtype, device):
    result, _ = density(torch.full((N,), -0.7, dtype=torch.float64), dtype, device)
    assert result.products == 10
    assert result.nodes.shape == (10, 1)
    assert float(result.count(-0.8, -0.6)) == pytest.approx(N, rel=1e-6)
    assert float(result.moment(3)) == pytest.approx(-0.343, rel=rounding(dtype))


def test_rows_of_unlike_length(device):
    """A row that closes early is padded with nodes of no weight: here one starting vector is an eigenvector."""
    values = line(-1, 1, N)
    result, masses = density(values, device=device, steps=5, vectors=2)
    short = spectral_density(problem(torch.ones(N), device=device).operator, steps=5, vectors=2)
    nodes, weights = short.nodes[:1], short.weights[:1]
    pad = torch.nn.functional.pad
    mixed = SpectralDensity(
        nodes=torch.cat([result.nodes[:1], pad(nodes, (0, 4), value=1.0)]),
        weights=torch.cat([result.weights[:1], pad(weights, (0, 4))]),
        matrices=(result.matrices[0], short.matrices[0]),
        n=N,
        eps=result.eps,
        confidence=0.95,
        products=6,
    )
    assert not mixed.is_exact
    assert float(mixed.moment(2)) == pytest.approx(float((masses[0] * values**2).sum() + 1) / 2)
    assert math.isnan(float(mixed.integral(lambda x: 1 / (2 - x)).bias))
    with pytest.raises(ValueError, match="finite values"):
        mixed.integral(lambda x: x / 0)


def test_moments_are_exact_below_twice_the_steps(dtype, device):
    result, masses = density(GAP, dtype, device, steps=6)
    for p in range(12):
        moment = result.moment(p)
        expected = float((masses * GAP**p).sum(1).mean())
        assert float(moment) == pytest.approx(expected, abs=rounding(dtype) * 1.5**p)
        assert float(moment.bias) == 0
    assert math.isnan(float(result.moment(12).bias))
    assert math.isnan(float(result.moment(12).margin))
    assert float(result.moment(0)) == pytest.approx(1, abs=rounding(dtype))
    assert float(result.moment(0).standard_error) <= rounding(dtype)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_bounds_of_the_cumulative_measure_are_certain(steps, dtype, device):
    result, masses = density(GAP, dtype, device, steps=steps)
    x = torch.linspace(-1.3, 1.9, 33, dtype=torch.float64).reshape(3, 11)
    below = result.cumulative(x)
    assert below.value.shape == below.standard_error.shape == below.bias.shape == x.shape
    truth = torch.stack([(masses * (point > GAP)).sum(1).mean() for point in x.flatten()]).reshape(x.shape)
    assert bool(((below.value - truth).abs() <= below.bias + rounding(dtype)).all())
    assert bool((below.value[..., 1:] >= below.value[..., :-1] - rounding(dtype)).all())


def test_ends_in_gaps_leave_no_bias(device):
    result, _ = density(GAP, device=device, steps=25)
    for lower, upper, exact in ((-INF, 0.0, 20), (0.0, INF, N - 20), (-1.2, 0.1, 20), (1.7, INF, 0), (-INF, INF, N)):
        count = result.count(lower, upper)
        assert float(count.bias) < 1e-3
        assert abs(float(count) - exact) <= float(count.margin)
    assert float(result.count(-INF, INF)) == pytest.approx(N, rel=1e-12)
    assert result.cumulative(torch.tensor([-INF, INF])).value.tolist() == [0.0, 1.0]


def test_a_measure_is_nowhere_above_one(dtype):
    """The weights of a rule sum to one to rounding only, above it as often as below."""
    A = problem(GAP, dtype).operator
    for seed in range(20):
        below = spectral_density(A, vectors=3, steps=10, seed=seed).cumulative(torch.tensor([1.9, 2.0, 10.0]))
        assert float(below.value.max()) <= 1


def test_counts_of_parts_add_up():
    result, _ = density(line(-1, 1, N), steps=10)
    total = result.count(-0.5, 0.5)
    parts = [result.count(-0.5, 0.1), result.count(0.1, 0.5)]
    assert abs(float(total) - sum(map(float, parts))) <= float(total.bias) + sum(float(part.bias) for part in parts)


def test_eigenvalue_count_is_that_of_the_density():
    A = problem(line(-1, 1, N)).operator
    count = eigenvalue_count(A, -0.2, 0.6, max_products=36, steps=9, seed=2, confidence=0.8)
    expected = spectral_density(A, vectors=4, steps=9, seed=2, confidence=0.8).count(-0.2, 0.6)
    assert repr(count) == repr(expected)
    assert float(count.margin) == float(expected.margin)
    assert (count.products, count.samples, count.confidence) == (36, 4, 0.8)


def test_smoothed_density(device):
    """A sum of Gaussians over the eigenvalues, by enough steps; it integrates to 1."""
    values = line(-1, 1.5, N)
    result, masses = density(values, device=device, steps=40)
    x, width = torch.linspace(-2.5, 3, 551, dtype=torch.float64), 0.2
    smooth = result.density(x, width)
    kernel = torch.exp(-((x - values[:, None]) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    torch.testing.assert_close(smooth.value, (masses @ kernel).mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(smooth.standard_error, (masses @ kernel).std(0) / math.sqrt(10), rtol=1e-5, atol=1e-9)
    assert float(torch.trapezoid(smooth.value, x)) == pytest.approx(1, abs=1e-9)
    inside = (smooth.value - kernel.mean(0)).abs() <= 5 * smooth.standard_error
    assert bool(inside.all())
    assert bool(smooth.bias.isnan().all())
    assert result.density(0.1, width).value.shape == ()


def test_closed_form_of_a_path(device):
    """The second difference on a path has eigenvalues 2 - 2 cos(k π / (n + 1)), of density 1 / (π √(x (4 - x)))."""
    n = 500

    def matmat(X):
        result = 2 * X
        result[1:] -= X[:-1]
        result[:-1] -= X[1:]
        return result

    A = Function(matmat, (n, n), torch.float64, device, structure=Structure.SYMMETRIC)
    result = spectral_density(A, vectors=10, steps=30)
    x = torch.tensor([0.5, 1.0, 2.0, 3.3])
    below = result.cumulative(x)
    exact = torch.arccos(1 - x.double() / 2) / math.pi
    assert bool(((below.value - exact).abs() <= below.margin + 1 / n).all())
    assert float(below.margin.max()) < 0.2
    smooth = result.density(x, 0.2)
    expected = 1 / (math.pi * (x * (4 - x)).sqrt())
    torch.testing.assert_close(smooth.value, expected.double(), rtol=0.15, atol=0)


def test_no_bias():
    values = line(-1, 1.3, N)
    A = problem(values).operator
    moments = torch.tensor([float(spectral_density(A, vectors=2, steps=2, seed=s).moment(3)) for s in range(50)])
    assert unbiased(moments.double(), float((values**3).mean()))


@TRIALS
@pytest.mark.parametrize("values", [GAP, joined([5.0], line(0, 1, N - 1))], ids=["gap", "one apart"])
def test_margins_hold_as_often_as_they_say(values, trials):
    """With ends in the bulk, and around one eigenvalue alone, whose samples are the most skewed."""
    A, bulk, alone, curve = problem(values).operator, [], [], []
    for seed in range(trials):
        result = spectral_density(A, vectors=5, steps=8, seed=seed)
        for hits, lower, upper in ((bulk, 0.21, 0.93), (alone, 1.42, INF)):
            count = result.count(lower, upper)
            exact = int(((values >= lower) & (values < upper)).sum())
            hits.append(abs(float(count) - exact) <= float(count.margin))
        second = result.moment(2)
        curve.append(abs(float(second) - float((values**2).mean())) <= float(second.margin))
    for hits in (bulk, alone, curve):
        assert covers(hits, 0.95)


def test_block_size_and_streams():
    A = problem(line(-1, 1, N)).operator
    whole, pieces = (spectral_density(A, vectors=5, steps=7, block_size=size) for size in (16, 2))
    torch.testing.assert_close(whole.nodes, pieces.nodes, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.weights, pieces.weights, rtol=0, atol=1e-12)
    more = spectral_density(A, vectors=8, steps=7)
    torch.testing.assert_close(more.nodes[:5], whole.nodes, rtol=0, atol=1e-12)


def test_symmetry_claimed_in_error():
    matrix = problem(line(-1, 1, N)).matrix
    wrong = Function(lambda X: matrix.triu() @ X, (N, N), torch.float64, structure=Structure.SYMMETRIC)
    with pytest.raises(ValueError, match="says that it is symmetric, but"):
        spectral_density(wrong)


def test_repr_and_bad_questions():
    result, _ = density(GAP, steps=5, vectors=3)
    assert repr(result).startswith("<SpectralDensity of 60 eigenvalues, -")
    assert repr(result).endswith("from 3 vectors by 5 steps (15 products)>")
    for p in (-1, 1.0, True):
        with pytest.raises(ValueError, match="integer power >= 0"):
            result.moment(p)
    for width in (0.0, -1.0, INF, math.nan):
        with pytest.raises(ValueError, match="width is a positive number"):
            result.density(0.0, width)
    with pytest.raises(ValueError, match="finite points"):
        result.density(INF, 1.0)
    with pytest.raises(ValueError, match="no NaN"):
        result.cumulative(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="as many finite values"):
        result.integral(lambda x: x.sum())
    with pytest.raises(TypeError, match="to a tensor of the same shape, got ndarray"):
        result.integral(lambda x: x.numpy())
