"""The problems that studies run on, by name."""

from __future__ import annotations

from .cifar import CIFAR10_3C3D, CIFAR100_ALLCNNC
from .gpt_char import GPT_CHAR
from .imagenet import IMAGENET_RESNET18
from .mnist16 import MNIST16
from .problem import Problem

PROBLEMS: dict[str, Problem] = {
    problem.name: problem for problem in (MNIST16, CIFAR10_3C3D, CIFAR100_ALLCNNC, IMAGENET_RESNET18, GPT_CHAR)
}
"""All problems, by name."""


def find_problem(name: str) -> Problem:
    """The problem of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROBLEMS:
        raise ValueError(f"there is no study {name!r}; there are: {', '.join(PROBLEMS)}")
    return PROBLEMS[name]
