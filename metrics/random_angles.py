"""The principal angles that two subspaces would have by chance."""

from __future__ import annotations

import numpy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[numpy.float64]

_POINTS = 20_000  # of the quadrature: the error of a share is below 1e-6


def random_angle_shares(n: int, k: int, dim: int, angles: ArrayLike) -> Array:
    """What share of the principal angles of a Haar-random subspace with a fixed one is at most each of ``angles``.

    The limit for large dimensions, from some ten on close. With p = r / n and q = s / n, r <= s the two dimensions, the
    squared cosines x have the density √((x₊ - x)(x - x₋)) / (2π p x (1 - x)) between x₋ and x₊, which are
    (√(p (1 - q)) ± √(q (1 - p)))²; the r + s - n angles that must be zero, if any, come on top.

    Args:
        n: dimension of the space.
        k: that of one subspace, 1 … n.
        dim: that of the other.
        angles: in radians.

    Source: Wachter (1980), Ann. Stat. 8; Absil, Edelman & Koev (2006), Linear Algebra Appl. 414, for this use of it.
    """
    r, s = sorted((k, dim))
    p, q = r / n, s / n
    roots = (p * (1 - q)) ** 0.5, (q * (1 - p)) ** 0.5
    middle, half = roots[0] ** 2 + roots[1] ** 2, 2 * roots[0] * roots[1]
    zero = max(0, r + s - n) / r
    # By x = middle + half cos φ the roots at both ends are gone.
    steps = numpy.linspace(0, numpy.pi, _POINTS + 1)
    turns = (steps[1:] + steps[:-1]) / 2
    squares = middle + half * numpy.cos(turns)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        weights = numpy.sin(turns) ** 2 / (squares * (1 - squares))
    below = numpy.append(0.0, numpy.nan_to_num(weights, posinf=0.0).cumsum())
    places = (numpy.cos(numpy.asarray(angles, dtype=float)) ** 2 - middle) / max(half, 1e-300)
    reached = numpy.interp(numpy.arccos(places.clip(-1, 1)), steps, below / max(below[-1], 1e-300))
    shares: Array = zero + (1 - zero) * reached
    return shares
