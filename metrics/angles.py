"""Principal angles: all that two subspaces are to each other, up to an orthogonal map of the whole space."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops.coordinate import Embedding, PartialPermutation
from ..linops.mask import MaskSubspace
from ..linops.operator import LinearOperator
from ..linops.subspace import Subspace
from ..linops.tall_qr import triangular_factor


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
        """The angles with |k - l| right angles appended, (max(k, l),): see `GrassmannDistance`.

        Cost: none to speak of.
        """
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


@attrs.frozen(eq=False, repr=False)
class PrincipalVectors:
    """Orthonormal bases U of r dimensions of A and V of as many of B, with Uᵀ V = diag(cos θ), of two subspaces A, B.

    Attributes:
        angles: the angles between uᵢ and vᵢ, ascending.
        left: U, (n, r), in A; r = min(k, l).
        right: V, (n, r), in B.
    """

    angles: PrincipalAngles
    left: Tensor
    right: Tensor

    def __repr__(self) -> str:
        return f"<PrincipalVectors of {self.angles!r} in R^{len(self.left)}>"


def principal_vectors(A: Subspace, B: Subspace) -> PrincipalVectors:
    """The min(k, l) pairs of unit vectors, one of each subspace, that meet at the principal angles.

    The pair i has the smallest angle of those orthogonal to the pairs before it. Pairs at equal angles may be turned
    among themselves, and at right angles are any. Two masks give axes: the common ones, then the others in order.

    Arguments and errors as for `principal_angles`.

    Source: Björck and Golub (1973); Van Loan, Computing the CS and the generalized singular value decompositions,
    Numer. Math. 46 (1985) for vectors as accurate at small as at right angles.

    Cost: O(n k l) operations, a float64 copy of AᵀB, and the results; O(n min(k, l)) zeros for two masks.
    """
    check_pair(A, B)
    if isinstance(A, MaskSubspace) and isinstance(B, MaskSubspace):
        return PrincipalVectors(principal_angles(A, B), _paired_axes(A, B), _paired_axes(B, A))
    swapped = A.dim < B.dim
    larger, smaller = (B, A) if swapped else (A, B)
    pairs = principal_coordinates(larger, smaller)
    left, right = larger.lift(pairs.projecting.to(A.dtype)), smaller.lift(pairs.projected.to(A.dtype))
    angles = attrs.evolve(pairs.angles, dims=(A.dim, B.dim))
    return PrincipalVectors(angles, *((right, left) if swapped else (left, right)))


@attrs.frozen(eq=False)
class PrincipalCoordinates:
    """Principal vectors in the coordinates of the bases of subspaces A, (n, p), and B, (n, q), p >= q.

    Attributes:
        angles: the q angles.
        projecting: U, (p, q) float64: A U are the vectors in A.
        projected: V, (q, q) float64: B V are those in B; B V = A U diag(cos θ) + R V.
        residual: R = (I - P_A) B, (n, q), whose columns R V are orthogonal and of lengths sin θ.
    """

    angles: PrincipalAngles
    projecting: Tensor
    projected: Tensor
    residual: Tensor


def principal_coordinates(A: Subspace, B: Subspace) -> PrincipalCoordinates:
    """The CS decomposition of AᵀB and (I - P_A) B, accurate for cosines and sines alike.

    Where cosines are near 1 their singular vectors are any within a cluster, and those of the sines take their place.
    """
    residual = A.residual(B).to_dense()
    gram = A.cross_gram(B).to_dense().double()
    U, cosines, Vh = torch.linalg.svd(gram, full_matrices=False)
    V, factor = Vh.mT, triangular_factor(residual)
    small = int((cosines > 0.5**0.5).sum())
    _, sines, Zh = torch.linalg.svd(factor @ V[:, :small], full_matrices=False)
    turn = Zh.mT.flip(1)  # ascending sines
    V = torch.cat([V[:, :small] @ turn, V[:, small:]], dim=1)
    near, sines = gram @ V[:, :small], sines.flip(0)
    # The columns of AᵀB V are orthogonal to rounding, and none of these is shorter than √½.
    U = torch.cat([near / torch.linalg.vector_norm(near, dim=0), U[:, small:]], dim=1)
    far = cosines[small:]
    cosines = torch.cat([(1 - sines.square()).sqrt(), far])
    sines = torch.cat([sines, (1 - far.square()).sqrt()])
    # Sorted, because rounding may order two angles of π/4 otherwise, one of each part.
    angles = PrincipalAngles(cosines.sort(descending=True).values, sines.sort().values, (A.dim, B.dim))
    return PrincipalCoordinates(angles, U, V, residual)


def _paired_axes(A: MaskSubspace, B: MaskSubspace) -> Tensor:
    """The axes of A that pair with those of B, (n, min(k, l)): the common ones, then the others."""
    shared = B.mask[A.indices]
    order = torch.cat([A.indices[shared], A.indices[~shared]])[: min(A.dim, B.dim)]
    return Embedding(order, A.ambient_dim, A.dtype).to_dense()


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
    values: Tensor = torch.linalg.svdvals(triangular_factor(tall.to_dense()))
    return values
