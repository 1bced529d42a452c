"""What the figures are drawn with: style, panels, and lines in the colours of their steps."""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ..linops.files import written_whole

Array = NDArray[np.float64]
Record = dict[str, Any]

OVERLAP = "#0b4f8a"
"""The colour of a single line."""
NULLS = {"uniform": ("#6e6e6e", "--"), "stratified": ("#d55e00", "-."), "haar": ("#009e73", ":")}
"""Colour and dashes of each level of chance: the colour-blind tell them apart (Okabe & Ito, 2008), and so do prints."""
SEQUENTIAL = matplotlib.colormaps["YlGnBu"]
"""The colours of numbers: 0 is near the paper, white or black, and lightness tells the rest."""

_PATH, _DIGITS = re.compile(rb'(?<= d=")[^"]*'), re.compile(rb"(\.\d\d)\d+")
_FEW = 30  # points of a line, and lines of a panel, which are marked
_MANY = 10_000  # points of all lines of a panel, of which a picture is smaller than a drawing
_LETTERS, _LINES = 10, 3  # of a title: letters an inch, and lines
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.titlesize": "medium",
    "figure.titleweight": "bold",
    "font.size": 12,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "path.simplify_threshold": 0.3,  # points of paper: less than a line is wide
    "svg.hashsalt": "eigenspan",
}
# The yellow end of this map is too faint on white, and inverted on black.
_STEPS = LinearSegmentedColormap.from_list("steps", matplotlib.colormaps["viridis"](np.linspace(0, 0.7, 64)))


@attrs.frozen
class StudyFigure:
    """A figure with its words.

    Attributes:
        name: of its files, without suffix.
        figure: the drawing.
        caption: what it shows and how it is drawn.
        alternative: the main numbers in it, for those who do not see it.
    """

    name: str
    figure: Figure
    caption: str
    alternative: str


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """The style of the figures, and in it nothing of the user's; afterwards all is as it was."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def literal(text: str) -> str:
    """Text of the user's as it is, in figures: between two dollar signs Matplotlib reads formulas."""
    return text.replace("$", r"\$")


def set_title(figure: Figure, title: str) -> None:
    """A title of the user's above a figure, in as many lines as it takes; of a very long one the beginning."""
    width = int(_LETTERS * figure.get_figwidth())
    figure.suptitle(literal(textwrap.fill(title, width, max_lines=_LINES, placeholder=" …")))


def empty_figure(size: tuple[float, float]) -> Figure:
    """A figure without panels, of a width and height in inches, that knows of no display."""
    return Figure(figsize=size, dpi=150, layout="constrained")


def figure_of_panels(
    lines: int, columns: int, count: int, size: tuple[float, float], share_x: bool = False, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with the first ``count`` panels of a grid."""
    figure = empty_figure(size)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=share_x, sharey=share_y)
    for unused in grid.flat[count:]:
        unused.remove()
    return figure, list(grid.flat[:count])


def svg_of(figure: Figure) -> bytes:
    """The figure arranged and drawn, without date, in coordinates of two decimals: a thousand pairs make long lines."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    vector: Any = FigureCanvasSVG(figure)  # Any, since its methods have no types
    drawn, dpi = io.BytesIO(), figure.dpi
    vector.print_svg(drawn, metadata={"Date": None})
    figure.dpi = dpi  # which that sets to 72, for all that is drawn afterwards
    return _PATH.sub(lambda path: _DIGITS.sub(rb"\1", path[0]), drawn.getvalue())


def write_figure(figure: Figure, stem: Path) -> None:
    """Writes ``stem.svg`` and ``stem.png``, without dates, each whole or not at all.

    `Figure.savefig` would arrange and draw everything four times over.
    """
    drawing = svg_of(figure)
    with written_whole(Path(f"{stem}.svg")) as partial:
        partial.write_bytes(drawing)
    raster: Any = FigureCanvasAgg(figure)
    with written_whole(Path(f"{stem}.png")) as partial:
        raster.print_png(partial, metadata={"Software": None})


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the leading parts that all of them share, as those of adapters have many."""
    parts = [name.split(".") for name in names]
    shared = 0
    while len({tuple(one[: shared + 1]) for one in parts}) == 1 and min(map(len, parts)) > shared + 1:
        shared += 1
    return [literal(".".join(one[shared:])) for one in parts]


def room_for(names: Sequence[str]) -> float:
    """Inches that labels of an axis take beyond the three that every figure has for them."""
    return max(0.0, 0.1 * max(map(len, names)) - 3)


def array(values: Sequence[float | None]) -> Array:
    """Floats, NaN for null."""
    return np.array(values, dtype=float)


def positive(values: Array) -> Array:
    """The values, NaN for those that are not positive and have no logarithm."""
    return np.where(values > 0, values, np.nan)


def ranks(curve: Array) -> Array:
    """1, 2, ..., one for each value of a curve."""
    return np.arange(1, len(curve) + 1, dtype=float)


def whole_numbers(intervals: int) -> MaxNLocator:
    """Ticks at round whole numbers, for about so many intervals."""
    return MaxNLocator(intervals, integer=True, steps=[1, 2, 5, 10])


def logarithmic(axes: Axes) -> None:
    """A logarithmic vertical axis that ends at powers of ten where it would have fewer than two of them within."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    if high < 100 * low:
        axes.set_ylim(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))


def step_colors(count: int) -> list[tuple[float, ...]]:
    """Colours of things in a row, the first the darkest; of one the colour of a single line."""
    return [to_rgba(OVERLAP)] if count == 1 else [tuple(_STEPS(share)) for share in np.linspace(0, 1, count)]


def _colors(records: Sequence[Record]) -> ScalarMappable:
    steps = [record["step"] for record in records]
    return ScalarMappable(Normalize(min(steps), max(*steps, min(steps) + 1)), _STEPS)


def marker(points: int, lines: int = 1) -> str:
    """The mark of each point of a line, where there are few enough to tell them apart."""
    return "o" if points == 1 or (points < _FEW and lines < _FEW) else ""


def draw_lines(axes: Axes, records: Sequence[Record], curves: Sequence[Array] | Array, **style: Any) -> None:
    """A line a record against 1, 2, ..., in the colour of its step; gaps are bridged."""
    colors = _colors(records)
    many = sum(len(curve) for curve in curves) > _MANY
    for record, curve in zip(records, curves, strict=True):
        color = OVERLAP if len(records) == 1 else colors.to_rgba(record["step"])
        known = np.isfinite(curve)
        mark = marker(int(known.sum()), len(records))
        drawn = {"color": color, "lw": 1.4, "marker": mark, "rasterized": many, **style}
        axes.plot(ranks(curve)[known], curve[known], **drawn)
    axes.xaxis.set_major_locator(whole_numbers(5))


def draw_level(axes: Axes, null: str, x: Array, mean: Array, low: Array, high: Array, label: str | None = None) -> None:
    """A level of chance: its mean, with the band from ``low`` to ``high``."""
    color, dashes = NULLS[null]
    axes.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
    axes.plot(x, mean, color=color, ls=dashes, label=label)


def ratio(values: Array, scale: Array) -> Array:
    """Quotients, NaN where the scale is 0."""
    return np.divide(values, scale, out=np.full_like(values, np.nan), where=scale > 0)


def draw_ratio_level(axes: Axes, null: str, ratios: Array, low: Array, high: Array) -> None:
    """Chance in a panel of multiples of it, which is 1, with its band; the scale is that of the larger k.

    Args:
        axes: the panel.
        null: of the level.
        ratios: the curves of the panel, a row each.
        low: lower end of the band.
        high: upper end of it.
    """
    color, dashes = NULLS[null]
    axes.fill_between(ranks(low), low, high, color=color, alpha=0.2, lw=0)
    axes.axhline(1, color=color, ls=dashes)
    settled = ratios[:, len(low) // 10 :]
    highest = settled[np.isfinite(settled)].max(initial=1.5)
    axes.set(title=f"overlap / {null} chance", xlabel="k", ylim=(0, 1.2 * highest))


def step_key(figure: Figure, records: Sequence[Record], panels: Sequence[Axes]) -> None:
    """The key to the colours of the steps."""
    if len(records) > 1:
        bar = figure.colorbar(_colors(records), ax=panels, label="training step", aspect=40, pad=0.02)
        bar.ax.yaxis.set_major_locator(whole_numbers(6))
