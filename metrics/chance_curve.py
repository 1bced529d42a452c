"""Chance levels for every dimension k of a mask and an eigenspace at once."""

from __future__ import annotations

import math

import attrs
import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from ..linops.basic import is_count
from ..linops.orthonormal import EigenSubspace
from ..linops.selection import ranking
from .chance import ChanceLevel
from .laws import BetaLaw, DrawnLaw, Law
from .nulls import (
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
from .overlap import overlap_curve
from .sampling import Strata

_NUMBERS = 2**24  # of drawn rows that are held at a time


@attrs.frozen(eq=False, repr=False, slots=False)
class ChanceCurve:
    """The chance levels at every k = 1, ..., K: tensors (K,) float64 that mean at k - 1 what `ChanceLevel` does at k.

    The law is found when it is first asked for. Until then a curve of random masks keeps the eigenspace and the strata;
    in a pickle, too.

    Attributes:
        null: what is random: "uniform" and "stratified" masks, or a "haar" subspace.
        strata: the number of strata that are not empty; 1 without strata.
        observed: overlaps at hand, the `overlap_curve`.
        mean: their expectations under the null.
        std: their standard deviations under the null.
        pending: what the law is found from; None for moments alone.
    """

    null: str
    strata: int
    observed: Tensor
    mean: Tensor
    std: Tensor
    _pending: PendingLaw | None = None

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def ratio(self) -> Tensor:
        """The quotients observed / mean, (K,), with strata the `overlap_excess`; nan where the mean is 0."""
        return torch.where(self.mean > 0, self.observed / self.mean, math.nan)

    @property
    def z(self) -> Tensor:
        """(observed - mean) / std, (K,); nan where std is 0."""
        return torch.where(self.std > 0, (self.observed - self.mean) / self.std, math.nan)

    def p_value(self, alternative: str = "greater") -> Tensor:
        """The p-value at each k by itself, (K,): see `ChanceLevel.p_value`.

        Args:
            alternative: ``"greater"``, ``"less"`` or ``"two-sided"``.

        Raises:
            ValueError: another alternative, or a curve without a law.

        Cost: draws of random masks when first asked for, if the null has no closed form: see `chance_curve`.
        """
        return self._tensor(tails(self.law, self.observed.cpu().numpy(), alternative))

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends of the central interval of the null at each k by itself, (K,) each.

        Args:
            level: the probability at each k.

        Raises:
            ValueError: a level outside (0, 1), or a curve without a law.

        Cost: as for `p_value`.
        """
        low, high = (self._tensor(self.law.quantile(share)) for share in central(level))
        return low, high

    def band(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends, (K,) each, of a band in which the whole curve of a random mask lies with probability ``level``.

        It is wider than the intervals, since a curve has many k at which to leave it, and many k ask for many draws.

        Raises:
            ValueError: a level outside (0, 1), too few draws for it, or a null of random subspaces, of which the joint
                law is not known.

        Source: Myllymäki et al. (2017), J. R. Stat. Soc. B 79.

        Cost: as for `p_value`, and a sort of the draws at each k.
        """
        central(level)
        if not isinstance(self.law, DrawnLaw):
            raise ValueError(f"the {self.null} null has intervals at each k, but no band: take interval()")
        low, high = (self._tensor(end) for end in self.law.envelope(level))
        return low, high

    @property
    def law(self) -> Law:
        """The laws of the overlaps under the null."""
        return law_of(self._pending)

    def at(self, k: int) -> ChanceLevel:
        """The chance level at one k, 1 <= k <= K, with moments alone.

        Raises:
            ValueError: k outside 1 … K.

        Cost: none.
        """
        if not is_count(k, len(self)):
            raise ValueError(f"expected an integer 1 <= k <= {len(self)}, got {k!r}")
        observed, mean, std = (float(curve[k - 1]) for curve in (self.observed, self.mean, self.std))
        return ChanceLevel(self.null, self.strata, observed, mean, std)

    def _tensor(self, values: NDArray[numpy.float64]) -> Tensor:
        return torch.from_numpy(numpy.broadcast_to(values, len(self)).copy()).to(self.mean.device)

    def __repr__(self) -> str:
        return f"<ChanceCurve k = 1 ... {len(self)} ({named(self.null, self.strata)})>"


def chance_curve(
    A: Tensor | EigenSubspace,
    B: EigenSubspace,
    strata: Tensor | None = None,
    *,
    null: str | None = None,
    draws: int = 999,
    seed: int = 0,
) -> ChanceCurve:
    """The chance level of the leading k of A against the k leading eigenvectors of B for every k = 1, ..., K at once.

    Entry k - 1 is `chance(MaskSubspace.top_k(A, k), B.leading(k), strata)`. Random masks of p-values and intervals are
    nested, as the observed ones are: for k + 1 they hold those for k, and a coordinate of the same stratum as the one
    that the scores add.

    Args:
        A: scores, one for each coordinate, (n,); for the Haar null another eigenspace as well.
        B: an eigenspace of dimension K.
        strata: integer labels, (n,), of the strata; None for the uniform null.
        null: ``"haar"``, or one of the other two to insist on it: see `chance`.
        draws: random orders of coordinates that p-values, intervals and bands come from.
        seed: of these.

    Raises:
        TypeError: other kinds of arguments, an eigenspace for a null of masks, labels that are not integers, different
            devices.
        ValueError: not one score and one label for each coordinate, an unknown null or one that does not go with the
            strata, draws < 1 or a negative seed.

    Source: as for `chance`.

    Cost: O(n K) operations, the rows read once; O(n + K² + S K) memory for S strata, the K² those of `overlap_curve`,
    and a block of rows; of p-values, when first asked for, draws K² operations, draws K numbers and a block of the rows
    of the eigenvectors that were drawn. O(K) beside the overlap curve for the Haar null.
    """
    null = checked_null(null, strata, draws, seed)
    if null == "haar":
        return _against_haar(A, B)
    if not isinstance(A, Tensor):
        raise TypeError(
            f"expected a tensor of scores, got {type(A).__name__}; chance levels are those of masks, "
            "or with null='haar' of two eigenspaces"
        )
    observed = overlap_curve(A, B)
    if not bool(observed.isfinite().all()):
        raise ValueError(f"{B} has entries that are not finite")
    order = ranking(A, B.dim)
    labels = as_labels(strata, len(A), B)
    rounding = rounding_of(B)
    sums = StratifiedSums(labels, B.dim, rounding)
    for rows, vectors in B.row_blocks():
        sums.add(rows, vectors.double().square().cumsum_(dim=1))
    counts = one_hot(labels[order], len(sums.sizes)).cumsum(dim=0)
    means, stds = sums.moments(counts)
    k = torch.arange(1, len(observed) + 1, device=observed.device)
    law = PendingLaw(_drawn_law, B, Strata(labels, counts[-1]), order, rounding, draws, seed)
    return ChanceCurve(null, sums.strata, observed, means / k, stds / k, law)


def _against_haar(A: Tensor | EigenSubspace, B: EigenSubspace) -> ChanceCurve:
    observed = overlap_curve(A, B)
    k = numpy.arange(1.0, len(observed) + 1)
    mean, std, low, high = haar_moments(B.ambient_dim, k, k)
    means, stds = (torch.from_numpy(moment).to(observed.device) for moment in (mean, std))
    law = PendingLaw(BetaLaw, low, high, mean, std, rounding_of(B))
    return ChanceCurve("haar", 1, observed, means, stds, law)


def _drawn_law(B: EigenSubspace, strata: Strata, order: Tensor, rounding: float, draws: int, seed: int) -> DrawnLaw:
    """That of the overlap curves of random orders of coordinates, (draws, K)."""
    drawn, places = numpy.unique(strata.orders(order, draws, numpy.random.default_rng(seed)), return_inverse=True)
    indices = torch.from_numpy(drawn).to(B.device)
    orders = torch.from_numpy(places.reshape(draws, len(order)).T.copy()).to(B.device)  # a row for each place
    total = torch.zeros(draws, len(order), dtype=torch.float64, device=B.device)
    count = max(1, _NUMBERS // len(order))
    for start in range(0, len(drawn), count):
        energies = B.rows(indices[start : start + count]).double().square_().cumsum_(dim=1)
        # The coordinate of a place adds its energy in the first k vectors to the overlaps of all masks that hold it.
        for place, chosen in enumerate(orders - start):
            at: Tensor | slice = slice(None)
            if len(energies) < len(drawn):
                at = ((chosen >= 0) & (chosen < len(energies))).nonzero()[:, 0]
            total[at, place:] += energies[chosen[at], place:]
    curves: NDArray[numpy.float64] = total.cpu().numpy()
    return DrawnLaw(curves / numpy.arange(1, len(order) + 1), rounding)
