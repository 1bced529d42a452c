"""The numbers of docs/claim.md, from the folder of a study: its results, and how much of what steps share is layers.

Run `eigenspan study mnist16`, then `python benchmarks/claim.py runs/mnist16`: it writes docs/data/mnist16/results.json,
which holds the results to five digits, and under "crossed" what masks share with the eigenspaces of other steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from eigenspan.linops import MaskSubspace
from eigenspan.linops.files import finite
from eigenspan.metrics import chance
from eigenspan.solvers import EigenDecomposition
from eigenspan.studies import read_results

DATA = Path(__file__).resolve().parent.parent / "docs" / "data" / "mnist16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a study on training data that has ended")
    parser.add_argument("--out", type=Path, default=DATA, help="the folder to write to; by default docs/data/mnist16")
    options = parser.parse_args()
    results = read_results(options.folder)
    results["crossed"] = crossed(options.folder, results)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(finite(results)), separators=(",", ":"), allow_nan=False)
    (options.out / "results.json").write_text(text + "\n", encoding="utf-8")


def crossed(folder: Path, results: dict[str, Any]) -> list[dict[str, float]]:
    """Overlaps of the first and the last mask with the first and the last eigenspace, beside stratified chance."""
    (names, sizes), k = (results["parameters"][what] for what in ("names", "sizes")), results["table_k"][-1]
    strata = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    steps = [record["step"] for record in results["records"] if record["split"] == "train"]
    masks, eigenspaces = {}, {}
    for step in (steps[0], steps[-1]):
        model = torch.load(folder / "checkpoints" / f"step-{step:06d}.pt", weights_only=True)["model"]
        masks[step] = MaskSubspace.top_k(torch.cat([model[name].flatten() for name in names]).abs(), k)
        found = EigenDecomposition.load(folder / "eigenspaces" / f"{step:08d}-train.npz")
        eigenspaces[step] = found.subspace.leading(k)
    rows = []
    for i, mask in masks.items():
        for j, eigenspace in eigenspaces.items():
            level = chance(mask, eigenspace, strata=strata)
            numbers = {"overlap": level.observed, "mean": level.mean, "ratio": level.ratio, "z": level.z}
            rows.append({"mask": i, "eigenvectors": j, **numbers})
    return rows


def rounded(data: Any) -> Any:
    """Plain data with numbers of five digits."""
    if isinstance(data, float):
        return float(f"{data:.5g}")
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return [rounded(value) for value in data] if isinstance(data, list) else data


if __name__ == "__main__":
    main()
