"""Panels of anyone's own results: each function draws into Axes of Matplotlib; figure and file are the caller's.

Such as ``plot_overlap_curve(figure.subplots(), es.chance_curve(scores, eig.subspace))``, where ``figure`` is a
``matplotlib.figure.Figure(layout="constrained")``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

try:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('panels need Matplotlib: pip install "eigenspan[studies]"', name=error.name) from error

from ..linops.composition import Composition
from ..metrics import ChanceCurve, PrincipalAngles
from ..metrics.random_angles import random_angle_shares
from .drawing import OVERLAP, SEQUENTIAL, Array, draw_level, ranks, step_colors, whole_numbers

_FEW = 150  # cells of a heat map, in which their values are written
_NARROW = 16  # columns, from which on values in the cells would run into one another
_TICKS = (20, 12)  # labels of rows and of columns, at most
_LETTERS = 40  # in all labels of columns
_DENSITIES = 3  # compositions whose densities are written


def plot_overlap_curve(
    axes: Axes,
    curves: ChanceCurve | Sequence[ChanceCurve],
    level: float = 0.95,
    error: tuple[Tensor, Tensor] | None = None,
) -> None:
    """The overlap against k, with the mean and the central interval of each null.

    Args:
        axes: where to draw.
        curves: chance levels of the same overlaps under one null or several, such as uniform and stratified.
        level: the probability of each interval, at every k by itself.
        error: the ends, (K,) each, of an interval of the overlap itself, such as `overlap_curve_interval` gives; NaN
            where there is none. The axis does not grow with it: of the last eigenvector that was solved for, no gap
            is known, and the interval is all of [0, 1].

    Raises:
        ValueError: no curve, curves of different overlaps, or a level outside (0, 1).

    Cost: that of ``curve.interval(level)``, which draws random masks unless it did so before.
    """
    several = [curves] if isinstance(curves, ChanceCurve) else list(curves)
    if not several:
        raise ValueError("there is no curve to plot; give the one of chance_curve(scores, eigenspace), or several")
    observed = _array(several[0].observed)
    if not all(np.array_equal(_array(curve.observed), observed, equal_nan=True) for curve in several):
        raise ValueError(f"expected curves of the same overlaps under different nulls, got {several}; plot them apart")
    k = ranks(observed)
    for curve in several:
        low, high = (_array(end) for end in curve.interval(level))
        draw_level(
            axes, curve.null, k, _array(curve.mean), low, high, f"{curve.null} chance, {100 * level:.3g}% interval"
        )
    axes.plot(k, observed, color=OVERLAP, label="overlap")
    axes.set(xlabel="k", ylabel="overlap", ylim=(0, None))
    if error is not None:
        axes.autoscale(False)
        low, high = (_array(end) for end in error)
        axes.fill_between(k, low, high, color=OVERLAP, alpha=0.3, lw=0, label="error of the eigenspace")
    axes.xaxis.set_major_locator(whole_numbers(5))
    axes.legend(loc="upper left")


def plot_overlap_matrix(
    axes: Axes,
    matrix: ArrayLike | Tensor,
    labels: Sequence[object],
    other_labels: Sequence[object] | None = None,
    title: str = "overlap",
    highest: float = 1.0,
) -> None:
    """A heat map of overlaps in [0, 1], such as those of eigenspaces at every step of a training with one another.

    Values are written into the cells if these are few. The caller adds the key to the colours:
    ``figure.colorbar(axes.images[0], ax=axes)``.

    Args:
        axes: where to draw.
        matrix: (r, c) overlaps; NaN is left blank.
        labels: of the r rows, such as steps; the first is on top.
        other_labels: of the c columns; by default the same.
        title: above the panel.
        highest: the overlap at which the colours end, to tell small ones apart.

    Raises:
        ValueError: labels that are not as many as rows and columns, or a number outside [0, 1].
    """
    values = _array(matrix)
    outside = (values < -1e-6) | (values > 1 + 1e-6)
    if outside.any():
        raise ValueError(f"an overlap is in [0, 1], got {values[outside][0]:.6g}")
    _heat_map(axes, values, labels, labels if other_labels is None else other_labels, highest)
    axes.set_title(title)


def plot_composition(axes: Axes, compositions: Composition | Mapping[str, Composition]) -> None:
    """Where masks lie: for each tensor its share of all parameters, and beside it its share of each mask.

    At the end of a bar stands the density, how much of the tensor is in the mask, unless there are more than three
    masks.

    Args:
        axes: where to draw; a bar takes about a fifth of an inch.
        compositions: of a mask, or of several by name, which must be of the same tensors.

    Raises:
        ValueError: no composition, or some of different tensors.
    """
    several = {"mask": compositions} if isinstance(compositions, Composition) else dict(compositions)
    parts = {(one.names, one.sizes) for one in several.values()}
    if len(parts) != 1:
        raise ValueError(f"expected compositions of the same tensors, at least one, got those of {len(parts)} models")
    ((names, sizes),) = parts
    height, rows = 0.8 / (len(several) + 1), np.arange(len(names))
    axes.barh(rows - 0.4 + height / 2, np.divide(sizes, sum(sizes)), height, color="#b4b4b4", label="all parameters")
    for place, (label, one) in enumerate(several.items(), 1):
        color = step_colors(len(several))[place - 1]
        bars = axes.barh(rows - 0.4 + (place + 0.5) * height, one.shares, height, color=color, label=label)
        if len(several) <= _DENSITIES:
            densities = [f"{density:.2g}" for density in one.densities]
            axes.bar_label(bars, densities, padding=3, fontsize="x-small")
    axes.set_yticks(rows, [name or "(model)" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top, and no more room around many than around few
    axes.grid(visible=False, axis="y")
    noted = "; numbers: density" if len(several) <= _DENSITIES else ""
    axes.set(xlabel=f"share of the parameters, or of the mask{noted}", xlim=(0, 1.12 * max(axes.get_xlim())))
    axes.legend(loc="best")


def plot_layer_energy(
    axes: Axes, energy: ArrayLike | Tensor, names: Sequence[str], labels: Sequence[object] | None = None
) -> None:
    """A heat map of the shares of vectors that lie in each layer; colours go from 0 to the largest share.

    Values are written into the cells if these are few; ``figure.colorbar(axes.images[0], ax=axes)`` adds a key.

    Args:
        axes: where to draw.
        energy: (L, k) what `layer_energy` gives, a row a layer and a column an eigenvector.
        names: of the L layers, such as ``H.parameters.names``; the first is on top.
        labels: of the k columns; by default 1, 2, ...

    Raises:
        ValueError: names or labels that are not as many as layers and vectors.
    """
    values = _array(energy)
    columns = range(1, values.shape[-1] + 1) if labels is None else labels
    _heat_map(axes, values, [name or "(model)" for name in names], columns, np.nanmax(values, initial=1e-12))
    axes.set(title="energy by layer", xlabel="eigenvector i")


def plot_principal_angles(axes: Axes, angles: PrincipalAngles, ambient_dim: int | None = None) -> None:
    """A histogram of principal angles in degrees, from 0, a shared direction, to 90, an orthogonal one; bins of 5.

    Args:
        axes: where to draw.
        angles: those of `principal_angles`.
        ambient_dim: n, to draw how many of the angles would be in each bin if one subspace were random, by the law for
            large dimensions (Wachter 1980).

    Raises:
        ValueError: an n below the dimension of one of the subspaces.
    """
    edges = np.arange(0, 91, 5)
    # A right angle in degrees may be rounded to beyond 90.
    axes.hist(np.minimum(np.degrees(_array(angles.radians)), 90), bins=[*edges], color=OVERLAP, ec="white")
    if ambient_dim is not None:
        if ambient_dim < max(angles.dims):
            raise ValueError(f"{angles} are of subspaces of a larger space than that of ambient_dim={ambient_dim}")
        shares = random_angle_shares(ambient_dim, *angles.dims, np.radians(edges))
        shares[0] = 0  # angles of exactly zero belong to the first bin
        expected = min(angles.dims) * np.diff(shares)
        axes.stairs(expected, edges, color="black", ls="--", label="random subspaces")
        axes.legend(loc="upper left")
    axes.set(xlabel="principal angle, degrees", ylabel=f"how many of {len(angles)}", xlim=(0, 90))
    axes.set_xticks(range(0, 91, 15))
    axes.yaxis.set_major_locator(whole_numbers(5))


def _array(values: ArrayLike | Tensor) -> Array:
    """The numbers in float64 on the CPU."""
    return np.asarray(torch.as_tensor(values).detach().cpu() if isinstance(values, Tensor) else values, dtype=float)


def _heat_map(axes: Axes, values: Array, rows: Sequence[Any], columns: Sequence[Any], highest: float) -> None:
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"expected a label for each row and column of the matrix, got {len(rows)} and {len(columns)} for shape "
            f"{values.shape}"
        )
    image = axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    sides = ((rows, axes.set_yticks), (columns, axes.set_xticks))
    longest = max(len(str(label)) for label in columns)
    for (labels, set_ticks), most in zip(sides, (_TICKS[0], min(_TICKS[1], max(2, _LETTERS // longest))), strict=True):
        shown = range(0, len(labels), math.ceil(len(labels) / most))
        set_ticks(shown, [str(labels[place]) for place in shown])
    if values.size <= _FEW and len(columns) < _NARROW:
        _write_values(axes, image, values)


def _write_values(axes: Axes, image: AxesImage, values: Array) -> None:
    """The numbers in the cells, in white on dark colours."""
    for row, column in itertools.product(*map(range, values.shape)):
        value = float(values[row, column])
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(np.array(value))
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
            color = "white" if dark else "#111111"  # black may become white where a page is dark
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize="x-small")
