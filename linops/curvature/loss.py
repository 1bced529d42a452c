"""Losses, and what a batch's loss is a mean over: the weight it has in the loss of the whole data set."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..compiled import as_written


@attrs.frozen
class Loss:
    """ℓ(output, target), a scalar for a batch, and the number of terms that it is the mean of.

    The loss of a data set in batches b is Σ w_b ℓ_b / Σ w_b with the weights w_b = ``weight(output, target)``; with
    ``reduction="sum"`` it is Σ ℓ_b. PyTorch's own losses need no `Loss`: what they are a mean over is known, class
    weights and ``ignore_index`` included.

    Attributes:
        function: maps a model's output and a target to a scalar tensor.
        weight: maps output and target of a batch to its weight; it may use the target and the output's shape, not the
            output's values. By default the number of samples, the first dimension of the target or output.
        reduction: ``"mean"`` or ``"sum"``.
        convex: whether the function is known to be convex in the output, which makes the GGN positive semidefinite.
    """

    function: Callable[[Any, Any], Tensor]
    weight: Callable[[Any, Any], float] = attrs.field(default=lambda output, target: _samples(target, output))
    reduction: str = attrs.field(default="mean", validator=attrs.validators.in_(("mean", "sum")))
    convex: bool = False


@attrs.frozen
class Objective:
    """f(model, batch), a scalar, for what does not split into an output and a loss.

    Attributes:
        function: maps the model and a batch, as the data give it, to a scalar tensor.
        weight: maps a batch to its weight in the data set's loss; by default its number of samples, the first dimension
            of its first tensor.
        reduction: ``"mean"`` or ``"sum"``, as for `Loss`.
    """

    function: Callable[[nn.Module, Any], Tensor]
    weight: Callable[[Any], float] = attrs.field(default=lambda batch: _samples(batch))
    reduction: str = attrs.field(default="mean", validator=attrs.validators.in_(("mean", "sum")))


def as_loss(loss: Any) -> Loss | Objective:
    """``loss`` with its weight: a PyTorch loss module or function, ``functools.partial`` of one, or any callable.

    Cross-entropy and NLL weigh a batch by its class weights without ignored targets, element-wise losses by their
    number of elements, any other callable by its number of samples.

    Raises:
        ValueError: ``reduction="none"``.
        TypeError: nothing that can be called, or a class of losses.
    """
    if isinstance(loss, Loss | Objective):
        return loss
    if not callable(loss):
        raise TypeError(
            f"the loss is a callable of (output, target), a Loss or an Objective; got {type(loss).__name__}"
        )
    if isinstance(loss, type):
        raise TypeError(f"the loss is a callable of (output, target), got the class {loss.__name__}: {loss.__name__}()")
    name, options = name_and_options(loss)
    reduction, class_weight = options.get("reduction", "mean"), options.get("weight")
    if reduction == "none":
        raise ValueError(f"{loss} has reduction='none' and gives no scalar: build it with reduction='mean' or 'sum'")
    weights = (class_weight, options.get("pos_weight"))
    convex = name is not None and all(weight is None or bool((weight >= 0).all()) for weight in weights)
    if reduction == "batchmean":  # of the Kullback-Leibler divergence: a mean over samples
        return Loss(loss, convex=convex)
    if name in ("cross_entropy", "nll_loss"):
        weight = functools.partial(
            _kept_class_weight, class_weight=class_weight, ignore_index=options.get("ignore_index", -100)
        )
        return Loss(loss, weight, reduction, convex)
    if name is not None:
        return Loss(loss, _elements, reduction, convex)
    return Loss(loss, reduction=reduction)


def loss_in(loss: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """``loss`` with the tensors of its own, such as class weights, in a dtype and on a device; it is not changed.

    They are found in modules, in ``functools.partial``, and in a `Loss` or `Objective` of these.

    Cost: a copy of these tensors.
    """
    if isinstance(loss, Loss | Objective):
        function, weight = (loss_in(part, dtype, device) for part in (loss.function, loss.weight))
        return attrs.evolve(loss, function=function, weight=weight)
    if isinstance(loss, nn.Module):
        return copy.deepcopy(loss).to(device, dtype)
    if isinstance(loss, functools.partial):
        options = {name: loss_in(value, dtype, device) for name, value in loss.keywords.items()}
        arguments = (loss_in(value, dtype, device) for value in loss.args)
        return functools.partial(loss_in(loss.func, dtype, device), *arguments, **options)
    if isinstance(loss, Tensor):
        return loss.to(device, dtype if loss.is_floating_point() else None)
    return loss


_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MSELoss: "mse_loss",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    nn.BCELoss: "binary_cross_entropy",
    nn.KLDivLoss: "kl_div",
    nn.L1Loss: "l1_loss",
    nn.SmoothL1Loss: "smooth_l1_loss",
    nn.HuberLoss: "huber_loss",
}
_OPTIONS = ("weight", "ignore_index", "reduction", "label_smoothing", "pos_weight")
_FUNCTIONS = {getattr(functional, name): name for name in _MODULES.values()}


def name_and_options(loss: Any) -> tuple[str | None, dict[str, Any]]:
    """PyTorch's name of the loss, None for a stranger, and its options."""
    loss = as_written(loss)
    if isinstance(loss, functools.partial) and not loss.args:
        name, options = name_and_options(loss.func)
        return name, {**options, **loss.keywords}
    if isinstance(loss, nn.Module):
        # Exact types: a subclass may compute something else.
        name = _MODULES.get(type(loss))
        return name, {key: getattr(loss, key) for key in _OPTIONS if hasattr(loss, key)}
    return (_FUNCTIONS.get(loss) if callable(loss) and loss.__hash__ is not None else None), {}


def _kept_class_weight(output: Tensor, target: Tensor, *, class_weight: Tensor | None, ignore_index: int) -> float:
    """What cross-entropy and NLL divide by: the class weights of the targets that are not ignored."""
    if target.is_floating_point():  # class probabilities: a mean over positions, whatever the class weights
        classes = output.shape[1] if output.ndim > 1 else output.shape[0]
        return output.numel() / classes
    kept = target[target != ignore_index]
    return float(kept.numel() if class_weight is None else class_weight[kept].sum(dtype=torch.float64))


def _elements(output: Tensor, target: Tensor) -> float:
    return float(math.prod(numpy.broadcast_shapes(output.shape, target.shape)))


def _samples(*trees: Any) -> float:
    """The first dimension of the first tensor that has one."""
    for tensor in (tensor for tree in trees for tensor in tensors_of(tree)):
        if tensor.ndim > 0:
            return float(tensor.shape[0])
    return 1.0


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and data classes, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            if field.init:
                yield from tensors_of(getattr(tree, field.name))
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_of(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from tensors_of(value)
