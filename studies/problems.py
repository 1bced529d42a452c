"""The problems that studies run on: a network, its data, and how it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from .data import Digits, embedded_digits, full_digits

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, one row a sample."""


@attrs.frozen
class ProblemData:
    """The data of a problem, on the CPU: inputs float32, targets int64.

    Attributes:
        train: what SGD sees.
        hessian: the batch whose loss is decomposed, for each split, ``"train"`` and ``"test"``.
        description: of the data, in words.
        attribution: whose data they are, and under which licence.
    """

    train: Batch
    hessian: dict[str, Batch]
    description: str
    attribution: str = ""


@attrs.frozen(kw_only=True)
class Problem:
    """A training problem: everything but the seed, the dtype and the device.

    Attributes:
        name: what to call it by.
        title: for reports.
        model: makes the network, randomly initialised from PyTorch's global random state, in training mode.
        loss: of (output, targets), a mean over samples.
        load: the data, from the package (None) or from a folder.
        optimiser: of parameters.
        batch_size: of SGD.
        steps: of training.
        record_every: so many steps, a checkpoint.
        k: the dimension of the largest eigenspace and mask.
        table_k: the dimensions to print.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    load: Callable[[Path | None], ProblemData]
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    steps: int
    record_every: int
    k: int
    table_k: tuple[int, ...]


def find_problem(name: str) -> Problem:
    """The problem of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROBLEMS:
        raise ValueError(f"there is no study {name!r}; there are: {', '.join(PROBLEMS)}")
    return PROBLEMS[name]


# -- mnist16: arXiv 2504.14701, section 4.1 ---------------------------------------------------------------------------

_FULL_TRAIN = 50_000  # of the 60,000: 100 steps of 500 are an epoch
_PER_CLASS = 50
_ATTRIBUTION = (
    "MNIST database of handwritten digits by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, "
    "http://yann.lecun.com/exdb/mnist/, licence CC BY-SA 3.0, https://creativecommons.org/licenses/by-sa/3.0/; images "
    "reduced from 28x28 to 16x16"
)


def _mnist16_model() -> nn.Module:
    widths = (256, 20, 20, 20, 20, 20, 10)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _mnist16_data(root: Path | None) -> ProblemData:
    if root is None:
        digits = embedded_digits()
        description = "MNIST 16x16, embedded 10,000 + 2,000 digits"
    else:
        digits = full_digits(root)
        description = f"MNIST 16x16, {_FULL_TRAIN:,} of 60,000 training and all 10,000 test digits"
    return _digit_batches(digits, description)


def _digit_batches(digits: Digits, description: str) -> ProblemData:
    train = _inputs(digits.train_images[:_FULL_TRAIN]), digits.train_labels[:_FULL_TRAIN]
    test = _inputs(digits.test_images), digits.test_labels
    return ProblemData(
        train=train,
        hessian={split: first_per_class(batch, _PER_CLASS) for split, batch in (("train", train), ("test", test))},
        description=description,
        attribution=_ATTRIBUTION,
    )


def _inputs(images: Tensor) -> Tensor:
    """Pixels in [0, 1], one row an image.

    Of the usual scalings the one with the published curvature at step 0 (λ₁ about 0.35) and loss at step 100 (about
    1.5); standardised pixels double that curvature and give a loss of 1.0.
    """
    return images.flatten(1).float() / 255


def first_per_class(batch: Batch, count: int) -> Batch:
    """The first ``count`` samples of each class of a batch, in the batch's order.

    Raises:
        ValueError: a class that has fewer.
    """
    inputs, targets = batch
    chosen = [(targets == label).nonzero()[:count, 0] for label in torch.unique(targets)]
    fewest = min(len(indices) for indices in chosen)
    if fewest < count:
        raise ValueError(f"expected at least {count} samples of each class, got {fewest} of one; the data are damaged")
    indices = torch.cat(chosen).sort().values
    return inputs[indices], targets[indices]


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            name="mnist16",
            title="Tanh network on MNIST 16x16",
            model=_mnist16_model,
            loss=nn.CrossEntropyLoss(),
            load=_mnist16_data,
            optimiser=lambda parameters: torch.optim.SGD(parameters, lr=0.3),
            batch_size=500,
            steps=1000,
            record_every=100,
            k=355,
            table_k=(10, 36, 71, 100, 352),
        ),
    )
}
"""All problems, by name."""
