"""Where the choice of a solver turns: the seconds behind the thresholds of `eigenspan.choose`.

Run `python benchmarks/solver_choice.py` on a machine that does nothing else: Hessians of networks of one layer beside
their dense matrix, and GGNs of m outputs beside the Gram matrix of their factor. Each figure is the time of
BlockLanczos over that of the other, so that above 1 the other is faster: medians of ``--repetitions``, in turn, all
products planned.
"""

from __future__ import annotations

import argparse
import statistics

import torch

import eigenspan as es
from solvers import quietly

SHARES = (50, 20, 10, 5, 3, 2)  # n / k
ROWS_A_PAIR = (20, 10, 5, 3, 2)  # m / k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("\nBlockLanczos over DenseEigh" + "".join(f"{f'k = n/{share}':>11}" for share in SHARES))
    for width in (8, 20, 40, 80):
        H = es.Hessian(*problem(20, width, 10, 500, options.device))
        row(H, [(H.shape[0] // share, es.DenseEigh(k=H.shape[0] // share)) for share in SHARES], options)
    print("\nBlockLanczos over GramEigh " + "".join(f"{f'k = m/{share}':>11}" for share in ROWS_A_PAIR))
    for inputs, width, images in ((100, 100, 50), (500, 200, 50)):
        A = es.GGN(*problem(inputs, width, 10, images, options.device))
        rows = 10 * images
        row(A, [(rows // share, es.GramEigh(k=rows // share)) for share in ROWS_A_PAIR], options, f", m = {rows}")


def problem(inputs: int, width: int, classes: int, samples: int, device: str) -> tuple[object, ...]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(inputs, width), torch.nn.Tanh(), torch.nn.Linear(width, classes))
    data = (torch.randn(samples, inputs, device=device), torch.randint(classes, (samples,), device=device))
    return model.to(device), torch.nn.CrossEntropyLoss(), data


def row(
    A: es.CurvatureOperator, others: list[tuple[int, es.EigenSolver]], options: argparse.Namespace, more: str = ""
) -> None:
    A.plan(columns=32)
    cells = []
    for k, other in others:
        solvers = (es.BlockLanczos(k=k), other)
        seconds = [[quietly(solver, A).report.seconds for solver in solvers] for _ in range(options.repetitions)]
        lanczos, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
        cells.append(f"{lanczos / theirs:11.2f}")
    print(f"{f'n = {A.shape[0]}{more}':27}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
