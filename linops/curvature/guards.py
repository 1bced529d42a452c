"""What must hold before a curvature product means anything, and the conditions that products run under."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode

from .normalisation import AffineNormalisation

_log = logging.getLogger(__name__)

ONE_THREAD = threading.RLock()
"""Held by the thread that evaluates a model: parameters in it, training flags, kernels and random state are global."""

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
        if getattr(module, "max_norm", None) is not None:
            raise ValueError(
                f"{where} rescales its rows in place in each forward pass (max_norm={module.max_norm}), so that the "
                "point moves: set max_norm=None once the rows are rescaled"
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

    Scaled dot-product attention takes its math kernel, transformer layers leave their fused inference path, recurrent
    layers leave cuDNN and oneDNN, and weight normalisation its fused kernel, whose second derivative is wrong. Batch
    normalisation by running statistics is the affine map that it is, which is faster.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fused = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_Substitutions())
        stack.enter_context(AffineNormalisation())
        if recurrent:
            _say_once("recurrent layers run without cuDNN and oneDNN, whose kernels have no second derivative")
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(_without_onednn())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


class _Substitutions(TorchFunctionMode):
    """Functions whose derivatives are wrong or missing in some mode are computed by others."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SUBSTITUTES:
            return _SUBSTITUTES[func](*args, **(kwargs or {}))
        if func is functional.scaled_dot_product_attention:
            _say_once("attention is computed by the math kernel: the fused kernels have no second derivative")
        return func(*args, **(kwargs or {}))


@functools.cache
def _say_once(message: str) -> None:
    _log.info("within products, %s", message)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """The fused kernel takes the norms that it keeps for constants when it is derived twice."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of padding are constants to reverse mode; to forward mode too if they are detached. No sparse gradients."""
    rows = functional.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    if padding_idx is None:
        return rows
    padding = input == (padding_idx if padding_idx >= 0 else weight.shape[0] + padding_idx)
    return torch.where(padding[..., None], rows.detach(), rows)


def _mse_loss(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Forward over reverse mode stops at the kernel for means."""
    options = {key: value for key, value in kwargs.items() if value is not None}
    reduction = options.pop("reduction", "mean")
    if args or options or input.shape != target.shape or reduction not in ("mean", "sum"):
        return functional.mse_loss(input, target, *args, **kwargs)
    squares = (input - target).square()
    return squares.mean() if reduction == "mean" else squares.sum()


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The kernel for a single position sets strides by hand where channels come last, which cannot be recorded."""
    if output_size in (1, (1, 1), [1, 1]):
        return input.mean((-1, -2), keepdim=True)
    return functional.adaptive_avg_pool2d(input, output_size)


_SUBSTITUTES: dict[Any, Any] = {
    functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    torch._weight_norm: _weight_norm,
    functional.embedding: _embedding,
    functional.mse_loss: _mse_loss,
}


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    # torch.backends.mkldnn.flags would also write its TF32 setting, which warns on every machine but Intel's GPUs.
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


@functools.cache
def prepare_forward_mode() -> None:
    """Loads PyTorch's forward-mode rules, some of which are written in a way that it deprecates and warns of."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        with contextlib.suppress(ImportError):
            importlib.import_module("torch._decomp.decompositions_for_jvp")


@contextlib.contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Within it, autograd works as far as it is enabled."""
    enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        yield


@contextlib.contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Within it, a GPU multiplies float32 in float32, or in TF32: cuDNN's default, which keeps three digits only."""
    if device.type != "cuda":
        yield
        return
    # The settings of PyTorch 2.9 and later must not be mixed with the earlier ones.
    convolutions: Any = getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)
    current = hasattr(convolutions, "fp32_precision")
    name, wanted = ("fp32_precision", "tf32" if tf32 else "ieee") if current else ("allow_tf32", tf32)
    holders: list[Any] = [torch.backends.cuda.matmul, convolutions]
    found = [getattr(holder, name) for holder in holders]
    try:
        for holder in holders:
            setattr(holder, name, wanted)
        yield
    finally:
        for holder, value in zip(holders, found, strict=True):
            setattr(holder, name, value)


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


def substituted(model: nn.Module, tensors: dict[str, Tensor]) -> contextlib.AbstractContextManager[None]:
    """Within it, the model has these parameters and buffers."""
    found: contextlib.AbstractContextManager[None] = _reparametrize_module(model, tensors, tie_weights=True)
    return found


@contextlib.contextmanager
def untouched_random_state(device: torch.device, data: Any = None) -> Iterator[None]:
    """Within it, PyTorch's random numbers may be drawn, and those of a DataLoader; the user's streams do not move."""
    holders = (data, getattr(data, "sampler", None))
    generators = [getattr(holder, "generator", None) for holder in holders]
    states = [(each, each.get_state()) for each in generators if isinstance(each, torch.Generator)]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


@contextlib.contextmanager
def untouched_random_numbers(device: torch.device, data: Any) -> Iterator[None]:
    """Within it random numbers may be drawn, also by data sets that take those of Python or NumPy."""
    states = random.getstate(), numpy.random.get_state()  # noqa: NPY002 - the one that others may draw from
    with untouched_random_state(device, data):
        try:
            yield
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])  # noqa: NPY002
