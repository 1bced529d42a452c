"""Subspaces with an explicit orthonormal basis: column spaces, and those of eigenvectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .basic import Dense, is_count, seeded
from .operator import LinearOperator
from .sharding import require_whole, rows_of
from .structure import Structure
from .subspace import Subspace
from .tall_matrix import TallMatrix, require_row_numbers, row_slices
from .tall_qr import orthonormalised, triangular_factor


class OrthonormalSubspace(Subspace, kind="orthonormal"):
    """The column space of an explicit matrix with orthonormal columns.

    Args:
        vectors: (n, k) with orthonormal columns, 1 <= k <= n; kept as it is, not copied. Those of a solver with a
            `Storage` stay unformed where rows or products are enough: for `rows`, `leverage`, overlaps with masks and
            chance levels.
        check: whether to verify orthonormality, to the square root of the dtype's precision. Use `from_span` for
            columns that are not orthonormal.

    Raises:
        TypeError: vectors that are no tensor.
        ValueError: a wrong shape, or columns that are not orthonormal.

    Cost: 2 n k² flops for the check.
    """

    def __init__(self, vectors: Tensor | TallMatrix, *, check: bool = True) -> None:
        if not isinstance(vectors, Tensor | TallMatrix):
            raise TypeError(f"a basis is a tensor, (n, k), got {type(vectors).__name__}; convert it by torch.as_tensor")
        if len(vectors.shape) != 2 or not 1 <= vectors.shape[1] <= vectors.shape[0]:
            raise ValueError(f"a basis is (n, k) with 1 <= k <= n, got shape {tuple(vectors.shape)}")
        self._basis = vectors if isinstance(vectors, TallMatrix) else Dense(vectors, Structure.ISOMETRY)
        if check:
            gram = self._gram(self)
            defect = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())
            if not defect <= torch.finfo(gram.dtype).eps ** 0.5:
                raise ValueError(
                    f"the columns are not orthonormal (Gram matrix off by {defect:.1e}); use {type(self).__name__}"
                    ".from_span, which orthonormalises them"
                    if type(self) is OrthonormalSubspace
                    else f"the columns are not orthonormal (Gram matrix off by {defect:.1e})"
                )

    @classmethod
    def from_span(cls, X: Tensor) -> OrthonormalSubspace:
        """The column space of any non-zero (n, k) block; dependent columns are left out.

        The rank is that of singular values above max(n, k) ε times the largest, as in ``torch.linalg.matrix_rank``, of
        a block in float64. Of others it is k times their ε, if that is more: their entries are rounded, not the sums
        over n of them.

        Args:
            X: the block, (n, k).

        Raises:
            ValueError: a block of zeros, with no columns, or with entries that are not finite.
            TypeError: no tensor, or one of a dtype that is not real floating point.

        Cost: 8 n k² flops, in float64.
        """
        if not isinstance(X, Tensor) or not X.is_floating_point():
            given = X.dtype if isinstance(X, Tensor) else type(X).__name__
            raise TypeError(f"from_span takes a tensor of a real floating-point dtype, got {given}; convert it")
        if X.ndim != 2 or 0 in X.shape or not bool(X.isfinite().all()):
            raise ValueError(f"from_span takes a finite, non-empty (n, k) block, got shape {tuple(X.shape)}")
        X = X.detach()
        _, sigma, Vh = torch.linalg.svd(triangular_factor(X), full_matrices=False)
        rounding = max(X.shape[1] * torch.finfo(X.dtype).eps, len(X) * torch.finfo(sigma.dtype).eps)
        rank = int((sigma > rounding * sigma[0]).sum())
        if rank == 0:
            raise ValueError("from_span: all columns are zero and span nothing")
        return OrthonormalSubspace(orthonormalised(X, Vh[:rank].mT / sigma[:rank]), check=False)

    @classmethod
    def random(
        cls,
        n: int,
        k: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> OrthonormalSubspace:
        """A subspace drawn uniformly (by Haar measure) from those of dimension k in Rⁿ.

        Args:
            n: dimension of the space.
            k: dimension of the subspace.
            seed: of the random numbers, which are drawn on the CPU.
            dtype: of the basis.
            device: of the basis.

        Raises:
            TypeError: a seed that is no integer.
            ValueError: k outside 1 … n.

        Cost: 8 n k² flops, in float64.
        """
        if not (is_count(n) and is_count(k, n)):
            raise ValueError(f"a random subspace has integers 1 <= k <= n, got k={k!r}, n={n!r}")
        generator = seeded(seed)
        # Drawn on the CPU, so that a seed gives the same subspace on every device.
        block = torch.randn(n, k, generator=generator, dtype=torch.promote_types(dtype, torch.float32)).to(device)
        return OrthonormalSubspace(orthonormalised(block).to(dtype), check=False)

    @property
    def basis(self) -> LinearOperator:
        """The (n, k) isometry of the vectors."""
        return self._basis

    @property
    def vectors(self) -> Tensor:
        """The vectors, (n, k), not to be written to; those that are unformed are formed when first asked for."""
        return self._basis.formed() if isinstance(self._basis, TallMatrix) else self._basis.matrix

    def rows(self, indices: Tensor) -> Tensor:
        """The rows of the vectors of those numbers, (j, k), whole on every rank.

        Args:
            indices: (j,) integers.

        Raises:
            TypeError: numbers that are no integers.
            ValueError: numbers outside 0 … n - 1.

        Cost: as many rows; of unformed vectors no more is formed.
        """
        if isinstance(self._basis, TallMatrix):
            return self._basis.rows(indices)
        require_row_numbers(indices, self.ambient_dim)
        return rows_of(self._basis.matrix, indices)

    def row_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The vectors some rows at a time, (b, k), each block with its place among them.

        Raises:
            TypeError: rows that are spread over ranks.

        Cost: none, or all rows of unformed vectors once.
        """
        if isinstance(self._basis, TallMatrix):
            yield from self._basis.row_blocks()
        else:
            require_whole(self._basis.matrix, str(self))
            for rows in row_slices(self.ambient_dim, self.dim):
                yield rows, self._basis.matrix[rows]

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> OrthonormalSubspace:
        """The same subspace in another dtype or on another device.

        Cost: a copy, unless both stay.
        """
        return OrthonormalSubspace(self.vectors.to(dtype=dtype, device=device), check=False)

    def leverage(self) -> Tensor:
        """Squared norms of the rows of the vectors, (n,): they sum to k.

        Cost: n k flops.
        """
        norms = torch.empty(self.ambient_dim, dtype=self.dtype, device=self.device)
        for rows, block in self.row_blocks():
            torch.linalg.vector_norm(block, dim=1, out=norms[rows])  # without a second (n, k) block
        return norms.square_()

    @property
    def _columns(self) -> Tensor:
        return self.vectors

    def _tensors(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors}

    @classmethod
    def _of_tensors(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> OrthonormalSubspace:
        return cls(**tensors, check=False)

    def _cross_gram(self, other: Subspace) -> Any:
        if isinstance(other, OrthonormalSubspace):
            return Dense(self._gram(other))
        return NotImplemented

    def _residual(self, other: Subspace) -> Any:
        if isinstance(other, OrthonormalSubspace):
            return Dense(other.vectors - self.vectors @ (self.vectors.mT @ other.vectors))
        return NotImplemented

    def _gram(self, other: OrthonormalSubspace) -> Tensor:
        """Bᵀ C of two bases, (k, l), without forming either."""
        for subspace in (self, other):
            subspace._require_whole()
        if isinstance(other._basis, TallMatrix):
            return _tall_gram(other._basis, self).mT
        return (
            _tall_gram(self._basis, other) if isinstance(self._basis, TallMatrix) else self.vectors.mT @ other.vectors
        )

    def _require_whole(self) -> None:
        require_whole(self._basis if isinstance(self._basis, TallMatrix) else self._basis.matrix, str(self))

    def _leading(self, j: int) -> Tensor | TallMatrix:
        return self._basis.leading(j) if isinstance(self._basis, TallMatrix) else self._basis.matrix[:, :j]


class EigenSubspace(OrthonormalSubspace, kind="eigen"):
    """The span of eigenvectors, which keeps their eigenvalues.

    Args:
        vectors: (n, k) orthonormal eigenvectors, in the order in which they lead.
        eigenvalues: (k,) the eigenvalues, in the same order.
        check: whether to verify orthonormality.

    Raises:
        TypeError: vectors or eigenvalues that are no tensors.
        ValueError: a wrong shape, or columns that are not orthonormal.

    Cost: 2 n k² flops for the check.
    """

    def __init__(self, vectors: Tensor | TallMatrix, eigenvalues: Tensor, *, check: bool = True) -> None:
        super().__init__(vectors, check=check)
        if not isinstance(eigenvalues, Tensor):
            given = type(eigenvalues).__name__
            raise TypeError(f"eigenvalues are a tensor, (k,), got {given}; convert them by torch.as_tensor")
        if eigenvalues.shape != (vectors.shape[1],):
            raise ValueError(
                f"{vectors.shape[1]} eigenvectors need as many eigenvalues, got {tuple(eigenvalues.shape)}"
            )
        self.eigenvalues = eigenvalues.detach()

    def leading(self, j: int) -> EigenSubspace:
        """The span of the first j eigenvectors, 1 <= j <= k.

        Raises:
            ValueError: j outside 1 … k.

        Cost: none, it is a view.
        """
        if not is_count(j, self.dim):
            raise ValueError(f"leading(j) takes an integer 1 <= j <= {self.dim}, got {j!r}")
        return EigenSubspace(self._leading(j), self.eigenvalues[:j], check=False)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> EigenSubspace:
        """The same subspace in another dtype or on another device.

        Cost: a copy, unless both stay.
        """
        return EigenSubspace(
            self.vectors.to(dtype=dtype, device=device), self.eigenvalues.to(dtype=dtype, device=device), check=False
        )

    def _image(self, M: LinearOperator) -> EigenSubspace:
        return EigenSubspace(M @ self.vectors, self.eigenvalues, check=False)

    def _tensors(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors, "eigenvalues": self.eigenvalues}


def _tall_gram(X: TallMatrix, other: OrthonormalSubspace) -> Tensor:
    """Xᵀ C, (k, l), for the vectors C of the other; sums over blocks of rows in float64."""
    total = torch.zeros(X.shape[1], other.dim, dtype=torch.float64, device=X.device)
    for rows, block in X.row_blocks():
        basis = other._basis
        part = basis.row_block(rows.start, rows.stop) if isinstance(basis, TallMatrix) else basis.matrix[rows]
        total += block.mT @ part
    return total.to(X.dtype)
