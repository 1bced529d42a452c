"""The Hessian of a risk."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from torch.func import grad, vjp

from .operator import CurvatureOperator
from .products import TensorMap


class Hessian(CurvatureOperator):
    """∇²L(θ), (n, n), symmetric: the second derivatives of a model's loss over a data set by its parameters.

    The graph of the gradient is built once for each micro-batch of a block product, and each column is a reverse pass
    through it: a vector-Jacobian product of the gradient, whose Jacobian is symmetric. Exact up to rounding; the matrix
    is never formed. See `CurvatureOperator` for arguments and errors.

    Cost: about five forward passes over the data a column and four for the block, ``chunk_size`` columns at a time.
    """

    def _map(self, theta: dict[str, Tensor], batch: Any) -> TensorMap:
        pullback = vjp(grad(functools.partial(self._risk.term, batch=batch)), theta)[1]
        return lambda vector: pullback(vector)[0]
