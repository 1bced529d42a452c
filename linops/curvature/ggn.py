"""The generalised Gauss-Newton matrix of a risk."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn
from torch.func import grad, vjp

from ..parameters import Selection
from ..structure import Structure
from .loss import Objective
from .operator import CurvatureOperator
from .products import TensorMap
from .risk import inputs_and_target


class GGN(CurvatureOperator):
    """Σ_b J_bᵀ ∇²ℓ_b J_b, (n, n): the Hessian of a risk without the curvature of the model (Schraudolph 2002).

    J_b is the Jacobian of the model's outputs for batch b by the parameters and ∇²ℓ_b the Hessian of the batch's share
    of the loss by those outputs. Symmetric; positive semidefinite for PyTorch's own losses and where a `Loss` says
    ``convex=True``. It equals the Hessian for a model that is linear in its parameters. See `CurvatureOperator` for
    arguments.

    Raises:
        TypeError: an `Objective`, which has no outputs to split at.

    Cost: about four forward passes over the data a column and five for the block, ``chunk_size`` columns at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        parameters: Selection = None,
        chunk_size: int | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        if isinstance(loss, Objective):
            raise TypeError("the GGN needs a loss of (output, target) to split at, not an Objective; use the Hessian")
        super().__init__(
            model,
            loss,
            data,
            parameters=parameters,
            chunk_size=chunk_size,
            micro_batch_size=micro_batch_size,
        )

    def _known_structure(self) -> Structure:
        return Structure.PSD if self._risk.convex else Structure.SYMMETRIC

    def _map(self, theta: dict[str, Tensor], batch: Any) -> TensorMap:
        inputs, target = inputs_and_target(batch)
        outputs = functools.partial(self._risk.output, inputs=inputs)
        output, transposed_jacobian = vjp(outputs, theta)[:2]
        loss_hessian = vjp(grad(functools.partial(self._risk.output_term, target=target)), output)[1]
        # u -> Jᵀ u is linear, so that its own pullback is v -> J v: reverse mode throughout, which every layer has.
        jacobian = vjp(transposed_jacobian, output)[1]

        def apply(vector: dict[str, Tensor]) -> dict[str, Tensor]:
            (output_tangent,) = jacobian((vector,))
            (image,) = transposed_jacobian(*loss_hessian(output_tangent))
            return image  # type: ignore[no-any-return]

        return apply
