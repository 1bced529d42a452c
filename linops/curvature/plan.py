"""How products are computed: in which pieces, and what is kept. It changes time and memory, never the operator."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from ..basic import synchronise
from ..parameters import ParameterSpace
from .data import first_samples, length
from .products import Share, multiplied

_FEWEST_SAMPLES = 4
_WORTH_CUTTING = 16  # samples: smaller batches go as they come
_WIDEST = 32  # columns at once: more gain nothing and take memory
_GAIN, _LOSS = 0.95, 1.15  # what is measured is noisy: so much faster is better, so much slower ends the search
_SHARE_OF_FREE_MEMORY = 0.25


@attrs.frozen(kw_only=True)
class ProductPlan:
    """How a product of a curvature operator with a block is computed.

    Attributes:
        micro_batch_size: the most samples that one graph spans; None for batches as they come.
        chunk_size: columns that go through a graph at once, vectorised; 1 for one after the other.
        kept: whether graphs are kept from one product to the next.
        graph_bytes: what the graphs of one pass over the data take, as measured on a part of them.
    """

    micro_batch_size: int | None
    chunk_size: int
    kept: bool
    graph_bytes: int

    def __str__(self) -> str:
        cut = "batches as they come" if self.micro_batch_size is None else f"micro-batches of {self.micro_batch_size}"
        columns = "columns one by one" if self.chunk_size == 1 else f"{self.chunk_size} columns at once"
        graphs = "kept" if self.kept else "built anew for each product"
        return f"{cut}, {columns}, graphs of {self.graph_bytes / 2**20:.0f} MiB {graphs}"


@attrs.frozen(kw_only=True)
class Choices:
    """What the user fixed of a plan, and the memory it may take; None where a trial decides."""

    micro_batch_size: int | None
    chunk_size: int | None
    memory_budget: int | None

    def __attrs_post_init__(self) -> None:
        for name in ("micro_batch_size", "chunk_size", "memory_budget"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} is None or an integer >= 1, got {value!r}")

    def budget(self, device: torch.device) -> int:
        """Bytes: what the user allows, or a quarter of what is free."""
        return self.memory_budget or int(_SHARE_OF_FREE_MEMORY * _free_memory(device))


def choose_plan(
    build: Callable[[Any], Share],
    parameters: ParameterSpace,
    batch: Any,
    samples: int,
    columns: int,
    choices: Choices,
    divisible: bool,
) -> ProductPlan:
    """The fastest plan of a short trial on ``batch``, within the memory budget.

    Graphs of fewer and fewer samples are timed with one column, as long as they gain; then, for blocks, all columns at
    once on the best of them and on the largest.

    Args:
        build: makes the share of a batch.
        parameters: the coordinates.
        batch: one batch of the data.
        samples: in all the data.
        columns: of the blocks to come.
        choices: what is fixed.
        divisible: whether the batch may be cut.

    Raises:
        ValueError: a memory budget too small; the message says what would do.

    Cost: about three products with one column and two with the block.
    """
    budget = choices.budget(parameters.device)
    trial = _Trial(build, parameters, batch, divisible)
    vectors = 4 * parameters.size * parameters.values.element_size()  # of one column: its image, and copies by tensor
    sizes = _fitting_sizes(trial, budget - vectors, divisible)
    if not sizes:
        samples_at_least = 1 if divisible else length(batch)
        raise ValueError(
            f"memory_budget={budget} bytes do not hold a product with one column and {samples_at_least} samples at a "
            f"time, which take about {trial.bytes(samples_at_least) + vectors} bytes: allow as much"
        )
    best_size = _fastest_size(trial, sizes, choices.chunk_size or 1)
    best_width = choices.chunk_size or 1
    wanted = min(_WIDEST, columns) if choices.chunk_size is None else 1
    for size in dict.fromkeys((best_size, sizes[0])) if wanted > 1 else ():
        width = min(wanted, (budget - trial.bytes(size)) // (trial.bytes(size) + vectors))
        if width > 1 and trial.seconds(size, width) < _GAIN * trial.seconds(best_size, best_width):
            best_size, best_width = size, width
    graph_bytes = trial.bytes(samples)
    cut = None if best_size >= length(batch) else best_size
    return ProductPlan(
        micro_batch_size=choices.micro_batch_size or cut,
        chunk_size=best_width,
        kept=graph_bytes + best_width * (trial.bytes(best_size) + vectors) <= budget,
        graph_bytes=graph_bytes,
    )


def _fastest_size(trial: _Trial, sizes: list[int], columns: int) -> int:
    """The number of samples that takes the least time per sample; nothing is timed where there is no choice."""
    best = sizes[0]
    for size in sizes[1:]:
        if trial.seconds(size, columns) > _LOSS * trial.seconds(best, columns):
            break
        if trial.seconds(size, columns) < _GAIN * trial.seconds(best, columns):
            best = size
    return best


def _fitting_sizes(trial: _Trial, memory: int, divisible: bool) -> list[int]:
    """Numbers of samples to try in one graph, largest first; none if nothing fits."""
    whole = length(trial.batch)
    if not divisible:
        return [whole] if trial.bytes(whole) <= memory else []
    sizes = [whole]
    while sizes[0] > 1 and trial.bytes(sizes[0]) > memory:
        sizes = [sizes[0] // 2]
    if trial.bytes(sizes[0]) > memory:
        return []
    while sizes[-1] >= 2 * _FEWEST_SAMPLES and whole >= _WORTH_CUTTING:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


class _Trial:
    """Times and sizes of shares of the first samples of a batch, each measured once."""

    def __init__(self, build: Callable[[Any], Share], parameters: ParameterSpace, batch: Any, divisible: bool) -> None:
        self.batch = batch
        self._build, self._parameters = build, parameters
        self._seconds: dict[tuple[int, int], float] = {}
        self._share: tuple[int, Share] | None = None
        more = min(length(batch), 2 * _FEWEST_SAMPLES) if divisible else length(batch)
        few = -(-more // 2) if divisible else 0
        self._few, self._few_bytes = few, self._graph_bytes(few) if few else 0
        self._slope = (
            (self._graph_bytes(more) - self._few_bytes) / (more - few) if more > few else self._few_bytes / few
        )

    def bytes(self, size: int) -> int:
        """What the graph of that many samples keeps beside the parameters, on the line through two measurements."""
        return max(0, math.ceil(self._few_bytes + self._slope * (size - self._few)))

    def seconds(self, size: int, columns: int) -> float:
        """Time per sample and column."""
        if (size, columns) not in self._seconds:
            if self._share is None or self._share[0] != size:
                self._share = None  # the last graph goes before the next one comes
                self._share = size, self._build(first_samples(self.batch, size))
            space = self._parameters
            X = torch.ones(columns, space.size, dtype=space.dtype, device=space.device).mT
            spent = []
            for _ in range(2):  # the first is a warm-up
                began = time.perf_counter()
                multiplied(self._share[1], space, X)
                synchronise(X.device)
                spent.append(time.perf_counter() - began)
            self._seconds[size, columns] = min(spent) / (size * columns)
        return self._seconds[size, columns]

    def _graph_bytes(self, size: int) -> int:
        """What a graph of that many samples keeps, counted while it is built."""
        boxes: list[list[Tensor]] = []

        def pack(tensor: Tensor) -> list[Tensor]:
            boxes.append([tensor])
            return boxes[-1]

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box[0]):
            share = self._build(first_samples(self.batch, size))
        kept = {}
        for (tensor,) in boxes:
            if not (tensor.is_leaf and tensor.requires_grad):  # a parameter, which all graphs share
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        del share
        for box in boxes:
            box.clear()  # a node that keeps its own result would keep itself alive
        return sum(kept.values())


def _free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now; 4 GiB where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for entry in _meminfo():
        if entry.startswith("MemAvailable:"):
            return int(entry.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4 * 2**30


def _meminfo() -> Iterator[str]:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            yield from lines
    except OSError:  # not on Linux
        return
