"""The results of a study, which are plain data: put together of records, written, read and taken apart."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy
import scipy
import torch

from .. import __version__
from ..linops.files import read_json, write_json
from .records import FORMAT

_FILE = "results.json"
_ENTRIES = {
    *("study", "title", "description", "warning", "attribution", "command", "options", "environment", "parameters"),
    *("table_k", "records"),
}
_CURVES = ("overlap", "eigenvalues", "residual_norms", "participation_ratio")
_RECORD = {
    *("step", "split", "loss", "k_max", "seconds", "report", *_CURVES, "overlap_error", "certificate"),
    *("chance_uniform", "chance_stratified", "mask_counts", "mask_ties", "layer_energy"),
}


def results_of(
    records: Iterable[dict[str, Any]],
    *,
    study: str,
    title: str,
    description: str,
    warning: str,
    attribution: str,
    command: str | None,
    options: Mapping[str, Any],
    shapes: Mapping[str, torch.Size],
    table_k: Iterable[int],
    device: torch.device | str,
) -> dict[str, Any]:
    """Records with what they are of and what computed them, as plain data: what `write_report` takes.

    Args:
        records: of all steps and splits.
        study: its name.
        title: for figures and reports.
        description: of the data, in words.
        warning: what must be known of the data wherever results are shown.
        attribution: whose data they are.
        command: the command line that repeats it; None where there is none.
        options: what was asked for.
        shapes: of the tensors that the Hessian is of, by name.
        table_k: the dimensions to print.
        device: where it was computed.
    """
    return {
        "format": FORMAT,
        "study": study,
        "title": title,
        "description": description,
        "warning": warning,
        "attribution": attribution,
        "command": command,
        "options": dict(options),
        "environment": _environment(torch.device(device)),
        "parameters": {"names": list(shapes), "sizes": [shape.numel() for shape in shapes.values()]},
        "table_k": list(table_k),
        "records": list(records),
    }


def write_results(results: dict[str, Any], directory: Path) -> None:
    """Writes ``results.json`` into a folder.

    Raises:
        OSError: it cannot be written.
    """
    write_json(results, directory / _FILE)


def read_results(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``results.json`` in a folder holds.

    Args:
        directory: the folder of a study, a list of checkpoints or a recorder.

    Raises:
        FileNotFoundError: the folder has no results, or none yet.
        OSError: the file cannot be read.
        ValueError: it is damaged, has no records, or is of another version.

    Cost: to read the file.
    """
    path = Path(directory) / _FILE
    if not path.exists():
        if (path.parent / "study.json").exists():
            raise FileNotFoundError(
                f"{directory} has no results yet: finish the training that it records, or its study by eigenspan "
                f"resume {directory}"
            )
        raise FileNotFoundError(f"{directory} has no {path.name}: name the folder of a study that was finished")
    remedy = f"remove it, and make it anew by eigenspan resume {directory}, or by the training that recorded it"
    results = read_json(path, remedy)
    if results.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {results.get('format')}, and this version reads {FORMAT}: report it with "
            "the version that wrote it, or run the study again in another folder"
        )
    _require(path, results, _ENTRIES, remedy)
    if not results["records"]:
        raise ValueError(f"{path} is damaged (no records): {remedy}")
    for record in results["records"]:
        _require(path, record, _RECORD, remedy)
        lengths = {len(record[name]) for name in _CURVES}
        if lengths != {record["k_max"]} or len(record["mask_counts"]) != len(results["parameters"]["names"]):
            raise ValueError(f"{path} is damaged (curves of other lengths than k): {remedy}")
    return results


def splits(results: dict[str, Any]) -> list[str]:
    """The splits that have records, training data first."""
    return sorted({record["split"] for record in results["records"]}, reverse=True)


def records_of(results: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The records of a split, by step."""
    return sorted((record for record in results["records"] if record["split"] == split), key=lambda one: one["step"])


def _environment(device: torch.device) -> dict[str, str]:
    return {
        "eigenspan": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": str(torch.get_num_threads()),
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
    }


def _require(path: Path, found: Any, wanted: Collection[str], remedy: str) -> None:
    lacking = sorted(name for name in wanted if not isinstance(found, dict) or name not in found)
    if lacking:
        raise ValueError(f"{path} is damaged (no {', '.join(lacking)}): {remedy}")
