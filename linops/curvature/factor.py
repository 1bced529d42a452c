"""Factors of Gauss-Newton and Fisher matrices: roots of the loss's curvature, times the Jacobian of the outputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from ..memory import allowance
from ..operator import LinearOperator
from ..parameters import ParameterSpace
from ..structure import Structure
from .gauss_newton import GaussNewtonOperator, Outputs, Root, by_sample, by_tensor, points_of
from .guards import prepare_forward_mode
from .plan import ProductPlan
from .products import (
    Linearised,
    Share,
    Tensors,
    by_columns,
    chunks,
    column_by_column,
    duals,
    pullback,
    pushforward,
    tangents_of,
)
from .rows import Rows, row_gram
from .sample_graph import SampleGraph


class Factor(LinearOperator):
    """B = [L_b J_b], (m, n), with BᵀB = Σ_b J_bᵀ L_bᵀ L_b J_b: a Gauss-Newton or Fisher matrix as a product.

    J_b is the Jacobian of the outputs of batch b by the parameters, L_b a root of the curvature between the two, as the
    operator defines it whose ``factor()`` this is. The rows follow the samples in the order of the data, however they
    are cut into batches. Where they are few, BBᵀ tells all of BᵀB that is not zero, see `row_gram`.

    Args:
        operator: the matrix BᵀB. Its risk, point and plan are shared.

    Raises:
        TypeError: an operator without a root.
        ValueError: outputs whose first dimension is not that of the samples; data that are shuffled anew for each pass.

    Cost: about two forward passes over the data a column, and two for Bᵀ.
    """

    def __init__(self, operator: GaussNewtonOperator) -> None:
        self._halves = _Halves(operator)
        # Data that memory holds are kept in the order of the first pass.
        require_order(operator._risk._batches._data, "a factor")
        self._rows_at_hand: Rows | None = None
        space = self._halves.parameters
        super().__init__((self._halves.rows(), space.size), space.dtype, space.device, Structure.NONE)

    @property
    def parameters(self) -> ParameterSpace:
        """The coordinates of the columns: names, slices, labels, and the point."""
        return self._halves.parameters

    def _content(self) -> Any:
        whole = self._halves._whole
        return [type(whole).__qualname__, whole._content(), whole._risk.content(ordered=True)]

    def plan(self, columns: int = 1, products: int | None = None) -> ProductPlan:
        """How products are computed, see `CurvatureOperator.plan`: as those of BᵀB.

        Args:
            columns: of the blocks to come.
            products: how many are to come, if that is known.

        Raises:
            ValueError: see there.

        Cost: that of the trial.
        """
        return self._halves.plan(columns, products)

    def release(self) -> None:
        """Gives back what is kept between products; the next one builds it anew.

        Cost: none.
        """
        self._halves.release()
        self._rows_at_hand = None

    def row_gram(self, memory_budget: int | None = None) -> Tensor:
        """B Bᵀ, the inner products of the rows: a new (m, m) tensor in float64, in which they are summed.

        The rows are pulled back to the parameters sample by sample. A weight W, (out, in), that is used in linear
        layers x -> W x + b alone has gradients Σ_p δ_p a_pᵀ, summed over the positions p of a sample: a are the inputs
        of the layer, δ the slopes of a row by its outputs. They are not formed where there are at most √in positions:
        the inner product of two is Σ_pq ⟨a_p, a_q⟩ ⟨δ_p, δ_q⟩. All other parameters have explicit rows.

        Rows that the budget holds at once are kept for the products with B and Bᵀ to come, until ``release()``.

        Args:
            memory_budget: bytes that rows may take; by default a quarter of what is free.

        Raises:
            ValueError: a budget below one.

        Cost: a forward pass for each sample and a reverse pass for each row; where the budget holds a p-th part of the
        rows, p of them. m² flops for each explicit column and for each of δ and, of a only, for samples.
        """
        budget = allowance(memory_budget, self.device)
        with self._halves.at_point(), torch.enable_grad():
            products, rows = row_gram(self._halves.samples, self.parameters, self.shape[0], budget)
        self._rows_at_hand = rows
        return products

    def _matmat(self, X: Tensor) -> Tensor:
        if self._rows_at_hand is not None:
            return self._rows_at_hand._matmat(X)
        X = by_columns(X)

        def pushed(pieces: Iterable[Share], chunk_size: int) -> Tensor:
            rows = torch.empty(X.shape[1], self.shape[0], dtype=X.dtype, device=X.device)
            for piece, where in _placed(pieces):
                for columns, block in chunks(X, chunk_size):
                    vectors = tuple(self.parameters.unflatten(block).values())
                    rows[columns, where] = by_sample(_applied(piece.push, vectors))[: columns.stop - columns.start]
            return rows.mT

        return self._halves._planned(pushed, max(X.shape[1], 1))

    def _rmatmat(self, Y: Tensor) -> Tensor:
        if self._rows_at_hand is not None:
            return self._rows_at_hand._rmatmat(Y)

        def pulled(pieces: Iterable[Share], chunk_size: int) -> Tensor:
            total = torch.zeros(Y.shape[1], self.shape[1], dtype=torch.float64, device=Y.device)
            for piece, where in _placed(pieces):
                for columns, block in chunks(Y[where], chunk_size):
                    images = _applied(piece.pull, by_tensor(block.mT, piece.shapes))
                    image = self.parameters.flatten(dict(zip(self.parameters.names, images, strict=True))).mT
                    total[columns] += image[: columns.stop - columns.start]
            return total.to(Y.dtype).mT

        return self._halves._planned(pulled, max(Y.shape[1], 1))


_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def require_order(data: Any, what: str) -> None:
    """Rows follow the data.

    Raises:
        ValueError: a DataLoader that shuffles them.
    """
    samplers = (getattr(holder, "sampler", None) for holder in (data, getattr(data, "batch_sampler", None)))
    if any(isinstance(sampler, _SHUFFLING) for sampler in samplers):
        raise ValueError(
            f"the rows of {what} follow the data, which this DataLoader shuffles anew for each pass: build it with "
            "shuffle=False, or pass list(loader)"
        )


@attrs.frozen
class _Piece:
    """The rows of a micro-batch: v -> B v, y -> Bᵀ y, and the shapes of the tensors of rows."""

    push: Share
    pull: Share
    shapes: list[torch.Size]

    def __call__(self, vectors: Tensors, batched: bool) -> Tensors:
        """Its share in BᵀB."""
        return self.pull(self.push(vectors, batched), batched)


def _placed(pieces: Iterable[Share]) -> Iterator[tuple[_Piece, slice]]:
    """Pieces with their places among the rows."""
    start = 0
    for piece in pieces:
        assert isinstance(piece, _Piece)
        rows = sum(shape.numel() for shape in piece.shapes)
        yield piece, slice(start, start + rows)
        start += rows


class _Halves(GaussNewtonOperator):
    """BᵀB at the same point, by the same plan, whose micro-batches are kept in two parts, B and Bᵀ."""

    def __init__(self, operator: GaussNewtonOperator) -> None:
        vars(self).update(operator.__getstate__())
        self._whole = operator

    def _outputs(self, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
        return self._whole._outputs(theta, batch)

    def _root(self, outputs: Outputs, points: Tensors) -> Root:
        return self._whole._root(outputs, points)

    def _middle(self, outputs: Outputs, points: Tensors) -> Share:
        return self._whole._middle(outputs, points)

    @torch.no_grad()
    def rows(self) -> int:
        """The number of rows over all data."""
        total = 0
        with self._risk.conditions(), torch.enable_grad():
            for batch in self._risk.batches():
                total += sum(shape.numel() for shape in self._outputs_and_root(batch)[1].shapes)
        return total

    def at_point(self) -> contextlib.AbstractContextManager[None]:
        """The conditions that graphs are built and run in."""
        return self._risk.at_point(self._leaves)

    def samples(self, layers: Collection[str]) -> Iterator[SampleGraph]:
        """The rows of each sample; of each batch as it comes, where batches cannot be cut."""
        for batch in self._risk.batches_of(1 if self._risk.divisible else None):
            yield SampleGraph(functools.partial(self._outputs_and_root, batch), self._leaves, layers)

    def _outputs_and_root(self, batch: Any) -> tuple[Tensors, Root]:
        outputs = self._outputs(self._leaves, batch)
        return outputs.tensors, self._root(outputs, points_of(outputs))

    def _built(self, engine: str, batch: Any) -> Share:
        with torch.enable_grad():
            piece = self._graph_piece(batch, engine)
        return self._linearised_piece(piece) if engine == "linearised" else piece

    def _conditions_of(self, shares: Iterable[Share]) -> contextlib.AbstractContextManager[None]:
        return super()._conditions_of(part for piece, _ in _placed(shares) for part in (piece.push, piece.pull))

    def _graph_piece(self, batch: Any, engine: str) -> _Piece:
        theta = tuple(self._leaves.values())
        outputs, root = self._outputs_and_root(batch)
        if engine == "forward":
            prepare_forward_mode()
            forward = self._forward_push(batch)
        else:
            forward = pushforward(outputs, theta)

        def push(vectors: Tensors, batched: bool) -> Tensors:
            return root.push(forward(vectors, batched), batched)

        def pull(rows: Tensors, batched: bool) -> Tensors:
            return pullback(outputs, theta, root.pull(rows, batched), batched)

        return _Piece(push, pull, root.shapes)

    def _forward_push(self, batch: Any) -> Share:
        def push(vector: Tensors) -> Tensors:
            with self._risk.conditions(), torch.enable_grad(), dual_level():
                outputs = self._outputs(duals(self._leaves, vector), batch).tensors
                return tuple(tangent.detach() for tangent in tangents_of(outputs, outputs))

        return column_by_column(push)

    def _linearised_piece(self, piece: _Piece) -> _Piece:
        space = self._risk.parameters
        rows = tuple(torch.empty(shape, dtype=space.dtype, device=space.device) for shape in piece.shapes)
        push = Linearised(piece.push, tuple(self._leaves.values()), self._compile)
        return _Piece(push, Linearised(piece.pull, rows, self._compile), piece.shapes)


def _applied(share: Share, vectors: Tensors) -> Tensors:
    """The share of a block, whose single column goes without the dimension of columns."""
    if len(vectors[0]) > 1:
        return share(vectors, True)
    return tuple(image[None] for image in share(tuple(vector[0] for vector in vectors), False))
