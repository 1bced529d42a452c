"""Nine distances between subspaces, each a function of the principal angles alone.

The names are those of Ye and Lim, Schubert varieties and distances between subspaces of different dimensions, SIAM J.
Matrix Anal. Appl. 37 (2016), https://arxiv.org/abs/1407.0900. In the formulas i runs over the principal angles. To add
a distance, write its formula as a function of `PrincipalAngles` and decorate it with `GrassmannDistance`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..linops.basic import require_count
from ..linops.subspace import Subspace
from .angles import PrincipalAngles, principal_angles


class GrassmannDistance:
    """A distance d(A, B) = f(θ₁, ..., θᵣ) between subspaces, increasing in every principal angle.

    Called with two subspaces it gives a Python float. Subspaces of different dimensions k < l are compared by either
    rule of Ye and Lim:

    - `pad=True` (the default, d in the paper): l - k right angles are appended. It is the distance after both subspaces
      have been completed, by new directions orthogonal to all old ones, to one common dimension; so it inherits every
      axiom and is zero for equal subspaces only. A distance that one right angle decides (all but geodesic, chordal
      and procrustes) is then at its maximum.
    - `pad=False` (δ in the paper): the k angles as they are, the distance from the smaller subspace to the nearest
      k-dimensional subspace of the larger one. It is zero when one contains the other and breaks the triangle
      inequality.

    Args:
        formula: the function f, from `PrincipalAngles` to a scalar tensor; its name and docstring are the distance's.

    Source: Ye & Lim (2016), Schubert varieties and distances between subspaces of different dimensions, SIAM J. Matrix
    Anal. Appl. 37.

    Cost: that of `principal_angles`.
    """

    def __init__(self, formula: Callable[[PrincipalAngles], Tensor]) -> None:
        self._formula = formula
        self.__name__ = formula.__name__
        self.__doc__ = formula.__doc__

    def __call__(self, A: Subspace, B: Subspace, *, pad: bool = True) -> float:
        """The distance of A, (n, k), and B, (n, l); raises as `principal_angles` does and costs as much."""
        return self.of(principal_angles(A, B), pad=pad)

    def of(self, angles: PrincipalAngles, *, pad: bool = True) -> float:
        """The distance at principal angles already known, so that many distances share one decomposition.

        Args:
            angles: those of `principal_angles`.
            pad: whether to count |k - l| right angles, see the class.

        Cost: none to speak of.
        """
        return float(self._formula(angles.padded() if pad else angles))

    def maximum(self, dim: int) -> float:
        """The largest distance of subspaces of dimension `dim`, reached by orthogonal ones.

        It normalises: `geodesic(A, B) / geodesic.maximum(max(A.dim, B.dim))` is in [0, 1]; with `pad=False` take the
        smaller dimension.

        Raises:
            ValueError: dim < 1.

        Cost: none to speak of.
        """
        require_count("the dimension of a subspace is", dim)
        right = torch.ones(dim, dtype=torch.float64)
        return float(self._formula(PrincipalAngles(torch.zeros_like(right), right, (dim, dim))))

    def __repr__(self) -> str:
        return f"<GrassmannDistance {self.__name__}>"


@GrassmannDistance
def geodesic(angles: PrincipalAngles) -> Tensor:
    """√(Σ θᵢ²), the arc length of the shortest path in the Grassmannian; a metric, also called Grassmann distance."""
    return angles.radians.square().sum().sqrt()


@GrassmannDistance
def chordal(angles: PrincipalAngles) -> Tensor:
    """√(Σ sin²θᵢ) = ‖P_A - P_B‖_F / √2 for equal dimensions; a metric, also called projection F-norm."""
    return angles.sines.square().sum().sqrt()


@GrassmannDistance
def procrustes(angles: PrincipalAngles) -> Tensor:
    """2 √(Σ sin²(θᵢ/2)) = min ‖AU - BV‖_F over orthogonal U, V; a metric, also called chordal F-norm."""
    return 2 * angles.half_sines.square().sum().sqrt()


@GrassmannDistance
def projection(angles: PrincipalAngles) -> Tensor:
    """maxᵢ sin θᵢ = ‖P_A - P_B‖₂ for equal dimensions; a metric, also called gap or projection 2-norm."""
    return angles.sines.max()


@GrassmannDistance
def spectral(angles: PrincipalAngles) -> Tensor:
    """2 maxᵢ sin(θᵢ/2) = min ‖AU - BV‖₂ over orthogonal U, V; a metric, also called chordal 2-norm."""
    return 2 * angles.half_sines.max()


@GrassmannDistance
def asimov(angles: PrincipalAngles) -> Tensor:
    """maxᵢ θᵢ, the largest principal angle; a metric."""
    return angles.radians.max()


@GrassmannDistance
def fubini_study(angles: PrincipalAngles) -> Tensor:
    """Angle arccos Πᵢ cos θᵢ of the two lines ∧A and ∧B in the exterior power; a metric.

    Taken as atan2 of the Binet-Cauchy sine and the product: an arc cosine would lose small angles.
    """
    return torch.atan2(binet_cauchy._formula(angles), angles.cosines.prod())


@GrassmannDistance
def binet_cauchy(angles: PrincipalAngles) -> Tensor:
    """√(1 - Πᵢ cos²θᵢ), the sine of the Fubini-Study distance; a metric.

    Taken as √(-expm1(2 Σ log cos θᵢ)), which does not cancel for small angles.
    """
    return (0 - torch.expm1(2 * angles.log_cosines.sum())).sqrt()  # of equal subspaces 0, not -0


@GrassmannDistance
def martin(angles: PrincipalAngles) -> Tensor:
    """√(-2 Σ log cos θᵢ); no metric, since it is infinite at a right angle and the triangle inequality fails.

    Infinite means that a cosine is exactly 0, as between masks; one of rounding size gives a large finite distance.
    """
    return (0 - 2 * angles.log_cosines.sum()).sqrt()


GRASSMANN_DISTANCES: tuple[GrassmannDistance, ...] = (
    geodesic,
    chordal,
    procrustes,
    projection,
    spectral,
    asimov,
    fubini_study,
    binet_cauchy,
    martin,
)
"""All nine."""
