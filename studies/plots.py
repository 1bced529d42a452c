"""The figures of a study: overlap by step and by k with both levels of chance, layers, the spectrum, the accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from matplotlib.axes import Axes

from .comparison_plots import comparison_figure
from .drawing import (
    NULLS,
    OVERLAP,
    Array,
    Record,
    StudyFigure,
    array,
    draw_level,
    draw_lines,
    draw_ratio_level,
    empty_figure,
    figure_of_panels,
    logarithmic,
    marker,
    own_style,
    positive,
    ranks,
    ratio,
    set_title,
    step_key,
    whole_numbers,
    write_figure,
)
from .layer_plots import composition_figure, energy_figure
from .options import SPLIT_NAMES
from .records import LEVEL
from .results import records_of, splits
from .tables import RecordedLevel, TableRow, share, table_rows
from .tracking_plots import tracking_figure


def save_figures(results: dict[str, Any], directory: Path) -> list[StudyFigure]:
    """Draws a study and writes each figure as PNG and SVG into ``directory/figures``.

    The same results give the same files. Settings of matplotlib are neither used nor changed.

    Args:
        results: those of `OverlapStudy.run`, with at least one record.
        directory: that of the study.

    Returns:
        The figures, in the order to show them in.

    Raises:
        OSError: the files cannot be written.

    Cost: some seconds.
    """
    folder = Path(directory) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    with own_style():
        figures = list(_figures(results))
        for drawn in figures:
            write_figure(drawn.figure, folder / drawn.name)
    return figures


def _figures(results: dict[str, Any]) -> Iterator[StudyFigure]:
    for split in splits(results):
        records = records_of(results, split)
        suffix = f"-{split}" if len(splits(results)) > 1 else ""
        drawings = [
            _by_step(records, results["table_k"]),
            _by_k(records),
            energy_figure(results, records),
            *([tracking_figure(results, split)] if len(records) > 1 and "tracking" in results else []),
            *([comparison_figure(results, records)] if "comparison" in records[0] else []),
            _spectrum(records),
            _residuals(records),
        ]
        if "exact" in records[0]:
            drawings.append(_exact(records, float(np.finfo(results["options"]["dtype"]).eps)))
        when = f", step {records[0]['step']}" if len(records) == 1 else ""
        for drawn in drawings:
            set_title(drawn.figure, f"{results['title']}: Hessian on {SPLIT_NAMES[split]} data{when}")
            yield attrs.evolve(drawn, name=drawn.name + suffix)
    yield composition_figure(results)  # one for all splits, as the mask is


# -- overlap by step --------------------------------------------------------------------------------------------------


def _by_step(records: list[Record], table_k: Sequence[int]) -> StudyFigure:
    """A panel for each k of the table, and one of the loss."""
    rows = list(zip(*(table_rows(record, table_k) for record in records), strict=True))
    columns = min(3, len(rows) + 1)
    lines = math.ceil((len(rows) + 1) / columns)
    figure, panels = figure_of_panels(lines, columns, len(rows) + 1, (1 + 3.2 * columns, 1.4 + 2.9 * lines))
    for axes, series in zip(panels, rows, strict=False):
        _step_panel(axes, series)
    steps, losses = [row.step for row in rows[0]], [row.loss for row in rows[0]]
    panels[-1].plot(steps, losses, marker=marker(len(steps)), color="black")
    panels[-1].set(title="loss", ylim=(None if min(losses) < 0 else 0, None))
    for axes in panels:
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(whole_numbers(3))
        if len(records) <= 3:
            axes.set_xticks([record["step"] for record in records])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    dimensions = ", ".join(str(series[0].k) for series in rows)
    return StudyFigure(
        "overlap-by-step",
        figure,
        "Overlap of the mask of the k largest parameters with the k leading Hessian eigenvectors, at each recorded "
        "step. Grey, dashed: any random mask of k parameters. Orange, dash-dotted: random masks with as many "
        f"parameters in every tensor as the k largest have. Bands hold {LEVEL:.0%} of such masks. Bars, where they "
        "show behind the dots: what the error of the computed eigenvectors may change. Each panel has its own scale; "
        "the last one is the loss.",
        f"Panels of overlap against training step for k = {dimensions}, with both levels of chance. "
        f"{_in_words(rows[-1])}",
    )


def _step_panel(axes: Axes, series: Sequence[TableRow]) -> None:
    steps = np.array([row.step for row in series], dtype=float)
    _level(axes, steps, [row.uniform for row in series])
    _level(axes, steps, [row.stratified for row in series])
    overlap, ends = np.array([row.overlap for row in series]), np.array([row.error for row in series]).T
    axes.vlines(steps, *ends, color=OVERLAP, lw=1.2, label="error of the eigenspace")
    axes.plot(steps, overlap, marker=marker(len(steps)), color=OVERLAP, label="overlap")
    axes.set(title=f"overlap at k = {series[0].k}", ylim=(0, None))


def _level(axes: Axes, x: Array, levels: Sequence[RecordedLevel]) -> None:
    """A level of chance with its band. A single x is widened, or there would be nothing to see."""
    curves = np.array([(level.mean, level.low, level.high) for level in levels]).T
    if len(x) == 1:
        x, curves = np.array([x[0] - 1, x[0] + 1]), curves.repeat(2, axis=1)
    mean, low, high = curves
    draw_level(axes, levels[0].null, x, mean, low, high, f"{levels[0].null} chance, {LEVEL:.0%} of masks")


def _in_words(series: Sequence[TableRow]) -> str:
    ends = (series[0], series[-1])[: len(series)]
    return f"At k = {series[0].k}: " + "; ".join(
        f"step {row.step}, overlap {share(row.overlap)}, uniform chance {share(row.uniform.mean)}, "
        f"stratified chance {share(row.stratified.mean)}"
        for row in ends
    )


# -- overlap by k -----------------------------------------------------------------------------------------------------


def _by_k(records: list[Record]) -> StudyFigure:
    """The overlap on top, and below it as a multiple of each level of chance."""
    figure = empty_figure((9, 8.5))
    panels = figure.subplot_mosaic([["overlap", "overlap"], ["uniform", "stratified"]], height_ratios=[1.25, 1])
    top, overlap = panels["overlap"], np.stack([array(record["overlap"]) for record in records])
    for null in ("uniform", "stratified"):
        color, dashes = NULLS[null]
        mean, low, high = (
            np.stack([array(record[f"chance_{null}"][what]) for record in records]) for what in ("mean", "low", "high")
        )
        label = f"{null} chance" if len(records) == 1 else f"{null} chance, all steps"
        lowest, highest = low.min(axis=0), high.max(axis=0)
        top.fill_between(ranks(lowest), lowest, highest, color=color, alpha=0.2, lw=0, label=label)
        if len(records) == 1 or null == "uniform":  # the uniform mean is k / n at every step
            top.plot(ranks(mean[0]), mean[0], color=color, ls=dashes)
        ratios = ratio(overlap, mean)
        draw_ratio_level(panels[null], null, ratios, ratio(low, mean).min(axis=0), ratio(high, mean).max(axis=0))
        draw_lines(panels[null], records, ratios)
    if len(records) == 1:
        least, most = (array(records[0]["overlap_error"][end]) for end in ("low", "high"))
        top.fill_between(ranks(overlap[0]), least, most, color=OVERLAP, alpha=0.3, lw=0)
    draw_lines(top, records, overlap)
    top.set(title="overlap", xlabel="k", ylim=(0, None))
    top.legend(loc="upper left")
    step_key(figure, records, list(panels.values()))
    last, k = records[-1], records[-1]["k_max"]
    return StudyFigure(
        "overlap-by-k",
        figure,
        "Overlap of the k largest parameters with the k leading eigenvectors against k: as it is, and divided by each "
        f"level of chance; divided by the stratified one it is the overlap excess. Bands hold {LEVEL:.0%} of the "
        "random masks at each k, the widest over the steps. The stratified level changes from step to step, so judge "
        "by its own panel. At small k the quotients are noise, and leave the panels."
        + (" Blue band: what the error of the computed eigenvectors may change." if len(records) == 1 else ""),
        f"Overlap against k from 1 to {k}, one line a step, with both levels of chance. "
        f"{_in_words(table_rows(last, [k]))}",
    )


# -- spectrum and accuracy --------------------------------------------------------------------------------------------


def _spectrum(records: list[Record]) -> StudyFigure:
    """Magnitudes of the eigenvalues, positive and negative ones apart."""
    figure, panels = figure_of_panels(1, 2, 2, (9, 4.6), share_x=True, share_y=True)
    for axes, sign, name in zip(panels, (1, -1), ("positive", "negative"), strict=True):
        curves = [positive(sign * array(record["eigenvalues"])) for record in records]
        draw_lines(axes, records, curves)
        if "exact" in records[0]:
            exact = [positive(sign * array(record["exact"]["eigenvalues"])) for record in records]
            draw_lines(axes, records, exact, color="black", ls=":", lw=0.8, marker="")
        axes.set(title=f"{name} eigenvalues", xlabel="rank i by magnitude")
        if not any(np.isfinite(curve).any() for curve in curves):
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
        logarithmic(axes)
    panels[0].set_ylabel("|λᵢ|")
    step_key(figure, records, panels)
    values = array(records[-1]["eigenvalues"])
    return StudyFigure(
        "spectrum",
        figure,
        "Magnitudes of the leading Hessian eigenvalues on a logarithmic axis, ranked together and drawn apart by sign."
        + (" Black, dotted: those of the dense Hessian." if "exact" in records[0] else ""),
        f"Spectrum by step. At step {records[-1]['step']} the first of {len(values)} eigenvalues is {values[0]:.3g} "
        f"and the last {values[-1]:.3g}; {(values < 0).sum()} are negative.",
    )


def _scale(record: Record) -> Array:
    """|λ₁|, (1,)."""
    return np.abs(array(record["eigenvalues"][:1]))


def _residuals(records: list[Record]) -> StudyFigure:
    figure, panels = figure_of_panels(1, 1, 1, (9, 3.8))
    relative = [positive(ratio(array(one["residual_norms"]), _scale(one))) for one in records]
    draw_lines(panels[0], records, relative, ls="none", marker="o", ms=2.5, rasterized=True)
    logarithmic(panels[0])
    panels[0].set(title="relative residual norm", xlabel="rank i", ylabel="‖Hvᵢ − λᵢvᵢ‖ / |λ₁|")
    step_key(figure, records, panels)
    known = np.concatenate(relative)
    known = known[np.isfinite(known)]
    measured = any(np.isfinite(array(one["residual_norms"])).any() for one in records)
    if len(known):
        largest = f"The largest is {known.max():.1e}."
    else:
        largest = "All are 0, or have no scale as λ₁ is 0." if measured else "They were not measured."
    return StudyFigure(
        "residuals",
        figure,
        "How well each pair solves Hv = λv, relative to the largest |λ|. A residual norm bounds the distance of λᵢ "
        "to an eigenvalue; single precision ends near 1e-7.",
        f"Relative residual norms against rank, one line a step. {largest}",
    )


def _exact(records: list[Record], rounding: float) -> StudyFigure:
    """The distance to the dense result: of eigenvalues, and of eigenspaces."""
    figure, panels = figure_of_panels(2, 1, 2, (9, 6.6), share_x=True)
    errors, missed = [], []
    for record in records:
        found, exact = np.abs(array(record["eigenvalues"])), np.abs(array(record["exact"]["eigenvalues"]))
        errors.append(np.maximum(ratio(np.abs(found - exact), _scale(record)), rounding))
        missed.append(np.maximum(1 - array(record["exact"]["subspace_overlap"]), rounding))
    for axes, curves in zip(panels, (errors, missed), strict=True):
        draw_lines(axes, records, curves)
        logarithmic(axes)
        axes.set_ylim(rounding / 2, 100 * max(rounding, np.nanmax(np.stack(curves), initial=0) / 50))
    panels[0].set(title="error of the eigenvalues", ylabel="error of |λₖ| / |λ₁|")
    panels[1].set(title="eigenspace missed: 1 − overlap with the exact one", xlabel="k", ylabel="1 − overlap")
    step_key(figure, records, panels)
    return StudyFigure(
        "exact",
        figure,
        "Distance to the dense result. Above: error of each |λ| relative to the largest. Below: what is missing to 1 "
        "in the overlap of the k leading computed with the k leading exact eigenvectors; peaks are where λₖ and the "
        f"next are nearly equal in magnitude. What is below rounding, {rounding:.1e}, is drawn there.",
        f"Errors against k. The largest share of an exact eigenspace that was missed is {np.max(missed):.1e}.",
    )
