"""Batch normalisation by running statistics as the affine map that it is, within the convolution that it follows."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary


class AffineNormalisation(TorchFunctionMode):
    """Within it, graphs hold no batch normalisation by running statistics.

    After a convolution it is a convolution by other filters, whose derivatives take no pass over the images beside its
    own; elsewhere a product and a sum. Its kernel's derivatives take many passes, which bound the time on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._convolutions = WeakIdKeyDictionary()  # of images

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # The compiler traces this for every operation, so that all others are told first.
        if func not in _WATCHED or not torch.is_grad_enabled() or _hooked():
            return func(*args, **kwargs)
        if func is functional.batch_norm:
            return self._normalised(*args, **kwargs)
        if func in _CONVOLUTIONS:
            return self._noted(func, *args, **kwargs)
        self._convolutions.pop(args[0], None)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)

    def _noted(
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        image: Tensor = func(input, weight, bias, *args, **kwargs)
        versions = _versions(image, input, weight, bias)
        self._convolutions[image] = _Convolution(func, input, weight, bias, args, kwargs, image.grad_fn, versions)
        return image

    def _normalised(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None or input.dtype != running_var.dtype:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else weight * scale
        convolution = self._convolutions.get(input)  # type: ignore[no-untyped-call]
        if convolution is not None and convolution.takes(input, scale):
            folded: Tensor = convolution.followed_by(running_mean, scale, bias)
            return folded
        channels = (-1,) + (1,) * (input.ndim - 2)
        scaled = (input - running_mean.view(channels)) * scale.view(channels)
        return scaled if bias is None else scaled + bias.view(channels)


@attrs.frozen(eq=False)
class _Convolution:
    """How an image was made."""

    function: Any
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    node: Any
    versions: tuple[int, ...]

    def takes(self, image: Tensor, scale: Tensor) -> bool:
        """Whether image and input are what they were, and the filters may take in a factor of each channel.

        They may not where they are larger than the image, as the factors' passes over them are about as many as those
        over the image that are saved; not for the factor's sake alone, as the gradient by it would need that by the
        filters; nor in forward mode, where the derivative of the image has been computed already.
        """
        unchanged = image.grad_fn is self.node and not image._backward_hooks
        unchanged = unchanged and _versions(image, self.input, self.weight, self.bias) == self.versions
        dtypes = {tensor.dtype for tensor in (image, self.input, self.weight, scale)}
        fits = image.ndim == self.weight.ndim and len(dtypes) == 1
        gains = image.requires_grad and (self.weight.requires_grad or not scale.requires_grad)
        gains = gains and image.numel() > self.weight.numel()
        return unchanged and fits and gains and forward_ad.unpack_dual(image).tangent is None  # type: ignore[no-untyped-call]

    def followed_by(self, mean: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """The images less the mean, times the scale, plus the bias."""
        filters = self.weight * scale.view(-1, *(1,) * (self.weight.ndim - 1))
        shift = -mean if self.bias is None else self.bias - mean
        shift = shift * scale if bias is None else shift * scale + bias
        found: Tensor = self.function(self.input, filters, shift, *self.arguments, **self.keywords)
        return found


def _versions(*tensors: Tensor | None) -> tuple[int, ...]:
    """How often they have been written to."""
    return tuple(tensor._version for tensor in tensors if tensor is not None and not tensor.is_inference())


def _hooked() -> bool:
    """Whether what graphs save passes hooks.

    Activation checkpointing, one of those who set them, computes it anew outside of modes and compares the two.
    """
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is None or hooks(False) is not None


_CONVOLUTIONS = {functional.conv1d, functional.conv2d, functional.conv3d}
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]  # through which an image may be written without a trace
_WATCHED = {functional.batch_norm, _DATA, *_CONVOLUTIONS}
