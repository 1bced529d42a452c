"""What commands print of the records of a study: tables, lines of JSON, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from ..linops.files import finite
from .tables import HEADINGS, UP, RecordedLevel, cells, ending, number, residual, table_rows, text


def record_printer(table_k: Sequence[int], *, quiet: bool, as_json: bool) -> Callable[[dict[str, Any]], None]:
    """What prints each record as it is ready.

    Args:
        table_k: the dimensions to print.
        quiet: whether it prints nothing.
        as_json: whether it prints a line of JSON: see `record_summary`.

    Raises:
        ValueError: both.
    """
    if quiet and as_json:
        raise ValueError("--quiet prints nothing and --json lines of JSON: leave out one of them")
    if quiet:
        return lambda record: None
    if as_json:
        return lambda record: typer.echo(json.dumps(record_summary(record, table_k)))
    return lambda record: _print_table(record, table_k)


def record_summary(record: dict[str, Any], table_k: Sequence[int]) -> dict[str, Any]:
    """A record at the k of interest, as plain data that JSON can hold: what is not finite is None."""
    rows, report = table_rows(record, table_k), record["report"]
    levels = ("uniform", "stratified")
    summary: dict[str, Any] = finite(
        {
            "step": record["step"],
            "split": record["split"],
            "loss": number(record["loss"]),
            "top_eigenvalue": rows[0].top_eigenvalue,
            "products": report["products"],
            "seconds": rows[0].seconds,
            "status": report["status"],
            "largest_residual": residual(record),  # of the largest |λ|
            "overlaps": [
                {"k": row.k, "overlap": row.overlap, **{null: _level(getattr(row, null)) for null in levels}}
                for row in rows
            ],
        }
    )
    return summary


def _level(level: RecordedLevel) -> dict[str, float]:
    return {"chance": level.mean, "ratio": level.ratio, "z": level.z, "p": level.p}


def _print_table(record: dict[str, Any], table_k: Sequence[int]) -> None:
    """A table, or lines where a table would not fit. In ASCII, which every terminal can show."""
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
    row = table_rows(record, [1])[0]
    return (
        f"step {row.step}, {row.split} data: loss {text(row.loss, '.4f')}, top eigenvalue "
        f"{text(row.top_eigenvalue, '.4g')}; {row.products} products, {text(row.seconds, '.1f')} s, "
        f"{ending(record)}, residuals up to {text(residual(record), '.0e', UP)} of the top"
    )
