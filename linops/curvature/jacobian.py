"""The Jacobian of a model's outputs by its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from ..operator import LinearOperator
from ..parameters import ParameterSpace, Selection
from ..structure import Structure
from .data import length
from .gauss_newton import GaussNewtonOperator, Outputs
from .ggn import model_outputs
from .guards import prepare_forward_mode
from .loss import Loss
from .outputs import taken_apart
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


class Jacobian(LinearOperator):
    """J = ∂f(θ)/∂θ, (m, n): the derivatives of a model's outputs over a data set by its parameters.

    The rows follow the samples in the order of the data, each with the entries of its output one after the other (of
    its outputs, where the model returns several tensors). ``J.T`` is the transpose, ``J.T @ J`` the GGN of a sum of
    half squares.

    Args:
        model: the network, in evaluation mode. It is not changed, and training it further does not change the operator.
        data: a batch ``(inputs, target)``, or a list, DataLoader or other re-iterable of batches, in a fixed order. The
            targets are not used.
        parameters: which parameters are coordinates, see `CurvatureOperator`, as for the others.
        chunk_size: columns at once.
        micro_batch_size: the most samples at once.
        memory_budget: bytes that products may take.
        engine: how products are computed; the plan is that of JᵀJ.
        compile: whether ``torch.compile`` translates linear programs.

    Raises:
        ValueError: see `Risk`; data that are shuffled anew for each pass; outputs whose first dimension is not that of
            the samples.
        TypeError: a model that returns no tensor that depends on the parameters.

    Cost: about two forward passes over the data a column, and two for Jᵀ.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        *,
        parameters: Selection = None,
        chunk_size: int | None = None,
        micro_batch_size: int | None = None,
        memory_budget: int | None = None,
        engine: str | None = None,
        compile: bool = False,
    ) -> None:
        samplers = (getattr(holder, "sampler", None) for holder in (data, getattr(data, "batch_sampler", None)))
        if any(isinstance(sampler, _SHUFFLING) for sampler in samplers):
            raise ValueError(
                "the rows of a Jacobian follow the data, which this DataLoader shuffles anew for each pass: build it "
                "with shuffle=False, or pass list(loader)"
            )
        self._gram = _Gram(
            model,
            Loss(_sum_of_outputs, reduction="sum"),
            data,
            parameters=parameters,
            chunk_size=chunk_size,
            micro_batch_size=micro_batch_size,
            memory_budget=memory_budget,
            engine=engine,
            compile=compile,
        )
        space = self._gram.parameters
        super().__init__((self._gram.rows(), space.size), space.dtype, space.device, Structure.NONE)

    @property
    def parameters(self) -> ParameterSpace:
        """The coordinates of the columns: names, slices, labels, and the point."""
        return self._gram.parameters

    def plan(self, columns: int = 1, products: int | None = None) -> ProductPlan:
        """How products are computed, see `CurvatureOperator.plan`."""
        return self._gram.plan(columns, products)

    def release(self) -> None:
        """Gives back what is kept between products; the next one builds it anew."""
        self._gram.release()

    def _matmat(self, X: Tensor) -> Tensor:
        X = by_columns(X)

        def pushed(pieces: Iterable[Share], chunk_size: int) -> Tensor:
            rows = torch.empty(X.shape[1], self.shape[0], dtype=X.dtype, device=X.device)
            for piece, where in _placed(pieces):
                for columns, block in chunks(X, chunk_size):
                    vectors = tuple(self.parameters.unflatten(block).values())
                    rows[columns, where] = _by_sample(_applied(piece.push, vectors))[: columns.stop - columns.start]
            return rows.mT

        return self._gram._planned(pushed, max(X.shape[1], 1))

    def _rmatmat(self, Y: Tensor) -> Tensor:
        def pulled(pieces: Iterable[Share], chunk_size: int) -> Tensor:
            total = torch.zeros(Y.shape[1], self.shape[1], dtype=torch.float64, device=Y.device)
            for piece, where in _placed(pieces):
                for columns, block in chunks(Y[where], chunk_size):
                    images = _applied(piece.pull, _by_tensor(block.mT, piece.shapes))
                    image = self.parameters.flatten(dict(zip(self.parameters.names, images, strict=True))).mT
                    total[columns] += image[: columns.stop - columns.start]
            return total.to(Y.dtype).mT

        return self._gram._planned(pulled, max(Y.shape[1], 1))


_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@attrs.frozen
class _Piece:
    """The rows of a micro-batch: v -> J v, u -> Jᵀ u, and the shapes of the output's tensors."""

    push: Share
    pull: Share
    shapes: list[torch.Size]

    def __call__(self, vectors: Tensors, batched: bool) -> Tensors:
        """Its share in JᵀJ."""
        return self.pull(self.push(vectors, batched), batched)


def _placed(pieces: Iterable[Share]) -> Iterator[tuple[_Piece, slice]]:
    """Pieces with their places among the rows."""
    start = 0
    for piece in pieces:
        assert isinstance(piece, _Piece)
        rows = sum(shape.numel() for shape in piece.shapes)
        yield piece, slice(start, start + rows)
        start += rows


class _Gram(GaussNewtonOperator):
    """JᵀJ, which has the plan and the pieces of J."""

    def _known_structure(self) -> Structure:
        return Structure.PSD

    def _outputs(self, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
        outputs = model_outputs(self._risk, theta, batch)
        samples = length(batch)
        if any(tensor.ndim == 0 or len(tensor) != samples for tensor in outputs.tensors):
            shapes = [tuple(tensor.shape) for tensor in outputs.tensors]
            raise ValueError(
                f"the rows of a Jacobian follow the samples, but for {samples} of them the model returns tensors of "
                f"shapes {shapes}: wrap it so that the first dimension is that of the samples"
            )
        return outputs

    def _middle(self, outputs: Outputs, points: Tensors) -> Share:
        return lambda tangents, batched: tangents

    @torch.no_grad()
    def rows(self) -> int:
        """The number of output entries over all data."""
        total = 0
        with self._risk.conditions(), torch.enable_grad():
            for batch in self._risk.batches():
                total += sum(tensor.numel() for tensor in self._outputs(self._leaves, batch).tensors)
        return total

    def _built(self, engine: str, batch: Any) -> Share:
        with torch.enable_grad():
            piece = self._graph_piece(batch, engine)
        return self._linearised_piece(piece) if engine == "linearised" else piece

    def _conditions_of(self, shares: Iterable[Share]) -> contextlib.AbstractContextManager[None]:
        return super()._conditions_of(part for piece, _ in _placed(shares) for part in (piece.push, piece.pull))

    def _graph_piece(self, batch: Any, engine: str) -> _Piece:
        theta = tuple(self._leaves.values())
        outputs = self._outputs(self._leaves, batch).tensors
        shapes = [output.shape for output in outputs]

        def pull(cotangents: Tensors, batched: bool) -> Tensors:
            return pullback(outputs, theta, cotangents, batched)

        if engine == "forward":
            prepare_forward_mode()
            return _Piece(self._forward_push(batch), pull, shapes)
        return _Piece(pushforward(outputs, theta), pull, shapes)

    def _forward_push(self, batch: Any) -> Share:
        def push(vector: Tensors) -> Tensors:
            with self._risk.conditions(), torch.enable_grad(), dual_level():
                outputs = self._outputs(duals(self._leaves, vector), batch).tensors
                return tuple(tangent.detach() for tangent in tangents_of(outputs, outputs))

        return column_by_column(push)

    def _linearised_piece(self, piece: _Piece) -> _Piece:
        space = self._risk.parameters
        outputs = tuple(torch.empty(shape, dtype=space.dtype, device=space.device) for shape in piece.shapes)
        push = Linearised(piece.push, tuple(self._leaves.values()), self._compile)
        return _Piece(push, Linearised(piece.pull, outputs, self._compile), piece.shapes)


def _applied(share: Share, vectors: Tensors) -> Tensors:
    """The share of a block, whose single column goes without the dimension of columns."""
    if len(vectors[0]) > 1:
        return share(vectors, True)
    return tuple(image[None] for image in share(tuple(vector[0] for vector in vectors), False))


def _by_sample(images: Tensors) -> Tensor:
    """(k, rows) from tensors (k, samples, …)."""
    return torch.cat([image.flatten(2) if image.ndim > 2 else image[..., None] for image in images], 2).flatten(1)


def _by_tensor(rows: Tensor, shapes: list[torch.Size]) -> Tensors:
    """Tensors (k, samples, …) from (k, rows)."""
    widths = [shape[1:].numel() for shape in shapes]
    parts = torch.split(rows.reshape(len(rows), shapes[0][0], sum(widths)), widths, dim=2)
    return tuple(part.reshape(len(rows), *shape) for part, shape in zip(parts, shapes, strict=True))


def _sum_of_outputs(output: Any, target: Any) -> Tensor:
    """Something that depends on every entry and is a sum over samples; the squares keep it from cancelling."""
    tensors = [tensor for tensor in taken_apart(output)[0] if tensor.is_floating_point()]
    if not tensors:
        raise TypeError(f"a Jacobian needs a model whose outputs are real floating point, got {output!r}")
    return torch.stack([tensor.sum() + tensor.square().sum() for tensor in tensors]).sum()
