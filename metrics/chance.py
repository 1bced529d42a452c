"""What overlap a random mask would have: its mean and standard deviation in closed form.

The overlap of a mask of m coordinates M with a subspace of dimension l is (Σ_{i in M} hᵢ) / √(m l), where the leverage
hᵢ in [0, 1] is the i-th diagonal entry of the orthogonal projector. For a random M it is the total of a sample drawn
without replacement, of which survey sampling knows mean and variance.
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from ..linops.mask import MaskSubspace, ranking
from ..linops.subspace import EigenSubspace, Subspace
from .angles import check_pair
from .overlap import overlap_curve


@attrs.frozen(repr=False)
class ChanceLevel:
    """An observed overlap beside its mean and standard deviation under a null.

    Attributes:
        null: how the random masks are drawn: "uniform" or "stratified".
        strata: the number of strata that are not empty; 1 for the uniform null.
        observed: the overlap of the mask at hand.
        mean: expected overlap of a random mask.
        std: standard deviation of the overlap of a random mask; 0 if all masks of the null have the same overlap.
    """

    null: str
    strata: int
    observed: float
    mean: float
    std: float

    @property
    def ratio(self) -> float:
        """The quotient observed / mean; nan if the mean is 0, for then every mask of the null has overlap 0."""
        return self.observed / self.mean if self.mean > 0 else math.nan

    @property
    def z(self) -> float:
        """(observed - mean) / std; nan if std is 0, for then the null has one value, the observed one."""
        return (self.observed - self.mean) / self.std if self.std > 0 else math.nan

    def __repr__(self) -> str:
        return (
            f"<ChanceLevel overlap {self.observed:.4g}, by chance {self.mean:.4g} +- {self.std:.2g} "
            f"({_named(self)}), ratio {self.ratio:.3g}, z {self.z:.3g}>"
        )


@attrs.frozen(eq=False, repr=False)
class ChanceCurve:
    """The chance levels at every k = 1, ..., K: tensors (K,) float64 that mean at k - 1 what `ChanceLevel` does at k.

    Attributes:
        null: how the random masks are drawn: "uniform" or "stratified".
        strata: the number of strata that are not empty; 1 for the uniform null.
        observed: overlaps at hand, the `overlap_curve`.
        mean: expected overlaps of random masks.
        std: their standard deviations.
    """

    null: str
    strata: int
    observed: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def ratio(self) -> Tensor:
        """The quotients observed / mean, (K,); nan where the mean is 0."""
        return torch.where(self.mean > 0, self.observed / self.mean, math.nan)

    @property
    def z(self) -> Tensor:
        """(observed - mean) / std, (K,); nan where std is 0."""
        return torch.where(self.std > 0, (self.observed - self.mean) / self.std, math.nan)

    def at(self, k: int) -> ChanceLevel:
        """The chance level of the k leading coordinates against the k leading eigenvectors, 1 <= k <= K."""
        if not 1 <= k <= len(self):
            raise ValueError(f"expected 1 <= k <= {len(self)}, got {k}")
        observed, mean, std = (float(curve[k - 1]) for curve in (self.observed, self.mean, self.std))
        return ChanceLevel(self.null, self.strata, observed, mean, std)

    def __repr__(self) -> str:
        return f"<ChanceCurve k = 1 ... {len(self)} ({_named(self)})>"


def chance(mask: MaskSubspace, subspace: Subspace, strata: Tensor | None = None) -> ChanceLevel:
    """The overlap of a mask with a subspace beside that of random masks of the same size, in closed form.

    The null is named by `strata`. Without it the random mask is uniform: m of n coordinates without replacement, with
    mean √(m l) / n. With it the random mask has in every stratum as many coordinates as the mask at hand, uniform
    within each: the labels of a `ParameterSpace` part "which weights are large" from "which layers have large weights".

        mean = Σ_s m_s h̄_s / √(m l),    variance = Σ_s m_s (1 - m_s / n_s) S²_s / (m l),

    where stratum s has n_s coordinates, m_s of them in the mask, leverages of mean h̄_s and of variance S²_s (over
    n_s - 1). A random Haar subspace against the fixed mask has the uniform mean as well.

    Args:
        mask: m of n coordinates.
        subspace: any subspace of dimension l, a mask too.
        strata: integer labels, (n,), of the strata; None for the uniform null.

    Returns:
        `ChanceLevel` with `observed`, `mean`, `std`, `ratio`, `z`.

    Raises:
        TypeError: not a mask and a subspace, labels that are not integers, different dtype or device.
        ValueError: different ambient spaces, or not one label for each coordinate.

    Source: Cochran, Sampling Techniques (1977), theorems 2.2 (uniform) and 5.3 (stratified).

    Cost: that of the leverages, O(n l), and O(n) memory; no product with an operator.
    """
    if not isinstance(mask, MaskSubspace):
        raise TypeError(f"chance levels are those of a MaskSubspace, got {type(mask).__name__} as the first argument")
    check_pair(mask, subspace)
    labels = _as_strata(strata, subspace)
    sums = _StratifiedSums(labels, subspace.dtype)
    leverage = subspace.leverage().double()
    sums.add(leverage)
    mean, std = sums.moments(torch.bincount(labels[mask.indices], minlength=len(sums.sizes)))
    scale = math.sqrt(mask.dim * subspace.dim)
    observed = leverage[mask.indices].sum()
    return ChanceLevel(_null(strata), sums.strata, float(observed) / scale, float(mean) / scale, float(std) / scale)


def chance_curve(scores: Tensor, subspace: EigenSubspace, strata: Tensor | None = None) -> ChanceCurve:
    """The chance level of the k highest scores against the k leading eigenvectors for every k = 1, ..., K at once.

    Entry k - 1 is `chance(MaskSubspace.top_k(scores, k), subspace.leading(k), strata)`. One pass over the eigenvectors
    keeps running leverages.

    Args:
        scores: one for each coordinate, (n,).
        subspace: an eigenspace of dimension K.
        strata: integer labels, (n,), of the strata; None for the uniform null.

    Raises:
        TypeError: other kinds of arguments, labels that are not integers, different devices.
        ValueError: not one score and one label for each coordinate.

    Source: as for `chance`.

    Cost: O(n K) operations, O(n + K²) memory, the K² those of `overlap_curve`.
    """
    if not isinstance(scores, Tensor):
        raise TypeError(f"expected a tensor of scores, got {type(scores).__name__}; chance levels are those of masks")
    observed = overlap_curve(scores, subspace)
    labels = _as_strata(strata, subspace)
    sums = _StratifiedSums(labels, subspace.dtype)
    counts = torch.zeros_like(sums.sizes)
    means, stds = torch.empty_like(observed), torch.empty_like(observed)
    for j, coordinate in enumerate(ranking(scores, subspace.dim)):
        counts[labels[coordinate]] += 1
        sums.add(subspace.vectors[:, j].double().square())
        means[j], stds[j] = sums.moments(counts)
    k = torch.arange(1, len(observed) + 1, device=observed.device)
    return ChanceCurve(_null(strata), sums.strata, observed, means / k, stds / k)


class _StratifiedSums:
    """Sums of random samples from running values x on n coordinates in strata, so many from each stratum.

    The values are kept as x = center[label] + deviation, with centers that follow the means, so that variances come
    without cancellation however many values were added.
    """

    def __init__(self, labels: Tensor, dtype: torch.dtype) -> None:
        self.labels = labels
        self.sizes = torch.bincount(labels)
        self.strata = int((self.sizes > 0).sum())
        self._center = torch.zeros(len(self.sizes), dtype=torch.float64, device=labels.device)
        self._deviation = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        self._rounding = 16 * torch.finfo(dtype).eps

    def _total(self, values: Tensor) -> Tensor:
        return torch.zeros_like(self._center).index_add_(0, self.labels, values)

    def add(self, values: Tensor) -> None:
        """Adds (n,) float64 values to x."""
        shift = self._total(values) / self.sizes.clamp(min=1)
        self._center += shift
        self._deviation += values - shift[self.labels]

    def moments(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the sum of a sample with `counts[s]` coordinates from stratum s."""
        counts, sizes = counts.double(), self.sizes.clamp(min=1).double()
        total = self._total(self._deviation)
        mean = self._center + total / sizes
        variance = (self._total(self._deviation.square()) - total.square() / sizes) / (sizes - 1).clamp(min=1)
        # Values that agree to the rounding of the basis are equal: their spread is noise and would make up a z.
        variance = variance.where(variance > (self._rounding * mean).square(), 0.0)
        return counts @ mean, (counts * (1 - counts / sizes) * variance).sum().sqrt()


def _as_strata(strata: Tensor | None, subspace: Subspace) -> Tensor:
    """Labels in 0, ..., n - 1, (n,) long; all 0 for the uniform null."""
    n = subspace.ambient_dim
    if strata is None:
        return torch.zeros(n, dtype=torch.long, device=subspace.device)
    dtype = strata.dtype if isinstance(strata, Tensor) else None
    if dtype is None or dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(f"strata are a tensor of integer labels, got {dtype or type(strata).__name__}")
    if strata.shape != (n,):
        raise ValueError(f"expected one stratum label for each of the {n} coordinates, got shape {tuple(strata.shape)}")
    if strata.device != subspace.device:
        raise TypeError(f"strata on {strata.device} and {subspace} differ in device; move the labels")
    labels = strata.long()
    if labels.min() >= 0 and labels.max() < n:
        return labels
    inverse: Tensor = torch.unique(labels, return_inverse=True)[1]
    return inverse


def _null(strata: Tensor | None) -> str:
    return "uniform" if strata is None else "stratified"


def _named(chance: ChanceLevel | ChanceCurve) -> str:
    if chance.null == "uniform":
        return chance.null
    return f"{chance.null}, {chance.strata} {'stratum' if chance.strata == 1 else 'strata'}"
