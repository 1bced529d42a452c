"""Data sets as batches: what counts as one batch, how batches are cut, and how they reach a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from .loss import tensors_of


class Batches:
    """A data set that can be gone through any number of times, in micro-batches.

    Args:
        data: one batch, or a re-iterable of batches such as a list or a DataLoader. A batch is a tuple
            ``(inputs, target)``, a list of two tensors, or, for an `Objective`, a mapping; inputs are a tensor, a tuple
            (positional arguments of the model) or a mapping (its keyword arguments).
        micro_batch_size: the most samples to process at once; batches are cut along the first dimension. None for
            batches as they come.
        device: where the tensors of a batch are moved.

    Raises:
        ValueError: a micro-batch size below one, or no batch.
        TypeError: a one-shot iterator or generator, a data set of single samples, or nothing that holds batches.
    """

    def __init__(self, data: Any, micro_batch_size: int | None, device: torch.device) -> None:
        if micro_batch_size is not None and (not isinstance(micro_batch_size, int) or micro_batch_size < 1):
            raise ValueError(f"micro_batch_size is None or an integer >= 1, got {micro_batch_size!r}")
        self.held = _is_batch(data)
        self._data: Iterable[Any] = (data,) if self.held else _require_reiterable(data)
        self._micro_batch_size, self._device = micro_batch_size, device

    def __iter__(self) -> Iterator[Any]:
        for batch in self.whole():
            yield from _cut(batch, self._micro_batch_size)

    def whole(self) -> Iterator[Any]:
        """The batches as the data give them, on the device, uncut."""
        # Copies from a GPU must be awaited; copies to one may overlap with what is computed there.
        overlapped = self._device.type == "cuda"
        for batch in self._data:
            yield map_tensors(lambda tensor: tensor.to(self._device, non_blocking=overlapped), batch)


def halves(batch: Any) -> list[Any]:
    """The batch cut in two along its first dimension; in one if it has a single sample."""
    return list(_cut(batch, -(-_length(batch) // 2)))


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The tree with ``function`` applied to each tensor; mappings become plain dicts."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        mapped = [map_tensors(function, value) for value in tree]
        if hasattr(tree, "_fields"):  # a named tuple takes its fields one by one
            return type(tree)(*mapped)
        return tuple(mapped) if isinstance(tree, tuple) else mapped
    return tree


def _is_batch(data: Any) -> bool:
    if isinstance(data, tuple | Mapping):
        return True
    return isinstance(data, list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _require_reiterable(data: Any) -> Iterable[Any]:
    if isinstance(data, Iterator):
        raise TypeError(
            f"data is a {type(data).__name__}, which can be gone through only once, and every product goes through the "
            "data: pass a list of batches or a DataLoader"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise TypeError(
            f"data is a data set of single samples ({type(data).__name__}): wrap it in "
            "torch.utils.data.DataLoader(data, batch_size=...)"
        )
    if isinstance(data, Tensor | str) or not isinstance(data, Iterable):
        raise TypeError(f"data is a batch (inputs, target), or an iterable of such; got {type(data).__name__}")
    return data


def _length(batch: Any) -> int:
    return next((tensor.shape[0] for tensor in tensors_of(batch) if tensor.ndim > 0), 1)


def _cut(batch: Any, size: int | None) -> Iterator[Any]:
    """Micro-batches of at most ``size`` samples; tensors of another first dimension go whole into each."""
    length = _length(batch)
    if size is None or length <= size:
        yield batch
        return
    for start in range(0, length, size):
        part = slice(start, start + size)
        yield map_tensors(
            lambda tensor, part=part: tensor[part] if tensor.ndim > 0 and len(tensor) == length else tensor,  # type: ignore[misc]
            batch,
        )
