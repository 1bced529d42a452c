"""Operations that are recorded as others: fewer, faster, or ones that can be vectorised over columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_SMALL_IMAGE = 8  # positions


def decomposition(func: Any, args: tuple[Any, ...], computed: list[bool]) -> Callable[..., Any] | None:
    """What computes the same as ``func(*args)`` by other operations; None where it is best left.

    Args:
        func: an operation of ``torch.ops.aten``.
        args: its arguments.
        computed: which of them depend on the vectors.
    """
    only_slope = bool(computed) and computed[0] and not any(computed[1:])
    if func in _REDUCING_BACKWARD and only_slope:
        return _REDUCING_BACKWARD[func]
    if func is aten.copy.default:
        return _copy
    if func is aten.convolution_backward.default and _has_slow_weight_gradient(args):
        return _convolution_backward
    if func is aten.convolution.default and _is_weight_gradient(args):
        return _weight_gradient
    if func is aten.convolution.default and _has_large_filter(args):
        return _exchanged_convolution
    return None


def is_elementwise_backward(func: Any) -> bool:
    """Whether the result is the first argument times a function of the others, entry by entry."""
    return func in _ELEMENTWISE_BACKWARD


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(target.device, target.dtype).expand(target.shape).clone()


def _log_softmax_backward(slope: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return (slope - output.exp() * slope.sum(dim, keepdim=True)).to(dtype)


def _softmax_backward(slope: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    scaled = slope * output
    return (scaled - output * scaled.sum(dim, keepdim=True)).to(dtype)


def _has_slow_weight_gradient(args: tuple[Any, ...]) -> bool:
    """Whether oneDNN would take ten times as long for it as a product of matrices: small images, many channels."""
    slope, _, weight, _, _, _, _, transposed, _, groups, wanted = args
    small = slope.ndim == 4 and slope.shape[2:].numel() <= _SMALL_IMAGE and slope.device.type == "cpu"
    return small and wanted[1] and not transposed and groups == 1 and weight.shape[2:].numel() > 1


def _convolution_backward(slope: Tensor, image: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor | None, ...]:
    """Gradients by input, weight and bias; that by the weight as the product of slopes and unfolded images."""
    *geometry, wanted = options
    _, stride, padding, dilation, *_ = geometry
    inputs = None
    if wanted[0]:
        inputs = aten.convolution_backward(slope, image, weight, *geometry, [True, False, False])[0]
    columns = aten.im2col(image, weight.shape[2:], dilation, padding, stride)
    by_channel = slope.flatten(2).transpose(0, 1).reshape(weight.shape[0], -1)
    weights = torch.mm(by_channel, columns.transpose(1, 2).reshape(by_channel.shape[1], -1)).view(weight.shape)
    return inputs, weights, slope.sum((0, 2, 3)) if wanted[2] else None


def _is_weight_gradient(args: tuple[Any, ...]) -> bool:
    """Whether a convolution has a filter larger than its result, as the double backward of convolutions makes them.

    A filter of the size of images by one of the size of filters is what cuDNN takes ten times as long for.
    """
    image, filters, bias, stride, padding, dilation, transposed, _, groups = args
    if bias is not None or transposed or groups != 1:
        return False
    result = _convolved_size(image.shape[2:], filters.shape[2:], stride, padding, dilation)
    # The other way round, stride and dilation exchanged, that result is the filter; its image must be the filters here.
    others = _convolved_size(image.shape[2:], result, dilation, padding, stride)
    return others == list(filters.shape[2:]) and filters.shape[2:].numel() > math.prod(result)


def _convolved_size(
    image: Sequence[int], filters: Sequence[int], stride: list[int], padding: list[int], dilation: list[int]
) -> list[int]:
    """The positions along each dimension of a convolution."""
    sizes = zip(image, filters, stride, padding, dilation, strict=True)
    return [(n + 2 * pad - gap * (size - 1) - 1) // step + 1 for n, size, step, pad, gap in sizes]


def _weight_gradient(image: Tensor, filters: Tensor, bias: None, *options: Any) -> Tensor:
    """A convolution as the gradient by its weights of one with the filters for slopes."""
    stride, padding, dilation, transposed, output_padding, groups = options
    result = _convolved_size(image.shape[2:], filters.shape[2:], stride, padding, dilation)
    like = image.new_empty(1).expand(filters.shape[0], image.shape[0], *result)  # its shape alone is read
    geometry = (dilation, padding, stride, transposed, output_padding, groups)
    found: Tensor = aten.convolution_backward(
        filters.transpose(0, 1), image.transpose(0, 1), like, None, *geometry, [False, True, False]
    )[1]
    return found.transpose(0, 1)


def _has_large_filter(args: tuple[Any, ...]) -> bool:
    """Whether a transposed convolution has a filter larger than its image: the same case, by the input."""
    image, filters, bias, *_, transposed, _, groups = args
    return bias is None and transposed and groups == 1 and filters.shape[2:].numel() > image.shape[2:].numel()


def _exchanged_convolution(image: Tensor, filters: Tensor, bias: None, *options: Any) -> Tensor:
    """A transposed convolution with image and filter in each other's place, which makes no difference."""
    stride, padding, dilation, *others = options
    slopes, weights = filters.transpose(0, 1), image.transpose(0, 1)
    found: Tensor = aten.convolution(slopes, weights, bias, dilation, padding, stride, *others)
    return found.transpose(0, 1)


_ELEMENTWISE_BACKWARD = {
    *(aten.tanh_backward.default, aten.sigmoid_backward.default, aten.threshold_backward.default),
    *(aten.gelu_backward.default, aten.silu_backward.default, aten.elu_backward.default),
    *(aten.softplus_backward.default, aten.hardtanh_backward.default, aten.leaky_relu_backward.default),
    *(aten.hardsigmoid_backward.default, aten.hardswish_backward.default, aten.mish_backward.default),
    *(aten.log_sigmoid_backward.default,),
}
# These have no rule for vectorisation, nor has a copy.
_REDUCING_BACKWARD: dict[Any, Callable[..., Tensor]] = {
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten._softmax_backward_data.default: _softmax_backward,
}
