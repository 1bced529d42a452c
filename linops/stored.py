"""Objects in files: NumPy archives of plain arrays and a header in JSON, which run no code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy
import torch
from torch import Tensor

from .files import opened_archive, require_arrays, written_whole

_Self = TypeVar("_Self", bound="Stored")

# NumPy lacks bfloat16 and the like: their bits are stored, as integers of the same width.
_BITS = {1: torch.uint8, 2: torch.int16}


class Stored:
    """What can be saved to a file and loaded from it, as one of several kinds.

    A class enters with ``kind="name"`` among its bases and defines `_tensors`, `_header` and `_of_tensors`. The base of
    all kinds loads each of them.
    """

    _kind: ClassVar[str | None] = None
    _kinds: ClassVar[dict[str, type[Stored]]] = {}

    def __init_subclass__(cls, kind: str | None = None) -> None:
        if kind is not None:
            cls._kind = kind
            cls._kinds[kind] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one file, a NumPy archive of plain arrays, exact in every dtype.

        The file appears whole or not at all. A mask takes n / 8 bytes, other subspaces their vectors.

        Args:
            path: of the file, which is replaced if it is there.

        Raises:
            OSError: the file cannot be written.
            TypeError: a class of one's own, which has no form in files.

        Cost: the numbers on disk.
        """
        if self._kind is None:
            raise TypeError(f"{self} has no form in files; save OrthonormalSubspace(A.basis.to_dense()) in its place")
        tensors = self._tensors()
        arrays = {name: _array(tensor.cpu()) for name, tensor in tensors.items()}
        dtypes = {name: dtype_name(tensor.dtype) for name, tensor in tensors.items()}
        arrays["header"] = numpy.array(json.dumps({"kind": self._kind, "dtypes": dtypes, **self._header()}))
        with written_whole(Path(path)) as partial, partial.open("wb") as file:
            numpy.savez(file, **arrays)

    @classmethod
    def load(cls: type[_Self], path: str | os.PathLike[str], device: torch.device | str = "cpu") -> _Self:  # noqa: PYI019
        """What `save` wrote to ``path``, of the kind it was, on ``device``. Loading runs no code from the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a file of `save`, or of another kind than the class it is loaded by.

        Cost: the numbers on disk.
        """
        try:
            with opened_archive(path) as archive:
                require_arrays(archive, ["header"])
                header = json.loads(str(archive["header"]))
                tensors = {
                    name: torch.from_numpy(archive[name]).view(dtype_named(dtype)).to(device)
                    for name, dtype in header["dtypes"].items()
                }
            loaded = cls._kinds[header["kind"]]._of_tensors(tensors, header)
        except OSError:
            raise
        except ValueError as error:
            raise ValueError(f"{path} holds no {cls.__name__} that can be loaded: {error}") from error
        except Exception as error:
            raise ValueError(f"{path} holds no {cls.__name__} that can be loaded: {error!r}") from error
        if not isinstance(loaded, cls):
            raise ValueError(f"{path} holds no {cls.__name__} but {loaded}; load it by the class of that")
        return loaded

    def _tensors(self) -> dict[str, Tensor]:
        """What it consists of, by names that `_of_tensors` knows."""
        raise NotImplementedError

    def _header(self) -> dict[str, Any]:
        """What else `_of_tensors` needs to know, as JSON can hold it."""
        return {}

    @classmethod
    def _of_tensors(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> Stored:
        """The object that consists of them."""
        raise NotImplementedError


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """The dtype of a name."""
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is no dtype")
    return dtype


def _array(tensor: Tensor) -> Any:
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.view(_BITS[tensor.element_size()]).numpy()
