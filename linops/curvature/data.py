"""Data sets as batches: what counts as one batch, how batches are cut, and how they reach a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..basic import require_count
from ..memory import SHARE_OF_FREE_MEMORY, free_memory
from .loss import tensors_of


class Batches:
    """A data set that can be gone through any number of times, in micro-batches.

    What a DataLoader or another iterable gives can be kept, see `kept`, so that samples are read and decoded once.

    Args:
        data: one batch, or a re-iterable of batches such as a list or a DataLoader. A batch is a tuple
            ``(inputs, target)``, a list of two tensors, or, for an `Objective`, a mapping; inputs are a tensor, a tuple
            (positional arguments of the model) or a mapping (its keyword arguments).
        micro_batch_size: the most samples to process at once; batches are cut along the first dimension. None for
            batches as they come.
        device: where the tensors of a batch are moved.

    Attributes:
        size: the most samples to process at once.
        written: whether the model writes to its inputs.

    Raises:
        ValueError: a micro-batch size below one, or no batch.
        TypeError: a one-shot iterator or generator, a data set of single samples, or nothing that holds batches.
    """

    def __init__(self, data: Any, micro_batch_size: int | None, device: torch.device) -> None:
        if micro_batch_size is not None:
            require_count("micro_batch_size is None or", micro_batch_size)
        if isinstance(data, tuple) and len(data) > 0 and all(_is_pair(part) for part in data):
            raise TypeError("data is a tuple of batches, and a tuple stands for one batch: pass a list of batches")
        self.held = is_batch(data)
        self._data: Iterable[Any] = (data,) if self.held else _require_reiterable(data)
        self.size, self._device = micro_batch_size, device
        self._versions: list[int] | None = None
        self.written = False

    def __iter__(self) -> Iterator[Any]:
        return self.cut(self.size)

    def cut(self, size: int | None) -> Iterator[Any]:
        """The batches in micro-batches of at most ``size`` samples, each moved to the device by itself."""
        if self._versions is not None and self._versions != self.versions():
            raise RuntimeError(
                "the data were changed in place after the operator was built, which stays that of its point and data: "
                "build it anew, from copies if they change often"
            )
        for batch in self._data:
            for part in _cut(batch, size):
                yield self._moved(part)

    def watch(self, before: list[int]) -> None:
        """From now on, data at hand that are written to are an error; whether they were since ``before`` is noted."""
        self._versions = self.versions()
        self.written = self._versions != before

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy's tensors begin anew."""
        self.__dict__ = state
        if self._versions is not None:
            self._versions = self.versions()

    def versions(self) -> list[int]:
        """How often each tensor that is at hand was written to."""
        if not isinstance(self._data, list | tuple):
            return []
        return [tensor._version for tensor in tensors_of(self._data) if not tensor.is_inference()]

    def kept(self) -> Iterator[Any]:
        """One pass like any other; from the next one on, the batches come from memory if that holds them.

        From the device's, as long as they take a quarter of what is free there; else from the host's, pinned if the
        device is a GPU, under the same condition; else they are read again each time. Batches that are tensors on the
        device already stay what they are.
        """
        host = torch.device("cpu")
        room = {device: SHARE_OF_FREE_MEMORY * free_memory(device) for device in (self._device, host)}
        on_device: list[Any] | None = []
        on_host: list[Any] | None = []
        taken = 0
        for batch in self._data:
            taken += sum(tensor.nbytes for tensor in tensors_of(batch))
            if on_device is not None and (taken <= room[self._device] or self._is_there(batch)):
                on_device.append(self._moved(batch))
            else:
                on_device = None
            if on_host is not None and taken <= room[host]:
                on_host.append(batch)
            else:
                on_host = None
            for part in _cut(batch, self.size):
                yield self._moved(part)
        if on_device is not None:
            self._data = on_device
        elif on_host is not None:
            pinned = self._device.type == "cuda"
            self._data = [map_tensors(torch.Tensor.pin_memory, batch) if pinned else batch for batch in on_host]
        if self._versions is not None:
            self._versions = self.versions()

    def _is_there(self, batch: Any) -> bool:
        return isinstance(self._data, list | tuple) and all(
            tensor.device == self._device for tensor in tensors_of(batch)
        )

    def _moved(self, batch: Any) -> Any:
        # Copies from a GPU must be awaited; copies to one may overlap with what is computed there.
        overlapped = self._device.type == "cuda"

        def moved(tensor: Tensor) -> Tensor:
            known = tensor.clone() if tensor.is_inference() else tensor  # to autograd
            return known.to(self._device, non_blocking=overlapped)

        return map_tensors(moved, batch)


def halves(batch: Any) -> list[Any]:
    """The batch cut in two along its first dimension; in one if it has a single sample."""
    return list(_cut(batch, -(-length(batch) // 2)))


def joined(first: Any, second: Any) -> Any:
    """Two batches as one, sample after sample; None where their tensors do not fit together."""
    tensors, others = list(tensors_of(first)), list(tensors_of(second))
    if [(len(tensor.shape), tensor.shape[1:]) for tensor in tensors] != [(len(o.shape), o.shape[1:]) for o in others]:
        return None
    following = iter(others)

    def join(tensor: Tensor) -> Tensor:
        other = next(following)
        return torch.cat([tensor, other]) if tensor.ndim > 0 and len(tensor) == length(first) else tensor

    return map_tensors(join, first)


def first_samples(batch: Any, size: int) -> Any:
    """The first ``size`` samples of the batch, or all if it has fewer."""
    return next(_cut(batch, size))


def without_first(batch: Any, size: int) -> Any:
    """The batch from the sample after the first ``size`` ones on."""
    return _part(batch, slice(size, None))


def _part(batch: Any, part: slice) -> Any:
    """Those samples; tensors of another first dimension whole."""
    samples = length(batch)
    return map_tensors(lambda tensor: tensor[part] if tensor.ndim > 0 and len(tensor) == samples else tensor, batch)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The tree with ``function`` applied to each tensor; mappings become plain dicts."""
    if isinstance(tree, Tensor):
        return function(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if field.init}
        return dataclasses.replace(tree, **{name: map_tensors(function, value) for name, value in fields.items()})
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        mapped = [map_tensors(function, value) for value in tree]
        if hasattr(tree, "_fields"):  # a named tuple takes its fields one by one
            return type(tree)(*mapped)
        return tuple(mapped) if isinstance(tree, tuple) else mapped
    return tree


def is_batch(data: Any) -> bool:
    """Whether data are a single batch."""
    if isinstance(data, tuple | Mapping):
        return True
    return isinstance(data, list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)


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


def is_divisible(batch: Any) -> bool:
    """Whether inputs and target of the batch, if it is such a pair, have the same number of samples."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return True
    return all(len(tensor) == length(batch) for tensor in tensors_of(batch[1]) if tensor.ndim > 0)


def length(batch: Any) -> int:
    """The number of samples: the first dimension of the first tensor that has one."""
    return next((tensor.shape[0] for tensor in tensors_of(batch) if tensor.ndim > 0), 1)


def _cut(batch: Any, size: int | None) -> Iterator[Any]:
    """Micro-batches of at most ``size`` samples; tensors of another first dimension go whole into each."""
    samples = length(batch)
    if size is None or samples <= size:
        yield batch
        return
    if not is_divisible(batch):
        raise ValueError(
            f"a batch of {samples} samples whose target has another first dimension cannot be cut: keep "
            "targets as (samples, …), or leave micro_batch_size out"
        )
    for start in range(0, samples, size):
        yield _part(batch, slice(start, start + size))
