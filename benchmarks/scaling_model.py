"""A cost model of k leading eigenpairs, by the sizes of a solve and the rates of a machine: see docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from eigenspan.solvers.krylov import expected_dimension

FLOAT = 4  # bytes of a number in float32
GRAPH_FLOPS, COLUMN_FLOPS = 6, 12  # a token and parameter: to make the graph of the gradient, and for each column
MODEL_VECTORS = 10  # of n numbers: the model, the point twice, the gradient, and a column: image, copies, float64 sum
COLUMN_VECTORS = 4  # of each further column of a rank: its own numbers, its image, and a sum in float64
BLOCK_TOUCHES = 30  # times that a block is read or written while it is orthonormalised, beside the basis
TOL = 1e-5  # the default in float32
NODE = 8  # GPUs of a machine


@attrs.frozen(kw_only=True)
class Machine:
    """What one GPU, or one thread, does a second: flops, bytes and numbers; and its rooms in bytes."""

    product_flops: float
    narrow_flops: float  # of products of a basis with blocks as wide as those of a solver
    wide_flops: float  # of products of two bases
    rates: dict[str, float]  # bytes read, by place
    link: float  # bytes that one rank sends to others of its machine
    network: float
    draws: float  # random signs
    rooms: dict[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Work:
    """What a solve takes for each of n rows: products and vectors, flops, and numbers read, written and drawn."""

    products: int
    vectors: int  # of the basis
    number: int  # bytes of each of its numbers
    narrow: float
    wide: float
    reads: float  # of vectors of the basis
    drawn: int
    blocks: int  # of columns as wide as those multiplied that are at hand at once


@attrs.frozen
class Layout:
    """A solver, where its basis lives, over how many ranks its rows are spread, and the columns of a block."""

    method: str
    place: str
    rows: int
    width: int


def work_of(k: int, layout: Layout) -> Work:
    """Of k pairs by a Krylov space, one that restarts, or a two-pass sketch in bfloat16."""
    width = layout.width
    if layout.method == "sketch":
        outer = k + max(10, k // 4)
        reads = 4 + 1 + outer / (2 * width)  # to orthonormalise it in its place, and for Rayleigh-Ritz
        return Work(
            products=2 * outer,
            vectors=outer,
            number=2,
            narrow=outer**2,
            wide=4 * outer**2,
            reads=outer * reads,
            drawn=outer,
            blocks=3,
        )
    dim = width * math.ceil(expected_dimension(k, width, TOL) / width)
    basis = min(dim + width, restart_limit(k)) if layout.method == "restarts" else dim + width
    restarts = max(0, math.ceil((dim - basis) / max(1, (basis - k) * 2 // 3)))
    # The first of the two passes has next to nothing to project out: it sees the last blocks alone.
    projected = 2 * basis * max(dim, 2 * dim - basis)
    return Work(
        products=dim,
        vectors=basis,
        number=FLOAT,
        narrow=projected + 16 * width * dim,
        wide=2 * basis * k * (1 + restarts),
        reads=projected / (2 * width) + 2 * basis * restarts + basis,
        drawn=width + 2,
        blocks=6,
    )


def restart_limit(k: int) -> int:
    """Vectors at most of a basis that restarts."""
    return max(50, 2 * k)


def seconds_of(
    n: int, work: Work, layout: Layout, machine: Machine, gpus: int = 1, tokens: float = 0
) -> dict[str, float]:
    """Seconds of the parts of a solve, none of which is taken to hide behind another."""
    rows, data = layout.rows, gpus // layout.rows
    own = math.ceil(layout.width / rows)  # columns that a rank multiplies of each block
    blocks = work.products / layout.width
    multiplied = (GRAPH_FLOPS + COLUMN_FLOPS * own) * n * tokens / data
    sent = 2 * blocks * FLOAT * n * layout.width * (rows - 1) / rows**2  # rows for columns, and back
    summed = 2 * blocks * FLOAT * n * own * (data - 1) / data
    basis = work.number * n * work.reads / rows / machine.rates[layout.place]
    touched = BLOCK_TOUCHES * FLOAT * n * work.products / rows / machine.rates["device"]
    exchanged = sent / (machine.link if rows <= NODE else machine.network)
    reduced = summed / (machine.link if gpus <= NODE else machine.network)
    return {
        "products": blocks * multiplied / machine.product_flops,
        "algebra": n / rows * (work.narrow / machine.narrow_flops + work.wide / machine.wide_flops),
        "bytes": basis + touched + exchanged + reduced,
        "random numbers": n * work.drawn / machine.draws,  # every rank draws them all
    }


def device_bytes(n: int, work: Work, layout: Layout, activations: float) -> float:
    """Memory of one GPU, with its part of the basis if that is there."""
    own = math.ceil(layout.width / layout.rows)
    blocks = work.blocks * layout.width / layout.rows
    basis = work.number * work.vectors / layout.rows if layout.place == "device" else 0
    return n * (FLOAT * (MODEL_VECTORS + COLUMN_VECTORS * (own - 1) + blocks) + basis) + activations


def layouts(n: int, k: int, gpus: int, machine: Machine, activations: float, method: str) -> Iterator[Layout]:
    """All that fit."""
    usual = 64 if method == "sketch" else max(5, k // 20)
    for rows in (2**power for power in range(gpus.bit_length())):
        for width in sorted({usual, rows, *(2**power for power in range(usual.bit_length()))}):
            for place in ("device", "host", "disk") if width >= rows else ():
                layout = Layout(method, place, rows, width)
                work = work_of(k, layout)
                kept = work.number * n * work.vectors / rows
                fits = place == "device" or kept <= machine.rooms[place]
                if fits and device_bytes(n, work, layout, activations) <= machine.rooms["device"]:
                    yield layout


def right_layout(n: int, k: int, gpus: int, machine: Machine, tokens: float, activations: float) -> Layout | None:
    """The fastest of those that fit: of Krylov spaces, else of restarts, else of sketches, which are less accurate."""
    for method in ("Krylov", "restarts", "sketch"):
        found = list(layouts(n, k, gpus, machine, activations, method))
        if found:
            return min(
                found, key=lambda layout: sum(seconds_of(n, work_of(k, layout), layout, machine, gpus, tokens).values())
            )
    return None
