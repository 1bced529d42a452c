"""Lock files: which of many processes does a piece of work."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_SIGNS = 8  # of life before a lock lapses


def require_lapse(lapse: float | None) -> None:
    """That it is a time, or None.

    Raises:
        ValueError: it is not.
    """
    if lapse is not None and not lapse > 0:
        raise ValueError(f"lapse is a positive number of seconds, or None for locks that stay; got {lapse}")


class LockFile:
    """A file that one process holds at a time, with its number and its machine in it.

    The lock of a process of this machine that has ended is taken over at once. With ``lapse`` so is one that gave no
    sign of life for so long, from whichever machine: while it is held, a thread touches it. Times are those of the
    folder's file system alone, so that the clocks of machines may differ.

    A process that was suspended for longer than ``lapse`` finds its lock with another. So a lock that lapses saves work
    from being done twice, and what it guards must come out right even so.

    Args:
        path: of the file.
        lapse: seconds without a sign of life after which the lock is free; None for never.

    Raises:
        ValueError: ``lapse`` is not positive.
    """

    def __init__(self, path: Path, lapse: float | None = None) -> None:
        require_lapse(lapse)
        self.path, self._lapse = path, lapse
        self._owner = f"{os.getpid()} {socket.gethostname()}"
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lock, unless another holds it.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._made():
            self.remove_stale()
            if not self._made():
                return False
        if self._lapse is not None:
            self._released.clear()
            self._thread = threading.Thread(target=self._live, args=(self._lapse / _SIGNS,), daemon=True)
            self._thread.start()
        return True

    def release(self) -> None:
        """Give the lock back; what another has taken over stays."""
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        self._remove_if(lambda owner: owner == self._owner)

    def holder(self) -> str:
        """The number of the process that holds the lock and its machine, with a space between; "" if that is not known.

        Raises:
            OSError: the file is there and cannot be read.
        """
        return _content(self.path)

    def is_stale(self) -> bool:
        """Whether the lock can be taken over: its process has ended, or has given no sign of life for too long."""
        return _is_dead(self.holder()) or self._has_lapsed()

    def remove_stale(self) -> None:
        """Remove the lock if it can be taken over.

        Raises:
            OSError: the folder cannot be written, or the file not read.
        """
        self._remove_if(lambda owner: _is_dead(owner) or self._has_lapsed())

    def __enter__(self) -> LockFile:  # noqa: PYI034 - typing has no Self in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _remove_if(self, is_meant: Callable[[str], bool]) -> None:
        """Remove the file if what it says is meant, and not one that has come in its place meanwhile.

        Whoever removes one holds it by the system's own lock, which ends with the process: so the file that is looked
        at is still the one at the path when it is removed.
        """
        if not is_meant(self.holder()):
            return
        mode = "r+" if os.access(self.path, os.W_OK) else "r"  # network file systems lock what is open to writing
        with contextlib.suppress(FileNotFoundError):
            with self.path.open(mode, encoding="utf-8") as file:
                _await_system_lock(file)
                is_same = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
                is_removed = is_same and is_meant(file.read())
                if is_removed and os.name == "posix":
                    self.path.unlink()
            if is_removed and os.name != "posix":  # elsewhere files that are open are not removed
                self.path.unlink()

    def _made(self) -> bool:
        try:
            file = self.path.open("x", encoding="utf-8")  # fails if it is there: of two processes one succeeds
        except FileExistsError:
            return False
        with file:
            try:
                file.write(self._owner)
                file.flush()
            except BaseException:
                self.path.unlink()
                raise
        return True

    def _has_lapsed(self) -> bool:
        if self._lapse is None:
            return False
        try:
            touched = self.path.stat().st_mtime
            with tempfile.TemporaryFile(dir=self.path.parent) as file:
                now = os.fstat(file.fileno()).st_mtime
        except OSError:  # given back meanwhile, or a folder that only others can write to
            return False
        return now - touched > self._lapse

    def _live(self, seconds: float) -> None:
        while not self._released.wait(seconds):
            try:
                if self.holder() != self._owner:
                    return
                os.utime(self.path)
            except OSError as error:  # noqa: PERF203 - once in seconds
                _log.warning("%s could not be touched (%s); it may lapse, and its work be done twice", self.path, error)


def _await_system_lock(file: IO[Any]) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # file systems without such locks leave a gap of microseconds
            fcntl.flock(file, fcntl.LOCK_EX)


def _content(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    return ""


def _is_dead(owner: str) -> bool:
    """Whether a process is of this machine and gone; where that cannot be told, it is not."""
    process, _, host = owner.partition(" ")
    if host != socket.gethostname() or not process.isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(process), 0)  # asks, and does nothing
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False
