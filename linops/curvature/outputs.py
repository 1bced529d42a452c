"""What models return: tensors in tuples, lists, mappings and data classes, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from .data import map_tensors


def taken_apart(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors in ``tree``, in order, and what makes the same tree with others in their places."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, tree)  # type: ignore[func-returns-value]

    def together(tensors: Sequence[Tensor]) -> Any:
        following: Iterator[Tensor] = iter(tensors)
        return map_tensors(lambda _: next(following), tree)

    return found, together
