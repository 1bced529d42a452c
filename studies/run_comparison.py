"""Several runs of a study on one page, beside one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..linops.files import require_writable, written_whole
from .drawing import own_style, svg_of
from .options import SPLIT_NAMES
from .page import cell_row, figure, key_numbers, page, paragraphs, table, told
from .passages import READING, citation, data_note, plain, reproduction
from .records import LEVEL
from .run_comparison_plots import run_figures
from .runs import Runs, is_recorded
from .tables import HEADINGS, TableRow, above_chance, cells, ending, leading, number, residual, share, table_rows, text

_DATA_OPTIONS = {"data", "data root", "hessian samples", "image size", "weights"}
"""Options, in words, that a description of data repeats."""


def write_comparison(directories: Sequence[Path], path: Path) -> Path:
    """Writes one page on several runs of a study, as its folders have them.

    Like a report it loads nothing, and appears whole or not at all.

    Args:
        directories: of finished runs of one study, on one kind of data.
        path: of the page.

    Returns:
        The path.

    Raises:
        ValueError: runs that cannot be compared, or results that are damaged or of another version.
        FileNotFoundError: results that are missing.
        OSError: a file that cannot be read or written.

    Cost: some seconds.
    """
    require_writable(path)
    content = _page(Runs.read(directories))
    with written_whole(path) as partial:
        partial.write_text(content, encoding="utf-8")
    return path


def _page(runs: Runs) -> str:
    first = next(iter(runs.results.values()))
    header = (
        f"<h1>{len(runs.results)} runs of {escape(first['study'])}: large weights and the top Hessian eigenspace</h1>\n"
        f"<p>{escape(first['title'])}. {escape(first['description'])}.</p>\n{data_note(first)}{_key_numbers(runs)}"
    )
    sections = {
        "What was compared": _compared(runs),
        "What was found": told({f"On {SPLIT_NAMES[split]} data": found(runs, split) for split in runs.splits}),
        "How sure it is": _certainty_table(runs),
        "Figures": _figures(runs, first["title"]),
        "Overlap and chance": "".join(_overlap_table(runs, split) for split in runs.splits),
        "Eigenvalues": "".join(_eigenvalue_table(runs, split) for split in runs.splits),
        "Cost": _cost_table(runs),
        "Settings to reproduce": "".join(
            f"<h3>{escape(label)}</h3>{reproduction(results)}" for label, results in runs.results.items()
        ),
        "How to read this": paragraphs(READING),
        "How to cite": citation(first),
    }
    return page(f"{first['study']}: {len(runs.results)} runs", header, sections)


def _last_rows(runs: Runs, split: str) -> dict[str, TableRow]:
    """The last record of each run at the largest common k."""
    return {label: table_rows(records[-1], [runs.k])[-1] for label, records in runs.records(split).items()}


def _key_numbers(runs: Runs) -> str:
    lists = []
    for split in runs.splits:
        overlap, *ratios = map(_spread, _numbers(list(_last_rows(runs, split).values())))
        where = f"mean overlap at k = {runs.k}, last steps, {SPLIT_NAMES[split]} data, from"
        entries = [(share(overlap[0]), f"{where} {share(overlap[1])} to {share(overlap[2])}")]
        for null, (mean, low, high) in zip(("uniform", "stratified"), ratios, strict=True):
            entries.append((f"{text(mean, '.2f')} ×", f"{null} chance, from {text(low, '.2f')} to {text(high, '.2f')}"))
        lists.append(key_numbers(entries))
    return "".join(lists)


def _numbers(rows: Sequence[TableRow]) -> tuple[list[float], list[float], list[float]]:
    """The overlaps, and their multiples of both levels of chance."""
    return [row.overlap for row in rows], [row.uniform.ratio for row in rows], [row.stratified.ratio for row in rows]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, least and largest."""
    return sum(values) / len(values), min(values), max(values)


# -- what differs and what was found ----------------------------------------------------------------------------------


def _compared(runs: Runs) -> str:
    """Settings in which the runs differ, a row a run."""
    columns = {name.replace("_", " "): values for name, values in runs.differences("options").items()}
    words = [results["description"] for results in runs.results.values()]
    if len(set(words)) > 1:
        columns["data"] = words
    columns |= runs.differences("environment")
    count = f"{len(runs.results)} runs of the same network were read"
    if not columns:
        return paragraphs([f"{count}. Their settings, data and environment are the same."])
    rows = [
        cell_row(label, [plain(values[place]) for values in columns.values()])
        for place, label in enumerate(runs.results)
    ]
    caption = "What differs between the runs. All other settings, and what they were computed with, are the same."
    return paragraphs([f"{count}. Each is compared at its last step unless a step is named."]) + table(
        caption, ("run", *columns), [rows]
    )


def found(runs: Runs, split: str) -> list[str]:
    """What the runs say together, in sentences.

    Args:
        runs: to compare.
        split: which data the Hessians are of, one that all have.
    """
    by_label = _last_rows(runs, split)
    rows, count = list(by_label.values()), len(by_label)
    overlap, uniform, stratified = map(_spread, _numbers(rows))
    low, high = (choose(by_label, key=lambda label: by_label[label].overlap) for choose in (min, max))
    values = [row.top_eigenvalue for row in rows]
    above = above_chance(rows)
    return [
        f"At k = {runs.k:,} and the last step of each of {count} runs the overlap is {share(overlap[0])} on "
        f"average, from {share(overlap[1])} ({low}) to {share(overlap[2])} ({high}).",
        f"That is {_range(uniform)} times uniform chance and {_range(stratified)} times stratified chance.",
        f"{above[0]} of {count} runs are above the {LEVEL:.0%} interval of uniform chance, and {above[1]} above that "
        "of stratified chance.",
        f"The eigenvalue that is largest in magnitude is between {text(min(values), '.4g')} and "
        f"{text(max(values), '.4g')}.",
        _reason(runs),
    ]


def _range(spread: tuple[float, float, float]) -> str:
    mean, low, high = (text(value, ".2f") for value in spread)
    return f"{mean} ({low} to {high})"


def _reason(runs: Runs) -> str:
    """What the differences can be due to."""
    every = runs.results.values()
    changed = [name.replace("_", " ") for name in runs.differences("options")]
    if not _DATA_OPTIONS & {*changed} and len({results["description"] for results in every}) > 1:
        changed.append("data")
    if "steps" not in changed and len({results["records"][-1]["step"] for results in every}) > 1:
        changed.append("last step")
    if any(is_recorded(results) for results in every):
        listed = f"The runs differ in {', '.join(changed)}. " if changed else ""
        return f"{listed}How the networks were trained is not known here: that may differ as well."
    if not changed and any(results["command"] is None or ":" in results["study"] for results in every):
        return (
            "The settings are the same: what differs is due to rounding, to what the runs were computed with, or to "
            "the network, data, training or checkpoints of one's own, where those are not the same."
        )
    if not changed:
        return "The settings are the same: what differs is due to rounding, or to what the runs were computed with."
    if changed == ["seed"]:
        return (
            "The runs differ in the seed alone: their spread is that of initial values, the order of the data and "
            "random numbers of the solver."
        )
    if len(changed) == 1:
        return f"The runs differ in {changed[0]} alone."
    return f"The runs differ in {', '.join(changed[:-1])} and {changed[-1]}: which of these does what cannot be told."


# -- figures and tables -----------------------------------------------------------------------------------------------


def _figures(runs: Runs, title: str) -> str:
    with own_style():
        return "".join(
            figure(svg_of(drawn.figure), drawn.alternative, drawn.caption)
            for split in runs.splits
            for drawn in run_figures(title, runs.records(split), split, runs.k)
        )


def _overlap_table(runs: Runs, split: str) -> str:
    """A group of rows a run, of its last record."""
    groups = []
    for label, records in runs.records(split).items():
        rows = table_rows(records[-1], runs.table_k)
        groups.append(
            [cell_row(label if row is rows[0] else "", [str(row.step), *cells(row)], len(rows)) for row in rows]
        )
    caption = (
        f"Overlap on {SPLIT_NAMES[split]} data at the last step of each run. Uniform and stratified: mean overlap of "
        "random masks; ratio: overlap / chance; z: distance from chance in standard deviations; p: two-sided p-value."
    )
    return table(caption, ("run", "step", *HEADINGS), groups)


def _eigenvalue_table(runs: Runs, split: str) -> str:
    dimensions = runs.table_k
    rows = []
    for label, records in runs.records(split).items():
        values = [number(value) for value in records[-1]["eigenvalues"]]
        chosen = [text(values[k - 1], ".4g") for k in (1, *(k for k in dimensions if k > 1))]
        entries = [text(number(records[-1]["loss"]), ".4f"), *chosen, str(sum(value < 0 for value in values[: runs.k]))]
        rows.append(cell_row(label, entries))
    headings = ("run", "loss", "λ₁", *(f"λ, rank {k}" for k in dimensions if k > 1), "negative")
    caption = (
        f"Eigenvalues on {SPLIT_NAMES[split]} data at the last step of each run, ranked by magnitude. Negative: how "
        f"many of the first {runs.k}."
    )
    return table(caption, headings, [rows])


def _certainty_table(runs: Runs) -> str:
    rows = []
    for split in runs.splits:
        for label, records in runs.records(split).items():
            last = records[-1]
            at_k = table_rows(last, runs.table_k)
            row = next((row for row in reversed(at_k) if math.isfinite(row.error[0])), at_k[-1])
            rows.append(
                cell_row(
                    label,
                    [
                        *(split, str(last["step"]), ending(last), text(residual(last), ".1e")),
                        "-" if last["certificate"] is None else f"{leading(last)} of {last['k_max']}",
                        *(str(row.k), *map(share, row.error)),
                    ],
                )
            )
    lead = (
        "Eigenvalues are certain to their residual norms. Which pairs lead, and the error of the overlap, rest on the "
        "premise that no eigenvalue was missed that is larger in magnitude than the last one found; the report of each "
        "run says more. A spread over few runs is itself known roughly: two of them may be near by accident."
    )
    caption = (
        "How the last solve of each run ended. Residual: the largest norm, relative to the largest |λ|; leading: how "
        "many pairs are shown to be the leading ones; overlap from … to: of the mask with the true eigenspace, at the "
        "largest k of interest that a gap follows."
    )
    headings = ("run", "split", "step", "status", "residual", "leading", "k", "overlap from", "to")
    return paragraphs([lead]) + table(caption, headings, [rows])


def _cost_table(runs: Runs) -> str:
    rows = []
    for label, results in runs.results.items():
        records = results["records"]
        reports = [record["report"] for record in records]
        memory = [report["peak_memory"] for report in reports if report["peak_memory"] is not None]
        rows.append(
            cell_row(
                label,
                [
                    str(len(records)),
                    f"{sum(report['products'] for report in reports):,}",
                    *(_total(reports, name) for name in ("seconds_in_products", "seconds")),
                    _total(records, "seconds"),
                    f"{max(memory) / 2**30:.2f}" if memory else "-",
                ],
            )
        )
    caption = (
        "Cost of all records of each run. Products: Hessian-vector products of the solves; with all else: records with "
        "comparisons and chance levels, the training not counted; memory: the most that the process held."
    )
    headings = ("run", "records", "products", "in products, s", "in solves, s", "with all else, s", "memory, GiB")
    return table(caption, headings, [rows])


def _total(entries: Sequence[dict[str, Any]], name: str) -> str:
    return text(sum(number(entry[name]) for entry in entries), ".1f")
