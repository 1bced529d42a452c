"""Files that appear whole or not at all, and strict JSON in them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
from numpy.lib.npyio import NpzFile


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write to, which takes the place of ``path`` in one step at the end.

    Readers see the old or the new content, as does whoever finds the file after an error, an interruption or a loss of
    power. Each writer has a file of its own, so that of two the later one wins. Permissions are those of any new file.

    Raises:
        OSError: the folder is not there or cannot be written, or another thing than a file has the name: it would be
            replaced.
    """
    _require_replaceable(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())  # mkstemp lets only its user in
        _await_disk(partial)  # else the name may outlive a loss of power, and the content not
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders are not opened
        _await_disk(path.parent)


def require_writable(path: Path) -> None:
    """That a file can be written, so that work for it is not lost.

    Raises:
        OSError: it is a folder, or its folder is not there or cannot be written.
    """
    _require_replaceable(path)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error}): choose another folder") from error


def _require_replaceable(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder: make it, or choose another file")
    if path.exists() and not path.is_file():
        what = "folder: name a file in it" if path.is_dir() else "device or the like, and no file: choose another name"
        raise OSError(f"{path} is a {what}")


def _await_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The permissions that new files do not get, which can only be read by setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_json(data: dict[str, Any], path: Path) -> None:
    """Writes plain data as strict JSON; numbers that are not finite become null.

    The file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(json.dumps(finite(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")


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


def finite(data: Any) -> Any:
    """Plain data as strict JSON can hold them: numbers that are not finite become None."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return data


def require_arrays(archive: NpzFile, names: Iterable[str]) -> None:
    """Refuse an archive that lacks some of the arrays, as those that another class has saved do.

    Raises:
        ValueError: it does.
    """
    missing = [name for name in names if name not in archive]
    if missing:
        raise ValueError(
            f"it has {', '.join(archive.files)}, and no {', '.join(missing)}: load it by the class of that"
        )


@contextlib.contextmanager
def opened_archive(path: str | os.PathLike[str]) -> Iterator[NpzFile]:
    """The arrays of a NumPy archive, by name. Reading them runs no code from the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no archive, or is cut short.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no NumPy archive, as save writes them, or is cut short")
        file.seek(0)
        with numpy.load(file, allow_pickle=False) as archive:
            yield archive
