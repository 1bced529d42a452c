"""The problem `mnist16`: a tanh network on handwritten digits, arXiv 2504.14701, section 4.1."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .data import Digits, embedded_digits, full_digits
from .problem import DataRequest, Problem, ProblemData, balanced

_FULL_TRAIN = 50_000  # of the 60,000: 100 steps of 500 are an epoch
_ATTRIBUTION = (
    "MNIST database of handwritten digits by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, "
    "http://yann.lecun.com/exdb/mnist/, licence CC BY-SA 3.0, https://creativecommons.org/licenses/by-sa/3.0/; images "
    "reduced from 28x28 to 16x16"
)


def _model() -> nn.Module:
    widths = (256, 20, 20, 20, 20, 20, 10)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _embedded(request: DataRequest) -> ProblemData:
    return _batches(embedded_digits(), request, "MNIST 16x16, embedded 10,000 + 2,000 digits")


def _folder(request: DataRequest) -> ProblemData:
    assert request.root is not None
    description = f"MNIST 16x16, {_FULL_TRAIN:,} of 60,000 training and all 10,000 test digits"
    return _batches(full_digits(request.root), request, description)


def _batches(digits: Digits, request: DataRequest, description: str) -> ProblemData:
    assert request.hessian_samples is not None
    train = _inputs(digits.train_images[:_FULL_TRAIN]), digits.train_labels[:_FULL_TRAIN]
    test = _inputs(digits.test_images), digits.test_labels
    hessian = {}
    for split, (inputs, targets) in (("train", train), ("test", test)):
        indices = balanced(targets, request.hessian_samples)
        hessian[split] = inputs[indices], targets[indices]
    return ProblemData(train=train, hessian=hessian, description=description, attribution=_ATTRIBUTION)


def _inputs(images: Tensor) -> Tensor:
    """Pixels in [0, 1], one row an image.

    Of the usual scalings the one with the published curvature at step 0 (λ₁ about 0.35) and loss at step 100 (about
    1.5); standardised pixels double that curvature and give a loss of 1.0.
    """
    return images.flatten(1).float() / 255


MNIST16 = Problem(
    name="mnist16",
    title="Tanh network on MNIST 16x16",
    model=_model,
    loss=nn.CrossEntropyLoss(),
    sources={"embedded": _embedded, "folder": _folder},
    layout="the folder that holds MNIST/raw with the four IDX files, as torchvision.datasets.MNIST makes it,",
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    batch_size=500,
    steps=1000,
    record_every=100,
    k=355,
    table_k=(10, 36, 71, 100, 352),
    hessian_samples=500,
)
