"""What must hold before a curvature product means anything, and the conditions that products run under."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_NORMS_OVER_BATCHES = (nn.modules.batchnorm._BatchNorm,)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)


def require_function_of_parameters(model: nn.Module) -> None:
    """Refuses modules that make the loss random, or one sample's loss depend on the rest of its batch.

    Raises:
        ValueError: active dropout, or batch normalisation by batch statistics; the message names the module.
    """
    for name, module in model.named_modules():
        where = f"module {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        probability = _dropout_probability(module)
        if module.training and probability > 0:
            raise ValueError(
                f"{where} drops entries at random with probability {probability}, so the loss is no function of the "
                "parameters: call model.eval() first"
            )
        if isinstance(module, _NORMS_OVER_BATCHES):
            if module.training:
                raise ValueError(
                    f"{where} is in training mode and normalises by the statistics of each batch, so the loss depends "
                    "on how the data are cut: call model.eval() first"
                )
            if module.running_mean is None:
                raise ValueError(
                    f"{where} keeps no running statistics and normalises by those of each batch, so the loss depends "
                    "on how the data are cut: build it with track_running_stats=True"
                )


def _dropout_probability(module: nn.Module) -> float:
    if isinstance(module, _DROPOUTS):
        return float(module.p)
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return float(module.dropout)
    return 0.0


@contextlib.contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Within it, kernels that have no second derivative are replaced by ones that have.

    Scaled dot-product attention takes its math kernel, transformer layers leave their fused inference path, and
    recurrent layers leave cuDNN and oneDNN.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fused = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(_without_onednn())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    # torch.backends.mkldnn.flags would also write its TF32 setting, which warns on every machine but Intel's GPUs.
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


@contextlib.contextmanager
def training_flags(flags: dict[nn.Module, bool]) -> Iterator[None]:
    """Within it, each module is in the recorded mode; afterwards in the one it was found in."""
    found = {module: module.training for module in flags}
    try:
        for module, flag in flags.items():
            module.training = flag
        yield
    finally:
        for module, flag in found.items():
            module.training = flag


@contextlib.contextmanager
def untouched_random_state(device: torch.device) -> Iterator[None]:
    """Within it, random numbers may be drawn (a DataLoader draws one a pass); the user's streams do not move."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
