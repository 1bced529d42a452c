"""NumPy archives of tall matrices that are not formed: written some rows at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy
from torch import Tensor

from ..linops.files import written_whole
from ..linops.tall_matrix import TallMatrix


def write_archive(path: Path, tensors: Mapping[str, Tensor | TallMatrix], report: str) -> None:
    """Write tensors and a report to one file that ``numpy.load`` reads; it appears whole or not at all.

    Raises:
        OSError: the file cannot be written.

    Cost: their numbers on disk.
    """
    with written_whole(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if isinstance(tensor, TallMatrix):
                    _write_rows(file, tensor)
                else:
                    numpy.lib.format.write_array(file, tensor.cpu().numpy(), allow_pickle=False)
        with archive.open("report.npy", "w") as file:
            numpy.lib.format.write_array(file, numpy.array(report), allow_pickle=False)


def _write_rows(file: IO[bytes], matrix: TallMatrix) -> None:
    empty = matrix.row_block(0, 0).cpu().numpy()
    header = {"descr": numpy.lib.format.dtype_to_descr(empty.dtype), "fortran_order": False, "shape": matrix.shape}
    numpy.lib.format.write_array_header_1_0(file, header)
    for _, block in matrix.row_blocks():
        file.write(block.contiguous().cpu().numpy().data)
