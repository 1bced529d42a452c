"""Laws of an overlap under a null: what share of it lies beyond a value, and its quantiles."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Sequence

import attrs
import numpy
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[numpy.float64]

_DEVIATIONS = 14  # from the mean, and as many points, beyond which is less than 1e-28, where a law is of Poisson too
_LEAST = 1e-28  # a tail that is not told from none
_NEGLIGIBLE = 1e-30  # beside the largest probability of a lattice: far below what sums of these resolve


class Law(abc.ABC):
    """A probability law of a number, or of each of several."""

    @abc.abstractmethod
    def tail(self, x: ArrayLike, upper: bool = True) -> Array:
        """The probability of a value that is ``x`` or more, or ``x`` or less."""

    @abc.abstractmethod
    def quantile(self, probability: float) -> Array:
        """The smallest value that is not exceeded with at least that probability."""


@attrs.frozen
class ConstantLaw(Law):
    """One value, up to rounding."""

    value: float

    def tail(self, x: ArrayLike, upper: bool = True) -> Array:
        """One: whatever was observed is this value."""
        return numpy.ones_like(numpy.asarray(x, dtype=float))

    def quantile(self, probability: float) -> Array:
        """The value."""
        return numpy.asarray(self.value)


class BetaLaw(Law):
    """Beta laws on intervals, by mean and variance: of the overlap of a fixed and a Haar-random subspace.

    It is exact where one of the two has dimension one. In general the overlap is the trace of a matrix of the
    multivariate beta law, which a beta variable of the same two moments is close to: tails are off by less than 0.01,
    but for small dimension or codimension in small spaces, 0.02 at n = 10 and 0.06 at n = 4. Tails end at 1e-28.

    Args:
        low: ends of the intervals.
        high: the other ends.
        mean: of the laws.
        std: of the laws; where it is 0 all of the law is at the mean.
        rounding: of observed values, relative.

    Source: Pillai (1955), for the trace; Muirhead, Aspects of Multivariate Statistical Theory (1982), section 10.6.
    """

    def __init__(self, low: ArrayLike, high: ArrayLike, mean: ArrayLike, std: ArrayLike, rounding: float = 0.0) -> None:
        self._rounding = rounding
        low, high, self._mean, self._std = (numpy.asarray(part, dtype=float) for part in (low, high, mean, std))
        varies = self._std > 0
        width = numpy.where(varies, high - low, 1.0)
        center = numpy.where(varies, (self._mean - low) / width, 0.5)
        spread = numpy.where(varies, self._std / width, 0.5 / 3**0.5)
        strength = center * (1 - center) / spread**2 - 1
        # Not a frozen distribution, which takes longer to make than all that is asked of most laws.
        self._shape = {"a": center * strength, "b": (1 - center) * strength, "loc": low, "scale": width}

    def tail(self, x: ArrayLike, upper: bool = True) -> Array:
        """See `Law`."""
        slack = self._rounding * numpy.abs(numpy.asarray(x, dtype=float))
        beta, shape = scipy.stats.beta, self._shape
        share = beta.sf(x - slack, **shape) if upper else beta.cdf(x + slack, **shape)
        return numpy.where(self._std > 0, share, 1.0).clip(min=_LEAST)

    def quantile(self, probability: float) -> Array:
        """See `Law`."""
        return numpy.where(self._std > 0, scipy.stats.beta.ppf(probability, **self._shape), self._mean)


class LatticeLaw(Law):
    """A law on equidistant points: of the overlap of two masks, whose common coordinates are counted.

    Tails are exact down to 1e-28, where they end.

    Args:
        first: the first point, in steps.
        probabilities: of the points.
        step: between points.
    """

    def __init__(self, first: int, probabilities: Array, step: float) -> None:
        self._points = (first + numpy.arange(len(probabilities))) * step
        self._step = step
        self._below = probabilities.cumsum().clip(max=1.0)
        self._above = probabilities[::-1].cumsum()[::-1].clip(max=1.0)

    @classmethod
    def common(cls, sizes: Sequence[int], left: Sequence[int], right: Sequence[int], step: float) -> LatticeLaw:
        """The law of how many coordinates two masks share, one of them random with fixed counts in every stratum.

        Args:
            sizes: of the strata.
            left: coordinates of one mask in each of them.
            right: coordinates of the other.
            step: the overlap of one common coordinate.
        """
        first, total = 0, numpy.ones(1)
        for size, one, other in zip(sizes, left, right, strict=True):
            if min(one, other) > 0:
                mean = one * other / size
                variance = mean * (size - one) * (size - other) / (size * max(1, size - 1))
                reach = _DEVIATIONS * (1 + variance**0.5)
                low, high = int(max(0, one + other - size, mean - reach)), int(min(one, other, mean + reach))
                # Term by term: by Fourier transforms sums would resolve no probability below a rounding of the largest.
                part: Array = scipy.stats.hypergeom.pmf(numpy.arange(low, high + 1), size, one, other)
                first, total = _trimmed(first + low, numpy.convolve(total, part))
        return cls(first, total / total.sum(), step)

    def tail(self, x: ArrayLike, upper: bool = True) -> Array:
        """See `Law`."""
        slack = self._step / 2 if upper else -self._step / 2  # the point that was observed counts, to rounding
        at = numpy.searchsorted(self._points, numpy.asarray(x, dtype=float) - slack)
        shares = numpy.append(self._above, 0.0) if upper else numpy.append(0.0, self._below)
        return shares[at].clip(min=_LEAST)

    def quantile(self, probability: float) -> Array:
        """See `Law`."""
        at = numpy.searchsorted(self._below, probability * (1 - 1e-12))
        return numpy.asarray(self._points[min(int(at), len(self._points) - 1)])


def _trimmed(first: int, probabilities: Array) -> tuple[int, Array]:
    """A lattice without the points at both ends that have next to no probability."""
    kept = numpy.flatnonzero(probabilities > _NEGLIGIBLE * probabilities.max())
    return first + int(kept[0]), probabilities[kept[0] : kept[-1] + 1]


class DrawnLaw(Law):
    """The law of values that were drawn from it.

    Of N draws the tail of an observed value is (1 + number of draws beyond it) / (1 + N): as an exact test has it, in
    which the observed value is one of 1 + N that are exchangeable under the null.

    Args:
        values: the draws, (N,) or (N, K).
        rounding: values this close, relative, count as equal.
        slack: and those this close, absolute.

    Source: Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9.
    """

    def __init__(self, values: Array, rounding: float, slack: float = 0.0) -> None:
        self.values, self._rounding, self._slack = values, rounding, slack

    @functools.cached_property
    def ranked(self) -> Array:
        """The draws, each column in rising order."""
        return numpy.sort(self.values, axis=0)

    def tail(self, x: ArrayLike, upper: bool = True) -> Array:
        """See `Law`."""
        x = numpy.asarray(x, dtype=float)
        slack = self._rounding * numpy.abs(x) + self._slack
        beyond = self.values >= x - slack if upper else self.values <= x + slack
        return numpy.asarray((1 + beyond.sum(axis=0)) / (1 + len(self.values)))

    def quantile(self, probability: float) -> Array:
        """See `Law`."""
        at = math.ceil(probability * (1 + len(self.values)) * (1 - 1e-12)) - 1
        return numpy.asarray(self.ranked[min(max(at, 0), len(self.values) - 1)])

    def envelope(self, probability: float) -> tuple[Array, Array]:
        """Values at equal depth from both ends of each column, between which all of a new draw lies with probability.

        It is at least the one given: as in `tail`, the new draw is one of 1 + N that are exchangeable, and leaves the
        envelope where it would be as far out as the last of those values, of which no more draws have one than
        (1 - probability) (1 + N).

        Raises:
            ValueError: too few draws: more of them than that are outermost somewhere.

        Source: Myllymäki et al. (2017), J. R. Stat. Soc. B 79: the global rank envelope.
        """
        rank = self.values.argsort(axis=0).argsort(axis=0)
        depth = numpy.sort(numpy.minimum(rank, len(rank) - 1 - rank).min(axis=1))
        outside = math.floor((1 - probability) * (1 + len(depth)) * (1 + 1e-12))
        least = int(depth[min(outside, len(depth) - 1)]) - 1
        if least < 0:
            raise ValueError(
                f"{len(rank)} draws are too few for a band of level {probability:g} over so many k: ask for more "
                "draws= or a lower level, or take interval()"
            )
        return self.ranked[least], self.ranked[len(rank) - 1 - least]
