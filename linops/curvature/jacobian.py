"""The Jacobian of a model's outputs by its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..parameters import Selection
from ..structure import Structure
from .data import length
from .factor import Factor, require_order
from .gauss_newton import GaussNewtonOperator, Outputs, Root
from .ggn import model_outputs
from .loss import Loss
from .outputs import taken_apart
from .products import Tensors


class Jacobian(Factor):
    """J = ∂f(θ)/∂θ, (m, n): the derivatives of a model's outputs over a data set by its parameters.

    The rows follow the samples in the order of the data, each with the entries of its output one after the other (of
    its outputs, where the model returns several tensors). ``J.T`` is the transpose, ``J.T @ J`` the GGN of a sum of
    half squares.

    Args:
        model: the network, in evaluation mode. It is not changed, and training it further does not change the operator.
        data: the inputs, a tensor; a batch ``(inputs, target)``; or a list, DataLoader or other re-iterable of batches,
            in a fixed order. The targets are not used.
        parameters: which parameters are coordinates, see `CurvatureOperator`, as for the others.
        chunk_size: columns at once.
        micro_batch_size: the most samples at once.
        memory_budget: bytes that products may take.
        engine: how products are computed; the plan is that of JᵀJ.
        compile: whether ``torch.compile`` translates linear programs.
        tf32: whether a GPU may round factors to TF32, see `CurvatureOperator`.

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
        tf32: bool = False,
    ) -> None:
        require_order(data, "a Jacobian")
        gram = _Gram(
            model,
            Loss(_sum_of_outputs, reduction="sum"),
            (data, None) if isinstance(data, Tensor) else data,
            parameters=parameters,
            chunk_size=chunk_size,
            micro_batch_size=micro_batch_size,
            memory_budget=memory_budget,
            engine=engine,
            compile=compile,
            tf32=tf32,
        )
        super().__init__(gram)


class _Gram(GaussNewtonOperator):
    """JᵀJ."""

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

    def _root(self, outputs: Outputs, points: Tensors) -> Root:
        def identity(tangents: Tensors, batched: bool) -> Tensors:
            return tangents

        return Root(identity, identity, [point.shape for point in points])


def _sum_of_outputs(output: Any, target: Any) -> Tensor:
    """Something that depends on every entry and is a sum over samples; the squares keep it from cancelling."""
    tensors = [tensor for tensor in taken_apart(output)[0] if tensor.is_floating_point()]
    if not tensors:
        raise TypeError(f"a Jacobian needs a model whose outputs are real floating point, got {output!r}")
    return torch.stack([tensor.sum() + tensor.square().sum() for tensor in tensors]).sum()
