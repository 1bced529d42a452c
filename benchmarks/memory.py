"""What a process takes: anonymous memory, which cannot be taken back from it as pages of files can, and disk."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

MIB, GIB = 2**20, 2**30


class Taken(contextlib.AbstractContextManager["Taken"]):
    """Peaks while it is entered, looked at fifty times a second.

    Attributes:
        first: anonymous memory of this process at the beginning, in bytes.
        memory: its peak.
        disk: the most bytes that have become used on the disk of ``directory``, by whomever.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory or tempfile.gettempdir()

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.first = self.memory = anonymous_memory()
        self.disk, self._free = 0, free_disk(self._directory)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.memory = max(self.memory, anonymous_memory())
            self.disk = max(self.disk, self._free - free_disk(self._directory))


def anonymous_memory() -> int:
    """Bytes of this process that no file stands behind: `RssAnon` of `/proc/self/status`."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell RssAnon")


def free_disk(directory: str | None = None) -> int:
    """Bytes that the disk of a directory has to give, by default that of temporary files."""
    return shutil.disk_usage(directory or tempfile.gettempdir()).free
