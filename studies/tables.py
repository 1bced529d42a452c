"""What a record says at single k, as rows of a table: for the terminal and for the report."""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from typing import Any

import attrs

from ..metrics import ChanceLevel


@attrs.frozen(repr=False, slots=False)
class RecordedLevel(ChanceLevel):
    """A chance level of a record: its law was left behind, and what is known of it are these numbers.

    Attributes:
        low: lower end of the central interval of probability `LEVEL` under the null.
        high: upper end of it.
        p: the two-sided p-value.
    """

    low: float = attrs.field(kw_only=True)
    high: float = attrs.field(kw_only=True)
    p: float = attrs.field(kw_only=True)

    @property
    def verdict(self) -> str:
        """Where the observed overlap is to the interval: ``"above"``, ``"below"`` or ``"inside"``."""
        if self.observed > self.high:
            return "above"
        return "below" if self.observed < self.low else "inside"


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
        error: the ends of an interval of that overlap with the true eigenspace, by residual norms.
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
    error: tuple[float, float]
    uniform: RecordedLevel
    stratified: RecordedLevel
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
            error=(number(record["overlap_error"]["low"][k - 1]), number(record["overlap_error"]["high"][k - 1])),
            uniform=_level("uniform", record, k),
            stratified=_level("stratified", record, k),
            products=report["products"],
            seconds=number(report["seconds"]),
        )
        for k in reached_k(table_k, record["k_max"])
    ]


def table_for(k: int) -> tuple[int, ...]:
    """Dimensions of interest up to k, where nobody chose them."""
    return (*(j for j in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if j < k), k)


def reached_k(table_k: Sequence[int], k_max: int) -> list[int]:
    """The dimensions of interest in rising order, each cut to the largest there is."""
    return sorted({min(k, k_max) for k in table_k})


TENSORS = 100
"""So many tensors are told by name: of thousands a picture would be hundreds of inches high, and solves as many."""


def heaviest(weights: Sequence[float]) -> list[int]:
    """The indices, in rising order, of the tensors that are told by name: those of the largest weights."""
    return sorted(sorted(range(len(weights)), key=lambda index: -weights[index])[:TENSORS])


def _level(null: str, record: dict[str, Any], k: int) -> RecordedLevel:
    chance = record[f"chance_{null}"]
    mean, std, low, high, p = (number(chance[name][k - 1]) for name in ("mean", "std", "low", "high", "p_value"))
    strata = 1 if null == "uniform" else len(record["mask_counts"])
    return RecordedLevel(null, strata, number(record["overlap"][k - 1]), mean, std, low=low, high=high, p=p)


def number(value: float | None) -> float:
    """A float of what stands in ``results.json``, where null is a number that was not finite."""
    return math.nan if value is None else float(value)


def residual(record: dict[str, Any]) -> float:
    """The largest residual norm of a record in units of |λ₁|; NaN where none was measured or λ₁ is 0."""
    norms = [number(norm) for norm in record["residual_norms"]]
    known = [norm for norm in norms if not math.isnan(norm)]
    scale = abs(number(record["eigenvalues"][0]))
    return max(known) / scale if known and scale > 0 else math.nan


def ending(record: dict[str, Any]) -> str:
    """How the solve of a record ended, in a word or two."""
    return str(record["report"]["status"]).lower().replace("_", " ")


def leading(record: dict[str, Any]) -> int:
    """How many pairs of a record are shown to be the leading ones: the largest such k; 0 without a certificate."""
    leads = [] if record["certificate"] is None else record["certificate"]["leads"]
    return max((k for k, shown in enumerate(leads, 1) if shown), default=0)


def above_chance(rows: Sequence[TableRow]) -> tuple[int, int]:
    """How many rows are above the interval of uniform chance, and how many above that of stratified chance."""
    verdicts = [(row.uniform.verdict, row.stratified.verdict) for row in rows]
    uniform, stratified = (sum(verdict == "above" for verdict in level) for level in zip(*verdicts, strict=True))
    return uniform, stratified


_DIGITS = 400  # of the exact value of a float, in front of which none is lost

HEADINGS = ("k", "overlap", "uniform", "ratio", "z", "p", "stratified", "ratio", "z", "p")
"""Of the columns of `cells`."""


def cells(row: TableRow) -> tuple[str, ...]:
    """k, the overlap, and for both nulls the level of chance, overlap / chance, the distance in deviations, the p."""
    parts = [str(row.k), share(row.overlap)]
    for level in (row.uniform, row.stratified):
        parts += [share(level.mean), text(level.ratio, ".2f"), text(level.z, "+.1f"), text(level.p, ".3f")]
    return tuple(parts)


UP, DOWN = decimal.ROUND_CEILING, decimal.ROUND_FLOOR
"""How upper and lower bounds are rounded: one that is rounded to the nearest number bounds nothing."""


def text(value: float, form: str, rounding: str | None = None) -> str:
    """A number in a format, a dash if there is none; +inf and -inf are none either.

    Args:
        value: the number.
        form: ``".3f"``, ``".1e"`` and the like.
        rounding: `UP` or `DOWN`, of these two formats; by default to the nearest.
    """
    if not math.isfinite(value):
        return "-"
    if rounding is not None:
        exact, digits = decimal.Decimal(repr(float(value))), int(form[1:-1])  # as it stands in results.json
        last = exact.adjusted() - digits if form[-1] == "e" else -digits
        unit = decimal.Decimal(1).scaleb(last)
        value = float(exact.quantize(unit, rounding, decimal.Context(prec=_DIGITS)))
    return format(value, form)


def share(value: float, rounding: str | None = None) -> str:
    """A number from 0 to 1 by four decimals, or two digits where these would show nothing; a dash if there is none."""
    return text(value, ".4f" if value == 0 or abs(value) >= 0.001 else ".1e", rounding)


def span(low: str, high: str) -> str:
    """Both ends of what lies between two numbers, or the one that they are."""
    return low if low == high else f"{low} to {high}"


def percent(value: float) -> str:
    """A number from 0 to 1 in whole percent, or with two digits below ten."""
    return text(value, ".0%") if value == 0 or value >= 0.1 else f"{100 * value:.2g}%"
