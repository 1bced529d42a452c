"""What overlap a random mask or a random subspace would have: moments in closed form, p-values and intervals.

The overlap of a mask of m coordinates M with a subspace of dimension l is (Σ_{i in M} hᵢ) / √(m l), where the leverage
hᵢ in [0, 1] is the i-th diagonal entry of the orthogonal projector. For a random M it is the total of a sample drawn
without replacement, of which survey sampling knows mean and variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy
import torch
from torch import Tensor

from ..linops.mask import MaskSubspace
from ..linops.subspace import Subspace
from ..linops.tall_matrix import row_slices
from .angles import check_pair
from .laws import BetaLaw, ConstantLaw, DrawnLaw, LatticeLaw, Law
from .nulls import (
    SINGLE,
    PendingLaw,
    StratifiedSums,
    as_labels,
    central,
    checked_null,
    haar_moments,
    law_of,
    named,
    rounding_of,
    tails,
)
from .overlap import overlap
from .sampling import Strata


@attrs.frozen(repr=False, slots=False)
class ChanceLevel:
    """An observed overlap, or another statistic, beside its law under a null.

    The law is found when it is first asked for. Until then a level of a mask and a basis keeps the n leverages and the
    strata; in a pickle, too.

    Attributes:
        null: what is random: "uniform" and "stratified" masks, or a "haar" subspace.
        strata: the number of strata that are not empty; 1 without strata.
        observed: the overlap at hand.
        mean: its expectation under the null.
        std: its standard deviation under the null; 0 if it has one value there.
        pending: what the law is found from; None for moments alone.
    """

    null: str
    strata: int
    observed: float
    mean: float
    std: float
    _pending: PendingLaw | None = attrs.field(default=None, eq=False)

    @property
    def ratio(self) -> float:
        """The quotient observed / mean; nan if the mean is 0, for then the null has overlap 0 alone."""
        return self.observed / self.mean if self.mean > 0 else math.nan

    @property
    def z(self) -> float:
        """(observed - mean) / std; nan if std is 0, for then the null has one value, the observed one."""
        return (self.observed - self.mean) / self.std if self.std > 0 else math.nan

    def p_value(self, alternative: str = "greater") -> float:
        """The probability under the null of an overlap as far from chance as the observed one, or further.

        By draws it is never below 1 / (1 + number of draws); `z` says how far beyond that the overlap is.

        Args:
            alternative: ``"greater"``, ``"less"`` or ``"two-sided"``: further up, down, or twice the smaller of both.

        Raises:
            ValueError: another alternative, or a level without a law, as those of records are.

        Cost: draws of random masks when first asked for, if the null has no closed form: see `chance`.
        """
        return float(tails(self.law, self.observed, alternative))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central interval that holds the overlap with probability ``level`` under the null.

        Raises:
            ValueError: a level outside (0, 1), or a level without a law.

        Cost: as for `p_value`.
        """
        low, high = (float(self.law.quantile(share)) for share in central(level))
        return low, high

    @property
    def law(self) -> Law:
        """The law of the overlap under the null."""
        return law_of(self._pending)

    def __repr__(self) -> str:
        return (
            f"<ChanceLevel observed {self.observed:.4g}, by chance {self.mean:.4g} ± {self.std:.2g} "
            f"({named(self.null, self.strata)}), ratio {self.ratio:.3g}, z {self.z:.3g}>"
        )


def chance(
    A: Subspace,
    B: Subspace,
    strata: Tensor | None = None,
    *,
    null: str | None = None,
    draws: int = 9999,
    seed: int = 0,
) -> ChanceLevel:
    """The overlap of two subspaces beside that of a random mask with B, or of a random subspace, in closed form.

    The null says what is random. By default A is a mask, and it is a mask of as many coordinates:

    - ``"uniform"``, without strata: m of n coordinates without replacement, with mean √(m l) / n.
    - ``"stratified"``, with strata: as many coordinates in every stratum as A has, uniform within each. The labels of a
      `ParameterSpace` part "which weights are large" from "which layers have large weights". The mean is
      Σ mₛ h̄ₛ / √(m l), the variance Σ mₛ (1 - mₛ / nₛ) S²ₛ / (m l), where stratum s has nₛ coordinates, mₛ of them in
      the mask, and leverages of mean h̄ₛ and variance S²ₛ (over nₛ - 1).
    - ``"haar"``: one of the two is a uniformly random subspace; both may be any. The mean is √(k l) / n, and the
      variance 2 (n - k) (n - l) / (n² (n - 1) (n + 2)).

    p-values and intervals are exact for two masks (hypergeometric laws) and for a Haar-random vector (a beta law, close
    for larger subspaces). For a mask and a basis they come from random masks, of which, in strata with more than a
    thousand coordinates in the mask and outside, the thousand largest leverages are sampled and the sum of the others
    is drawn by its first three moments.

    Args:
        A: a mask of m of n coordinates; any subspace for ``"haar"``.
        B: any subspace of dimension l, a mask too.
        strata: integer labels, (n,), of the strata; None for the uniform null.
        null: ``"haar"``, or one of the other two to insist on it; by default as ``strata`` say.
        draws: random masks that p-values and intervals come from; they resolve 1 / (1 + draws).
        seed: of these.

    Returns:
        `ChanceLevel` with `observed`, `mean`, `std`, `ratio`, `z`, `p_value` and `interval`.

    Raises:
        TypeError: not subspaces, a null of masks where A is none, labels that are not integers, different dtype or
            device.
        ValueError: different ambient spaces, not one label for each coordinate, an unknown null or one that does not
            go with the strata, draws < 1 or a negative seed.

    Source: Cochran, Sampling Techniques (1977), theorems 2.2 (uniform) and 5.3 (stratified). Haar measure: Muirhead,
    Aspects of Multivariate Statistical Theory (1982), section 3.3.

    Cost: that of the leverages, O(n l), and O(n) memory; no product with an operator. p-values, when first asked for:
    draws min(m, 1000) numbers for each stratum, if they take draws.
    """
    null = checked_null(null, strata, draws, seed)
    check_pair(A, B)
    if null == "haar":
        return _against_haar(A, B)
    if not isinstance(A, MaskSubspace):
        raise TypeError(
            f"chance levels are those of a MaskSubspace, got {type(A).__name__} as the first argument; "
            "for two subspaces of any kind choose null='haar'"
        )
    return _against_masks(A, B, strata, null, draws, seed)


def _against_masks(
    A: MaskSubspace, B: Subspace, strata: Tensor | None, null: str, draws: int, seed: int
) -> ChanceLevel:
    labels = as_labels(strata, A.ambient_dim, B)
    rounding = rounding_of(B)
    sums = StratifiedSums(labels, 1, rounding)
    leverage = B.leverage()
    if not bool(leverage.isfinite().all()):
        raise ValueError(f"{B} has entries that are not finite")
    for rows in row_slices(len(labels), 1):
        sums.add(rows, leverage[rows].double()[:, None])
    counts = torch.bincount(labels[A.indices], minlength=len(sums.sizes))
    scale = math.sqrt(A.dim * B.dim)
    mean, std = (float(moment) / scale for moment in sums.moments(counts))
    observed = float(leverage[A.indices].sum(dtype=torch.float64)) / scale
    if std == 0:
        law = PendingLaw(ConstantLaw, mean)
    elif isinstance(B, MaskSubspace):
        others = torch.bincount(labels[B.indices], minlength=len(counts))
        law = PendingLaw(LatticeLaw.common, sums.sizes.tolist(), counts.tolist(), others.tolist(), 1 / scale)
    else:
        law = PendingLaw(_drawn_law, Strata(labels, counts), leverage, scale, rounding, draws, seed)
    return ChanceLevel(null, sums.strata, observed, mean, std, law)


def _drawn_law(strata: Strata, leverage: Tensor, scale: float, rounding: float, draws: int, seed: int) -> DrawnLaw:
    # What is left of a stratum is its total less a sample: of equal numbers there may remain roundings in float64.
    slack = 64 * torch.finfo(torch.float64).eps * float(leverage.sum(dtype=torch.float64)) / scale
    return DrawnLaw(strata.sums(leverage, draws, seed) / scale, rounding, slack)


def permutation_test(
    statistic: Callable[[MaskSubspace], float],
    mask: MaskSubspace,
    strata: Tensor | None = None,
    *,
    draws: int = 999,
    seed: int = 0,
) -> ChanceLevel:
    """A statistic of a mask beside its values at random masks, for what has no closed form.

    Args:
        statistic: a function of a mask that gives a number, such as ``lambda mask: geodesic(mask, eig.subspace)``.
        mask: the mask at hand.
        strata: integer labels, (n,); None for the uniform null. See `chance`.
        draws: random masks.
        seed: of these.

    Returns:
        `ChanceLevel`: mean and standard deviation are those of the draws. What is small for subspaces that are close,
        such as a distance, takes ``p_value("less")``.

    Raises:
        TypeError: not a mask, labels that are not integers, or a statistic that is no number.
        ValueError: not one label for each coordinate, draws < 1, a negative seed, or a statistic that is not finite.

    Source: Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9.

    Cost: draws + 1 evaluations of the statistic.
    """
    null = checked_null(None, strata, draws, seed)
    if not isinstance(mask, MaskSubspace):
        raise TypeError(f"a permutation test is one of a MaskSubspace, got {type(mask).__name__}")
    labels = as_labels(strata, mask.ambient_dim, mask)
    sizes = torch.bincount(labels)
    random = Strata(labels, torch.bincount(labels[mask.indices], minlength=len(sizes)))
    generator = numpy.random.default_rng(seed)
    masks = (MaskSubspace.from_indices(random.mask(generator), len(labels), mask.dtype) for _ in range(draws))
    values = numpy.array([_number(statistic(each)) for each in masks])
    observed = _number(statistic(mask))
    if not (math.isfinite(observed) and numpy.isfinite(values).all()):
        raise ValueError("the statistic is not finite for every mask, so that it has no mean to compare with")
    std = float(values.std(ddof=1)) if draws > 1 else 0.0
    std = std if std > SINGLE * abs(float(values.mean())) else 0.0
    law = PendingLaw(DrawnLaw, values, SINGLE)
    return ChanceLevel(null, int((sizes > 0).sum()), observed, float(values.mean()), std, law)


def _number(value: Any) -> float:
    """A value of a statistic; of a tensor with a graph, too."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"a statistic of a mask is a number, got {value!r}") from error


def overlap_excess(mask: MaskSubspace, subspace: Subspace, strata: Tensor) -> float:
    """The overlap over its mean under the stratified null: what is left of it when layers are accounted for.

    One where the mask is no nearer to the subspace than random masks with as many coordinates in every stratum are, nan
    where these have overlap 0. Its curve over k is `ChanceCurve.ratio` of `chance_curve`, with the strata. Arguments,
    errors and cost as for `chance`.

    Cost: as for `chance`.
    """
    return chance(mask, subspace, strata, null="stratified").ratio


def _against_haar(A: Subspace, B: Subspace) -> ChanceLevel:
    mean, std, low, high = haar_moments(A.ambient_dim, A.dim, B.dim)
    law = PendingLaw(BetaLaw, low, high, mean, std, max(rounding_of(A), rounding_of(B)))
    return ChanceLevel("haar", 1, overlap(A, B), mean, std, law)
