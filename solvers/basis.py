"""Growing bases: where the vectors of a Krylov space live."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..linops.sharding import agreed, mesh_of, own_rows, placed, spread, summed, taken_rows
from .sketches import Gaussian
from .storage import DEVICE, Storage
from .streams import stream
from .tall import blocks, combine, gram, orthonormalise

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_NARROWEST, _WIDEST = 16, 256  # columns of a store; wider ones gain nothing in matrix products
_SMALL = 1 << 22  # numbers in a store that need not be spared
_ROWS = 1 << 12  # rows combined at a time where vectors are replaced in their place
_TILE = 1 << 8  # rows that a CPU combines at a time, so that it keeps them
_TILES = 1 << 10  # combined in one call
CHUNK = 1 << 16  # rows that are kept together elsewhere than in the memory of the operator


class Basis:
    """A growing (n, k) matrix B, kept in a `Storage`, by rows in those of many ranks.

    Solvers touch it only through `append`, `coefficients`, `combine` and `replace`. Nothing is copied when it grows: it
    is a list of stores of columns, each a quarter as wide as all before it, so that at most a fifth of what it takes is
    not used yet, where there is much of it. Elsewhere than in the memory of the operator a store is a sequence of
    chunks of rows, each contiguous, which are taken there one by one.

    Args:
        n: rows.
        dtype: in which it is computed with.
        device: where that is done.
        storage: where it is kept.
        mesh: the ranks that rows are spread over, if any; of which this one keeps its own.
        most: how many columns there will be at most, if that is known: room for more is made only if they come.

    Attributes:
        height: how many rows are kept here.
    """

    def __init__(
        self,
        n: int,
        dtype: torch.dtype,
        device: torch.device,
        storage: Storage = DEVICE,
        mesh: DeviceMesh | None = None,
        most: int = 0,
    ) -> None:
        self.n, self.dtype, self.device, self.storage, self.mesh = n, dtype, device, storage, mesh
        self.height = len(own_rows(torch.empty(n, 0), mesh))
        self.size, self._most = 0, most
        self._stores: list[Tensor] = []  # (width, rows) of each chunk, one after the other
        self._widths: list[int] = []
        self._stored = storage.dtype_for(dtype)
        self._chunk = self.height if storage.kind == "device" and self._stored == dtype else CHUNK

    @property
    def rounding(self) -> float:
        """The relative error of a vector once it is stored; 0 if that is exact."""
        return 0.0 if self._stored == self.dtype else torch.finfo(self._stored).eps / 2

    def append(self, block: Tensor) -> None:
        """Add the columns of an (n, b) block, which are copied.

        Cost: n b numbers.
        """
        stop, capacity = self.size + block.shape[1], sum(self._widths)
        while capacity < stop:
            spare = max(_NARROWEST, capacity // 4, _SMALL // self.n)
            width = min(_WIDEST, self._most - capacity if capacity < self._most else spare)
            self._stores.append(self.storage.numbers(width * self.height, self._stored, self.device))
            self._widths.append(width)
            capacity += width
        self.put(self.size, block)
        self.size = stop

    def put(self, start: int, block: Tensor) -> None:
        """Put an (n, b) block in the place of columns ``start`` … ``start`` + b - 1.

        Cost: n b numbers.
        """
        rows = own_rows(block, self.mesh)
        for chunk in self._chunks():
            for part, columns in self._kept(chunk, start, start + block.shape[1]):
                columns.copy_(rows[chunk, part])

    def coefficients(self, X: Tensor, first: int = 0) -> Tensor:
        """Bᵀ X of an (n, b) block, for the columns of B from number ``first`` on: a small (k - first, b) matrix.

        Cost: 2 n (k - first) b flops.
        """
        X = own_rows(X, self.mesh)
        total = torch.zeros(self.size - first, X.shape[1], dtype=torch.float64)
        for chunk in self._chunks():
            for part, columns in self._parts(chunk, first, self.size):
                total[part] += gram(columns, X[chunk])
        return summed(total, self.mesh)

    def gram(self) -> Tensor:
        """BᵀB, small, in float64 throughout.

        Cost: n k² flops, as it is symmetric; the basis is read once.
        """
        total = torch.zeros(self.size, self.size, dtype=torch.float64, device=self.device)
        for chunk in self._chunks():
            for start, stop in blocks(chunk.start, chunk.stop, CHUNK):
                parts = [(part, X.double()) for part, X in self._parts(slice(start, stop), 0, self.size)]
                for number, (part, X) in enumerate(parts):
                    for other, Y in parts[: number + 1]:
                        total[part, other] += X.mT @ Y
        lower = total.tril()
        return summed((lower + lower.tril(-1).mT).cpu(), self.mesh)

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` … ``stop``-1, an (n, b) block of their own."""
        block = torch.empty(stop - start, self.height, dtype=self.dtype, device=self.device)
        for chunk in self._chunks():
            for part, columns in self._kept(chunk, start, stop):
                block[part, chunk].copy_(columns.mT)
        return spread(block.mT, self.mesh, self.n)

    def combine(self, C: Tensor, first: int = 0, out: Tensor | None = None) -> Tensor:
        """The product of j columns, from number ``first`` on, with small coefficients (j, b): an (n, b) block.

        It is written to ``out``, (n, b) with contiguous columns, if that is given, on whichever device; of rows
        that are spread, (own rows, b).

        Cost: 2 n j b flops.
        """
        C = agreed(C, self.mesh)
        if out is None:
            out = torch.empty(C.shape[1], self.height, dtype=self.dtype, device=self.device).mT
        for chunk in self._chunks():
            self._combine_rows(chunk, C, first, out.mT[:, chunk])
        return spread(out, self.mesh, self.n)

    def combined_rows(self, start: int, stop: int, C: Tensor) -> Tensor:
        """Rows ``start`` … ``stop``-1 of `combine`, (stop - start, b).

        Cost: 2 (stop - start) j b flops.
        """
        total = torch.empty(C.shape[1], stop - start, dtype=self.dtype, device=self.device)
        for chunk in self._chunks():
            low, high = max(start, chunk.start), min(stop, chunk.stop)
            if low < high:
                self._combine_rows(slice(low, high), C, 0, total[:, low - start : high - start])
        return total.mT

    def rows(self, indices: Tensor, j: int) -> Tensor:
        """The first j numbers of the rows of those numbers, (len(indices), j), whole on every rank.

        Cost: as many numbers, each read by itself; of rows that are spread, a sum of them over the ranks.
        """
        return taken_rows(lambda own: self._own_rows(own, j), indices, self.n, self.mesh)

    def _own_rows(self, indices: Tensor, j: int) -> Tensor:
        indices = indices.to(self._stores[0].device if self._stores else self.device)
        taken = torch.empty(j, len(indices), dtype=self.dtype, device=self.device)
        chunks = indices.div(max(1, self._chunk), rounding_mode="floor") * self._chunk
        lengths = (self.height - chunks).clamp(max=self._chunk)
        first = 0
        for store, width in zip(self._stores, self._widths, strict=True):
            for column in range(min(width, j - first)):
                places = chunks * width + column * lengths + indices - chunks
                taken[first + column] = store[places].to(self.device, self.dtype)
            first += width
        return taken.mT

    def replace(self, C: Tensor) -> None:
        """Put the combinations B C of the first j columns, C small, (j, r), r <= j, in the place of all columns.

        Cost: 2 n j r flops; j numbers for each of some thousand rows beside the basis.
        """
        j, C = len(C), agreed(C, self.mesh).to(self.device, self.dtype).mT.contiguous()
        for chunk in self._chunks():
            for start, stop in blocks(chunk.start, chunk.stop, _ROWS):
                rows = slice(start, stop)
                combined = C @ torch.cat([columns.mT for _, columns in self._parts(rows, 0, j)])
                for part, columns in self._kept(rows, 0, len(C)):
                    columns.mT.copy_(combined[part])
        self.size = len(C)

    def column_blocks(self, width: int) -> Iterator[tuple[slice, Tensor]]:
        """All columns, (n, width) at a time, each with its place."""
        for start, stop in blocks(0, self.size, width):
            yield slice(start, stop), self.columns(start, stop)

    def row_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows that are kept here, block by block, (rows, k), each with its place."""
        for chunk in self._chunks():
            for start, stop in blocks(chunk.start, chunk.stop, _ROWS):
                rows = slice(start, stop)
                nothing = torch.empty(0, stop - start, dtype=self.dtype, device=self.device)
                yield rows, torch.cat([nothing, *(X.mT for _, X in self._parts(rows, 0, self.size))]).mT

    def put_rows(self, rows: slice, block: Tensor) -> None:
        """Put a block in the place of one that `row_blocks` gave, of its first columns at least."""
        for part, columns in self._kept(rows, 0, block.shape[1]):
            columns.copy_(block[:, part])

    def _combine_rows(self, rows: slice, C: Tensor, first: int, total: Tensor) -> None:
        """Write those rows of `combine`, all of one chunk, to (b, rows)."""
        C = C.to(self.device, self.dtype).mT
        parts = list(self._parts(rows, first, first + C.shape[1]))
        for start, stop, tile in self._tiles(rows.stop - rows.start):
            count = (stop - start) // tile
            tiles = C.new_zeros(count, len(C), tile)
            for part, columns in parts:
                X = columns[start:stop].mT.view(-1, count, tile).transpose(0, 1)
                tiles.baddbmm_(C[:, part].expand(count, -1, -1), X)
            total[:, start:stop].view(-1, count, tile).copy_(tiles.transpose(0, 1))

    def _tiles(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Ranges of rows, start … stop-1, and how many of them are multiplied at a time."""
        tile = _TILE if self.device.type == "cpu" else max(1, rows)
        whole = rows - rows % tile
        for start, stop in blocks(0, whole, _TILES * tile):
            yield start, stop, tile
        if whole < rows:
            yield whole, rows, rows - whole

    def _chunks(self) -> Iterator[slice]:
        """Ranges of rows that are kept together, and that a product takes at a time."""
        for start, stop in blocks(0, self.height, max(1, self._chunk)):
            yield slice(start, stop)

    def _kept(self, rows: slice, start: int, stop: int) -> Iterator[tuple[slice, Tensor]]:
        """Those rows, of one chunk, of columns ``start`` … ``stop``-1, store by store, each with its place among them.

        They are views of what is kept.
        """
        begin = rows.start - rows.start % max(1, self._chunk)
        length = min(self._chunk, self.height - begin)
        first = 0
        for store, width in zip(self._stores, self._widths, strict=True):
            low, high = max(start, first), min(stop, first + width)
            if low < high:
                chunk = store[begin * width : (begin + length) * width].view(width, length)
                columns = chunk[low - first : high - first, rows.start - begin : rows.stop - begin]
                yield slice(low - start, high - start), columns.mT
            first += width

    def _parts(self, rows: slice, start: int, stop: int) -> Iterator[tuple[slice, Tensor]]:
        """As `_kept`, but where and in which dtype it is computed with."""
        for part, columns in self._kept(rows, start, stop):
            yield part, columns.to(self.device, self.dtype, non_blocking=True)


def most_columns(n: int, columns: int) -> int:
    """How many a `Basis` of that many may come to have room for."""
    return columns + min(_WIDEST, max(_NARROWEST, columns // 4, _SMALL // n))


def random_directions(basis: Basis, first: int, last: int, seed: int, purpose: str) -> Tensor:
    """Columns ``first`` … ``last``-1 of a normal test matrix, without what ``basis`` holds of them, orthonormal.

    Cost: that of `orthonormalise`.
    """
    random = Gaussian(basis.n, last, seed=seed, purpose=purpose, dtype=basis.dtype, device=basis.device)
    return orthonormalise(placed(random.columns(first, last), basis.mesh), basis).Q


def completed(Q: Tensor, first: int, last: int, seed: int, purpose: str) -> Tensor:
    """An orthonormal Q with the random columns ``first`` … ``last``-1 added, orthonormal to it.

    Cost: 4 n b (k + b) flops for b columns beside k.
    """
    if first == last:
        return Q
    basis = Basis(Q.shape[0], Q.dtype, Q.device, mesh=mesh_of(Q))
    basis.append(Q)
    return torch.cat([Q.mT, random_directions(basis, first, last, seed, purpose).mT]).mT


def narrowed(start: Tensor, width: int, seed: int, purpose: str) -> Tensor:
    """An orthonormal basis of what ``start`` spans, or of ``width`` random combinations of its columns if it has more.

    Cost: that of `orthonormalise`.
    """
    if start.shape[1] > width:
        mixing = stream(seed, purpose).standard_normal((start.shape[1], width))
        start = combine(start, torch.from_numpy(mixing))
    return orthonormalise(start).Q
