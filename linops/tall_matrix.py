"""Tall matrices that are known by their rows, and formed only when asked for."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import torch
from torch import Tensor

from .operator import LinearOperator

_ROW_NUMBERS = 1 << 20  # of a block of rows: few enough for a cache to hold
_COLUMN_NUMBERS = 1 << 26  # of a block of columns, each of which takes one product of the whole


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Runs of rows that make up an (n, k) matrix, of some million numbers each."""
    count = max(1, _ROW_NUMBERS // max(1, columns))
    for start in range(0, rows, count):
        yield slice(start, min(start + count, rows))


class TallMatrix(LinearOperator):
    """An (n, k) matrix, n large, whose rows and products can be had without the whole.

    A subclass defines `combine`, `gram`, `rows`, `row_block`, `selected` and `formed`.

    Attributes:
        block_size: columns that `column_blocks` forms at a time; by default 256 MiB of them in float32.
    """

    block_size: int | None = None

    @abc.abstractmethod
    def combine(self, C: Tensor) -> Tensor:
        """The product with small coefficients, (k, b): an (n, b) block on the device of the operator."""

    @abc.abstractmethod
    def gram(self, X: Tensor | None = None) -> Tensor:
        """The product of the transpose with an (n, b) block, or with the matrix: small, in float64 on the CPU."""

    @abc.abstractmethod
    def rows(self, indices: Tensor) -> Tensor:
        """The rows of those numbers, (len(indices), k), on the device of the operator; see `require_row_numbers`."""

    @abc.abstractmethod
    def row_block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` … ``stop``-1, (stop - start, k), on the device of the operator."""

    @abc.abstractmethod
    def selected(self, columns: Tensor) -> TallMatrix:
        """The columns of those numbers, in that order."""

    @abc.abstractmethod
    def formed(self) -> Tensor:
        """All of it, (n, k), formed where it is kept when first asked for, and kept."""

    def leading(self, j: int) -> TallMatrix:
        """The first j columns."""
        return self.selected(torch.arange(j))

    def to_dense(self) -> Tensor:
        """All of it, (n, k), on the device of the operator."""
        return self.combine(torch.eye(self.shape[1], dtype=torch.float64))

    def row_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, block by block, each with its place."""
        for place in row_slices(*self.shape):
            yield place, self.row_block(place.start, place.stop)

    def column_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All columns, block by block, each with its place.

        Cost: one product of the matrix for each block.
        """
        width = self.block_size or max(1, _COLUMN_NUMBERS // max(1, self.shape[0]))
        identity = torch.eye(self.shape[1], dtype=torch.float64)
        for start in range(0, self.shape[1], width):
            place = slice(start, min(start + width, self.shape[1]))
            yield place, self.combine(identity[:, place])

    def _matmat(self, X: Tensor) -> Tensor:
        return self.combine(X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.gram(X).to(self.device, self.dtype)


def require_row_numbers(indices: Tensor, n: int) -> None:
    """Refuse what is no vector of numbers of rows: a place in memory outside a row would be one of another row.

    Raises:
        TypeError: no integers; a mask's numbers are ``mask.nonzero()[:, 0]``.
        ValueError: no vector, or numbers outside 0 … n - 1.
    """
    if not isinstance(indices, Tensor) or indices.is_floating_point() or indices.dtype == torch.bool:
        found = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"rows are given by their numbers, a tensor of integers, got {found}")
    if indices.ndim != 1:
        raise ValueError(f"the numbers of rows are a vector, got the shape {tuple(indices.shape)}")
    if indices.numel() > 0 and not 0 <= int(indices.min()) <= int(indices.max()) < n:
        raise ValueError(f"rows are numbered from 0 to {n - 1}, got {int(indices.min())} … {int(indices.max())}")
