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


@attrs.frozen
class _Needs:
    """Bytes of one share: what it keeps, what building it takes beside, and what a product takes for each column."""

    kept: int
    building: int
    working: int


class Trial:
    """Times, sizes and disagreements of shares of the first samples of a batch, each measured once."""

    def __init__(self, builders: Builders, parameters: ParameterSpace, batch: Any, divisible: bool) -> None:
        self.batch = batch
        self._builders, self._parameters = builders, parameters
        self._seconds: dict[tuple[str, int, int], float] = {}
        self._building_seconds: dict[tuple[str, int], float] = {}
        self._share: tuple[tuple[str, int], Share] | None = None
        # Of one column: its image, copies of both by tensor, and a sum in float64.
        self._vectors = 6 * parameters.size * parameters.values.element_size()
        self._more = min(length(batch), 2 * FEWEST_SAMPLES) if divisible else length(batch)
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
