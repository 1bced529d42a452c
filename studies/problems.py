"""The problems that studies run on, by name."""

from __future__ import annotations

import attrs

from .cifar import CIFAR10_3C3D, CIFAR100_ALLCNNC
from .gpt_char import GPT_CHAR
from .imagenet import IMAGENET_RESNET18
from .mnist16 import MNIST16
from .problem import Problem
from .references import named

PROBLEMS: dict[str, Problem] = {
    problem.name: problem for problem in (MNIST16, CIFAR10_3C3D, CIFAR100_ALLCNNC, IMAGENET_RESNET18, GPT_CHAR)
}
"""All problems, by name."""


def find_problem(name: str) -> Problem:
    """The problem of that name, or that a module has: ``my_module:problem``, a `Problem` or a function that makes one.

    Raises:
        ValueError: there is none, or the module has something else.
    """
    if ":" in name:
        problem = named(name)
        if not isinstance(problem, Problem):
            raise ValueError(f"{name} is {type(problem)}: expected a Problem, as eigenspan.studies.own_problem makes")
        return attrs.evolve(problem, name=name)
    if name not in PROBLEMS:
        raise ValueError(f"there is no study {name!r}; there are: {', '.join(PROBLEMS)}, and my_module:problem")
    return PROBLEMS[name]
