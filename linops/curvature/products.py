"""Products with the shares that micro-batches have in a curvature matrix, by several engines."""

from __future__ import annotations

import array
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..parameters import ParameterSpace
from ..programs.blocks import for_columns
from ..programs.emission import emitted, kept_bytes, working_bytes
from ..programs.program import LinearProgram
from ..programs.rewriting import simplified
from ..programs.tape import Tape

_log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]

Share = Callable[[Tensors, bool], Tensors]
"""A linear map of tensors like the selected parameters, in their order.

Called with one vector, or (True as the second argument) with a block whose columns stand along a new first dimension.
"""

ENGINES = {
    "linearised": "a linear program recorded from the graph, kept",
    "retained": "a reverse pass through the retained graph of the gradient",
    "forward": "forward over reverse mode, afresh for each column",
}
"""The ways to compute a product, by name; `CurvatureOperator` says when which is chosen."""

_WIDTHS_KEPT = 4


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
    _require_second_derivatives(part for part in parts if part is not None)
    return tuple(torch.zeros_like(tensor) if part is None else part for part, tensor in zip(parts, inputs, strict=True))


def _require_second_derivatives(gradients: Iterable[Tensor]) -> None:
    """Refuses what is marked as once differentiable, which another derivative would go past as if it were constant."""
    waiting: list[Any] = [gradient.grad_fn for gradient in gradients]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise RuntimeError(
                "the derivative of an autograd.Function marked as once_differentiable is not implemented"
            )
        waiting.extend(following for following, _ in node.next_functions)


def dual(tensor: Tensor, tangent: Tensor) -> Tensor:
    """A dual tensor, within its level."""
    made: Tensor = forward_ad.make_dual(tensor, tangent)  # type: ignore[no-untyped-call]
    return made


def tangents_of(duals: Sequence[Tensor | None], like: Tensors) -> Tensors:
    """The tangents of dual tensors, within their level; zeros where there are none."""
    tangents = [
        None if each is None else forward_ad.unpack_dual(each).tangent  # type: ignore[no-untyped-call]
        for each in duals
    ]
    return tuple(
        torch.zeros_like(tensor) if tangent is None else tangent for tangent, tensor in zip(tangents, like, strict=True)
    )


def duals(leaves: Mapping[str, Tensor], tangents: Tensors) -> dict[str, Tensor]:
    """Each of the named tensors with its tangent, within the level of dual tensors."""
    return {name: dual(tensor, tangent) for (name, tensor), tangent in zip(leaves.items(), tangents, strict=True)}


def pushforward(outputs: Tensors, inputs: Tensors) -> Share:
    """V -> J v along the graph of the outputs, which is kept.

    u -> Jᵀ u is linear, so that its own pullback is v -> J v: reverse mode throughout, which every layer has.
    """
    # Whatever they are, in theory; a rule that is linear in them may be written with logarithms or a branch at zero.
    seeds = tuple(_graded(output).requires_grad_() for output in outputs)
    transposed = differentiable_gradient(outputs, inputs, seeds)
    return lambda vectors, batched: pullback(transposed, seeds, vectors, batched)


def _graded(like: Tensor) -> Tensor:
    """Numbers from 1 to 2, all different."""
    return torch.linspace(1, 2, like.numel(), dtype=like.dtype, device=like.device).reshape(like.shape)


def column_by_column(product: Callable[[Tensors], Tensors]) -> Share:
    """A product with one vector as one with blocks too."""

    def share(vectors: Tensors, batched: bool) -> Tensors:
        if not batched:
            return product(vectors)
        columns = [product(column) for column in zip(*vectors, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*columns, strict=True))

    return share


class Linearised:
    """A share as a linear program: what its graph computes for a vector, without the graph.

    Programs for blocks are recorded at the first block of each width, so that one thread at a time may call it.

    Args:
        share: the product by a graph, which is not needed afterwards.
        inputs: tensors like the vectors.
        compiled: whether ``torch.compile`` translates the programs.

    Raises:
        LinearisationError: the share computes something that cannot be recorded; the message names the operation.

    Cost: one product by the graph, and about 50 microseconds an operation.
    """

    def __init__(self, share: Share, inputs: Tensors, compiled: bool = False) -> None:
        vectors = tuple(torch.ones(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in inputs)
        tape = Tape(vectors)
        with torch.no_grad(), tape:
            outputs = share(vectors, False)
        self._program = simplified(tape.program(outputs))
        self._compiled = compiled
        # Data and buffers are among the constants; who changes them would change the operator.
        self._read = list(dict.fromkeys(self._program.constants()))
        self._versions = [tensor._version for tensor in self._read]
        self._functions: dict[int | None, Callable[..., Tensors]] = {None: emitted(self._program, compiled)}
        self._blocks: dict[int, LinearProgram] = {}
        self.recording_bytes = array.array("q", tape.course)

    def __call__(self, vectors: Tensors, batched: bool) -> Tensors:
        """The product, as of a `Share`."""
        if [tensor._version for tensor in self._read] != self._versions:
            raise RuntimeError("a tensor that the program reads has been modified by an inplace operation")
        if torch.is_autocast_enabled(vectors[0].device.type):  # what is cast is part of the program
            with torch.autocast(vectors[0].device.type, enabled=False):
                return self(vectors, batched)
        width = vectors[0].shape[0] if batched else None
        if width not in self._functions:
            assert width is not None
            if len(self._blocks) == _WIDTHS_KEPT:
                oldest = next(iter(self._blocks))
                del self._blocks[oldest], self._functions[oldest]
            self._blocks[width] = simplified(for_columns(self._program, width))
            self._functions[width] = emitted(self._blocks[width], self._compiled)
        with torch.inference_mode(not self._compiled):  # a tenth faster than no_grad where operations are small
            return self._functions[width](*vectors)

    def kept_bytes(self, shared: Iterable[Tensor]) -> int:
        """What its constants take beside the tensors in ``shared``."""
        return kept_bytes([self._program, *self._blocks.values()], shared)

    def working_bytes(self) -> list[int]:
        """What a product with one column takes at each step."""
        return working_bytes(self._program)


def summed_product(shares: Iterable[Share], parameters: ParameterSpace, X: Tensor, chunk_size: int) -> Tensor:
    """Σ_b M_b X for the shares M_b, (n, k), with at most ``chunk_size`` columns of X at a time.

    The sum over b is taken in float64.

    Raises:
        RuntimeError: a share that cannot be vectorised over columns, which ``chunk_size=1`` does without; data or
            buffers that were changed in place since its graph was built.

    Cost: each share once a chunk, and one (n, k) block.
    """
    X = by_columns(X)
    if not isinstance(shares, list):
        return _summed_one_by_one(shares, parameters, X, chunk_size)
    if X.shape[1] <= chunk_size:
        return _sum(multiplied(share, parameters, X) for share in shares).to(X.dtype)
    result = torch.empty(X.shape[1], X.shape[0], dtype=X.dtype, device=X.device).mT
    for columns, block in chunks(X, chunk_size):
        total = _sum(multiplied(share, parameters, block) for share in shares)
        result[:, columns] = total[:, : columns.stop - columns.start]
    return result


def _summed_one_by_one(shares: Iterable[Share], parameters: ParameterSpace, X: Tensor, chunk_size: int) -> Tensor:
    """The sum over shares that are built anew: each does all columns before the next one comes."""
    total = torch.zeros(X.shape[1], X.shape[0], dtype=torch.float64, device=X.device).mT
    for share in shares:
        for columns, block in chunks(X, chunk_size):
            total[:, columns] += multiplied(share, parameters, block)[:, : columns.stop - columns.start]
        del share  # before the next one is built
    return total.to(X.dtype)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    total: Tensor | None = None
    for count, term in enumerate(terms):
        if total is None:
            total = term
            continue
        if count == 1:
            total = total.double()
        total += term
    assert total is not None, "data hold at least one batch"
    return total


def chunks(X: Tensor, chunk_size: int) -> Iterator[tuple[slice, Tensor]]:
    """The columns of X in slices of at most ``chunk_size``, with blocks of them that are all of the same width.

    The last block may end with columns of zeros: a program for one more width would cost more.
    """
    columns = X.shape[1]
    count = -(-columns // chunk_size)
    width = -(-columns // max(count, 1))
    for start in range(0, columns, max(width, 1)):
        block = X[:, start : start + width]
        if missing := width - block.shape[1]:
            yield slice(start, columns), torch.cat([block.mT, X.new_zeros(missing, X.shape[0])]).mT
        else:
            yield slice(start, start + width), block


def by_columns(X: Tensor) -> Tensor:
    """X with contiguous columns, as programs are recorded: others are read slowly, and refused by some operations."""
    return X.mT.contiguous().mT


def multiplied(share: Share, parameters: ParameterSpace, X: Tensor) -> Tensor:
    """M X for one share M and an (n, c) block with contiguous columns, all at once."""
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
