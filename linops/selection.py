"""Coordinates and masks by scores: those with the largest, and where that was a choice among equals."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs
import torch
from torch import Tensor

from .basic import is_count, require_labels, seeded
from .coordinate import Embedding

if TYPE_CHECKING:
    from .mask import MaskSubspace


@attrs.frozen
class Ties:
    """An arbitrary choice: of the coordinates that share the lowest score selected, some were taken and some left.

    Attributes:
        threshold: that score; None where strata differ in it.
        tied: how many coordinates have exactly this score.
        selected: how many of these were taken.
        strata: in how many strata there was such a choice; 1 for a choice among all. The two counts are sums over them.
    """

    threshold: float | None
    tied: int
    selected: int
    strata: int = 1

    def __str__(self) -> str:
        where = "" if self.threshold is None else f" at {self.threshold:.4g}"
        return f"{self.selected} of {self.tied} tied{where}" + (f" in {self.strata} strata" if self.strata > 1 else "")


def ranking(scores: Tensor, k: int, *, within: Tensor | Selected | None = None, seed: int | None = None) -> Tensor:
    """The indices of the k largest of ``scores``, (n,), largest first, (k,); among equal scores the lower index leads.

    Args:
        scores: (n,) the larger, the earlier.
        k: how many.
        within: the m coordinates to choose from: (m,) distinct integers such as ``H.parameters.indices("*.weight")``,
            (n,) boolean, or a mask; None for all.
        seed: puts equal scores in a random order instead, the same on every device; None for the lower index.

    Raises:
        ValueError: k outside 1 … n or 1 … m, scores that are not flat, a NaN among those to choose from, or a
            ``within`` of another shape, out of range, twice, or empty.
        TypeError: scores that are no tensor, a ``within`` that is none of the three or on another device, or a seed
            that is no integer.

    Cost: one stable sort.
    """
    order = _ranked(scores, within, seed)
    _require_k(k, order, scores)
    return order[:k]


class Selected:
    """What scores choose: the ways to a `MaskSubspace` from one score for each coordinate.

    Its dtype is that of the scores, or float32 where they are integers.
    """

    @classmethod
    def top_k(
        cls, scores: Tensor, k: int, *, within: Tensor | Selected | None = None, seed: int | None = None
    ) -> MaskSubspace:
        """The span of the k axes with the largest scores, (n,), those that lead the `ranking`.

        Args:
            scores: (n,) the larger, the earlier.
            k: how many.
            within: the coordinates to choose from, see `ranking`.
            seed: puts equal scores in a random order, see `ranking`.

        Raises:
            ValueError, TypeError: see `ranking`.

        Cost: one sort.
        """
        order = _ranked(scores, within, seed)
        _require_k(k, order, scores)
        return cls._of_largest(scores, order, order.new_tensor([len(order)]), order.new_tensor([k]))

    @classmethod
    def top_fraction(
        cls,
        scores: Tensor,
        density: float,
        strata: Tensor | None = None,
        *,
        within: Tensor | Selected | None = None,
        seed: int | None = None,
    ) -> MaskSubspace:
        """The span of the axes with the largest scores, (n,): a fraction of all, or the same fraction of each stratum.

        Of a stratum of s coordinates it takes ``density * s``, rounded to the nearest integer (a half to the even one),
        but at least one, so that no layer is cut off.

        Args:
            scores: (n,) the larger, the sooner selected.
            density: the fraction that is selected, in (0, 1].
            strata: integer labels, (n,), such as ``H.parameters.labels()`` for tensors or ``module_labels()``; None for
                a single stratum.
            within: see `ranking`; strata have the sizes that they have within.
            seed: see `ranking`.

        Raises:
            ValueError: a density outside (0, 1], or strata of another shape; see `ranking`.
            TypeError: strata that are not integers; see `ranking`.

        Cost: one sort, two with strata.
        """
        if not 0 < density <= 1:
            raise ValueError(f"density is the fraction of the coordinates to select, in (0, 1], got {density}")
        order = _ranked(scores, within, seed)
        sizes = order.new_tensor([len(order)])
        if strata is not None:
            order, sizes = _by_stratum(order, strata, len(scores))
        counts = (density * sizes.double()).round().long().clamp(min=1)
        return cls._of_largest(scores, order, sizes, counts)

    @classmethod
    def above(cls, scores: Tensor, threshold: float, *, within: Tensor | Selected | None = None) -> MaskSubspace:
        """The span of all axes with scores, (n,), strictly above a threshold, which is rounded to the scores' dtype.

        Args:
            scores: (n,).
            threshold: equal scores are left out.
            within: see `ranking`.

        Raises:
            ValueError: no score above the threshold; see `ranking`.
            TypeError: see `ranking`.

        Cost: one comparison.
        """
        eligible = _candidates(scores, within)
        chosen = eligible[scores[eligible] > threshold]
        if len(chosen) == 0:
            raise ValueError(f"no score is above {threshold}; the largest is {scores[eligible].max().item():.6g}")
        return cls._of_indices(chosen, scores)

    @classmethod
    def _of_largest(cls, scores: Tensor, order: Tensor, sizes: Tensor, counts: Tensor) -> MaskSubspace:
        indices, ties = _largest(scores, order, sizes, counts)
        result = cls._of_indices(indices, scores)
        result.ties = ties
        return result

    @classmethod
    def _of_indices(cls, indices: Tensor, scores: Tensor) -> MaskSubspace:
        dtype = scores.dtype if scores.is_floating_point() else torch.float32
        return cast("type[MaskSubspace]", cls).from_indices(indices, len(scores), dtype)


def _candidates(scores: Tensor, within: Tensor | Selected | None) -> Tensor:
    """The coordinates to choose from, ascending, (m,): see `ranking`. Their scores are checked."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores are a tensor, (n,), got {type(scores).__name__}")
    if scores.is_complex():
        raise TypeError(f"scores are real, got {scores.dtype}, which has no order; take scores.abs()")
    if scores.ndim != 1:
        raise ValueError(f"scores are flat, (n,), got shape {tuple(scores.shape)}")
    if isinstance(within, Selected):
        within = cast("MaskSubspace", within).mask
    eligible = torch.arange(len(scores), device=scores.device) if within is None else _eligible(scores, within)
    if len(eligible) == 0:
        raise ValueError(f"{'scores hold' if within is None else 'within= holds'} no coordinate to choose from")
    if bool((scores if within is None else scores[eligible]).isnan().any()):
        raise ValueError("scores hold NaN, which has no rank; mend the model or the score first")
    return eligible


def _eligible(scores: Tensor, within: Tensor) -> Tensor:
    if not isinstance(within, Tensor):
        raise TypeError(f"within= takes a mask or a tensor of coordinates, got {type(within).__name__}")
    if within.device != scores.device:
        raise TypeError(f"within= on {within.device} and scores on {scores.device} are on different devices; move one")
    if within.dtype != torch.bool:
        eligible = Embedding(within, len(scores)).indices.sort().values  # checks them
    elif within.shape == scores.shape:
        eligible = within.nonzero()[:, 0]
    else:
        raise ValueError(f"within= is a mask of shape {tuple(within.shape)}, the scores have {tuple(scores.shape)}")
    return eligible


def _require_k(k: int, order: Tensor, scores: Tensor) -> None:
    """``k`` must be an integer from 1 to the number of coordinates to choose from."""
    if not is_count(k, len(order)):
        most = f"n = {len(order)}" if len(order) == len(scores) else f"{len(order)}, as many as within= holds"
        raise ValueError(f"top k takes 1 <= k <= {most}, got k={k!r}")


def _ranked(scores: Tensor, within: Tensor | Selected | None, seed: int | None) -> Tensor:
    """The coordinates to choose from, (m,), the largest score first; equals in their order, or by seed at random.

    Cost: one stable sort, and with a seed a random permutation, drawn on the CPU so that every device has the same.
    """
    eligible = _candidates(scores, within)
    if seed is not None:
        shuffle = torch.randperm(len(eligible), generator=seeded(seed))
        eligible = eligible[shuffle.to(eligible.device)]
    elif len(eligible) == len(scores):  # all of them, in their order
        return scores.sort(descending=True, stable=True).indices
    return eligible[scores[eligible].sort(descending=True, stable=True).indices]


def _by_stratum(order: Tensor, strata: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """``order`` with the coordinates of each stratum together, their order kept, and the sizes of the strata, (s,)."""
    require_labels("strata", strata, n, order.device)
    labels, places = strata[order].sort(stable=True)
    sizes: Tensor = torch.unique_consecutive(labels, return_counts=True)[1]
    return order[places], sizes


def _largest(scores: Tensor, order: Tensor, sizes: Tensor, counts: Tensor) -> tuple[Tensor, Ties | None]:
    """The first ``counts`` of each of the ranked strata, of ``sizes``, that follow one another in ``order``; and ties.

    Args:
        scores: (n,).
        order: (m,) indices, ranked within each stratum.
        sizes: (s,) integers, at least one each, of sum m.
        counts: (s,) how many to take, from 1 to the size.

    Cost: a gather of m scores, and a comparison of them where there are ties.
    """
    starts, before = sizes.cumsum(0) - sizes, counts.cumsum(0) - counts
    positions = torch.repeat_interleave(starts - before, counts)
    positions += torch.arange(len(positions), device=order.device)
    last = starts + counts - 1
    thresholds, left_out = scores[order[last]], scores[order[(last + 1).clamp(max=len(order) - 1)]]
    arbitrary = (counts < sizes) & (left_out == thresholds)
    chosen = order[positions]
    if not bool(arbitrary.any()):
        return chosen, None
    found = thresholds[arbitrary]
    threshold = found[0].item() if bool((found == found[0]).all()) else None
    tied, selected = (
        int(((scores[part] == _each(thresholds, lengths)) & _each(arbitrary, lengths)).sum())
        for part, lengths in ((order, sizes), (chosen, counts))
    )
    return chosen, Ties(threshold, tied, selected, int(arbitrary.sum()))


def _each(of_strata: Tensor, lengths: Tensor) -> Tensor:
    """What is known of strata, of each of their coordinates."""
    return of_strata if len(of_strata) == 1 else torch.repeat_interleave(of_strata, lengths)
