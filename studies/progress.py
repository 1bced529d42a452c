"""How far work in a folder has come, in numbers and in words."""

from __future__ import annotations

import datetime
from pathlib import Path

import attrs

from ..solvers import BlockStore
from ..solvers.manifest import MANIFEST
from ..solvers.product_log import IMAGES, kept_state
from .overlap_study import described
from .planning import record_count


@attrs.frozen(kw_only=True)
class SketchProgress:
    """How far the workers on a sketch have come.

    Attributes:
        columns: how many are done.
        total: in all; None if a matrix grows.
        blocks_at_work: held by processes that give signs of life.
        seconds_left: by those at work; None if that is not known.
    """

    columns: int
    total: int | None
    blocks_at_work: int
    seconds_left: float | None

    def __str__(self) -> str:
        if self.total is None:
            return f"{self.columns} columns done, of matrices that grow; {self.blocks_at_work} blocks at work."
        left = self.total - self.columns
        line = f"{self.columns} of {self.total} columns done, {left} left; {self.blocks_at_work} blocks at work"
        if left == 0 or self.seconds_left is None:
            return f"{line}."
        return f"{line}, expected to take {_duration(self.seconds_left)} with {max(1, self.blocks_at_work)}."


@attrs.frozen(kw_only=True)
class SolveProgress:
    """How far a solve with a checkpoint has come.

    Attributes:
        products: how many are done.
        left: how many there will be, at most if ``exact`` is not true; None if nobody knows.
        exact: whether it is known beforehand how many it takes.
        seconds_left: that these take; None if that is not known.
        finished: whether nothing is left.
        at_work: whether a process is.
        note: what the solver says.
    """

    products: int
    left: int | None
    exact: bool
    seconds_left: float | None
    finished: bool
    at_work: bool
    note: str

    def __str__(self) -> str:
        if self.finished:
            return f"Finished: {self.products} products done."
        line, bound = f"{self.products} products done", "" if self.exact else "at most "
        if self.left is not None:
            line += f", {bound}{self.left} left"
            if self.seconds_left is not None:
                line += f", expected to take {bound}{_duration(self.seconds_left)}"
        note = f"; {self.note}" if self.note else ""
        return f"{line}{note}; {'at work' if self.at_work else 'nobody at work'}."


@attrs.frozen(kw_only=True)
class StudyProgress:
    """How far a study has come.

    Attributes:
        records: how many are done.
        total: in all.
        solves: of the record that it is at, by their folders.
    """

    records: int
    total: int
    solves: dict[str, SketchProgress | SolveProgress]

    def __str__(self) -> str:
        lines = [f"{name}: {solve}" for name, solve in self.solves.items()]
        return "\n".join([f"{self.records} of {self.total} records done, {self.total - self.records} left.", *lines])


def progress_of(folder: Path) -> SketchProgress | SolveProgress | StudyProgress:
    """How far the sketch, the solve or the study in a folder has come.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: its manifest or description is damaged.
    """
    if not (folder / "study.json").exists():
        if not (folder / MANIFEST).exists():
            raise FileNotFoundError(
                f"{folder} is the folder of no study, no solve with a checkpoint and no sketch: it has "
                f"neither study.json nor {MANIFEST}"
            )
        return progress_of_store(BlockStore.open(folder))
    solves = sorted(path.parent for path in (folder / "unfinished").rglob(MANIFEST))
    return StudyProgress(
        records=len(list((folder / "records").glob("*.json"))),
        total=record_count(*described(folder)),
        solves={str(solve.relative_to(folder)): progress_of_store(BlockStore.open(solve)) for solve in solves},
    )


def progress_of_store(store: BlockStore) -> SketchProgress | SolveProgress:
    """How far the sketch or the solve of a store has come."""
    progress = store.progress()
    if IMAGES not in store.matrices:
        return SketchProgress(
            columns=progress.done,
            total=progress.total,
            blocks_at_work=progress.at_work,
            seconds_left=progress.seconds_left,
        )
    state = kept_state(store)
    exact = state.get("total") is not None
    most = state["total"] if exact else state.get("most")
    left = None if most is None else max(0, most - progress.done)
    each = progress.seconds_per_column
    return SolveProgress(
        products=progress.done,
        left=left,
        exact=exact,
        seconds_left=None if left is None or each is None else left * each,
        finished=bool(state.get("finished")),
        at_work=bool(progress.at_work),
        note=state.get("note", ""),
    )


def _duration(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))
