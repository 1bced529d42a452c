"""Rows of the factors of models at hand, and their inner products, in groups of columns that memory holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import attrs
import torch
from torch import Tensor

from ..operator import LinearOperator
from ..parameters import ParameterSpace
from ..row_gram import row_products
from .layer import LayerRows
from .sample_graph import NoLayersError, SampleGraph

_USABLE = 0.8  # of a memory budget for rows; the rest is for those that are being pulled back

Samples = Callable[[Collection[str]], Iterator[SampleGraph]]
"""From names of weights that are used in linear layers alone to the graphs of all samples, in order."""


def row_gram(
    samples: Samples, parameters: ParameterSpace, count: int, memory_budget: int
) -> tuple[Tensor, Rows | None]:
    """B Bᵀ in float64 for the factor B that has these rows, and the rows themselves if the budget holds them at once.

    Raises:
        ValueError: a budget that does not hold one column of B.
    """
    layers = {name for name, shape in parameters.shapes.items() if len(shape) == 2}
    while True:
        try:
            return _row_gram(samples, parameters, count, memory_budget, layers)
        except NoLayersError as found:  # noqa: PERF203 - once or twice
            layers -= found.names


def _row_gram(
    samples: Samples, parameters: ParameterSpace, count: int, memory_budget: int, layers: set[str]
) -> tuple[Tensor, Rows | None]:
    groups = _groups(_first(samples(layers)), parameters, count, memory_budget)
    layers = {name for group in groups for name in group.layers}
    products = torch.zeros(count, count, dtype=torch.float64, device=parameters.device)
    for group in groups:
        rows = _built(samples(layers), parameters, count, group)
        products += rows.row_gram()
        if len(groups) == 1:
            return products, rows
        del rows  # before the next ones are built
    return products, None


@attrs.frozen
class _Group:
    """What is built in one pass over the samples: layers by weight, and ranges of coordinates, each of one tensor.

    Attributes:
        most: rows of a sample to pull back at once.
    """

    layers: list[str]
    ranges: dict[str, slice]
    most: int


def _first(samples: Iterable[SampleGraph]) -> SampleGraph:
    return next(graph for graph in samples if graph.rows > 0)


def _groups(first: SampleGraph, parameters: ParameterSpace, count: int, memory_budget: int) -> list[_Group]:
    """All parameters in groups whose rows the budget holds, reckoned from those of the first sample."""
    size, usable = parameters.dtype.itemsize, int(_USABLE * memory_budget)
    column = count * size
    if usable < column:
        raise ValueError(
            f"memory_budget={memory_budget} bytes do not hold a column of {count} rows: allow at least "
            f"{int(column / _USABLE) + 1}"
        )
    groups = [_Group([], {}, 1)]
    left = usable
    for name, where in parameters.slices.items():
        out = parameters.shapes[name][0] if parameters.shapes[name] else 1
        inputs = first.inputs.get(name)
        needed = 0 if inputs is None else size * (count * len(inputs) * out + -(-count // first.rows) * inputs.numel())
        if inputs is not None and needed <= usable:
            if needed > left:
                groups, left = [*groups, _Group([], {}, 1)], usable
            groups[-1].layers.append(name)
            left -= needed
            continue
        start = where.start
        while start < where.stop:
            if left < column:
                groups, left = [*groups, _Group([], {}, 1)], usable
            stop = min(where.stop, start + left // column)
            groups[-1].ranges[name] = slice(start, stop)
            left -= (stop - start) * column
            start = stop
    return [_with_most(group, parameters, first.rows, memory_budget - usable) for group in groups]


def _with_most(group: _Group, parameters: ParameterSpace, rows: int, memory: int) -> _Group:
    entries = sum(parameters.shapes[name].numel() for name in group.ranges)
    affordable = memory // max(1, entries * parameters.dtype.itemsize)
    return attrs.evolve(group, most=max(1, min(rows, affordable)))


def _built(samples: Iterable[SampleGraph], parameters: ParameterSpace, count: int, group: _Group) -> Rows:
    """The columns of the group, of all rows."""
    like = parameters.values
    matrices = [like.new_empty(count, each.stop - each.start) for each in group.ranges.values()]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in group.layers]
    done = 0
    for graph in samples:
        parts = []
        for start in range(0, graph.rows, group.most):
            block = slice(start, min(start + group.most, graph.rows))
            gradients, slopes = graph.pulled(block, group.ranges, group.layers)
            rows = slice(done + block.start, done + block.stop)
            for matrix, gradient, (name, where) in zip(matrices, gradients, group.ranges.items(), strict=True):
                first = parameters.slices[name].start
                matrix[rows] = gradient[:, where.start - first : where.stop - first]
            parts.append(slopes)
        done += graph.rows
        if graph.rows > 0:
            for samples_of_layer, name, slopes in zip(kept, group.layers, zip(*parts, strict=True), strict=True):
                samples_of_layer.append((graph.inputs[name], torch.cat(slopes)))
        del graph  # before the next one is built
    explicit = zip(group.ranges.values(), matrices, strict=True)
    layers = zip((parameters.slices[name] for name in group.layers), map(LayerRows.of_samples, kept), strict=True)
    return Rows(count, parameters, list(explicit), list(layers))


class Rows(LinearOperator):
    """An (m, n) matrix by its columns: explicit ones in some ranges of coordinates, and those of linear layers.

    Cost: 2 m k flops a column that is explicit; for a layer (out, in) 2 k out in a position of a sample.
    """

    def __init__(
        self,
        count: int,
        parameters: ParameterSpace,
        explicit: list[tuple[slice, Tensor]],
        layers: list[tuple[slice, LayerRows]],
    ) -> None:
        super().__init__((count, parameters.size), parameters.dtype, parameters.device)
        self._explicit, self._layers = explicit, layers

    def row_gram(self, memory_budget: int | None = None) -> Tensor:
        """The inner products of the rows, (m, m) in float64. Cost: m² flops an explicit column, and see `LayerRows`."""
        products = torch.zeros(self.shape[0], self.shape[0], dtype=torch.float64, device=self.device)
        for _, matrix in self._explicit:
            products += row_products(matrix, matrix)
        for _, layer in self._layers:
            products += layer.row_gram()
        return products

    def _matmat(self, X: Tensor) -> Tensor:
        total = torch.zeros(self.shape[0], X.shape[1], dtype=torch.float64, device=X.device)
        for where, matrix in self._explicit:
            total += row_products(matrix, X[where].mT)
        for where, layer in self._layers:
            total += layer.pushed(X[where])
        return total.to(X.dtype)

    def _rmatmat(self, Y: Tensor) -> Tensor:
        result = Y.new_zeros(Y.shape[1], self.shape[1])
        for where, matrix in self._explicit:
            result[:, where].addmm_(Y.mT, matrix)
        for where, layer in self._layers:
            layer.pull(Y, result[:, where])
        return result.mT
