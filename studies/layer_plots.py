"""The figures of a study by layer: where its largest weights lie, and where its eigenvectors live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..linops.composition import Composition
from .drawing import Array, Record, StudyFigure, array, draw_lines, empty_figure, room_for, set_title, short_names
from .panels import plot_composition, plot_layer_energy
from .results import records_of, splits
from .tables import TENSORS, heaviest, number, text


def _rows(names: Sequence[str], weights: Array) -> tuple[list[str], Callable[[Array], Array]]:
    """Names of rows, and what makes values of rows from those of tensors, (L, …): the lightest tensors share one."""
    shown = short_names(names)
    if len(names) <= TENSORS:
        return shown, lambda values: values
    own = heaviest(weights.tolist())

    def gathered(values: Array) -> Array:
        return np.concatenate([values[own], np.delete(values, own, axis=0).sum(axis=0, keepdims=True)])

    return [*(shown[index] for index in own), f"{len(names) - TENSORS:,} others"], gathered


def energy_figure(results: dict[str, Any], records: list[Record]) -> StudyFigure:
    """Shares of eigenvectors and of eigenspaces by tensor, and below them in how many coordinates eigenvectors live.

    Args:
        results: those of `OverlapStudy.run`.
        records: of one split, by step.
    """
    names, last = results["parameters"]["names"], records[-1]
    first, spaces = (array(last["layer_energy"][what]) for what in ("eigenvectors", "eigenspaces"))
    shown, gathered = _rows(names, np.nan_to_num(spaces[:, -1]))
    figure = empty_figure((11 + room_for(shown), 4.2 + 0.3 * len(shown)))
    panels = figure.subplot_mosaic([["first", "spaces"], ["ratio", "ratio"]], height_ratios=[1 + 0.1 * len(shown), 1])
    for what, values, labels in (("first", first, None), ("spaces", spaces, results["table_k"])):
        plot_layer_energy(panels[what], gathered(values), shown, labels)
        figure.colorbar(panels[what].images[0], ax=panels[what])
    panels["first"].set_yticks(range(len(shown)), shown)  # for all of which the figure is high enough
    panels["first"].set_title(f"energy of eigenvectors, step {last['step']}")
    panels["spaces"].tick_params(labelleft=False)  # the rows are those beside it
    panels["spaces"].set(title=f"mean of the first k, step {last['step']}", xlabel="k")
    ends = [*records[:1], *records[1:][-1:]]  # dots of more would hide one another
    ratios = [array(record["participation_ratio"]) for record in ends]
    draw_lines(panels["ratio"], ends, ratios, ls="none", marker="o", ms=2.5)
    panels["ratio"].set(title="participation ratio", xlabel="rank i", ylim=(0, None))
    if len(ends) > 1:
        labels = [f"step {record['step']}" for record in ends]
        panels["ratio"].legend(
            panels["ratio"].lines,
            labels,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=2,
            borderaxespad=0,
            markerscale=2,
        )
    size, most = sum(results["parameters"]["sizes"]), int(np.nan_to_num(spaces[:, -1]).argmax())
    return StudyFigure(
        "energy-by-layer",
        figure,
        "In which tensors eigenvectors live: the share of the squares of their entries that lies in each tensor, for "
        "single eigenvectors and on average over the first k. Below, at the first and the last step: the participation "
        "ratio (Σv²)² / Σv⁴, the number of parameters that take part in an eigenvector; a random direction has about "
        f"{size / 3:,.0f} of {size:,}.",
        f"At step {last['step']} the tensor with most of the first {results['table_k'][-1]} eigenvectors is "
        f"{names[most]}, with {text(spaces[most, -1], '.0%')}; the first eigenvector has a participation ratio of "
        f"{text(number(last['participation_ratio'][0]), '.0f')}.",
    )


def composition_figure(results: dict[str, Any]) -> StudyFigure:
    """Where the largest parameters lie at the first and at the last step.

    Args:
        results: those of `OverlapStudy.run`.
    """
    names, sizes = (tuple(results["parameters"][what]) for what in ("names", "sizes"))
    records = records_of(results, splits(results)[0])
    shown, gathered = _rows(names, np.array(records[-1]["mask_counts"]))
    parts = tuple(gathered(np.array(sizes)).tolist())
    ends = {
        f"step {record['step']}": Composition(
            "tensor", tuple(shown), parts, tuple(gathered(np.array(record["mask_counts"])).tolist())
        )
        for record in (records[0], records[-1])
    }
    figure = empty_figure((9 + room_for(shown), 1.6 + 0.5 * len(shown)))
    plot_composition(figure.subplots(), ends)
    set_title(figure, f"{results['title']}: the {records[0]['k_max']} largest parameters")
    step = f"step {records[-1]['step']}"
    counts = records[-1]["mask_counts"]
    most = max(range(len(names)), key=lambda index: counts[index])
    return StudyFigure(
        "mask-by-layer",
        figure,
        "In which tensors the largest parameters lie: the share of each tensor in all parameters, and in the largest. "
        "Where the bars differ, the mask is no uniformly random one. The numbers are densities: how much of the tensor "
        "is among the largest.",
        f"At {step} the tensor with most of the largest is {names[most]}, with {counts[most]} of "
        f"{sum(counts)}, or {counts[most] / sum(counts):.0%}; it has {sizes[most] / sum(sizes):.0%} of all parameters.",
    )
