"""How much of what masks share with the eigenspaces of other steps comes with their layers.

Run `eigenspan study mnist16`, then `python benchmarks/crossed_steps.py runs/mnist16`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from eigenspan.linops import MaskSubspace
from eigenspan.metrics import chance
from eigenspan.solvers import EigenDecomposition


def main() -> None:
    """A table of overlaps of the first and the last mask with the first and the last eigenspace, beside chance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of a study on training data that has ended")
    folder = parser.parse_args().folder
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    (names, sizes), k = (results["parameters"][what] for what in ("names", "sizes")), results["table_k"][-1]
    strata = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    steps = [record["step"] for record in results["records"] if record["split"] == "train"]
    masks, eigenspaces = {}, {}
    for step in (steps[0], steps[-1]):
        model = torch.load(folder / "checkpoints" / f"step-{step:06d}.pt", weights_only=True)["model"]
        masks[step] = MaskSubspace.top_k(torch.cat([model[name].flatten() for name in names]).abs(), k)
        found = EigenDecomposition.load(folder / "eigenspaces" / f"{step:08d}-train.npz")
        eigenspaces[step] = found.subspace.leading(k)
    print(f"k = {k}\n{'mask':>6} {'eigenvectors':>13} {'overlap':>8} {'stratified':>11} {'ratio':>6} {'z':>6} {'p':>7}")
    for i, mask in masks.items():
        for j, eigenspace in eigenspaces.items():
            level = chance(mask, eigenspace, strata=strata)
            p = level.p_value("two-sided")
            numbers = f"{level.observed:8.3f} {level.mean:11.3f} {level.ratio:6.2f} {level.z:+6.1f} {p:7.4f}"
            print(f"{i:6} {j:13} {numbers}")


if __name__ == "__main__":
    main()
