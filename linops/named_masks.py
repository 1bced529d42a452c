"""Masks as boolean tensors by parameter name, and those that torch.nn.utils.prune leaves in a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .compiled import as_named, as_written
from .parameters import ParameterSpace


def flattened(parameters: ParameterSpace, masks: Mapping[str, Tensor], missing: bool | None) -> Tensor:
    """The mask, (n,) boolean, with the tensors ``masks``: see `MaskSubspace.from_named`."""
    unknown = [name for name in masks if name not in parameters.shapes]
    if unknown:
        raise ValueError(
            f"{parameters} has no {', '.join(unknown[:6])}; its tensors are {', '.join(parameters.names[:12])}: give "
            "masks of these alone, or select the others too"
        )
    absent = [name for name in parameters.names if name not in masks]
    if absent and missing is None:
        raise ValueError(
            f"no mask for {', '.join(absent[:6])} of {parameters}; missing=True keeps whole tensors without a mask, "
            "missing=False leaves them out"
        )
    whole = {
        name: torch.full(parameters.shapes[name], bool(missing), dtype=torch.bool, device=parameters.device)
        for name in absent
    }
    return parameters.flatten(whole | {name: _boolean(parameters, name, mask) for name, mask in masks.items()})


def _boolean(parameters: ParameterSpace, name: str, mask: Tensor) -> Tensor:
    if not isinstance(mask, Tensor):
        raise TypeError(f"the mask of {name} is a boolean tensor, got {type(mask).__name__}")
    if mask.shape != parameters.shapes[name]:
        raise ValueError(
            f"the mask of {name} has shape {tuple(mask.shape)}, the tensor {tuple(parameters.shapes[name])}"
        )
    if mask.device != parameters.device:
        raise TypeError(f"the mask of {name} is on {mask.device}, {parameters} is not; move it with .to(device)")
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"the mask of {name} in {mask.dtype} has entries other than 0 and 1; make it boolean by a comparison, or "
            "use MaskSubspace.top_k or above for scores"
        )
    return mask == 1


def pruning_masks(model: nn.Module, parameters: ParameterSpace) -> dict[str, Tensor]:
    """The pruned tensors of a space by name, with their masks: see `MaskSubspace.from_pruned`."""
    model = as_written(model)
    named = as_named(model.named_parameters(remove_duplicate=False))
    buffers = as_named(model.named_buffers(remove_duplicate=False))
    # Pruning makes of a parameter x the parameter x_orig and the buffer x_mask.
    plain = {name: name.removesuffix("_orig") for name in named}
    pruned = {
        plain[name]: buffers[plain[name] + "_mask"]
        for name in named
        if name != plain[name] and plain[name] + "_mask" in buffers
    }
    if not pruned:
        raise ValueError(
            f"the {type(model).__name__} holds no mask of torch.nn.utils.prune; where prune.remove has made it "
            "permanent, MaskSubspace.from_mask(parameters.values != 0) finds it again"
        )
    _require_agreement(named, pruned)
    foreign = [name for name in parameters.names if name not in named and name not in pruned]
    if foreign:
        raise ValueError(f"{', '.join(foreign[:6])} of {parameters} is no parameter of the {type(model).__name__}")
    masks = {name: pruned.get(name.removesuffix("_orig")) for name in parameters.names}
    return {name: mask for name, mask in masks.items() if mask is not None}


def _require_agreement(named: Mapping[str, Tensor], pruned: Mapping[str, Tensor]) -> None:
    """A parameter that modules share is one tensor of the space: it has one mask."""
    first: dict[int, str] = {}
    for name, parameter in named.items():
        other = first.setdefault(id(parameter), name)
        mine, its = pruned.get(name.removesuffix("_orig")), pruned.get(other.removesuffix("_orig"))
        if mine is not its and (mine is None or its is None or not torch.equal(mine, its)):
            raise ValueError(f"{other} and {name} are one tensor, but are not pruned alike; prune both by one mask")
