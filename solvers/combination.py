"""Combinations of a basis, wherever it lives: eigenvectors that are formed when they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linops import Structure
from ..linops.sharding import require_whole, rows_of
from ..linops.tall_matrix import TallMatrix, require_row_numbers
from .basis import Basis


class Combination(TallMatrix):
    """B C, (n, k) with orthonormal columns, for the first j columns of a `Basis` B and small coefficients C, (j, k).

    The basis must not change any more.

    Args:
        basis: B.
        coefficients: C, in float64 on the CPU.
        block_size: columns that `column_blocks` forms at a time.

    Cost: a product with b columns takes 2 n j b + 2 j k b flops, and reads the basis once.
    """

    def __init__(self, basis: Basis, coefficients: Tensor, block_size: int | None = None) -> None:
        super().__init__((basis.n, coefficients.shape[1]), basis.dtype, basis.device, Structure.ISOMETRY)
        self.basis, self.coefficients, self.block_size = basis, coefficients, block_size
        self.row_mesh = basis.mesh
        self._formed: Tensor | None = None

    def combine(self, C: Tensor) -> Tensor:
        """B C times small coefficients, (k, b): an (n, b) block."""
        return self.basis.combine(self.coefficients @ C.double().cpu())

    def gram(self, X: Tensor | None = None) -> Tensor:
        """(B C)ᵀ X for an (n, b) block; by default for B C itself, in float64 throughout.

        Cost: 2 n j b flops; n j² for B C.
        """
        j = len(self.coefficients)
        if X is not None:
            return self.coefficients.mT @ self.basis.coefficients(X)[:j]
        return self.coefficients.mT @ self.basis.gram()[:j, :j] @ self.coefficients

    def rows(self, indices: Tensor) -> Tensor:
        """The rows of those numbers, (len(indices), k).

        Cost: the rows of the basis, and 2 len(indices) j k flops.
        """
        require_row_numbers(indices, self.shape[0])
        if self._formed is not None:
            return rows_of(self._formed, indices.to(self._formed.device)).to(self.device)
        taken = self.basis.rows(indices, len(self.coefficients))
        return taken @ self.coefficients.to(taken)

    def row_block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` … ``stop``-1, (stop - start, k)."""
        require_whole(self, str(self))
        if self._formed is not None:
            return self._formed[start:stop].to(self.device)
        return self.basis.combined_rows(start, stop, self.coefficients)

    def selected(self, columns: Tensor) -> Combination:
        """The columns of those numbers, in that order."""
        return Combination(self.basis, self.coefficients[:, columns], self.block_size)

    def orthonormalised(self) -> Combination:
        """Columns that span the same, orthonormal to the rounding of the basis; they must be about that already.

        Cost: that of `gram`.
        """
        lower = torch.linalg.cholesky(self.gram())
        coefficients = torch.linalg.solve_triangular(lower, self.coefficients.mT, upper=False).mT
        return Combination(self.basis, coefficients, self.block_size)

    def formed(self) -> Tensor:
        """All of it, (n, k) with contiguous columns, in the dtype of the operator, kept where the basis is.

        From then on rows are read from there.

        Cost: 2 n j k flops when first asked for, and n k numbers beside the basis.
        """
        if self._formed is None:
            height, k = self.basis.height, self.shape[1]
            out = self.basis.storage.numbers(height * k, self.dtype, self.device).view(k, height).mT
            self._formed = self.basis.combine(self.coefficients, out=out)
        return self._formed
