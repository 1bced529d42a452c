"""The products of a solve that the ranks of a job share, in a folder that the first of them alone reads and writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.distributed import meshes_of
from ..linops.sharding import own_rows, spread, whole
from .product_log import ProductLog, Replay, kept_strides, laid_out

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_Said = TypeVar("_Said")
_Form: TypeAlias = tuple[torch.Size, torch.dtype, tuple[int, int]]  # shape, dtype and strides of a block


class SharedLog:
    """A `ProductLog` of the first rank, whose findings and errors all ranks of a job have alike.

    All ranks must call it alike. Rows that are spread over ranks are gathered to be written, and spread when they are
    given again, so that the folder does not depend on the ranks.

    Args:
        open_log: opens the log, on the first rank.
        A: the operator of the products.
        meshes: the axes of the ranks.

    Attributes:
        done: columns that were there to begin with.

    Raises:
        OSError, ValueError: see `ProductLog`, on all ranks.

    Cost: that of `ProductLog` on the first rank, for which the others wait; of each block that is given again all
    numbers go to every rank, as do those of X and A X if their rows are spread.
    """

    def __init__(self, open_log: Callable[[], ProductLog], A: LinearOperator, meshes: list[DeviceMesh]) -> None:
        self._meshes, self._device, self._row_mesh = meshes, A.device, A.row_mesh
        self._leads = all(mesh.get_local_rank() == 0 for mesh in meshes)
        self.done = 0

        def opened() -> None:
            self._log = open_log()

        self._said(opened)

    @contextlib.contextmanager
    def held(self) -> Iterator[SharedLog]:
        """See `ProductLog.held`."""
        with contextlib.ExitStack() as stack:
            self.done = self._said(lambda: stack.enter_context(self._log.held()).done)
            yield self

    def part(self, name: str, A: LinearOperator) -> SharedLog:
        """See `ProductLog.part`."""
        return SharedLog(lambda: self._log.part(name, A), A, self._meshes)

    def read(self, name: str, X: Tensor) -> Replay | None:
        """See `ProductLog.read`."""
        X, blocks = whole(X), []

        def look() -> tuple[float, list[_Form]] | None:
            kept = self._log.read(name, X)
            if kept is None:
                return None
            blocks.extend([kept.image] if kept.vectors is None else [kept.image, kept.vectors])
            return kept.seconds, [(block.shape, block.dtype, kept_strides(block)) for block in blocks]

        said = self._said(look)
        if said is None:
            return None
        seconds, forms = said
        given = [self._shared(blocks[i] if blocks else None, form) for i, form in enumerate(forms)]
        return Replay(given[0], seconds, *given[1:])

    def forget(self, name: str, X: Tensor) -> None:
        """See `ProductLog.forget`."""
        self._said(lambda: self._log.forget(name, X))

    def write(self, name: str, X: Tensor, image: Tensor, seconds: float) -> Tensor:
        """See `ProductLog.write`."""
        X, image = whole(X), whole(image)

        def keep() -> None:
            self._log.write(name, X, image, seconds)

        self._said(keep)
        return self._given(image, kept_strides(image))

    def begin(self, total: int | None, most: int | None) -> None:
        """See `ProductLog.begin`."""
        self._said(lambda: self._log.begin(total, most))

    def decided(self, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """See `ProductLog.decided`; the first rank decides, and ``make`` multiplies nothing."""
        return self._said(lambda: self._log.decided(what, make))

    def note(self, text: str) -> None:
        """See `ProductLog.note`."""
        self._said(lambda: self._log.note(text))

    def finish(self, products: int) -> None:
        """See `ProductLog.finish`."""
        self._said(lambda: self._log.finish(products))

    def notes(self) -> tuple[str, ...]:
        """See `ProductLog.notes`."""
        return self._said(lambda: self._log.notes())

    def _said(self, make: Callable[[], _Said]) -> _Said:
        """What ``make`` returns on the first rank, or raises there, on all: none is left waiting in a product."""
        outcome: list[Any] = [None, None]
        if self._leads:
            try:
                outcome[0] = make()
            except Exception as error:  # all ranks end with it
                outcome[1] = error
        # The first of each axis, one axis after the other: so it goes from the first of all to everyone.
        for mesh in self._meshes:
            torch.distributed.broadcast_object_list(outcome, group=mesh.get_group(), group_src=0)
        if outcome[1] is not None:
            raise outcome[1]
        said: _Said = outcome[0]
        return said

    def _shared(self, block: Tensor | None, form: _Form) -> Tensor:
        """A block of the first rank, on all of them."""
        (rows, columns), dtype, strides = form
        if block is None:
            numbers = torch.empty(columns, rows, dtype=dtype, device=self._device)
        else:
            numbers = block.mT.contiguous()
        for mesh in self._meshes:
            torch.distributed.broadcast(numbers, group=mesh.get_group(), group_src=0)
        return self._given(numbers.mT, strides)

    def _given(self, image: Tensor, strides: tuple[int, int]) -> Tensor:
        """A block that is whole on all ranks as the solver is given it, in memory of its own."""
        if self._row_mesh is None:
            return laid_out(image, strides, self._device)
        rows = own_rows(image, self._row_mesh)
        return spread(laid_out(rows, (1, len(rows)), self._device), self._row_mesh, len(image))


Log: TypeAlias = ProductLog | SharedLog


def log_of(folder: str | os.PathLike[str], identity: Mapping[str, Any], A: LinearOperator) -> Log:
    """The products of A in a folder: those of this process, or of all ranks that share out A.

    Raises:
        OSError, ValueError: see `ProductLog`.
    """
    meshes = meshes_of(A)
    if not meshes:
        return ProductLog(folder, identity, A)
    return SharedLog(lambda: ProductLog(folder, identity, A), A, meshes)
