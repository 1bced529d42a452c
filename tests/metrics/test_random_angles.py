"""The law of the principal angles of random subspaces, against random subspaces."""

from __future__ import annotations

import math

import numpy
import pytest
import scipy.integrate
import torch

from eigenspan.linops import OrthonormalSubspace
from eigenspan.metrics import principal_angles
from eigenspan.metrics.random_angles import random_angle_shares


@pytest.mark.parametrize(("n", "k", "dim"), [(200, 20, 20), (200, 60, 15), (90, 70, 45), (90, 45, 45), (60, 20, 40)])
def test_as_random_subspaces_have_them(n, k, dim):
    fixed, grid = OrthonormalSubspace.random(n, dim, dtype=torch.float64), numpy.radians(numpy.arange(1.0, 90))
    random = [OrthonormalSubspace.random(n, k, seed=seed, dtype=torch.float64) for seed in range(1, 41)]
    found = numpy.sort(torch.cat([principal_angles(each, fixed).radians for each in random]).numpy())
    empirical = numpy.searchsorted(found, grid, side="right") / len(found)
    # Angles repel one another: that of a draw is off by about one place, and the limit by less than half of one.
    assert numpy.abs(empirical - random_angle_shares(n, k, dim, grid)).max() < 1 / min(k, dim)


def test_the_density_has_mass_one():
    """Between the ends that the formula has; and all is one angle where a subspace is the whole space."""
    p, q = 0.1, 0.3
    low, high = ((p * (1 - q)) ** 0.5 + sign * (q * (1 - p)) ** 0.5 for sign in (-1, 1))
    x = numpy.linspace(low**2, high**2, 400_001)
    density = numpy.sqrt((high**2 - x).clip(0) * (x - low**2).clip(0)) / (2 * math.pi * p * x * (1 - x))
    assert scipy.integrate.trapezoid(density, x) == pytest.approx(1, abs=1e-4)
    median = numpy.interp(0.5, numpy.cumsum(density) / density.sum(), x)
    assert random_angle_shares(100, 10, 30, math.acos(median**0.5)) == pytest.approx(0.5, abs=1e-3)
    angles = [0.0, 1.0, math.pi / 2]
    assert random_angle_shares(10, 10, 3, angles).tolist() == [1, 1, 1]
    assert random_angle_shares(10, 7, 5, angles)[0] == pytest.approx(2 / 5)
    assert random_angle_shares(10**8, 3, 3, angles).tolist() == pytest.approx([0, 0, 1])
