"""Products with the shares that micro-batches have in a curvature matrix, by reverse passes through kept graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..parameters import ParameterSpace

Tensors = tuple[Tensor, ...]

Share = Callable[[Tensors, bool], Tensors]
"""A linear map of tensors like the selected parameters, in their order.

Called with one vector, or (True as the second argument) with a block whose columns stand along a new first dimension.
"""


def pullback(outputs: Sequence[Tensor], inputs: Tensors, cotangents: Sequence[Tensor], batched: bool) -> Tensors:
    """The vector-Jacobian product of ``outputs`` by ``inputs`` along their graph, which is kept.

    What does not depend on the inputs, linear losses and unused parameters among it, gives zeros.

    Cost: a reverse pass; with ``batched``, one for all columns at once.
    """
    attached = [
        (output, cotangent) for output, cotangent in zip(outputs, cotangents, strict=True) if output.requires_grad
    ]
    images: Sequence[Tensor | None] = [None] * len(inputs)
    if attached:
        images = torch.autograd.grad(
            [output for output, _ in attached],
            inputs,
            [cotangent for _, cotangent in attached],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )
    columns = cotangents[0].shape[:1] if batched else ()
    return tuple(
        tensor.new_zeros(*columns, *tensor.shape) if image is None else image
        for image, tensor in zip(images, inputs, strict=True)
    )


def differentiable_gradient(outputs: Tensors, inputs: Tensors, cotangents: Tensors | None = None) -> Tensors:
    """The gradient of ``outputs`` by ``inputs``, with its own graph; zeros where there is no dependence."""
    if not any(output.requires_grad for output in outputs):
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    parts = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True, allow_unused=True)
    return tuple(torch.zeros_like(tensor) if part is None else part for part, tensor in zip(parts, inputs, strict=True))


def summed_product(shares: Iterable[Share], parameters: ParameterSpace, X: Tensor, chunk_size: int) -> Tensor:
    """Σ_b M_b X for the shares M_b, (n, k), with ``chunk_size`` columns of X at a time.

    Raises:
        RuntimeError: a share that cannot be vectorised over columns, which ``chunk_size=1`` does without; data or
            buffers that were changed in place since its graph was built.

    Cost: each share once a chunk, and one (n, k) block.
    """
    n, k = X.shape
    total = torch.zeros(k, n, dtype=X.dtype, device=X.device).mT
    for share in shares:
        for start in range(0, k, chunk_size):
            columns = slice(start, min(start + chunk_size, k))
            total[:, columns] += multiplied(share, parameters, X[:, columns])
    return total


def multiplied(share: Share, parameters: ParameterSpace, X: Tensor) -> Tensor:
    """M X for one share M and an (n, c) block, all columns at once."""
    batched = X.shape[1] > 1
    vectors = parameters.unflatten(X if batched else X[:, 0])
    try:
        images = share(tuple(vectors.values()), batched)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            raise RuntimeError(
                "the data, or what the model keeps in place, were changed after the operator was built, which keeps "
                f"their graph: build it anew, from copies if they change often ({error})"
            ) from error
        if not batched:
            raise
        raise RuntimeError(
            f"the product could not be vectorised over {X.shape[1]} columns ({error}); if the model branches on values "
            "or uses an operation without a batching rule, pass chunk_size=1; if memory ran out, a smaller chunk_size"
        ) from error
    block = parameters.flatten(dict(zip(vectors, images, strict=True)))
    return block if batched else block[:, None]
