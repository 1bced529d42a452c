"""How products are computed: in which pieces, and what is kept. It changes time and memory, never the operator."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch

from ..basic import require_count
from ..memory import allowance
from ..parameters import ParameterSpace
from .data import length
from .products import ENGINES
from .trial import FEWEST_SAMPLES, Builders, Trial

_WORTH_CUTTING = 16  # samples: smaller batches go as they come
MOST_AT_ONCE = 32
"""Columns: more gain nothing and take memory."""
_WIDTHS = (8, MOST_AT_ONCE)  # that are tried
_GAIN, _LOSS = 0.95, 1.15  # what is measured is noisy: so much faster is better, so much slower ends the search
_SHORT = 0.01  # seconds: pieces that take less are not tried
_USABLE = 0.8  # of a memory budget: allocators keep some of what is freed, in pieces that do not fit what comes next
FEW_COLUMNS = 4
"""In all products: a trial would cost more than it gains."""


@attrs.frozen(kw_only=True)
class ProductPlan:
    """How a product of a curvature operator with a block is computed.

    Attributes:
        engine: ``"linearised"``, ``"retained"`` or ``"forward"``, see `CurvatureOperator`.
        micro_batch_size: the most samples that one graph or program spans; None for batches as they come.
        chunk_size: columns that go through it at once, vectorised; 1 for one after the other.
        kept: whether graphs or programs are kept from one product to the next.
        kept_bytes: what those of all the data take, as reckoned from a part of them.
        reason: why no linear program is taken, where the model has none.
    """

    engine: str
    micro_batch_size: int | None
    chunk_size: int
    kept: bool
    kept_bytes: int
    reason: str | None = None

    def __str__(self) -> str:
        reason = f" (no linear program: {self.reason})" if self.reason else ""
        return f"{self.engine}: {self._course()}{reason}"

    def _course(self) -> str:
        cut = "batches as they come" if self.micro_batch_size is None else f"micro-batches of {self.micro_batch_size}"
        columns = "columns one by one" if self.chunk_size == 1 else f"{self.chunk_size} columns at once"
        if self.engine == "forward":
            return f"{cut}, {columns}, nothing kept"
        what = "linear programs" if self.engine == "linearised" else "graphs"
        fate = "kept" if self.kept else "built anew for each product"
        size = (
            f"{self.kept_bytes / 2**20:.0f} MiB" if self.kept_bytes >= 2**20 else f"{self.kept_bytes / 2**10:.0f} KiB"
        )
        return f"{cut}, {columns}, {what} of {size} in all, {fate}"


@attrs.frozen(kw_only=True)
class Choices:
    """What the user fixed of a plan, and the memory it may take; None where a trial decides."""

    engine: str | None
    micro_batch_size: int | None
    chunk_size: int | None
    memory_budget: int | None

    def __attrs_post_init__(self) -> None:
        for name in ("micro_batch_size", "chunk_size", "memory_budget"):
            value = getattr(self, name)
            if value is not None:
                require_count(f"{name} is None or", value)
        if self.engine is not None and self.engine not in ENGINES:
            raise ValueError(f"engine is None or one of {', '.join(map(repr, ENGINES))}, got {self.engine!r}")
        if self.engine == "forward" and self.chunk_size not in (None, 1):
            raise ValueError(
                f"engine='forward' takes columns one by one, so chunk_size={self.chunk_size} cannot be had: leave it "
                "out, or take engine='linearised' or 'retained'"
            )

    def allowance(self, device: torch.device) -> int:
        """Bytes that the user allows, or a quarter of what is free."""
        return allowance(self.memory_budget, device)


def choose_plan(
    builders: Builders,
    parameters: ParameterSpace,
    batch: Any,
    samples: int,
    columns: int,
    few: bool,
    choices: Choices,
    divisible: bool,
) -> ProductPlan:
    """The fastest plan of a short trial on ``batch``, within the memory budget.

    On a few samples, the engines are compared with one another and their memory is measured. Then programs of more and
    more samples are timed with one column, as long as they do not lose; for blocks, more and more columns at once on
    the best of them, if they gain on a few samples.

    Args:
        builders: make the share of a batch.
        parameters: the coordinates.
        batch: one batch of the data.
        samples: in all the data.
        columns: of the blocks to come.
        few: whether so few products are to come that nothing is timed or linearised.
        choices: what is fixed.
        divisible: whether the batch may be cut.

    Raises:
        ValueError: a memory budget too small; the message says what would do. An engine that cannot do this model; the
            message names the operation and another engine.

    Cost: about three products with one column and, where blocks gain, two with the block.
    """
    trial = Trial(builders, parameters, batch, divisible)
    planning = _Planning(trial, choices, choices.allowance(parameters.device), samples, columns, divisible)
    if choices.engine:
        if reason := trial.reason_against(choices.engine):
            raise ValueError(
                f"engine={choices.engine!r} cannot do this model: {reason}; engine='retained' can, or leave engine= out"
            )
        planning.require_fit([choices.engine])
        return planning.untimed(choices.engine) if few else planning.best(choices.engine)
    engines = ["retained"] if few or trial.reason_against("linearised") else ["linearised", "retained"]
    fitting = next(filter(planning.fits, engines), None)
    if fitting is not None:
        plan = planning.untimed(fitting) if few else planning.best(fitting)
        if plan.kept or few:
            return plan if few else attrs.evolve(plan, reason=trial.reason_against("linearised"))
    # Where nothing can be kept, what is built for one product must pay within it: a program, by a wide block alone.
    engines += [] if trial.reason_against("forward") else ["forward"]
    planning.require_fit(engines)
    fitting_engines = [engine for engine in engines if planning.fits(engine)]
    others = [engine for engine in fitting_engines if engine != "linearised" or columns >= _WIDTHS[0]]
    plans = [planning.untimed(engine) if few else planning.best(engine) for engine in others or fitting_engines]
    return plans[0] if few or len(plans) == 1 else min(plans, key=planning.seconds_afresh)


class _Planning:
    """The search for the best plan of an engine."""

    def __init__(
        self, trial: Trial, choices: Choices, allowance: int, samples: int, columns: int, divisible: bool
    ) -> None:
        self._trial, self._choices = trial, choices
        self._allowance, self._budget = allowance, int(_USABLE * allowance)
        self._samples, self._columns, self._divisible = samples, columns, divisible

    def fits(self, engine: str) -> bool:
        """Whether the memory budget allows its smallest pieces."""
        return self._least(engine) <= self._budget

    def require_fit(self, engines: list[str]) -> None:
        """One of them must fit."""
        if not any(self.fits(engine) for engine in engines):
            width, size = self._choices.chunk_size or 1, self._smallest_size
            least = math.ceil(min(map(self._least, engines)) / _USABLE) + 1
            raise ValueError(
                f"memory_budget={self._allowance} bytes do not hold a product with {width} "
                f"column{'s' * (width > 1)} and {size} samples at a time, which takes about {least} bytes: "
                "allow as much"
            )

    @property
    def _smallest_size(self) -> int:
        return 1 if self._divisible else length(self._trial.batch)

    def _least(self, engine: str) -> int:
        return self._trial.building(engine, self._smallest_size, self._width(engine) or 1)

    def _width(self, engine: str) -> int | None:
        """The columns at once that are fixed; None for those to be found."""
        return 1 if engine == "forward" else self._choices.chunk_size

    def untimed(self, engine: str) -> ProductPlan:
        """Pieces as large as memory allows."""
        return self._plan(engine, self._fitting_sizes(engine)[0], self._width(engine) or 1)

    def best(self, engine: str) -> ProductPlan:
        """The fastest pieces."""
        trial = self._trial
        sizes = self._fitting_sizes(engine)
        fixed = self._width(engine)
        size, width = self._fastest_size(engine, sizes, fixed or 1), fixed or 1
        for wide in self._widths(engine, size) if fixed is None else ():
            if trial.building(engine, size, wide) > self._budget:
                break
            if self._keeps(engine, size, width) and not self._keeps(engine, size, wide):
                break
            worth = _GAIN if width == 1 else 1.0  # where some columns at once gain, more seldom lose
            if trial.seconds(engine, size, wide) > worth * trial.seconds(engine, size, width):
                break
            width = wide
        return self._plan(engine, size, width)

    def _widths(self, engine: str, size: int) -> list[int]:
        """Numbers of columns to try at once; none where they gain nothing on a few samples already."""
        widths = [width for width in dict.fromkeys(min(step, self._columns) for step in _WIDTHS) if width > 1]
        few = min(size, 2 * FEWEST_SAMPLES) if self._divisible else size
        if not widths:
            return []
        alone = self._trial.seconds(engine, few, 1)
        some = 2 if few * alone > _SHORT else widths[0]  # two tell enough where operations do not take as long to start
        return widths if self._trial.seconds(engine, few, some) <= _GAIN * alone else []

    def _plan(self, engine: str, size: int, width: int) -> ProductPlan:
        whole = length(self._trial.batch)
        # What follows the first batch may be larger, unless it cannot be cut.
        cut = size < whole or (self._divisible and self._samples > whole)
        return ProductPlan(
            engine=engine,
            micro_batch_size=self._choices.micro_batch_size or (size if cut else None),
            chunk_size=width,
            kept=self._keeps(engine, size, width),
            kept_bytes=self._pieces(size) * self._trial.kept(engine, size, width),
        )

    def _pieces(self, size: int) -> int:
        """The number of shares of all the data."""
        return -(-self._samples // size)

    def seconds_afresh(self, plan: ProductPlan) -> float:
        """Time per sample and column of a product for which everything is built."""
        size = plan.micro_batch_size or length(self._trial.batch)
        width = min(plan.chunk_size, self._columns)
        building = 0.0 if plan.engine == "forward" else self._trial.building_seconds(plan.engine, size, width)
        return self._trial.seconds(plan.engine, size, width) + building / (size * self._columns)

    def _fastest_size(self, engine: str, sizes: list[int], columns: int) -> int:
        """The most samples of about the least time per sample; nothing is timed where there is no choice."""
        if len(sizes) == 1:
            return sizes[0]
        trial, (least, more) = self._trial, sorted(sizes)[:2]
        spent, longer = (size * trial.seconds(engine, size, columns) for size in (least, more))
        growth = columns * (longer - spent) / (more - least)  # a piece takes a while however small it is
        times: dict[int, float] = {}
        for size in sorted(sizes):
            if size * growth < _SHORT and size < max(sizes):
                continue
            times[size] = trial.seconds(engine, size, columns)
            if times[size] > _LOSS * min(times.values()):
                break
        return max(size for size, seconds in times.items() if _GAIN * seconds <= min(times.values()))

    def _fitting_sizes(self, engine: str) -> list[int]:
        """Numbers of samples to try at once, largest first: those with which all can be kept, if there are any."""
        whole, width = length(self._trial.batch), self._width(engine) or 1
        sizes = [whole]
        while self._divisible and sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // 2))
        keeping = [size for size in sizes if self._keeps(engine, size, width)]
        fitting = keeping or [size for size in sizes if self._trial.building(engine, size, width) <= self._budget]
        least = FEWEST_SAMPLES if whole >= _WORTH_CUTTING else whole
        return [size for size in fitting if size >= least] or fitting[:1]

    def _keeps(self, engine: str, size: int, width: int) -> bool:
        """Whether what is built for all the data can be kept."""
        trial = self._trial
        others = (self._pieces(size) - 1) * trial.kept(engine, size, width)
        return engine != "forward" and others + trial.building(engine, size, width) <= self._budget
