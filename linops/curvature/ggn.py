"""The generalised Gauss-Newton matrix of a risk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..parameters import Selection
from ..structure import Structure
from .loss import Objective
from .operator import CurvatureOperator
from .products import Share, Tensors, differentiable_gradient, pullback
from .risk import inputs_and_target


class GGN(CurvatureOperator):
    """Σ_b J_bᵀ ∇²ℓ_b J_b, (n, n): the Hessian of a risk without the curvature of the model (Schraudolph 2002).

    J_b is the Jacobian of the model's outputs for batch b by the parameters and ∇²ℓ_b the Hessian of the batch's share
    of the loss by those outputs. Symmetric; positive semidefinite for PyTorch's own losses and where a `Loss` says
    ``convex=True``. It equals the Hessian for a model that is linear in its parameters. See `CurvatureOperator` for
    arguments.

    Raises:
        TypeError: an `Objective`, which has no outputs to split at.

    Cost: about four forward passes over the data a column; five more where graphs are not kept.
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
        memory_budget: int | None = None,
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
            memory_budget=memory_budget,
        )

    def _known_structure(self) -> Structure:
        return Structure.PSD if self._risk.convex else Structure.SYMMETRIC

    def _share(self, batch: Any) -> Share:
        inputs, target = inputs_and_target(batch)
        theta = tuple(self._leaves.values())
        parts, form = tree_flatten(self._risk.output(self._leaves, inputs))
        places = [place for place, part in enumerate(parts) if isinstance(part, Tensor) and part.requires_grad]
        if not places:
            raise TypeError(
                f"the GGN needs a model whose output is a tensor, or tensors in tuples, lists and dicts; got {parts!r}"
            )
        outputs = tuple(parts[place] for place in places)
        points = tuple(output.detach().requires_grad_() for output in outputs)
        for place, point in zip(places, points, strict=True):
            parts[place] = point
        slopes = differentiable_gradient((self._risk.output_term(tree_unflatten(parts, form), target),), points)
        # u -> Jᵀ u is linear, so that its own pullback is v -> J v: reverse mode throughout, which every layer has.
        seeds = tuple(torch.zeros_like(output).requires_grad_() for output in outputs)
        transposed = differentiable_gradient(outputs, theta, seeds)

        def product(vectors: Tensors, batched: bool) -> Tensors:
            tangents = pullback(transposed, seeds, vectors, batched)
            return pullback(outputs, theta, pullback(slopes, points, tangents, batched), batched)

        return product
