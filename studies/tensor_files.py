"""Tensors and plain data in files that appear whole, and are read without code and by their checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from ..linops.files import written_whole


def write_tensors(contents: dict[str, Any], path: Path) -> None:
    """Writes tensors, numbers and strings, nested as they may be.

    Raises:
        OSError: the file cannot be written.
    """
    with written_whole(path) as partial:
        torch.save(contents, partial)


def read_tensors(path: Path, remedy: str) -> dict[str, Any]:
    """What `write_tensors` wrote, on the CPU.

    Args:
        path: the file.
        remedy: what to do about one that is damaged, for messages.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds something else.
    """
    with path.open("rb") as file:
        try:
            require_checksums(file)
            file.seek(0)
            contents = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in as many ways as its format has layers
            raise ValueError(f"{path} is damaged or of another kind ({type(error).__name__}): {remedy}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} holds a {type(contents).__name__}, expected a dict: {remedy}")
    return contents


def require_checksums(file: Path | IO[bytes]) -> None:
    """The parts of an archive of PyTorch or NumPy must be what was written, which not all readers ask.

    Raises:
        OSError: the file cannot be read.
        zipfile.BadZipFile: it is no archive.
        ValueError: a part is not. Archives with `torch.serialization.set_crc32_options` off have zeros for checksums
            and are not looked at.
    """
    with zipfile.ZipFile(file) as archive:
        if any(part.CRC for part in archive.infolist()):
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is another one")
