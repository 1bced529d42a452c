"""The command line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from .. import __version__
from ..solvers import ConvergenceWarning
from .overlap_study import DTYPES, SOLVERS, SPLITS, OverlapStudy, StudyOptions
from .plots import save_figures
from .problems import PROBLEMS, find_problem
from .report import table_rows, write_report

app = typer.Typer(
    help="Top eigenspaces of network Hessians, compared with masks of large weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _choices(names: Iterable[str]) -> str:
    return f"One of {', '.join(names)}."


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eigenspan {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def study(
    name: Annotated[str, typer.Argument(help=f"The study: {', '.join(PROBLEMS)}.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; run again with the same to go on. [default: runs/NAME]")
    ] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="Eigenpairs, and the largest mask. [default: the study's]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Training steps. [default: the study's]")] = None,
    solver: Annotated[str, typer.Option(help=f"How to find the eigenpairs. {_choices(SOLVERS)}")] = "block-lanczos",
    exact: Annotated[bool, typer.Option("--exact", help="Diagonalise densely too, and compare.")] = False,
    split: Annotated[str, typer.Option(help=f"Which data the Hessian is of. {_choices(SPLITS)}")] = "train",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"Precision. {_choices(DTYPES)}")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, data order and solver.")] = 0,
    data_root: Annotated[Path | None, typer.Option(help="Folder with the full data. [default: embedded data]")] = None,
) -> None:
    """Train a network, and at steps on the way compare its largest weights with its top Hessian eigenspace.

    Writes results.json, figures and report.html into the folder. A run that was interrupted goes on where it stopped.
    """
    with _plain_errors(code=2):
        problem = find_problem(name)
        options = StudyOptions(
            k=problem.k if k is None else k,
            steps=problem.steps if steps is None else steps,
            solver=solver,
            exact=exact,
            split=split,
            device=device,
            dtype=dtype,
            seed=seed,
            data_root=None if data_root is None else str(data_root.resolve()),
        )
        directory = Path("runs") / name if out is None else out
        run = OverlapStudy(problem, options, directory)
    console = Console()
    with _plain_errors(code=1), warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        results = run.run(progress=True, on_record=lambda record: _print_record(console, problem.table_k, record))
        save_figures(results, directory)
        report = write_report(results, directory)
    console.print(f"Report: {report}", soft_wrap=True)


@contextlib.contextmanager
def _plain_errors(code: int) -> Iterator[None]:
    """Errors that a user can mend, as one line and an exit code."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        typer.echo(f"eigenspan: {error}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        typer.echo("eigenspan: interrupted; run the same command again to go on", err=True)
        raise typer.Exit(130) from error
