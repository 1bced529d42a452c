"""What products cost by each engine, as measured on the first samples of a batch, and whether the engines agree."""

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
from .products import Linearised, Share, Tensors, multiplied

_log = logging.getLogger(__name__)

FEWEST_SAMPLES = 4
"""Pieces of fewer are not tried."""
_TIMED, _MOST_RUNS = 0.02, 10  # what is over in less seconds is timed more often


@attrs.frozen
class Builders:
    """What makes the share of a batch in the matrix.

    Attributes:
        retained: by a graph.
        forward: by forward over reverse mode, which computes everything anew for each vector.
        linearised: from a share by a graph, as a linear program.
        shared: tensors that all shares hold, the parameters at the point.
        tolerance: how far two ways to compute the same may differ, relative to its size.
    """

    shared: Tensors
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


@attrs.frozen
class _Needs:
    """Bytes of one share: what it keeps, what building it takes beside, and what a product takes for each column.

    The last two from step to step, as the largest step of many samples need not be that of few.
    """

    kept: list[int]
    building: list[int]
    working: list[int]


class Trial:
    """Times, sizes and disagreements of shares of the first samples of a batch, each measured once."""

    def __init__(self, builders: Builders, parameters: ParameterSpace, batch: Any, divisible: bool) -> None:
        self.batch = batch
        self._builders, self._parameters = builders, parameters
        self._seconds: dict[tuple[str, int, int], float] = {}
        self._share: tuple[tuple[str, int], Share] | None = None  # the last one built
        # Of one column: its image, copies of both by tensor, and a sum in float64.
        self._vectors = 6 * parameters.size * parameters.values.element_size()
        self._more = min(length(batch), 2 * FEWEST_SAMPLES) if divisible else length(batch)
        self._few = -(-self._more // 2) if divisible else self._more
        self._reasons: dict[str, str | None] = {}
        self._graphs: dict[int, tuple[int, list[int]]] = {}
        self._programs: dict[int, Linearised] = {}
        self._measured: dict[tuple[str, int], _Needs] = {}

    def kept(self, engine: str, size: int, width: int = 1) -> int:
        """Bytes that the graph or program of that many samples keeps beside the parameters.

        Programs for blocks, of columns at once, keep rearranged copies of what those for one column keep.
        """
        once = self._extrapolated(engine, size, lambda needs: needs.kept)
        return 2 * once if width > 1 and engine == "linearised" else once

    def building(self, engine: str, size: int, width: int) -> int:
        """The most bytes that building a share of that many samples, and a product with it, take."""
        building = self._extrapolated(engine, size, lambda needs: needs.building)
        working = self._extrapolated(engine, size, lambda needs: needs.working)
        if width > 1:  # programs for blocks are recorded in larger steps
            working *= 2
        return self.kept(engine, size, width) + max(building, width * working) + width * self._vectors

    def _extrapolated(self, engine: str, size: int, what: Callable[[_Needs], list[int]]) -> int:
        """The largest step, each on the line through two measurements, or in proportion to the one there is."""
        few, more = what(self._needs(engine, self._few)), what(self._needs(engine, self._more))
        if self._more == self._few or len(few) != len(more):
            return math.ceil(max(more, default=0) * max(size / self._more, 1.0))
        factor = (size - self._few) / (self._more - self._few)
        steps = (one + factor * (other - one) for one, other in zip(few, more, strict=True))
        return max(0, math.ceil(max(steps, default=0)))

    def seconds(self, engine: str, size: int, columns: int) -> float:
        """Time per sample and column; infinite for columns that cannot be vectorised."""
        key = engine, size, columns
        if key not in self._seconds:
            share = self._built(engine, size)
            space = self._parameters
            X = torch.ones(columns, space.size, dtype=space.dtype, device=space.device).mT
            spent: list[float] = []
            enough = _TIMED if columns == 1 else 3 * _TIMED  # widths of blocks differ less than sizes of pieces
            try:
                multiplied(share, space, X)  # recorded, and memory found
                while not spent or (sum(spent) < enough and len(spent) < _MOST_RUNS):
                    began = time.perf_counter()
                    multiplied(share, space, X)
                    synchronise(X.device)
                    spent.append(time.perf_counter() - began)
            except RuntimeError:
                if columns == 1:
                    raise
            self._seconds[key] = min(spent, default=math.inf) / (size * columns)
        return self._seconds[key]

    def building_seconds(self, engine: str, size: int, columns: int) -> float:
        """Time that a graph or program of that many samples takes until it can multiply that many columns."""
        product = size * columns * self.seconds(engine, size, columns)
        self._share = None
        space = self._parameters
        X = torch.ones(columns, space.size, dtype=space.dtype, device=space.device).mT
        began = time.perf_counter()
        share = self._builders.build(engine, first_samples(self.batch, size))
        multiplied(share, space, X)
        synchronise(space.device)
        return max(time.perf_counter() - began - product, 0.0)

    def _built(self, engine: str, size: int) -> Share:
        if engine == "linearised" and size in self._programs:
            return self._programs[size]
        if self._share is None or self._share[0] != (engine, size):
            self._share = None  # the last one goes before the next one comes
            self._share = (engine, size), self._builders.build(engine, first_samples(self.batch, size))
        return self._share[1]

    def _graph_bytes(self, size: int) -> tuple[int, list[int]]:
        """What the graph of that many samples takes, and what it took from step to step while it was built."""
        if size not in self._graphs:
            self._share = None
            with Tape(()) as tape:
                share = self._builders.retained(first_samples(self.batch, size))
            self._share = ("retained", size), share
            self._graphs[size] = tape.live_bytes, tape.course
        return self._graphs[size]

    def _program(self, size: int) -> Linearised:
        """Of few samples; it is kept."""
        if size not in self._programs:
            self._graph_bytes(size)
            self._programs[size] = self._builders.linearised(self._built("retained", size))
            self._share = None
        return self._programs[size]

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
            share = self._program(self._few) if engine == "linearised" else self._built(engine, self._few)
            difference = float((multiplied(share, self._parameters, self._probe) - expected).norm())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            return str(error).splitlines()[0]
        size = float(expected.norm())
        # Two orders of summation; a wrong derivative or a constant that is none differs in the first digits.
        if difference <= self._builders.tolerance * size:
            return None
        return f"its product differs from that of the graph by {difference:.1e}, of {size:.1e}"

    @functools.cached_property
    def _probe(self) -> Tensor:
        space, generator = self._parameters, torch.Generator().manual_seed(0)
        return torch.randn(space.size, 1, generator=generator).to(space.device, space.dtype)

    @functools.cached_property
    def _expected(self) -> Tensor:
        """The product of a few samples' graph with the probe."""
        try:
            self._graph_bytes(self._few)
            return multiplied(self._built("retained", self._few), self._parameters, self._probe)
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
            graph, course = self._graph_bytes(size)
            if engine == "forward":
                # Tensors and tangents of the two passes that the graph is of. (It cannot be watched while it runs:
                # PyTorch's tensors of zeros, which tangents begin with, do not pass a dispatch mode.)
                needs = _Needs([0], [0], [2 * live for live in course])
            elif engine == "linearised":
                program = self._program(size)
                kept = program.kept_bytes((*self._builders.shared, *tensors_of(first_samples(self.batch, size))))
                # The graph lives until the program is there.
                building = [*course, *(graph + live for live in program.recording_bytes)]
                needs = _Needs([kept], building, program.working_bytes())
            else:
                share = self._built("retained", size)
                with Tape(()) as running:
                    multiplied(share, self._parameters, self._probe)
                needs = _Needs([graph], [live - graph for live in course], running.course)
            self._measured[engine, size] = needs
        return self._measured[engine, size]
