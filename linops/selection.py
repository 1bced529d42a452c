"""Which coordinates have the largest scores, and where that was a choice among equals."""

from __future__ import annotations

import numbers

import attrs
import torch
from torch import Tensor

from .basic import require_labels
from .coordinate import Embedding


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


def candidates(scores: Tensor, within: Tensor | None) -> Tensor:
    """The coordinates to choose from, ascending, (m,): see `ranking`. Their scores are checked."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores are a tensor, (n,), got {type(scores).__name__}")
    if scores.ndim != 1:
        raise ValueError(f"scores are flat, (n,), got shape {tuple(scores.shape)}")
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


def require_k(k: int, order: Tensor, scores: Tensor) -> None:
    """``k`` must be an integer from 1 to the number of coordinates to choose from."""
    if not isinstance(k, numbers.Integral) or isinstance(k, bool) or not 1 <= k <= len(order):
        most = f"n = {len(order)}" if len(order) == len(scores) else f"{len(order)}, as many as within= holds"
        raise ValueError(f"top k takes 1 <= k <= {most}, got k={k}")


def ranked(scores: Tensor, eligible: Tensor, seed: int | None) -> Tensor:
    """The coordinates ``eligible``, (m,), the largest score first; equals in their order, or by seed at random.

    Cost: one stable sort, and with a seed a random permutation, drawn on the CPU so that every device has the same.
    """
    if seed is not None:
        shuffle = torch.randperm(len(eligible), generator=torch.Generator().manual_seed(seed))
        eligible = eligible[shuffle.to(eligible.device)]
    elif len(eligible) == len(scores):  # all of them, in their order
        return scores.sort(descending=True, stable=True).indices
    return eligible[scores[eligible].sort(descending=True, stable=True).indices]


def by_stratum(order: Tensor, strata: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """``order`` with the coordinates of each stratum together, their order kept, and the sizes of the strata, (s,)."""
    require_labels("strata", strata, n, order.device)
    labels, places = strata[order].sort(stable=True)
    sizes: Tensor = torch.unique_consecutive(labels, return_counts=True)[1]
    return order[places], sizes


def largest(scores: Tensor, order: Tensor, sizes: Tensor, counts: Tensor) -> tuple[Tensor, Ties | None]:
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
