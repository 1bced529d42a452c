"""The empirical risk: the loss of a model over a data set, as a function of the selected parameters."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..compiled import as_written, uncompiled
from ..fingerprint import data_digest, module_content
from ..memory import allowance
from ..parameters import ParameterSpace, Selection
from .checks import (
    adds_up,
    affordable_size,
    evaluation,
    from_weighing,
    require_additive,
    require_gradient,
    require_same,
    require_something,
    weighs,
)
from .data import Batches, length, map_tensors
from .guards import (
    ONE_THREAD,
    float32_products,
    outside_inference_mode,
    require_function_of_parameters,
    substituted,
    training_flags,
    twice_differentiable,
    untouched_random_state,
)
from .loss import Loss, Objective, as_loss

_TF32_EPS = 2.0**-10


class Risk:
    """L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b, the loss over a whole data set, however it is cut into batches b.

    The weights w_b are what each ℓ_b is a mean over (see `Loss`); for summed losses L = Σ_b ℓ_b. It is a function of
    the selected parameters alone: all others, buffers, training flags and ``torch.autocast`` stay as they were at
    construction, and the model itself, its gradients and the random state are never changed. Whatever of it is compiled
    runs as it is written.

    Args:
        model: the network, in the mode (``model.eval()``) that the loss is meant in.
        loss: a callable of (output, target), or a `Loss` or an `Objective`.
        data: a batch or a re-iterable of batches, see `Batches`; it is moved to the parameters' device.
        parameters: the selection, see `ParameterSpace`.
        micro_batch_size: the most samples to process at once.
        memory_budget: bytes that evaluations may take beside the model and the data, where the batches can be cut; by
            default a quarter of what is free.
        tf32: whether a GPU may multiply float32 in TF32.

    Attributes:
        parameters: the ParameterSpace of the selection, at the point.
        loss: with its weight, a `Loss` or an `Objective`.
        value: L at the point.
        samples: in all the data.
        fixed: the other parameters of the model, by name.
        total_weight: Σ w_b; 1 for summed losses.

    Raises:
        ValueError: no data, no parameters, a loss that is not finite, not a scalar, not differentiable in the
            parameters, not reproducible, or whose batches do not add up; or a model in training mode with dropout or
            batch normalisation.
        TypeError: data that cannot be gone through twice, or whose dtype is not the model's.

    Cost: two forward passes over the data (one if they are a single batch), two more if there are
    several micro-batches, and two backward passes over the first.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        parameters: Selection = None,
        micro_batch_size: int | None = None,
        memory_budget: int | None = None,
        tf32: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model is a torch.nn.Module, got {type(model).__name__}")
        model = as_written(model)
        if isinstance(model, nn.DataParallel):
            raise TypeError("the model is a DataParallel, which computes on copies of a network: give its .module")
        require_function_of_parameters(model)
        self._model = model
        self.loss = as_loss(loss)
        self.parameters = ParameterSpace(model, parameters)
        self._data, self._micro_batch_size = data, micro_batch_size
        self._batches = Batches(data, micro_batch_size, self.parameters.device)
        self._formats = {
            name: torch.channels_last
            for name, tensor in model.named_parameters()
            if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
            if not tensor.is_contiguous()
        }
        self._flags = {module: module.training for module in model.modules()}
        self.fixed = {
            name: tensor.detach().clone()
            for name, tensor in model.named_parameters()
            if name not in self.parameters.shapes
        }
        self._buffers = {name: tensor.detach().clone() for name, tensor in model.named_buffers()}
        self._autocast = _autocast_state(self.parameters.device)
        self.tf32 = tf32
        self.convex = not isinstance(self.loss, Objective) and self.loss.convex
        self.total_weight = 1.0
        with self.conditions():
            if micro_batch_size is None:
                first, budget = next(self._batches.cut(None), None), allowance(memory_budget, self.parameters.device)
                self._batches.size = affordable_size(self, first, budget)
            self._measure()

    def point(self) -> dict[str, Tensor]:
        """The selected parameter tensors at the point.

        Cost: none, they are views.
        """
        return self.parameters.unflatten(self.parameters.values)

    @torch.inference_mode(False)
    def leaves(self) -> dict[str, Tensor]:
        """Copies of them that a graph can begin with, in the memory format of the model's own.

        Cost: a copy of the parameters.
        """
        formats = {name: self._formats.get(name, torch.contiguous_format) for name in self.parameters.names}
        point = self.point().items()
        return {name: tensor.clone(memory_format=formats[name]).requires_grad_() for name, tensor in point}

    def point_nearby(self) -> dict[str, Tensor]:
        """The point with about a tenth of each tensor's size added at random, always the same.

        Cost: n random numbers, and a copy.
        """
        generator = torch.Generator().manual_seed(0)
        moved = {}
        for name, tensor in self.point().items():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            moved[name] = tensor + (0.1 * tensor.square().mean().sqrt() + 0.01) * noise
        return moved

    def batches(self) -> Iterator[Any]:
        """The micro-batches of one pass over the data.

        Cost: what the data take to be read, if they are not held.
        """
        return iter(self._batches)

    def batches_of(self, size: int | None) -> Iterator[Any]:
        """One pass over the data in micro-batches of at most ``size`` samples; None for batches as they come.

        Cost: what the data take to be read, if they are not held.
        """
        return self._batches.cut(size)

    def first_batch(self) -> Any:
        """The first batch of the data that weighs something, or micro-batch where a size was given.

        Cost: that of reading it, and of the loss of batches of no weight before it.
        """
        for batch in self._batches.cut(self._micro_batch_size):
            if length(batch) > 0 and (length(batch) == self.samples or weighs(self, batch)):
                return batch
        raise AssertionError("data of no weight are refused")

    def typical_batch(self, samples: int) -> Any:
        """The first batch; where it may be cut, from where its first ``samples`` samples weigh something.

        Cost: that of `first_batch`, and of evaluations of the loss to find samples that weigh something.
        """
        batch = self.first_batch()
        with self.conditions():
            return from_weighing(self, batch, samples) if self.divisible else batch

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """The state that the terms are evaluated in: recorded modes, differentiable kernels, random state set aside.

        Cost: none to speak of.
        """
        device = self.parameters.device
        with (
            ONE_THREAD,
            outside_inference_mode(),
            uncompiled(),
            untouched_random_state(device, self._data),
            torch.autocast(device.type, **self._autocast, cache_enabled=False),
            float32_products(device, self.tf32),
            training_flags(self._flags),
            twice_differentiable(self._model),
        ):
            yield

    @contextlib.contextmanager
    def at_point(self, theta: Mapping[str, Tensor]) -> Iterator[None]:
        """The conditions, with the parameters theta in the model.

        Forward passes are given their parameters; what activation checkpointing computes anew in a reverse pass is not.

        Cost: a copy of the buffers.
        """
        with self.conditions(), substituted(self._model, self._tensors(theta)):
            yield

    def term(self, theta: Mapping[str, Tensor], batch: Any) -> Tensor:
        """The share w_b ℓ_b(θ) / Σ w of a micro-batch in the risk, a scalar.

        Args:
            theta: the selected parameters, by name.
            batch: a micro-batch.

        Cost: one forward pass over it.
        """
        return self.share(*self.loss_and_weight(theta, batch))

    def output(self, theta: Mapping[str, Tensor], inputs: Any) -> Any:
        """The model's output for the inputs of a micro-batch.

        Args:
            theta: the selected parameters, by name.
            inputs: a tensor, a tuple of positional or a mapping of keyword arguments.

        Cost: one forward pass over them.
        """
        named, inputs = self._tensors(theta), self._own(inputs)
        if isinstance(inputs, Mapping):
            return functional_call(self._model, named, (), dict(inputs))
        # A DataLoader makes lists of the tuples of its samples.
        return functional_call(self._model, named, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))

    def output_term(self, output: Any, target: Any) -> Tensor:
        """The share of a micro-batch in the risk as a function of the model's output, a scalar.

        Args:
            output: what the model returns for it.
            target: what the loss compares it with.

        Cost: that of the loss function.
        """
        assert isinstance(self.loss, Loss)
        return self.share(self.loss.function(output, target), self.loss.weight(output, target))

    @functools.cached_property
    def divisible(self) -> bool:
        """Whether the first batch may be cut: its loss is the weighted mean, or sum, of those of its halves."""
        return self._batches.size is not None or self._first_batch_adds_up()

    def _first_batch_adds_up(self) -> bool:
        with self.conditions():
            return adds_up(self, self.first_batch())

    def gradient(self) -> Tensor:
        """∇L at the point, (n,); the sum over batches is taken in float64.

        Cost: one backward pass over the data.
        """
        theta = self.leaves()
        with self.at_point(theta), torch.enable_grad():
            total = torch.zeros_like(self.parameters.values, dtype=torch.float64)
            for batch in self.batches():
                term = self.term(theta, batch)
                if term.requires_grad:
                    parts = torch.autograd.grad(term, tuple(theta.values()), allow_unused=True, materialize_grads=True)
                    total += self.parameters.flatten(dict(zip(theta, parts, strict=True)))
            return total.to(self.parameters.dtype)

    def content(self, ordered: bool = False) -> list[Any]:
        """What the risk is a function of, for a fingerprint: point, model, loss and data.

        Args:
            ordered: whether the order of the samples counts.

        Cost: one pass over the data, without the model.
        """
        with self.conditions():
            data = data_digest(self.batches_of(None), ordered)
        state = [self.point(), self.fixed, self._buffers]
        return [*state, module_content(self._model, self._flags), self._autocast, self.tf32, self.loss, data]

    def _tensors(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All parameters and buffers by name; copies of buffers, because a model may write into them."""
        return self.fixed | {name: buffer.clone() for name, buffer in self._buffers.items()} | dict(theta)

    def _own(self, inputs: Any) -> Any:
        """Copies for a model that writes to its inputs."""
        return map_tensors(torch.clone, inputs) if self._batches.written else inputs

    def loss_and_weight(self, theta: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, float]:
        """ℓ_b(θ) and w_b of a micro-batch.

        Args:
            theta: the selected parameters, by name.
            batch: a micro-batch.

        Cost: one forward pass over it.
        """
        if isinstance(self.loss, Objective):
            named = {f"model.{name}": tensor for name, tensor in self._tensors(theta).items()}
            bound = _Bound(self._model, self.loss.function)
            return functional_call(bound, named, (self._own(batch),)), float(self.loss.weight(batch))
        inputs, target = inputs_and_target(batch)
        output = self.output(theta, inputs)
        return self.loss.function(output, target), float(self.loss.weight(output, target))

    def share(self, loss: Tensor, weight: float) -> Tensor:
        """What a batch's ``loss``, a scalar, of that ``weight`` contributes to the risk.

        Cost: none.
        """
        if self.loss.reduction == "sum":
            return loss
        # A batch of ignored targets only has weight zero and a mean of 0/0: it has no share, not an undefined one.
        return loss * (weight / self.total_weight) if weight > 0 else torch.zeros_like(loss)

    def _measure(self) -> None:
        """Takes the value and the total weight, and makes sure that they mean something."""
        first = evaluation(self, self._batches.kept() if self._batches.held else self.batches())
        require_something(first, self.loss.reduction)
        if self.loss.reduction == "mean":
            self.total_weight = first.weight
        self.value, self.samples = first.loss / self.total_weight, first.samples
        before = self._batches.versions()
        require_gradient(self, self._model)
        self._batches.watch(before)
        if not self._batches.held:
            require_same(self, first, evaluation(self, self._batches.kept()))
        if first.batches > 1:
            require_additive(self)

    @property
    def tolerance(self) -> float:
        """How far sums of the same terms may differ, relative to their size."""
        return math.sqrt(self.rounding)

    @property
    def rounding(self) -> float:
        """The relative rounding error of the shortest dtype that is computed in."""
        dtypes = [self.parameters.dtype, *([self._autocast["dtype"]] if self._autocast["enabled"] else [])]
        tf32 = self.tf32 and self.parameters.dtype is torch.float32 and self.parameters.device.type == "cuda"
        return max(_TF32_EPS * tf32, *(torch.finfo(dtype).eps for dtype in dtypes))


def _autocast_state(device: torch.device) -> dict[str, Any]:
    """Whether the caller has operations cast to a shorter dtype, and to which."""
    return {
        "enabled": torch.is_autocast_enabled(device.type),
        "dtype": torch.get_autocast_dtype(device.type),
    }


class _Bound(nn.Module):
    """An objective as the forward pass of a module, so that its model's parameters can be substituted."""

    def __init__(self, model: nn.Module, objective: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Any) -> Tensor:
        return self._objective(self.model, batch)


def inputs_and_target(batch: Any) -> tuple[Any, Any]:
    """The two parts of a batch.

    Raises:
        TypeError: a batch of another form.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    given = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list) else type(batch).__name__
    raise TypeError(
        f"a batch is a pair (inputs, target), got a {given}: give pairs, whose inputs may be a tuple or mapping of the "
        "model's arguments, with a loss that reads the model's output; for a Jacobian the target may be None; a "
        "Hessian also takes an eigenspan.Objective(function of model and batch)"
    )
