"""Tall blocks: the only algebra of (n, b) blocks, n large, that solvers use.

All else a solver does is done with small matrices, in float64 on the CPU. So whatever these functions run on, a CPU, a
GPU or rows spread over several of them, every solver runs on. Of rows that are spread each rank does its own; Gram
matrices and norms are summed over the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, overload

import attrs
import torch
from torch import Tensor

from ..linops.sharding import agreed, gathered, mesh_of, on_rows, own_rows, summed
from ..linops.tall_matrix import TallMatrix
from .streams import stream

if TYPE_CHECKING:
    from .basis import Basis

_ROWS = 1 << 16  # rows at a time: bounds the float64 copies and the length of sums in single precision
DIRECTION = 10.0  # a direction shorter than this many roundings of the block is none
_SCALES = {torch.float32: (1e-32, 1e36), torch.float64: (1e-150, 1e150)}  # where nothing over- or underflows
_NO_LENGTH = 1e-30  # of the longest column: far below a rounding, far above an overflow of the reciprocal
_PROBES = 8  # random combinations that test orthonormality
_MAX_PASSES = 16  # two suffice, three for a block of the worst condition; beside a rounded basis each gains two digits


def column_major(X: Tensor) -> Tensor:
    """The block X, (n, b), with contiguous columns; X itself if it has them."""
    return X.mT.contiguous().mT


@overload
def leading_columns(X: Tensor, order: Tensor) -> Tensor: ...
@overload
def leading_columns(X: Tensor | TallMatrix, order: Tensor) -> Tensor | TallMatrix: ...
def leading_columns(X: Tensor | TallMatrix, order: Tensor) -> Tensor | TallMatrix:
    """Columns of X, (n, b), in ``order``, contiguous; X itself if it is that already."""
    if isinstance(X, TallMatrix):
        return X.selected(order)
    if len(order) < X.shape[1] or not torch.equal(order, torch.arange(len(order))):
        X = on_rows(lambda rows: rows.mT[order.to(rows.device)].mT, X)
    return column_major(X)


def blocks(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    """The ends of ranges of at most ``width`` numbers that make up start … stop-1."""
    for first in range(start, stop, width):
        yield first, min(first + width, stop)


def in_blocks(product: Callable[[Tensor], Tensor], rows: int, X: Tensor, width: int) -> Tensor:
    """The product of a linear map to ``rows`` rows with X, (n, b), at most ``width`` columns at a time."""
    result = torch.empty(X.shape[1], rows, dtype=X.dtype, device=X.device).mT
    for start, stop in blocks(0, X.shape[1], width):
        result[:, start:stop] = product(X[:, start:stop])
    return result


def empty_columns(X: Tensor, count: int) -> Tensor:
    """Room for ``count`` contiguous columns of n numbers beside X, (n, b), where X is."""
    return on_rows(lambda rows: rows.new_empty(count, len(rows)).mT, X)


def scale_columns(X: Tensor, factors: Tensor) -> Tensor:
    """X diag(factors), of a block (n, b) and (b,) small factors."""
    return on_rows(lambda rows: rows * factors.to(rows), X)


def is_finite(X: Tensor) -> bool:
    """Whether all entries are numbers."""
    mesh = mesh_of(X)
    rows = own_rows(X, mesh)
    # A sum is finite only if all its terms are, and several times as fast to test.
    wrong = not bool(rows.sum().isfinite() or rows.isfinite().all())
    return not wrong if mesh is None else not bool(summed(torch.tensor([float(wrong)]), mesh) > 0)


def column_norms(X: Tensor) -> Tensor:
    """Euclidean norms of the columns of X, (n, b): (b,), small, without over- or underflow.

    Cost: 2 n b flops.
    """
    mesh = mesh_of(X)
    norms = _column_norms(own_rows(X, mesh))
    return norms if mesh is None else _column_norms(gathered(norms, mesh))


def _column_norms(X: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(X, dim=0, dtype=torch.float64).cpu()
    low, high = _SCALES[torch.float64]
    extreme = ((norms < low) | (norms > high)).nonzero()[:, 0]
    if len(extreme) > 0:  # squares of entries may not have been numbers
        columns = X[:, extreme.to(X.device)].double()
        largest = columns.abs().amax(0) if len(X) else columns.new_zeros(len(extreme))
        scaled = torch.linalg.vector_norm(columns / largest.where(largest > 0, 1), dim=0)
        norms[extreme] = (largest * scaled).cpu()
    return norms


def gram(X: Tensor | TallMatrix, Y: Tensor | None = None) -> Tensor:
    """Xᵀ Y, or Xᵀ X, of blocks (n, k) and (n, l): a small (k, l) matrix.

    Xᵀ X is formed in float64 throughout, because it squares the condition number of X; Xᵀ Y in the dtype of its blocks,
    with sums over groups of rows in float64.

    Source: Yamazaki, Tomov & Dongarra (2015), mixed-precision Cholesky QR.

    Cost: 2 n k l flops.
    """
    if isinstance(X, TallMatrix):
        return X.gram(Y)
    mesh = mesh_of(X) if Y is None else mesh_of(X, Y)
    X, Y = own_rows(X, mesh), None if Y is None else own_rows(Y, mesh)
    left, right = (X, X) if Y is None else (X, Y)
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=X.device)
    for start in range(0, X.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        if Y is None:
            part = X[rows].double()
            total += part.mT @ part
        else:
            total += (right[rows].mT @ left[rows]).mT  # the narrower first: the faster order
    return summed(total.cpu(), mesh)


def combine(X: Tensor | TallMatrix, C: Tensor) -> Tensor:
    """X C of a block (n, k) and small coefficients (k, b): an (n, b) block with contiguous columns, of the dtype of X.

    Cost: 2 n k b flops.
    """
    if isinstance(X, TallMatrix):
        return X.combine(C)
    C = agreed(C, mesh_of(X))
    return on_rows(lambda rows: (C.to(rows.device, rows.dtype).mT @ rows.mT).mT, X)


def orthonormality_defects(V: Tensor | TallMatrix, seed: int) -> Tensor:
    """Estimates of the lengths of the rows of VᵀV - I, (k,), from random combinations of its columns.

    Each is less than half the true length about one time in fifty.

    Cost: 32 n k flops, where VᵀV itself takes 2 n k².
    """
    x = torch.from_numpy(stream(seed, "orthonormality").standard_normal((V.shape[1], _PROBES)))
    return (gram(V, combine(V, x)) - x).square().mean(1).sqrt()


@attrs.frozen(eq=False)
class Orthonormalised:
    """X = B C + Q R, with Q orthonormal and orthogonal to the basis B.

    Attributes:
        Q: (n, r), r <= b the numerical rank of what B leaves of X.
        R: (r, b), small.
        C: (j, b), small; (0, b) if there is no B.
        scale: the length of the longest column of X, or the one that was given, if that is longer.
    """

    Q: Tensor
    R: Tensor
    C: Tensor
    scale: float


def require_scale(longest: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a block whose columns have squared lengths that over- or underflow.

    Raises:
        ValueError: the longest is neither zero nor within the range of the dtype.
    """
    low, high = _SCALES[dtype]
    if longest > 0 and not low <= longest <= high:
        raise ValueError(
            f"the longest column of a block of shape {shape} is {longest:.1e} long; "
            f"{dtype} handles lengths between {low:.0e} and {high:.0e}: scale the operator"
        )


def orthonormalise(X: Tensor, against: Basis | None = None, scale: float = 0.0, first: int = 0) -> Orthonormalised:
    """An orthonormal basis of the span of X, (n, b), outside the span of an orthonormal basis B, with coefficients.

    Each pass projects B out of the block and divides it by a triangular factor of its Gram matrix, in float64; passes
    are repeated, at least twice, until one of them had next to nothing to do. Where the Gram matrix is not clearly
    positive definite the factor is that of a shifted one, which the next passes make good. Columns of very different
    lengths and blocks of any scale between 1e-150 and 1e150, in single precision 1e-32 and 1e36, are treated alike.

    The rank counts the singular values of R above ten roundings, in the dtype of X, of the longest column of X or of
    ``scale``; directions below are rounding errors and are left out.

    Args:
        X: the block; it is not written to.
        against: B, a `Basis` of orthonormal columns.
        scale: the length whose rounding errors X carries, if its columns are shorter: for X = A Q the norm of A.
        first: columns of B before this number are orthogonal to X already, but for rounding errors, and are left out of
            the first pass.

    Raises:
        ValueError: a block with entries that are not finite, or of a scale outside that range.

    Source: block classical Gram-Schmidt with reorthogonalisation (Barlow & Smoktunowicz 2013) over shifted Cholesky QR
    (Yamamoto et al. 2015; Fukaya et al. 2020).

    Cost: two passes of 4 n j b + 4 n b² flops as a rule; one more for a block of condition above 1e7.
    """
    b = X.shape[1]
    lengths = column_norms(X)
    if not bool(lengths.isfinite().all() or is_finite(X)):
        raise ValueError(f"a block of shape {tuple(X.shape)} to orthonormalise has entries that are not finite")
    longest = max([0.0, *lengths.tolist()])
    size = max(scale, longest)
    require_scale(size, tuple(X.shape), X.dtype)
    floor = DIRECTION * torch.finfo(X.dtype).eps * size
    # A short block is lengthened in two steps, as one reciprocal could overflow; by a power of two, which is exact.
    unit = min(1.0, 2.0 ** math.frexp(longest)[1])
    Q = column_major(X)
    R = torch.eye(b, dtype=torch.float64)
    C = torch.zeros(0 if against is None else against.size, b, dtype=torch.float64)
    for done in range(_MAX_PASSES):
        if against is not None:
            start = first if done == 0 else 0
            coefficients = against.coefficients(Q, start)
            Q = Q - against.combine(coefficients, start)
            C[start:] += coefficients @ R
        G = gram(Q)
        triangle, lengths = triangular_factor(G)
        Q = _divided(scale_columns(Q, torch.where(lengths > 0, unit / lengths, 0)).div_(unit), triangle)
        R, unit = triangle * lengths @ R, 1.0
        if done > 0 and float((G - torch.eye(len(G), dtype=G.dtype)).norm()) < 0.1:
            break
        U, sigma, _ = torch.linalg.svd(R)
        rank = int((sigma > floor).sum())
        if rank < len(R):
            Q, R = combine(Q, U[:, :rank]), U[:, :rank].mT @ R
            if rank == 0:
                break
    else:
        raise RuntimeError(
            f"a block of shape {tuple(X.shape)} has not become orthonormal in {_MAX_PASSES} passes: is the basis that "
            "it is orthogonalised against orthonormal, and the product linear?"
        )
    return Orthonormalised(Q, R, C, size)


def _divided(X: Tensor, triangle: Tensor) -> Tensor:
    """X F⁻¹ of an upper triangular F."""
    # Not a product with the inverse, whose error would be larger by the condition of the block.
    return on_rows(lambda rows: torch.linalg.solve_triangular(triangle.to(rows), rows, upper=True, left=False), X)


def triangular_factor(G: Tensor) -> tuple[Tensor, Tensor]:
    """Upper triangular F with columns of unit length and (b,) lengths d: (F diag d)ᵀ F diag d = G, or G shifted.

    The shift makes G safely positive definite. It is relative to the diagonal of G, so that lengths of columns do not
    matter; columns of next to no length beside the longest count as zero.
    """
    lengths = G.diagonal().sqrt()
    lengths = torch.where(lengths > _NO_LENGTH * lengths.max(), lengths, 0) if len(G) else lengths
    reciprocal = torch.where(lengths > 0, 1 / lengths, 0)
    unit = reciprocal[:, None] * G * reciprocal
    rounding = 10 * len(G) * torch.finfo(G.dtype).eps
    for shift in (0.0, rounding, 100 * rounding, 10_000 * rounding):
        unit.diagonal().fill_(1 + shift)
        lower, failed = torch.linalg.cholesky_ex(unit)
        safe = shift > 0 or bool((lower.diagonal().square() > 100 * rounding).all())
        if safe and not failed:
            break
    else:
        raise RuntimeError(f"the Gram matrix of {len(G)} columns is not positive semidefinite: is the product linear?")
    return lower.mT, lengths
