"""Operators built of blocks: side by side on the diagonal, one above the other, and Kronecker products."""

from __future__ import annotations

import functools
import operator as arithmetic
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .operator import LinearOperator, _require_alike
from .structure import Structure

_Map = Callable[[Tensor], Tensor]


class BlockDiagonal(LinearOperator):
    """diag(A₁, …, A_p), (Σ m_i, Σ n_i); it has the properties that all its blocks have.

    Raises:
        ValueError: no block.
        TypeError: blocks of different dtypes or devices.

    Cost: one product of each block, on its own rows.
    """

    def __init__(self, blocks: Sequence[LinearOperator]) -> None:
        self.blocks = _alike_blocks("BlockDiagonal", blocks)
        rows = sum(block.shape[0] for block in self.blocks)
        columns = sum(block.shape[1] for block in self.blocks)
        structure = functools.reduce(arithmetic.and_, (block.structure for block in self.blocks))
        super().__init__((rows, columns), self.blocks[0].dtype, self.blocks[0].device, structure)

    def _matmat(self, X: Tensor) -> Tensor:
        parts = torch.split(X, [block.shape[1] for block in self.blocks])
        return torch.cat([block._matmat(part) for block, part in zip(self.blocks, parts, strict=True)])

    def _rmatmat(self, X: Tensor) -> Tensor:
        parts = torch.split(X, [block.shape[0] for block in self.blocks])
        return torch.cat([block._rmatmat(part) for block, part in zip(self.blocks, parts, strict=True)])


class Stacked(LinearOperator):
    """[A₁; …; A_p], the blocks one above the other, (Σ m_i, n). Side by side is the transpose of a stack of transposes.

    Raises:
        ValueError: no block, or different numbers of columns.
        TypeError: blocks of different dtypes or devices.

    Cost: one product of each block.
    """

    def __init__(self, blocks: Sequence[LinearOperator]) -> None:
        self.blocks = _alike_blocks("Stacked", blocks)
        first = self.blocks[0]
        for block in self.blocks:
            if block.shape[1] != first.shape[1]:
                raise ValueError(f"Stacked: {first} and {block} differ in the number of columns")
        super().__init__((sum(block.shape[0] for block in self.blocks), first.shape[1]), first.dtype, first.device)

    def _matmat(self, X: Tensor) -> Tensor:
        return torch.cat([block._matmat(X) for block in self.blocks])

    def _rmatmat(self, X: Tensor) -> Tensor:
        parts = torch.split(X, [block.shape[0] for block in self.blocks])
        terms = [block._rmatmat(part) for block, part in zip(self.blocks, parts, strict=True)]
        return functools.reduce(arithmetic.add, terms)


class Kronecker(LinearOperator):
    """A ⊗ B, (m_A m_B, n_A n_B): entry ((i, k), (j, l)) is A_ij B_kl, with row-major pairs, as in ``torch.kron``.

    Symmetric if both are, definite if both are definite, an isometry if both are.

    Raises:
        TypeError: factors of different dtypes or devices.

    Cost: one product of B with n_A k columns and one of A with m_B k columns, n and m their columns and rows.
    """

    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        _require_alike(A, B, "Kronecker(A, B)")
        shape = (A.shape[0] * B.shape[0], A.shape[1] * B.shape[1])
        super().__init__(shape, A.dtype, A.device, _kronecker_structure(A.structure, B.structure))
        self.A, self.B = A, B

    def _matmat(self, X: Tensor) -> Tensor:
        return _kronecker_product(self.A._matmat, self.B._matmat, X, _swapped(self.A.shape), _swapped(self.B.shape))

    def _rmatmat(self, X: Tensor) -> Tensor:
        return _kronecker_product(self.A._rmatmat, self.B._rmatmat, X, self.A.shape, self.B.shape)


def _kronecker_product(A: _Map, B: _Map, X: Tensor, a_shape: tuple[int, int], b_shape: tuple[int, int]) -> Tensor:
    """(A ⊗ B) X for maps A of ``a_shape`` and B of ``b_shape``, each (size in, size out)."""
    (a_in, a_out), (b_in, b_out), k = a_shape, b_shape, X.shape[1]
    inner = B(X.reshape(a_in, b_in, k).transpose(0, 1).reshape(b_in, a_in * k))
    outer = A(inner.reshape(b_out, a_in, k).transpose(0, 1).reshape(a_in, b_out * k))
    return outer.reshape(a_out * b_out, k)


def _swapped(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[1], shape[0]


def _kronecker_structure(A: Structure, B: Structure) -> Structure:
    structure = A & B & (Structure.SYMMETRIC | Structure.ISOMETRY)
    if Structure.SYMMETRIC in structure:
        if (Structure.PSD in A and Structure.PSD in B) or (Structure.NSD in A and Structure.NSD in B):
            structure |= Structure.PSD
        if (Structure.PSD in A and Structure.NSD in B) or (Structure.NSD in A and Structure.PSD in B):
            structure |= Structure.NSD
    return structure


def _alike_blocks(what: str, blocks: Sequence[LinearOperator]) -> tuple[LinearOperator, ...]:
    if len(blocks) == 0:
        raise ValueError(f"{what} needs at least one block")
    for block in blocks:
        _require_alike(blocks[0], block, what)
    return tuple(blocks)
