"""Where tall matrices live: in the memory of the operator, on the host, or on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.distributed import least, meshes_of
from ..linops.memory import allowance
from ..linops.stored import dtype_name, dtype_named

KINDS = ("auto", "device", "host", "disk")
"""Where bases may be kept, and ``"auto"``, which picks the first of the others that has room."""
_DTYPES = ("bfloat16", "float32", "float64")


def _name(dtype: torch.dtype | str | None) -> str | None:
    return dtype_name(dtype) if isinstance(dtype, torch.dtype) else dtype


@attrs.frozen
class Storage:
    """Where a solver keeps the basis that it builds, and in which precision.

    - ``"device"``: the memory of the operator;
    - ``"host"``: main memory, pinned for an operator on a GPU;
    - ``"disk"``: memory-mapped files without a name, which vanish with the last result that uses them, or with the
      process. The system keeps as much of them in its cache as it has memory to spare;
    - ``"auto"``: the first of these that holds the vectors that are expected, see ``plan``, in a quarter of what is
      free: should more come to be kept, there is room for four times as many.

    Numbers are stored in ``dtype`` and computed with in the dtype of the operator. What is kept in the dtype of the
    operator gives, wherever it lives, the same eigenvalues as in its memory, to the last bit on a CPU, and the same
    vectors but for the roundings of forming them. A narrower dtype rounds the basis, not the products: each number by
    up to u of its size, 2⁻⁸ for ``bfloat16`` and 2⁻²⁴ for ``float32``. Of orthonormal vectors, those of `BlockLanczos`,
    this is an error of u of their length at most; for `SketchedEigh`, which stores products, see there.

    Args:
        kind: one of these.
        directory: of the files on disk; by default that of temporary files, ``TMPDIR`` where it is set. Where that is
            held in memory (tmpfs), as on some systems, name another: files would take what they are to spare.
        dtype: float64, float32 or bfloat16, or its name; by default that of the operator.

    Raises:
        ValueError: another kind or dtype; a directory for another kind than disk and auto.
    """

    kind: str = attrs.field(default="device")
    directory: str | None = attrs.field(default=None, converter=attrs.converters.optional(os.fspath))
    dtype: str | None = attrs.field(default=None, converter=_name)

    def __attrs_post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"the kind of a storage is one of {', '.join(KINDS)}, got {self.kind!r}; for files in a folder of "
                "your own give Storage('disk', directory=...)"
            )
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ValueError(f"numbers are stored in one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if self.directory is not None and self.kind not in ("disk", "auto"):
            raise ValueError(f"directory={self.directory!r} is one for kind='disk', got kind={self.kind!r}")

    def dtype_for(self, dtype: torch.dtype) -> torch.dtype:
        """That of stored numbers, which are computed with in ``dtype``.

        Args:
            dtype: of the operator.

        Raises:
            ValueError: one that is finer.

        Cost: none.
        """
        stored = dtype if self.dtype is None else dtype_named(self.dtype)
        if torch.finfo(stored).eps < torch.finfo(dtype).eps:
            raise ValueError(f"an operator in {dtype} has no digits to store in {stored}: leave out the dtype")
        return stored

    def is_rounding(self, dtype: torch.dtype) -> bool:
        """Whether numbers in ``dtype`` lose digits.

        Args:
            dtype: of the operator.

        Raises:
            ValueError: see `dtype_for`.

        Cost: none.
        """
        return self.dtype_for(dtype) != dtype

    def prepared(
        self, A: LinearOperator, rows: int, columns: int, expected: int | None = None, formed: int = 0
    ) -> Storage:
        """This storage, or what ``"auto"`` picks, once it is known to have room for (rows, columns) numbers for A.

        Memory is not asked whether it has, as it may be lent to others until it is needed. In a job all ranks must call
        it, and end alike; those of a machine share its memory and its disk.

        Args:
            A: the operator.
            rows: of the basis.
            columns: that it may come to have.
            expected: that it is expected to have, by which ``"auto"`` picks; by default all of them.
            formed: vectors in the dtype of A that may come to be kept beside it.

        Raises:
            OSError: a directory that cannot be written, or whose disk has too little room, on any rank.
            ValueError: a dtype finer than that of the operator.

        Cost: none.
        """
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if meshes_of(A) else 1
        height = rows if A.row_mesh is None else -(-rows // A.row_mesh.size())
        each, kinds = height * self.dtype_for(A.dtype).itemsize, KINDS[1:]
        need = ranks * (each * columns + height * A.dtype.itemsize * formed)
        chosen = self.chosen(each * (columns if expected is None else expected), A.device, ranks=ranks)
        failure: OSError | None = None
        if self.kind == "auto":
            chosen = self._picked(kinds[-int(least(-kinds.index(chosen.kind), A))])
        try:
            chosen.require_room(need)
        except OSError as error:
            failure = error
        if least(float(failure is None), A) == 0:
            raise failure or OSError(f"a basis needs {need:,} bytes on the disk of each rank, and one has no such room")
        return chosen

    def chosen(self, need: int, device: torch.device, memory_budget: int | None = None, ranks: int = 1) -> Storage:
        """This storage, or what ``"auto"`` picks for ``need`` bytes of each of the ``ranks`` of a machine.

        A budget of memory, in bytes, counts for the device; by default it is a quarter of what is free there. Of GPUs
        each rank has its own.

        Args:
            need: bytes, for each rank.
            device: that of the operator.
            memory_budget: bytes on that device; by default a quarter of what is free there.
            ranks: those on this machine, which share its memory.

        Cost: none.
        """
        if self.kind != "auto":
            return self
        for kind, where in (("device", device), ("host", torch.device("cpu"))):
            # On a CPU both are the same memory.
            together = need if where.type == "cuda" else ranks * need
            if together <= allowance(memory_budget if where == device else None, where):
                return self._picked(kind)
        return self._picked("disk")

    def _picked(self, kind: str) -> Storage:
        return attrs.evolve(self, kind=kind, directory=self.directory if kind == "disk" else None)

    def require_room(self, need: int) -> None:
        """That so many bytes fit on the disk, if it is one, and that its directory can be written.

        Args:
            need: bytes.

        Raises:
            OSError: they do not.

        Cost: one empty file, which is removed.
        """
        if self.kind != "disk":
            return
        try:
            with tempfile.TemporaryFile(dir=self._folder):
                free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise OSError(
                f"a basis needs {need:,} bytes in {self._folder}, which cannot be written ({error}), so that none are "
                f"free: {self._elsewhere}"
            ) from error
        if need > free:
            raise OSError(
                f"a basis needs {need:,} bytes in {self._folder}, whose disk has {free:,} free: "
                f"{self._elsewhere}, a narrower dtype, or a smaller max_basis or max_products"
            )

    def numbers(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A flat tensor of ``count`` numbers, not set, that belongs to what is computed on ``device``.

        Args:
            count: how many.
            dtype: in which they are stored.
            device: of the operator.

        Raises:
            OSError: a disk without room for them.

        Cost: the numbers, where they are kept.
        """
        if self.kind == "disk" and count > 0:  # a rank may have no rows, and no file is that short
            return self._mapped(count, dtype)
        if self.kind == "host":
            return torch.empty(count, dtype=dtype, pin_memory=device.type == "cuda")
        return torch.empty(count, dtype=dtype, device=device)

    @property
    def _folder(self) -> Path:
        if self.directory is not None:
            return Path(self.directory)
        # Where TMPDIR cannot be written or is full, Python takes another folder without a word.
        return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())

    @property
    def _elsewhere(self) -> str:
        """What to do about a directory without room."""
        return "set TMPDIR to another directory" if self.directory is None else "name another directory"

    def _mapped(self, count: int, dtype: torch.dtype) -> Tensor:
        """Numbers in a file of their own, which has no name any more, so that it ends with them."""
        size = count * dtype.itemsize
        self.require_room(size)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix="eigenspan-", suffix=".basis")
        try:
            # A file with holes may outgrow the disk, and to write to it then ends the process without an error.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)
            else:
                os.ftruncate(handle, size)
            return torch.from_file(name, shared=True, size=count, dtype=dtype)
        except OSError as error:  # what was free a moment ago is not any more
            raise OSError(f"a basis needs {size:,} bytes in {self._folder}: {error}; {self._elsewhere}") from error
        finally:
            os.close(handle)
            Path(name).unlink()


DEVICE = Storage()


def as_storage(value: Storage | str | dict[str, Any] | None) -> Storage | None:
    """The storage that a solver is given: a storage, the name of its kind, its entries by name, or None.

    Raises:
        TypeError: anything else.
        ValueError: see `Storage`.
    """
    if value is None or isinstance(value, Storage):
        return value
    if isinstance(value, str):
        return Storage(value)
    if isinstance(value, dict):
        return Storage(**value)
    raise TypeError(f"storage is a Storage, the name of its kind, or None; got {value!r}")
