"""Random masks: samples without replacement, so many from each stratum."""

from __future__ import annotations

import functools
import math

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

        Of at most a thousand coordinates of a stratum, or all but so many, the sum is that of a sample. Of more it is
        a draw from the Pearson law of type III, a shifted gamma law, with its first three moments, which are known.

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
            if drawn > _LARGE:
                totals += _pearson_sums(population, count, draws, generator)
                continue
            sums = numpy.zeros(draws)
            for start in range(0, draws, step := max(1, _AT_ONCE // max(1, drawn))):
                rows = sums[start : start + step]
                rows += population[ordered_samples(len(part), drawn, len(rows), generator)].sum(axis=1)
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


def _pearson_sums(population: Array, count: int, draws: int, generator: numpy.random.Generator) -> Array:
    """Draws with mean, variance and third moment of the sum of ``count`` of a population, without replacement."""
    size = len(population)
    deviations = population - population.mean()
    variance = count * (size - count) / (size * (size - 1)) * float(deviations @ deviations)
    if variance == 0:
        return numpy.full(draws, count * population.mean())
    third = count * (size - count) * (size - 2 * count) / (size * (size - 1) * (size - 2))
    skewness = third * float((deviations**2) @ deviations) / variance**1.5
    mean, std = count * float(population.mean()), math.sqrt(variance)
    if abs(skewness) < 1e-6:  # a gamma law of a shape beyond all precision
        return generator.normal(mean, std, draws)
    shape = 4 / skewness**2
    unit: Array = (generator.gamma(shape, size=draws) - shape) / math.sqrt(shape)
    return mean + math.copysign(std, skewness) * unit
