"""What trainers make of a network, undone: wrappers, shards, casts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..linops.compiled import as_written
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
