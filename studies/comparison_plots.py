"""The figure of a study that sets its eigenspaces beside others: another operator, other data, and layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .comparisons import LAYER_K
from .drawing import Record, StudyFigure, array, draw_lines, empty_figure, room_for, short_names, step_key
from .panels import plot_layer_energy
from .tables import heaviest, text


def comparison_figure(results: dict[str, Any], records: list[Record]) -> StudyFigure:
    """Overlaps with other operators at every step, and of the Hessians of single tensors with later ones.

    Args:
        results: those of `OverlapStudy.run`.
        records: of one split, by step, with comparisons.
    """
    others, split = list(records[0]["comparison"]), records[0]["split"]
    several = len(records) > 1
    names, sizes = results["parameters"]["names"], results["parameters"]["sizes"]
    # Those with most parameters: the others have no overlap in common.
    drawn = heaviest(sizes)
    shown = np.array(short_names(names))[drawn].tolist()
    figure = empty_figure((11 + room_for(shown) * several, 4.4 + (1.2 + 0.3 * len(shown) if several else 0)))
    rows = [others, ["next", "last"]] if several else [others]
    width = 2 if several else len(others)
    mosaic = [[row[column * len(row) // width] for column in range(width)] for row in rows]
    panels = figure.subplot_mosaic(mosaic, height_ratios=[1, 0.5 + 0.08 * len(shown)][: len(rows)])
    for name in others:
        draw_lines(panels[name], records, [array(record["comparison"][name]) for record in records])
        panels[name].set(title=f"overlap with the {name}", xlabel="k", ylim=(0, 1.02))
    step_key(figure, records, [panels[name] for name in others])
    if several:
        steps = results["tracking"][split]["steps"]
        layers = layer_matrices(results, split)
        matrices = [layers[names[index]] for index in drawn]
        following = np.stack([np.diag(matrix, 1) for matrix in matrices])
        last = np.stack([matrix[:, -1] for matrix in matrices])
        for panel, values, labels, title in (
            ("next", following, steps[1:], "layers: overlap with the step before"),
            ("last", last, steps, "layers: overlap with the last step"),
        ):
            plot_layer_energy(panels[panel], values, shown, labels)
            panels[panel].set(title=title, xlabel="step")
            panels[panel].tick_params(labelsize="small")
            figure.colorbar(panels[panel].images[0], ax=panels[panel])
        panels["next"].set_yticks(range(len(shown)), shown)  # for all of which the figure is high enough
        panels["last"].tick_params(labelleft=False)  # the rows are those beside it
    few = len(shown) < len(names)
    left_out = f" Only the {len(shown)} largest of {len(names):,} tensors are followed." if few else ""
    described = (
        f" Below, the {LAYER_K} leading eigenvectors of the Hessian of each tensor by itself: how much of their span "
        f"at the step before, and of that at the last step, they have.{left_out}"
        if several
        else ""
    )
    return StudyFigure(
        "beside-others",
        figure,
        "Overlap of the k leading eigenvectors with those of other operators at the same step: 1 where they span the "
        f"same space.{described}",
        f"At step {records[-1]['step']}: {_at_largest_k(records[-1])}.",
    )


def layer_matrices(results: dict[str, Any], split: str) -> dict[str, Any]:
    """(T, T) overlaps of the leading eigenspaces of every step with every other, by the name of a tensor."""
    tracked = results["tracking"][split]["by_k"].values()
    layers = list(tracked)[-1]["layers"]  # of as many vectors as were followed, for all k beyond
    return {name: array(matrix) for name, matrix in layers.items()}


def _at_largest_k(record: Record) -> str:
    curves = {name: array(curve) for name, curve in record["comparison"].items()}
    parts = [f"overlap {text(curve[-1], '.2f')} with the {name}" for name, curve in curves.items()]
    return f"at k = {max(map(len, curves.values()))}, " + " and ".join(parts)
