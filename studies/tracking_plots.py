"""The figure of a study that compares its steps: eigenspaces, masks and the gradient."""

from __future__ import annotations

from typing import Any

from .drawing import StudyFigure, array, draw_lines, empty_figure, ranks, step_key
from .panels import plot_overlap_matrix
from .results import records_of
from .tables import text


def tracking_figure(results: dict[str, Any], split: str) -> StudyFigure:
    """Overlaps of the eigenspaces, the masks, and both, of every step with every other, and shares of the gradient.

    Args:
        results: those of `OverlapStudy.run`, with several records of the split.
        split: which data the Hessians are of.
    """
    tracking, k = results["tracking"][split], results["table_k"][-1]
    at_k, steps, records = tracking["by_k"][str(k)], tracking["steps"], records_of(results, split)
    spaces, masks, both = (
        array(matrix)
        for matrix in (at_k["eigenspaces"], at_k["masks"]["magnitude"], at_k["masks_with_eigenspaces"]["magnitude"])
    )
    figure = empty_figure((11, 9))
    panels = figure.subplot_mosaic([["spaces", "masks"], ["both", "gradient"]])
    for name, matrix, title in (
        ("spaces", spaces, f"eigenvectors with eigenvectors, k = {k}"),
        ("masks", masks, f"masks with masks, k = {k}"),
    ):
        plot_overlap_matrix(panels[name], matrix, steps, title=title)
        panels[name].set(xlabel="step", ylabel="step")
        figure.colorbar(panels[name].images[0], ax=panels[name])
    title = f"mask (row) with eigenvectors (column), k = {k}"
    plot_overlap_matrix(panels["both"], both, steps, title=title, highest=max(float(both.max()), 1e-12))
    panels["both"].set(xlabel="step of the eigenvectors", ylabel="step of the mask")
    figure.colorbar(panels["both"].images[0], ax=panels["both"])
    for name in ("spaces", "masks", "both"):
        panels[name].tick_params(labelsize="small")
    shares = array(tracking["gradient_shares"])
    draw_lines(panels["gradient"], records, shares)
    size = sum(results["parameters"]["sizes"])
    panels["gradient"].plot(ranks(shares[0]), ranks(shares[0]) / size, color="#6e6e6e", ls="--")
    panels["gradient"].set(title="share of the gradient", xlabel="k", ylim=(0, 1.02))
    step_key(figure, records, [panels["gradient"]])
    return StudyFigure(
        "through-training",
        figure,
        f"Every step beside every other: overlaps of the {k} leading eigenvectors, of the masks of the {k} largest "
        "parameters, and of the mask of one step with the eigenvectors of another, whose scale ends at its largest "
        "number. Below on the right the share of the squared norm of the gradient that lies in the k leading "
        "eigenvectors; dashed, that of a random direction.",
        f"From step {steps[-2]} to step {steps[-1]} the {k} leading eigenvectors overlap by "
        f"{text(float(spaces[-2, -1]), '.2f')} and the masks by {text(float(masks[-2, -1]), '.2f')}; from step "
        f"{steps[0]} to the last by {text(float(spaces[0, -1]), '.2f')} and {text(float(masks[0, -1]), '.2f')}. At the "
        f"last step {text(float(shares[-1, -1]), '.0%')} of the squared gradient lies in the eigenvectors.",
    )
