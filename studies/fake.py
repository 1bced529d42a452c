"""Data that are made up: for a run without any, whose numbers say nothing of the real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import GeneratedImages
from .problem import DataRequest, ProblemData

_PURPOSES = {"train": "generated training images", "test": "generated test images"}


def generated_images(request: DataRequest, real: str, classes: int, count: int, size: int) -> ProblemData:
    """Noise in the shape of images, with classes by turns.

    Args:
        request: of the data.
        real: the name of the data that they stand for.
        classes: how many there are.
        count: of training images.
        size: pixels a side, unless the request has another.
    """
    assert request.hessian_samples is not None
    pixels = size if request.image_size is None else request.image_size

    def batch(split: str, count: int) -> tuple[GeneratedImages, Tensor]:
        return GeneratedImages(count, pixels, request.seed, _PURPOSES[split]), torch.arange(count) % classes

    description = (
        f"No {real} images, but {request.hessian_samples:,} generated ones of {pixels}x{pixels} pixels: normal noise, "
        "with classes by turns"
    )
    hessian = {split: batch(split, request.hessian_samples) for split in request.splits}
    return ProblemData(batch("train", count), hessian, description, warning=f"generated images, not {real}")
