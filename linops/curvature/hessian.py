"""The Hessian of a risk."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from torch.func import grad, jvp

from .operator import CurvatureOperator
from .products import TensorMap


class Hessian(CurvatureOperator):
    """∇²L(θ), (n, n), symmetric: the second derivatives of a model's loss over a data set by its parameters.

    Products are forward-over-reverse derivatives (Pearlmutter 1994), exact up to rounding; the matrix is never formed.
    See `CurvatureOperator` for arguments and errors.

    Cost: a product takes about eight forward passes over the data a column, ``chunk_size`` columns at a time.
    """

    def _map(self, theta: dict[str, Tensor], batch: Any) -> TensorMap:
        gradient = grad(functools.partial(self._risk.term, batch=batch))
        return lambda tangent: jvp(gradient, (theta,), (tangent,))[1]
