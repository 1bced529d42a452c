"""Linear maps of parameter tensors, applied to blocks of columns: vectorised in chunks, summed over micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..parameters import ParameterSpace

TensorMap = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""A linear map of one vector, given and returned as parameter tensors by name."""

_COLUMN_BUDGET = 512 * 2**20
_MOST_COLUMNS = 32


def default_chunk_size(parameters: ParameterSpace, activation_bytes: int) -> int:
    """Columns to vectorise at once so that they take about half a gibibyte, 1 to 32.

    A column of a second-order product holds cotangents of all that a backward pass keeps and computes: about four times
    the activations, and four copies of the parameters.
    """
    column = 4 * (activation_bytes + parameters.size * parameters.values.element_size())
    return max(1, min(_MOST_COLUMNS, _COLUMN_BUDGET // max(column, 1)))


def summed_product(maps: Iterable[TensorMap], parameters: ParameterSpace, X: Tensor, chunk_size: int) -> Tensor:
    """Σ_b M_b X for linear maps M_b, (n, k), with ``chunk_size`` columns of X vectorised at a time.

    Raises:
        RuntimeError: a map that cannot be vectorised over columns; ``chunk_size=1`` does without.

    Cost: each map once a chunk, and one (n, k) block.
    """
    n, k = X.shape
    total = torch.zeros(k, n, dtype=X.dtype, device=X.device).mT
    for apply in maps:
        for start in range(0, k, chunk_size):
            chunk = slice(start, min(start + chunk_size, k))
            total[:, chunk] += parameters.flatten(_apply(apply, parameters.unflatten(X[:, chunk]), chunk_size))
    return total


def _apply(apply: TensorMap, vectors: dict[str, Tensor], chunk_size: int) -> dict[str, Tensor]:
    """The map of each column of the vectors, of shapes (columns, …)."""
    if next(iter(vectors.values())).shape[0] == 1:
        image = apply({name: vector[0] for name, vector in vectors.items()})
        return {name: tensor[None] for name, tensor in image.items()}
    try:
        return torch.vmap(apply)(vectors)
    except RuntimeError as error:
        raise RuntimeError(
            f"the product could not be vectorised over {chunk_size} columns ({error}); if the model branches on values "
            "or uses an operation without a batching rule, pass chunk_size=1; if memory ran out, a smaller chunk_size"
        ) from error
