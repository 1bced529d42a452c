"""How sure an overlap is: what the error of an eigenspace, and the choice of the data, may change in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import scipy
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops.interop import as_operator
from ..linops.operator import LinearOperator
from ..linops.orthonormal import EigenSubspace
from ..linops.selection import ranking
from ..linops.subspace import Subspace
from ..linops.tall_qr import triangular_factor
from .nulls import central
from .overlap import accumulated, overlap, overlap_curve

_AGREEMENT = 1e-2  # of the parts with the eigenvalues: far above a solver's tolerance, far below another Hessian's


def overlap_interval(A: Subspace, B: Subspace, sine_norm: float) -> tuple[float, float]:
    """The least and the largest overlap of A with any subspace within ``sine_norm`` of B, √(Σ sin²θᵢ) of the angles.

    It carries the error of a computed eigenspace B into the overlap: residual norms over gaps bound that norm, for the
    span of the first j eigenvectors `Certificate.sine_norms` at j - 1. Of ‖AᵀB‖²_F = x, with r the smaller dimension,
    the true value is at most (√x + s)² and x + √r s, and at least (√x - s)² and x - √r s.

    Args:
        A: a subspace of dimension k, such as a mask.
        B: a computed subspace of dimension l.
        sine_norm: s, a bound of the distance of B from the true subspace, of the same dimension.

    Raises:
        TypeError: as `overlap`.
        ValueError: as `overlap`, or a bound that is negative or not a number.

    Source: for aligned bases B = B' C + Z S with cosines C and sines S, ‖AᵀB‖_F differs from ‖AᵀB'‖_F by no more than
    ‖S Zᵀ A‖_F <= s; the projectors differ by a matrix of eigenvalues ± sin θᵢ (Davis & Kahan 1970; Stewart & Sun 1990,
    theorem I.5.5), of which a subspace of dimension r sees the r largest at most.

    Cost: that of `overlap`.
    """
    if not sine_norm >= 0:
        raise ValueError(f"a bound of the sines is a number >= 0, got {sine_norm}")
    observed = torch.tensor(overlap(A, B), dtype=torch.float64)
    low, high = _reachable(observed, A.dim, B.dim, A.ambient_dim, torch.tensor(float(sine_norm), dtype=torch.float64))
    return float(low), float(high)


def overlap_curve_interval(A: Tensor | EigenSubspace, B: EigenSubspace, sine_norms: Tensor) -> tuple[Tensor, Tensor]:
    """The `overlap_interval` of the leading k of A and of B for every k = 1, ..., K at once, (K,) float64 each.

    Args:
        A: scores, (n,), or another eigenspace: see `overlap_curve`.
        B: an eigenspace.
        sine_norms: (K,) or longer, a bound for each k, such as `Certificate.sine_norms`.

    Raises:
        TypeError: as `overlap_curve`.
        ValueError: as `overlap_curve`, or bounds that are too few, negative or not numbers.

    Cost: that of `overlap_curve`.
    """
    observed = overlap_curve(A, B)
    K = len(observed)
    if not isinstance(sine_norms, Tensor) or sine_norms.ndim != 1 or len(sine_norms) < K:
        given = tuple(sine_norms.shape) if isinstance(sine_norms, Tensor) else type(sine_norms).__name__
        raise ValueError(f"expected a tensor of {K} bounds of sines, one for each k, got {given}")
    if not bool((sine_norms[:K] >= 0).all()):
        raise ValueError("bounds of sines are numbers >= 0, got some that are not")
    k = torch.arange(1, K + 1, dtype=torch.float64, device=observed.device)
    return _reachable(observed, k, k, B.ambient_dim, sine_norms[:K].to(observed))


def _reachable(observed: Tensor, k: Any, dim: Any, n: int, sine_norm: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the overlap when one subspace moves by ``sine_norm``."""
    k, dim = (torch.as_tensor(part, dtype=torch.float64, device=observed.device) for part in (k, dim))
    scale, most, least = (k * dim).sqrt(), torch.minimum(k, dim), (k + dim - n).clamp(min=0)
    shared = observed * scale
    shared = shared.clamp(min=least, max=most)  # bases are orthonormal to rounding only
    root, linear = shared.sqrt(), most.sqrt() * sine_norm
    high = torch.minimum((root + sine_norm).square(), shared + linear).minimum(most)
    low = torch.maximum((root - sine_norm).clamp(min=0).square(), shared - linear).maximum(least)
    return low.minimum(shared) / scale, high.maximum(shared) / scale


@attrs.frozen(eq=False, repr=False)
class OverlapJackknife:
    """The sampling error of an overlap curve over data, by leaving out one part of the data at a time.

    Attributes:
        overlap: (K,) float64, of the eigenspaces of all data.
        standard_error: (K,), of their choice.
        bias: (K,), by how much the overlap is expected to be off for having so few data.
        parts: how many there are.
    """

    overlap: Tensor
    standard_error: Tensor
    bias: Tensor
    parts: int

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends, (K,) each, of the overlap minus and plus standard errors, by Student's law of parts - 1 degrees.

        Raises:
            ValueError: a level outside (0, 1).

        Cost: none to speak of.
        """
        margin = self.standard_error * float(scipy.stats.t(self.parts - 1).ppf(central(level)[1]))
        return (self.overlap - margin).clamp(min=0), (self.overlap + margin).clamp(max=1)

    def __repr__(self) -> str:
        return (
            f"<OverlapJackknife k = 1 ... {len(self.overlap)} over {self.parts} parts of the data: at the last k "
            f"{float(self.overlap[-1]):.4g} ± {float(self.standard_error[-1]):.2g}>"
        )


def overlap_jackknife(
    A: Tensor | EigenSubspace,
    B: EigenSubspace,
    parts: Sequence[LinearOperator],
    weights: Tensor | None = None,
    *,
    progress: bool = False,
) -> OverlapJackknife:
    """The standard error over data of `overlap_curve`, for an eigenspace B of an operator that is a mean over data.

    The operator is H = Σ w_b H_b, a weighted mean of ``parts``, such as the Hessians on disjoint batches. Each is
    multiplied with the vectors of B once; the eigenspaces without part b are those of one step of subspace iteration
    with H - w_b H_b, from its Rayleigh-Ritz vectors in B. What B does not hold it sees to the order λ_K / λ_k only:
    take twice as many eigenvectors as the largest k of interest.

    The scores, or the other eigenspace, are held fixed. Where the gap behind the k-th eigenvalue is no larger than its
    own sampling error, or the overlap is near 0, the standard error is too large rather than too small.

    Args:
        A: scores, (n,), or another eigenspace: see `overlap_curve`.
        B: an eigenspace of H, the leading ones by magnitude.
        parts: two operators or more.
        weights: their weights, (G,), positive with sum 1; by default equal.
        progress: whether to show a bar that counts parts.

    Raises:
        TypeError: as `overlap_curve`, or parts of another dtype or device.
        ValueError: as `overlap_curve`, fewer than two parts, weights that are none, or parts whose mean is not the
            operator of B.

    Source: Efron & Stein (1981), Ann. Stat. 9, for that bias; Busing, Meijer & van der Leeden (1999), Stat. Comput. 9,
    for parts of different sizes; Halko, Martinsson & Tropp (2011), algorithm 4.4, for subspace iteration.

    Cost: K products of H in all, 4 n K² flops and n K numbers for each part.
    """
    observed = overlap_curve(A, B)
    if not isinstance(parts, Sequence):
        raise TypeError(f"a jackknife takes a list of operators, got {type(parts).__name__}")
    shares = _checked_weights(weights, len(parts))
    values, vectors = B.eigenvalues.double(), B.vectors
    images, without = vectors * B.eigenvalues, []
    projected = torch.zeros(B.dim, B.dim, dtype=torch.float64, device=B.device)
    for part, share in zip(tqdm(parts, desc="parts", disable=not progress), shares, strict=True):
        product = as_operator(part) @ vectors
        projected += share * (vectors.mT @ product).double()
        without.append(_curve_after_step(A, B, (images - share * product) / (1 - share), len(observed)))
    scale = values.abs().max()
    off = float((projected - values.diag()).abs().max() / scale) if scale > 0 else 0.0
    if not off <= _AGREEMENT:
        raise ValueError(
            f"the weighted mean of the {len(parts)} parts is not the operator whose eigenspace was given: on it they "
            f"differ by {off:.1e} of the largest eigenvalue; check the weights, and that the parts make up all the data"
        )
    left, ratio = torch.stack(without), 1 / torch.tensor(shares, dtype=torch.float64, device=observed.device)[:, None]
    estimate = len(parts) * observed - ((1 - 1 / ratio) * left).sum(0)
    pseudo = ratio * observed - (ratio - 1) * left
    variance = ((pseudo - estimate).square() / (ratio - 1)).mean(0)
    return OverlapJackknife(observed, variance.sqrt(), observed - estimate, len(parts))


def _curve_after_step(A: Tensor | EigenSubspace, B: EigenSubspace, images: Tensor, K: int) -> Tensor:
    """The overlap curve of A with the leading eigenspaces of an operator whose products with B are ``images``."""
    projected = (B.vectors.mT @ images).double()
    values, mixing = torch.linalg.eigh((projected + projected.mT) / 2)
    mixing = mixing[:, values.abs().argsort(descending=True)]
    found = images @ mixing.to(images)
    triangle = triangular_factor(found)
    heights = triangle.diagonal().abs()  # of the columns over those before
    held = int((heights > 100 * torch.finfo(images.dtype).eps * heights.max()).sum())
    if held < B.dim:
        raise ValueError(
            f"without one of the parts {held} of {B.dim} eigenvectors are left that products tell from rounding "
            f"errors, or products are not finite: take B.leading({max(held, 1)}) or less, or larger parts"
        )
    products = found[ranking(A, K)] if isinstance(A, Tensor) else A.vectors[:, :K].mT @ found
    products = torch.linalg.solve_triangular(triangle, products.double(), upper=True, left=False)
    return accumulated(products[:, :K])


def _checked_weights(weights: Tensor | None, count: int) -> list[float]:
    if count < 2:
        raise ValueError(f"a jackknife leaves out one of at least two parts, got {count}")
    if weights is None:
        return [1 / count] * count
    valid = isinstance(weights, Tensor) and weights.shape == (count,) and bool((weights > 0).all())
    if not valid or not math.isclose(float(weights.sum()), 1, abs_tol=1e-6):
        raise ValueError(f"expected {count} positive weights of sum 1, one for each part, got {weights}")
    shares: list[float] = weights.double().tolist()
    return shares
