"""What must hold at the point, before a product means anything: of the loss, its gradient, and how the data are cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy
import torch
from torch import Tensor, nn

from .data import first_samples, halves, is_divisible, joined, length, without_first
from .loss import tensors_of

if TYPE_CHECKING:
    from .risk import Risk

_FEW_SAMPLES = 8
_FEW_ROUNDINGS = 200  # how many a loss may differ by from that of its parts


@attrs.frozen
class Evaluation:
    """Σ w_b ℓ_b (Σ ℓ_b for sums), Σ w_b, Σ |w_b ℓ_b| and the numbers of batches and samples of one pass."""

    loss: float
    weight: float
    magnitude: float
    batches: int
    samples: int

    def agrees(self, other: Evaluation, tolerance: float) -> bool:
        """Equal weights and losses, up to rounding of the terms."""
        return (
            math.isclose(self.weight, other.weight, rel_tol=tolerance)
            and abs(self.loss - other.loss) <= tolerance * self.magnitude
        )


def adds_up(risk: Risk, batch: Any) -> bool:
    """Whether the loss of a batch is the weighted mean, or sum, of those of its halves."""
    if not is_divisible(batch):
        return False
    try:
        whole, parts = _beside(risk, [batch], halves(batch), risk.point_nearby())
        return whole.agrees(parts, _FEW_ROUNDINGS * risk.rounding)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError):  # the model or the loss takes no part of a batch
        return False


def affordable_size(risk: Risk, batch: Any, memory_budget: int) -> int | None:
    """The number of samples whose gradient fits; None where batches fit as they come, or cannot be cut."""
    if batch is None or not is_divisible(batch) or length(batch) <= 2 * _FEW_SAMPLES:
        return None
    if not adds_up(risk, first_samples(batch, _FEW_SAMPLES)):
        return None
    saved = _SavedBytes()
    with torch.enable_grad(), saved:
        theta = risk.leaves()
        risk.loss_and_weight(theta, first_samples(batch, _FEW_SAMPLES))
    # What is computed from what is saved takes about as much again.
    size = max(1, int(memory_budget * _FEW_SAMPLES / max(2 * saved.total, 1)))
    return size if size < length(batch) else None


def require_something(found: Evaluation, reduction: str) -> None:
    """There must be data that weigh, and a finite loss."""
    if found.batches == 0:
        raise ValueError("the data hold no batch; a loss needs at least one")
    if reduction == "mean" and not found.weight > 0:
        raise ValueError(f"the data have total weight {found.weight}: every target is ignored or weighs nothing")
    value = found.loss / found.weight if reduction == "mean" else found.loss
    if not math.isfinite(value):
        raise ValueError(f"the loss over the data is {value}, so its derivatives mean nothing: mend model or data")


def require_same(risk: Risk, first: Evaluation, second: Evaluation) -> None:
    """Two passes over the data must give the same."""
    if not first.agrees(second, 1e3 * torch.finfo(risk.parameters.dtype).eps):
        raise ValueError(
            f"two passes over the data gave the losses {risk.value} and {second.loss / risk.total_weight}: the model "
            "is random, or the data are drawn anew each time (augmentation, shuffling with drop_last); fix them first, "
            "for example as a list of batches"
        )


@torch.no_grad()
def evaluation(risk: Risk, batches: Iterable[Any], theta: Mapping[str, Tensor] | None = None) -> Evaluation:
    """The sums over batches at theta, by default the point. Cost: a forward pass."""
    theta = risk.point() if theta is None else theta
    loss_sum = weight_sum = magnitude = 0.0
    count, samples = 0, 0
    for batch in batches:
        loss, weight = _checked_loss_and_weight(risk, theta, batch)
        # Not by `Risk.share`: a short dtype may hold the mean and not the sum.
        share = float(loss) if risk.loss.reduction == "sum" else float(loss) * weight if weight > 0 else 0.0
        loss_sum, weight_sum, magnitude = loss_sum + share, weight_sum + weight, magnitude + abs(share)
        count, samples = count + 1, samples + length(batch)
    return Evaluation(loss_sum, weight_sum, magnitude, count, samples)


def _has_arrays(batch: Any) -> bool:
    """Whether there are arrays of NumPy in nested tuples, lists and mappings."""
    if isinstance(batch, tuple | list | Mapping):
        return any(map(_has_arrays, batch.values() if isinstance(batch, Mapping) else batch))
    return isinstance(batch, numpy.ndarray)


def _checked_loss_and_weight(risk: Risk, theta: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, float]:
    try:
        loss, weight = risk.loss_and_weight(theta, batch)
    except TypeError as error:
        if _has_arrays(batch):
            raise TypeError(
                f"the model or the loss does not take this batch ({str(error).splitlines()[0]}): its arrays of NumPy "
                "are to be tensors, torch.as_tensor(x)"
            ) from error
        raise TypeError(
            f"the model or the loss does not take this batch ({str(error).splitlines()[0]}); if the model returns more "
            "than the loss takes, pick it: eigenspan.Loss(lambda output, target: function(output.logits, target))"
        ) from error
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except (RuntimeError, IndexError) as error:
        dtypes = {tensor.dtype for tensor in tensors_of(batch) if tensor.is_floating_point()}
        if dtypes - {risk.parameters.dtype}:
            raise TypeError(
                f"the model's parameters are {risk.parameters.dtype} and the data {', '.join(map(str, dtypes))}, "
                f"which the model does not take ({error}): convert data or model"
            ) from error
        tensors = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors_of(batch))
        raise ValueError(
            f"the model or the loss does not take this batch of {tensors} ({str(error).splitlines()[0]}): classes are "
            "integers below the number of outputs, target.long(), other targets have the dtype of the output, and so "
            "have class weights, loss.to(dtype)"
        ) from error
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss of a batch is a scalar tensor, got {given}")
    return loss, weight


def require_gradient(risk: Risk, model: nn.Module) -> None:
    """Two gradients of the first micro-batch that weighs: they must exist, agree, and be of the selection alone."""
    originals = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = next(batch for batch in risk.batches() if weighs(risk, batch))
    gradients = []
    for _ in range(2):
        theta = risk.leaves()
        with torch.enable_grad():
            loss, _ = risk.loss_and_weight(theta, batch)
            wanted = [*theta.values(), *originals]
            parts = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else ()
        if any(part is not None for part in parts[len(theta) :]):
            raise ValueError(
                "the loss reads the model's parameters by itself, as a closure with weight decay does, where other "
                "values cannot be put in: give eigenspan.Objective(lambda model, batch: ...) and read model there"
            )
        parts = parts[: len(theta)]
        if all(part is None for part in parts):
            raise ValueError(
                "the loss does not depend on any selected parameter: check the selection, and that neither model "
                "nor loss detaches them"
            )
        gradients.append(torch.cat([part.flatten() for part in parts if part is not None]))
    if not bool(gradients[0].isfinite().all()):
        raise ValueError(
            "the loss is finite but its gradient is not: look for square roots, norms or logarithms at zero"
        )
    difference, size = (gradients[0] - gradients[1]).norm(), gradients[0].norm()
    # Sums in another order differ by some rounding errors; a random loss differs by far more.
    if difference > risk.tolerance * size:
        raise ValueError(
            f"two evaluations of the gradient differ by {float(difference / size):.1e} of its norm: the model or "
            "the loss is random (functional dropout, noise); make it deterministic in evaluation mode"
        )


@torch.no_grad()
def weighs(risk: Risk, batch: Any) -> bool:
    """Whether the batch has a share in the risk. Cost: a forward pass, for means."""
    return risk.loss.reduction == "sum" or risk.loss_and_weight(risk.point(), batch)[1] > 0


def from_weighing(risk: Risk, batch: Any, samples: int) -> Any:
    """A batch that may be cut, from where its first ``samples`` samples weigh something."""
    size = samples
    while size < length(batch):
        if not weighs(risk, first_samples(batch, size)):
            size *= 2
        elif size > samples:
            batch, size = without_first(batch, size // 2), samples
        else:
            break
    return batch


def require_additive(risk: Risk) -> None:
    """The loss of a batch must be the weighted mean or sum of those of its parts: in each batch, and across two."""
    ends: list[Any] = []
    nearby = risk.point_nearby()
    for batch in risk.batches():
        if is_divisible(batch):
            _require_sum(risk, [batch], halves(batch), nearby)
            ends = [*ends[:1], batch]
    if len(ends) == 2:
        pieces = [halves(ends[0])[-1], halves(ends[1])[0]]
        whole = joined(*pieces)
        _require_sum(risk, pieces if whole is None else [whole], pieces, nearby)


def _beside(
    risk: Risk, batches: list[Any], parts: list[Any], nearby: Mapping[str, Tensor]
) -> tuple[Evaluation, Evaluation]:
    """Both near the point, as symmetry may hide a difference at it; at it if the loss is infinite nearby."""
    found = evaluation(risk, batches, nearby), evaluation(risk, parts, nearby)
    if all(math.isfinite(each.loss) for each in found):
        return found
    return evaluation(risk, batches), evaluation(risk, parts)


def _require_sum(risk: Risk, batches: list[Any], parts: list[Any], nearby: Mapping[str, Tensor]) -> None:
    whole, sum_of_parts = _beside(risk, batches, parts, nearby)
    if not whole.agrees(sum_of_parts, risk.tolerance):
        raise ValueError(
            f"the loss of a batch is not that of its parts (weighted sum {whole.loss} of weight {whole.weight} "
            f"against {sum_of_parts.loss} of {sum_of_parts.weight}), so it would depend on how the data are cut: "
            f"give eigenspan.{type(risk.loss).__name__}(function, weight=...) with what the loss is a mean over, "
            "reduction='sum', or, where the model or the loss mixes samples, all data as a single batch"
        )


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Within it, counts what graphs save.

    Attributes:
        total: bytes, parameters aside.
    """

    def __init__(self) -> None:
        self.total = 0
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            self.total += tensor.nbytes
        return tensor
