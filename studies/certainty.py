"""How sure the numbers of a study are: what is certain, what rests on a premise, and what is only an estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .options import SPLIT_NAMES
from .page import cell_row, table
from .records import DRAWS
from .results import splits
from .tables import DOWN, UP, TableRow, leading, number, reached_k, residual, share, table_rows, text


def certainty(results: dict[str, Any]) -> dict[str, list[str]]:
    """Sentences by heading: how the solves ended, what is certain, what rests on a premise, what is an estimate.

    Args:
        results: those of a study, with at least one record.
    """
    records = results["records"]
    return {
        "How the solves ended": _accuracy(records),
        "Certain": _certain(records),
        "By a premise": [*_premise(records, _of(results)), *_error(results)],
        "Only an estimate": [
            f"Means and standard deviations of chance are exact; its intervals and p-values are of {DRAWS} random "
            f"masks: a p-value near 0.05 has a standard error of {2 * math.sqrt(0.025 * 0.975 / DRAWS):.2f}.",
            "All numbers are of one network and of the samples that the Hessian is of: another seed, other samples or "
            "all of the data give other ones, and nothing on this page bounds by how much.",
        ],
    }


def _certain(records: Sequence[dict[str, Any]]) -> list[str]:
    """What follows from residual norms alone."""
    shown = [record for record in records if record["certificate"] is not None]
    sentences = []
    if shown:
        widest = max(shown, key=_radius)
        sentences.append(
            f"The {widest['k_max']:,} eigenvalues of a record are within {text(_radius(widest), '.1e', UP)} of the "
            "largest |λ| of as many eigenvalues of the Hessian, one to one: residual norms show that for every record"
            f"{'' if len(shown) == len(records) else ' that has them'}, whatever else was missed."
        )
    if len(shown) < len(records):
        sentences.append(
            f"{len(records) - len(shown)} of {len(records)} records have no residual norms: all of their eigenvalues "
            "and overlaps are estimates of unknown error."
        )
    return sentences


def _radius(record: dict[str, Any]) -> float:
    """The largest radius of an eigenvalue in units of |λ₁|; 0 where all are 0."""
    scale = abs(number(record["eigenvalues"][0]))
    return max(map(number, record["certificate"]["radii"])) / scale if scale > 0 else 0.0


def _of(results: dict[str, Any]) -> str:
    """Which data the last record is of, where there are others."""
    return f" on {SPLIT_NAMES[results['records'][-1]['split']]} data" if len(splits(results)) > 1 else ""


def _premise(records: Sequence[dict[str, Any]], of: str) -> list[str]:
    """Which pairs lead, and how near their span is to the leading eigenspace, at the last record."""
    last = records[-1]
    certificate = last["certificate"]
    if certificate is None:
        return ["Nothing is shown of eigenspaces without residual norms."]
    premise, k = certificate["premise"], last["k_max"]
    if certificate["probability"] == 1:
        basis = f"At step {last['step']:,}{of} it is certain that {premise}."
    else:
        basis = (
            f"That no larger eigenvalue was missed is assumed and not shown. At step {last['step']:,}{of} the premise "
            f"is that {premise}."
        )
    leads = leading(last)
    if leads == 0:
        return [basis, f"Even so no gap sets the first of the {k:,} eigenvectors apart: no eigenspace is bounded."]
    sine = number(certificate["sines"][leads - 1])
    angle = (
        f"the sine of its largest angle to that is at most {text(sine, '.1e', UP)}"
        if sine < 1
        else "no angle is bounded"
    )
    missed = f"at most {text(_missed(certificate, leads), '.1e', UP)} is missing to an overlap of 1"
    return [
        basis,
        f"By it the span of the first {leads:,} of {k:,} eigenvectors is the leading eigenspace but for an error: "
        f"{angle}, and {missed} (Davis and Kahan).",
    ]


def _missed(certificate: dict[str, Any], k: int) -> float:
    """What the first k vectors miss to an overlap of 1 with the leading eigenspace, at most."""
    sine = number(certificate["sines"][k - 1])
    # Below 1 it bounds √(Σ sin²) too, whose square 1 - overlap would lose to cancellation: no bound is 0.
    return sine**2 / k if sine < 1 else 1 - number(certificate["overlaps"][k - 1])


def certificate_table(results: dict[str, Any], records: Sequence[dict[str, Any]], caption: str) -> str:
    """The certificates of the records of a split at each k of interest, a group of rows a step."""
    groups = []
    for record in records:
        if record["certificate"] is None:
            groups.append([cell_row(str(record["step"]), ["residual norms were not measured", *[""] * 8])])
            continue
        certificate, dimensions = record["certificate"], reached_k(results["table_k"], record["k_max"])
        rows = []
        for row, k in enumerate(dimensions):
            at = {name: number(certificate[name][k - 1]) for name in ("radii", "sharp_radii", "sines")}
            leads = bool(certificate["leads"][k - 1])
            entries = [
                *(str(k), text(number(record["eigenvalues"][k - 1]), ".4g")),
                *(text(at["radii"], ".1e", UP), text(at["sharp_radii"], ".1e", UP), "yes" if leads else "not shown"),
                text(at["sines"] if leads and at["sines"] < 1 else math.nan, ".1e", UP),
                text(_missed(certificate, k) if leads else math.nan, ".1e", UP),
                share(number(record["overlap_error"]["low"][k - 1]), DOWN),
                share(number(record["overlap_error"]["high"][k - 1]), UP),
            ]
            rows.append(cell_row("" if row else str(record["step"]), entries, len(dimensions)))
        groups.append(rows)
    headings = ("step", "k", "λₖ", "radius", "sharp", "leads", "sine ≤", "missed ≤", "overlap from", "to")
    return table(caption, headings, groups)


def _error(results: dict[str, Any]) -> list[str]:
    """What the error of the eigenspace may change in the overlap, at the largest k of interest where that is shown."""
    rows = [row for row in table_rows(results["records"][-1], results["table_k"]) if math.isfinite(row.error[0])]
    return [
        *_last_error(rows[-1:], _of(results)),
        *_errors([table_rows(one, results["table_k"])[-1] for one in results["records"]]),
    ]


def _last_error(rows: Sequence[TableRow], of: str) -> list[str]:
    return [
        f"At step {row.step:,}{of} and k = {row.k:,} the overlap with the true eigenspace is between "
        f"{share(row.error[0], DOWN)} and {share(row.error[1], UP)}, if no eigenvalue larger than the last one found "
        "was missed."
        for row in rows
    ]


def _errors(rows: Sequence[TableRow]) -> list[str]:
    """How far apart those ends are at worst, and where there are none, of one row a record."""
    if len(rows) < 2:
        return []
    known = [row for row in rows if math.isfinite(row.error[0])]
    sentences = []
    if known:
        widest = max(known, key=lambda row: row.error[1] - row.error[0])
        low, high = widest.error
        sentences.append(
            f"Of all records at k = {widest.k:,} the widest such interval is that of step {widest.step:,}, "
            f"{share(low, DOWN)} to {share(high, UP)}."
        )
    if len(known) < len(rows):
        sentences.append(
            f"{len(rows) - len(known)} of {len(rows)} records have none there: no gap behind eigenvalue k is known."
        )
    return sentences


def _accuracy(records: Sequence[dict[str, Any]]) -> list[str]:
    """How the solves ended, their residuals and, where there is one, the agreement with the dense result."""
    endings: dict[str, int] = {}
    for record in records:
        ending = record["report"]["status_text"]
        endings[ending] = endings.get(ending, 0) + 1
    sentences = [f"{count} of {len(records)} solves {ending}." for ending, count in endings.items()]
    known = [value for value in map(residual, records) if not math.isnan(value)]
    if known:
        sentences.append(f"No residual norm ‖Hv - λv‖ is larger than {text(max(known), '.1e', UP)} of the largest |λ|.")
    elif any(not math.isnan(number(norm)) for record in records for norm in record["residual_norms"]):
        sentences.append("All eigenvalues that were found are 0, so that residual norms have no scale.")
    else:
        sentences.append("Residual norms were not measured.")
    exact = [number(value) for record in records if "exact" in record for value in record["exact"]["subspace_overlap"]]
    if exact:
        sentences.append(
            "The computed eigenspaces overlap with those of the dense Hessian by at least "
            f"{text(min(exact), '.6f', DOWN)} at every k."
        )
    return sentences
