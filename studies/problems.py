"""The problems that studies run on, by name."""

from __future__ import annotations

import importlib

import attrs

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
    """The problem of that name, or that a module has: ``my_module:problem``, a `Problem` or a function that makes one.

    Raises:
        ValueError: there is none, or the module has something else.
    """
    if ":" in name:
        return _problem_of_module(name)
    if name not in PROBLEMS:
        raise ValueError(f"there is no study {name!r}; there are: {', '.join(PROBLEMS)}, and my_module:problem")
    return PROBLEMS[name]


def _problem_of_module(name: str) -> Problem:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, attribute)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"{name}: Python finds no module {module_name!r} from this folder") from error
    except AttributeError as error:
        raise ValueError(f"{name}: {module.__file__} has no {attribute!r}") from error
    problem = found() if callable(found) else found
    if not isinstance(problem, Problem):
        raise ValueError(f"{name} is {type(problem)}: expected a Problem, as eigenspan.studies.own_problem makes")
    return attrs.evolve(problem, name=name)
