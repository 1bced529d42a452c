"""How far work in a folder has come, in words."""

from __future__ import annotations

import datetime
from pathlib import Path

from ..solvers import BlockStore
from ..solvers.product_log import IMAGES, kept_state
from .overlap_study import described
from .planning import record_count


def progress_line(folder: Path) -> str:
    """How far the sketch, the solve or the study in a folder has come: a line, and one for each solve of a study.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: its manifest or description is damaged.
    """
    if (folder / "study.json").exists():
        return _progress_of_study(folder)
    store = BlockStore.open(folder)
    if IMAGES in store.matrices:
        return _progress_of_solve(store)
    progress = store.progress()
    if progress.total is None:
        return f"{progress.done} columns done, of matrices that grow; {progress.at_work} blocks at work."
    left = progress.total - progress.done
    line = f"{progress.done} of {progress.total} columns done, {left} left; {progress.at_work} blocks at work"
    if left == 0 or progress.seconds_left is None:
        return f"{line}."
    expected = datetime.timedelta(seconds=round(progress.seconds_left))
    return f"{line}, expected to take {expected} with {max(1, progress.at_work)}."


def _progress_of_solve(store: BlockStore) -> str:
    """How far the solve of a checkpoint has come, in a line."""
    progress, state = store.progress(), kept_state(store)
    if state.get("finished"):
        return f"Finished: {progress.done} products done."
    known, line = state.get("total") is not None, f"{progress.done} products done"
    most = state["total"] if known else state.get("most")
    if most is not None:
        left = max(0, most - progress.done)
        line += f", {'' if known else 'at most '}{left} left"
        if progress.seconds_per_column is not None:
            seconds = datetime.timedelta(seconds=round(left * progress.seconds_per_column))
            line += f", expected to take {'' if known else 'at most '}{seconds}"
    note = f"; {state['note']}" if "note" in state else ""
    return f"{line}{note}; {'at work' if progress.at_work else 'nobody at work'}."


def _progress_of_study(folder: Path) -> str:
    """How many records a study has, and how far the solves of the one that it is at have come."""
    done, total = len(list((folder / "records").glob("*.json"))), record_count(*described(folder))
    solves = sorted(path.parent for path in (folder / "unfinished").rglob("manifest.json"))
    lines = [f"{solve.relative_to(folder)}: {progress_line(solve)}" for solve in solves]
    return "\n".join([f"{done} of {total} records done, {total - done} left.", *lines])
