"""What `plan` expects of a solve beside what the solve takes: products, seconds and memory.

Run `python benchmarks/plan.py [--models mnist16 conv]`. The network of `mnist16` is that of step 0 on 500 images, as in
`eigenspan plan mnist16`; the conv net has the layers of 3c3d with a quarter of its channels. Each row is a process of
its own; memory is what its resident size grows by, from before the operator is planned. With `--rules` it prints the
products of Krylov solvers on `mnist16` instead, from which the rules of `solvers/krylov.py` come.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings

import torch
from memory import Peak, resident_size
from torch import nn

import eigenspan as es
from eigenspan.studies.options import StudyOptions
from eigenspan.studies.planning import first_hessian
from eigenspan.studies.problems import find_problem

CASES = {"mnist16": (100, 350), "conv": (20,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--case", nargs=2, metavar=("MODEL", "K"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        show(options.case[0], int(options.case[1]))
    elif options.rules:
        rules()
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; planned / taken")
        print("| model | n | k | products | seconds in products | outside | MiB | to plan |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for model in options.models:
            for k in CASES[model]:
                subprocess.run([sys.executable, __file__, "--case", model, str(k)], check=True)


def show(model: str, k: int) -> None:
    """A row of the table."""
    H, solver = hessian(model), es.BlockLanczos(k=k)
    solver.solve(es.Diagonal(torch.arange(1, 501).float()))  # modules are loaded
    with Peak(resident_size) as size:
        plan = solver.plan(H)
        report = solver.solve(H).report
    cells = [
        f"{plan.products} / {report.products}",
        f"{plan.seconds_in_products:.2f} / {report.seconds_in_products:.2f}",
        f"{plan.seconds_outside:.2f} / {report.seconds_outside:.2f}",
        f"{plan.memory / 2**20:.0f} / {size.growth / 2**20:.0f}",
        f"{plan.products_spent} products, {plan.seconds_spent:.1f} s",
    ]
    print(f"| {model} | {H.shape[0]:,} | {k} | {' | '.join(cells)} |", flush=True)


def rules() -> None:
    """Products of Krylov solvers beside those that are expected."""
    for dtype in ("float32", "float64"):
        H = hessian("mnist16", dtype)
        for k in (1, 10, 30, 100, 200, 350):
            for solver in (es.BlockLanczos(k=k), es.Lanczos(k=k), es.BlockGolubKahan(k=k)):
                planned, taken = solver.plan(H).products, solver.solve(H).report.products
                print(f"{dtype} {type(solver).__name__:16} k = {k:3}: {planned:5} / {taken:5}", flush=True)


def hessian(model: str, dtype: str = "float32") -> es.Hessian:
    """The operator of a case."""
    if model == "mnist16":
        problem = find_problem(model)
        return first_hessian(problem, StudyOptions(k=1, steps=0, dtype=dtype))
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(16, 24, 3), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    return es.Hessian(network, nn.CrossEntropyLoss(), (torch.randn(100, 3, 32, 32), torch.randint(0, 10, (100,))))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"(?!eigenspan)")
    main()
