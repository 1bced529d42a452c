"""What the report of a study and the comparison of several say alike."""

from __future__ import annotations

from html import escape
from typing import Any

from .page import command_box, paragraphs
from .records import DRAWS, LEVEL

READING = (
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
CITATION = (
    "A. Fernandez, F. Schneider, M. Mahsereci, P. Hennig (2025). Connecting Parameter Magnitudes and Hessian "
    "Eigenspaces at Scale using Sketched Methods. Transactions on Machine Learning Research. arXiv 2504.14701."
)


def data_note(results: dict[str, Any]) -> str:
    """A note on data that are not what their name says; empty for others."""
    if not results["warning"]:
        return ""
    return (
        f'<p class="note" role="note"><strong>Mind the data: {escape(results["warning"])}.</strong> What is shown here '
        "says nothing of the real ones.</p>\n"
    )


def reproduction(results: dict[str, Any]) -> str:
    """The command that repeats a study, or that there is none."""
    if results["command"] is None:
        return paragraphs(
            [
                "It was run from Python, on a network and data that have no name here. What is known of these is "
                "below: the same code with these settings repeats it."
            ]
        )
    own = " in the folder of that module" if ":" in results["study"] else ""
    version = results["environment"].get("eigenspan", "")
    return paragraphs([f"With eigenspan {version}{own} this repeats it; options left out are the study's own:"]) + (
        command_box(results["command"])
    )


def plain(value: object) -> str:
    """An option in words."""
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def citation(results: dict[str, Any]) -> str:
    """The method, the software and the data."""
    version = results["environment"].get("eigenspan", "")
    return (
        f'<p>The method: {escape(CITATION)} <a href="https://arxiv.org/abs/2504.14701">arxiv.org/abs/2504.14701</a></p>'
        f"<p>The software: eigenspan {escape(version)}; CITATION.cff has both. The data: "
        f"{escape(results['attribution'] or results['description'])}.</p>\n"
    )
