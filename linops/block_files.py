"""Blocks of columns in files: the safetensors format, sealed by a checksum. Reading runs no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs
import torch
from torch import Tensor

from .files import written_whole

_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LONGEST = 1 << 16  # bytes of a header; those that are written have some hundred


class DamagedFileError(ValueError):
    """A file of a block that is cut, altered, or no such file."""


@attrs.frozen
class BlockHeader:
    """What a file says of its block.

    Attributes:
        dtype: of the block.
        shape: (n, b).
        fields: what else was written with it.
        checksum: SHA-256 of all of it and of the numbers, in hexadecimal digits.
        offset: of the first number in the file.
    """

    dtype: torch.dtype
    shape: tuple[int, int]
    fields: dict[str, str]
    checksum: str
    offset: int


def write_block(path: Path, block: Tensor, fields: Mapping[str, str]) -> None:
    """Write an (n, b) block to a file, which appears whole or not at all, column after column.

    It is a safetensors file with the (b, n) tensor ``columns``; its metadata are ``fields`` and the checksum.

    Raises:
        OSError: the file cannot be written.
        TypeError: another dtype than float32, float64 and bfloat16.
        ValueError: an empty block.

    Cost: the numbers on disk, and on the way a copy of those that are on a GPU or not contiguous by columns.
    """
    if block.dtype not in _NAMES:
        raise TypeError(f"blocks are kept in float32, float64 or bfloat16, got {block.dtype}; convert it")
    if block.ndim != 2 or block.numel() == 0:
        raise ValueError(f"a block to keep is (n, b) with n, b >= 1, got shape {tuple(block.shape)}")
    columns = block.detach().mT.cpu().contiguous()
    payload = columns.view(torch.uint8).numpy().data.cast("B")
    named = {**fields, "sha256": _checksum(block.dtype, columns.shape, fields, payload)}
    text = _header_text(block.dtype, columns.shape, named)
    if len(text) > _LONGEST:
        raise ValueError(f"fields take {len(text)} bytes, more than {_LONGEST}; keep what is long in another file")
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(payload)


def read_header(path: Path) -> BlockHeader:
    """What a file of `write_block` says of its block, and that it is as long as it should be.

    Raises:
        OSError: the file cannot be read.
        DamagedFileError: it is cut, or no file of `write_block`.

    Cost: one short read; the numbers are neither read nor verified.
    """
    with path.open("rb") as file:
        return _header(file, path)


def read_block(path: Path) -> tuple[Tensor, BlockHeader]:
    """The (n, b) block that `write_block` wrote, with contiguous columns, on the CPU, and what the file says of it.

    Raises:
        OSError: the file cannot be read.
        DamagedFileError: its bytes are not those that were written.

    Cost: the numbers, read once and hashed.
    """
    with path.open("rb") as file:
        header = _header(file, path)
        file.seek(header.offset)
        payload = bytearray(file.read())
    n, b = header.shape
    if _checksum(header.dtype, (b, n), header.fields, payload) != header.checksum:
        raise DamagedFileError(f"{path} is damaged: its bytes do not have the checksum that was written with them")
    return torch.frombuffer(payload, dtype=header.dtype).view(b, n).mT, header


def _header(file: BinaryIO, path: Path) -> BlockHeader:
    try:
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST:
            raise ValueError(f"a header of {size} bytes")
        text = file.read(size)
        entries = json.loads(text.decode())
        fields, tensor = dict(entries["__metadata__"]), entries["columns"]
        dtype, (b, n) = _DTYPES[tensor["dtype"]], tensor["shape"]
        if text != _header_text(dtype, (b, n), fields):
            raise ValueError("a header that was altered")
        checksum = fields.pop("sha256")
        expected = 8 + size + n * b * dtype.itemsize
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is damaged: it holds no block ({error!r})") from error
    found = file.seek(0, 2)
    if found != expected:
        raise DamagedFileError(f"{path} is damaged: it has {found} bytes in place of {expected}")
    return BlockHeader(dtype, (n, b), fields, checksum, 8 + size)


def _header_text(dtype: torch.dtype, shape: Sequence[int], named: Mapping[str, str]) -> bytes:
    b, n = shape
    tensor = {"dtype": _NAMES[dtype], "shape": [b, n], "data_offsets": [0, b * n * dtype.itemsize]}
    text = json.dumps({"__metadata__": dict(named), "columns": tensor}).encode()
    return text + b" " * (-len(text) % 8)  # numbers are aligned


def _checksum(
    dtype: torch.dtype, shape: Sequence[int], fields: Mapping[str, str], payload: memoryview | bytearray
) -> str:
    seal = hashlib.sha256(json.dumps([_NAMES[dtype], list(shape), dict(fields)], sort_keys=True).encode())
    seal.update(payload)
    return seal.hexdigest()
