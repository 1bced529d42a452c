"""The mask, or the part of a subspace, that is nearest to a given one."""

from __future__ import annotations

from ..linops.basic import is_count
from ..linops.mask import MaskSubspace
from ..linops.orthonormal import OrthonormalSubspace
from ..linops.selection import ranking
from ..linops.subspace import Subspace
from .angles import principal_vectors


def nearest_mask(subspace: Subspace, k: int | None = None) -> MaskSubspace:
    """The span of the k axes with the largest leverages: of all masks of k coordinates the one of largest `overlap`.

    ‖P_A - P_M‖²_F = dim A + k - 2 Σ leverage over the coordinates of M, so no mask of that size is nearer in `chordal`,
    and none has a larger ‖AᵀM‖_F. In other distances another mask may be nearer: they are not a sum over coordinates.

    Args:
        subspace: A, a subspace of Rⁿ.
        k: the number of coordinates, by default the dimension of A. Equal leverages go by the lower index, as in
            `ranking`.

    Raises:
        ValueError: k outside 1 … n.
        TypeError: no subspace.

    Cost: that of ``leverage``, and one sort.
    """
    if not isinstance(subspace, Subspace):
        raise TypeError(
            f"expected a subspace, got {type(subspace).__name__}; a decomposition has its .subspace, and scores have "
            "MaskSubspace.top_k"
        )
    indices = ranking(subspace.leverage(), subspace.dim if k is None else k)
    return MaskSubspace.from_indices(indices, subspace.ambient_dim, subspace.dtype)


def nearest_subspace(A: Subspace, B: Subspace, rank: int) -> OrthonormalSubspace:
    """The span of the first principal vectors of A with B: of all subspaces of A of that rank the nearest to B.

    Nearest in every distance that increases in each principal angle, as all of `GRASSMANN_DISTANCES` do, padded or not:
    for C in A the singular values of CᵀB interlace those of AᵀB, so that θᵢ(C, B) >= θᵢ(A, B), and this C attains
    equality for all i at once. With a mask for B it is the part of an eigenspace that lives most on the mask.

    Args:
        A: a subspace of dimension k.
        B: a subspace of dimension l of the same space.
        rank: 1 … min(k, l).

    Raises:
        ValueError: a rank out of range, or subspaces of different ambient spaces.
        TypeError: not subspaces, or of different dtype or device.

    Source: Ye and Lim (2016); interlacing as in Horn and Johnson, Matrix Analysis, corollary 7.3.6.

    Cost: that of `principal_vectors`.
    """
    vectors = principal_vectors(A, B)
    most = len(vectors.angles)
    if not is_count(rank, most):
        raise ValueError(f"{A} and {B} have principal vectors for an integer 1 <= rank <= {most}, got rank={rank!r}")
    return OrthonormalSubspace(vectors.left[:, :rank], check=False)
