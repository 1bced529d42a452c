"""QR of tall matrices of any precision: in float64, piece after piece of rows.

One call of LAPACK on the whole would need a float64 copy of it or, in single precision, lose digits that grow with the
number of rows; it indexes no more than 2³¹ numbers, and knows no half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A piece has at most this many numbers: 128 MiB in float64.
_PIECE = 2**24


def triangular_factor(matrix: Tensor) -> Tensor:
    """The factor R of a QR decomposition of an (m, k) matrix, (min(m, k), k) float64.

    A Gram matrix would square the condition number and lose every sine below 1e-8.

    Cost: 2 m k² flops.
    """
    columns = matrix.shape[1]
    factor = matrix.new_empty(0, columns, dtype=torch.float64)
    for piece in torch.split(matrix, max(2 * columns, _PIECE // columns)):
        factor = torch.linalg.qr(torch.cat([factor, piece.double()]), mode="r").R
    return factor


def orthonormalised(matrix: Tensor, combinations: Tensor | None = None) -> Tensor:
    """An orthonormal basis of the columns of an (m, k) matrix X of rank k, or of X C: in the dtype of X.

    Twice, because the first time leaves an error of the condition number times the precision of float64.

    Args:
        matrix: X.
        combinations: C, (k, r) float64, such that X C is of rank r and its columns are about orthonormal; by default
            the inverse of the triangular factor.

    Cost: 8 m k² flops.
    """
    first = _multiplied(matrix, _inverse(triangular_factor(matrix)) if combinations is None else combinations)
    return _multiplied(first, _inverse(triangular_factor(first)))


def _inverse(triangle: Tensor) -> Tensor:
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse: Tensor = torch.linalg.solve_triangular(triangle, identity, upper=True)
    return inverse


def _multiplied(matrix: Tensor, C: Tensor) -> Tensor:
    """X C, rounded once."""
    product = matrix.new_empty(len(matrix), C.shape[1])
    rows = max(1, _PIECE // matrix.shape[1])
    for piece, result in zip(torch.split(matrix, rows), torch.split(product, rows), strict=True):
        result.copy_(piece.double() @ C)
    return product
