"""Matrices in a folder, as blocks of columns that many processes write and any of them may leave unfinished."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ..linops.block_files import DamagedFileError, read_block, read_header, write_block
from ..linops.files import write_json
from ..linops.locks import LockFile, require_lapse
from .manifest import MANIFEST, Manifest, StoredMatrix, sealed, unsealed

_log = logging.getLogger(__name__)

_SPAN = re.compile(r"\.(\d+)-(\d+)\.safetensors")
_CLAIM = re.compile(r"\.\d+-\d+\.claim$")
_WHOLE = "folder.claim"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_Self = TypeVar("_Self", bound="BlockStore")


@attrs.frozen
class Progress:
    """How far a store has come.

    Attributes:
        done: columns in finished blocks.
        total: columns in all; None if a matrix grows.
        at_work: blocks that a process holds and gives signs of life for.
        seconds_per_column: on average over the finished blocks; None if there are none.
    """

    done: int
    total: int | None
    at_work: int
    seconds_per_column: float | None

    @property
    def seconds_left(self) -> float | None:
        """What is left, by those at work, or by one if there is none; None if that is not known."""
        if self.total is None or self.seconds_per_column is None:
            return 0.0 if self.total == self.done else None
        return (self.total - self.done) * self.seconds_per_column / max(1, self.at_work)


class BlockStore:
    """A folder of matrices in blocks of columns, each written once, whole, with a checksum and what it belongs to.

    The manifest says what all of it belongs to, the ``identity``, and which matrices there are. Processes on any number
    of machines share the folder: each claims a block, writes it, and releases it. A block that is cut or altered, or
    belongs to something else, counts as missing. Nothing that is read can run code: blocks are safetensors files of
    columns, the rest is JSON.

    Two processes that both write a block, because one was thought dead, are no harm if both compute the same.

    Args:
        folder: made if it is not there.
        identity: plain data that JSON can hold.
        matrices: by name, of letters, digits, ``_`` and ``-``.
        lapse: seconds after which the claim of a process without a sign of life is free. One on the same machine that
            has ended loses it at once.

    Attributes:
        folder: the folder.
        identity: what the matrices belong to.
        matrices: by name.

    Raises:
        OSError: the folder cannot be written.
        ValueError: it holds blocks of something else; a damaged manifest; names or sizes that cannot be.

    Cost: the matrices on disk, and memory for one block at a time.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        matrices: Mapping[str, StoredMatrix],
        *,
        lapse: float = 120.0,
    ) -> None:
        for name in matrices:
            if not _NAME.fullmatch(name):
                raise ValueError(f"names of matrices have letters, digits, _ and -, and begin with a letter: {name!r}")
        manifest = Manifest.of(identity, matrices)
        path = Path(folder) / MANIFEST
        with _writing(Path(folder)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            while not path.exists():
                lock = LockFile(path.with_name(f"{MANIFEST}.claim"), lapse)
                if lock.acquire():  # of two that begin with different identities one is refused
                    with lock:
                        if not path.exists():
                            write_json(sealed(manifest.entries), path)
                else:
                    time.sleep(0.05)
        found = Manifest.read(Path(folder))
        differing = found.differences(manifest)
        if differing:
            raise ValueError(
                f"{folder} holds blocks of something else, and blocks do not mix: "
                + "; ".join(f"{name} is {there} there and {here} here" for name, there, here in differing)
                + "; choose another folder"
            )
        self._begin(Path(folder), found, lapse)

    @classmethod
    def open(cls: type[_Self], folder: str | os.PathLike[str], *, lapse: float = 120.0) -> _Self:  # noqa: PYI019
        """The store that is in a folder, whatever it is of.

        Args:
            folder: of a store.
            lapse: see `BlockStore`.

        Raises:
            FileNotFoundError: the folder holds none.
            ValueError: its manifest is damaged.

        Cost: one small file read.
        """
        store = cls.__new__(cls)
        store._begin(Path(folder), Manifest.read(Path(folder)), lapse)
        return store

    def _begin(self, folder: Path, manifest: Manifest, lapse: float) -> None:
        require_lapse(lapse)
        self.folder, self.identity, self.matrices = folder, manifest.identity, manifest.matrices
        self._digest, self._lapse = manifest.digest, lapse
        self._known: dict[str, tuple[tuple[int, int, int], dict[str, str] | None]] = {}  # what was found in which files

    # -- blocks -------------------------------------------------------------------------------------------------------

    def write(
        self, name: str, start: int, block: Tensor, seconds: float = 0.0, notes: Mapping[str, str] | None = None
    ) -> None:
        """Keep an (n, b) block as columns ``start`` … ``start`` + b - 1 of a matrix, in the place of the same ones.

        Args:
            name: of the matrix.
            start: the number of the first column.
            block: in the dtype of the matrix.
            seconds: that it took to compute, for `progress`.
            notes: what else to keep with the block, under its checksum, see `notes`.

        Raises:
            OSError: it cannot be written; what is finished stays.
            TypeError: another dtype.
            ValueError: another number of rows; columns that are not there, are not a whole block, or overlap others.

        Cost: the numbers, hashed and written.
        """
        matrix, columns = self.matrices[name], range(start, start + block.shape[-1])
        if block.dtype != matrix.dtype:
            raise TypeError(f"{name} in {self.folder} is {matrix.dtype}, got a block of {block.dtype}; convert it")
        if block.ndim != 2 or block.shape[0] != matrix.rows:
            raise ValueError(f"{name} in {self.folder} has {matrix.rows} rows, got a block of {tuple(block.shape)}")
        self._require_place(name, columns)
        fields = {**(notes or {}), **self._place(name, columns), "seconds": repr(float(seconds))}
        with _writing(self.folder):
            write_block(self._path(name, columns), block, fields)

    def read(self, name: str, columns: range) -> Tensor:
        """The (n, b) block of these columns, as it was written, on the CPU. One that is damaged is set aside.

        Args:
            name: of the matrix.
            columns: a whole block.

        Raises:
            FileNotFoundError: there is no such block.
            OSError: it cannot be read.
            ValueError: it is damaged; it is missing from then on, and to be measured again.

        Cost: the numbers, read and hashed.
        """
        path = self._path(name, columns)
        try:
            block, header = read_block(path)
            self._require_own(path, header.fields, name, columns)
        except DamagedFileError as error:
            with contextlib.suppress(OSError):  # a folder that only others can write to
                os.replace(path, path.with_suffix(".damaged"))
            _log.warning("%s; columns %d-%d of %s are missing now", error, columns.start, columns.stop - 1, name)
            raise
        return block

    def notes(self, name: str, columns: range) -> dict[str, str]:
        """What was kept with the block of these columns; nothing if there is no such block.

        Args:
            name: of the matrix.
            columns: a whole block.

        Cost: one header read.
        """
        return dict(self._fields(self._path(name, columns), name, columns) or {})

    def matrix(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """All columns of a matrix, up to the last one if it grows, (n, k) with contiguous columns.

        Args:
            name: of the matrix.
            device: where to put it together.

        Raises:
            OSError: a block cannot be read.
            ValueError: blocks are missing or damaged. All are looked at first, so that all of them are named.

        Cost: the numbers, read and hashed, and one block beside them.
        """
        blocks, lacking = self.blocks(name), self.missing(name)
        stored = self.matrices[name]
        total = stored.columns if stored.columns is not None else max((columns.stop for columns in blocks), default=0)
        whole = torch.empty(total, stored.rows, dtype=stored.dtype, device=device).mT
        for columns in blocks:
            try:
                whole[:, columns.start : columns.stop] = self.read(name, columns)
            except DamagedFileError:  # noqa: PERF203 - blocks are long
                lacking.append(columns)
        if lacking:
            spans = ", ".join(f"{one.start}-{one.stop - 1}" for one in sorted(lacking, key=lambda one: one.start))
            raise ValueError(f"{name} in {self.folder} lacks columns {spans}, or they are damaged: measure them")
        return whole

    def blocks(self, name: str) -> dict[range, float]:
        """The finished blocks of a matrix in order, and the seconds each took.

        Headers and lengths are looked at; numbers are verified when they are read.

        Args:
            name: of the matrix.

        Cost: the names of all files, and headers of those not seen before.
        """
        found = {}
        for columns in self._files(name):
            fields = self._fields(self._path(name, columns), name, columns)
            if fields is not None:
                found[columns] = float(fields["seconds"])
        return found

    def missing(self, name: str) -> list[range]:
        """The columns without a block, cut where blocks begin; of a matrix that grows, those before its last block.

        Args:
            name: of the matrix.

        Cost: that of `blocks`.
        """
        matrix, spans, first = self.matrices[name], [], 0
        blocks = self.blocks(name)
        ends = [(columns.start, columns.stop) for columns in blocks]
        ends += [(matrix.columns, matrix.columns)] if matrix.columns is not None else []
        for start, stop in ends:
            spans += list(matrix.cut(first, start))
            first = max(first, stop)
        return spans

    def discard(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Remove the blocks of a matrix that begin from column ``start`` on, and before ``stop``.

        Args:
            name: of the matrix.
            start: the first column.
            stop: the column behind the last one; None for all.

        Raises:
            OSError: one cannot be removed.

        Cost: that of `blocks`.
        """
        with _writing(self.folder):
            for columns in self.blocks(name):
                if start <= columns.start and (stop is None or columns.start < stop):
                    self._path(name, columns).unlink(missing_ok=True)

    # -- who does what ------------------------------------------------------------------------------------------------

    def claim(self, name: str, columns: range) -> LockFile | None:
        """The right to measure a block, until it is released or its process dies; None if it is done or taken.

        It is a context manager, ``with claim: …``, that releases it.

        Args:
            name: of the matrix.
            columns: a whole block.

        Raises:
            OSError: the folder cannot be written.
            ValueError: columns that are not a block of the matrix.

        Cost: one small file, which is touched as long as the claim lasts.
        """
        self._require_place(name, columns)
        path = self._path(name, columns)
        lock = LockFile(path.with_suffix(".claim"), self._lapse)
        with _writing(self.folder):
            if not lock.acquire():
                return None
            if self._fields(path, name, columns) is not None:  # done since one looked
                lock.release()
                return None
            for partial in self.folder.glob(f"{path.name}*.partial"):  # of a process that died
                partial.unlink(missing_ok=True)
        return lock

    def hold(self) -> LockFile | None:
        """The right to write all of the store, until it is released or its process dies; None if another holds it.

        Raises:
            OSError: the folder cannot be written.

        Cost: one small file, which is touched as long as it is held.
        """
        lock = LockFile(self.folder / _WHOLE, self._lapse)
        with _writing(self.folder):
            if not lock.acquire():
                return None
            self.remove_partial()
        return lock

    def remove_partial(self) -> None:
        """Remove what processes that died have left, where no other writes.

        Cost: the names of all files.
        """
        for partial in self.folder.glob("*.partial"):
            partial.unlink(missing_ok=True)

    def remove_stale_claims(self) -> None:
        """Remove the claims of processes that died, also once what they claimed is done.

        Cost: the names of all files.
        """
        for lock in self._claims():
            lock.remove_stale()

    def _claims(self) -> list[LockFile]:
        held = [path for path in self.folder.glob("*.claim") if path.name == _WHOLE or _CLAIM.search(path.name)]
        return [LockFile(path, self._lapse) for path in held]

    def progress(self) -> Progress:
        """How much is done and left, and how long it may take.

        Cost: that of `blocks` of all matrices.
        """
        blocks = {name: self.blocks(name) for name in self.matrices}
        done = sum(len(columns) for found in blocks.values() for columns in found)
        totals = [matrix.columns for matrix in self.matrices.values()]
        total = sum(columns for columns in totals if columns is not None) if None not in totals else None
        at_work = sum(not lock.is_stale() for lock in self._claims())
        seconds = sum(sum(found.values()) for found in blocks.values())
        return Progress(done, total, at_work, seconds / done if done else None)

    # -- state --------------------------------------------------------------------------------------------------------

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Keep plain data beside the blocks, in the place of those kept before. Numbers are kept to the last bit.

        Args:
            state: a dictionary that JSON can hold.

        Raises:
            OSError: they cannot be written.
            TypeError, ValueError: they hold what JSON does not, numbers that are not finite among them.

        Cost: one small file.
        """
        with _writing(self.folder):
            write_json(sealed({"belongs to": self._digest, "state": dict(state)}), self.folder / "state.json")

    def read_state(self) -> dict[str, Any] | None:
        """What `write_state` kept; None if there is nothing.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or belongs to something else.

        Cost: one small file.
        """
        path = self.folder / "state.json"
        if not path.exists():
            return None
        found = unsealed(path, "remove it, and begin anew")
        if found["belongs to"] != self._digest:
            raise ValueError(f"{path} belongs to something else: remove it, and begin anew")
        state: dict[str, Any] = found["state"]
        return state

    # -- files --------------------------------------------------------------------------------------------------------

    def _path(self, name: str, columns: range) -> Path:
        return self.folder / f"{name}.{columns.start:08d}-{columns.stop:08d}.safetensors"

    def _files(self, name: str) -> list[range]:
        """The columns that there are files of, in order, whatever is in them."""
        with os.scandir(self.folder) as entries:
            names = [entry.name.removeprefix(name) for entry in entries if entry.name.startswith(f"{name}.")]
        spans = [span for span in map(_SPAN.fullmatch, names) if span is not None]
        return sorted((range(int(span[1]), int(span[2])) for span in spans), key=lambda columns: columns.start)

    def _place(self, name: str, columns: range) -> dict[str, str]:
        """What a block says of itself in its file."""
        ends = {"start": str(columns.start), "stop": str(columns.stop)}
        return {"matrix": name, **ends, "belongs to": self._digest}

    def _fields(self, path: Path, name: str, columns: range) -> dict[str, str] | None:
        """What is kept with a block, or None if no intact one is in the file, as far as its header and length tell."""
        try:
            status = path.stat()
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            if path.name not in self._known or self._known[path.name][0] != state:
                self._known[path.name] = state, self._looked_at(path, name, columns)
        except FileNotFoundError:
            return None
        return self._known[path.name][1]

    def _looked_at(self, path: Path, name: str, columns: range) -> dict[str, str] | None:
        try:
            fields = read_header(path).fields
            self._require_own(path, fields, name, columns)
        except DamagedFileError as error:
            _log.warning("%s; columns %d-%d of %s count as missing", error, columns.start, columns.stop - 1, name)
            return None
        return fields

    def _require_own(self, path: Path, fields: Mapping[str, str], name: str, columns: range) -> None:
        own = self._place(name, columns)
        if any(fields.get(field) != value for field, value in own.items()) or "seconds" not in fields:
            raise DamagedFileError(f"{path} holds another block than its name says, or one of something else")

    def _require_place(self, name: str, columns: range) -> None:
        matrix = self.matrices[name]
        if not 0 <= columns.start < columns.stop or columns.stop > (matrix.columns or columns.stop):
            raise ValueError(f"{name} in {self.folder} has columns 0 to {matrix.columns}, got {columns}")
        if matrix.width is not None:
            last = matrix.columns is not None and columns.stop == matrix.columns
            fits = columns.start % matrix.width == 0 and (len(columns) == matrix.width or last)
            if not fits or len(columns) > matrix.width:
                raise ValueError(f"{name} in {self.folder} has blocks of {matrix.width} columns, got {columns}")
            return  # such blocks do not overlap
        for other in self._files(name):
            apart = other == columns or other.start >= columns.stop or columns.start >= other.stop
            if not apart and self._fields(self._path(name, other), name, other) is not None:
                raise ValueError(f"{name} in {self.folder} has a block {other} already, which {columns} overlaps")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Errors of a full disk or a folder that cannot be written, with what to do."""
    try:
        yield
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror or error}): what is finished stays there; make room or "
        raise OSError(error.errno, message + "get leave to write, and call again to go on") from error
