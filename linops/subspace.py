"""Linear subspaces of Rⁿ: one isometry each, and all else derived from it."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor

from .basic import Declared, Dense, Identity
from .coordinate import Embedding
from .lattice import Lattice, half_digits
from .operator import LinearOperator
from .stored import Stored
from .structure import Structure


class Subspace(Lattice, Stored, abc.ABC):
    """A k-dimensional linear subspace of Rⁿ, k >= 1, given by an orthonormal basis.

    A subclass defines ``basis``, an (n, k) isometry, and all else follows. Where it knows better than dense algebra how
    its basis meets another kind of subspace it also defines ``_cross_gram`` and ``_residual``, which return
    ``NotImplemented`` for kinds they do not know.

    It is one of a lattice: ``A | B``, ``A & B``, ``A - B`` and ``A.complement()`` are subspaces, see `Lattice`.
    """

    @property
    @abc.abstractmethod
    def basis(self) -> LinearOperator:
        """The (n, k) isometry B whose columns span the subspace."""

    @abc.abstractmethod
    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Subspace:
        """The same subspace in another dtype or on another device.

        Cost: a copy, unless both stay.
        """

    @property
    def ambient_dim(self) -> int:
        """n, the dimension of the space around it."""
        return self.basis.shape[0]

    @property
    def dim(self) -> int:
        """k, its dimension."""
        return self.basis.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its basis."""
        return self.basis.dtype

    @property
    def device(self) -> torch.device:
        """The device of its basis."""
        return self.basis.device

    @property
    def projector(self) -> LinearOperator:
        """P = B Bᵀ, the orthogonal projector onto the subspace, (n, n) and positive semidefinite."""
        basis = self.basis
        return basis @ basis.T

    @property
    def complement_projector(self) -> LinearOperator:
        """I - B Bᵀ, the orthogonal projector onto the complement, (n, n) and positive semidefinite."""
        identity = Identity(self.ambient_dim, self.dtype, self.device)
        return Declared(identity - self.projector, Structure.PSD)

    def coordinates(self, X: Tensor) -> Tensor:
        """Bᵀ X, (k, b): the coordinates in the basis of the projections of the columns of X, (n, b).

        Raises:
            ValueError: an X that does not have n rows.
            TypeError: an X of another dtype or device.

        Cost: 2 n k b flops; a gather for a mask.
        """
        return self.basis.T @ X

    def lift(self, C: Tensor) -> Tensor:
        """B C, (n, b): the vectors with coordinates C, (k, b).

        Raises:
            ValueError: a C that does not have k rows.
            TypeError: a C of another dtype or device.

        Cost: 2 n k b flops; a scatter for a mask.
        """
        return self.basis @ C

    def cross_gram(self, other: Subspace) -> LinearOperator:
        """Bᵀ C for the bases B of this and C of the ``other`` subspace, (k, l).

        Its singular values are the cosines of the principal angles.

        Raises:
            ValueError: different ambient dimensions.
            TypeError: different dtypes or devices, or no subspace.

        Source: Björck & Golub (1973), Numerical methods for computing angles between linear subspaces.

        Cost: a lookup for two masks, a gather for a mask and a basis, 2 n k l flops for two bases.
        """
        self._require_comparable(other)
        result = self._cross_gram(other)
        if result is NotImplemented:
            transposed = other._cross_gram(self)
            result = transposed if transposed is NotImplemented else transposed.T
        return Dense((self.basis.T @ other.basis).to_dense()) if result is NotImplemented else result

    def residual(self, other: Subspace) -> LinearOperator:
        """(I - B Bᵀ) C for the bases B of this and C of the ``other`` subspace, (n, l).

        Its singular values are the sines of the principal angles, with zeros or ones where the dimensions differ.

        Raises:
            ValueError: different ambient dimensions.
            TypeError: different dtypes or devices, no subspace, or a basis whose rows are spread over ranks.

        Cost: that of ``cross_gram`` and one product of B; dense, n l numbers, unless both are masks.
        """
        self._require_comparable(other)
        for subspace in (self, other):
            subspace._require_whole()
        result = self._residual(other)
        return Dense((self.complement_projector @ other.basis).to_dense()) if result is NotImplemented else result

    def leverage(self) -> Tensor:
        """The diagonal of B Bᵀ, (n,): the share of each coordinate axis that lies in the subspace; it sums to k.

        Cost: n k flops; n numbers for a mask.
        """
        return self.basis.to_dense().square().sum(dim=1)

    # -- in larger and smaller spaces ---------------------------------------------------------------------------------

    def embedded(self, E: Embedding) -> Subspace:
        """E B, the same vectors in a larger space, in which E, (n, m), places the m coordinates of this one.

        A mask stays a mask and an eigenspace keeps its eigenvalues. `ParameterSpace.embedding` gives the E of selected
        parameters.

        Raises:
            ValueError: an embedding of a space of another dimension.
            TypeError: no embedding, or one of another dtype or device.

        Cost: n numbers for a mask; else n k.
        """
        self._require_embedding(E, E.shape[1] if isinstance(E, Embedding) else 0)
        return self._image(E)

    def extracted(self, E: Embedding) -> Subspace:
        """Eᵀ B, the subspace in the m coordinates that E, (n, m), embeds; the way back from `embedded`.

        Raises:
            ValueError: an embedding into a space of another dimension, or a basis of which more than √ε of the dtype,
                in the Frobenius norm, lies outside those coordinates: up to there Eᵀ B is orthonormal to rounding.
            TypeError: no embedding, or one of another dtype or device.

        Cost: n numbers for a mask; else n + m k.
        """
        self._require_embedding(E, E.shape[0] if isinstance(E, Embedding) else 0)
        outside = float(self.leverage().index_fill(0, E.indices, 0.0).sum(dtype=torch.float64)) ** 0.5
        if outside > half_digits(self.dtype):
            raise ValueError(
                f"{self} does not lie in the {E.shape[1]} coordinates of {E}: {outside:.1e} of its basis is outside; "
                "take the part in them by A & MaskSubspace.from_indices(E.indices, n)"
            )
        return self._image(E.T)

    def _require_embedding(self, E: Embedding, size: int) -> None:
        if not isinstance(E, Embedding):
            raise TypeError(f"{self} is placed by an Embedding, got {type(E).__name__}; see ParameterSpace.embedding")
        if size != self.ambient_dim:
            raise ValueError(f"{self} does not fit {E}, which embeds R^{E.shape[1]} in R^{E.shape[0]}")
        if E.dtype != self.dtype or E.device != self.device:
            raise TypeError(f"{self} and {E} differ in dtype or device; convert it with .to(dtype=..., device=...)")

    # -- what a kind may know better ----------------------------------------------------------------------------------

    @property
    def _columns(self) -> Tensor:
        """The basis as an (n, k) tensor, not to be written to."""
        return self.basis.to_dense()

    def _image(self, M: LinearOperator) -> Subspace:
        """M B, for an M that moves coordinates and loses none of the subspace."""
        from .orthonormal import OrthonormalSubspace

        return OrthonormalSubspace(M @ self._columns, check=False)

    def _cross_gram(self, other: Subspace) -> Any:
        return NotImplemented

    def _residual(self, other: Subspace) -> Any:
        return NotImplemented

    def _require_whole(self) -> None:
        """Refuse a basis whose rows are spread over ranks."""

    def _require_comparable(self, other: Subspace) -> None:
        if not isinstance(other, Subspace):
            raise TypeError(f"{self} is compared with another Subspace, got {type(other).__name__}")
        if self.ambient_dim != other.ambient_dim:
            raise ValueError(f"{self} and {other} lie in spaces of different dimension and cannot be compared")
        if self.dtype != other.dtype or self.device != other.device:
            raise TypeError(
                f"{self} and {other} differ in dtype or device; convert one with .to(dtype=..., device=...)"
            )

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"<{type(self).__name__} {self.dim} of {self.ambient_dim} {dtype} {self.device}>"
