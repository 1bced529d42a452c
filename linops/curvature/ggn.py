"""The generalised Gauss-Newton matrix of a risk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..structure import Structure
from .gauss_newton import GaussNewtonOperator, Outputs, Root
from .loss_hessian import loss_hessian
from .loss_root import loss_root
from .outputs import taken_apart
from .products import Share, Tensors, differentiable_gradient, pullback
from .risk import Risk, inputs_and_target


class GGN(GaussNewtonOperator):
    """Σ_b J_bᵀ ∇²ℓ_b J_b, (n, n): the Hessian of a risk without the curvature of the model.

    J_b is the Jacobian of the model's outputs for batch b by the parameters and ∇²ℓ_b the Hessian of the batch's share
    of the loss by those outputs: in closed form for cross-entropy, squares and BCE with logits, else by autograd, and
    never formed. Symmetric; positive semidefinite for PyTorch's own losses and where a `Loss` says ``convex=True``. It
    equals the Hessian for a model that is linear in its parameters. See `CurvatureOperator` for arguments.

    Raises:
        TypeError: an `Objective`, which has no outputs to split at.

    Source: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.

    Cost: about four forward passes over the data a column; five more where nothing is kept.
    """

    def _known_structure(self) -> Structure:
        return Structure.PSD if self._risk.convex else Structure.SYMMETRIC

    def _outputs(self, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
        return model_outputs(self._risk, theta, batch)

    def _root(self, outputs: Outputs, points: Tensors) -> Root:
        if not self._risk.convex:
            raise TypeError(
                f"{self} has no factor B with BᵀB = A, as {self._risk.loss.function!r} is not known to be convex; if "
                "it is, give eigenspan.Loss(function, convex=True)"
            )
        return loss_root(self._risk, outputs, points)

    def _middle(self, outputs: Outputs, points: Tensors) -> Share:
        output = outputs.together(points)
        closed = loss_hessian(self._risk, output, outputs.target)
        if closed is not None:
            return lambda tangents, batched: ((torch.func.vmap(closed) if batched else closed)(*tangents),)
        slopes = differentiable_gradient((self._risk.output_term(output, outputs.target),), points)
        return lambda tangents, batched: pullback(slopes, points, tangents, batched)


def model_outputs(risk: Risk, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
    """The tensors that the model returns for a batch, as far as they depend on the parameters.

    Raises:
        TypeError: there is none.
    """
    inputs, target = inputs_and_target(batch)
    output = risk.output(theta, inputs)
    tensors, together = taken_apart(output)
    places = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
    if not places:
        raise TypeError(
            "this operator needs a model whose output is a tensor, or tensors in tuples, lists, dicts and data "
            f"classes, that depends on the selected parameters; got {output!r}"
        )

    def with_others(others: Any) -> Any:
        replaced = list(tensors)
        for place, other in zip(places, others, strict=True):
            replaced[place] = other
        return together(replaced)

    return Outputs(tuple(tensors[place] for place in places), with_others, target, inputs)
