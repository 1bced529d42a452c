"""What a study found, in plain sentences that are computed from its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .options import SPLIT_NAMES
from .records import DRAWS, LEVEL
from .results import records_of, splits
from .tables import RecordedLevel, TableRow, above_chance, number, percent, share, span, table_rows, text


def findings(results: dict[str, Any]) -> dict[str, list[str]]:
    """Sentences by heading: one a split for the overlap, then for layers of weights and eigenvectors.

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
        "Where the eigenvectors live": _localisation(results, results["records"][-1]),
        **_beside_others(results),
    }


# -- the overlap ------------------------------------------------------------------------------------------------------


def _last_record(results: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """How the last overlap compares with both levels of chance."""
    row = table_rows(record, results["table_k"])[-1]
    size = sum(results["parameters"]["sizes"])
    return [
        f"At step {row.step:,} (loss {text(row.loss, '.3f')}) the {row.k:,} largest of {size:,} parameters and the "
        f"{row.k:,} leading Hessian eigenvectors overlap by {share(row.overlap)}, where 0 is orthogonal and 1 is "
        "the same space.",
        f"A random mask of {row.k:,} parameters would overlap by {_spread(row.uniform)}. {_comparison(row.uniform)}",
        "A random mask with as many parameters in every tensor as the largest have would overlap by "
        f"{_spread(row.stratified)}. {_comparison(row.stratified)}{_excess(row.stratified)}{_explained(row)}",
    ]


def _spread(level: RecordedLevel) -> str:
    return (
        f"{share(level.mean)} on average, and {LEVEL:.0%} of such masks by {span(share(level.low), share(level.high))}"
    )


def _comparison(level: RecordedLevel) -> str:
    if not math.isfinite(level.z):
        return f"All such masks have the same overlap, {share(level.mean)}: there is nothing to compare."
    smallest = 2 / (1 + DRAWS)
    least = f", the least that {DRAWS} random masks can tell" if level.p <= smallest * (1 + 1e-9) else ""
    verdict = {"inside": "it cannot be told apart from chance"}.get(level.verdict, f"{level.verdict} this chance level")
    return (
        f"The observed overlap is {text(level.ratio, '.2f')} times that average, z = {level.z:+.1f}, p = "
        f"{text(level.p, '.3f')}{least}: {verdict}."
    )


def _excess(level: RecordedLevel) -> str:
    if not (math.isfinite(level.z) and level.mean > 0):
        return ""
    low, high = (text(end / level.mean, ".2f") for end in (level.low, level.high))
    return f" That quotient, the overlap excess, is {span(low, high)} for {LEVEL:.0%} of the random masks."


def _explained(row: TableRow) -> str:
    """The share of the excess over uniform chance that comes with the tensors alone."""
    excess = row.overlap - row.uniform.mean
    if not (math.isfinite(row.uniform.z) and math.isfinite(row.stratified.mean) and row.uniform.verdict == "above"):
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
        uniform, stratified = above_chance(largest)
        extremes = (
            f"it is highest at step {top.step:,} ({share(top.overlap)}) and lowest at step {bottom.step:,} "
            f"({share(bottom.overlap)})"
        )
        if share(top.overlap) == share(bottom.overlap):
            extremes = f"it is {share(top.overlap)} at every step"
        sentences.append(
            f"Along the training, at k = {top.k:,}, {extremes}. Of {len(records)} records, "
            f"{uniform} are above the {LEVEL:.0%} interval of uniform chance, and {stratified} above that of "
            "stratified chance."
        )
    return sentences


def _multiples(row: TableRow) -> str:
    uniform, stratified = (text(level.ratio, ".2f") for level in (row.uniform, row.stratified))
    return f"{uniform} times uniform and {stratified} times stratified chance"


# -- the mask and the eigenvectors -------------------------------------------------------------------------------------


def _tensors(results: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Which tensors hold most of the mask, and which holds most parameters."""
    names, sizes = results["parameters"]["names"], results["parameters"]["sizes"]
    counts, k = record["mask_counts"], record["k_max"]
    most = sorted(range(len(names)), key=lambda index: -counts[index])[:3]
    parts = ", ".join(
        f"{counts[index]:,} in {names[index]} ({percent(counts[index] / sizes[index])} of its entries)"
        for index in most
        if counts[index] > 0
    )
    widest = max(range(len(names)), key=lambda index: sizes[index])
    return [
        f"Of the {k:,} largest parameters, as many as eigenpairs were solved for, at step {record['step']:,}: {parts}.",
        f"The largest tensor, {names[widest]}, has {sizes[widest] / sum(sizes):.0%} of all parameters and "
        f"{counts[widest] / k:.0%} of the {k:,} largest.",
        *_ties(record),
    ]


def _ties(record: dict[str, Any]) -> list[str]:
    """Whether the mask is the choice of an order of equals."""
    ties = record["mask_ties"]
    if ties is None:
        return []
    return [
        f"The last places are arbitrary: {ties['tied']:,} parameters have the same magnitude, of which "
        f"{ties['selected']:,} were taken, those of the lowest index."
    ]


def _localisation(results: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Which tensors hold most of the eigenspace, and how many parameters take part in its vectors."""
    names, k = results["parameters"]["names"], results["table_k"][-1]
    energy = [number(row[-1]) for row in record["layer_energy"]["eigenspaces"]]
    most = sorted(range(len(names)), key=lambda index: -energy[index])[:3]
    parts = ", ".join(f"{text(energy[index], '.0%')} in {names[index]}" for index in most)
    ratios = [value for value in map(number, record["participation_ratio"]) if not math.isnan(value)]
    counted = span(f"{min(ratios):,.0f}", f"{max(ratios):,.0f}") if ratios else "not known"
    return [
        f"Of the energy of the {k:,} leading eigenvectors, the squares of their entries, at step {record['step']:,}: "
        f"{parts}.",
        f"The number of parameters that take part in one, the participation ratio, is {counted} of "
        f"{sum(results['parameters']['sizes']):,}.",
    ]


def _beside_others(results: dict[str, Any]) -> dict[str, list[str]]:
    """How much of the last eigenspace other operators share, where they were compared."""
    sentences = []
    for split in splits(results):
        record = records_of(results, split)[-1]
        curves = record.get("comparison", {})
        parts = [f"{text(number(curve[-1]), '.2f')} with those of the {name}" for name, curve in curves.items()]
        if parts:
            sentences.append(
                f"The {len(curves['GGN']):,} leading eigenvectors of the Hessian on {SPLIT_NAMES[split]} data at step "
                f"{record['step']:,} overlap by {' and '.join(parts)}."
            )
    return {"Beside other operators": sentences} if sentences else {}
