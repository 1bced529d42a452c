"""Block Lanczos with its basis on disk: anonymous memory, seconds outside products, residual norms.

Run `python benchmarks/disk_basis.py [--k 50 100 200] [--n 1000000] [--storage disk] [--dtype bfloat16]` for a diagonal
matrix of that size with k directions of its own, which takes next to no memory itself; or with `--resnet18` for the
Hessian of torchvision's ResNet-18, 11,689,512 parameters, on 64 random images of 3x64x64, for which it exits with an
error if a limit is missed. Each k runs in a process of its own. Anonymous memory, `RssAnon` of `/proc/self/status`, is
what cannot be taken back from a process, unlike pages of files; it is read fifty times a second, before products as
well, and its peak is given.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch
from memory import MIB, Peak, anonymous_memory

import eigenspan as es

MEMORY, OUTSIDE, RESIDUAL = 6e9, 0.6, 1e-3  # bytes, a share of the time, a share of the top eigenvalue; at most


def main() -> None:
    """Prints one line for each k."""
    options = _options()
    if options.inside:
        _measure(options, options.k[0])
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, storage {options.storage}")
    print(
        f"{'k':>4} {'n':>10} {'start':>7} {'peak MiB':>9} {'products':>8} {'s in':>7} {'s outside':>9}  worst residual"
    )
    for k in options.k:
        arguments = [word for word in sys.argv[1:] if word != "--inside"]
        command = [sys.executable, __file__, *arguments, "--inside", "--k", str(k)]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit("beyond the limit")


def synthetic(n: int, k: int) -> es.LinearOperator:
    """diag(d) for d of k values from 1 down to 0.1, apart, in random places, and others below 0.01."""
    generator = torch.Generator().manual_seed(0)
    diagonal = 0.01 * torch.rand(n, generator=generator)
    diagonal[torch.randperm(n, generator=generator)[:k]] = torch.logspace(0, -1, k)
    return es.Diagonal(diagonal)


def resnet18() -> es.LinearOperator:
    """The Hessian of ResNet-18 on 64 random images of 3x64x64."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18().eval()
    images, labels = torch.randn(64, 3, 64, 64), torch.randint(0, 1000, (64,))
    return es.Hessian(model, torch.nn.CrossEntropyLoss(), (images, labels), memory_budget=2**30)


def _measure(options: argparse.Namespace, k: int) -> None:
    A = resnet18() if options.resnet18 else synthetic(options.n, k)
    storage = None
    if options.storage != "none":
        storage = es.Storage(options.storage, options.directory, options.dtype)
    solver = es.BlockLanczos(
        k=k, tol=options.tol, block_size=options.block_size, max_products=options.max_products, storage=storage
    )
    with Peak(anonymous_memory) as memory:
        began = time.perf_counter()
        result = solver.solve(A)
        mask = es.MaskSubspace.top_k(torch.arange(A.shape[0], 0, -1).float(), k)
        es.overlap(mask, result.subspace)
        seconds = time.perf_counter() - began - result.report.seconds
    report = result.report
    print(
        f"{k:>4} {A.shape[0]:>10} {memory.first / MIB:>7.0f} {memory.peak / MIB:>9.0f} {report.products:>8} "
        f"{report.seconds_in_products:>7.1f} {report.seconds_outside:>9.1f}  "
        f"{float(result.residual_norms.max()):.1e} of "
        f"{float(result.eigenvalues.abs().max()):.3g}, {report.status.name}; overlap {seconds:.1f} s"
    )
    if options.resnet18:
        outside = report.seconds_outside / report.seconds
        residual = float(result.residual_norms.max() / result.eigenvalues.abs().max())
        print(f"     {outside:.0%} of the time outside products, residuals up to {residual:.1e} of the top")
        if memory.peak > MEMORY or outside > OUTSIDE or residual > RESIDUAL:
            raise SystemExit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--k", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--resnet18", action="store_true")
    parser.add_argument("--storage", default="disk", help="disk, host, device, auto, or none: formed at once")
    parser.add_argument("--directory")
    parser.add_argument("--dtype")
    parser.add_argument("--tol", type=float)
    parser.add_argument("--block-size", type=int, default=10)
    parser.add_argument("--max-products", type=int)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
