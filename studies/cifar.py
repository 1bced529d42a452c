"""The problems `cifar10-3c3d` and `cifar100-allcnnc`, arXiv 2504.14701, section 4.

Published are networks, batch sizes, learning rates and the sizes of the Hessian batches, and for CIFAR-10 steps and
records, which CIFAR-100 takes over here. The networks are those of the benchmark DeepOBS (Schneider, Balles & Hennig
2019), with its initialisation; images are normalised and not augmented.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from .fake import generated_images
from .images import torchvision_module
from .problem import DataRequest, HessianPlan, Problem, ProblemData, balanced

_SIZE = 32  # pixels a side
_GENERATED = 5120  # training images
_ATTRIBUTION = (
    "CIFAR-10 and CIFAR-100 by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton, "
    "https://www.cs.toronto.edu/~kriz/cifar.html"
)


@attrs.frozen
class _Set:
    """One of both data sets, in torchvision's layout."""

    name: str
    reader: str  # in torchvision.datasets
    classes: int
    folder: str
    files: str
    mean: tuple[float, float, float]  # colour by colour, of the training images
    deviation: tuple[float, float, float]


_CIFAR10 = _Set(
    name="CIFAR-10",
    reader="CIFAR10",
    classes=10,
    folder="cifar-10-batches-py",
    files="data_batch_1 to data_batch_5, test_batch and batches.meta",
    mean=(0.4914, 0.4822, 0.4465),
    deviation=(0.2470, 0.2435, 0.2616),
)
_CIFAR100 = _Set(
    name="CIFAR-100",
    reader="CIFAR100",
    classes=100,
    folder="cifar-100-python",
    files="train, test and meta",
    mean=(0.5071, 0.4865, 0.4409),
    deviation=(0.2673, 0.2564, 0.2762),
)


@attrs.frozen(eq=False)
class _Pixels:
    """Images of bytes, (N, 32, 32, 3), that are normalised when they are asked for, to (N, 3, 32, 32) float32."""

    data: _Set
    bytes: Tensor

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        mean, deviation = (torch.tensor(colour).view(3, 1, 1) for colour in (self.data.mean, self.data.deviation))
        return ((self.bytes[indices].permute(0, 3, 1, 2).float() / 255 - mean) / deviation).contiguous()


def _images(data: _Set, root: Path, train: bool) -> tuple[_Pixels, Tensor]:
    """The images of a split and their classes.

    Raises:
        FileNotFoundError: files that are missing or not those of the data set.
        RuntimeError: torchvision is not installed.
    """
    reader = getattr(torchvision_module("datasets"), data.reader)
    try:
        found = reader(str(root), train=train)
    except RuntimeError as error:  # also of files with another checksum
        raise FileNotFoundError(
            f"{root} does not hold {data.name} as it was published: expected {root / data.folder} with the files "
            f"{data.files}, which --download puts there"
        ) from error
    return _Pixels(data, torch.from_numpy(np.ascontiguousarray(found.data))), torch.tensor(found.targets)


def _folder(data: _Set, request: DataRequest) -> ProblemData:
    """The images of each class that come first, and for training all training images."""
    assert request.root is not None
    assert request.hessian_samples is not None
    splits = {"train", *request.splits} if request.training else set(request.splits)
    read = {split: _images(data, request.root, split == "train") for split in sorted(splits)}
    hessian = {}
    for split in request.splits:
        pixels, targets = read[split]
        indices = balanced(targets, request.hessian_samples)
        hessian[split] = pixels[indices], targets[indices]
    train = read["train"] if request.training else (torch.empty(0, 3, _SIZE, _SIZE), torch.empty(0, dtype=torch.int64))
    first = f"{request.hessian_samples:,} images, the first of each class"
    description = f"{data.name}, Hessian on {first}; normalised, not augmented"
    return ProblemData(train, hessian, description, _ATTRIBUTION)


def _fake(data: _Set, request: DataRequest) -> ProblemData:
    return generated_images(request, data.name, data.classes, _GENERATED, _SIZE)


def _fetch(data: _Set, root: Path) -> None:
    reader = getattr(torchvision_module("datasets"), data.reader)
    for train in (True, False):
        reader(str(root), train=train, download=True)


def _three_convolutions_three_dense() -> nn.Module:
    # Windows that reach past the last row and column are those of TensorFlow's "same" padding.
    pool = functools.partial(nn.MaxPool2d, 3, stride=2, ceil_mode=True)
    return _initialised(
        nn.Sequential(
            *(nn.Conv2d(3, 64, 5), nn.ReLU(), pool()),
            *(nn.Conv2d(64, 96, 3), nn.ReLU(), pool()),
            *(nn.Conv2d(96, 128, 3, padding=1), nn.ReLU(), pool(), nn.Flatten()),
            *(nn.Linear(1152, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)),
        )
    )


def _all_convolutional() -> nn.Module:
    """All-CNN-C (Springenberg et al. 2015) with its dropout; strides of two in the place of pooling."""

    def convolution(
        inputs: int, outputs: int, width: int = 3, stride: int = 1, padding: int = 0
    ) -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(inputs, outputs, width, stride, padding), nn.ReLU()

    return _initialised(
        nn.Sequential(
            nn.Dropout(0.2),
            *(*convolution(3, 96, padding=1), *convolution(96, 96, padding=1)),
            *(*convolution(96, 96, stride=2, padding=1), nn.Dropout(0.5)),
            *(*convolution(96, 192, padding=1), *convolution(192, 192, padding=1)),
            *(*convolution(192, 192, stride=2, padding=1), nn.Dropout(0.5)),
            *(*convolution(192, 192), *convolution(192, 192, 1), *convolution(192, 100, 1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
    )


def _initialised(network: nn.Module) -> nn.Module:
    """Filters from Glorot's normal distribution, other weights from his uniform one; biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return network


# Wider blocks gain nothing on a CPU. The budget keeps the programs of All-CNN-C, 5 GiB, which halves the time.
_PLAN = HessianPlan(engine="linearised", micro_batch_size=100, chunk_size=1, memory_budget=8 * 2**30)


def _problem(
    data: _Set,
    name: str,
    title: str,
    model: Callable[[], nn.Module],
    learning_rate: float,
    batch_size: int,
    samples: int,
) -> Problem:
    """What is published of a problem, beside what both have in common."""
    return Problem(
        name=name,
        title=f"{title} on {data.name}",
        model=model,
        loss=nn.CrossEntropyLoss(),
        sources={"folder": functools.partial(_folder, data), "fake": functools.partial(_fake, data)},
        layout=f"the folder that holds {data.folder}/ with {data.files}, as torchvision.datasets.{data.reader} "
        "makes it,",
        fetch=functools.partial(_fetch, data),
        optimizer=functools.partial(torch.optim.SGD, lr=learning_rate),
        batch_size=batch_size,
        steps=8000,  # states 0 to 8,000: 8,001
        record_every=2000,
        k=1000,
        table_k=(10, 100, 500, 1000),
        hessian_samples=samples,
        plan=_PLAN,
        compare=False,
        storage="auto",  # 1,000 pairs in memory would not leave room for their programs in 16 GB
    )


CIFAR10_3C3D = _problem(
    _CIFAR10,
    name="cifar10-3c3d",
    title="Three convolutional and three dense layers",
    model=_three_convolutions_three_dense,
    learning_rate=0.0226,
    batch_size=128,
    samples=500,
)
CIFAR100_ALLCNNC = _problem(
    _CIFAR100,
    name="cifar100-allcnnc",
    title="All-CNN-C",
    model=_all_convolutional,
    learning_rate=0.1658,
    batch_size=256,
    samples=1000,
)
