"""What a solve takes by the sizes of its parts: products, flops and vectors; and where a basis would be kept."""

from __future__ import annotations

import math

import attrs
import torch

from ..linops.memory import allowance
from .sketches import Sketch

STORAGES = ("device", "host", "disk")
"""Where a basis could be: with the operator, in main memory, in a file."""
AVAILABLE = ("device",)
"""The storages that solvers can keep a basis in, in the order in which they are preferred."""


@attrs.frozen(kw_only=True)
class Workload:
    """What a solver reckons that it takes for an operator, from sizes alone.

    Vectors are those of one side, or pairs of a left and a right one where singular values are solved for.

    Attributes:
        products: expected, checks inside; None where `Solver._total` knows them.
        rule: how they were expected, as a phrase; "" where they are known.
        width: columns of most blocks that it multiplies.
        passes: blocks.
        basis: vectors of a basis that grows, at most.
        working: vectors beside it at the peak, without the result.
        row_flops: of its algebra with tall blocks, for each of their rows.
        core: the size of its largest small matrix.
        core_flops: of the decompositions of small matrices.
        algebra_width: columns of a block that its algebra is as fast as, if that is not ``width``.
        dense: whether the core is the matrix itself, in the dtype and on the device of the operator, with what it takes
            inside ``working``.
        factor_products: with the transpose of the factor of the operator.
        sketch: a test matrix, if it draws any.
        sketched: columns of test matrices that it draws, or vectors that it multiplies by one.
    """

    products: int | None = None
    rule: str = ""
    width: int
    passes: int
    basis: int = 0
    working: float
    row_flops: float = 0.0
    core: int
    core_flops: float
    algebra_width: int | None = None
    dense: bool = False
    factor_products: int = 0
    sketch: Sketch | None = None
    sketched: int = 0


@attrs.frozen(kw_only=True)
class Storage:
    """Where a basis is kept, and the bytes that it takes there.

    Attributes:
        place: ``"device"``, that of the operator; ``"host"``, main memory; ``"disk"``, a file.
        bytes: of all its vectors.
        fits: whether the place holds them: the memory budget on the device, by default a quarter of what is free there,
            and a quarter of free main memory on the host. A disk counts as large enough.
    """

    place: str
    bytes: int
    fits: bool


def storage_for(
    n: int,
    k: int,
    dtype: torch.dtype,
    device: torch.device | str,
    memory_budget: int | None = None,
    places: tuple[str, ...] = AVAILABLE,
) -> Storage:
    """The storage of an (n, k) basis: the first of ``places`` that holds it, or else the last.

    Args:
        n: rows.
        k: vectors.
        dtype: of the basis.
        device: of the operator.
        memory_budget: bytes on the device; by default a quarter of what is free.
        places: those to choose from, of ``"device"``, ``"host"`` and ``"disk"``.

    Raises:
        ValueError: a budget below one, or places that are none.

    Cost: none.
    """
    if not places or not set(places) <= set(STORAGES):
        raise ValueError(f"places are some of {', '.join(STORAGES)}, got {places!r}")
    device, size = torch.device(device), n * k * dtype.itemsize
    room = {
        "device": allowance(memory_budget, device),
        # On the CPU both are the same memory.
        "host": allowance(memory_budget if device.type == "cpu" else None, torch.device("cpu")),
        "disk": math.inf,
    }
    place = next((place for place in places if size <= room[place]), places[-1])
    return Storage(place=place, bytes=size, fits=size <= room[place])
