"""What a folder of blocks says of itself: JSON with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from ..linops.files import read_json
from ..linops.stored import dtype_name, dtype_named

MANIFEST = "manifest.json"
"""The file that says what a folder holds."""
_FORMAT = "eigenspan blocks 1"


@attrs.frozen
class StoredMatrix:
    """An (n, k) matrix that is kept in blocks of columns.

    Attributes:
        rows: n.
        dtype: float32, float64 or bfloat16.
        columns: k; None for a matrix that grows.
        width: columns of a block, of all but the last; None for blocks as they come.
    """

    rows: int
    dtype: torch.dtype
    columns: int | None = None
    width: int | None = None

    def cut(self, start: int, stop: int) -> Iterator[range]:
        """The columns from one number to another, cut where blocks begin.

        Args:
            start: the first column.
            stop: the column behind the last one.

        Cost: none.
        """
        while start < stop:
            end = stop if self.width is None else min(stop, (start // self.width + 1) * self.width)
            yield range(start, end)
            start = end


@attrs.frozen
class Manifest:
    """What is in a folder, and a digest of that."""

    identity: dict[str, Any]
    matrices: dict[str, StoredMatrix]
    entries: dict[str, Any]
    digest: str

    @classmethod
    def of(cls, identity: Mapping[str, Any], matrices: Mapping[str, StoredMatrix]) -> Manifest:
        """That of an identity and matrices."""
        stored = {
            name: {"rows": one.rows, "dtype": dtype_name(one.dtype), "columns": one.columns, "width": one.width}
            for name, one in matrices.items()
        }
        text = json.dumps({"format": _FORMAT, "identity": dict(identity), "matrices": stored}, allow_nan=False)
        entries = json.loads(text)  # as it will be read: with lists for tuples
        return cls(entries["identity"], dict(matrices), entries, _digest(entries))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a folder, see `BlockStore.open`."""
        path = folder / MANIFEST
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no blocks: there is no {path}")
        entries = unsealed(path, "remove it, and who measures the same makes it anew; intact blocks stay")
        if entries.get("format") != _FORMAT:
            raise ValueError(f"{path} is of format {entries.get('format')!r}, not {_FORMAT!r}: choose another folder")
        matrices = {
            name: StoredMatrix(**{**one, "dtype": dtype_named(one["dtype"])})
            for name, one in entries["matrices"].items()
        }
        return cls(entries["identity"], matrices, entries, _digest(entries))

    def differences(self, other: Manifest) -> list[tuple[str, Any, Any]]:
        """What another one says otherwise: a name, such as ``solver.seed``, what it is here and what there."""
        here, there = ({**one.identity, "matrices": one.entries["matrices"]} for one in (self, other))
        return list(_differences(here, there))


def _differences(here: Mapping[str, Any], there: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys((*here, *there)):
        first, second = here.get(name), there.get(name)
        if first == second and (name in here) == (name in there):
            continue
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", first, second


def _digest(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sealed(entries: dict[str, Any]) -> dict[str, Any]:
    """Plain data with their checksum.

    Raises:
        TypeError, ValueError: they hold what JSON does not, numbers that are not finite among them.
    """
    plain = json.loads(json.dumps(entries, allow_nan=False))  # as it will be read: with lists for tuples
    return {**plain, "sha256": _digest(plain)}


def unsealed(path: Path, remedy: str) -> dict[str, Any]:
    """The data that `sealed` gave and a file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged; the message ends with the remedy.
    """
    entries = read_json(path, remedy)
    if entries.pop("sha256", None) != _digest(entries):
        raise ValueError(f"{path} is damaged (it does not have the checksum that was written with it): {remedy}")
    return entries
