"""Inner products of an operator's rows, in blocks that memory holds."""

from __future__ import annotations

import torch
from torch import Tensor

from .memory import allowance
from .operator import LinearOperator

_FEW_ROWS = 256
_ENTRIES = 1 << 22  # converted to float64 at a time


def row_gram(A: LinearOperator, memory_budget: int | None) -> Tensor:
    """A Aᵀ from products of Aᵀ with the identity, see `LinearOperator.row_gram`."""
    from .distributed import least

    m, n = A.shape
    budget = int(least(allowance(memory_budget, A.device), A))
    affordable = budget // max(1, n * A.dtype.itemsize)
    width = m if affordable >= m else affordable // 2  # two blocks at a time
    if width == 0 < m:
        raise ValueError(f"memory_budget={budget} bytes do not hold two rows of {A}; allow more")
    products = torch.empty(m, m, dtype=torch.float64, device=A.device)
    blocks = [slice(start, min(start + width, m)) for start in range(0, m, max(width, 1))]
    for number, block in enumerate(blocks):
        rows = rows_of(A, block)
        for other in blocks[number:]:
            products[block, other] = row_products(rows, rows if other is block else rows_of(A, other))
            products[other, block] = products[block, other].mT.clone()  # they may be the same
    return products


def rows_of(A: LinearOperator, block: slice) -> Tensor:
    """The rows of A in a range, a new (b, n) tensor. Cost: b products of Aᵀ and b (m + n) numbers."""
    unit = torch.zeros(block.stop - block.start, A.shape[0], dtype=A.dtype, device=A.device)
    unit[:, block].fill_diagonal_(1)
    return (A.T @ unit.mT).mT


def row_products(X: Tensor, Y: Tensor) -> Tensor:
    """X Yᵀ of blocks of rows, (r, n) and (s, n), in float64.

    Cost: 2 r s n flops, little more than half of it for X Xᵀ, and copies of some columns at a time.
    """
    total = torch.zeros(len(X), len(Y), dtype=torch.float64, device=X.device)
    if Y is X and len(X) > _FEW_ROWS:
        half = len(X) // 2
        top, bottom = X[:half], X[half:]
        total[:half, :half], total[half:, half:] = row_products(top, top), row_products(bottom, bottom)
        total[:half, half:] = row_products(top, bottom)
        total[half:, :half] = total[:half, half:].mT
        return total
    width = max(256, _ENTRIES // max(1, len(X), len(Y)))
    for start in range(0, X.shape[1], width):
        left = X[:, start : start + width].double()
        total.addmm_(left, (left if Y is X else Y[:, start : start + width].double()).mT)
    return total
