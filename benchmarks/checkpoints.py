"""What a checkpoint costs, and what it takes to go on from one, on the Hessian of the study's network.

python benchmarks/checkpoints.py [--k 100]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import eigenspan as es
from eigenspan.studies.problems import find_problem

_TIMES = 5


def main() -> None:
    """Prints seconds, medians of five, and bytes on disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=100)
    k = parser.parse_args().k
    problem = find_problem("mnist16")
    torch.manual_seed(0)
    model, (inputs, targets) = problem.model(), problem.load(None).hessian["train"]
    plan = {"engine": "linearised", "chunk_size": 32, "micro_batch_size": len(targets)}
    H, solver = es.Hessian(model, problem.loss, (inputs, targets), **plan), es.BlockLanczos(k=k)
    solver.solve(H)  # the first solve pays for the engine
    seconds: dict[str, list[float]] = {"no checkpoint": [], "a new one": [], "a finished one": []}
    for _ in range(_TIMES):
        with tempfile.TemporaryDirectory() as folder:
            for name, checkpoint in zip(seconds, (None, folder, folder), strict=True):
                began = time.perf_counter()
                report = solver.solve(H, checkpoint=checkpoint).report
                seconds[name].append(time.perf_counter() - began)
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
    for name, each in seconds.items():
        print(f"{name:15} {statistics.median(each):6.2f} s for {report.products} products in {report.passes} passes")
    print(f"{size / 1e6:.1f} MB on disk, {size / report.products / H.shape[0]:.2f} bytes a number")


if __name__ == "__main__":
    main()
