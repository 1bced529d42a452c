"""The Hessian of a risk."""

from __future__ import annotations

from typing import Any

from .operator import CurvatureOperator
from .products import Share, Tensors, differentiable_gradient, pullback


class Hessian(CurvatureOperator):
    """∇²L(θ), (n, n), symmetric: the second derivatives of a model's loss over a data set by its parameters.

    The graph of the gradient is built once for each micro-batch and kept, and each column is a reverse pass through it:
    a vector-Jacobian product of the gradient, whose Jacobian is symmetric. Exact up to rounding; the matrix is never
    formed. See `CurvatureOperator` for arguments and errors.

    Cost: about five forward passes over the data a column; four more where graphs are not kept.
    """

    def _share(self, batch: Any) -> Share:
        theta = tuple(self._leaves.values())
        gradient = differentiable_gradient((self._risk.term(self._leaves, batch),), theta)

        def product(vectors: Tensors, batched: bool) -> Tensors:
            return pullback(gradient, theta, vectors, batched)

        return product
