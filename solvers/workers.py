"""Sketches that independent processes measure into one folder, in any number and order, and any of which may die."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import LinearOperator
from .block_store import BlockStore
from .manifest import StoredMatrix
from .measurement import Measurement
from .report import solver_from_dict, solver_to_dict
from .sketching import Sketching
from .template import operator_for

_SMALL = "core"  # the part of a measurement that is a small matrix, in float64


@torch.no_grad()
def measure_columns(
    solver: Sketching,
    A: Any,
    folder: str | os.PathLike[str],
    columns: range | None = None,
    *,
    wait: bool = True,
    lapse: float = 120.0,
    fingerprint: str | None = None,
    progress: bool = False,
) -> int:
    """Measure what is missing of a sketch in ``folder``, block by block, beside any number of processes that do so too.

    Each block of ``solver.block_size`` columns is claimed, measured, and written once and whole, with a checksum. A
    call goes on where others stopped; what a process that died had claimed, another one measures. `decompose_folder`
    makes the pairs. They have the same bits as those of one process, whoever measured what, if products have: give a
    curvature operator its ``engine``, ``micro_batch_size`` and ``chunk_size``, which are otherwise chosen by timing,
    data in a fixed order, and machines of one kind.

    Args:
        solver: a `SketchedEigh`, `SketchedSVD` or `Nystrom` of a single pass.
        A: an operator as for ``solver.solve``.
        folder: where all share it; made if it is not there.
        columns: the numbers of those to see to, by default all. Blocks that overlap them are measured whole.
        wait: whether to wait for blocks that others have claimed, and to take over those of processes that died.
        lapse: seconds without a sign of life after which a claim is free. A process of the same machine that has ended
            loses its claim at once.
        fingerprint: what to tell the operator by, in place of ``A.fingerprint()``.
        progress: whether to show a bar that counts columns, those of others too.

    Returns:
        How many columns this call measured.

    Raises:
        OSError: the folder cannot be written; what is finished stays.
        TypeError: a solver that does not sketch, or A in another dtype; columns that are no range.
        ValueError: the folder holds products of another operator or sketch, of another seed say; what
            ``solver.measure`` refuses.

    Cost: one fingerprint, and as many products as columns; the time of the slowest block if others are awaited.
    """
    operator, chosen, store = shared_store(solver, A, folder, columns, lapse, fingerprint)
    parts = solver._parts(operator.shape)
    measured, total = 0, len(chosen)
    with tqdm(disable=not progress, desc=type(solver).__name__, unit=" columns", total=total) as bar:
        while missing := _missing(store, parts, chosen):
            bar.update(max(0, total - sum(len(block) for _, block, _ in missing) - bar.n))
            before = measured
            random.Random(os.getpid()).shuffle(missing)  # so that many workers rarely ask for the same block
            for name, block, first in missing:
                if _measure_block(solver, operator, store, name, block, first):
                    measured += len(block)
                    bar.update(len(block))
            if not wait:
                break
            if measured == before:  # others have claimed all that is missing
                time.sleep(min(1.0, lapse / 8))
    store.remove_stale_claims()  # of blocks that others had written when they died
    return measured


def _missing(store: BlockStore, parts: dict[str, int], chosen: range) -> list[tuple[str, range, int]]:
    """The blocks that overlap the chosen columns and are not there: part, columns of it, and number of its first."""
    return [
        (name, block, first)
        for name, first in _firsts(parts).items()
        for block in store.missing(name)
        if block.start + first < chosen.stop and block.stop + first > chosen.start
    ]


def _measure_block(
    solver: Sketching, A: LinearOperator, store: BlockStore, name: str, block: range, first: int
) -> bool:
    """Measure and write a block, unless another process has claimed or written it; returns whether it was measured."""
    claim = store.claim(name, block)
    if claim is None:
        return False
    with claim:
        began = time.perf_counter()
        found = solver.measure(A, range(block.start + first, block.stop + first)).arrays[name]
        store.write(name, block.start, found, time.perf_counter() - began)
    return True


def shared_store(
    solver: Sketching,
    A: Any,
    folder: str | os.PathLike[str],
    columns: range | None,
    lapse: float,
    fingerprint: str | None = None,
) -> tuple[LinearOperator, range, BlockStore]:
    """The operator, the columns to see to and the folder of `measure_columns`, which refuses here what does not fit."""
    if not isinstance(solver, Sketching):
        raise TypeError(f"columns are known in advance of a sketch, as SketchedEigh(k=…); got {solver!r}")
    operator = operator_for(A, type(solver).__name__, solver.takes_spread_rows)
    chosen = solver._checked_columns(operator, columns)
    identity = {
        "solver": solver_to_dict(solver),
        "shape": operator.shape,
        "dtype": str(operator.dtype),
        "operator": operator.fingerprint() if fingerprint is None else fingerprint,
    }
    store = BlockStore(folder, identity, _matrices(solver, operator.shape, operator.dtype), lapse=lapse)
    return operator, chosen, store


def decompose_folder(
    folder: str | os.PathLike[str], solver: Sketching | None = None, device: torch.device | str = "cpu"
) -> Any:
    """The result that `measure_columns` has measured all columns for in ``folder``.

    Args:
        folder: of the blocks.
        solver: another one that the same products serve, of another k or core say; by default the one that they were
            measured by.
        device: where to decompose.

    Returns:
        What ``solver.decompose`` gives: an `EigenDecomposition` or a `SingularValueDecomposition`. Residual norms are
        NaN: to measure them takes products.

    Raises:
        FileNotFoundError: the folder holds no blocks.
        OSError: they cannot be read.
        ValueError: columns are missing, or damaged: these are set aside, and `measure_columns` measures them again; the
            blocks are not those of a sketch, or not of that of ``solver``.

    Cost: the numbers of all blocks, read once and verified; that of ``solver.decompose``.
    """
    store = BlockStore.open(folder)
    try:
        own = solver_from_dict(store.identity["solver"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds blocks, but not those of a sketch: {store.identity}") from error
    if not isinstance(own, Sketching):
        raise ValueError(f"{folder} holds blocks of {own}, which does not sketch")
    arrays: dict[str, Tensor] = {}
    for name in store.matrices:
        arrays[name] = store.matrix(name, "cpu" if name == _SMALL else device)
    m, n = store.identity["shape"]
    parts = own._parts((m, n))
    columns = tuple(range(sum(parts.values())))
    measurement = Measurement((m, n), arrays["range"].dtype, own.seed, own.test_matrix, parts, columns, arrays)
    return (own if solver is None else solver).decompose(measurement)


def _firsts(parts: dict[str, int]) -> dict[str, int]:
    """The number of the first column of each part among those of all parts."""
    firsts, first = {}, 0
    for name, size in parts.items():
        firsts[name] = first
        first += size
    return firsts


def _matrices(solver: Sketching, shape: tuple[int, int], dtype: torch.dtype) -> dict[str, StoredMatrix]:
    """The parts of a measurement as matrices."""
    m, n = shape
    rows = {"range": (m, dtype), "corange": (n, dtype), "core": (solver._core_rows(shape), torch.float64)}
    return {
        name: StoredMatrix(*rows[name], columns=size, width=solver.block_size)
        for name, size in solver._parts(shape).items()
    }
