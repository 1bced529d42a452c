"""What warm starts save when eigenspaces are followed through training, and that they change nothing else.

The Hessian of `mnist16` at records every 10 and every 100 steps, followed with and without warm starts. Run
`python benchmarks/tracking.py`; the exit code says whether every limit held.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

import eigenspan as es
from eigenspan.studies.problem import DataRequest
from eigenspan.studies.problems import find_problem
from eigenspan.studies.tracking import EigenspaceTracker
from eigenspan.studies.training import train

KS = (10, 100, 350)
RECORDS = {10: range(300, 401, 10), 100: range(0, 1001, 100)}
AGREEMENT = 1e-4  # of all overlaps, warm and cold


def hessians(every: int, directory: Path) -> list[es.Hessian]:
    """The Hessians at the records."""
    problem = find_problem("mnist16")
    data = problem.load(DataRequest())
    steps = RECORDS[every]
    checkpoints = train(
        problem,
        data,
        directory,
        steps=steps[-1],
        record_every=every,
        seed=0,
        dtype=torch.float32,
        device="cpu",
    )
    found = []
    for checkpoint in checkpoints:
        if checkpoint.step in steps:
            model = checkpoint.restore(problem, data, device="cpu")
            found.append(es.Hessian(model, problem.loss, data.hessian["train"]))
    return found


def compare(operators: list[es.Hessian], k: int) -> tuple[int, int, int, float]:
    """Products of all records, cold and warm; the most that warm took more in one; the largest difference."""
    cold, warm = (EigenspaceTracker(es.BlockLanczos(k=k), warm_start=start) for start in (False, True))
    for step, H in enumerate(operators):
        cold.record(step, H)
        warm.record(step, H)
    products = [[snapshot.eig.report.products for snapshot in tracker.snapshots] for tracker in (cold, warm)]
    most = max(more - less for less, more in zip(*products, strict=True))
    difference = max(
        float((tracker - other).abs().max())
        for tracker, other in (
            (cold.eigenspaces(k), warm.eigenspaces(k)),
            (cold.masks_with_eigenspaces("magnitude", k), warm.masks_with_eigenspaces("magnitude", k)),
            (cold.gradient_shares(), warm.gradient_shares()),
        )
    )
    return sum(products[0]), sum(products[1]), most, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'every':>6} {'k':>4} {'cold':>6} {'warm':>6} {'saved':>6} {'most over cold':>15} {'difference':>11}")
    held = True
    for every in RECORDS:
        with tempfile.TemporaryDirectory() as directory:
            operators = hessians(every, Path(directory))
        for k in KS:
            cold, warm, most, difference = compare(operators, k)
            holds = most <= 0 and difference <= AGREEMENT
            held &= holds
            print(
                f"{every:>6} {k:>4} {cold:>6} {warm:>6} {1 - warm / cold:>6.0%} {most:>15} {difference:>11.1e}"
                f"{'' if holds else '  MISSED'}",
                flush=True,
            )
    sys.exit(not held)


if __name__ == "__main__":
    main()
