"""The options that commands about a study share, and the study's own choices for those left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import attrs
import typer

from .options import DTYPES, SOLVERS, SPLITS, StudyOptions, own_choices
from .problem import Problem
from .problems import PROBLEMS


def _choices(names: Iterable[str]) -> str:
    return f"One of {', '.join(names)}."


Name = Annotated[
    str, typer.Argument(help=f"The study: {', '.join(PROBLEMS)}, or your own, my_module:problem.", metavar="NAME")
]
Pairs = Annotated[int | None, typer.Option(min=1, help="Eigenpairs, and the largest mask.", show_default="the study's")]
Steps = Annotated[
    int | None, typer.Option(min=0, help="Training steps.", show_default="the study's, or 0 with --weights")
]
SolverName = Annotated[
    str,
    typer.Option(
        help=f"How to find the eigenpairs. {_choices(SOLVERS)} The sketches improve on the published one, which is "
        "SketchedEigh(outer=o, inner=2*o, basis='first', core='two-sided') in Python."
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Diagonalise densely too, and compare.")]
Split = Annotated[
    str | None, typer.Option(help=f"Which data the Hessian is of. {_choices(SPLITS)}", show_default="the study's")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help=f"Precision. {_choices(DTYPES)}")]
Compare = Annotated[
    bool | None,
    typer.Option(
        "--compare/--no-compare",
        help="Compare with the GGN, the other data, and layer by layer: some three times the products.",
        show_default="the study's",
    ),
]
StorageKind = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where block-lanczos and sketched-two-pass keep their basis: device, host, disk (in TMPDIR), or auto, the "
        "first with room.",
        show_default="the study's, or device",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print each record as a line of JSON.")]
Seed = Annotated[int, typer.Option(min=0, help="Of initialisation, data order, solver and random masks.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Where the data come from: embedded, folder, fake, ... as the study has them. Fake ones are made up, for "
        "a run without data.",
        show_default="folder with --data-root, else the study's",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with the full data.", show_default="what the study has without")
]
Download = Annotated[
    bool, typer.Option("--download", help="First get the data from the network into --data-root, if they are public.")
]
HessianSamples = Annotated[
    int | None, typer.Option(min=1, help="Samples that the Hessian is of.", show_default="the study's")
]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Pixels a side of fake images.", show_default="the study's")]
Weights = Annotated[
    Path | None,
    typer.Option(help="File with the state dict of a trained network to begin with.", show_default="random values"),
]


def download(problem: Problem, root: Path | None) -> None:
    """Put the data of a problem into a folder.

    Raises:
        ValueError: no folder, or a problem without public data.
        OSError: the folder cannot be written, or the network cannot be reached.
    """
    if root is None:
        raise ValueError("--download puts the data into --data-root: name a folder")
    if problem.fetch is None:
        raise ValueError(f"the data of {problem.name} are not to be had by --download: leave it out")
    root.mkdir(parents=True, exist_ok=True)
    problem.fetch(root)


def options_of(context: typer.Context, problem: Problem) -> StudyOptions:
    """The options of a command, those that were left out as the problem has them.

    Raises:
        ValueError: as `StudyOptions`.
    """
    given = {field.name: context.params[field.name] for field in attrs.fields(StudyOptions)}
    choices = own_choices(problem, given["weights"], given["solver"])
    own = {name: value for name, value in choices.items() if given[name] is None}
    paths = {name: given[name].resolve() for name in ("data_root", "weights") if given[name] is not None}
    return StudyOptions(**{**given, **own, **paths})
