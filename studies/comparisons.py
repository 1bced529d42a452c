"""The leading eigenspace of a Hessian beside those of other operators at the same step, and layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..linops import Hessian, MaskSubspace, ParameterSpace
from ..linops.distributed import DataParallel
from ..metrics import overlap_curve
from ..solvers import Auto, EigenDecomposition, solve_diagonal_blocks
from .tables import heaviest

_log = logging.getLogger("eigenspan")

LAYER_K = 10
"""So many eigenvectors of the Hessian of a single tensor are followed, or all of a smaller one."""
COMPARED_K = 100
"""So many leading eigenvectors are compared with those of other operators, or all of fewer."""
_ROUNDINGS = 30  # of the largest |λ|: eigenvalues below are 0, with any vectors


def comparison(eig: EigenDecomposition, others: Mapping[str, EigenDecomposition]) -> dict[str, list[float]]:
    """Overlaps with the leading eigenspaces of other operators for every k up to `COMPARED_K`, by name.

    NaN where another operator has fewer than k eigenvalues that are not 0, and so no k leading eigenvectors.

    Cost: 2 n K² flops each.
    """
    return {name: _curve(eig, other).tolist() for name, other in others.items()}


def _curve(eig: EigenDecomposition, other: EigenDecomposition) -> Tensor:
    k = min(COMPARED_K, len(eig.eigenvalues), len(other.eigenvalues))
    sizes = other.eigenvalues[:k].abs()
    known = (sizes > _ROUNDINGS * torch.finfo(sizes.dtype).eps * sizes.max()).cumprod(0).bool()
    return overlap_curve(eig.leading(k).subspace, other.leading(k).subspace).where(known, torch.nan).cpu()


def followed(parameters: ParameterSpace) -> list[str]:
    """The names of the tensors whose Hessians are compared from step to step: the `TENSORS` largest with entries."""
    sizes = [shape.numel() for shape in parameters.shapes.values()]
    return [parameters.names[index] for index in heaviest(sizes) if sizes[index]]


def layer_eigenpairs(
    H: Hessian | DataParallel, seed: int, progress: bool = False, checkpoint: Path | None = None
) -> dict[str, EigenDecomposition]:
    """The `LAYER_K` leading eigenpairs of the Hessian of each tensor that is `followed`, by name, in its coordinates.

    Cost: that of their solvers, in passes that all share.
    """
    parts, names = MaskSubspace.parts(H.parameters), followed(H.parameters)
    if len(names) < len(parts):
        _log.info("comparisons follow the %d largest of %d tensors", len(names), len(parts))
    return solve_diagonal_blocks(
        lambda n: Auto(k=min(LAYER_K, n), seed=seed),
        H,
        {name: parts[name] for name in names},
        progress=progress,
        checkpoint=checkpoint,
    )
