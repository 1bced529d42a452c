"""What a process takes: anonymous memory, which cannot be taken back from it as pages of files can, and disk."""

from __future__ import annotations

import contextlib
import resource
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

MIB, GIB = 2**20, 2**30


class Peak(contextlib.AbstractContextManager["Peak"]):
    """What a reading grows to while it is entered, looked at every few milliseconds by a thread.

    Args:
        read: the reading, in bytes.

    Attributes:
        first: what it was at the beginning.
        peak: the most that it was.
    """

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.first = self.peak = self._read()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes by which it grew."""
        return self.peak - self.first

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.peak = max(self.peak, self._read())


def resident_size() -> int:
    """Bytes of memory of this process, pages of files inside."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def anonymous_memory() -> int:
    """Bytes of this process that no file stands behind: `RssAnon` of `/proc/self/status`."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell RssAnon")


def free_disk(directory: str | None = None) -> int:
    """Bytes that the disk of a directory has to give, by default that of temporary files."""
    return shutil.disk_usage(directory or tempfile.gettempdir()).free
