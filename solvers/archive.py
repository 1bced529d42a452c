"""NumPy archives of tall matrices: written some rows at a time where they are not formed, and mapped where not read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy
import torch
from torch import Tensor

from ..linops.files import written_whole
from ..linops.tall_matrix import TallMatrix

_ALIGNED = 64  # bytes that arrays begin at multiples of, so that they can be mapped
_LOCAL_HEADER, _ZIP64, _EXTRA = 30, 20, 4  # bytes of a member's header, of its field of long sizes, and of any field's
_PADDING = 0x4E45  # a field that readers skip


def write_archive(path: Path, tensors: Mapping[str, Tensor | TallMatrix], report: str) -> None:
    """Write tensors and a report to one file that ``numpy.load`` reads; it appears whole or not at all.

    Raises:
        OSError: the file cannot be written.

    Cost: their numbers on disk.
    """
    with written_whole(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, tensor in tensors.items():
            with _member(archive, name) as file:
                if isinstance(tensor, TallMatrix):
                    _write_rows(file, tensor)
                else:
                    numpy.lib.format.write_array(file, tensor.cpu().numpy(), allow_pickle=False)
        with _member(archive, "report") as file:
            numpy.lib.format.write_array(file, numpy.array(report), allow_pickle=False)


def mapped_tensor(path: Path, name: str) -> Tensor:
    """A tensor of an archive, whose numbers stay in the file until they are asked for.

    What is written to the tensor does not reach the file.

    Raises:
        KeyError: there is none of that name.
        OSError: the file cannot be read.
        ValueError: it is no archive of `write_archive`.

    Cost: none. Numbers are not verified by their checksum.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as array:
            version = numpy.lib.format.read_magic(array)
            if version != (1, 0) or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed, or of version {version}: load it without mmap")
            shape, by_columns, dtype = numpy.lib.format.read_array_header_1_0(array)
            inner = array.tell()
        file.seek(member.header_offset + _LOCAL_HEADER - 4)
        start = member.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4))) + inner
    if start % _ALIGNED:
        raise ValueError(f"{name} does not begin where it can be mapped: load it without mmap, and save it again")
    if 0 in shape:  # of which no file is mapped
        return torch.from_numpy(numpy.empty(shape, dtype))
    if by_columns:
        return torch.from_numpy(numpy.memmap(path, dtype, mode="c", offset=start, shape=shape[::-1])).mT
    return torch.from_numpy(numpy.memmap(path, dtype, mode="c", offset=start, shape=shape))


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """The file of an array in an archive, which begins at a multiple of _ALIGNED."""
    info = zipfile.ZipInfo(f"{name}.npy")
    assert archive.fp is not None
    begins = archive.fp.tell() + _LOCAL_HEADER + len(info.filename) + _ZIP64 + _EXTRA
    padding = -begins % _ALIGNED
    info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as file:
        yield file


def _write_rows(file: IO[bytes], matrix: TallMatrix) -> None:
    empty = matrix.row_block(0, 0).cpu().numpy()
    header = {"descr": numpy.lib.format.dtype_to_descr(empty.dtype), "fortran_order": False, "shape": matrix.shape}
    numpy.lib.format.write_array_header_1_0(file, header)
    for _, block in matrix.row_blocks():
        file.write(block.contiguous().cpu().numpy().data)
