"""Growing bases: where the vectors of a Krylov space live."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..linops.sharding import agreed, mesh_of, own_rows, placed, spread, summed
from .sketches import Gaussian
from .streams import stream
from .tall import blocks, combine, gram, orthonormalise

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_NARROWEST, _WIDEST = 16, 256  # columns of a store; wider ones gain nothing in matrix products
_SMALL = 1 << 22  # numbers in a store that need not be spared
_ROWS = 1 << 14  # rows combined at a time where vectors are replaced in their place
_TILE = 1 << 8  # rows that a CPU combines at a time, so that it keeps them
_TILES = 1 << 10  # combined in one call


class Basis:
    """A growing (n, k) matrix B, kept in memory on one device, or by rows on those of many ranks.

    Solvers touch it only through `append`, `coefficients`, `combine` and `replace`, so that a basis kept elsewhere has
    these four to define. Nothing is copied when it grows: it is a list of stores of contiguous columns, each a quarter
    as wide as all before it, so that at most a fifth of the memory is not used yet, where there is much of it.

    Args:
        n: rows.
        dtype: of the vectors.
        device: where they live.
        mesh: the ranks that rows are spread over, if any; of which this one keeps its own.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device, mesh: DeviceMesh | None = None) -> None:
        self.n, self.dtype, self.device, self.mesh = n, dtype, device, mesh
        self._rows = len(own_rows(torch.empty(n, 0), mesh))
        self.size = 0
        self._stores: list[Tensor] = []

    def append(self, block: Tensor) -> None:
        """Add the columns of an (n, b) block, which are copied.

        Cost: n b numbers.
        """
        block, stop = own_rows(block, self.mesh), self.size + block.shape[1]
        capacity = sum(store.shape[1] for store in self._stores)
        while capacity < stop:
            width = min(_WIDEST, max(_NARROWEST, capacity // 4, _SMALL // self.n))
            self._stores.append(torch.empty(width, self._rows, dtype=self.dtype, device=self.device).mT)
            capacity += width
        for part, columns in self._parts(self.size, stop):
            columns.copy_(block[:, part])
        self.size = stop

    def coefficients(self, X: Tensor, first: int = 0) -> Tensor:
        """Bᵀ X of an (n, b) block, for the columns of B from number ``first`` on: a small (k - first, b) matrix.

        Cost: 2 n (k - first) b flops.
        """
        X = own_rows(X, self.mesh)
        parts = [gram(columns, X) for _, columns in self._parts(first, self.size)]
        return summed(torch.cat(parts), self.mesh) if parts else torch.zeros(0, X.shape[1], dtype=torch.float64)

    def combine(self, C: Tensor, first: int = 0) -> Tensor:
        """The product of j columns, from number ``first`` on, with small coefficients (j, b): an (n, b) block.

        Cost: 2 n j b flops.
        """
        total = torch.empty(C.shape[1], self._rows, dtype=self.dtype, device=self.device)
        C = agreed(C, self.mesh).to(self.device, self.dtype).mT
        parts = list(self._parts(first, first + C.shape[1]))
        for start, stop, tile in self._tiles():
            count = (stop - start) // tile
            tiles = total.new_zeros(count, len(C), tile)
            for part, columns in parts:
                rows = columns[start:stop].mT.view(-1, count, tile).transpose(0, 1)
                tiles.baddbmm_(C[:, part].expand(count, -1, -1), rows)
            total[:, start:stop].view(-1, count, tile).copy_(tiles.transpose(0, 1))
        return spread(total.mT, self.mesh, self.n)

    def replace(self, C: Tensor) -> None:
        """Put the combinations B C of the first j columns, C small, (j, r), r <= j, in the place of all columns.

        Cost: 2 n j r flops; j numbers for each of some thousand rows beside the basis.
        """
        C = agreed(C, self.mesh).to(self.device, self.dtype)
        sources = list(self._parts(0, len(C)))
        for start in range(0, self._rows, _ROWS):
            rows = slice(start, start + _ROWS)
            combined = sum(columns[rows] @ C[part] for part, columns in sources)
            for part, columns in self._parts(0, C.shape[1]):
                columns[rows] = combined[:, part]  # type: ignore[index]
        self.size = C.shape[1]

    def _tiles(self) -> Iterator[tuple[int, int, int]]:
        """Ranges of rows, start … stop-1, and how many of them are multiplied at a time."""
        tile = _TILE if self.device.type == "cpu" else max(1, self._rows)
        whole = self._rows - self._rows % tile
        for start, stop in blocks(0, whole, _TILES * tile):
            yield start, stop, tile
        if whole < self._rows:
            yield whole, self._rows, self._rows - whole

    def _parts(self, start: int, stop: int) -> Iterator[tuple[slice, Tensor]]:
        """Columns ``start`` … ``stop``-1, store by store, each with its place among them."""
        first = 0
        for store in self._stores:
            low, high = max(start, first), min(stop, first + store.shape[1])
            if low < high:
                yield slice(low - start, high - start), store[:, low - first : high - first]
            first += store.shape[1]


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
    basis = Basis(Q.shape[0], Q.dtype, Q.device, mesh_of(Q))
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
