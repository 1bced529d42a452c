"""The diagonal of an operator that is known as a product BᵀB, without error."""

from __future__ import annotations

import torch
from torch import Tensor

from .basic import require_count
from .operator import LinearOperator
from .row_gram import rows_of


def exact_diagonal(A: LinearOperator, *, block_size: int = 32) -> Tensor:
    """The diagonal of A = BᵀB, (n,) in the dtype of A: for each coordinate the sum of squares of a column of B.

    It is exact but for rounding, for a GGN or a Fisher matrix, see `LinearOperator.factor`. The squares are summed in
    float64. ``eigenspan.diagonal`` estimates the diagonal of any operator, and of these where m products are too many.

    Args:
        A: an (n, n) operator with a factor B, (m, n).
        block_size: rows of B at a time, products of Bᵀ with as many columns of the identity.

    Raises:
        TypeError: an operator of which no factor is known, such as a Hessian; or no operator.
        ValueError: a block size below one.

    Cost: m products of Bᵀ, and ``block_size`` rows of n and of m numbers.
    """
    require_count("block_size is", block_size)
    if not isinstance(A, LinearOperator):
        raise TypeError(f"exact_diagonal takes an operator, got {type(A).__name__}; a matrix has its .diagonal()")
    try:
        B = A.factor()
    except TypeError as error:
        raise TypeError(
            f"{error}. Without one, eigenspan.diagonal(A) estimates the diagonal, and A.to_dense().diagonal() takes n "
            "products"
        ) from error
    total = torch.zeros(A.shape[1], dtype=torch.float64, device=A.device)
    for start in range(0, B.shape[0], block_size):
        rows = rows_of(B, slice(start, min(start + block_size, B.shape[0])))
        norms: Tensor = torch.linalg.vector_norm(rows, dim=0, dtype=torch.float64)  # without a float64 copy of the rows
        total += norms.square()
    return total.to(A.dtype)
