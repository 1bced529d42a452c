"""Random masks: samples without replacement, so many from each stratum."""

from __future__ import annotations

import functools

import attrs
import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[numpy.float64]
Integers = NDArray[numpy.int64]

_AT_ONCE = 1 << 22  # numbers held by a batch of draws
_LARGE = 1000  # coordinates of a stratum whose sum is drawn by its first three moments


@attrs.frozen(eq=False, slots=False)
class Strata:
    """A partition of n coordinates, and how many of each part a random mask holds.

    Attributes:
        labels: (n,) integers, the number of the part of each coordinate.
        counts: (S,) integers, how many coordinates of each part the mask holds.
    """

    labels: Tensor
    counts: Tensor

    def sums(self, values: Tensor, draws: int, seed: int) -> Array:
        """Sums of ``values``, (n,), over the coordinates of random masks, (draws,).

        Of at most a thousand coordinates of a stratum, or all but so many, the sum is that of a sample. Of more, the
        thousand largest values are sampled, and the sum of the others is a draw from the Pearson law of type III, a
        shifted gamma law, with its first three moments, which are known.

        Source: Finucan, Galbraith & Stone (1974), Biometrika 61, for the third moment of a sample's sum.

        Cost: at most a thousand numbers for each draw and stratum.
        """
        generator = numpy.random.default_rng(seed)
        flat = values.double().cpu().numpy()
        totals = numpy.zeros(draws)
        for part, count in zip(self._members, self.counts.tolist(), strict=True):
            if count == 0:
                continue
            population = flat[part]
            drawn = min(count, len(part) - count)
            sums = (_large_sums if drawn > _LARGE else _small_sums)(population, drawn, draws, generator)
            totals += sums if drawn == count else population.sum() - sums
        return totals

    def orders(self, order: Tensor, draws: int, generator: numpy.random.Generator) -> Integers:
        """Random coordinates in the place of ``order``, (k,) distinct ones, each in the stratum of that: (draws, k).

        The first j of each row are a random mask with as many coordinates in every stratum as the first j of ``order``.

        Cost: draws k numbers.
        """
        labels = self.labels[order].cpu().numpy()
        found: Integers = numpy.empty((draws, len(labels)), dtype=numpy.int64)
        for label in numpy.unique(labels):
            places, part = numpy.flatnonzero(labels == label), self._members[label]
            found[:, places] = part[ordered_samples(len(part), len(places), draws, generator)]
        return found

    def mask(self, generator: numpy.random.Generator) -> Tensor:
        """The coordinates of a random mask, (k,), in no order.

        Cost: k numbers, or n where it holds more than half of a stratum.
        """
        chosen = [
            part[ordered_samples(len(part), count, 1, generator)[0]]
            for part, count in zip(self._members, self.counts.tolist(), strict=True)
            if count > 0
        ]
        return torch.from_numpy(numpy.concatenate(chosen)).to(self.labels.device)

    @functools.cached_property
    def _members(self) -> list[Integers]:
        """The coordinates of each stratum."""
        labels = self.labels.cpu().numpy()
        sizes = numpy.bincount(labels, minlength=len(self.counts))
        return numpy.split(labels.argsort(kind="stable"), sizes.cumsum()[:-1])


def ordered_samples(size: int, count: int, draws: int, generator: numpy.random.Generator) -> Integers:
    """Samples of ``count`` of 0 … size-1 without replacement, each in random order: (draws, count).

    Cost: draws count log(count) operations; draws size where it is more than half of all.
    """
    if 2 * count > size:
        return generator.random((draws, size)).argsort(axis=1)[:, :count]
    found: Integers = generator.integers(size, size=(draws, count))
    rows = numpy.arange(draws)
    # A place that repeats an earlier one is drawn anew. All numbers are treated alike, so that every sequence of
    # distinct ones is as probable as any other.
    while len(rows) > 0:
        order = found[rows].argsort(axis=1, kind="stable")
        ranked = numpy.take_along_axis(found[rows], order, axis=1)
        again, places = numpy.nonzero(ranked[:, 1:] == ranked[:, :-1])
        found[rows[again], order[again, places + 1]] = generator.integers(size, size=len(again))
        rows = rows[numpy.unique(again)]
    return found


def _small_sums(population: Array, count: int, draws: int, generator: numpy.random.Generator) -> Array:
    """Sums of samples without replacement, (draws,)."""
    sums = numpy.zeros(draws)
    for start in range(0, draws, step := max(1, _AT_ONCE // max(1, count))):
        rows = sums[start : start + step]
        rows += population[ordered_samples(len(population), count, len(rows), generator)].sum(axis=1)
    return sums


def _large_sums(population: Array, count: int, draws: int, generator: numpy.random.Generator) -> Array:
    """Sums of samples without replacement, (draws,): of their largest values exactly, of the others by moments.

    Few values may make up most of a sum, whose law then is far from any smooth one.
    """
    order = population.argpartition(len(population) - _LARGE)
    others, largest = population[order[:-_LARGE]], population[order[-_LARGE:]]
    found = generator.hypergeometric(_LARGE, len(others), count, draws)
    sums = numpy.empty(draws)
    for start in range(0, draws, step := _AT_ONCE // _LARGE):
        counts = found[start : start + step]
        orders = generator.random((len(counts), _LARGE)).argsort(axis=1)
        partial = numpy.concatenate([numpy.zeros((len(counts), 1)), largest[orders].cumsum(axis=1)], axis=1)
        sums[start : start + step] = numpy.take_along_axis(partial, counts[:, None], axis=1)[:, 0]
    return sums + _pearson_sums(others, count - found, generator)


def _pearson_sums(population: Array, counts: Integers, generator: numpy.random.Generator) -> Array:
    """Draws with mean, variance and third moment of sums of ``counts`` values, (draws,), without replacement."""
    size, mean = len(population), float(population.mean())
    deviations = population - mean
    finite = counts * (size - counts) / (size * (size - 1.0))
    std = numpy.sqrt(finite * float(deviations @ deviations))
    third = finite * (size - 2.0 * counts) / (size - 2) * float((deviations**2) @ deviations)
    skewness = numpy.divide(third, std**3, out=numpy.zeros(len(counts)), where=std > 0)
    # A gamma law of next to no skewness has a shape beyond all precision.
    shape = 4 / numpy.maximum(numpy.abs(skewness), 1e-6) ** 2
    unit = numpy.sign(skewness) * (generator.gamma(shape) - shape) / numpy.sqrt(shape)
    unit = numpy.where(numpy.abs(skewness) > 1e-6, unit, generator.standard_normal(len(counts)))
    drawn: Array = (counts * mean + std * unit).clip(counts * population.min(), counts * population.max())
    return drawn
