"""The command line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import torch
import typer
from tqdm import tqdm

from .. import __version__
from ..linops.distributed import job
from ..solvers import ConvergenceWarning
from . import command_options as options
from . import worker_commands
from .bars_in_logs import legible_progress
from .exits import plain_errors
from .overlap_study import OverlapStudy
from .planning import plan_study
from .printing import record_printer
from .problems import find_problem
from .report import write_report
from .results import read_results
from .run_comparison import write_comparison

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_PATIENCE = 24 * 3600.0  # seconds that ranks wait for the one that trains; of one that dies they know at once

app = typer.Typer(
    help="Top eigenspaces of network Hessians, compared with masks of large weights.",
    epilog="Begin with: eigenspan study mnist16. Exit codes: 0 done; 1 the work could not be finished, and what is "
    "done is kept; 2 the command or its data are wrong, and nothing was begun; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class _LogBetweenBars(logging.Handler):
    """Lines of the log, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"eigenspan: {self.format(record)}", file=sys.stderr)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Within it, what the library logs is printed."""
    logger, handler = logging.getLogger("eigenspan"), _LogBetweenBars()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eigenspan {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", envvar="EIGENSPAN_TRACEBACK", help="Show where an error comes from, not one line."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is chosen and done on the way.")] = False,
) -> None:
    """Options before any command."""
    if verbose:
        context.with_resource(_logged())


@app.command(
    epilog="Such as: eigenspan study mnist16 --k 100 --steps 200. Without its data: eigenspan study cifar10-3c3d "
    "--data fake --steps 0 --k 500. Your own: eigenspan study my_module:problem. What it would take: eigenspan plan, "
    "with the same name and options."
)
def study(
    context: typer.Context,
    name: options.Name,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the study; run again with the same to go on.", show_default="runs/NAME, with - for :"
        ),
    ] = None,
    k: options.Pairs = None,
    steps: options.Steps = None,
    solver: options.SolverName = "block-lanczos",
    exact: options.Exact = False,
    split: options.Split = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    compare: options.Compare = None,
    storage: options.StorageKind = None,
    seed: options.Seed = 0,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    hessian_samples: options.HessianSamples = None,
    image_size: options.ImageSize = None,
    weights: options.Weights = None,
    download: options.Download = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a network, and at steps on the way compare its largest weights with its top Hessian eigenspace.

    Writes results.json, figures and report.html into the folder. A run that was interrupted goes on where it stopped.
    Under torchrun the data of the Hessians are shared out among the ranks, which all read the folder.
    """
    traceback = context.find_root().params["traceback"]
    with plain_errors(2, traceback), _ranks(device) as mesh:
        with plain_errors(2, traceback):
            problem = find_problem(name)
            if download:
                if mesh is None or mesh.get_rank() == 0:
                    options.download(problem, data_root)
                if mesh is not None:
                    torch.distributed.barrier()
            chosen = options.options_of(context, problem)
            directory = Path("runs") / name.replace(":", "-") if out is None else out
            run = OverlapStudy(problem, chosen, directory, mesh)
        _run(run, traceback, quiet, as_json)


@app.command(epilog="Such as: eigenspan plan imagenet-resnet18 --data fake --steps 0 --k 100 --device cuda.")
def plan(
    context: typer.Context,
    name: options.Name,
    out: Annotated[Path | None, typer.Option(help="As for a study, but nothing is written.")] = None,
    k: options.Pairs = None,
    steps: options.Steps = None,
    solver: options.SolverName = "block-lanczos",
    exact: options.Exact = False,
    split: options.Split = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    compare: options.Compare = None,
    storage: options.StorageKind = None,
    seed: options.Seed = 0,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    hessian_samples: options.HessianSamples = None,
    image_size: options.ImageSize = None,
    weights: options.Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Tell what a study with these options would take: products, seconds, memory, and where it would be slow.

    Builds the Hessian at step 0 and times two or three blocks of products. Trains nothing and writes nothing.
    """
    with plain_errors(2, context.find_root().params["traceback"]):
        problem = find_problem(name)
        found = plan_study(problem, options.options_of(context, problem))
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))


@app.command(epilog="Such as: eigenspan resume runs/mnist16.")
def resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")],
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Go on with the study of a folder, with the options that it was begun with.

    A solve goes on when the same call is made again, with the same checkpoint; a sketch by `eigenspan measure`.
    """
    traceback = context.find_root().params["traceback"]
    with plain_errors(2, traceback):
        run = OverlapStudy.open(folder)
    _run(run, traceback, quiet, as_json)


@app.command(
    epilog="Such as: eigenspan report runs/mnist16. Several: eigenspan report runs/seed1 runs/seed2 --out seeds.html."
)
def report(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of finished studies.")],
    out: Annotated[
        Path | None, typer.Option(help="File of the page that compares several.", show_default="comparison.html")
    ] = None,
) -> None:
    """Write the report of a study again, or compare several runs of one study on one page."""
    with plain_errors(2, context.find_root().params["traceback"]):
        if len(folders) > 1:
            path = write_comparison(folders, Path("comparison.html") if out is None else out)
        elif out is None:
            path = write_report(read_results(folders[0]), folders[0])
        else:
            raise ValueError(f"--out is of comparisons: the report of {folders[0]} goes there, or name another folder")
    typer.echo(f"Report: {path}")


def _run(run: OverlapStudy, traceback: bool, quiet: bool, as_json: bool) -> None:
    """Do what is left of a study, and write its report."""
    with plain_errors(2, traceback):
        show = record_printer(run.problem.dimensions(run.options.k), quiet=quiet, as_json=as_json)
    kept = f"; what is done is kept in {run.directory}"
    with plain_errors(1, traceback, kept), legible_progress(), _warnings_between_bars():
        results = run.run(progress=run.leads and not quiet, on_record=show)
        if run.leads:
            path = str(write_report(results, run.directory))
            if not quiet:
                typer.echo(json.dumps({"report": path}) if as_json else f"Report: {path}")


for command, example in (
    (worker_commands.measure, "eigenspan measure my_module:problem --folder blocks"),
    (worker_commands.status, "eigenspan status blocks"),
    (worker_commands.decompose, "eigenspan decompose blocks --out eigenpairs.npz"),
):
    app.command(epilog=f"Such as: {example}.")(command)


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
