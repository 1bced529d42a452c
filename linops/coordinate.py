"""Operators that only move coordinates: no arithmetic, no dense matrix, exact in every dtype."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

from .operator import LinearOperator
from .structure import Structure


class Embedding(LinearOperator):
    """The (n, k) isometry with columns e_i for i in ``indices``: it scatters k coordinates, its transpose gathers them.

    Args:
        indices: (k,) distinct integers in [0, n), in the order of the columns; they give the device.
        n: number of rows.
        dtype: dtype of the blocks.

    Raises:
        ValueError: an index out of range or twice.
        TypeError: indices that are not integers.

    Cost: k reads and writes a column, and a fill with zeros of n.
    """

    def __init__(self, indices: Tensor, n: int, dtype: torch.dtype = torch.float32) -> None:
        _require_distinct("Embedding", indices, n)
        super().__init__((n, len(indices)), dtype, indices.device, Structure.ISOMETRY)
        self.indices = indices.long()

    def _matmat(self, X: Tensor) -> Tensor:
        return X.new_zeros(X.shape[1], self.shape[0]).mT.index_copy_(0, self.indices, X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return X[self.indices]


class PartialPermutation(LinearOperator):
    """The (m, n) matrix with ones at ``(rows[i], columns[i])`` and zeros elsewhere, at most one a row and a column.

    Its singular values are one, ``rank`` times, and zero.

    Args:
        rows: (r,) distinct integers in [0, m).
        columns: (r,) distinct integers in [0, n).
        shape: (m, n).
        dtype: dtype of the blocks.

    Raises:
        ValueError: an index out of range or twice, or more rows than columns or fewer.
        TypeError: indices that are not integers.

    Cost: r reads and writes a column, and a fill with zeros.
    """

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
        if rows.shape != columns.shape:
            raise ValueError(f"PartialPermutation: {len(rows)} rows do not pair with {len(columns)} columns")
        _require_distinct("PartialPermutation rows", rows, shape[0])
        _require_distinct("PartialPermutation columns", columns, shape[1])
        full = Structure.ISOMETRY if len(columns) == shape[1] else Structure.NONE
        super().__init__(shape, dtype, rows.device, full)
        self.rows, self.columns = rows.long(), columns.long()

    @property
    def rank(self) -> int:
        """Number of ones."""
        return len(self.rows)

    def _matmat(self, X: Tensor) -> Tensor:
        return X.new_zeros(X.shape[1], self.shape[0]).mT.index_copy_(0, self.rows, X[self.columns])

    def _rmatmat(self, X: Tensor) -> Tensor:
        return X.new_zeros(X.shape[1], self.shape[1]).mT.index_copy_(0, self.columns, X[self.rows])


def _require_distinct(what: str, indices: Tensor, size: int) -> None:
    if not isinstance(size, numbers.Integral):
        raise ValueError(f"{what}: the dimension of a space is an integer, got {size!r}")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"{what}: indices are integers, got {indices.dtype}")
    if indices.ndim != 1:
        raise ValueError(f"{what}: indices have shape (k,), got {tuple(indices.shape)}")
    if len(indices) == 0:
        return
    indices = indices.long()  # few unsigned dtypes know least and largest
    if int(indices.min()) < 0 or int(indices.max()) >= size:
        raise ValueError(f"{what}: indices lie in [0, {size}), got {int(indices.min())} to {int(indices.max())}")
    seen = torch.zeros(size, dtype=torch.bool, device=indices.device)
    seen[indices] = True
    if int(seen.sum()) != len(indices):
        raise ValueError(f"{what}: {len(indices) - int(seen.sum())} indices stand twice; give each once")
