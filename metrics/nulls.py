"""Nulls: what is random beside an observed overlap, and what is asked of its law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from ..linops.basic import is_integer, require_count, require_labels
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
    """Sums of random samples of n coordinates in S strata, so many from each stratum, of K values on each coordinate.

    Values come some coordinates at a time, whose means and squared deviations join those of the others, so that
    variances come without cancellation.

    Source: Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance, for how they join.

    Args:
        labels: (n,) of the strata, 0 … S - 1.
        columns: K.
        rounding: by how much values may be off, relative.
    """

    def __init__(self, labels: Tensor, columns: int, rounding: float) -> None:
        self.labels = labels
        self.sizes = torch.bincount(labels)
        self.strata = int((self.sizes > 0).sum())
        self._seen = torch.zeros_like(self.sizes)
        self._mean, self._squared = torch.zeros(2, columns, len(self.sizes), dtype=torch.float64, device=labels.device)
        self._rounding = rounding

    def add(self, rows: slice, values: Tensor) -> None:
        """Adds the values of some coordinates, (b, K) float64. Cost: 8 b K operations at most, whatever S is."""
        present, places = torch.unique(self.labels[rows], return_inverse=True)
        sizes, index = torch.bincount(places), places.expand(values.shape[1], -1)

        def means(of: Tensor) -> Tensor:
            return of.new_zeros(len(of), len(present)).scatter_add_(1, index, of) / sizes

        mean = means(values.mT)
        deviation = values.mT - mean.gather(1, index)
        rest = means(deviation)  # what the sum was rounded by
        squared = sizes * (means(deviation.square_()) - rest.square())
        seen = self._seen[present]
        shift, both = mean + rest - self._mean[:, present], seen + sizes
        self._mean[:, present] += shift * (sizes / both)
        self._squared[:, present] += squared + shift.square() * (seen * sizes / both)
        self._seen[present] = both

    def moments(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (K,), of the sums of samples with ``counts[:, s]`` from stratum s, (K, S)."""
        counts, sizes = counts.double(), self.sizes.clamp(min=1).double()
        variance = self._squared / (sizes - 1).clamp(min=1)
        # Values that agree to the rounding of the basis are equal: their spread is noise and would make up a z.
        variance = variance.where(variance > (self._rounding * self._mean).square(), 0.0)
        return (counts * self._mean).sum(dim=1), (counts * (1 - counts / sizes) * variance).sum(dim=1).sqrt()


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
    if not is_integer(seed, 0):
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
