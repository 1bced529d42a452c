"""What the Gauss-Newton and Fisher matrices share: a Jacobian on both sides of something simple."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level

from ..operator import LinearOperator
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


@attrs.frozen
class Root:
    """L_b with M_b = L_bᵀ L_b.

    Attributes:
        push: u -> L_b u, tangents of the outputs to tensors of rows.
        pull: y -> L_bᵀ y.
        shapes: of the tensors of rows, the samples along their first dimension.
    """

    push: Share
    pull: Share
    shapes: list[torch.Size]

    @classmethod
    def of_tensor(
        cls, push: Callable[[Tensor], Tensor], pull: Callable[[Tensor], Tensor], shape: Sequence[int]
    ) -> Root:
        """That of a single tensor of outputs, to a single tensor of rows."""
        return cls(_share(push), _share(pull), [torch.Size(shape)])


def _share(function: Callable[[Tensor], Tensor]) -> Share:
    return lambda tensors, batched: ((torch.func.vmap(function) if batched else function)(*tensors),)


class GaussNewtonOperator(CurvatureOperator):
    """Σ_b J_bᵀ M_b J_b, (n, n), for the Jacobians J_b of some outputs of batch b by the parameters.

    A subclass says what the outputs are, and what M_b is or the root of it. See `CurvatureOperator` for arguments.

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
    def _root(self, outputs: Outputs, points: Tensors) -> Root:
        """A root of M_b, at the points that the outputs take.

        Raises:
            TypeError: there is none.
        """

    def _middle(self, outputs: Outputs, points: Tensors) -> Share:
        """M_b, at the points that the outputs take: tangents of them to cotangents."""
        root = self._root(outputs, points)
        return lambda tangents, batched: root.pull(root.push(tangents, batched), batched)

    def factor(self) -> LinearOperator:
        """B with BᵀB this matrix, (m, n): a row for each entry of the output of each sample.

        For each batch these are L_b J_b: the Jacobian of its outputs, times a root of what is between J_bᵀ and J_b.
        Where m is small, ``factor().row_gram()``, (m, m), has all eigenvalues that are not zero.

        Raises:
            TypeError: a loss that is not known to be convex, or whose Hessian has no root sample by sample.
            ValueError: outputs whose first dimension is not that of the samples.

        Cost: a forward pass over the data, to count rows.
        """
        from .factor import Factor

        return Factor(self)

    def _share(self, batch: Any) -> Share:
        theta = tuple(self._leaves.values())
        outputs = self._outputs(self._leaves, batch)
        middle = self._middle(outputs, points_of(outputs))
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
            middle = self._middle(outputs, points_of(outputs))
            return pullback(outputs.tensors, tuple(theta.values()), middle(tangents, False), False)

        return product


def points_of(outputs: Outputs) -> Tensors:
    """The values of the outputs, as leaves."""
    return tuple(output.detach().requires_grad_() for output in outputs.tensors)


def by_sample(tensors: Tensors) -> Tensor:
    """(k, rows) from tensors (k, samples, …), the entries of a sample one after the other."""
    return torch.cat([tensor.flatten(2) if tensor.ndim > 2 else tensor[..., None] for tensor in tensors], 2).flatten(1)


def by_tensor(rows: Tensor, shapes: Sequence[torch.Size]) -> Tensors:
    """Tensors (k, samples, …) from (k, rows)."""
    widths = [shape[1:].numel() for shape in shapes]
    parts = torch.split(rows.reshape(len(rows), shapes[0][0], sum(widths)), widths, dim=2)
    return tuple(part.reshape(len(rows), *shape) for part, shape in zip(parts, shapes, strict=True))
