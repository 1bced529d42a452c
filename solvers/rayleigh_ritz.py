"""Rayleigh-Ritz in the span of a basis too large to copy: orthonormalised in its place, and read block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.sharding import gathered, summed
from .basis import Basis, random_directions
from .combination import Combination
from .tall import DIRECTION, require_scale, triangular_factor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_MOST_PASSES = 6  # two suffice, three for columns of the worst condition
_WELL_CONDITIONED = 0.5  # departure of a Gram matrix from the identity below which its Cholesky factor loses no digits


def orthonormalise_in_place(basis: Basis, width: int, seed: int, purpose: str, drawn: int = 0) -> tuple[Tensor, int]:
    """Put ``width`` well-conditioned columns in the place of those of a basis, which span the same.

    Each pass divides the basis by a triangular factor of its Gram matrix, in float64, shifted where that is not clearly
    positive definite, until the columns are orthonormal but for a Gram matrix close to the identity. Directions below
    ten roundings of the longest column are left out, and random ones join in their place.

    Args:
        basis: B, of at most ``width`` columns.
        width: how many there are to be.
        seed: of the random directions.
        purpose: of their stream.
        drawn: how many have been taken from it.

    Returns:
        BᵀB, and how many random directions have been drawn now.

    Raises:
        ValueError: columns so long or short that their squares over- or underflow.
        RuntimeError: the columns do not become orthonormal, as where their products are not linear.

    Source: shifted Cholesky QR (Fukaya et al. 2020), without the last division.

    Cost: two passes of n k² flops for the Gram matrix, half of what it has entries for, and one of 2 n k² to divide, as
    a rule; the basis is read three times and written once.
    """
    # Not those of a narrower storage, which are as random as the test matrix and hide nothing far below their size.
    floor = DIRECTION * torch.finfo(basis.dtype).eps
    R = torch.eye(basis.size, dtype=torch.float64)
    for number in range(_MOST_PASSES):
        G = basis.gram()
        if number == 0:
            require_scale(_longest(basis, G), (basis.n, basis.size), basis.dtype)
        if float((G - torch.eye(len(G), dtype=G.dtype)).norm()) < _WELL_CONDITIONED:
            if basis.size == width:
                return G, drawn
            drawn, first = drawn + width - basis.size, drawn
            basis.append(random_directions(basis, first, drawn, seed, purpose))
            R = torch.eye(width, dtype=torch.float64)
            continue
        triangle, lengths = triangular_factor(G)
        R = triangle * lengths @ R
        U, sigma, _ = torch.linalg.svd(R)
        rank = int((sigma > floor * sigma[0]).sum())
        divided = torch.linalg.solve_triangular(triangle, U[:, :rank], upper=True)
        basis.replace(torch.where(lengths > 0, 1 / lengths, 0)[:, None] * divided)
        R = U[:, :rank].mT @ R
    raise RuntimeError(
        f"{basis.size} columns of {basis.n} numbers have not become orthonormal in {_MOST_PASSES} passes: is the "
        "product linear?"
    )


def _longest(basis: Basis, G: Tensor) -> float:
    """The length of the longest column, by BᵀB; where that over- or underflows, its largest number."""
    square = float(G.diagonal().max())
    if 0 < square < math.inf:
        return math.sqrt(square)
    largest = max((float(block.abs().max()) for _, block in basis.row_blocks()), default=0.0)
    own = torch.tensor([largest], dtype=torch.float64)
    return float(own if basis.mesh is None else gathered(own, basis.mesh).max())


def ritz_pairs(A: LinearOperator, basis: Basis, G: Tensor, block_size: int) -> tuple[Tensor, Combination]:
    """The Ritz pairs of a symmetric A in the span of B: values θ, (k,) ascending, and vectors that are not formed.

    They solve (Bᵀ A B) s = θ G s. Of A B no more is kept than a block.

    Args:
        A: symmetric.
        basis: B.
        G: BᵀB, close to the identity.
        block_size: columns multiplied at a time.

    Cost: k products and n k² flops; half of the basis is read for every block.
    """
    H = projected(_images(A, basis.column_blocks(block_size)), basis.coefficients, basis.size)
    values, coefficients = generalised_eigenpairs(H, G)
    return values, Combination(basis, coefficients, block_size)


def measured_ritz_pairs(A: LinearOperator, vectors: Combination) -> tuple[Tensor, Combination, Tensor]:
    """As `ritz_pairs` of orthonormal vectors V, (n, k), that are not formed, with residual norms, (k,).

    Cost: k products, which are kept beside the basis; 2 n k (j + 2 k) flops.
    """
    basis = vectors.basis
    k, storage = vectors.shape[1], attrs.evolve(basis.storage, dtype=None)
    images = Basis(basis.n, basis.dtype, basis.device, storage, basis.mesh, most=k)
    kept = _images(A, vectors.column_blocks(), images)
    H = projected(kept, lambda X, first: vectors.gram(X)[first:], k)
    values, S = generalised_eigenpairs(H, torch.eye(k, dtype=torch.float64))
    found = Combination(basis, vectors.coefficients @ S, vectors.block_size)
    pairs = ((images.combined_rows(rows.start, rows.stop, S), block) for rows, block in found.row_blocks())
    return values, found, residual_norms(pairs, values.to(basis.device, basis.dtype), basis.mesh)


def projected(images: Iterable[tuple[slice, Tensor]], coefficients: Callable[[Tensor, int], Tensor], k: int) -> Tensor:
    """Vᵀ A V, (k, k), of a symmetric A and a V, (n, k); all below the diagonal is computed.

    Args:
        images: A V in blocks of columns, each with its place.
        coefficients: those of Vᵀ X for a block X, from a row on.
        k: columns of V.

    Cost: that of half of the coefficients.
    """
    H = torch.zeros(k, k, dtype=torch.float64)
    for place, image in images:
        H[place.start :, place] = coefficients(image, place.start)
        del image  # before the next is made
    return H.tril() + H.tril(-1).mT


def _images(
    A: LinearOperator, columns: Iterable[tuple[slice, Tensor]], kept: Basis | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The products of blocks of columns, each with its place, which are appended to ``kept``."""
    for place, block in columns:
        image = A._matmat(block)
        del block
        if kept is not None:
            kept.append(image)
        yield place, image
        del image


def residual_norms(pairs: Iterable[tuple[Tensor, Tensor]], values: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """‖A v - θ v‖, (k,) on the CPU, from the same rows of A V and V, (b, k) each, block by block.

    Args:
        pairs: the blocks; of rows that are spread, those of this rank.
        values: θ, (k,), where and in the dtype that they are.
        mesh: the ranks that rows are spread over, if any.

    Cost: 5 n k flops.
    """
    unit = float(values.abs().max()) or 1.0  # so that squares neither over- nor underflow
    squares = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for images, vectors in pairs:
        squares += ((images - vectors * values) / unit).double().square().sum(dim=0)
    return unit * summed(squares.cpu(), mesh).sqrt()


def generalised_eigenpairs(H: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """Values θ, (k,) ascending, and S with H S = G S diag θ and Sᵀ G S = I, for a symmetric H and a definite G.

    Cost: 12 k³ flops.
    """
    L = torch.linalg.cholesky(G)
    half = torch.linalg.solve_triangular(L, (H + H.mT) / 2, upper=False)
    values, S = torch.linalg.eigh(torch.linalg.solve_triangular(L, half.mT, upper=False))
    return values, torch.linalg.solve_triangular(L.mT, S, upper=True)
