"""The problem `imagenet-resnet18`: torchvision's ResNet-18 on ImageNet, arXiv 2504.14701, section 4.

Published are the network with 11,689,512 parameters, SGD with batches of 150 and a learning rate of 0.1, and a Hessian
on 5,000 validation images with k up to 1,500. Where the checkpoints lie is our own choice: at the beginning, the middle
and the end of the first epoch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .fake import generated_images
from .images import ImageFiles, image_folder, torchvision_module
from .problem import DataRequest, HessianPlan, Problem, ProblemData, balanced

_CLASSES = 1000
_FOLDERS = {"train": "train", "test": "val"}  # the labels of ImageNet's own test images are not public
_SIZE = 224  # pixels a side
_GENERATED = 3000  # training images, twenty steps before they come again
_ATTRIBUTION = (
    "ImageNet Large Scale Visual Recognition Challenge 2012, O. Russakovsky et al. (2015), https://image-net.org/, for "
    "non-commercial research and education"
)


def _model() -> nn.Module:
    network: nn.Module = torchvision_module("models").resnet18(weights=None)
    return network


def _folder(request: DataRequest) -> ProblemData:
    """The images of each split that come first by class and name, and for training all of ``train/``."""
    assert request.root is not None
    assert request.hessian_samples is not None
    root, preprocess = request.root, torchvision_module("models").ResNet18_Weights.IMAGENET1K_V1.transforms()
    splits = {"train", *request.splits} if request.training else set(request.splits)
    listed = {split: image_folder(root, _FOLDERS[split], _CLASSES) for split in sorted(splits)}
    _require_same_classes(root, {split: paths for split, (paths, _) in listed.items()})
    hessian = {}
    for split in request.splits:
        paths, targets = listed[split]
        indices = balanced(targets, request.hessian_samples)
        hessian[split] = ImageFiles(root, [paths[index] for index in indices], preprocess), targets[indices]
    paths, targets = listed["train"] if request.training else ([], torch.empty(0, dtype=torch.int64))
    trained = f"{len(paths):,} training images; " if request.training else ""
    names = " and ".join(f"{request.hessian_samples:,} images of {_FOLDERS[split]}/" for split in request.splits)
    description = (
        f"ImageNet, {trained}Hessian on {names}, the first of each class; resized to {preprocess.resize_size[0]} and "
        f"cropped to {preprocess.crop_size[0]} pixels, not augmented"
    )
    return ProblemData((ImageFiles(root, paths, preprocess), targets), hessian, description, _ATTRIBUTION)


def _require_same_classes(root: Path, listed: dict[str, list[Path]]) -> None:
    """Labels are ranks of folders, which must be the same folders in all splits."""
    names = [{path.relative_to(root).parts[1] for path in paths} for paths in listed.values()]
    if any(found != names[0] for found in names):
        different = ", ".join(sorted(names[0] ^ names[1])[:4])
        raise ValueError(f"{root / 'train'} and {root / 'val'} have other classes than one another: {different}")


def _fake(request: DataRequest) -> ProblemData:
    return generated_images(request, "ImageNet", _CLASSES, _GENERATED, _SIZE)


IMAGENET_RESNET18 = Problem(
    name="imagenet-resnet18",
    title="ResNet-18 for ImageNet",
    model=_model,
    loss=nn.CrossEntropyLoss(),
    sources={"folder": _folder, "fake": _fake},
    layout="a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG, one folder for each of the 1,000 classes,",
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    batch_size=150,
    steps=8540,  # an epoch of 1,281,167 images
    record_every=4270,
    k=1500,
    table_k=(10, 100, 500, 1000, 1500),
    split="test",
    hessian_samples=5000,
    image_size=_SIZE,
    # The graphs of all images fit nowhere: those of a few are built anew for each block of columns.
    plan=HessianPlan(engine="retained", micro_batch_size=20, chunk_size=1),
    compare=False,
    storage="auto",
)
