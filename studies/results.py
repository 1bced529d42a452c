"""Results on disk: strict JSON, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def write_json(data: dict[str, Any], path: Path) -> None:
    """Writes plain data as strict JSON; numbers that are not finite become null.

    The file is replaced in one step, so that a reader and an interrupted run see the old or the new one.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(_finite(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The data that `write_json` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and it is made anew") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged (no JSON object): remove it, and it is made anew")
    return data


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
