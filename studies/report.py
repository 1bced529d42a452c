"""The report of a study: one HTML file that holds everything, for the screen, the telephone and paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..linops.files import written_whole
from .drawing import StudyFigure
from .findings import SPLIT_NAMES, findings, records_of, splits
from .plots import save_figures
from .records import DRAWS, LEVEL
from .stylesheet import STYLESHEET
from .tables import HEADINGS, cells, number, residual, table_rows, text

_READING = (
    "The overlap of two k-dimensional subspaces A and B with orthonormal bases is ‖AᵀB‖²_F / k: the mean squared "
    "cosine of their principal angles. Here A is spanned by the coordinate axes of the k parameters that are largest "
    "in magnitude, and B by the k Hessian eigenvectors whose eigenvalues are largest in magnitude.",
    "Any two subspaces overlap a little. Uniform chance is the overlap of a random mask of k of all n parameters; its "
    "mean is k / n. Stratified chance is that of random masks with as many parameters in every tensor as the k largest "
    "have: it holds fixed in which tensors these lie, so that what is above it is due to which entries of a tensor "
    "they are. Overlap / stratified chance is the overlap excess: 1 where there is no such effect. Means and standard "
    "deviations of both levels are exact, not simulated.",
    f"Intervals and p-values come from {DRAWS} random masks for each level. An interval, a band in the figures, holds "
    f"{LEVEL:.0%} of them. The p-value is two-sided: how often a random mask is as far out as the observed one, above "
    f"or below. It is never less than {2 / (1 + DRAWS):g}; there z says how far beyond all random masks the overlap "
    f"is. Each p-value is of one k and one step: of twenty about one is below {1 - LEVEL:.2g} by chance alone.",
    "Ratio is overlap / chance, and z the distance from chance in standard deviations of a random mask. The spread is "
    "that of the mask alone, with the network fixed: another seed gives another network and other numbers. Records "
    "along one training are not independent, and at small k the distribution is far from normal, so that there the "
    "p-value is to be read and not z.",
    "The energy of an eigenvector in a tensor is the sum of the squares of its entries there, 1 over all tensors. "
    "A mask overlaps more by stratified chance where it holds much of a small tensor that has much energy.",
    "The error of the overlap follows from the residual norms of the eigenpairs and the gaps between the eigenvalues. "
    "It is a bound if no eigenvalue was missed that is larger in magnitude than the last one found; between nearly "
    "equal eigenvalues there is none, and a dash or nothing is shown.",
)
_CITATION = (
    "A. Fernandez, F. Schneider, M. Mahsereci, P. Hennig (2025). Connecting Parameter Magnitudes and Hessian "
    "Eigenspaces at Scale using Sketched Methods. Transactions on Machine Learning Research. arXiv 2504.14701."
)


def write_report(results: dict[str, Any], directory: Path) -> Path:
    """Draws the figures of a study and writes them with its findings and tables into one file, ``report.html``.

    The file loads nothing, neither from the network nor from beside it, and runs no script. It appears whole or not
    at all.

    Args:
        results: those of `OverlapStudy.run`, with at least one record.
        directory: that of the study; the figures are in its folder ``figures`` as well.

    Returns:
        The path of the report.

    Raises:
        OSError: a file cannot be written.

    Cost: some seconds.
    """
    directory = Path(directory)
    figures = [_figure(drawn, directory / "figures") for drawn in save_figures(results, directory)]
    path = directory / "report.html"
    with written_whole(path) as partial:
        partial.write_text(_page(results, figures), encoding="utf-8")
    return path


def _page(results: dict[str, Any], figures: Sequence[str]) -> str:
    title = escape(f"{results['study']}: large weights and the top Hessian eigenspace")
    sections = {
        "What was found": _found(results),
        "Figures": "".join(figures),
        "Overlap and chance": _overlap_tables(results),
        "Where the large weights are": _tensor_table(results),
        "Accuracy and cost": _solve_table(results["records"]),
        "What was run": _setting(results),
        "How to read this": "".join(f"<p>{_prose(paragraph)}</p>" for paragraph in _READING),
        "How to cite": _citation(results),
    }
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>\n" for name, content in sections.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLESHEET}</style>\n</head>\n<body>\n<main>\n<header>\n"
        f"<h1>How much do large weights overlap with the top Hessian eigenspace?</h1>\n<p>{escape(results['title'])}. "
        f"{escape(results['description'])}.</p>\n{_key_numbers(results)}</header>\n{body}</main>\n</body>\n</html>\n"
    )


def _key_numbers(results: dict[str, Any]) -> str:
    """The last overlap of each split, and how it compares with both levels of chance."""
    lists = []
    for split in splits(results):
        row = table_rows(records_of(results, split)[-1], results["table_k"])[-1]
        where = f"overlap at k = {row.k}, step {row.step}, {SPLIT_NAMES[split]} data"
        levels = (row.uniform, row.stratified)
        entries = [
            (text(row.overlap, ".4f"), where),
            *((f"{text(one.ratio, '.2f')} ×", f"{one.null} chance, p = {text(one.p, '.3f')}") for one in levels),
        ]
        items = "".join(f"<li><b>{escape(value)}</b>{_prose(meaning)}</li>" for value, meaning in entries)
        lists.append(f'<ul class="key">{items}</ul>\n')
    return "".join(lists)


def _found(results: dict[str, Any]) -> str:
    return "".join(
        f"<h3>{escape(heading)}</h3>" + "".join(f"<p>{_prose(sentence)}</p>" for sentence in sentences)
        for heading, sentences in findings(results).items()
    )


def _prose(sentence: str) -> str:
    """Escaped, with equations that no line break parts."""
    return escape(sentence).replace(" = ", "&nbsp;=&nbsp;").replace(" / ", "&nbsp;/&nbsp;")


def _figure(drawn: StudyFigure, folder: Path) -> str:
    # An image of its own rather than inline markup: the names inside one drawing are those inside the next.
    content = base64.b64encode((folder / f"{drawn.name}.svg").read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{escape(drawn.alternative)}" src="data:image/svg+xml;base64,{content}">'
        f"<figcaption>{_prose(drawn.caption)}</figcaption></figure>\n"
    )


# -- tables -----------------------------------------------------------------------------------------------------------


def _overlap_tables(results: dict[str, Any]) -> str:
    """A table a split, with a group of rows a step."""
    tables = []
    for split in splits(results):
        groups = []
        for record in records_of(results, split):
            rows = table_rows(record, results["table_k"])
            first = f'<th scope="rowgroup" rowspan="{len(rows)}">{record["step"]}</th>'
            groups.append([(first if row is rows[0] else "") + _cells(cells(row)) for row in rows])
        caption = (
            f"Hessian on {SPLIT_NAMES[split]} data. Uniform and stratified: mean overlap of random masks; ratio: "
            "overlap / chance; z: distance from chance in standard deviations; p: two-sided p-value."
        )
        tables.append(_table(caption, ("step", *HEADINGS), groups))
    return "".join(tables)


def _tensor_table(results: dict[str, Any]) -> str:
    """How many of the largest parameters lie in each tensor, at each step."""
    names, sizes = results["parameters"]["names"], results["parameters"]["sizes"]
    records = records_of(results, splits(results)[0])
    k = records[0]["k_max"]
    rows = []
    for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
        expected = text(k * size / sum(sizes), ".1f")
        counts = [str(record["mask_counts"][index]) for record in records]
        rows.append(f'<th scope="row">{escape(name)}</th>' + _cells([f"{size:,}", expected, *counts]))
    headings = ("tensor", "size", "by chance", *(str(record["step"]) for record in records))
    caption = (
        f"How many of the {k} largest parameters lie in each tensor, a column a step; by chance: what a uniform random "
        "mask has on average."
    )
    return _table(caption, headings, [rows])


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
            report["status"].lower().replace("_", " "),
        )
        rows.append(f'<th scope="row">{record["step"]}</th>' + _cells(entries))
    caption = (
        f"Each solve for {records[0]['k_max']} eigenpairs: how many are negative, the largest residual norm ‖Hv - λv‖, "
        "Hessian-vector products, and wall time."
    )
    return _table(caption, headings, [rows])


def _cells(entries: Iterable[str]) -> str:
    return "".join(f"<td>{escape(entry)}</td>" for entry in entries)


def _table(caption: str, headings: Sequence[str], groups: Iterable[Iterable[str]]) -> str:
    """A table that scrolls on its own where it is wider than the screen."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    bodies = "\n".join(f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>" for rows in groups)
    return (
        f'<div class="wide" tabindex="0"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"{bodies}</table></div>\n"
    )


# -- setting ----------------------------------------------------------------------------------------------------------


def _setting(results: dict[str, Any]) -> str:
    """Options, solver, data and environment."""
    report = results["records"][-1]["report"]
    solver = ", ".join(f"{name}={value}" for name, value in report["solver"].items() if name != "class")
    memory = report["peak_memory"]
    entries = {
        "study": results["study"],
        **{name.replace("_", " "): _plain(value) for name, value in results["options"].items()},
        "solver in full": f"{report['solver']['class']}({solver})",
        "parameters": f"{sum(results['parameters']['sizes']):,} in {len(results['parameters']['sizes'])} tensors",
        "data in words": results["description"],
        "data from": results.get("attribution") or "-",
        "peak memory": "-" if memory is None else f"{memory / 2**30:.2f} GiB, of the whole process",
        **results["environment"],
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return f"<dl>{rows}</dl>"


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _citation(results: dict[str, Any]) -> str:
    version = results["environment"]["eigenspan"]
    return (
        f'<p>The method: {escape(_CITATION)} <a href="https://arxiv.org/abs/2504.14701">arxiv.org/abs/2504.14701</a></p>'
        f"<p>The software: eigenspan {escape(version)}; CITATION.cff has both. The data: "
        f"{escape(results.get('attribution') or results['description'])}.</p>"
    )
