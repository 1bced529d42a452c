"""The report of a study: one HTML file that holds everything, for the screen, the telephone and paper."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..linops.files import written_whole
from .certainty import certainty, certificate_table
from .findings import findings
from .options import SPLIT_NAMES
from .page import cell_row, definitions, figure, key_numbers, page, paragraphs, table, told
from .passages import READING, citation, data_note, plain, reproduction
from .plots import save_figures
from .results import records_of, splits
from .tables import HEADINGS, cells, ending, heaviest, number, percent, residual, share, table_rows, text


def write_report(results: dict[str, Any], directory: str | os.PathLike[str]) -> Path:
    """Draws the figures of a study and writes them with its findings and tables into one file, ``report.html``.

    The file loads nothing, neither from the network nor from beside it, and runs no script. It appears whole or not
    at all.

    Args:
        results: those of `OverlapStudy.run`, or of a folder by `read_results`, with at least one record.
        directory: that of the study; the figures are in its folder ``figures`` as well.

    Returns:
        The path of the report.

    Raises:
        OSError: a file cannot be written.

    Cost: some seconds.
    """
    directory = Path(directory)
    figures = {
        drawn.name: figure((directory / "figures" / f"{drawn.name}.svg").read_bytes(), drawn.alternative, drawn.caption)
        for drawn in save_figures(results, directory)
    }
    path = directory / "report.html"
    with written_whole(path) as partial:
        partial.write_text(_page(results, figures), encoding="utf-8")
    return path


def _page(results: dict[str, Any], figures: Mapping[str, str]) -> str:
    of_masks = figures.get("mask-by-layer", "")
    header = (
        "<h1>How much do large weights overlap with the top Hessian eigenspace?</h1>\n"
        f"<p>{escape(results['title'])}. {escape(results['description'])}.</p>\n"
        f"{data_note(results)}{_key_numbers(results)}"
    )
    sections = {
        "What was run": paragraphs(_run(results)),
        "What was found": told(findings(results)),
        "How sure it is": told(certainty(results)),
        "Figures": "".join(drawn for name, drawn in figures.items() if name != "mask-by-layer"),
        "Overlap and chance": _overlap_tables(results),
        "Where the large weights are": of_masks + _tensor_table(results),
        "Certificates": _certificates(results),
        "Solves and cost": _solve_table([record for split in splits(results) for record in records_of(results, split)]),
        "Settings to reproduce": _setting(results),
        "How to read this": paragraphs(READING),
        "How to cite": citation(results),
    }
    return page(f"{results['study']}: large weights and the top Hessian eigenspace", header, sections)


def _key_numbers(results: dict[str, Any]) -> str:
    """The last overlap of each split, and how it compares with both levels of chance."""
    lists = []
    for split in splits(results):
        row = table_rows(records_of(results, split)[-1], results["table_k"])[-1]
        where = f"overlap at k = {row.k}, step {row.step}, {SPLIT_NAMES[split]} data"
        levels = (
            (text(one.ratio, ".2f"), f"{one.null} chance, p = {text(one.p, '.3f')}")
            for one in (row.uniform, row.stratified)
        )
        lists.append(key_numbers([(share(row.overlap), where), *((f"{ratio} ×", of) for ratio, of in levels)]))
    return "".join(lists)


def _run(results: dict[str, Any]) -> list[str]:
    """The network, its data, and what was measured of them, in words."""
    sizes, records, last = results["parameters"]["sizes"], results["records"], results["records"][-1]
    steps = sorted({record["step"] for record in records})
    when = f"at step {steps[0]:,}" if len(steps) == 1 else f"at {len(steps)} steps from {steps[0]:,} to {steps[-1]:,}"
    data = " and on ".join(f"{SPLIT_NAMES[split]} data" for split in splits(results))
    products = sum(record["report"]["products"] for record in records)
    count = "The record" if len(records) == 1 else f"All {len(records)} records"
    return [
        f"{results['title']}: a network of {sum(sizes):,} parameters in {len(sizes)} tensors, examined {when} of its "
        f"training. Data: {results['description']}.",
        f"The {last['k_max']:,} eigenvectors of its Hessian, on {data}, whose eigenvalues are largest in magnitude "
        f"were computed by {last['report']['solver']['class']}. The space that they span was compared with that of the "
        "axes of as many parameters, those largest in magnitude, and with chance.",
        f"{count} took {_duration(sum(number(record['seconds']) for record in records))}, the training not counted, "
        f"and {products:,} Hessian-vector products, comparisons with other operators not counted.",
    ]


def _duration(seconds: float) -> str:
    """Wall time in words."""
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{text(seconds, '.1f')} seconds"


# -- tables -----------------------------------------------------------------------------------------------------------


def _overlap_tables(results: dict[str, Any]) -> str:
    """A table a split, with a group of rows a step."""
    tables = []
    for split in splits(results):
        groups = []
        for record in records_of(results, split):
            rows = table_rows(record, results["table_k"])
            groups.append(
                [cell_row("" if row is not rows[0] else str(record["step"]), cells(row), len(rows)) for row in rows]
            )
        caption = (
            f"Overlap on {SPLIT_NAMES[split]} data. Uniform and stratified: mean overlap of random masks; ratio: "
            "overlap / chance; z: distance from chance in standard deviations; p: two-sided p-value."
        )
        tables.append(table(caption, ("step", *HEADINGS), groups))
    return "".join(tables)


def _tensor_table(results: dict[str, Any]) -> str:
    """How many of the largest parameters lie in each tensor, at each step."""
    names, sizes = results["parameters"]["names"], results["parameters"]["sizes"]
    records = records_of(results, splits(results)[0])
    k = records[0]["k_max"]
    own = heaviest(records[-1]["mask_counts"])
    parts = {names[index]: [index] for index in own}
    if len(own) < len(names):
        parts[f"{len(names) - len(own):,} others"] = sorted({*range(len(names))} - {*own})
    rows = []
    for name, part in parts.items():
        size = sum(sizes[index] for index in part)
        expected = text(k * size / sum(sizes), ".1f")
        counts = [sum(record["mask_counts"][index] for index in part) for record in records]
        density = percent(counts[-1] / size if size else math.nan)
        rows.append(cell_row(name, [f"{size:,}", expected, *map(str, counts), density]))
    headings = ("tensor", "size", "by chance", *(f"step {record['step']}" for record in records), "density")
    caption = (
        f"How many of the {k} largest parameters lie in each tensor. By chance: what a uniform random mask has on "
        "average; density: how much of the tensor is among the largest at the last step."
        + (f" All but the {len(own)} tensors with most of them share the last row." if len(own) < len(names) else "")
    )
    return table(caption, headings, [rows])


def _certificates(results: dict[str, Any]) -> str:
    lead = (
        "A radius is certain: as many eigenvalues of the Hessian as are listed up to k = 1, 2, … are within it, one to "
        "one. All else rests on the premise that no eigenvalue was missed that is larger in magnitude than the last "
        "one found."
    )
    tables = [
        certificate_table(
            results,
            records_of(results, split),
            f"Certificates on {SPLIT_NAMES[split]} data. λₖ: the last of the k eigenvalues; radius: by how much it is "
            "off at most; sharp: the same by the premise; leads: whether the first k are shown to be the leading ones; "
            "sine: of the largest angle between the computed and the true eigenspace, at most; missed: what is missing "
            "to 1 in their overlap, at most; overlap from … to: of the mask with the true eigenspace.",
        )
        for split in splits(results)
    ]
    return paragraphs([lead]) + "".join(tables)


def _solve_table(records: Sequence[dict[str, Any]]) -> str:
    headings = (
        *("step", "split", "loss", "λ₁", "last λ", "negative", "residual / |λ₁|"),
        *("products", "in products, s", "in all, s", "status"),
    )
    rows = []
    for record in records:
        values, report = [number(value) for value in record["eigenvalues"]], record["report"]
        entries = (
            *(record["split"], text(number(record["loss"]), ".4f"), text(values[0], ".4g"), text(values[-1], ".4g")),
            *(str(sum(value < 0 for value in values)), text(residual(record), ".1e"), str(report["products"])),
            *(text(number(report[name]), ".2f") for name in ("seconds_in_products", "seconds")),
            ending(record),
        )
        rows.append(cell_row(str(record["step"]), entries))
    caption = (
        f"Each solve for {records[0]['k_max']} eigenpairs. Negative: how many of them; residual: the largest norm "
        "‖Hv - λv‖; products: Hessian-vector products; wall time."
    )
    return table(caption, headings, [rows])


# -- settings ---------------------------------------------------------------------------------------------------------


def _setting(results: dict[str, Any]) -> str:
    """The command, options, solver, data and environment."""
    report = results["records"][-1]["report"]
    solver = ", ".join(f"{name}={value}" for name, value in report["solver"].items() if name != "class")
    memory = report["peak_memory"]
    entries = {
        "study": results["study"],
        **{name.replace("_", " "): plain(value) for name, value in results["options"].items()},
        "solver in full": f"{report['solver']['class']}({solver})",
        "parameters": f"{sum(results['parameters']['sizes']):,} in {len(results['parameters']['sizes'])} tensors",
        "data in words": results["description"],
        "data from": results["attribution"] or "-",
        "peak memory": "-" if memory is None else f"{memory / 2**30:.2f} GiB, of the whole process",
        **results["environment"],
    }
    return reproduction(results) + definitions(entries)
