"""Principal angles: all that two subspaces are to each other, up to an orthogonal map of the whole space."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops.coordinate import PartialPermutation
from ..linops.mask import MaskSubspace
from ..linops.operator import LinearOperator
from ..linops.subspace import Subspace

# A tall block is factorised in pieces of at most this many numbers: 128 MiB in float64.
_PIECE = 2**24


@attrs.frozen(eq=False, repr=False)
class PrincipalAngles:
    """The principal angles 0 <= θ₁ <= ... <= θᵣ <= π/2 of two subspaces, as cosines and sines.

    Both are kept, because a cosine does not resolve an angle near 0 and a sine does not resolve one near π/2; whoever
    computes with the angles takes the one that is accurate. cos²θ + sin²θ = 1 holds to rounding.

    Attributes:
        cosines: (r,) float64, descending.
        sines: (r,) float64, ascending.
        dims: (k, l), the dimensions of the two subspaces; r = min(k, l), or max(k, l) once padded.
    """

    cosines: Tensor
    sines: Tensor
    dims: tuple[int, int]

    def __len__(self) -> int:
        return len(self.sines)

    @property
    def radians(self) -> Tensor:
        """The angles θ in radians, (r,), ascending, accurate to a relative rounding error at both ends."""
        return torch.atan2(self.sines, self.cosines)

    @property
    def half_sines(self) -> Tensor:
        """sin(θ/2) = sin θ / √(2 (1 + cos θ)), (r,), without cancellation for small angles."""
        return self.sines / (2 * (1 + self.cosines)).sqrt()

    @property
    def log_cosines(self) -> Tensor:
        """Logarithms log cos θ, (r,): from the sine up to π/4 and from the cosine beyond; -inf at π/2."""
        return torch.where(self.sines < self.cosines, torch.log1p(-self.sines.square()) / 2, self.cosines.log())

    def padded(self) -> PrincipalAngles:
        """The angles with |k - l| right angles appended, (max(k, l),): see `GrassmannDistance`."""
        missing = max(self.dims) - len(self)
        return attrs.evolve(
            self,
            cosines=torch.cat([self.cosines, self.cosines.new_zeros(missing)]),
            sines=torch.cat([self.sines, self.sines.new_ones(missing)]),
        )

    def __repr__(self) -> str:
        first, last = self.radians[0].item(), self.radians[-1].item()
        return f"<PrincipalAngles {len(self)} of dims {self.dims}: {first:.4g} ... {last:.4g} rad>"


def principal_angles(A: Subspace, B: Subspace) -> PrincipalAngles:
    """The min(k, l) angles with cosines σ(AᵀB) and sines σ((I - P_A) B), B being the smaller of the two subspaces.

    The angles are `atan2` of the paired sines and cosines, never the arc cosine of a rounded cosine, so that an angle
    of 1e-9 comes out as well as one of π/2 - 1e-9. Two masks give exact zeros and right angles by counting.

    Args:
        A: a subspace of dimension k.
        B: a subspace of dimension l of the same space.

    Returns:
        `PrincipalAngles`; `.radians` are the angles, ascending.

    Raises:
        TypeError: not subspaces, or of different dtype or device.
        ValueError: subspaces of different ambient spaces.

    Source: Björck and Golub, Numerical methods for computing angles between linear subspaces, Math. Comp. 27 (1973);
    Knyazev and Argentati, SIAM J. Sci. Comput. 23 (2002) for the pairing of sines and cosines.

    Cost: O(n k l) operations and one (n, l) block; O(k + l) for two masks.
    """
    check_pair(A, B)
    # Of two equal sizes a mask projects: its residual only blanks rows, which is cheap and exact.
    smaller, larger = sorted((A, B), key=lambda subspace: (subspace.dim, isinstance(subspace, MaskSubspace)))
    cosines = _singular_values(larger.cross_gram(smaller))
    sines = _singular_values(larger.residual(smaller)).flip(0)
    # Bases are orthonormal to rounding only: the pair is put back on the unit circle.
    radius = torch.hypot(cosines, sines)
    return PrincipalAngles(cosines / radius, sines / radius, (A.dim, B.dim))


def check_pair(A: Subspace, B: Subspace) -> None:
    """Two subspaces that can be compared: same ambient space, dtype and device."""
    for subspace in (A, B):
        if not isinstance(subspace, Subspace):
            raise TypeError(
                f"expected two subspaces, got {type(subspace).__name__}; wrap an orthonormal basis as "
                "OrthonormalSubspace(Q), a boolean vector as MaskSubspace(mask); a decomposition has its .subspace"
            )
    A._require_comparable(B)


def _singular_values(tall: LinearOperator) -> Tensor:
    """All singular values of an (m, l) matrix, m >= l: (l,) float64, descending."""
    if isinstance(tall, PartialPermutation):
        return (torch.arange(tall.shape[1], device=tall.device) < tall.rank).double()
    values: Tensor = torch.linalg.svdvals(_triangular_factor(tall.to_dense()))
    return values


def _triangular_factor(matrix: Tensor) -> Tensor:
    """The factor R of a QR decomposition of a tall matrix, in float64, piece after piece of rows.

    A Gram matrix would square the condition number and lose every sine below 1e-8; one call of QR on the whole would
    need a float64 copy of it, and LAPACK indexes no more than 2³¹ numbers.
    """
    columns = matrix.shape[1]
    factor = matrix.new_empty(0, columns, dtype=torch.float64)
    for piece in torch.split(matrix, max(2 * columns, _PIECE // columns)):
        factor = torch.linalg.qr(torch.cat([factor, piece.double()]), mode="r").R
    return factor
