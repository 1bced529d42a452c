"""The options that commands about a study share, and the study's own choices for those left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import attrs
import typer

from ..solvers.storage import KINDS
from .options import DTYPES, SOLVERS, SPLITS, StudyOptions
from .problem import Problem
from .problems import PROBLEMS

_DATA, _COMPUTING, _OUTPUT = "Data and weights", "How it is computed", "What is printed"  # panels of the help


def _choices(names: Iterable[str]) -> str:
    return f"One of {', '.join(names)}."


def _completed(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell proposes for the beginning of a word."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        help=f"The study: {', '.join(PROBLEMS)}, or your own, my_module:problem.",
        metavar="NAME",
        autocompletion=_completed(PROBLEMS),
    ),
]
Pairs = Annotated[int | None, typer.Option(min=1, help="Eigenpairs, and the largest mask.", show_default="the study's")]
Steps = Annotated[
    int | None, typer.Option(min=0, help="Training steps.", show_default="the study's, or 0 with --weights")
]
SolverName = Annotated[
    str,
    typer.Option(
        help=f"How to find the eigenpairs. {_choices(SOLVERS)}",
        autocompletion=_completed(SOLVERS),
        rich_help_panel=_COMPUTING,
    ),
]
Exact = Annotated[
    bool, typer.Option("--exact", help="Diagonalise densely too, and compare.", rich_help_panel=_COMPUTING)
]
Split = Annotated[
    str | None,
    typer.Option(
        help=f"Which data the Hessian is of. {_choices(SPLITS)}",
        show_default="the study's",
        autocompletion=_completed(SPLITS),
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...", rich_help_panel=_COMPUTING)]
Dtype = Annotated[
    str,
    typer.Option(help=f"Precision. {_choices(DTYPES)}", autocompletion=_completed(DTYPES), rich_help_panel=_COMPUTING),
]
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
        autocompletion=_completed(KINDS),
        rich_help_panel=_COMPUTING,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings alone.", rich_help_panel=_OUTPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="Print each record as a line of JSON.", rich_help_panel=_OUTPUT)]
Seed = Annotated[int, typer.Option(min=0, help="Of initialisation, data order, solver and random masks.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Where the data come from: embedded, folder, fake, ... as the study has them. Fake ones are made up, for "
        "a run without data.",
        show_default="folder with --data-root, else the study's",
        rich_help_panel=_DATA,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder with the full data.", show_default="what the study has without", rich_help_panel=_DATA),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="First get the data from the network into --data-root, if they are public.",
        rich_help_panel=_DATA,
    ),
]
HessianSamples = Annotated[
    int | None,
    typer.Option(min=1, help="Samples that the Hessian is of.", show_default="the study's", rich_help_panel=_DATA),
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, help="Pixels a side of fake images.", show_default="the study's", rich_help_panel=_DATA),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="File with the state dict of a trained network to begin with.",
        show_default="random values",
        rich_help_panel=_DATA,
    ),
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
    return StudyOptions.of(problem, **given)
