"""What a sketch measures of an operator, as an object that can be joined, added up, and kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy
import torch
from torch import Tensor

from ..linops.files import opened_archive, written_whole


@attrs.frozen(eq=False, repr=False)
class Measurement:
    """Products of an operator with columns of random test matrices, which are numbered: a linear function of A.

    A sketching solver measures any range of the columns, ``solver.measure(A, columns=range(100, 200))``, and decomposes
    them once they are all there, ``solver.decompose(measurement)``. In between,

    - further columns of the same operator join: ``first.merge(second)``;
    - the same columns of two operators, of two parts of the data say, add up to those of their sum: ``first + second``.

    Both need the same test matrices, which are a function of the shape, the dtype and the seed.

    Attributes:
        shape: (m, n) of the operator.
        dtype: of the operator.
        seed: root of the random numbers.
        test_matrix: the kind of the test matrices.
        parts: the number of columns of each array that a whole measurement has, by name. The columns of all parts, one
            after another, have the numbers 0, 1, ….
        columns: the numbers of those measured, in increasing order.
        arrays: the measured columns of each part, if any: tall blocks, or small matrices in float64.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    seed: int
    test_matrix: str
    parts: Mapping[str, int]
    columns: tuple[int, ...]
    arrays: Mapping[str, Tensor]

    def merge(self, other: Measurement) -> Measurement:
        """The columns of both.

        Raises:
            TypeError: ``other`` is no measurement, or on another device.
            ValueError: it has other test matrices, or columns that are here too.

        Cost: a copy.
        """
        if not isinstance(other, Measurement):
            raise TypeError(f"{self!r} merges with another Measurement, got {other!r}")
        self._require_compatible(other)
        twice = set(self.columns) & set(other.columns)
        if twice:
            raise ValueError(f"{self!r} and {other!r} both hold columns {_ranges(twice)}; measure each of them once")
        arrays = {}
        for name in self.parts:
            mine, theirs = self._numbers(name), other._numbers(name)
            held = [one.arrays[name].mT for one in (self, other) if name in one.arrays]
            if held:
                order = torch.tensor([*mine, *theirs]).argsort()
                arrays[name] = torch.cat(held)[order.to(held[0].device)].mT
        return attrs.evolve(self, columns=tuple(sorted(self.columns + other.columns)), arrays=arrays)

    def __add__(self, other: object) -> Measurement:
        """The measurement of the sum of two operators of which the same columns were measured.

        Raises:
            TypeError: on another device.
            ValueError: it has other test matrices or other columns.

        Cost: a copy.
        """
        if not isinstance(other, Measurement):
            return NotImplemented
        self._require_compatible(other)
        if self.columns != other.columns:
            only = set(self.columns) ^ set(other.columns)
            raise ValueError(
                f"{self!r} and {other!r} do not add up: only one of them has columns {_ranges(only)}; columns of the "
                "same operator are joined by merge"
            )
        return attrs.evolve(self, arrays={name: array + other.arrays[name] for name, array in self.arrays.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the measurement to one file, a NumPy archive of plain arrays. It appears whole or not at all.

        Args:
            path: of the file, which is replaced if it is there.

        Raises:
            OSError: the file cannot be written.

        Cost: the numbers of all arrays on disk.
        """
        sketch = {**self.sketch, "dtype": str(self.dtype).removeprefix("torch.")}
        arrays: dict[str, Any] = {name: array.cpu().numpy() for name, array in self.arrays.items()}
        with written_whole(Path(path)) as partial, partial.open("wb") as file:
            numpy.savez(file, sketch=json.dumps(sketch), columns=numpy.array(self.columns, dtype="int64"), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Measurement:
        """The measurement that `save` wrote to ``path``, on the device of the operator. It runs no code from the file.

        Args:
            path: of the file.
            device: of the arrays.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a file of `save`.

        Cost: the numbers of all arrays, read.
        """
        try:
            with opened_archive(path) as archive:
                sketch = json.loads(str(archive["sketch"]))
                sketch["shape"], sketch["dtype"] = tuple(sketch["shape"]), getattr(torch, sketch["dtype"])
                columns = tuple(archive["columns"].tolist())
                arrays = {name: torch.from_numpy(archive[name]) for name in sketch["parts"] if name in archive}
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{path} holds no Measurement that can be loaded: {error}") from error
        tall = {name: array.to(device) for name, array in arrays.items() if name != "core"}
        return cls(**sketch, columns=columns, arrays={**arrays, **tall})

    @property
    def sketch(self) -> dict[str, Any]:
        """What the measurement is of and with: the attributes that those which merge or add up have in common."""
        return {name: getattr(self, name) for name in ("shape", "dtype", "seed", "test_matrix", "parts")}

    def require(self, sketch: Mapping[str, Any]) -> None:
        """Refuse a measurement of another sketch, or of less than all its columns.

        Args:
            sketch: what `sketch` of a whole measurement is to be.

        Raises:
            ValueError: it is one; the message says what differs or is missing.

        Cost: none.
        """
        self._require_same_sketch(sketch)
        missing = set(range(sum(self.parts.values()))).difference(self.columns)
        if missing:
            raise ValueError(f"{self!r} lacks columns {_ranges(missing)}: measure them, and merge the measurements")

    def _require_same_sketch(self, sketch: Mapping[str, Any]) -> None:
        """Raise a ValueError that says what differs, if anything does."""
        differing = [name for name, value in self.sketch.items() if value != sketch[name]]
        if differing:
            differences = "; ".join(f"{name} is {self.sketch[name]} and {sketch[name]}" for name in differing)
            raise ValueError(f"{self!r} is not of the sketch that it is to go with: {differences}")

    def _require_compatible(self, other: Measurement) -> None:
        self._require_same_sketch(other.sketch)
        for name in self.arrays.keys() & other.arrays.keys():
            mine, theirs = self.arrays[name].device, other.arrays[name].device
            if mine != theirs:
                raise TypeError(
                    f"{self!r} and {other!r} are on {mine} and {theirs}: save one, and load it on the other"
                )

    def _numbers(self, name: str) -> list[int]:
        """The numbers of the measured columns of a part."""
        first = 0
        for part, size in self.parts.items():
            if part == name:
                break
            first += size
        return [column for column in self.columns if first <= column < first + size]

    def __repr__(self) -> str:
        m, n = self.shape
        dtype, total = str(self.dtype).removeprefix("torch."), sum(self.parts.values())
        return f"<Measurement of {m}x{n} {dtype}, columns {_ranges(self.columns)} of 0-{total - 1}>"


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers in order, as 0-9, 12, 20-29."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
