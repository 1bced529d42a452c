"""Accuracy against products, on the Hessian of `mnist16` and three spectra, with skerch beside.

Run `python benchmarks/solver_curves.py STEM` after `pip install -e ".[bench]"`: it writes STEM.svg and STEM.png. Every
solver is given 2, 3, 4, 6, 8 and 10 products a pair; "error" is ‖A - Â‖_F over that of the best approximation of rank
k, less one, so that 0 is the best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from mnist16_solvers import PUBLISHED, problem
from others import Found, skerch
from torch import Tensor

import eigenspan as es
from eigenspan.studies.drawing import Axes, figure_of_panels, own_style, write_figure
from solvers import PAIRS, against, diagonal_error, quietly, synthetic

PRODUCTS_A_PAIR = (2, 3, 4, 6, 8, 10)
LEAST = 1e-6  # errors are drawn down to this
SPECTRA = ("exponential 0.1, positive", "polynomial 1, indefinite", "low rank + noise 0.01, positive")

# name: the solver for k pairs and p products, colour (Okabe & Ito) and marker
SOLVERS: dict[str, tuple[Callable[[int, int], es.EigenSolver], str, str]] = {
    "BlockLanczos": (lambda k, p: es.BlockLanczos(k=k, max_products=p, tol=2e-6), "#0072b2", "o"),
    "SubspaceIteration": (lambda k, p: es.SubspaceIteration(k=k, oversampling=k, max_products=p), "#009e73", "s"),
    "two-pass sketch": (
        lambda k, p: es.SketchedEigh(k=k, outer=p // 2, two_pass=True, measure_residuals=False),
        "#d55e00",
        "^",
    ),
    "one-pass sketch": (
        lambda k, p: es.SketchedEigh(k=k, outer=p // 2, inner=p, measure_residuals=False),
        "#e69f00",
        "v",
    ),
    "… as published": (
        lambda k, p: es.SketchedEigh(k=k, outer=p // 2, inner=p, measure_residuals=False, **PUBLISHED),
        "#cc79a7",
        "D",
    ),
    "Nystrom": (lambda k, p: es.Nystrom(k=k, sketch_size=p, measure_residuals=False), "#56b4e9", "P"),
}

Error = Callable[[Tensor, Tensor], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stem", type=Path, help="where to write, without a suffix")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with own_style():
        figure, panels = figure_of_panels(2, 2, 4, (10, 8), share_x=True, share_y=True)
        for axes, (title, A, k, error) in zip(panels, cases(options.device), strict=True):
            draw(axes, title, A, k, error)
        for axes in panels[2:]:
            axes.set_xlabel("products per pair")
        for axes in panels[::2]:
            axes.set_ylabel("error over the best, less one")
        handles, labels = panels[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle("Accuracy against products")
        write_figure(figure, options.stem)


def cases(device: str) -> list[tuple[str, es.LinearOperator, int, Error]]:
    """Titles, operators, numbers of pairs and errors of what is found over the best."""
    H, exact = problem(torch.float32, 0, device, None)

    def in_eigenbasis(k: int) -> Error:
        best = float(exact.eigenvalues[k:].double().norm())
        return lambda values, vectors: against(exact, Found("", 0, 0, 0, None, 0, values, vectors), k, k)[0] / best

    def of_diagonal(spectrum: Tensor) -> Error:
        best = float(spectrum.abs().sort(descending=True).values[PAIRS:].norm())
        return lambda values, vectors: diagonal_error(spectrum, values, vectors) / best

    spectra = synthetic()
    return [
        ("Hessian of mnist16, step 1000, k = 100", H, 100, in_eigenbasis(100)),
        *(
            (f"{name}, k = {PAIRS}", es.Diagonal(spectra[name].to(device)), PAIRS, of_diagonal(spectra[name]))
            for name in SPECTRA
        ),
    ]


def draw(axes: Axes, title: str, A: es.LinearOperator, k: int, error: Error) -> None:
    print(title)
    for name, (solver, color, marker) in SOLVERS.items():
        if name == "Nystrom" and not A.is_psd:
            continue
        errors = []
        for each in PRODUCTS_A_PAIR:
            result = quietly(solver(k, each * k), A)
            errors.append(error(result.eigenvalues[:k], result.eigenvectors[:, :k]) - 1)
        print(f"  {name:20}", *(f"{value:9.1e}" for value in errors), flush=True)
        drawn = [max(value, LEAST) for value in errors]
        axes.plot(PRODUCTS_A_PAIR, drawn, color=color, marker=marker, label=name)
    theirs = skerch(A, k)
    value = error(theirs.values, theirs.vectors) - 1
    print(f"  {'skerch seigh':20} {value:9.1e} with 6 k products")
    axes.plot(6, max(value, LEAST), color="black", marker="x", linestyle="", label="skerch seigh")
    axes.set_title(title)
    axes.set_yscale("log")


if __name__ == "__main__":
    main()
