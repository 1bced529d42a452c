"""The empirical risk: the loss of a model over a data set, as a function of the selected parameters."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..parameters import ParameterSpace, Selection
from .data import Batches, halves, is_divisible, joined, length
from .guards import require_function_of_parameters, training_flags, twice_differentiable, untouched_random_state
from .loss import Loss, Objective, as_loss, tensors_of


class Risk:
    """L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b, the loss over a whole data set, however it is cut into batches b.

    The weights w_b are what each ℓ_b is a mean over (see `Loss`); for summed losses L = Σ_b ℓ_b. It is a function of
    the selected parameters alone: all others, buffers and training flags stay as they were at construction, and the
    model itself, its gradients and the random state are never changed.

    Args:
        model: the network, in the mode (``model.eval()``) that the loss is meant in.
        loss: a callable of (output, target), or a `Loss` or an `Objective`.
        data: a batch or a re-iterable of batches, see `Batches`; it is moved to the parameters' device.
        parameters: the selection, see `ParameterSpace`.
        micro_batch_size: the most samples to process at once.

    Attributes:
        parameters: the ParameterSpace of the selection, at the point.
        loss: with its weight, a `Loss` or an `Objective`.
        value: L at the point.
        samples: in all the data.

    Raises:
        ValueError: no data, no parameters, a loss that is not finite, not a scalar, not differentiable in the
            parameters, not reproducible, or whose batches do not add up; or a model in training mode with dropout or
            batch normalisation.
        TypeError: data that cannot be gone through twice, or whose dtype is not the model's.

    Cost: two forward passes over the data (one if they are a single batch), two more if there are
    several micro-batches, and two backward passes over the first.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        parameters: Selection = None,
        micro_batch_size: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model is a torch.nn.Module, got {type(model).__name__}")
        require_function_of_parameters(model)
        self._model = model
        self.loss = as_loss(loss)
        self.parameters = ParameterSpace(model, parameters)
        self._data, self._micro_batch_size = data, micro_batch_size
        self._batches = Batches(data, micro_batch_size, self.parameters.device)
        self._flags = {module: module.training for module in model.modules()}
        self._fixed = {
            name: tensor.detach().clone()
            for name, tensor in model.named_parameters()
            if name not in self.parameters.shapes
        }
        self._buffers = {name: tensor.detach().clone() for name, tensor in model.named_buffers()}
        self.convex = not isinstance(self.loss, Objective) and self.loss.convex
        self._total_weight = 1.0
        with self.conditions():
            self._measure()

    def point(self) -> dict[str, Tensor]:
        """The selected parameter tensors at the point."""
        return self.parameters.unflatten(self.parameters.values)

    def batches(self) -> Iterator[Any]:
        """The micro-batches of one pass over the data."""
        return iter(self._batches)

    def batches_of(self, size: int | None) -> Iterator[Any]:
        """One pass over the data in micro-batches of at most ``size`` samples; None for batches as they come."""
        return self._batches.cut(size)

    def first_batch(self) -> Any:
        """The first batch of the data, or micro-batch where a size was given."""
        return next(self.batches())

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """The state that the terms are evaluated in: recorded modes, differentiable kernels, random state set aside."""
        device = self.parameters.device
        with (
            untouched_random_state(device, self._data),
            torch.autocast(device.type, enabled=False),  # of the caller's: the model's own stays
            training_flags(self._flags),
            twice_differentiable(self._model),
        ):
            yield

    def term(self, theta: Mapping[str, Tensor], batch: Any) -> Tensor:
        """The share w_b ℓ_b(θ) / Σ w of a micro-batch in the risk, a scalar."""
        return self.share(*self._loss_and_weight(theta, batch))

    def output(self, theta: Mapping[str, Tensor], inputs: Any) -> Any:
        """The model's output for the inputs of a micro-batch."""
        named = self._tensors(theta)
        if isinstance(inputs, Mapping):
            return functional_call(self._model, named, (), dict(inputs))
        # A DataLoader makes lists of the tuples of its samples.
        return functional_call(self._model, named, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))

    def output_term(self, output: Any, target: Any) -> Tensor:
        """The share of a micro-batch in the risk as a function of the model's output, a scalar."""
        assert isinstance(self.loss, Loss)
        return self.share(self.loss.function(output, target), self.loss.weight(output, target))

    @functools.cached_property
    def divisible(self) -> bool:
        """Whether the first batch may be cut: its loss is the weighted mean, or sum, of those of its halves."""
        batch = self.first_batch()
        if not is_divisible(batch):
            return False
        try:
            with self.conditions():
                return self._evaluate([batch]).agrees(self._evaluate(halves(batch)), self._tolerance)
        except (RuntimeError, ValueError, TypeError, IndexError):  # the model or the loss takes no part of a batch
            return False

    def gradient(self) -> Tensor:
        """∇L at the point, (n,).

        Cost: one backward pass over the data.
        """
        theta = self.point()
        total = torch.zeros_like(self.parameters.values)
        with self.conditions():
            for batch in self.batches():
                total += self.parameters.flatten(torch.func.grad(self.term)(theta, batch))
        return total

    def _tensors(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All parameters and buffers by name; copies of buffers, because a model may write into them."""
        return self._fixed | {name: buffer.clone() for name, buffer in self._buffers.items()} | dict(theta)

    def _loss_and_weight(self, theta: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, float]:
        if isinstance(self.loss, Objective):
            named = {f"model.{name}": tensor for name, tensor in self._tensors(theta).items()}
            bound = _Bound(self._model, self.loss.function)
            return functional_call(bound, named, (batch,)), self.loss.weight(batch)
        inputs, target = inputs_and_target(batch)
        output = self.output(theta, inputs)
        return self.loss.function(output, target), self.loss.weight(output, target)

    def share(self, loss: Tensor, weight: float) -> Tensor:
        """What a batch's loss of that weight contributes to the risk."""
        if self.loss.reduction == "sum":
            return loss
        # A batch of ignored targets only has weight zero and a mean of 0/0: it has no share, not an undefined one.
        return loss * (weight / self._total_weight) if weight > 0 else torch.zeros_like(loss)

    @property
    def _tolerance(self) -> float:
        """How far sums of the same terms may differ, relative to their size."""
        rounding: float = torch.finfo(self.parameters.dtype).eps
        return math.sqrt(rounding)

    # -- checks at the point, before any product ----------------------------------------------------------------------

    def _measure(self) -> None:
        """Takes the value and the total weight, and makes sure that they mean something."""
        first = self._evaluate(self.batches())
        if first.batches == 0:
            raise ValueError("the data hold no batch; a loss needs at least one")
        if self.loss.reduction == "mean":
            if not first.weight > 0:
                raise ValueError(
                    f"the data have total weight {first.weight}: every target is ignored or weighs nothing"
                )
            self._total_weight = first.weight
        self.value = first.loss / self._total_weight
        self.samples = first.samples
        if not math.isfinite(self.value):
            raise ValueError(
                f"the loss over the data is {self.value}, so its derivatives mean nothing: mend model or data"
            )
        self._require_gradient()
        if not self._batches.held:
            second = self._evaluate(self.batches())
            if not first.agrees(second, 1e3 * torch.finfo(self.parameters.dtype).eps):
                raise ValueError(
                    f"two passes over the data gave the losses {self.value} and {second.loss / self._total_weight}: "
                    "the model is random, or the data are drawn anew each time (augmentation, shuffling with "
                    "drop_last); fix them first, for example as a list of batches"
                )
        if first.batches > 1:
            self._require_additive()

    @torch.no_grad()
    def _evaluate(self, batches: Iterable[Any]) -> _Evaluation:
        loss_sum = weight_sum = magnitude = 0.0
        count, samples, theta = 0, 0, self.point()
        for batch in batches:
            loss, weight = self._checked_loss_and_weight(theta, batch)
            share = float(self.share(loss, weight)) * self._total_weight
            loss_sum, weight_sum, magnitude = loss_sum + share, weight_sum + weight, magnitude + abs(share)
            count, samples = count + 1, samples + length(batch)
        return _Evaluation(loss_sum, weight_sum, magnitude, count, samples)

    def _checked_loss_and_weight(self, theta: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, float]:
        try:
            loss, weight = self._loss_and_weight(theta, batch)
        except RuntimeError as error:
            dtypes = {tensor.dtype for tensor in tensors_of(batch) if tensor.is_floating_point()}
            if dtypes - {self.parameters.dtype}:
                raise TypeError(
                    f"the model's parameters are {self.parameters.dtype} and the data {', '.join(map(str, dtypes))}, "
                    f"which the model does not take ({error}): convert data or model"
                ) from error
            raise
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"the loss of a batch is a scalar tensor, got {given}")
        return loss, weight

    def _require_gradient(self) -> None:
        """Two gradients of the first micro-batch that weighs: they must exist, agree, and be of the selection alone."""
        originals = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        batch = next(batch for batch in self.batches() if self._weighs(batch))
        gradients = []
        for _ in range(2):
            theta = {name: tensor.clone().requires_grad_() for name, tensor in self.point().items()}
            with torch.enable_grad():
                loss, _ = self._loss_and_weight(theta, batch)
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
        if difference > self._tolerance * size:
            raise ValueError(
                f"two evaluations of the gradient differ by {float(difference / size):.1e} of its norm: the model or "
                "the loss is random (functional dropout, noise); make it deterministic in evaluation mode"
            )

    @torch.no_grad()
    def _weighs(self, batch: Any) -> bool:
        return self.loss.reduction == "sum" or self._loss_and_weight(self.point(), batch)[1] > 0

    def _require_additive(self) -> None:
        """The loss of a batch must be the weighted mean or sum of those of its parts: in each batch, and across two."""
        ends: list[Any] = []
        for batch in self.batches():
            if is_divisible(batch):
                self._require_sum([batch], halves(batch))
                ends = [*ends[:1], batch]
        if len(ends) == 2:
            pieces = [halves(ends[0])[-1], halves(ends[1])[0]]
            whole = joined(*pieces)
            self._require_sum(pieces if whole is None else [whole], pieces)

    def _require_sum(self, batches: list[Any], parts: list[Any]) -> None:
        whole, sum_of_parts = self._evaluate(batches), self._evaluate(parts)
        if not whole.agrees(sum_of_parts, self._tolerance):
            raise ValueError(
                f"the loss of a batch is not that of its parts (weighted sum {whole.loss} of weight {whole.weight} "
                f"against {sum_of_parts.loss} of {sum_of_parts.weight}), so it would depend on how the data are cut: "
                "give eigenspan.Loss(function, weight=...) with what the loss is a mean over, reduction='sum', or all "
                "data as a single batch"
            )


@attrs.frozen
class _Evaluation:
    """Σ w_b ℓ_b (Σ ℓ_b for sums), Σ w_b, Σ |w_b ℓ_b| and the numbers of batches and samples of one pass."""

    loss: float
    weight: float
    magnitude: float
    batches: int
    samples: int

    def agrees(self, other: _Evaluation, tolerance: float) -> bool:
        """Equal weights and losses, up to rounding of the terms."""
        return (
            math.isclose(self.weight, other.weight, rel_tol=tolerance)
            and abs(self.loss - other.loss) <= tolerance * self.magnitude
        )


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
    raise TypeError(f"a batch is a pair (inputs, target), got a {given}; for other forms use eigenspan.Objective")
