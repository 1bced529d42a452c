"""Overlap: how much of one subspace lies in another, as one number in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..linops.coordinate import PartialPermutation
from ..linops.mask import MaskSubspace
from ..linops.orthonormal import EigenSubspace
from ..linops.selection import ranking
from ..linops.subspace import Subspace
from .angles import check_pair


def overlap(A: Subspace, B: Subspace) -> float:
    """‖AᵀB‖²_F / √(k l), the squared cosines of all principal angles over the geometric mean of the dimensions.

    In [0, 1] up to the rounding of the bases: 0 for orthogonal subspaces, 1 for equal ones, √(k/l) when A lies in a
    larger B. A random pair has the expectation √(k l) / n; `chance` says how far a mask is from it.

    Arguments and errors as for `principal_angles`.

    Source: arXiv 2504.14701 for equal dimensions.

    Cost: O(k l) for a mask and a basis, O(k + l) for two masks, exact and never dense; O(n k l) for two bases.
    """
    return _shared(A, B) / math.sqrt(A.dim * B.dim)


def containment(A: Subspace, B: Subspace) -> float:
    """‖AᵀB‖²_F / k, the mean share of a unit vector of A that lies in B: 1 if and only if B contains A.

    Not symmetric; √(containment(A, B) · containment(B, A)) is the overlap. Arguments, errors and cost as for `overlap`.

    Cost: as for `overlap`.
    """
    return _shared(A, B) / A.dim


def jaccard(A: MaskSubspace, B: MaskSubspace) -> float:
    """|A ∩ B| / |A ∪ B| of two masks as sets of coordinates, in [0, 1].

    Raises:
        TypeError: not two masks: general subspaces have no union that is a subspace; use `overlap`.
        ValueError: masks of different ambient spaces.

    Cost: O(k + l), exact.
    """
    for subspace in (A, B):
        if not isinstance(subspace, MaskSubspace):
            raise TypeError(f"jaccard compares two MaskSubspaces, got {subspace!r}; use overlap for other subspaces")
    shared = _shared(A, B)
    return shared / (A.dim + B.dim - shared)


def overlap_curve(A: Tensor | EigenSubspace, B: EigenSubspace) -> Tensor:
    """The overlap of the leading k of A with the leading k of B for every k = 1, ..., K at once, (K,) float64.

    Leading means: for scores, the mask of the k coordinates that score highest, as `MaskSubspace.top_k` takes them; for
    an eigenspace, the span of its first k eigenvectors. All K values come from one matrix of squared products: entry
    (i, j) counts from k = max(i, j) on.

    Args:
        A: scores, (n,), one for each coordinate; or another eigenspace.
        B: an eigenspace.

    Returns:
        Entry k - 1 is `overlap` at k; K is the dimension of B, or the smaller one of two eigenspaces.

    Raises:
        TypeError: other kinds of arguments, or different dtype or device of eigenspaces.
        ValueError: sizes that do not fit.

    Cost: O(K²) memory; O(n log n + K²) operations for scores, O(n K²) for two eigenspaces.
    """
    _check_curve(A, B)
    if isinstance(A, Tensor):
        products = B.rows(ranking(A, B.dim))
    else:
        K = min(A.dim, B.dim)
        products = A.leading(K).cross_gram(B.leading(K)).to_dense()
    return accumulated(products)


def accumulated(products: Tensor) -> Tensor:
    """The overlap curve, (…, K), of the products of K leading vectors with K leading vectors, (…, K, K)."""
    squares = products.double().square()
    gained = squares.tril().sum(dim=-1) + squares.triu(diagonal=1).sum(dim=-2)
    return gained.cumsum(-1) / torch.arange(1, gained.shape[-1] + 1, device=gained.device)


def _shared(A: Subspace, B: Subspace) -> float:
    """‖AᵀB‖²_F = Σ cos²θᵢ, summed in float64."""
    check_pair(A, B)
    gram = A.cross_gram(B)
    if isinstance(gram, PartialPermutation):
        return float(gram.rank)
    return float(torch.linalg.vector_norm(gram.to_dense(), dtype=torch.float64)) ** 2


def _check_curve(A: Tensor | EigenSubspace, B: EigenSubspace) -> None:
    """Two nested families of subspaces that can be compared: scores or an eigenspace, and an eigenspace."""
    if not isinstance(B, EigenSubspace):
        raise TypeError(
            f"a curve over k runs along an EigenSubspace, got {type(B).__name__}; a decomposition has its .subspace"
        )
    if isinstance(A, EigenSubspace):
        check_pair(A, B)
    elif not isinstance(A, Tensor):
        raise TypeError(
            f"expected a tensor of scores or an EigenSubspace, got {type(A).__name__}; a mask has no order of its "
            "coordinates: pass the scores it was made from"
        )
    elif A.shape != (B.ambient_dim,):
        raise ValueError(f"expected one score for each of the {B.ambient_dim} coordinates of {B}, got {tuple(A.shape)}")
    elif A.device != B.device:
        raise TypeError(f"scores on {A.device} and {B} differ in device; move the scores with .to({str(B.device)!r})")
