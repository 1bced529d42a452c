"""What estimators return: numbers with standard errors, and the statistics that these come from."""

from __future__ import annotations

import enum
import math
import warnings

import attrs
import scipy
import torch
from torch import Tensor

from ..report import ConvergenceWarning
from ..tall import column_norms

_ROUNDINGS = 10.0  # of the numbers that a value is summed from: no standard error is known to be smaller


class EstimateStatus(enum.Enum):
    """How an estimator ended; the value says what to do next."""

    REACHED = "tolerance reached"
    SAMPLED = "no tolerance asked for"
    OUT_OF_PRODUCTS = "tolerance not reached: raise max_products or tol"
    OUT_OF_STEPS = "tolerance not reached: raise steps or tol"

    @property
    def is_success(self) -> bool:
        """Whether a tolerance was asked for and reached."""
        return self is EstimateStatus.REACHED

    @property
    def is_failure(self) -> bool:
        """Whether a tolerance was asked for and not reached."""
        return self in (EstimateStatus.OUT_OF_PRODUCTS, EstimateStatus.OUT_OF_STEPS)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Estimate:
    """Numbers estimated from random samples, and how far off they may be.

    All tensors have one shape: () for a number, (n,) for a diagonal. Numbers are in float64 on the CPU, a diagonal is
    of the dtype and on the device of its operator. ``float(estimate)`` is the value of a number.

    Attributes:
        value: the estimate.
        standard_error: the standard deviation of the estimate, as the samples tell it.
        bias: a certain bound of the error that more samples do not reduce, that of a quadrature; 0 where there is none,
            NaN where no bound is known.
        margin: each number by itself is within its margin of the value, bias included, with probability ``confidence``.
            It is wider than the standard error alone says, to allow for few samples of a skewed distribution and, where
            a tolerance was asked for, for all the times that it might have stopped.
        confidence: the probability.
        samples: how many random vectors.
        products: columns multiplied by the operator or its transpose.
        status: how it ended.
    """

    value: Tensor
    standard_error: Tensor
    bias: Tensor
    margin: Tensor
    confidence: float
    samples: int
    products: int
    status: EstimateStatus

    def __float__(self) -> float:
        return float(self.value)

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Both ends of value ± margin."""
        return self.value - self.margin, self.value + self.margin

    def __repr__(self) -> str:
        if self.value.ndim:
            shape = "x".join(map(str, self.value.shape))
            largest = float(self.standard_error.max()) if self.value.numel() else 0.0
            return f"<Estimate of {shape} numbers, standard errors up to {largest:.2g} ({self._ending()})>"
        text = with_error(float(self.value), float(self.standard_error))
        matters = float(self.bias) > 0.01 * float(self.standard_error)
        bias = f", bias up to {float(self.bias):.2g}" if matters else ""
        return f"<Estimate {text}{bias} ({self._ending()})>"

    def _ending(self) -> str:
        return ending(self.products, self.status)


@attrs.frozen(kw_only=True, repr=False)
class Bounds:
    """A number between two bounds, of which the lower is certain.

    Attributes:
        lower: a certain bound, but for rounding errors; it is also the best estimate.
        upper: a bound that holds with probability ``confidence``.
        confidence: the probability.
        products: columns multiplied by the operator or its transpose.
        status: how it ended.
    """

    lower: float
    upper: float
    confidence: float
    products: int
    status: EstimateStatus

    def __repr__(self) -> str:
        width = self.upper - self.lower
        digits = 6 if width <= 0 else min(15, max(2, 2 + _exponent(self.lower) - _exponent(width)))
        return (
            f"<Bounds {_digits(self.lower, digits)} … {_digits(self.upper, digits)} with probability "
            f"{self.confidence:g} ({ending(self.products, self.status)})>"
        )


def with_error(value: float, error: float) -> str:
    """``value ± error``, the error with two digits and the value with as many as it has."""
    if not (math.isfinite(value) and 0 < error < math.inf):
        return f"{value:.6g} ± {error:.2g}"
    digits = min(15, max(1, 2 + _exponent(value) - _exponent(error)))
    return f"{_digits(value, digits)} ± {error:.2g}"


def _digits(x: float, count: int) -> str:
    """That many significant digits, zeros at the end too."""
    return f"{x:#.{count}g}".replace(".e", "e").removesuffix(".")


def _exponent(x: float) -> int:
    return math.floor(math.log10(abs(x))) if x else 0


def ending(products: int, status: EstimateStatus) -> str:
    """What an estimate cost and how it ended, in words."""
    counted = f"{products} product{'' if products == 1 else 's'}"
    return counted if status is EstimateStatus.SAMPLED else f"{counted}, {status.value}"


def warn_unless_reached(result: Estimate | Bounds, stacklevel: int) -> None:
    """Warn where a tolerance was asked for; ``stacklevel`` counts from the caller, who is 1."""
    if result.status.is_failure:
        warnings.warn(repr(result), ConvergenceWarning, stacklevel=stacklevel + 1)


@attrs.frozen(kw_only=True, eq=False)
class Sample:
    """What random samples tell of numbers.

    Attributes:
        value: the estimate.
        standard_error: of the estimate.
        freedom: the degrees of freedom of the standard error.
        size: of the numbers that the value is summed from, whose roundings it carries.
        bias: see `Estimate`.
    """

    value: Tensor
    standard_error: Tensor
    freedom: float
    size: Tensor
    bias: Tensor

    def estimate(
        self, doubt: float, confidence: float, eps: float, samples: int, products: int, status: EstimateStatus
    ) -> Estimate:
        """The estimate whose margin fails with probability ``doubt``, of numbers with ``eps`` as rounding unit."""
        error = torch.hypot(self.standard_error, _ROUNDINGS * eps * self.size)
        quantile = float(scipy.special.stdtrit(self.freedom, 1 - doubt / 2))
        return Estimate(
            value=self.value,
            standard_error=error,
            bias=self.bias,
            margin=quantile * error + self.bias,
            confidence=confidence,
            samples=samples,
            products=products,
            status=status,
        )


def freedom_of_mean(samples: int) -> float:
    """The degrees of freedom, 2 E[s²]² / Var[s²], of the variance s² of that many independent quadratic forms.

    They are those of a form of rank one, xᵀ A x with Gaussian x: of all forms it has the largest excess kurtosis, 12.
    For normal samples they would be samples - 1.
    """
    return 2 / (12 / samples + 2 / (samples - 1))


def bracketed(lower: Tensor, upper: Tensor) -> Sample:
    """The mean of independent samples, along the first axis, that lie between these (k, …) bounds.

    The mean of the bounds differs from the mean that is wanted by half their distance at most. The standard error is
    the larger one of those of the two bounds: lower limit less its error, upper limit plus its error make an interval.
    """
    count = len(lower)
    low, high = lower.mean(0), upper.mean(0)
    value = (low + high) / 2
    deviations = torch.maximum(*(_lengths(bounds - bounds.mean(0)) for bounds in (lower, upper)))
    return Sample(
        value=value,
        standard_error=deviations / math.sqrt(count * (count - 1)),
        freedom=freedom_of_mean(count),
        size=value.abs(),
        bias=(high - low).abs() / 2,  # they may have changed places by a rounding
    )


def jackknifed(estimates: Tensor) -> Sample:
    """The mean of the diagonal of an (s, s) matrix, with the jackknife estimate of its variance.

    Entry (j, j) is an estimate by sample j that makes use of all others, entry (i, j) the like without the use of
    sample i. So the mean over j != i is the whole estimator applied to all samples but one. The variance is
    Σᵢ (meanᵢ - mean of all)²: in expectation it is no less than the true one of s - 1 samples, however the estimates
    depend on one another.

    Source: Efron & Stein (1981), Ann. Statist. 9; Epperly & Tropp (2024), SIAM J. Sci. Comput. 46.
    """
    count = len(estimates)
    own = estimates.diagonal()
    replicates = (estimates.sum(1) - own) / (count - 1)
    value = own.mean()
    return Sample(
        value=value,
        standard_error=_lengths(replicates - replicates.mean()),
        freedom=count - 1,
        size=value.abs(),
        bias=torch.zeros_like(value),
    )


def _lengths(deviations: Tensor) -> Tensor:
    """Euclidean norms along the first axis: squares of small or large numbers would not all be numbers."""
    return column_norms(deviations.flatten(1) if deviations.ndim > 1 else deviations[:, None]).reshape(
        deviations.shape[1:]
    )
