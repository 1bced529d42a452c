"""What trainers make of a network, undone, wrappers, shards and casts; and copies of one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..linops.compiled import as_written
from ..linops.curvature.data import Batches, map_tensors
from ..linops.sharding import is_spread


def unwrapped(model: nn.Module) -> nn.Module:
    """The network within wrappers that compile it or copy it to other devices."""
    model = as_written(model)
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = as_written(model.module)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether its forward pass waits for other ranks: by FSDP, by DTensors or by DeepSpeed's ZeRO-3."""
    wrapped = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    return wrapped or any(is_spread(each) or hasattr(each, "ds_id") for each in model.parameters())


@contextlib.contextmanager
def uncast(model: nn.Module) -> Iterator[None]:
    """Within it, the network computes in the dtype of its parameters, without the mixed precision of accelerate.

    That casts by a forward function of the instance. Second derivatives of half precision have no digits left.
    """
    own, casting = (vars(model).get(name) for name in ("_original_forward", "forward"))
    if own is None or casting is None:
        yield
        return
    vars(model)["forward"] = own
    try:
        yield
    finally:
        vars(model)["forward"] = casting


class Widened:
    """Batches whose narrow real numbers are float32, each time they are gone through."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        for batch in Batches(self.data, None, torch.device("cpu")):
            yield map_tensors(_widened, batch)


def widened(model: nn.Module) -> nn.Module:
    """A copy of a network in float32, with what it is made of.

    Cost: the memory of the copy.
    """
    return copied(model).float()


def copied(network: nn.Module) -> nn.Module:
    """A copy, also of a network that holds what its next forward pass computes anew, as pruned ones hold weights.

    Cost: its memory.
    """
    attributes = (value for module in network.modules() for value in vars(module).values())
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether second derivatives in it have no digits left: it has fewer than float32."""
    return dtype.is_floating_point and torch.finfo(dtype).eps > torch.finfo(torch.float32).eps


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if is_narrow(tensor.dtype) else tensor
