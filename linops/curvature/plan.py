"""How products are computed: in which pieces, and what is kept. It changes time and memory, never the operator."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from ..basic import synchronise
from ..parameters import ParameterSpace
from ..programs.tape import Tape
from .data import first_samples, length
from .loss import tensors_of
from .memory import SHARE_OF_FREE_MEMORY, free_memory
from .products import ENGINES, Linearised, Share, Tensors, multiplied

_log = logging.getLogger(__name__)

_FEWEST_SAMPLES = 4
_WORTH_CUTTING = 16  # samples: smaller batches go as they come
_WIDTHS = (8, 32)  # columns at once that are tried: more gain nothing and take memory
_GAIN, _LOSS = 0.95, 1.15  # what is measured is noisy: so much faster is better, so much slower ends the search
_USABLE = 0.8  # of a memory budget: allocators keep some of what is freed, in pieces that do not fit what comes next
_FEW_COLUMNS = 4  # in all products: a trial would cost more than it gains


@attrs.frozen(kw_only=True)
class ProductPlan:
    """How a product of a curvature operator with a block is computed.

    Attributes:
        engine: ``"linearised"``, ``"retained"`` or ``"forward"``, see `CurvatureOperator`.
        micro_batch_size: the most samples that one graph or program spans; None for batches as they come.
        chunk_size: columns that go through it at once, vectorised; 1 for one after the other.
        kept: whether graphs or programs are kept from one product to the next.
        kept_bytes: what those of all the data take, as measured on a part of them.
    """

    engine: str
    micro_batch_size: int | None
    chunk_size: int
    kept: bool
    kept_bytes: int

    def __str__(self) -> str:
        cut = "batches as they come" if self.micro_batch_size is None else f"micro-batches of {self.micro_batch_size}"
        columns = "columns one by one" if self.chunk_size == 1 else f"{self.chunk_size} columns at once"
        if self.engine == "forward":
            return f"forward over reverse mode, {cut}, {columns}, nothing kept"
        what = "linear programs" if self.engine == "linearised" else "graphs"
        fate = "kept" if self.kept else "built anew for each product"
        return f"{cut}, {columns}, {what} of {self.kept_bytes / 2**20:.0f} MiB {fate}"


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
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} is None or an integer >= 1, got {value!r}")
        if self.engine is not None and self.engine not in ENGINES:
            raise ValueError(f"engine is None or one of {', '.join(map(repr, ENGINES))}, got {self.engine!r}")
        if self.engine == "forward" and self.chunk_size not in (None, 1):
            raise ValueError(
                f"engine='forward' takes columns one by one, so chunk_size={self.chunk_size} cannot be had: leave it "
                "out, or take engine='linearised' or 'retained'"
            )

    def budget(self, device: torch.device) -> int:
        """Bytes to plan with, of what the user allows or a quarter of what is free."""
        return int(_USABLE * (self.memory_budget or SHARE_OF_FREE_MEMORY * free_memory(device)))


@attrs.frozen
class Builders:
    """What makes the share of a batch in the matrix.

    Attributes:
        retained: by a graph.
        forward: by forward over reverse mode, which computes everything anew for each vector.
        linearised: from a share by a graph, as a linear program.
        leaves: the parameters at the point, which all shares hold.
        tolerance: how far two ways to compute the same may differ, relative to its size.
    """

    leaves: Tensors
    retained: Callable[[Any], Share]
    forward: Callable[[Any], Share]
    linearised: Callable[[Share], Linearised]
    tolerance: float

    def build(self, engine: str, batch: Any) -> Share:
        """The share by the engine of that name."""
        if engine == "forward":
            return self.forward(batch)
        share = self.retained(batch)
        return self.linearised(share) if engine == "linearised" else share


def choose_plan(
    builders: Builders,
    parameters: ParameterSpace,
    batch: Any,
    samples: int,
    columns: int,
    products: int | None,
    choices: Choices,
    divisible: bool,
) -> ProductPlan:
    """The fastest plan of a short trial on ``batch``, within the memory budget.

    On a few samples, the engines are compared with one another and their memory is measured. Then programs of fewer and
    fewer samples are timed with one column, as long as they gain; for blocks, more and more columns at once on the best
    of them, if they gain on a few samples.

    Args:
        builders: make the share of a batch.
        parameters: the coordinates.
        batch: one batch of the data.
        samples: in all the data.
        columns: of the blocks to come.
        products: how many are to come, None for many; for a few columns in all, nothing is timed or linearised.
        choices: what is fixed.
        divisible: whether the batch may be cut.

    Raises:
        ValueError: a memory budget too small; the message says what would do. An engine that cannot do this model; the
            message names the operation and another engine.

    Cost: about three products with one column and two with the block.
    """
    few = products is not None and products * columns <= _FEW_COLUMNS
    trial = _Trial(builders, parameters, batch, divisible)
    planning = _Planning(trial, choices, choices.budget(parameters.device), samples, columns, divisible)
    if choices.engine:
        if reason := trial.reason_against(choices.engine):
            raise ValueError(
                f"engine={choices.engine!r} cannot do this model: {reason}; engine='retained' can, or leave engine= out"
            )
        planning.require_fit([choices.engine])
        return planning.untimed(choices.engine) if few else planning.best(choices.engine)
    engines = ["retained"] if few or trial.reason_against("linearised") else ["linearised", "retained"]
    fitting = [engine for engine in engines if planning.fits(engine)]
    plan = None
    if fitting:
        plan = planning.untimed(fitting[0]) if few else planning.best(fitting[0])
    if plan is not None and (plan.kept or few):
        return plan
    # Where nothing can be kept, what is built for one product must pay within it.
    engines += [] if trial.reason_against("forward") else ["forward"]
    planning.require_fit(engines)
    afresh = [engine for engine in engines if engine != "linearised" and planning.fits(engine)]
    plans = [planning.untimed(engine) if few else planning.best(engine) for engine in afresh]
    if few or not plans:
        return plans[0] if plans else planning.best("linearised")
    return min(plans, key=planning.seconds_afresh)


class _Planning:
    """The search for the best plan of an engine."""

    def __init__(
        self, trial: _Trial, choices: Choices, budget: int, samples: int, columns: int, divisible: bool
    ) -> None:
        self._trial, self._choices, self._budget = trial, choices, budget
        self._samples, self._columns, self._divisible = samples, columns, divisible

    def fits(self, engine: str) -> bool:
        """Whether the memory budget allows its smallest pieces."""
        return self._least(engine) <= self._budget

    def require_fit(self, engines: list[str]) -> None:
        """One of them must fit."""
        if not any(self.fits(engine) for engine in engines):
            width, size = self._choices.chunk_size or 1, self._smallest_size
            allowed = math.ceil(self._budget / _USABLE)
            least = math.ceil(min(map(self._least, engines)) / _USABLE) + 1
            raise ValueError(
                f"memory_budget={allowed} bytes do not hold a product with {width} "
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
            if trial.seconds(engine, size, wide) > _GAIN * trial.seconds(engine, size, width):
                break
            width = wide
        return self._plan(engine, size, width)

    def _widths(self, engine: str, size: int) -> list[int]:
        """Numbers of columns to try at once; none where they gain nothing on a few samples already."""
        widths = [width for width in dict.fromkeys(min(step, self._columns) for step in _WIDTHS) if width > 1]
        few = min(size, 4 * _FEWEST_SAMPLES)
        if widths and few < size and self._divisible:
            hopeful = self._trial.seconds(engine, few, widths[0]) < self._trial.seconds(engine, few, 1)
            return widths if hopeful else []
        return widths

    def _plan(self, engine: str, size: int, width: int) -> ProductPlan:
        trial = self._trial
        kept_bytes = trial.kept(engine, self._samples)
        return ProductPlan(
            engine=engine,
            micro_batch_size=self._choices.micro_batch_size or (None if size >= length(trial.batch) else size),
            chunk_size=width,
            kept=engine != "forward" and kept_bytes + trial.building(engine, size, width) <= self._budget,
            kept_bytes=kept_bytes,
        )

    def seconds_afresh(self, plan: ProductPlan) -> float:
        """Time per sample and column of a product for which everything is built."""
        size = plan.micro_batch_size or length(self._trial.batch)
        building = 0.0 if plan.engine == "forward" else self._trial.building_seconds(plan.engine, size)
        width = min(plan.chunk_size, self._columns)
        return self._trial.seconds(plan.engine, size, width) + building / (size * self._columns)

    def _fastest_size(self, engine: str, sizes: list[int], columns: int) -> int:
        """The number of samples that takes the least time per sample; nothing is timed where there is no choice."""
        trial, best = self._trial, sizes[0]
        for size in sizes[1:]:
            if trial.seconds(engine, size, columns) > _LOSS * trial.seconds(engine, best, columns):
                break
            if trial.seconds(engine, size, columns) < _GAIN * trial.seconds(engine, best, columns):
                best = size
        return best

    def _fitting_sizes(self, engine: str) -> list[int]:
        """Numbers of samples to try at once, largest first."""
        trial, whole = self._trial, length(self._trial.batch)
        size, width = whole, self._width(engine) or 1
        while self._divisible and size > 1 and trial.building(engine, size, width) > self._budget:
            size = -(-size // 2)
        sizes = [size]
        while self._divisible and sizes[-1] >= 2 * _FEWEST_SAMPLES and whole >= _WORTH_CUTTING:
            sizes.append(-(-sizes[-1] // 2))
        return sizes


@attrs.frozen
class _Needs:
    """Bytes of one share: what it keeps, what building it takes beside, and what a product takes for each column."""

    kept: int
    building: int
    working: int


class _Trial:
    """Times, sizes and disagreements of shares of the first samples of a batch, each measured once."""

    def __init__(self, builders: Builders, parameters: ParameterSpace, batch: Any, divisible: bool) -> None:
        self.batch = batch
        self._builders, self._parameters = builders, parameters
        self._seconds: dict[tuple[str, int, int], float] = {}
        self._building_seconds: dict[tuple[str, int], float] = {}
        self._share: tuple[tuple[str, int], Share] | None = None
        # Of one column: its image, copies of both by tensor, and a sum in float64.
        self._vectors = 6 * parameters.size * parameters.values.element_size()
        self._more = min(length(batch), 2 * _FEWEST_SAMPLES) if divisible else length(batch)
        self._few = -(-self._more // 2) if divisible else self._more
        self._few_samples = first_samples(batch, self._few)
        self._few_program: Linearised | None = None
        self._reasons: dict[str, str | None] = {}
        self._measured: dict[tuple[str, int], _Needs] = {}

    def kept(self, engine: str, size: int) -> int:
        """Bytes that graphs or programs of that many samples keep beside the parameters."""
        return self._extrapolated(engine, size, lambda needs: needs.kept)

    def building(self, engine: str, size: int, width: int) -> int:
        """The most bytes that building a share of that many samples, and a product with it, take."""
        kept = self.kept(engine, size)
        building = self._extrapolated(engine, size, lambda needs: needs.building)
        working = self._extrapolated(engine, size, lambda needs: needs.working)
        if width > 1:  # programs for blocks keep rearranged copies, and are recorded in larger steps
            kept, working = 2 * kept, 2 * working
        return kept + max(building, width * working) + width * self._vectors

    def _extrapolated(self, engine: str, size: int, what: Callable[[_Needs], int]) -> int:
        """On the line through two measurements, or in proportion to the one there is."""
        few = what(self._needs(engine, self._few))
        slope = few / self._few
        if self._more > self._few:
            slope = (what(self._needs(engine, self._more)) - few) / (self._more - self._few)
        return max(0, math.ceil(few + slope * (size - self._few)))

    def seconds(self, engine: str, size: int, columns: int) -> float:
        """Time per sample and column; infinite for columns that cannot be vectorised."""
        key = engine, size, columns
        if key not in self._seconds:
            share = self._built(engine, size)
            space = self._parameters
            X = torch.ones(columns, space.size, dtype=space.dtype, device=space.device).mT
            spent = []
            try:
                for _ in range(2):  # the first is a warm-up
                    began = time.perf_counter()
                    multiplied(share, space, X)
                    synchronise(X.device)
                    spent.append(time.perf_counter() - began)
            except RuntimeError:
                if columns == 1:
                    raise
            self._seconds[key] = min(spent, default=math.inf) / (size * columns)
        return self._seconds[key]

    def building_seconds(self, engine: str, size: int) -> float:
        """Time that building a share of that many samples takes."""
        self._built(engine, size)
        return self._building_seconds[engine, size]

    def _built(self, engine: str, size: int) -> Share:
        if self._share is None or self._share[0] != (engine, size):
            self._share = None  # the last one goes before the next one comes
            began = time.perf_counter()
            self._share = (engine, size), self._builders.build(engine, first_samples(self.batch, size))
            synchronise(self._parameters.device)
            self._building_seconds[engine, size] = time.perf_counter() - began
        return self._share[1]

    def reason_against(self, engine: str) -> str | None:
        """Why an engine cannot do this model, or that it disagrees with the graph; None if all is well."""
        if engine not in self._reasons:
            self._reasons[engine] = self._found_reason(engine)
            if engine == "linearised" and self._reasons[engine]:
                _log.info("no linear program for this model (%s): going on with its graph", self._reasons[engine])
        return self._reasons[engine]

    def _found_reason(self, engine: str) -> str | None:
        expected = self._expected
        if engine == "retained":
            return None
        try:
            share = self._builders.build(engine, self._few_samples)
            difference = float((multiplied(share, self._parameters, self._probe) - expected).norm())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            return str(error).splitlines()[0]
        if isinstance(share, Linearised):
            self._few_program = share
        size = float(expected.norm())
        # Two orders of summation; a wrong derivative or a constant that is none differs in the first digits.
        if difference <= self._builders.tolerance * size or size == 0:
            return None
        return f"its product differs from that of the graph by {difference / size:.1e}"

    @functools.cached_property
    def _probe(self) -> Tensor:
        space, generator = self._parameters, torch.Generator().manual_seed(0)
        return torch.randn(space.size, 1, generator=generator).to(space.device, space.dtype)

    @functools.cached_property
    def _expected(self) -> Tensor:
        """The product of a few samples' graph with the probe."""
        try:
            return multiplied(self._builders.retained(self._few_samples), self._parameters, self._probe)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "derivative" not in str(error):
                raise
            raise ValueError(
                f"the model or the loss cannot be derived twice ({str(error).splitlines()[0]}): write the operation in "
                "terms of others that can"
            ) from error

    def _needs(self, engine: str, size: int) -> _Needs:
        if (engine, size) not in self._measured:
            batch = first_samples(self.batch, size)
            building, running = Tape(()), Tape(())
            with building:
                share = self._builders.retained(batch)
            graph, peak = building.live_bytes, building.peak_bytes
            if engine == "forward":
                # Tensors and tangents of the two passes that the graph is of. (It cannot be watched while it runs:
                # PyTorch's tensors of zeros, which tangents begin with, do not pass a dispatch mode.)
                needs = _Needs(0, 0, 2 * peak)
            elif engine == "linearised":
                program = self._few_program if size == self._few else None
                program = program or self._builders.linearised(share)
                kept = program.kept_bytes((*self._builders.leaves, *tensors_of(batch)))
                # The graph lives until the program is there.
                needs = _Needs(kept, max(peak, graph + program.recording_bytes), program.working_bytes())
            else:
                with running:
                    multiplied(share, self._parameters, self._probe)
                needs = _Needs(graph, peak - graph, running.peak_bytes)
            self._measured[engine, size] = needs
        return self._measured[engine, size]
