"""What a study found, in plain sentences that are computed from its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..metrics import ChanceLevel
from .tables import TableRow, number, residual, table_rows, text

SPLIT_NAMES = {"train": "training", "test": "test"}
"""Splits in words."""
SIGNIFICANT = 2.0
"""So many standard deviations from chance, an overlap is called different from it."""


def findings(results: dict[str, Any]) -> dict[str, list[str]]:
    """Sentences by heading: one heading a split for the overlap, then where the weights lie, then the accuracy.

    Args:
        results: those of `OverlapStudy.run`, with at least one record.
    """
    found = {}
    for split in splits(results):
        records = records_of(results, split)
        heading = "Overlap" if len(splits(results)) == 1 else f"Overlap, {SPLIT_NAMES[split]} data"
        found[heading] = [*_last_record(results, records[-1]), *_dependence(results, records)]
    return found | {
        "Where the large weights are": _tensors(results, results["records"][-1]),
        "Accuracy": _accuracy(results["records"]),
    }


def splits(results: dict[str, Any]) -> list[str]:
    """The splits that have records, training data first."""
    return sorted({record["split"] for record in results["records"]}, reverse=True)


def records_of(results: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The records of a split, by step."""
    return sorted((record for record in results["records"] if record["split"] == split), key=lambda one: one["step"])


# -- the overlap ------------------------------------------------------------------------------------------------------


def _last_record(results: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """How the last overlap compares with both levels of chance."""
    row = table_rows(record, results["table_k"])[-1]
    size = sum(results["parameters"]["sizes"])
    return [
        f"At step {row.step:,} (loss {text(row.loss, '.3f')}) the {row.k:,} largest of {size:,} parameters and the "
        f"{row.k:,} leading Hessian eigenvectors overlap by {text(row.overlap, '.4f')}, where 0 is orthogonal and 1 is "
        "the same space.",
        f"A random mask of {row.k:,} parameters would overlap by {_spread(row.uniform)}. {_comparison(row.uniform)}",
        "A random mask with as many parameters in every tensor as the largest have would overlap by "
        f"{_spread(row.stratified)}. {_comparison(row.stratified)}{_explained(row)}",
    ]


def _spread(level: ChanceLevel) -> str:
    return f"{text(level.mean, '.4f')} ± {text(level.std, '.4f')} (mean and standard deviation)"


def _comparison(level: ChanceLevel) -> str:
    if not math.isfinite(level.z):
        return f"All such masks have the same overlap, {text(level.mean, '.4f')}: there is nothing to compare."
    if abs(level.z) <= SIGNIFICANT:
        verdict = "not told apart from chance"
    else:
        verdict = f"{'above' if level.z > 0 else 'below'} this chance level"
    return f"The observed overlap is {text(level.ratio, '.2f')} times that, z = {level.z:+.1f}: {verdict}."


def _explained(row: TableRow) -> str:
    """The share of the excess over uniform chance that comes with the tensors alone."""
    excess = row.overlap - row.uniform.mean
    if not row.uniform.z > SIGNIFICANT:
        return ""
    share = (row.stratified.mean - row.uniform.mean) / excess
    if share >= 1:
        return " Which tensors the largest lie in accounts for all of the excess over uniform chance."
    return (
        f" Which tensors the largest lie in accounts for {max(share, 0):.0%} of the excess over uniform chance; which "
        "entries of these tensors they are, for the rest."
    )


def _dependence(results: dict[str, Any], records: Sequence[dict[str, Any]]) -> list[str]:
    """How the overlap changes with k and along the training."""
    rows = table_rows(records[-1], results["table_k"])
    sentences = []
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        sentences.append(
            f"The answer depends on k: at step {last.step:,} the overlap is {_multiples(first)} at k = {first.k:,}, "
            f"and {_multiples(last)} at k = {last.k:,}."
        )
    if len(records) > 1:
        largest = [table_rows(record, results["table_k"])[-1] for record in records]
        top, bottom = max(largest, key=lambda row: row.overlap), min(largest, key=lambda row: row.overlap)
        above = [
            sum(level.z > SIGNIFICANT for level in levels)
            for levels in ([row.uniform for row in largest], [row.stratified for row in largest])
        ]
        sentences.append(
            f"Along the training, at k = {top.k:,}, it is highest at step {top.step:,} ({text(top.overlap, '.4f')}) "
            f"and lowest at step {bottom.step:,} ({text(bottom.overlap, '.4f')}). Of {len(records)} records "
            f"{above[0]} are more than {SIGNIFICANT:g} standard deviations above uniform chance, and {above[1]} above "
            "stratified chance."
        )
    return sentences


def _multiples(row: TableRow) -> str:
    uniform, stratified = (text(level.ratio, ".2f") for level in (row.uniform, row.stratified))
    return f"{uniform} times uniform and {stratified} times stratified chance"


# -- the mask and the solves ------------------------------------------------------------------------------------------


def _tensors(results: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Which tensors hold most of the mask, and which holds most parameters."""
    names, sizes = results["parameters"]["names"], results["parameters"]["sizes"]
    counts, k = record["mask_counts"], record["k_max"]
    most = sorted(range(len(names)), key=lambda index: -counts[index])[:3]
    parts = ", ".join(
        f"{counts[index]:,} in {names[index]} ({counts[index] / sizes[index]:.0%} of its entries)"
        for index in most
        if counts[index] > 0
    )
    widest = max(range(len(names)), key=lambda index: sizes[index])
    return [
        f"Of the {k:,} largest parameters at step {record['step']:,}: {parts}.",
        f"The largest tensor, {names[widest]}, has {sizes[widest] / sum(sizes):.0%} of all parameters and "
        f"{counts[widest] / k:.0%} of the {k:,} largest.",
    ]


def _accuracy(records: Sequence[dict[str, Any]]) -> list[str]:
    """How the solves ended, their residuals and, where there is one, the agreement with the dense result."""
    endings: dict[str, int] = {}
    for record in records:
        ending = record["report"]["status_text"]
        endings[ending] = endings.get(ending, 0) + 1
    sentences = [f"{count} of {len(records)} solves {ending}." for ending, count in endings.items()]
    known = [value for value in map(residual, records) if not math.isnan(value)]
    if known:
        sentences.append(f"No residual norm ‖Hv - λv‖ is larger than {max(known):.1e} of the largest |λ|.")
    else:
        sentences.append("Residual norms were not measured.")
    exact = [number(value) for record in records if "exact" in record for value in record["exact"]["subspace_overlap"]]
    if exact:
        sentences.append(
            f"The computed eigenspaces overlap with those of the dense Hessian by at least {min(exact):.6f} at every k."
        )
    return sentences
