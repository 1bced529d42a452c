"""The Hessian of a risk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.forward_ad import dual_level

from .operator import CurvatureOperator
from .products import Share, Tensors, differentiable_gradient, duals, pullback, tangents_of


class Hessian(CurvatureOperator):
    """∇²L(θ), (n, n), symmetric: the second derivatives of a model's loss over a data set by its parameters.

    A column is a vector-Jacobian product of the gradient, whose Jacobian is symmetric: a reverse pass through the graph
    of the gradient, or a linear program recorded of one. Exact up to rounding; the matrix is never formed. See
    `CurvatureOperator` for arguments, engines and errors.

    Cost: about five forward passes over the data a column; four more where nothing is kept.
    """

    def _share(self, batch: Any) -> Share:
        theta = tuple(self._leaves.values())
        gradient = differentiable_gradient((self._risk.term(self._leaves, batch),), theta)

        def product(vectors: Tensors, batched: bool) -> Tensors:
            return pullback(gradient, theta, vectors, batched)

        return product

    def _forward(self, batch: Any) -> Callable[[Tensors], Tensors]:
        def product(vectors: Tensors) -> Tensors:
            with dual_level():
                leaves = {name: tensor.detach().requires_grad_() for name, tensor in self._leaves.items()}
                theta = duals(leaves, vectors)
                loss = self._risk.term(theta, batch)
                if not loss.requires_grad:
                    return tuple(torch.zeros_like(vector) for vector in vectors)
                gradient = torch.autograd.grad(loss, tuple(theta.values()), allow_unused=True)
                return tangents_of(gradient, vectors)

        return product
