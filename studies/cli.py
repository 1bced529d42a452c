"""The command line."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from .. import __version__
from ..solvers import ConvergenceWarning, decompose_folder, measure_columns
from .overlap_study import DTYPES, SOLVERS, SPLITS, OverlapStudy, StudyOptions
from .problems import PROBLEMS, find_problem
from .progress import progress_line
from .report import write_report
from .tables import HEADINGS, cells, residual, table_rows, text

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
    compare: Annotated[
        bool,
        typer.Option(help="Compare with the GGN, the other data, and layer by layer: some three times the products."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation, data order, solver and random masks.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with the full data.", show_default="embedded data")
    ] = None,
) -> None:
    """Train a network, and at steps on the way compare its largest weights with its top Hessian eigenspace.

    Writes results.json, figures and report.html into the folder. A run that was interrupted goes on where it stopped.
    """
    traceback = context.find_root().params["traceback"]
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
            compare=compare,
            seed=seed,
            data_root=None if data_root is None else str(data_root.resolve()),
        )
        directory = Path("runs") / name if out is None else out
        run = OverlapStudy(problem, options, directory)
    _run(run, traceback)


@app.command()
def resume(context: typer.Context, folder: Annotated[Path, typer.Argument(help="Folder of a study.")]) -> None:
    """Go on with the study of a folder, with the options that it was begun with.

    A solve goes on when the same call is made again, with the same checkpoint; a sketch by `eigenspan measure`.
    """
    traceback = context.find_root().params["traceback"]
    with _plain_errors(2, traceback):
        run = OverlapStudy.open(folder)
    _run(run, traceback)


def _run(run: OverlapStudy, traceback: bool) -> None:
    """Do what is left of a study, and write its report."""
    directory, table_k = run.directory, run.problem.table_k
    kept = f"; what is done is kept in {directory}"
    with _plain_errors(1, traceback, kept), _warnings_between_bars():
        results = run.run(progress=sys.stderr.isatty(), on_record=lambda record: _print_record(record, table_k))
        report = write_report(results, directory)
    typer.echo(f"Report: {report}")


@app.command()
def measure(
    context: typer.Context,
    problem: Annotated[
        str, typer.Argument(metavar="MODULE:PROBLEM", help="A function of a module that returns (solver, operator).")
    ],
    folder: Annotated[Path, typer.Option(help="Folder of the blocks, which all workers share.")],
    columns: Annotated[
        str | None, typer.Option(metavar="START:STOP", help="Which columns to see to.", show_default="all")
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Wait for blocks of others, and take over those of workers that died.")
    ] = True,
    lapse: Annotated[float, typer.Option(help="Seconds without a sign of life until a claim is free.")] = 120.0,
) -> None:
    """Measure what is missing of a sketch, beside any number of processes that do so too.

    Run it again to go on after an interruption.
    """
    traceback = context.find_root().params["traceback"]
    with _plain_errors(2, traceback):
        chosen = None if columns is None else _columns(columns)
        solver, operator = _called(problem)
    with _plain_errors(1, traceback, f"; finished blocks are kept in {folder}"):
        measured = measure_columns(
            solver, operator, folder, chosen, wait=wait, lapse=lapse, progress=sys.stderr.isatty()
        )
    typer.echo(f"{measured} columns measured here. {progress_line(folder)}")


@app.command()
def status(
    context: typer.Context, folder: Annotated[Path, typer.Argument(help="Folder of the blocks, or checkpoint.")]
) -> None:
    """Say how much is done and left of a sketch or a solve in a folder, and how long it may take."""
    with _plain_errors(1, context.find_root().params["traceback"]):
        typer.echo(progress_line(folder))


@app.command()
def decompose(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of the blocks.")],
    out: Annotated[Path, typer.Option(help="File of the result, for EigenDecomposition.load.")],
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Make eigenpairs or singular triplets of the columns that workers have measured."""
    with _plain_errors(1, context.find_root().params["traceback"]):
        found = decompose_folder(folder, device=device)
        found.save(out)
    typer.echo(f"{found!r}\nSaved: {out}")


def _called(problem: str) -> tuple[Any, Any]:
    """The solver and the operator that a function MODULE:PROBLEM returns; modules of this folder come first."""
    module, _, name = problem.partition(":")
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"MODULE:PROBLEM names a function of a module, and {problem!r} does not: {error}") from error
    finally:
        sys.path.remove("")
    found = function()
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{problem} is to return (solver, operator), got {type(found).__name__}")
    return found


def _columns(text: str) -> range:
    start, _, stop = text.partition(":")
    if not start.isdecimal() or not stop.isdecimal():
        raise ValueError(f"--columns is START:STOP, such as 0:128, got {text!r}")
    return range(int(start), int(stop))


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
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        if traceback:
            raise
        typer.echo(f"eigenspan: {' '.join(str(error).splitlines())}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        typer.echo(f"eigenspan: interrupted{kept}; run the same command again to go on", err=True)
        raise typer.Exit(130) from error
