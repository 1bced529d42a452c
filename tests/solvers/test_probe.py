"""What random vectors show of the norm outside a range: the probability of its bounds, and their size."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from certificate_cases import F64
from solver_cases import problem, rounding

import eigenspan as es
from eigenspan.linops import Dense, Structure
from eigenspan.solvers import DenseEigh
from eigenspan.solvers.probe import Factors, Probe, _product_quantile, probe


def bounds(A, s: int, confidence: float, trials: int) -> list[float]:
    """Of the norm of what the leading pair leaves, for several seeds."""
    factors = Factors.of(DenseEigh(k=1).solve(A))
    return [probe(factors, A, s, seed).norm_outside(confidence) for seed in range(trials)]


class TestNormOutside:
    @pytest.mark.parametrize(("s", "confidence"), [(1, 0.5), (2, 0.8), (3, 0.8), (10, 0.9)])
    def test_fails_as_often_as_it_says_where_one_direction_is_outside(self, s, confidence, device):
        """The worst case of both bounds: each fails with half of the doubt, a single vector with all of it."""
        A, trials = es.Diagonal(torch.tensor([10.0, 1.0, 0, 0], dtype=F64, device=device)), 300
        failed = sum(bound < 1 for bound in bounds(A, s, confidence, trials)) / trials
        most = 1 - confidence
        least = most if s == 1 else most / 2
        assert least - 4 * (least / trials) ** 0.5 < failed < most + 4 * (most / trials) ** 0.5

    @pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
    def test_of_ten_vectors_is_about_twice_the_schatten_4_norm(self, decay, device):
        """Of 300 directions: far below the Frobenius norm where they decay slowly."""
        sizes = torch.arange(1, 301, dtype=F64) ** -decay
        truth = problem(torch.cat([torch.tensor([50.0], dtype=F64), sizes]), device=device)
        found = bounds(truth.operator, 10, 0.99, 20)
        assert min(found) >= 1
        assert sorted(found)[10] < 2.5 * float(sizes.pow(4).sum() ** 0.25)

    def test_of_few_vectors_is_of_the_size_of_the_frobenius_norm(self, device):
        """Of three, at 0.99: about six times 2, where the halves give some 22."""
        truth = problem(torch.tensor([50.0] + [1.0] * 4, dtype=F64), device=device)
        found = bounds(truth.operator, 3, 0.99, 20)
        assert sorted(found)[10] < 16

    def test_of_singular_values_on_the_left(self, device):
        """Of I - U Uᵀ, not of I - V Vᵀ: an exact triplet leaves the rest, whatever the sides are."""
        matrix = torch.zeros(4, 6, dtype=F64, device=device)
        matrix[0, 5], matrix[2, 1] = 7.0, 1.0
        U, sizes, Vt = torch.linalg.svd(matrix)
        seen = probe(Factors(sizes[:1].cpu(), U[:, :1], Vt.mT[:, :1]), Dense(matrix), 10, 0)
        assert 1 <= seen.norm_outside(0.999) < 5
        torch.testing.assert_close(seen.outside.diagonal().sqrt(), seen.errors)

    @pytest.mark.parametrize("s", [1, 10])
    def test_is_not_below_the_errors_of_products(self, s, device):
        """Of operators of rank one: whose products leave rounding errors outside, or nothing at all."""
        for dtype in (torch.float32, F64):
            truth = problem(torch.tensor([1.0] + [0.0] * 59), dtype, device)
            for A in (truth.operator, es.Diagonal(truth.eigenvalues.to(device, dtype))):
                assert all(torch.finfo(dtype).eps < bound < 100 * rounding(dtype) for bound in bounds(A, s, 0.9, 5))

    @pytest.mark.parametrize("g", [(1.0, 1.0), (3.0, -0.1), (1.0, 2.0, -2.0, 1.0, 0.5)])
    def test_each_of_two_has_half_of_the_doubt(self, g):
        """As of one direction, with the products g of a unit vector and the test vectors."""
        g, confidence = torch.tensor(g, dtype=F64), 0.9
        s, half, zeros = len(g), len(g) // 2, torch.zeros(len(g), dtype=F64)
        seen = Probe(zeros, zeros, zeros, torch.outer(g, g), zeros, zeros)
        longest = float(g.abs().max()) / scipy.stats.halfnorm.ppf(0.05 ** (1 / s))
        product = float(g[:half].norm() * g[half:].norm()) / _product_quantile(half, s - half, 1 - 0.95)
        assert seen.norm_outside(confidence) == pytest.approx(min(longest, product**0.5), rel=1e-9)

    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
    def test_scale_only_scales(self, scale, device):
        matrix = problem(torch.linspace(-1, 2, 30), torch.float32, device).operator.matrix
        one, other = (bounds(Dense(c * matrix, Structure.SYMMETRIC), 6, 0.9, 3) for c in (1, scale))
        assert other == pytest.approx([scale * bound for bound in one], rel=1e-4)


class TestProbe:
    def test_is_what_dense_algebra_gives(self, device):
        generator = torch.Generator().manual_seed(0)
        A, U, V = (torch.randn(shape, generator=generator, dtype=F64) for shape in ((5, 4), (5, 2), (4, 2)))
        U, V, sizes = torch.linalg.qr(U)[0], torch.linalg.qr(V)[0], torch.tensor([2.0, 1.0], dtype=F64)
        seen = probe(Factors(sizes, U.to(device), V.to(device)), Dense(A.to(device)), 3, 4)
        omega = es.solvers.Gaussian(4, 3, seed=4, purpose="certificate", dtype=F64).columns(0, 3)
        outside = A @ omega - U @ (U.mT @ (A @ omega))
        expected = Probe(
            lengths=omega.norm(dim=0),
            images=(A @ omega).norm(dim=0),
            errors=((A - U @ torch.diag(sizes) @ V.mT) @ omega).norm(dim=0),
            outside=outside.mT @ outside,
            residuals=(A.mT @ U - V * sizes).mT @ omega,
            roundings=10 * 2.0**-52 * (A @ omega).norm(dim=0),
        )
        for name in ("lengths", "images", "errors", "outside", "residuals", "roundings"):
            torch.testing.assert_close(getattr(seen, name), getattr(expected, name))


@pytest.mark.parametrize(("i", "j"), [(1, 1), (1, 2), (5, 5), (20, 3)])
@pytest.mark.parametrize("probability", [0.25, 5e-3, 1e-7])
def test_quantile_of_a_product_is_not_above_the_exact_one(i, j, probability):
    """By another integral, over the logarithm of the first factor."""
    q = _product_quantile(i, j, probability)

    def density(log: float) -> float:
        y = math.exp(log)
        return scipy.stats.chi.cdf(q / y, j) * scipy.stats.chi.pdf(y, i) * y

    exact = scipy.integrate.quad(density, -40, math.log(60), limit=500, points=[-10, -2, 0, 2], epsabs=0)[0]
    assert 0.97 * probability < exact <= probability


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_seeds_are_integers_not_below_zero(seed):
    A = es.Diagonal(torch.ones(3, dtype=F64))
    with pytest.raises(ValueError, match="seed is a non-negative integer, got"):
        probe(Factors.of(DenseEigh(k=1).solve(A)), A, 2, seed)
