"""A study on disk: strict JSON, and a folder that one process uses at a time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..linops.files import written_whole

LOCK = "study.lock"
"""The file that a run keeps in its folder."""


def write_json(data: dict[str, Any], path: Path) -> None:
    """Writes plain data as strict JSON; numbers that are not finite become null.

    The file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(json.dumps(_finite(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, remedy: str = "remove it, and it is made anew") -> dict[str, Any]:
    """The data that `write_json` wrote.

    Args:
        path: the file.
        remedy: what to do about a damaged one.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged (no JSON object): {remedy}")
    return data


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Within it, no other process holds the folder. What a process of this machine left when it died is taken over.

    Raises:
        OSError: the folder cannot be written.
        RuntimeError: another process holds it, or seems to from another machine.
    """
    path = directory / LOCK
    owner = f"{os.getpid()} {socket.gethostname()}"
    try:
        _make(path, owner)
    except FileExistsError:
        _remove_stale(path)
        try:
            _make(path, owner)
        except FileExistsError:
            raise _in_use(path, _content(path)) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _make(path: Path, owner: str) -> None:
    with path.open("x", encoding="utf-8") as file:  # fails if it is there: of two processes one succeeds
        try:
            file.write(owner)
            file.flush()
        except BaseException:
            path.unlink()
            raise


def _remove_stale(path: Path) -> None:
    """Removes the lock of a dead process.

    Raises:
        RuntimeError: the process is not known to be dead.
    """
    found = _content(path)
    if not _is_dead(found):
        raise _in_use(path, found)
    aside = path.with_name(f"{LOCK}.{os.getpid()}.partial")
    with contextlib.suppress(FileNotFoundError):  # another process was first
        os.rename(path, aside)
        if _content(aside) != found:  # another process was first, and this is the lock it has made since
            os.rename(aside, path)
        aside.unlink(missing_ok=True)


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


def _in_use(path: Path, owner: str) -> RuntimeError:
    process, _, host = owner.partition(" ")
    return RuntimeError(
        f"another run is using this folder (process {process or 'unknown'} on {host or 'unknown'}): wait for it or "
        f"choose another folder; if it is gone, remove {path}"
    )


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
