"""The error of a result and its scree plot: coverage by simulation, and dense truths."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from certificate_cases import F64, check_scree
from solver_cases import problem, zoo

import eigenspan as es
from eigenspan.linops import Dense, Structure
from eigenspan.solvers import DenseEigh, SketchedEigh
from eigenspan.solvers.scree import scree

ERRORS = {
    "rank one": torch.tensor([1.0] + [0.0] * 11),
    "flat": torch.ones(12),
    "decaying": 0.5 ** torch.arange(12.0),
}


def case(name, device):
    """A = Â + D, with an Â of rank two and D of known singular values, not orthogonal to it."""
    D = problem(ERRORS[name] * torch.tensor([1.0, -1.0] * 6), F64, device, seed=5)
    result = DenseEigh(k=2).solve(es.Diagonal(torch.tensor([9.0, 7.0] + [0.0] * 10, dtype=F64, device=device)))
    return result, Dense(D.operator.matrix + result.operator.to_dense(), Structure.SYMMETRIC), D.matrix


class TestInterval:
    @pytest.mark.parametrize(("s", "confidence"), [(1, 0.5), (1, 0.9), (5, 0.9)])
    @pytest.mark.parametrize("name", ERRORS)
    def test_holds_the_error_as_often_as_it_says(self, name, s, confidence, device):
        result, A, D = case(name, device)
        trials, true = 300, float(D.norm())
        seen = [scree(result, A, test_vectors=s, confidence=confidence, seed=i).interval for i in range(trials)]
        doubt = (1 - confidence) / 2
        deviation = (doubt * (1 - doubt) / trials) ** 0.5
        above, below = sum(high < true for _, high in seen) / trials, sum(low > true for low, _ in seen) / trials
        assert max(above, below) < doubt + 4 * deviation
        if name == "rank one":
            assert above > doubt - 4 * deviation  # where it is exact

    @pytest.mark.parametrize("name", ERRORS)
    def test_square_is_unbiased(self, name, device):
        result, A, D = case(name, device)
        s, trials = 4, 300
        squares = torch.tensor([scree(result, A, test_vectors=s, seed=i).error ** 2 for i in range(trials)])
        deviation = (2 * float(ERRORS[name].pow(4).sum()) / s / trials) ** 0.5
        assert abs(float(squares.mean()) - float(D.square().sum())) < 4 * deviation

    @pytest.mark.parametrize("s", [1, 2, 3, 10])
    def test_rank_one_has_the_heaviest_tails(self, s):
        """Where quantiles are taken: exactly for equal weights, by simulation for random ones."""
        generator, trials = torch.Generator().manual_seed(s), 40_000
        weights = torch.rand(12, 5, generator=generator, dtype=F64) ** 4
        weights /= weights.sum(dim=1, keepdim=True)
        means = torch.randn(trials, 5, s, generator=generator, dtype=F64).square().mean(dim=2) @ weights.mT
        for tail, points, seen in (
            (scipy.stats.chi2.cdf, (0.05, 0.3, 0.7, 1.0), torch.le),
            (scipy.stats.chi2.sf, (1 + 2 / s, 2 + 2 / s, 4 + 2 / s), torch.ge),
        ):
            for x in points:
                bound = tail(s * x, s)
                assert all(tail(m * s * x, m * s) <= bound + 1e-12 for m in range(1, 40))
                frequency = float(seen(means, x).double().mean(dim=0).max())
                assert frequency <= bound + 5 * (bound / trials) ** 0.5 + 1e-4

    @pytest.mark.parametrize("confidence", [0.01, 0.5, 0.99])
    @pytest.mark.parametrize("s", [1, 2, 10])
    def test_quantiles_hold_for_equal_weights(self, s, confidence, device):
        """Near the mean two equal weights are worse than one."""
        result, A, _ = case("flat", device)
        curve = scree(result, A, test_vectors=s, confidence=confidence)
        most, least = ((curve.error / limit) ** 2 for limit in curve.interval)
        for m in range(1, 30):
            assert scipy.stats.chi2.sf(m * s * most, m * s) <= (1 - confidence) / 2 + 1e-9
            assert scipy.stats.chi2.cdf(m * s * least, m * s) <= (1 - confidence) / 2 + 1e-9

    def test_more_vectors_of_a_seed_begin_with_the_fewer(self, device):
        A = es.Diagonal(torch.ones(50, dtype=F64, device=device))
        result = DenseEigh(k=1).solve(A)
        few, more, other = (scree(result, A, test_vectors=s, seed=seed).error for s, seed in ((2, 0), (3, 0), (2, 1)))
        assert 2 * few**2 < 3 * more**2
        assert few != other
        assert scree(result, A, test_vectors=2).error == few

    def test_an_exact_result_has_an_error_of_rounding(self, device):
        for dtype in (torch.float32, F64):
            A = Dense(zoo("rank deficient", dtype, device).operator.matrix, Structure.SYMMETRIC)
            curve = scree(DenseEigh(k=60).solve(A), A)
            assert 0 < curve.interval[1] < 500 * torch.finfo(dtype).eps
            assert curve.interval[0] == 0
            # Nor is one of none certain beyond rounding.
            exact = es.Diagonal(torch.tensor([2.0, 0], dtype=dtype, device=device))
            assert scree(DenseEigh(k=1).solve(exact), exact).interval[1] > torch.finfo(dtype).eps


class TestCurves:
    def test_are_those_of_the_upper_limit(self, device):
        A = es.Diagonal(torch.tensor([4.0, -3.0, 1.0, 1.0, 0.0], dtype=F64, device=device))
        curve = scree(DenseEigh(k=2).solve(A), A, test_vectors=200)
        e = curve.interval[1]
        assert 2**0.5 < e < 1.9
        torch.testing.assert_close(curve.upper, torch.tensor([5 + e, 3 + e, e], dtype=F64) / (5 - e))
        torch.testing.assert_close(curve.lower, torch.tensor([5 - e, 3 - e, 0], dtype=F64) / (5 + e))
        assert curve.error == pytest.approx(2**0.5, rel=0.15)

    def test_pairs_stay_in_the_order_of_leading(self, device):
        """By LA a pair of large |λ| may come last: leading(1) leaves it, the best of rank one does not."""
        truth = problem(torch.tensor([2.0, 1.0, -5.0], dtype=F64), device=device)
        result = DenseEigh(k=3, which="LA").solve(truth.operator)
        curve = scree(result, truth.operator)
        check_scree(curve, result, truth.matrix)
        assert curve.upper[1] == pytest.approx((26 / 30) ** 0.5)
        assert curve.lower[1] == pytest.approx((5 / 30) ** 0.5)

    def test_suggested_rank(self, device):
        A = es.Diagonal(10.0 ** -torch.arange(8.0, dtype=F64, device=device))
        result = DenseEigh(k=5).solve(A)
        curve = scree(result, A)
        for tolerance in (0.5, 0.05, 5e-3, 5e-4):
            r = curve.suggested_rank(tolerance)
            assert curve.upper[r] <= tolerance < curve.upper[r - 1]
            error = (A.to_dense() - result.leading(r).operator.to_dense()).norm() / A.diagonal.norm()
            assert float(error) <= tolerance
        assert curve.suggested_rank(1e-7) is None
        for tolerance in (0, 1, -0.5, math.nan):
            with pytest.raises(ValueError, match=f"between 0 and 1, relative to ‖A‖_F; got {tolerance}"):
                curve.suggested_rank(tolerance)

    def test_of_an_error_above_the_norm_of_the_result(self, device):
        A = es.Diagonal(torch.ones(40, dtype=F64, device=device))
        curve = scree(DenseEigh(k=2).solve(A), A)
        assert curve.upper.tolist() == [math.inf] * 3
        assert curve.lower.tolist() == [0, 0, 0]
        assert curve.suggested_rank(0.9) is None
        assert "with probability 0.99; relative error 0 … inf>" in repr(curve)

    def test_need_no_residual_norms(self, device):
        truth = zoo("positive", torch.float32, device)
        result = SketchedEigh(k=6, measure_residuals=False).solve(truth.operator)
        check_scree(scree(result, truth.operator), result, truth.matrix)
