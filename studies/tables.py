"""What a record says at single k, as rows of a table: for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from ..metrics import ChanceLevel


@attrs.frozen(kw_only=True)
class TableRow:
    """A record at one k. What was not measured, or is null in ``results.json``, is NaN.

    Attributes:
        step: of training.
        split: ``"train"`` or ``"test"``.
        k: the dimension of mask and eigenspace.
        loss: on the data that the Hessian is of.
        top_eigenvalue: λ₁, the largest in magnitude.
        overlap: of the mask of the k largest weights with the k leading eigenvectors.
        uniform: the overlap beside that of any random mask of k weights.
        stratified: the overlap beside that of random masks with as many weights in every tensor.
        products: Hessian-vector products of the whole solve.
        seconds: wall time of the whole solve.
    """

    step: int
    split: str
    k: int
    loss: float
    top_eigenvalue: float
    overlap: float
    uniform: ChanceLevel
    stratified: ChanceLevel
    products: int
    seconds: float


def table_rows(record: dict[str, Any], table_k: Sequence[int]) -> list[TableRow]:
    """One row for each k of interest, in rising order; those beyond the record's largest k become that.

    Args:
        record: one of ``results["records"]``.
        table_k: the dimensions of interest.
    """
    report = record["report"]
    return [
        TableRow(
            step=record["step"],
            split=record["split"],
            k=k,
            loss=number(record["loss"]),
            top_eigenvalue=number(record["eigenvalues"][0]),
            overlap=number(record["overlap"][k - 1]),
            uniform=_level("uniform", record, k),
            stratified=_level("stratified", record, k),
            products=report["products"],
            seconds=number(report["seconds"]),
        )
        for k in reached_k(table_k, record["k_max"])
    ]


def reached_k(table_k: Sequence[int], k_max: int) -> list[int]:
    """The dimensions of interest in rising order, each cut to the largest there is."""
    return sorted({min(k, k_max) for k in table_k})


def _level(null: str, record: dict[str, Any], k: int) -> ChanceLevel:
    chance = record[f"chance_{null}"]
    observed, mean, std = (number(curve[k - 1]) for curve in (record["overlap"], chance["mean"], chance["std"]))
    strata = 1 if null == "uniform" else len(record["mask_counts"])
    return ChanceLevel(null, strata, observed, mean, std)


def number(value: float | None) -> float:
    """A float of what stands in ``results.json``, where null is a number that was not finite."""
    return math.nan if value is None else float(value)


def residual(record: dict[str, Any]) -> float:
    """The largest residual norm of a record in units of |λ₁|; NaN where none was measured or λ₁ is 0."""
    norms = [number(norm) for norm in record["residual_norms"]]
    known = [norm for norm in norms if not math.isnan(norm)]
    scale = abs(number(record["eigenvalues"][0]))
    return max(known) / scale if known and scale > 0 else math.nan


HEADINGS = ("k", "overlap", "uniform", "ratio", "z", "stratified", "ratio", "z")
"""Of the columns of `cells`."""


def cells(row: TableRow) -> tuple[str, ...]:
    """k, the overlap, and for both nulls the level of chance, overlap / chance, and the distance in deviations."""
    parts = [str(row.k), text(row.overlap, ".4f")]
    for level in (row.uniform, row.stratified):
        parts += [text(level.mean, ".4f"), text(level.ratio, ".2f"), text(level.z, "+.1f")]
    return tuple(parts)


def text(value: float, form: str) -> str:
    """A number in a format, a dash if there is none; +inf and -inf are none either."""
    return format(value, form) if math.isfinite(value) else "-"
