"""Results of estimators: what they say of themselves, and the statistics behind them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.stats import t

from eigenspan.solvers.estimators.diagonal import diagonal
from eigenspan.solvers.estimators.estimates import (
    Bounds,
    Estimate,
    EstimateStatus,
    Sample,
    bracketed,
    freedom_of_mean,
    jackknifed,
    with_error,
)
from eigenspan.solvers.estimators.norms import frobenius_norm, nuclear_norm
from eigenspan.solvers.estimators.trace import trace

REACHED, SAMPLED = EstimateStatus.REACHED, EstimateStatus.SAMPLED
SHORT, COARSE = EstimateStatus.OUT_OF_PRODUCTS, EstimateStatus.OUT_OF_STEPS


def estimate(value, error, status=SAMPLED, products=120, bias=0.0):
    value, error, bias = (torch.as_tensor(x, dtype=torch.float64) for x in (value, error, bias))
    return Estimate(
        value=value,
        standard_error=error,
        bias=bias,
        margin=2 * error + bias,
        confidence=0.95,
        samples=60,
        products=products,
        status=status,
    )


class TestEstimate:
    @pytest.mark.parametrize(
        ("result", "text"),
        [
            (estimate(3.1415, 0.0213, SHORT), "3.142 ± 0.021 (120 products, tolerance not reached: raise max_products"),
            (estimate(3.1415, 0.0213, COARSE), "3.142 ± 0.021 (120 products, tolerance not reached: raise steps"),
            (estimate(3.1415, 0.0213, REACHED), "3.142 ± 0.021 (120 products, tolerance reached)"),
            (estimate(3.1415, 0.0213), "3.142 ± 0.021 (120 products)"),
            (estimate(3.0, 0.5, products=1), "3.00 ± 0.5 (1 product)"),
            (estimate(3.0, 0.5, bias=0.25), "3.00 ± 0.5, bias up to 0.25 (120 products)"),
            (estimate(3.0, 0.5, bias=1e-9), "3.00 ± 0.5 (120 products)"),
            (estimate(3.0, 0.5, bias=math.nan), "3.00 ± 0.5 (120 products)"),
            (estimate(-2.5e30, 1.3e29), "-2.50e+30 ± 1.3e+29 (120 products)"),
            (estimate(134.2, 18.0), "134 ± 18 (120 products)"),
            (estimate(0.0, 0.0), "0 ± 0 (120 products)"),
            (estimate(1.0, 100.0), "1 ± 1e+02 (120 products)"),
            (estimate([1.0, 2.0], [0.5, 0.25]), "of 2 numbers, standard errors up to 0.5 (120 products)"),
        ],
    )
    def test_repr(self, result, text):
        assert text in repr(result)
        assert repr(result).startswith("<Estimate ")

    def test_float_and_interval(self):
        result = estimate(3.0, 0.5, bias=0.25)
        assert float(result) == 3.0
        assert [float(end) for end in result.interval] == [1.75, 4.25]

    def test_frozen(self):
        with pytest.raises(AttributeError):
            estimate(3.0, 0.5).value = torch.zeros(())

    def test_statuses(self):
        assert [status.is_success for status in EstimateStatus] == [True, False, False, False]
        assert [status.is_failure for status in EstimateStatus] == [False, False, True, True]


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        (3.0, 3.015, "3.000 … 3.015 with probability 0.95 (7 products)"),
        (3e30, 3.0000002e30, "3.00000000e+30 … 3.00000020e+30"),
        (0.0, 0.0, "0.00000 … 0.00000 with"),
        (1.0, 8.0, "1.0 … 8.0 with"),
    ],
)
def test_repr_of_bounds(lower, upper, text):
    assert text in repr(Bounds(lower=lower, upper=upper, confidence=0.95, products=7, status=SAMPLED))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_text_of_values_without_digits(value):
    assert " ± " in with_error(value, 0.5)
    assert " ± nan" in with_error(1.0, math.nan)


class TestStatistics:
    def test_margin_is_a_quantile_of_student(self):
        sample = Sample(
            value=torch.tensor(5.0).double(),
            standard_error=torch.tensor(2.0).double(),
            freedom=7,
            size=torch.tensor(1.0).double(),
            bias=torch.tensor(0.5).double(),
        )
        result = sample.estimate(0.05, 0.95, 1e-16, 8, 16, SAMPLED)
        assert float(result.margin) == pytest.approx(2 * t.ppf(0.975, 7) + 0.5, rel=1e-12)
        assert (result.confidence, result.samples, result.products) == (0.95, 8, 16)

    def test_no_standard_error_is_below_rounding(self):
        zero, size = torch.zeros(()).double(), torch.tensor(3.0).double()
        sample = Sample(value=size, standard_error=zero, freedom=7, size=size, bias=zero)
        assert float(sample.estimate(0.05, 0.95, 1e-7, 8, 16, SAMPLED).standard_error) == pytest.approx(3e-6)

    @pytest.mark.parametrize("samples", [5, 20, 80, 320])
    def test_margin_of_a_mean_covers_the_most_skewed_form(self, samples):
        """Of 20,000 means of χ² variables with one degree of freedom the margin at 0.95 misses no more than it may."""
        normal = torch.randn(20_000, samples, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)
        values = normal.square()
        error = values.std(1) / math.sqrt(samples)
        missed = (values.mean(1) - 1).abs() > t.ppf(0.975, freedom_of_mean(samples)) * error
        assert float(missed.double().mean()) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)
        # Student's t for normal samples would miss more often than it may.
        naive = (values.mean(1) - 1).abs() > t.ppf(0.975, samples - 1) * error
        assert samples > 80 or float(naive.double().mean()) > 0.06

    def test_bracketed(self):
        lower, upper = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.0, 8.0]).double()
        sample = bracketed(lower, upper)
        assert float(sample.value) == 3.0
        assert float(sample.bias) == 1.0
        assert float(sample.standard_error) == pytest.approx(math.sqrt(12) / math.sqrt(3))  # that of the upper ones

    def test_bracketed_of_columns(self):
        samples = torch.arange(6.0).double().reshape(3, 2)
        sample = bracketed(samples, samples)
        assert sample.value.tolist() == [2.0, 3.0]
        assert sample.bias.tolist() == [0.0, 0.0]

    def test_jackknife_of_independent_samples_is_that_of_their_mean(self):
        """Where the estimate of sample j does not depend on the others, entries of a column are equal."""
        values = torch.tensor([1.0, 4.0, 2.0, 7.0]).double()
        sample = jackknifed(values.expand(4, 4))
        assert float(sample.value) == 3.5
        # The error of the mean of one sample less.
        assert float(sample.standard_error) == pytest.approx(float(values.std()) / math.sqrt(3), rel=1e-12)
        assert sample.freedom == 3

    def test_jackknife_takes_replicates_from_rows(self):
        estimates = torch.tensor([[5.0, 1.0, 2.0], [3.0, 6.0, 4.0], [7.0, 8.0, 9.0]]).double()
        sample = jackknifed(estimates)
        replicates = torch.tensor([1.5, 3.5, 7.5]).double()
        assert float(sample.value) == pytest.approx(20 / 3)
        assert float(sample.standard_error) == pytest.approx(float(replicates.std()) * math.sqrt(2))


@pytest.mark.parametrize("exponent", [-400, 400])
@pytest.mark.parametrize(
    "estimator",
    [
        partial(trace, method="xtrace", max_products=8),
        partial(trace, method="hutchinson", max_products=8),
        partial(diagonal, method="hutchinson", max_products=8),
        partial(frobenius_norm, method="xtrace", max_products=8),
        partial(frobenius_norm, method="hutchinson", max_products=8),
        partial(nuclear_norm, steps=3, max_products=12),
    ],
)
def test_margins_scale_with_the_operator(estimator, exponent):
    """Of samples near 1e-120 or 1e120 the squares are no numbers, nor are the fourth powers that norms have."""
    A = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here, there = estimator(A), estimator(torch.ldexp(A, torch.tensor(exponent)))
    for number in ("value", "standard_error", "margin"):
        # Powers of two round nothing; LAPACK, which scales by others, may round a little.
        expected = torch.ldexp(getattr(here, number), torch.tensor(exponent))
        torch.testing.assert_close(getattr(there, number), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-165, 1e165])
@pytest.mark.parametrize("estimator", [diagonal, frobenius_norm])
def test_squares_that_are_no_numbers_are_refused(estimator, scale):
    with pytest.raises(ValueError, match="scale the operator"):
        estimator(scale * torch.eye(5, dtype=torch.float64), "hutchinson", max_products=8)
