"""The rows of one sample of a factor, by reverse mode: gradients, and slopes by the outputs of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .gauss_newton import Root, by_tensor
from .products import Tensors, column_by_column, pullback


class NoLayersError(Exception):
    """Weights that are used otherwise than in linear layers, or at too many positions to gain from it."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(f"not of linear layers: {sorted(names)}")
        self.names = names


class SampleGraph:
    """The rows of one sample, by a graph that notes the inputs and outputs of linear layers.

    Args:
        build: makes the outputs and the root of the sample.
        leaves: the parameters at the point.
        layers: names of weights that are used in linear layers alone.

    Attributes:
        rows: how many.
        inputs: of the layers by weight, (positions, in), those of all its uses.

    Raises:
        NoLayersError: a weight among them that is used otherwise, or at more positions than the root of its columns, so
            that explicit rows take fewer operations.
    """

    def __init__(
        self, build: Callable[[], tuple[Tensors, Root]], leaves: dict[str, Tensor], layers: Collection[str]
    ) -> None:
        self._leaves = leaves
        recorder = _Recorder({id(leaves[name]): name for name in layers})
        with recorder:
            self._outputs, self._root = build()
        calls = recorder.calls
        self._images = {name: [call.output for call in calls if call.name == name] for name in layers}
        self.rows = sum(shape.numel() for shape in self._root.shapes)
        self.inputs = {}
        for name in layers:
            width = leaves[name].shape[1]
            flat = [call.input.reshape(call.input.numel() // width, width) for call in calls if call.name == name]
            self.inputs[name] = torch.cat(flat) if flat else leaves[name].new_zeros(0, width)
        found = _reached(self._outputs, {call.weight for call in calls})
        unfit = {name for name, inputs in self.inputs.items() if len(inputs) ** 2 > inputs.shape[1]}
        unfit |= {name for name in layers if id(leaves[name]) in found}
        if unfit:
            raise NoLayersError(unfit)

    def pulled(self, rows: slice, names: Collection[str], layers: Collection[str]) -> tuple[Tensors, Tensors]:
        """Some rows: gradients (r, entries) by named parameters, and slopes (r, positions, out) by layers' outputs."""
        first = next(iter(self._leaves.values()))
        unit = torch.zeros(rows.stop - rows.start, self.rows, dtype=first.dtype, device=first.device)
        unit[:, rows].fill_diagonal_(1)
        images = [image for name in layers for image in self._images[name]]
        targets = (*(self._leaves[name] for name in names), *images)
        found = self._pulled(by_tensor(unit, self._root.shapes), targets) if targets else ()
        gradients = tuple(
            part.reshape(len(unit), self._leaves[name].numel())
            for part, name in zip(found[: len(names)], names, strict=True)
        )
        slopes = []
        following = iter(found[len(names) :])
        for name in layers:
            out = len(self._leaves[name])
            flat = [next(following).reshape(len(unit), image.numel() // out, out) for image in self._images[name]]
            slopes.append(torch.cat(flat, 1) if flat else first.new_zeros(len(unit), 0, out))
        return gradients, tuple(slopes)

    def _pulled(self, rows: Tensors, targets: Tensors) -> Tensors:
        def share(each: Tensors, batched: bool) -> Tensors:
            return pullback(self._outputs, targets, self._root.pull(each, batched), batched)

        if len(rows[0]) > 1:
            try:
                return share(rows, True)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operation without a batching rule, or a branch on values
                pass
        return column_by_column(lambda row: share(row, False))(rows, True)


@attrs.frozen
class _Call:
    """One use of a weight in a linear layer, with the node by which the weight enters."""

    name: str
    input: Tensor
    output: Tensor
    weight: Any


class _Recorder(TorchFunctionMode):
    """Within it, the linear layers with certain weights are noted; these enter them through nodes of their own.

    What is saved for the reverse pass is what it would be without: activation checkpointing, which computes it anew
    outside of modes, compares the two.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self._names = names
        self.calls: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        name = self._names.get(id(weight))
        if name is None or not _plain(input):
            return functional.linear(input, weight, bias)
        view = weight.view_as(weight)
        output = functional.linear(input, view, bias)
        self.calls.append(_Call(name, input.detach(), output, view.grad_fn))
        return output.clone()  # what follows may work in place


def _plain(tensor: Tensor) -> bool:
    """Whether it is what reverse mode is to derive, in the dtype that it has."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return torch.is_grad_enabled() and not wrapped and not torch.is_autocast_enabled(tensor.device.type)


def _reached(outputs: Tensors, excluded: set[Any]) -> set[int]:
    """The ids of the leaves that the outputs depend on, other than through the excluded nodes."""
    waiting: list[Any] = [output.grad_fn for output in outputs]
    seen = set(excluded)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}
