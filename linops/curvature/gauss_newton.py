"""What the Gauss-Newton and Fisher matrices share: a Jacobian on both sides of something simple."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor
from torch.autograd.forward_ad import dual_level

from .loss import Objective
from .operator import CurvatureOperator
from .products import Share, Tensors, duals, pullback, pushforward, tangents_of


@attrs.frozen
class Outputs:
    """The tensors of a batch that depend on the parameters, between the two Jacobians.

    Attributes:
        tensors: with their graph, or as dual tensors.
        together: what the loss takes, with other tensors in their places.
        target: of the batch.
        inputs: of the batch.
    """

    tensors: Tensors
    together: Callable[[Sequence[Tensor]], Any]
    target: Any
    inputs: Any


class GaussNewtonOperator(CurvatureOperator):
    """Σ_b J_bᵀ M_b J_b, (n, n), for the Jacobians J_b of some outputs of batch b by the parameters.

    A subclass says what the outputs are and what M_b is. See `CurvatureOperator` for arguments.

    Cost: about four forward passes over the data a column; five more where nothing is kept.
    """

    def __init__(self, model: Any, loss: Any, data: Any, **options: Any) -> None:
        if isinstance(loss, Objective):
            raise TypeError(
                f"{type(self).__name__} needs a loss of (output, target) to split at, not an Objective; use the Hessian"
            )
        super().__init__(model, loss, data, **options)

    @abc.abstractmethod
    def _outputs(self, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs for a batch as functions of the parameters."""

    @abc.abstractmethod
    def _middle(self, outputs: Outputs, points: Tensors) -> Share:
        """M_b, at the points that the outputs take: tangents of them to cotangents."""

    def _share(self, batch: Any) -> Share:
        theta = tuple(self._leaves.values())
        outputs = self._outputs(self._leaves, batch)
        middle = self._middle(outputs, _points(outputs))
        pushed = pushforward(outputs.tensors, theta)

        def product(vectors: Tensors, batched: bool) -> Tensors:
            return pullback(outputs.tensors, theta, middle(pushed(vectors, batched), batched), batched)

        return product

    def _forward(self, batch: Any) -> Callable[[Tensors], Tensors]:
        def product(vectors: Tensors) -> Tensors:
            theta = {name: tensor.detach().requires_grad_() for name, tensor in self._leaves.items()}
            with dual_level():
                outputs = self._outputs(duals(theta, vectors), batch)
                tangents = tuple(tangent.detach() for tangent in tangents_of(outputs.tensors, outputs.tensors))
            middle = self._middle(outputs, _points(outputs))
            return pullback(outputs.tensors, tuple(theta.values()), middle(tangents, False), False)

        return product


def _points(outputs: Outputs) -> Tensors:
    return tuple(output.detach().requires_grad_() for output in outputs.tensors)
