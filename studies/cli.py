"""The command line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import torch
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from .. import __version__
from ..linops.distributed import job
from ..solvers import ConvergenceWarning
from .overlap_study import DTYPES, SOLVERS, SPLITS, OverlapStudy, StudyOptions
from .problems import PROBLEMS, find_problem
from .report import write_report
from .tables import HEADINGS, cells, residual, table_rows, text

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_PATIENCE = 24 * 3600.0  # seconds that ranks wait for the one that trains; of one that dies they know at once

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
    traceback: Annotated[
        bool,
        typer.Option("--traceback", envvar="EIGENSPAN_TRACEBACK", help="Show where an error comes from, not one line."),
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def study(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"The study: {', '.join(PROBLEMS)}.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the study; run again with the same to go on.", show_default="runs/NAME"),
    ] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="Eigenpairs, and the largest mask.", show_default="the study's")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Training steps.", show_default="the study's")] = None,
    solver: Annotated[
        str,
        typer.Option(
            help=f"How to find the eigenpairs. {_choices(SOLVERS)} The sketches improve on the published one, which is "
            "SketchedEigh(outer=o, inner=2*o, basis='first', core='two-sided') in Python."
        ),
    ] = "block-lanczos",
    exact: Annotated[bool, typer.Option("--exact", help="Diagonalise densely too, and compare.")] = False,
    split: Annotated[str, typer.Option(help=f"Which data the Hessian is of. {_choices(SPLITS)}")] = "train",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"Precision. {_choices(DTYPES)}")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, data order, solver and random masks.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with the full data.", show_default="embedded data")
    ] = None,
) -> None:
    """Train a network, and at steps on the way compare its largest weights with its top Hessian eigenspace.

    Writes results.json, figures and report.html into the folder. A run that was interrupted goes on where it stopped.
    Under torchrun the data of the Hessians are shared out among the ranks, which all read the folder.
    """
    traceback = context.find_root().params["traceback"]
    with _plain_errors(2, traceback), _ranks(device) as mesh:
        with _plain_errors(2, traceback):
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
            run = OverlapStudy(problem, options, directory, mesh)
        kept = f"; what is done is kept in {directory}"
        with _plain_errors(1, traceback, kept), _warnings_between_bars():
            progress = run.leads and sys.stderr.isatty()
            results = run.run(progress=progress, on_record=lambda record: _print_record(record, problem.table_k))
            if run.leads:
                typer.echo(f"Report: {write_report(results, directory)}")


def _print_record(record: dict[str, Any], table_k: tuple[int, ...]) -> None:
    """Prints a record as a table, or as lines where a table would not fit. In ASCII, which every terminal can show."""
    rows = [cells(row) for row in table_rows(record, table_k)]
    table = Table(*HEADINGS, box=None, pad_edge=False)
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        table.add_row(*row)
    with tqdm.external_write_mode():
        console = Console(highlight=False, markup=False)
        console.print(f"\n{_headline(record)}", style="bold")
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            console.print(table)
            return
        for k, overlap, *levels in rows:
            console.print(f"k {k}: overlap {overlap}")
            for null, (mean, ratio, z, p) in (("uniform", levels[:4]), ("stratified", levels[4:])):
                console.print(f"  {null} {mean}, ratio {ratio}, z {z}, p {p}")


def _headline(record: dict[str, Any]) -> str:
    """What a record has once, not for each k."""
    row, report = table_rows(record, [1])[0], record["report"]
    return (
        f"step {row.step}, {row.split} data: loss {text(row.loss, '.4f')}, top eigenvalue "
        f"{text(row.top_eigenvalue, '.4g')}; {row.products} products, {text(row.seconds, '.1f')} s, "
        f"{report['status'].lower().replace('_', ' ')}, residuals up to {text(residual(record), '.0e')} of the top"
    )


@contextlib.contextmanager
def _ranks(device: str) -> Iterator[DeviceMesh | None]:
    """The ranks of the job that a launcher has started; None for a process of its own."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield None
        return
    with job(torch.device(device).type, timeout=_PATIENCE) as mesh:
        yield mesh


@contextlib.contextmanager
def _warnings_between_bars() -> Iterator[None]:
    """Warnings as lines of their own, above the progress bars."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        tqdm.write(f"eigenspan: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _plain_errors(code: int, traceback: bool, kept: str = "") -> Iterator[None]:
    """Errors that a user can mend, as one line and an exit code, or as they are with ``traceback``."""
    try:
        yield
    except typer.Exit:  # a RuntimeError, of an error that has been told
        raise
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        if traceback:
            raise
        typer.echo(f"eigenspan: {' '.join(str(error).splitlines())}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        typer.echo(f"eigenspan: interrupted{kept}; run the same command again to go on", err=True)
        raise typer.Exit(130) from error
