"""The command that repeats a study."""

from __future__ import annotations

import shlex
from pathlib import Path

import attrs

from .options import StudyOptions, own_choices
from .problem import Problem
from .problems import PROBLEMS


def repeat_command(problem: Problem, options: StudyOptions) -> str | None:
    """The command of a study, with those options alone that it would not have by itself.

    Args:
        problem: of the study.
        options: with data, samples and image size as `Problem.resolved` gives them.

    Returns:
        A line for a shell; None for a problem of one's own that no module names, which only Python can run.
    """
    if problem.name not in PROBLEMS and ":" not in problem.name:
        return None
    words = ["eigenspan", "study", problem.name]
    for name, own in _own_options(problem, options).items():
        value = getattr(options, name)
        if value == own:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


def _own_options(problem: Problem, options: StudyOptions) -> dict[str, object]:
    """What each option is where it is left out, beside the folder and the weights that were given."""
    root = None if options.data_root is None else Path(options.data_root)
    defaults = {field.name: field.default for field in attrs.fields(StudyOptions)}
    return {
        **defaults,
        **own_choices(problem, options.weights, options.solver),
        "data": problem.default_source(root),
        "hessian_samples": problem.hessian_samples,
        "image_size": problem.image_size if options.data == "fake" else None,
    }
