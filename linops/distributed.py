"""Operators whose products are shared out among the ranks of a job of torch.distributed: data, columns, rows.

All ranks run the same program, and call products and solvers together, on the same operator of the same blocks.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from .curvature import CurvatureOperator
from .curvature.data import first_samples, is_batch, length, without_first
from .curvature.factor import require_order
from .fingerprint import DataDigest
from .jobs import job
from .operator import LinearOperator
from .parameters import ParameterSpace
from .sharding import all_columns, own_columns, rows_of_columns, summed, whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["ColumnParallel", "DataParallel", "RowSharded", "job", "share_of", "whole"]


def share_of(data: Any, mesh: DeviceMesh) -> Any:
    """This rank's share of a data set: every p-th of its batches, or a run of the samples of a single batch.

    Args:
        data: what `CurvatureOperator` takes, the same on all ranks. Where reading takes long, give each rank a loader
            of its own samples instead, by torch's ``DistributedSampler(..., shuffle=False)`` of a data set whose length
            the ranks divide: it repeats samples otherwise.
        mesh: the ranks, along one axis.

    Raises:
        ValueError: fewer batches or samples than ranks; batches that are shuffled anew for each pass.

    Cost: none; a share of a single batch is a view.
    """
    ranks, rank = mesh.size(), mesh.get_local_rank()
    if is_batch(data):
        samples = length(data)
        if samples < ranks:
            raise ValueError(f"a batch of {samples} samples has no share for each of {ranks} ranks")
        start, stop = rank * samples // ranks, (rank + 1) * samples // ranks
        return first_samples(without_first(data, start), stop - start)
    require_order(data, "a share of data")
    if hasattr(data, "__len__") and len(data) < ranks:
        raise ValueError(f"{len(data)} batches have no share for each of {ranks} ranks: cut them smaller")
    return data[rank::ranks] if isinstance(data, list) else _Dealt(data, ranks, rank)


@attrs.frozen
class _Dealt:
    """Every p-th batch of a re-iterable."""

    data: Iterable[Any]
    ranks: int
    rank: int

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.data), self.rank, None, self.ranks)


def meshes_of(A: LinearOperator) -> list[DeviceMesh]:
    """The axes of ranks that share out an operator or parts of it; none for an operator of this process alone.

    Args:
        A: an operator.

    Cost: none.
    """
    found = [A.ranks] if isinstance(A, _Shared) else []
    for value in vars(A).values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, LinearOperator):
                found += [mesh for mesh in meshes_of(part) if mesh not in found]
    return found


def least(number: float, A: LinearOperator) -> float:
    """The least of a number that the ranks of an operator have, such as a time, by which all are to decide alike.

    Those of an operator of this process alone have but one. All ranks must call it.
    """
    for mesh in meshes_of(A):
        found = torch.tensor([number], dtype=torch.float64, device=mesh.device_type)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN, group=mesh.get_group())
        number = float(found)
    return number


class _Shared(LinearOperator):
    """What the operators of a job share: a part, or a copy, on every rank, and the ranks."""

    def __init__(self, A: LinearOperator, mesh: DeviceMesh) -> None:
        if not isinstance(A, LinearOperator):
            raise TypeError(f"{type(self).__name__} takes an operator, got {type(A).__name__}: see as_operator")
        if mesh.ndim != 1:
            raise ValueError(f"{type(self).__name__} takes one axis of a mesh, such as mesh['data'], got {mesh}")
        if A.device.type != mesh.device_type:
            raise TypeError(f"{A} cannot be shared out among ranks on {mesh.device_type}")
        super().__init__(A.shape, A.dtype, A.device, A.structure)
        self.A, self.ranks = A, mesh
        kind = [*A.shape, torch.finfo(A.dtype).eps, float(self._is_mean)]
        self._require_same(torch.tensor(kind, dtype=torch.float64), "shapes, dtypes or reductions of the loss")
        if hasattr(A, "parameters"):
            self._require_same(A.parameters.values, "parameters: load the same checkpoint, or seed them alike")

    @property
    def _is_mean(self) -> bool:
        """Whether it is of a mean over data."""
        A = self.A
        return isinstance(A, CurvatureOperator) and A._risk.loss.reduction == "mean"

    def _require_same(self, own: Tensor, what: str) -> None:
        first = own.detach().to(self.ranks.device_type, copy=True).contiguous()
        torch.distributed.broadcast(first, group=self.ranks.get_group(), group_src=0)
        different = torch.tensor([float(not torch.equal(first, own.to(first.device)))])
        if float(summed(different, self.ranks)) > 0:
            raise ValueError(f"the operators of the {self.ranks.size()} ranks differ in their {what}")

    @property
    def parameters(self) -> ParameterSpace:
        """The coordinates of a curvature operator."""
        space: ParameterSpace = self.A.parameters  # type: ignore[attr-defined]
        return space

    def loss(self) -> float:
        """The loss over the whole data set.

        Cost: none.
        """
        value: float = self.A.loss()  # type: ignore[attr-defined]
        return value

    def gradient(self) -> Tensor:
        """Its gradient, (n,).

        Cost: one backward pass over the data.
        """
        slope: Tensor = self.A.gradient()  # type: ignore[attr-defined]
        return slope


class DataParallel(_Shared):
    """Σ_r w_r A_r over the ranks r of a job: the operator of all data, of which each rank has that of its share.

    For curvature operators w_r is the part of the weight of all data that is in the share of r (1 for a summed loss),
    so that the sum is that of the whole data set, however the shares are cut; ``loss()`` and ``gradient()`` are too.
    For other operators w_r is 1. Blocks are plain, and the same on all ranks.

    Args:
        A: the operator of this rank's share, see `share_of`, at the same point on all ranks.
        mesh: the ranks, along one axis of a mesh.

    Raises:
        ValueError: operators of different shapes or points; a mesh of more axes.
        TypeError: no operator, or one on another kind of device.

    Cost: one product of A, on all ranks at once, and the sum of a block over them, an all-reduce.
    """

    def __init__(self, A: LinearOperator, mesh: DeviceMesh) -> None:
        super().__init__(A, mesh)
        self.weight = 1.0
        if isinstance(A, CurvatureOperator) and self._is_mean:
            own = torch.tensor([A._risk.total_weight], dtype=torch.float64)
            self.weight = float(own / summed(own, mesh))

    def _matmat(self, X: Tensor) -> Tensor:
        return self._total(self.A._matmat(X))

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self._total(self.A._rmatmat(X))

    def _content(self) -> Any:
        """What that of one process on all data has, whoever has which samples; of operators without data, products."""
        return self._of_all_data(self.A._content()) if isinstance(self.A, CurvatureOperator) else None

    def _of_all_data(self, content: Any) -> Any:
        if isinstance(content, DataDigest):
            shares: list[Any] = [None] * self.ranks.size()
            torch.distributed.all_gather_object(shares, content, group=self.ranks.get_group())
            return functools.reduce(operator.add, shares)
        return [self._of_all_data(part) for part in content] if isinstance(content, list) else content

    def loss(self) -> float:
        """The loss over the whole data set. Cost: the sum of a number over the ranks."""
        return float(self._total(torch.tensor([super().loss()], dtype=torch.float64)))

    def gradient(self) -> Tensor:
        """Its gradient, (n,). Cost: one backward pass over each share."""
        return self._total(super().gradient())

    def _total(self, part: Tensor) -> Tensor:
        weighted = part if self.weight == 1.0 else self.weight * part
        return summed(weighted.mT, self.ranks).mT if part.ndim == 2 else summed(weighted, self.ranks)


class ColumnParallel(_Shared):
    """A itself, with the columns of a block shared out among the ranks of a job, and gathered on all.

    Blocks are plain, and the same on all ranks: every rank holds the whole basis of a solver, and computes the same
    with it. Of fewer columns than ranks some ranks have none to multiply.

    Args:
        A: an operator, the same on all ranks.
        mesh: the ranks, along one axis of a mesh.

    Raises:
        ValueError: operators of different shapes or points; a mesh of more axes.
        TypeError: no operator, or one on another kind of device.

    Cost: one product of A with a p-th part of the columns, on all p ranks at once, and their gathering.
    """

    def _matmat(self, X: Tensor) -> Tensor:
        return self._shared_out(self.A._matmat, X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self._shared_out(self.A._rmatmat, X)

    def _shared_out(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        return all_columns(product(own_columns(X, self.ranks)), X.shape[1], self.ranks)


class RowSharded(ColumnParallel):
    """A itself, with the rows of blocks spread over the ranks of a job: each of p holds an n/p-th of every vector.

    A product exchanges rows for columns, multiplies those of this rank, whole, and exchanges back. Blocks are DTensors
    sharded along dimension 0, or plain tensors that are the same on all ranks; products are DTensors. A solver keeps
    its basis so, sums Gram matrices over the ranks, and gives eigenvectors that `whole` gathers.

    Share out data first, then rows: ``RowSharded(DataParallel(A, mesh["data"]), mesh["rows"])``. It is not made part of
    a larger operator: what is to be scaled or added goes into A.

    Args:
        A: an operator, the same on all ranks.
        mesh: the ranks, along one axis of a mesh.

    Raises:
        ValueError: operators of different shapes or points; a mesh of more axes.
        TypeError: no operator, or one on another kind of device.

    Cost: one product of A with a p-th part of the columns, on all p ranks at once; 2 n b / p numbers sent and received
    by each, for b columns.
    """

    def __init__(self, A: LinearOperator, mesh: DeviceMesh) -> None:
        super().__init__(A, mesh)
        self.row_mesh = mesh

    def _shared_out(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        return rows_of_columns(product(own_columns(X, self.ranks)), X.shape[1], self.ranks)
