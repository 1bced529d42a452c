"""Blocks whose rows are spread over the ranks of a job: DTensors, of which each rank holds a run of rows.

A plain tensor in their place is whole on every rank, and the same there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def mesh_of(*blocks: Tensor) -> DeviceMesh | None:
    """The ranks that rows of any of the blocks are spread over; None if all are whole on every rank."""
    return next((block.device_mesh for block in blocks if hasattr(block, "device_mesh")), None)


def share(size: int, parts: int, number: int) -> slice:
    """Which of ``size`` things are those of one of several ranks: runs of equal length, the last ones shorter."""
    length = -(-size // parts)
    return slice(min(size, number * length), min(size, (number + 1) * length))


def own_rows(X: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """The rows of X, (n, b), that are this rank's, plain; not a copy."""
    if mesh is None:
        return X
    if mesh_of(X) is None:
        return X[share(len(X), mesh.size(), mesh.get_local_rank())]
    from torch.distributed.tensor import Shard

    # Nothing moves if they are sharded so already.
    return X.redistribute(placements=[Shard(0)]).to_local()  # type: ignore[attr-defined, no-any-return]


def spread(rows: Tensor, mesh: DeviceMesh | None, n: int) -> Tensor:
    """The block of n rows of which ``rows`` are this rank's."""
    if mesh is None:
        return rows
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((n, rows.shape[1]))
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=(1, n))


def placed(X: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """X, (n, b), with its rows spread over ``mesh``; X itself if that is None."""
    return X if mesh is None else spread(own_rows(X, mesh), mesh, len(X))


def on_rows(function: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """What a ``function`` makes of X that treats every row by itself."""
    mesh = mesh_of(X)
    return function(X) if mesh is None else spread(function(own_rows(X, mesh)), mesh, len(X))


def whole(X: Tensor) -> Tensor:
    """X as a plain tensor, the same on every rank; all ranks must call it.

    Args:
        X: (n, b), plain or a DTensor.

    Cost: none for a plain tensor; else all its numbers go to every rank.
    """
    return X if mesh_of(X) is None else X.full_tensor()  # type: ignore[attr-defined]


def taken_rows(own: Callable[[Tensor], Tensor], indices: Tensor, n: int, mesh: DeviceMesh | None) -> Tensor:
    """Rows of an (n, k) block by their numbers, (len(indices), k), whole on every rank; all ranks must call it.

    Args:
        own: gives those of this rank, by their numbers among these.
        indices: the numbers.
        n: rows in all.
        mesh: the ranks that they are spread over, if any.

    Cost: as many rows go to every rank.
    """
    if mesh is None:
        return own(indices)
    ends = share(n, mesh.size(), mesh.get_local_rank())
    here = (indices >= ends.start) & (indices < ends.stop)
    found = own(indices[here] - ends.start)
    total = found.new_zeros(len(indices), found.shape[1])
    total[here.to(total.device)] = found
    return summed(total, mesh)


def rows_of(X: Tensor, indices: Tensor) -> Tensor:
    """Rows of X, (n, k), by their numbers, as `taken_rows`."""
    mesh = mesh_of(X)
    return taken_rows(lambda own: own_rows(X, mesh)[own], indices, len(X), mesh)


def is_spread(X: object) -> bool:
    """Whether a block, or an operator by its blocks, has its rows spread over ranks."""
    return hasattr(X, "device_mesh") or getattr(X, "row_mesh", None) is not None


def require_whole(X: object, what: str) -> None:
    """Refuse rows that are spread, where there is no sum over ranks.

    Raises:
        TypeError: they are.
    """
    if is_spread(X):
        raise TypeError(
            f"{what} has its rows spread over ranks: gather them on all ranks by eigenspan.linops.distributed.whole, "
            "and make the subspace of what that gives"
        )


# -- small matrices ---------------------------------------------------------------------------------------------------


def summed(small: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """The sum over ranks of small matrices, the same bits on each; ``small`` itself if ``mesh`` is None."""
    if mesh is None:
        return small
    total = small.to(mesh.device_type, copy=True).contiguous()
    torch.distributed.all_reduce(total, group=mesh.get_group())
    return total.to(small.device)


def gathered(small: Tensor, mesh: DeviceMesh) -> Tensor:
    """Small vectors of all ranks, (b,) each, as a (ranks, b) matrix."""
    parts = small.new_zeros(mesh.size(), len(small))
    parts[mesh.get_local_rank()] = small
    return summed(parts, mesh)


def agreed(small: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """The small matrix, once it is known to have the same bits on all ranks.

    Each rank computes its own from the same sums. Coefficients that differ by a rounding may be of other eigenvectors
    of a cluster, and rows combined with them of no vectors at all.

    Raises:
        RuntimeError: it differs between ranks.
    """
    if mesh is None:
        return small
    own = small.to(mesh.device_type).contiguous()
    first = own.clone()
    torch.distributed.broadcast(first, group=mesh.get_group(), group_src=0)
    if not torch.equal(first, own):
        raise RuntimeError(
            f"rank {mesh.get_local_rank()} computed other coefficients than the first rank from the same sums: run all "
            "ranks on machines of one kind, with the same number of threads"
        )
    return small


# -- columns ----------------------------------------------------------------------------------------------------------


def own_columns(X: Tensor, mesh: DeviceMesh) -> Tensor:
    """The columns of X, (n, b), that are this rank's to multiply, whole: (n, w) and contiguous.

    Cost: none for a plain X; else n b numbers are exchanged in all.
    """
    (n, b), p, rank = X.shape, mesh.size(), mesh.get_local_rank()
    if mesh_of(X) is None:
        return X.mT[share(b, p, rank)].contiguous().mT
    width = _length(share(b, p, rank))
    heights = [_length(share(n, p, s)) for s in range(p)]
    received = _exchanged(
        own_rows(X, mesh).mT.reshape(-1),
        [_length(share(b, p, s)) * heights[rank] for s in range(p)],
        [width * height for height in heights],
        mesh,
    )
    parts = torch.split(received, [width * height for height in heights])
    return torch.cat([part.view(width, height) for part, height in zip(parts, heights, strict=True)], dim=1).mT


def rows_of_columns(Y: Tensor, b: int, mesh: DeviceMesh) -> Tensor:
    """The (n, b) block, its rows spread, of which Y, (n, w), is this rank's `own_columns`.

    Cost: n b numbers are exchanged in all.
    """
    n, p, rank = len(Y), mesh.size(), mesh.get_local_rank()
    widths = [_length(share(b, p, s)) for s in range(p)]
    ends = [share(n, p, s) for s in range(p)]
    received = _exchanged(
        torch.cat([Y.mT[:, rows].reshape(-1) for rows in ends]),
        [widths[rank] * _length(rows) for rows in ends],
        [width * _length(ends[rank]) for width in widths],
        mesh,
    )
    return spread(received.view(b, _length(ends[rank])).mT, mesh, n)


def all_columns(Y: Tensor, b: int, mesh: DeviceMesh) -> Tensor:
    """The (n, b) block, plain, of which Y, (n, w), is this rank's `own_columns`.

    Cost: n b numbers go to every rank.
    """
    from torch.distributed.tensor import DTensor, Shard

    n = len(Y)
    shape = torch.Size((b, n))
    columns = DTensor.from_local(Y.mT.contiguous(), mesh, [Shard(0)], run_check=False, shape=shape, stride=(n, 1))
    return columns.full_tensor().mT


def _exchanged(sent: Tensor, to_each: list[int], from_each: list[int], mesh: DeviceMesh) -> Tensor:
    # DTensor.redistribute does the same on GPUs; on CPUs it sends the whole block to every rank.
    received = sent.new_empty(sum(from_each))
    torch.distributed.all_to_all_single(received, sent, from_each, to_each, group=mesh.get_group())
    return received


def _length(part: slice) -> int:
    return int(part.stop - part.start)
