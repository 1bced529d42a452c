"""The products of a solve in a folder, so that one that was interrupted goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.distributed import meshes_of
from .block_store import BlockStore
from .manifest import StoredMatrix

_log = logging.getLogger(__name__)

IMAGES, ADJOINT_IMAGES, GRAM = "images", "adjoint-images", "gram"
LAPSE = 120.0  # seconds after which another machine may take over from a process without a sign of life
_STRIDES, _INPUT = "strides", "input"
_VECTORS = "vectors"  # the folder of the X of rows that are spread


@attrs.frozen(eq=False)
class Replay:
    """A block of an earlier run.

    Attributes:
        image: A X, or Aᵀ X.
        seconds: that it took.
        vectors: the X that was multiplied, if it differs from the one that is asked for now; else None.
    """

    image: Tensor
    seconds: float
    vectors: Tensor | None = None


class ProductLog:
    """The blocks A X of a solve in the order in which they were asked for, to be given again when it is run anew.

    A solver is a deterministic function of the products that it asks for. So one that is given those of an earlier run
    comes to the state in which that stopped, bit by bit, and multiplies from there on. Each block is kept with a digest
    of its X, which must be that of the X that is asked for again; a block that is damaged is measured again from it.

    Where the rows of blocks are spread over ranks, sums over another number of ranks round otherwise. There X is kept
    as well, and given with its product, so that a solver goes on with it in the place of its own if it can.

    Args:
        folder: made if it is not there.
        identity: what the products are of and for.
        A: the operator.
        others: further matrices, beside the images of A and of Aᵀ.

    Attributes:
        done: columns that were there to begin with.
        replayed: columns given again.
        forgotten: columns of other vectors than those asked for, which were of no use.
        unwritten: columns that could not be written.

    Raises:
        OSError: the folder cannot be written.
        ValueError: it holds products of something else.

    Cost: all images on disk, n b numbers a block, twice as many where rows are spread; to go on, these are read and
    verified, as many of X are hashed, and the solver does its own algebra again.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        A: LinearOperator,
        others: Mapping[str, StoredMatrix] | None = None,
    ) -> None:
        (m, n), dtype = A.shape, A.dtype
        matrices = {IMAGES: StoredMatrix(m, dtype), ADJOINT_IMAGES: StoredMatrix(n, dtype), **(others or {})}
        self._store, self._vectors = BlockStore(folder, identity, matrices, lapse=LAPSE), None
        if A.row_mesh is not None or (self._store.folder / _VECTORS).exists():
            multiplied = {IMAGES: StoredMatrix(n, dtype), ADJOINT_IMAGES: StoredMatrix(m, dtype)}
            self._vectors = BlockStore(self._store.folder / _VECTORS, self._store.identity, multiplied, lapse=LAPSE)
        self._device = A.device
        self._environment = {
            "device": str(A.device),
            "PyTorch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "ranks": math.prod(mesh.size() for mesh in meshes_of(A)),
            "ranks of rows": 1 if A.row_mesh is None else A.row_mesh.size(),
        }
        self._next = dict.fromkeys(matrices, 0)
        self.replayed, self.forgotten, self.unwritten, self._failed = 0, 0, 0, False
        self._look()

    @contextlib.contextmanager
    def held(self) -> Iterator[ProductLog]:
        """Within it no other process writes to the folder.

        Raises:
            OSError: the folder cannot be written.
            RuntimeError: another process uses it.
        """
        lock = self._store.hold()
        if lock is None:
            raise RuntimeError(
                f"another process is using the checkpoint {self._store.folder}: wait for it, or choose another folder; "
                f"if it is gone, its claim lapses in {LAPSE:.0f} seconds"
            )
        with lock:
            self._look()
            self._drop_vectors_alone()
            yield self

    def _look(self) -> None:
        """See what is there."""
        self._before = {name: {block.start: block for block in self._store.blocks(name)} for name in self._next}
        self._state = kept_state(self._store)
        self._state.setdefault("environment", self._environment)
        self.done = sum(len(block) for name in (IMAGES, ADJOINT_IMAGES) for block in self._before[name].values())

    def part(self, name: str, A: LinearOperator) -> ProductLog:
        """The products of another operator that the solve makes use of, with the inner products of its rows."""
        gram = StoredMatrix(A.shape[0], torch.float64, columns=A.shape[0], width=A.shape[0])
        identity = {**self._store.identity, "part": name}
        return ProductLog(self._store.folder / name, identity, A, {GRAM: gram})

    # -- blocks -------------------------------------------------------------------------------------------------------

    def read(self, name: str, X: Tensor) -> Replay | None:
        """The next block of a matrix, which is that of X; None if it has to be measured.

        Raises:
            OSError: it cannot be read.
            RuntimeError: it is the block of another X, which has not been kept.
        """
        columns = range(self._next[name], self._next[name] + X.shape[1])
        self._next[name] = columns.stop
        before = self._before[name].get(columns.start)
        within = any(columns.start < start < columns.stop for start in self._before[name])
        if before != columns and (before is not None or within):
            self._unlike(name, columns, self._vectors is not None)
            return None
        if before is None:
            return None
        try:
            block = self._store.read(name, columns)
            notes, vectors = self._store.notes(name, columns), None
            if notes[_INPUT] != digest(X):
                if self._vectors is None or not self._vectors.blocks(name):
                    self._unlike(name, columns)
                    return None
                vectors = laid_out(self._vectors.read(name, columns), (1, len(X)), self._device)
                if digest(vectors) != notes[_INPUT]:  # of another run, which ended before it wrote their product
                    return None
        except (FileNotFoundError, ValueError):  # damaged: it has been set aside
            return None
        rows, along = (int(stride) for stride in notes[_STRIDES].split())
        self.replayed += len(columns)
        return Replay(laid_out(block, (rows, along), self._device), float(notes["seconds"]), vectors)

    def forget(self, name: str, X: Tensor) -> None:
        """Remove the block that was read last, of as many columns as X, and all later ones: they are not made use of.

        Raises:
            OSError: they cannot be removed.
        """
        self.replayed -= X.shape[1]
        self._forget_from(name, self._next[name] - X.shape[1])

    def write(self, name: str, X: Tensor, image: Tensor, seconds: float) -> Tensor:
        """Keep the block of the X that was read last; returns it as `read` will give it, to the last bit and stride.

        What cannot be written is said in a warning, once, and the solve goes on.
        """
        strides = kept_strides(image)
        notes = {_INPUT: digest(X), _STRIDES: f"{strides[0]} {strides[1]}"}
        start = self._next[name] - X.shape[1]
        with self._surviving(X.shape[1]):
            if self._vectors is not None and name in self._vectors.matrices:
                self._vectors.write(name, start, X)
            self._store.write(name, start, image, seconds, notes)
        return laid_out(image, strides, self._device)

    def _drop_vectors_alone(self) -> None:
        """Remove vectors of whose product nothing has been written, or is left."""
        if self._vectors is None:
            return
        self._vectors.remove_partial()
        for name in self._vectors.matrices:
            for columns in self._vectors.blocks(name):
                if self._before[name].get(columns.start) != columns:
                    self._vectors.discard(name, columns.start, columns.stop)

    def _unlike(self, name: str, columns: range, is_expected: bool = False) -> None:
        """What to do about a block of another X: it is measured again where one is to be expected.

        Raises:
            OSError: it cannot be removed.
            RuntimeError: where it is not.
        """
        is_end = self._state.get("was limited", False) and self._state["environment"] == self._environment
        if not (is_expected or is_end):
            raise self._other_vectors(columns)
        self._forget_from(name, columns.start)

    def _forget_from(self, name: str, start: int) -> None:
        for first in [first for first in self._before[name] if first >= start]:
            self.forgotten += len(self._before[name].pop(first))
        for store in (self._store, self._vectors):
            if store is not None:
                store.discard(name, start)

    @contextlib.contextmanager
    def _surviving(self, columns: int = 0) -> Iterator[None]:
        """A checkpoint that cannot be written is no reason to lose the solve."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"{error}. The solve goes on; what cannot be written is measured again if it is interrupted.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._failed = True
            self.unwritten += columns

    def _other_vectors(self, columns: range) -> RuntimeError:
        then, now = self._state["environment"], self._environment
        changed = [f"{what} {then.get(what)} then and {now[what]} now" for what in now if then.get(what) != now[what]]
        cause = (
            f"rounding may differ by {', '.join(changed)}: run it as then"
            if changed
            else "device, PyTorch, threads and ranks are the same: is the solver's own arithmetic deterministic, and "
            "are the products, of which some may have been measured again?"
        )
        return RuntimeError(
            f"column {columns.start} and the next of the checkpoint {self._store.folder} are products with other "
            f"vectors than those now asked for, so that the solve cannot go on from them; {cause}. To begin anew, "
            "remove it, or choose another folder"
        )

    # -- what else is kept --------------------------------------------------------------------------------------------

    def begin(self, total: int | None, most: int | None) -> None:
        """Note how many products there will be, if that is known, and how many at most.

        If these are more than before, blocks where an earlier run came to its end may be of no use.

        Raises:
            OSError: the folder cannot be written.
            ValueError: fewer than there are.
        """
        changed = self._state.get("most", most) != most
        if changed and most is not None and most < self.done:
            raise ValueError(
                f"the checkpoint {self._store.folder} has {self.done} products, and {most} are asked for at most: "
                "raise max_products"
            )
        if "total" not in self._state or changed:
            was_limited = changed or self._state.get("was limited", False)
            self._state |= {"total": total, "most": most, "finished": False, "was limited": was_limited}
            self._store.write_state(self._state)

    def decided(self, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Plain data that were decided once, and hold for every run."""
        decisions = self._state.setdefault("decisions", {})
        if what not in decisions:
            decisions[what] = make()
            self._save()
        found: dict[str, Any] = decisions[what]
        return found

    def note(self, text: str) -> None:
        """How far the solve has come, in words, once what was there has been given again."""
        if self.replayed == 0 or sum(self._next.values()) > self.done:
            self._state["note"] = text
            self._save()

    def finish(self, products: int) -> None:
        """Note that the solve is done, and by how many products."""
        self._state |= {"total": products, "finished": True, "was limited": False}
        self._save()

    def notes(self) -> tuple[str, ...]:
        """What a report is to say, in sentences."""
        found = []
        if self.replayed > 0:
            found.append(f"{self.replayed} of the products were measured by earlier runs and kept in a checkpoint")
        if self.forgotten > 0:
            found.append(f"{self.forgotten} that were kept are of vectors that were rounded otherwise, and of no use")
        if self.unwritten > 0:
            found.append(f"{self.unwritten} of the products could not be written to the checkpoint")
        return tuple(found)

    def _save(self) -> None:
        with self._surviving():
            self._store.write_state(self._state)


def kept_state(store: BlockStore) -> dict[str, Any]:
    """What is known of a solve beside its products; of a file that is damaged nothing is."""
    try:
        return store.read_state() or {}
    except ValueError as error:
        _log.warning("%s", error)
        return {}


def digest(X: Tensor) -> str:
    """SHA-256 of the numbers of a block, column by column."""
    numbers = X.detach().mT.cpu().contiguous().reshape(-1)
    return hashlib.sha256(numbers.view(torch.uint8).numpy().data).hexdigest()


def kept_strides(image: Tensor) -> tuple[int, int]:
    """The strides that a block is given again with: its own, or by columns if it has gaps.

    Matrix products round by the order of numbers in memory.
    """
    by_rows_or_columns = image.is_contiguous() or image.mT.is_contiguous()
    return (image.stride(0), image.stride(1)) if by_rows_or_columns else (1, len(image))


def laid_out(block: Tensor, strides: tuple[int, int], device: torch.device) -> Tensor:
    """A copy in memory of its own."""
    copy = torch.empty_strided(block.shape, strides, dtype=block.dtype, device=device)
    copy.copy_(block)
    return copy
