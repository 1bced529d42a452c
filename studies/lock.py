"""The lock of a study: one process uses its folder at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..linops.locks import LockFile

LOCK = "study.lock"
"""The file that a run keeps in its folder."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Within it, no other process holds the folder. What a process of this machine left when it died is taken over.

    Raises:
        OSError: the folder cannot be written.
        RuntimeError: another process holds it, or seems to from another machine.
    """
    lock = LockFile(directory / LOCK)
    if not lock.acquire():
        process, _, host = lock.holder().partition(" ")
        raise RuntimeError(
            f"another run is using this folder (process {process or 'unknown'} on {host or 'unknown'}): wait for it or "
            f"choose another folder; if it is gone, remove {lock.path}"
        )
    try:
        yield
    finally:
        lock.release()
