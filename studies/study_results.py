"""The results of a study, as its folder has them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..linops.files import read_json
from .records import FORMAT

_ENTRIES = {
    *("study", "title", "description", "warning", "attribution", "command", "options", "environment", "parameters"),
    *("table_k", "records"),
}
_CURVES = ("overlap", "eigenvalues", "residual_norms", "participation_ratio")
_RECORD = {
    *("step", "split", "loss", "k_max", "seconds", "report", *_CURVES, "overlap_error", "certificate"),
    *("chance_uniform", "chance_stratified", "mask_counts", "mask_ties", "layer_energy"),
}


def read_results(directory: Path | str) -> dict[str, Any]:
    """What ``results.json`` in a folder holds.

    Raises:
        FileNotFoundError: the folder has no results, or none yet.
        OSError: the file cannot be read.
        ValueError: it is damaged, has no records, or is of another version.

    Cost: to read the file.
    """
    path = Path(directory) / "results.json"
    if not path.exists():
        if (path.parent / "study.json").exists():
            raise FileNotFoundError(
                f"{directory} has no results yet: finish its study by eigenspan resume {directory}, or the training "
                "that it records"
            )
        raise FileNotFoundError(f"{directory} has no {path.name}: name the folder of a study that was finished")
    remedy = f"remove it, and make it anew by eigenspan resume {directory}"
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


def _require(path: Path, found: Any, wanted: Collection[str], remedy: str) -> None:
    lacking = sorted(name for name in wanted if not isinstance(found, dict) or name not in found)
    if lacking:
        raise ValueError(f"{path} is damaged (no {', '.join(lacking)}): {remedy}")
