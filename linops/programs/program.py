"""Linear programs: the operations that a linear function of tensors takes, and what they read and make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor


class LinearisationError(RuntimeError):
    """A function cannot be recorded as a linear program; the message names the operation."""


@attrs.frozen(eq=False)
class Value:
    """A tensor that a program computes or is given, known by what it looks like."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def like(cls, tensor: Tensor) -> Value:
        """One that looks like the tensor."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    @property
    def nbytes(self) -> int:
        """What it takes, if it is no view."""
        return self.shape.numel() * self.dtype.itemsize


@attrs.frozen(eq=False)
class Step:
    """One operation; its arguments hold Values where tensors are computed, everything else is constant."""

    operation: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[Value | None, ...]
    several: bool = False

    @property
    def result(self) -> Value:
        """The only one."""
        (value,) = self.results
        assert value is not None
        return value

    def values(self) -> list[Value]:
        """The computed arguments, in order, each once."""
        found = (leaf for leaf in leaves((self.arguments, self.keywords)) if isinstance(leaf, Value))
        return list(dict.fromkeys(found))

    def constants(self) -> Iterator[Tensor]:
        """The constant tensors among the arguments."""
        return (leaf for leaf in leaves((self.arguments, self.keywords)) if isinstance(leaf, Tensor))

    def substituted(self, replace: Callable[[Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keywords with each leaf replaced."""
        return mapped(replace, self.arguments), mapped(replace, self.keywords)


@attrs.frozen(eq=False)
class LinearProgram:
    """Operations without side effects that compute the outputs from the inputs and from constants.

    Attributes:
        inputs: one Value for each vector given.
        steps: in the order in which they run.
        outputs: Values, or constant tensors of zeros where an output does not depend on any input.
    """

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value | Tensor, ...]

    def constants(self) -> Iterator[Tensor]:
        """The tensors that the program keeps."""
        for step in self.steps:
            yield from step.constants()
        yield from (output for output in self.outputs if isinstance(output, Tensor))


def leaves(tree: Any) -> Iterator[Any]:
    """What stands in nested tuples, lists and dicts."""
    if isinstance(tree, tuple | list):
        for part in tree:
            yield from leaves(part)
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from leaves(part)
    else:
        yield tree


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The nested tuples, lists and dicts with ``function`` applied to each leaf."""
    if isinstance(tree, tuple):
        return tuple(mapped(function, part) for part in tree)
    if isinstance(tree, list):
        return [mapped(function, part) for part in tree]
    if isinstance(tree, dict):
        return {key: mapped(function, part) for key, part in tree.items()}
    return function(tree)
