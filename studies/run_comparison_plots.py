"""The figures of several runs of a study beside one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import (
    NULLS,
    Array,
    Record,
    StudyFigure,
    array,
    draw_ratio_level,
    empty_figure,
    figure_of_panels,
    literal,
    logarithmic,
    marker,
    positive,
    ranks,
    ratio,
    set_title,
    step_colors,
    whole_numbers,
)
from .options import SPLIT_NAMES
from .records import LEVEL
from .tables import share, table_rows

# Okabe & Ito's, but for those of the levels of chance.
_COLORS = ("#0b4f8a", "#cc79a7", "#009e73", "#e69f00", "#56b4e9", "#000000")
_UNIFORM, _STRATIFIED = (NULLS[null] for null in ("uniform", "stratified"))


def run_figures(title: str, runs: Mapping[str, Sequence[Record]], split: str, k: int) -> Iterator[StudyFigure]:
    """Overlap by k and by step with both levels of chance, and spectra.

    Args:
        title: of the study.
        runs: the records of a split, by step, of each run by its label.
        split: which data the Hessians are of.
        k: the largest dimension that all have.
    """
    last = {label: records[-1] for label, records in runs.items()}
    drawings = [_by_k(last, k), *([_by_step(runs, k)] if max(map(len, runs.values())) > 1 else []), _spectra(last)]
    for drawn in drawings:
        set_title(drawn.figure, f"{title}: Hessian on {SPLIT_NAMES[split]} data")
        yield drawn


def _colors(labels: Mapping[str, Any]) -> dict[str, Any]:
    colors = _COLORS if len(labels) <= len(_COLORS) else step_colors(len(labels))
    return dict(zip(labels, colors, strict=False))


def _key(figure: Figure, axes: Axes, of_chance: bool = True) -> None:
    """The key to the runs, below, in columns."""
    if of_chance:
        axes.plot([], [], color=_UNIFORM[0], ls=_STRATIFIED[1], lw=1, label="stratified chance of that run")
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(len(labels), 90 // (longest + 8))))


def _by_k(last: Mapping[str, Record], k: int) -> StudyFigure:
    """The overlap on top, and below it as a multiple of each level of chance."""
    figure = empty_figure((9, 9))
    panels = figure.subplot_mosaic([["overlap", "overlap"], ["uniform", "stratified"]], height_ratios=[1.25, 1])
    top, colors = panels["overlap"], _colors(last)
    overlap = np.stack([array(record["overlap"])[:k] for record in last.values()])
    for label, curve in zip(last, overlap, strict=True):
        top.plot(ranks(curve), curve, color=colors[label], label=literal(label))
    for null in ("uniform", "stratified"):
        mean, low, high = (
            np.stack([array(record[f"chance_{null}"][what])[:k] for record in last.values()])
            for what in ("mean", "low", "high")
        )
        if null == "uniform":  # k / n in every run
            top.plot(ranks(mean[0]), mean[0], color=_UNIFORM[0], ls=_UNIFORM[1], label="uniform chance")
        else:
            for label, curve in zip(last, mean, strict=True):
                top.plot(ranks(curve), curve, color=colors[label], ls=_STRATIFIED[1], lw=1)
        ratios = ratio(overlap, mean)
        draw_ratio_level(panels[null], null, ratios, ratio(low, mean).min(axis=0), ratio(high, mean).max(axis=0))
        for label, curve in zip(last, ratios, strict=True):
            panels[null].plot(ranks(curve), curve, color=colors[label], lw=1.4)
    for axes in panels.values():
        axes.xaxis.set_major_locator(whole_numbers(5))
    top.set(title="overlap", xlabel="k", ylim=(0, None))
    _key(figure, top)
    return StudyFigure(
        "overlap-by-k",
        figure,
        "Overlap of the k largest parameters with the k leading eigenvectors at the last step of each run: as it is, "
        f"and divided by each level of chance. Bands hold {LEVEL:.0%} of the random masks, the widest over the runs.",
        f"Overlap against k from 1 to {k}, one line a run. At k = {k}: "
        + "; ".join(f"{label}, overlap {share(curve[-1])}" for label, curve in zip(last, overlap, strict=True)),
    )


def _by_step(runs: Mapping[str, Sequence[Record]], k: int) -> StudyFigure:
    figure, panels = figure_of_panels(1, 2, 2, (9, 4.6))
    colors = _colors(runs)
    ends = []
    for label, records in runs.items():
        rows = [table_rows(record, [k])[-1] for record in records]
        steps = [row.step for row in rows]
        overlap, mean = (
            np.array(values) for values in zip(*((r.overlap, r.stratified.mean) for r in rows), strict=True)
        )
        mark = marker(len(steps), len(runs))
        panels[0].plot(steps, overlap, marker=mark, color=colors[label], label=literal(label))
        panels[0].plot(steps, mean, color=colors[label], ls=_STRATIFIED[1], lw=1)
        panels[1].plot(steps, ratio(overlap, mean), marker=mark, color=colors[label])
        ends.append(f"{label}, from {share(overlap[0])} to {share(overlap[-1])}")
    panels[0].axhline(rows[-1].uniform.mean, color=_UNIFORM[0], ls=_UNIFORM[1], label="uniform chance")
    panels[1].axhline(1, color=_STRATIFIED[0], ls=_STRATIFIED[1])
    for axes, title in zip(panels, (f"overlap at k = {k}", "overlap / stratified chance"), strict=True):
        axes.set(title=title, xlabel="training step", ylim=(0, None))
        axes.xaxis.set_major_locator(whole_numbers(4))
    _key(figure, panels[0])
    return StudyFigure(
        "overlap-by-step",
        figure,
        f"Overlap along the training at k = {k}, and as a multiple of the stratified chance of each run and step.",
        f"Overlap against training step, one line a run: {'; '.join(ends)}.",
    )


def _spectra(last: Mapping[str, Record]) -> StudyFigure:
    figure, panels = figure_of_panels(1, 2, 2, (9, 5), share_x=True, share_y=True)
    colors, values = _colors(last), {label: array(record["eigenvalues"]) for label, record in last.items()}
    for axes, sign, name in zip(panels, (1, -1), ("positive", "negative"), strict=True):
        for label, curve in values.items():
            magnitudes: Array = positive(sign * curve)
            known = np.isfinite(magnitudes)
            named = {"color": colors[label], "label": literal(label)}
            mark = "." if marker(int(known.sum()), len(last)) else ""
            axes.plot(ranks(curve)[known], magnitudes[known], lw=1.4, marker=mark, **named)
        axes.set(title=f"{name} eigenvalues", xlabel="rank i by magnitude")
        axes.xaxis.set_major_locator(whole_numbers(5))
        logarithmic(axes)
    panels[0].set_ylabel("|λᵢ|")
    _key(figure, panels[0], of_chance=False)
    return StudyFigure(
        "spectra",
        figure,
        "Magnitudes of the leading Hessian eigenvalues at the last step of each run, ranked together and drawn apart "
        "by sign.",
        "First and last eigenvalue: "
        + "; ".join(f"{label}, {v[0]:.3g} and {v[-1]:.3g}" for label, v in values.items()),
    )
