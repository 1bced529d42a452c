"""Roots of losses' Hessians by a model's output: in closed form, or sample by sample from autograd's."""

from __future__ import annotations

import torch
from torch import Tensor

from .data import length
from .gauss_newton import Outputs, Root, by_sample, by_tensor
from .loss_hessian import class_dim, output_curvature
from .products import Tensors, column_by_column, differentiable_gradient, pullback
from .risk import Risk


def loss_root(risk: Risk, outputs: Outputs, points: Tensors) -> Root:
    """L with LᵀL = ∇²ℓ_b for the share ℓ_b of a batch in the risk, convex, at the points that the outputs take.

    Cross-entropy: √A ∘ √p ∘ (u - ⟨p, u⟩) over the classes, with p and A as for `loss_hessian`, as the entries of p add
    up to one. Squares and BCE with logits: the root of the second derivative times u. For other losses the symmetric
    root of each sample's (c, c) Hessian by its c entries of output.

    Raises:
        TypeError: a Hessian that couples samples, or that is not positive semidefinite.
        ValueError: outputs whose first dimension is not that of the samples.

    Cost: for other losses c reverse passes through the loss, and c² numbers a sample.
    """
    require_samples_first(outputs, points)
    output = outputs.together(points)
    curvature = output_curvature(risk, output, outputs.target)
    if curvature is None:
        return _root_by_samples(risk, outputs, points)
    name, p, scale = curvature
    scale = scale.detach().sqrt()
    if name != "cross_entropy":
        return Root.of_tensor(lambda u: scale * u, lambda y: scale * y, output.shape)
    p, dim = p.detach(), class_dim(output)
    scale = scale * p.sqrt()

    def pull(y: Tensor) -> Tensor:
        weighted = scale * y
        return weighted - p * weighted.sum(dim, keepdim=True)

    return Root.of_tensor(lambda u: scale * (u - (p * u).sum(dim, keepdim=True)), pull, output.shape)


def require_samples_first(outputs: Outputs, tensors: Tensors) -> None:
    """The rows of a factor follow the samples.

    Raises:
        ValueError: a tensor whose first dimension is not that of the samples.
    """
    samples = length((outputs.inputs, outputs.target))
    if any(tensor.ndim == 0 or len(tensor) != samples for tensor in tensors):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise ValueError(
            f"the rows of a factor follow the samples, but for {samples} of them the model returns tensors of shapes "
            f"{shapes}: wrap it so that the first dimension is that of the samples, positions in further ones"
        )


def _root_by_samples(risk: Risk, outputs: Outputs, points: Tensors) -> Root:
    slopes = differentiable_gradient((risk.output_term(outputs.together(points), outputs.target),), points)
    shapes = [point.shape for point in points]
    samples, entries = len(points[0]), sum(shape[1:].numel() for shape in shapes)
    # One entry of each sample at a time, as if no sample's slope depended on another's output.
    units = torch.eye(entries, dtype=points[0].dtype, device=points[0].device)[:, None].expand(-1, samples, -1)
    hessian = column_by_column(lambda tangents: pullback(slopes, points, tangents, False))
    columns = by_sample(hessian(by_tensor(units.flatten(1), shapes), True)).view(entries, samples, entries)
    blocks = columns.transpose(0, 1).double()
    _require_uncoupled(risk, blocks, slopes, points)
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    largest = values.abs().max() if values.numel() else 0.0
    if bool((values < -risk.tolerance * largest).any()):
        raise TypeError(
            f"{risk.loss.function!r} is declared convex, but its Hessian has an eigenvalue {float(values.min()):.1e} "
            "below zero: there is no factor"
        )
    # The root of a rounding error is far above one, and differs each time.
    errors = 10 * entries * risk.rounding * values.abs().amax(1, keepdim=True) if entries else values
    roots = ((vectors * torch.where(values > errors, values, 0).sqrt()[:, None]) @ vectors.mT).to(points[0])

    def product(tangents: Tensors, batched: bool) -> Tensors:
        blocked = by_sample(tangents if batched else tuple(tangent[None] for tangent in tangents))
        image = torch.einsum("nij,knj->kni", roots, blocked.view(-1, samples, entries))
        parts = by_tensor(image.flatten(1), shapes)
        return parts if batched else tuple(part[0] for part in parts)

    return Root(product, product, shapes)


def _require_uncoupled(risk: Risk, blocks: Tensor, slopes: Tensors, points: Tensors) -> None:
    """The Hessian is that of its blocks, by its product with other numbers for every sample."""
    samples, entries = blocks.shape[:2]
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, samples * entries, generator=generator, dtype=torch.float64).to(blocks.device)
    tangents = by_tensor(probe.to(points[0]), [point.shape for point in points])
    found = by_sample(tuple(part[None] for part in pullback(slopes, points, tuple(t[0] for t in tangents), False)))
    expected = torch.einsum("nij,nj->ni", blocks, probe.view(samples, entries)).flatten()
    if float((found[0] - expected).norm()) > risk.tolerance * float(expected.norm()):
        raise TypeError(
            f"the Hessian of {risk.loss.function!r} couples the outputs of different samples, so that it has no root "
            "sample by sample: there is no factor; give the samples as batches of their own, or use another solver"
        )
