"""Hessians of PyTorch's losses by a model's output, in closed form and as products: no C x C matrix is formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .loss import Loss, name_and_options
from .risk import Risk


def loss_hessian(risk: Risk, output: Any, target: Any) -> Callable[[Tensor], Tensor] | None:
    """U -> ∇²ℓ_b u for the share ℓ_b of a batch in the risk, at an output; None where no closed form is known.

    Cross-entropy: A ∘ (p ∘ u - p ⟨p, u⟩) over the classes, p = softmax, where A is what each position's target weighs.
    Squared error: 2 u. BCE with logits: w σ (1 - σ) ∘ u. Each divided by what the risk is a mean over.
    """
    curvature = output_curvature(risk, output, target)
    if curvature is None:
        return None
    name, p, scale = curvature
    p, scale = p.detach(), scale.detach()
    if name == "cross_entropy":
        dim = class_dim(output)
        weighted = scale * p

        def product(u: Tensor) -> Tensor:
            return weighted * (u - (p * u).sum(dim, keepdim=True))

        return product
    return lambda u: scale * u


def output_curvature(risk: Risk, output: Any, target: Any) -> tuple[str, Tensor, Tensor] | None:
    """The loss by its PyTorch name, the mean of its likelihood at the output, and the curvature's scale.

    For cross-entropy probabilities and what each position weighs, (N, 1, …); for BCE with logits probabilities and the
    second derivatives; for squares the output and the second derivatives. None for other losses.
    """
    loss = risk.loss
    if not (isinstance(loss, Loss) and isinstance(output, Tensor) and isinstance(target, Tensor)):
        return None
    name, options = name_and_options(loss.function)
    if name not in _CURVATURES or options.get("reduction", "mean") not in ("mean", "sum"):
        return None
    found = _CURVATURES[name](output.detach(), target, options)
    if found is None:
        return None
    p, scale, divisor = found
    share = risk.share(output.new_ones(()), loss.weight(output, target))
    return name, p, scale * (share / (divisor if options.get("reduction", "mean") == "mean" else 1.0))


def class_dim(output: Tensor) -> int:
    """Where the classes stand in an output of logits."""
    return 1 if output.ndim > 1 else 0


_Curvature = tuple[Tensor, Tensor, float]


def _cross_entropy(output: Tensor, target: Tensor, options: dict[str, Any]) -> _Curvature | None:
    dim = class_dim(output)
    classes = output.shape[dim]
    smoothing = options.get("label_smoothing", 0.0)
    weights = options.get("weight")
    weights = output.new_ones(classes) if weights is None else weights.to(output)
    if target.is_floating_point():
        shape = [1] * output.ndim
        shape[dim] = classes
        smoothed = (1 - smoothing) * target + smoothing / classes
        weight = (smoothed * weights.view(shape)).sum(dim, keepdim=True)
        divisor = output.numel() / classes
    else:
        kept = target != options.get("ignore_index", -100)
        own = weights[torch.where(kept, target, 0)] * kept
        weight = ((1 - smoothing) * own + smoothing / classes * weights.sum() * kept).unsqueeze(dim)
        divisor = float(own.sum(dtype=torch.float64))
    return output.softmax(dim), weight, max(divisor, torch.finfo(output.dtype).tiny)


def _mse(output: Tensor, target: Tensor, options: dict[str, Any]) -> _Curvature | None:
    if output.shape != target.shape or options.get("weight") is not None:
        return None
    return output, torch.full_like(output, 2.0), float(output.numel())


def _bce_with_logits(output: Tensor, target: Tensor, options: dict[str, Any]) -> _Curvature | None:
    if output.shape != target.shape:
        return None
    p = output.sigmoid()
    scale = p * (1 - p)
    if options.get("pos_weight") is not None:
        scale = scale * (1 + (options["pos_weight"].to(output) - 1) * target)
    if options.get("weight") is not None:
        scale = scale * options["weight"].to(output)
    return p, scale, float(output.numel())


_CURVATURES: dict[str, Callable[[Tensor, Tensor, dict[str, Any]], _Curvature | None]] = {
    "cross_entropy": _cross_entropy,
    "mse_loss": _mse,
    "binary_cross_entropy_with_logits": _bce_with_logits,
}
