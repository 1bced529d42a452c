"""What models return: tensors in tuples, lists, mappings and data classes, taken apart and put together again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def taken_apart(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors in ``tree``, in order, and what makes the same tree with others in their places."""
    found: list[Tensor] = []
    _rebuilt(tree, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]

    def together(tensors: Sequence[Tensor]) -> Any:
        following: Iterator[Tensor] = iter(tensors)
        return _rebuilt(tree, lambda _: next(following))

    return found, together


def _rebuilt(tree: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return replace(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if field.init}
        return dataclasses.replace(tree, **{name: _rebuilt(value, replace) for name, value in fields.items()})
    if isinstance(tree, Mapping):
        return {key: _rebuilt(value, replace) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [_rebuilt(part, replace) for part in tree]
        if hasattr(tree, "_fields"):  # a named tuple takes its fields one by one
            return type(tree)(*parts)
        return tuple(parts) if isinstance(tree, tuple) else parts
    return tree
