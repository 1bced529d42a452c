"""Nulls: what is random beside an observed overlap, and what is asked of its law."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from ..linops.basic import require_count, require_labels
from ..linops.mask import MaskSubspace
from ..linops.subspace import Subspace
from .laws import Law

ALTERNATIVES = ("greater", "less", "two-sided")
"""What a p-value is of, as SciPy names it: more than by chance, less, or either."""

_ROUNDINGS = 16
SINGLE = _ROUNDINGS * torch.finfo(torch.float32).eps
"""By how much a number that was computed in single precision or better may be off, relative."""


def rounding_of(subspace: Subspace) -> float:
    """By how much the leverages of a subspace may be off, relative: values as close as that are equal."""
    if isinstance(subspace, MaskSubspace):
        return 0.0
    return min(_ROUNDINGS * torch.finfo(subspace.dtype).eps, SINGLE)


class PendingLaw:
    """A law that is found when it is first asked for; what it is found from is then let go of.

    Args:
        find: a function of a module or class, which can be pickled.
        arguments: of it.
    """

    def __init__(self, find: Callable[..., Law], *arguments: Any) -> None:
        self._law: Law | None = None
        self._find, self._arguments = find, arguments

    def found(self) -> Law:
        """The law."""
        if self._law is None:
            self._law = self._find(*self._arguments)
            self._arguments = ()
        return self._law


def law_of(pending: PendingLaw | None) -> Law:
    """The law, if there is one."""
    if pending is None:
        raise ValueError("this level has moments but no law; p-values and intervals are those of what chance() returns")
    return pending.found()


class StratifiedSums:
    """Sums of random samples from running values x on n coordinates in strata, so many from each stratum.

    The values are kept as x = center[label] + deviation, with centers that follow the means, so that variances come
    without cancellation however many values were added.
    """

    def __init__(self, labels: Tensor, rounding: float) -> None:
        self.labels = labels
        self.sizes = torch.bincount(labels)
        self.strata = int((self.sizes > 0).sum())
        self._center = torch.zeros(len(self.sizes), dtype=torch.float64, device=labels.device)
        self._deviation = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        self._rounding = rounding

    def _total(self, values: Tensor) -> Tensor:
        return torch.zeros_like(self._center).index_add_(0, self.labels, values)

    def add(self, values: Tensor) -> None:
        """Adds (n,) float64 values to x."""
        shift = self._total(values) / self.sizes.clamp(min=1)
        self._center += shift
        self._deviation += values - shift[self.labels]

    def moments(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the sum of a sample with `counts[s]` coordinates from stratum s."""
        counts, sizes = counts.double(), self.sizes.clamp(min=1).double()
        total = self._total(self._deviation)
        mean = self._center + total / sizes
        variance = (self._total(self._deviation.square()) - total.square() / sizes) / (sizes - 1).clamp(min=1)
        # Values that agree to the rounding of the basis are equal: their spread is noise and would make up a z.
        variance = variance.where(variance > (self._rounding * mean).square(), 0.0)
        return counts @ mean, (counts * (1 - counts / sizes) * variance).sum().sqrt()


def haar_moments(n: int, k: Any, dim: Any) -> tuple[Any, Any, Any, Any]:
    """Mean, standard deviation, least and largest overlap of subspaces of dimensions k and ``dim``, one Haar-random.

    Numbers or arrays.
    """
    scale = (k * dim) ** 0.5
    variance = 2 * (n - k) * (n - dim) / (n**2 * max(n - 1, 1) * (n + 2))
    return scale / n, variance**0.5, numpy.maximum(0, k + dim - n) / scale, numpy.minimum(k, dim) / scale


def checked_null(null: str | None, strata: Tensor | None, draws: int, seed: int) -> str:
    """The name of the null that the arguments describe. What draws are made by is checked before any is asked for."""
    by_strata = "uniform" if strata is None else "stratified"
    if null not in (None, "uniform", "stratified", "haar"):
        raise ValueError(f"null is 'uniform', 'stratified' or 'haar', got {null!r}")
    if null is not None and null != by_strata and (null != "haar" or strata is not None):
        need = "takes strata" if null == "stratified" else "takes no strata"
        raise ValueError(f"null={null!r} {need}")
    require_count("draws is", draws)
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed is an integer >= 0, got {seed!r}")
    return null or by_strata


def as_labels(strata: Tensor | None, n: int, subspace: Subspace) -> Tensor:
    """Labels in 0, ..., n - 1, (n,) long, on the device of the subspace; all 0 for the uniform null."""
    if strata is None:
        return torch.zeros((), dtype=torch.long, device=subspace.device).expand(n)  # one number in memory
    require_labels("strata", strata, n, subspace.device)
    labels = strata.long()
    if labels.min() >= 0 and labels.max() < n:
        return labels
    inverse: Tensor = torch.unique(labels, return_inverse=True)[1]
    return inverse


def tails(law: Law, observed: Any, alternative: str) -> Any:
    """p-values of observed values."""
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative is one of {', '.join(ALTERNATIVES)}; got {alternative!r}")
    if alternative == "two-sided":
        return numpy.minimum(1.0, 2 * numpy.minimum(law.tail(observed), law.tail(observed, upper=False)))
    return law.tail(observed, upper=alternative == "greater")


def central(level: float) -> tuple[float, float]:
    """The shares of a law below the two ends of a central interval."""
    if not 0 < level < 1:
        raise ValueError(f"a level is between 0 and 1, got {level}")
    return (1 - level) / 2, (1 + level) / 2


def named(null: str, strata: int) -> str:
    """A null in words."""
    if null != "stratified":
        return null
    return f"{null}, {strata} {'stratum' if strata == 1 else 'strata'}"
