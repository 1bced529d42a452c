"""The lattice of subspaces: sum, intersection, difference and complement, decided by principal angles.

Ranks of concatenated bases would decide by eigenvalues 1 ± cos θ, which do not resolve an angle below the root of the
precision. The functions give orthonormal bases as (n, d) tensors, d = 0 where nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .tall_qr import orthonormalised, triangular_factor

if TYPE_CHECKING:
    from .subspace import Subspace


class Lattice:
    """What subspaces of Rⁿ, of any kinds, make of one another.

    ``A | B`` is the span of both, ``A & B`` what they share, ``A - B`` the part of A orthogonal to B, and
    ``A.complement()`` all that is orthogonal to A. Of masks it is the algebra of sets, exact, and gives masks; of other
    kinds a tolerance decides, which the methods `sum`, `intersection` and `difference` take.
    """

    def sum(self, other: Subspace, tol: float | None = None) -> Subspace:
        """A + B, the span of both; ``A | B`` at the default tolerance.

        Args:
            other: B.
            tol: directions of the smaller subspace whose sine with the larger is at most this are common, and count
                once: dim (A + B) + dim (A ∩ B) = k + l. By default √ε of the dtype, 3e-4 in float32 and 1.5e-8 in
                float64: bases need be orthonormal to no more, so that no smaller sine is certain.

        Raises:
            ValueError: different ambient dimensions, or a tolerance outside [ε, √½).
            TypeError: different dtypes or devices, or no subspace.

        Cost: that of two masks n bytes; else O(n k l) and the result, (n, k + l).
        """
        return self._joined(other, "|", tol)

    def intersection(self, other: Subspace, tol: float | None = None) -> Subspace:
        """A ∩ B, spanned by the bisectors of the principal vectors whose sine is at most tol; ``A & B`` at the default.

        Args:
            other: B.
            tol: the largest sine of a common direction, by default as for `sum`.

        Raises:
            ValueError: no direction in common, different ambient dimensions, or a tolerance outside [ε, √½).
            TypeError: different dtypes or devices, or no subspace.

        Cost: that of two masks n bytes; else O(n k l) and one (n, min(k, l)) block.
        """
        return self._joined(other, "&", tol)

    def difference(self, other: Subspace, tol: float | None = None) -> Subspace:
        """A ∩ B^⊥, the directions of A whose cosine with B is at most tol; ``A - B`` at the default tolerance.

        Not all of A that is outside B: a direction at an angle between 0 and π/2 is neither in A ∩ B nor in A - B.

        Args:
            other: B.
            tol: the largest cosine, by default as for `sum`.

        Raises:
            ValueError: no direction of A is orthogonal to B, different ambient dimensions, or a tolerance outside
                [ε, √½).
            TypeError: different dtypes or devices, or no subspace.

        Cost: that of two masks n bytes; else O(n k l), one (k, k) matrix and the result.
        """
        return self._joined(other, "-", tol)

    def complement(self) -> Subspace:
        """A^⊥, all that is orthogonal to A.

        Raises:
            ValueError: the whole space, whose complement is empty.

        Cost: dense: an (n, n) matrix and 4 n² k flops; for large n use `complement_projector`, or a mask.
        """
        A = cast("Subspace", self)
        if A.dim == A.ambient_dim:
            raise ValueError(f"{A} is the whole space, so its complement is empty; take a smaller subspace")
        return _spanned(complement_basis(A))

    def __or__(self, other: Subspace) -> Subspace:
        return self.sum(other) if isinstance(other, Lattice) else NotImplemented

    def __and__(self, other: Subspace) -> Subspace:
        return self.intersection(other) if isinstance(other, Lattice) else NotImplemented

    def __sub__(self, other: Subspace) -> Subspace:
        return self.difference(other) if isinstance(other, Lattice) else NotImplemented

    def _joined(self, other: Subspace, symbol: str, tol: float | None) -> Subspace:
        A = cast("Subspace", self)
        A._require_comparable(other)
        tolerance = resolved_tolerance(tol, A.dtype)
        exact = self._combined(other, symbol)
        if exact is not NotImplemented:
            return cast("Subspace", exact)
        columns = _BASES[symbol](A, other, tolerance)
        if columns.shape[1] == 0:
            raise ValueError(
                f"{A} {symbol} {other} is empty at tol={tolerance:.1e}; a subspace has at least one dimension"
            )
        return _spanned(columns)

    def _combined(self, other: Subspace, symbol: str) -> Any:
        """The result where the kinds of both give it without a tolerance."""
        return NotImplemented


def _spanned(columns: Tensor) -> Subspace:
    from .orthonormal import OrthonormalSubspace

    return OrthonormalSubspace(columns, check=False)


def sum_basis(A: Subspace, B: Subspace, tol: float) -> Tensor:
    """Of A + B: the basis of the larger one, and the directions that the smaller one adds with a sine above tol."""
    larger, smaller = _by_dimension(A, B)
    residual = larger.residual(smaller).to_dense()
    _, sines, Vh = torch.linalg.svd(triangular_factor(residual))
    # Rounding may show more new directions than there is room for.
    room = larger.ambient_dim - larger.dim
    added, length = Vh[sines > tol][:room].mT, sines[sines > tol][:room]
    if len(length) == 0:
        return larger._columns
    new = residual @ (added / length).to(residual.dtype)
    # A short residual has rounding in it, which is not short once the direction has unit length.
    new = orthonormalised(larger.complement_projector @ new)
    return torch.cat([larger._columns, new], dim=1)


def intersection_basis(A: Subspace, B: Subspace, tol: float) -> Tensor:
    """Of A ∩ B: the bisectors of the pairs of principal vectors whose sine is at most tol."""
    larger, smaller = _by_dimension(A, B)
    _, sines, Vh = torch.linalg.svd(triangular_factor(larger.residual(smaller).to_dense()))
    V = smaller.lift(Vh[sines <= tol].mT.to(smaller.dtype))
    if V.shape[1] == 0:
        return V
    cosines = (1 - sines[sines <= tol].square()).sqrt()
    U = larger.lift(larger.coordinates(V)) / cosines.to(V.dtype)
    return orthonormalised(U + V)


def difference_basis(A: Subspace, B: Subspace, tol: float) -> Tensor:
    """Of A ∩ B^⊥: the principal vectors of A whose cosine with B is at most tol, and those that have no partner."""
    _, cosines, Wh = torch.linalg.svd(triangular_factor(B.cross_gram(A).to_dense()), full_matrices=True)
    return A.lift(Wh[int((cosines > tol).sum()) :].mT.to(A.dtype))


def complement_basis(A: Subspace) -> Tensor:
    """Of A^⊥: the last n - k columns of the orthogonal factor of the basis."""
    columns = A._columns.to(torch.promote_types(A.dtype, torch.float32))  # LAPACK knows no half precision
    whole: Tensor = torch.linalg.qr(columns, mode="complete").Q
    return whole[:, A.dim :].to(A.dtype)


_BASES: dict[str, Callable[[Subspace, Subspace, float], Tensor]] = {
    "|": sum_basis,
    "&": intersection_basis,
    "-": difference_basis,
}


def half_digits(dtype: torch.dtype) -> float:
    """√ε of a dtype, the sine or cosine that counts as zero.

    A basis may be off orthonormality by as much, by the check of `OrthonormalSubspace`, so that no smaller sine is
    certain; and 1 - cos θ is then below ε, so that no cosine tells two such directions apart.
    """
    return math.sqrt(torch.finfo(dtype).eps)


def resolved_tolerance(tol: float | None, dtype: torch.dtype) -> float:
    """The tolerance asked for, or that of the dtype.

    Raises:
        ValueError: one below the precision, or from √½ on, where a direction would be common and orthogonal at once.
    """
    if tol is None:
        return half_digits(dtype)
    smallest = float(torch.finfo(dtype).eps)
    if not smallest <= tol < 0.5**0.5:
        raise ValueError(f"tol is a sine from {smallest:.1e}, the precision of {dtype}, to below √½ = 0.707, got {tol}")
    return tol


def _by_dimension(A: Subspace, B: Subspace) -> tuple[Subspace, Subspace]:
    """The larger and the smaller one."""
    return (A, B) if A.dim >= B.dim else (B, A)
