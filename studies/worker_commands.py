"""Commands for workers that measure one sketch into a folder, and for what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from ..linops.files import require_writable
from ..solvers import BlockStore, decompose_folder, measure_columns
from ..solvers.workers import shared_store
from .bars_in_logs import legible_progress
from .exits import plain_errors
from .options import require_device
from .progress import progress_of, progress_of_store
from .references import named


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
    with plain_errors(2, traceback):
        chosen = None if columns is None else _columns(columns)
        solver, operator = _called(problem)
        if (folder / "study.json").exists():
            raise ValueError(f"{folder} is the folder of a study: choose another one for the blocks")
        operator, _, store = shared_store(solver, operator, folder, chosen, lapse)
        fingerprint = str(store.identity["operator"])
    with plain_errors(1, traceback, f"; finished blocks are kept in {folder}"), legible_progress():
        measured = measure_columns(
            solver, operator, folder, chosen, wait=wait, lapse=lapse, fingerprint=fingerprint, progress=True
        )
    typer.echo(f"{measured} columns measured here. {progress_of_store(store)}")


def status(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of the blocks, checkpoint, or study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers as JSON.")] = False,
) -> None:
    """Say how much is done and left of a sketch, a solve or a study in a folder, and how long a solve may take."""
    with plain_errors(2, context.find_root().params["traceback"]):
        progress = progress_of(folder)
    typer.echo(json.dumps(attrs.asdict(progress)) if as_json else str(progress))


def decompose(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of the blocks.")],
    out: Annotated[Path, typer.Option(help="File of the result, for EigenDecomposition.load.")],
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Make eigenpairs or singular triplets of the columns that workers have measured."""
    traceback = context.find_root().params["traceback"]
    with plain_errors(2, traceback):
        store = BlockStore.open(folder)
        require_device(device)
        out.parent.mkdir(parents=True, exist_ok=True)
        require_writable(out)  # before the work, which would be lost
        if any(store.missing(name) for name in store.matrices):
            raise ValueError(f"{folder} lacks columns: {progress_of_store(store)} Measure them by eigenspan measure")
    with plain_errors(1, traceback):
        found = decompose_folder(folder, device=device)
        found.save(out)
    typer.echo(f"{found!r}\nSaved: {out}")


def _called(problem: str) -> tuple[Any, Any]:
    """The solver and the operator that a function returns."""
    found = named(problem)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{problem} is to return (solver, operator), got {type(found).__name__}")
    return found


def _columns(text: str) -> range:
    start, _, stop = text.partition(":")
    if not start.isdecimal() or not stop.isdecimal():
        raise ValueError(f"--columns is START:STOP, such as 0:128, got {text!r}")
    return range(int(start), int(stop))
