"""What k leading eigenpairs of the Hessian of a large model take: a cost model, and the same model beside small solves.

Run `python benchmarks/scaling.py` for the table of docs/scaling.md: models of 124 M, 1 B and 7 B parameters on 1, 8 and
64 GPUs, from constants of an H100 that options change (`--help`). Run `--check` for the model beside real solves of a
diagonal matrix on one thread: machine constants are measured first, products are counted, and seconds are those of the
CPU, of one rank of those that share out rows, so that other load on the machine is not counted.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import torch
from models import WORKLOADS
from scaling_model import FLOAT, MODEL_VECTORS, Layout, Machine, restart_limit, right_layout, seconds_of, work_of
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import eigenspan as es
from eigenspan.linops.distributed import RowSharded, job
from eigenspan.solvers.basis import Basis
from eigenspan.solvers.sketches import Rademacher

GIGA, HOUR = 1e9, 3600.0
RESNET18 = {"float32": (5.41, 67e12), "TF32": (3.70, 495e12)}  # s on an H100 by imagenet_product.py; peaks


def h100(options: argparse.Namespace) -> Machine:
    """An H100 SXM in a machine of eight, by its maker's figures and the shares of them that are achieved."""
    share = options.share_bytes
    return Machine(
        product_flops=options.share_tf32 * 495e12,
        narrow_flops=options.share_fp32 * 67e12,
        wide_flops=options.share_fp32 * 67e12,
        rates={"device": share * 3350e9, "host": share * 55e9, "disk": share * 6e9},
        link=share * 450e9,  # 900 GB/s both ways together
        network=share * 50e9,
        draws=options.draws,
        rooms={"device": 80e9, "host": options.host, "disk": options.disk},
    )


def table(options: argparse.Namespace) -> None:
    """The table of the page."""
    machine = h100(options)
    print("| parameters | k | GPUs | layout | columns | basis | products | algebra | bytes | random | total h | most |")
    print("|" + "---|" * 12)
    sizes = {"124 M": 124_000_000, "1 B": 1_000_000_000, "7 B": 7_000_000_000}
    for (name, n), k, gpus in itertools.product(sizes.items(), (10, 100, 1000), (1, 8, 64)):
        layout = right_layout(n, k, gpus, machine, options.tokens, options.activations)
        shown = layout or Layout("Krylov", "device", 1, max(5, k // 20))
        where = f"{shown.method}, {shown.place}, rows over {shown.rows}".removesuffix(", rows over 1")
        work = work_of(k, shown)
        spent = seconds_of(n, work, shown, machine, gpus, options.tokens)
        hours = [in_hours(part) for part in (*spent.values(), sum(spent.values()))]
        most = max(spent, key=spent.__getitem__)
        if layout is None:
            where, hours, most = "does not fit", [hours[0], "–", "–", "–", "–"], "memory"
        basis = size(work.number * n * work.vectors)
        print(f"| {name} | {k:,} | {gpus} | {where} | {shown.width} | {basis} | {' | '.join(hours)} | {most} |")
    print(
        f"\n7 B: a product takes {FLOAT * MODEL_VECTORS * 7} GB of a GPU, before activations and blocks of the solver."
    )


def in_hours(seconds: float) -> str:
    """Seconds in hours, with two digits."""
    hours = seconds / HOUR
    return "< 0.01" if hours < 0.01 else f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e12:.1f} TB" if count >= 1e12 else f"{count / GIGA:.0f} GB"


def cpu(function: Callable[[], Any]) -> float:
    """The least CPU seconds of three runs."""
    ends = [time.process_time()]
    for _ in range(3):
        function()
        ends.append(time.process_time())
    return min(end - start for start, end in itertools.pairwise(ends))


def measured_machine(width: int, link: float = math.inf) -> Machine:
    """The constants of one thread of this machine, for blocks of that width."""
    rows, vectors = 1 << 15, 128
    basis = Basis(rows, torch.float32, torch.device("cpu"))
    basis.append(torch.randn(vectors, rows).mT)
    X, C = torch.randn(width, rows).mT, torch.randn(vectors, width, dtype=torch.float64)
    narrow = 4 * rows * vectors * width / cpu(lambda: (basis.coefficients(X), basis.combine(C)))
    wide = rows * vectors**2 / cpu(basis.gram)
    numbers = torch.randn(1 << 25)
    mapped = es.Storage("disk").numbers(len(numbers), numbers.dtype, numbers.device)
    mapped.copy_(numbers)
    signs = Rademacher(1 << 21, 64)
    return Machine(
        product_flops=math.inf,
        narrow_flops=narrow,
        wide_flops=wide,
        rates={place: FLOAT * len(numbers) / cpu(X.sum) for place, X in (("device", numbers), ("disk", mapped))},
        link=link,
        network=link,
        draws=4 * (1 << 21) / cpu(lambda: signs.columns(0, 4)),
    )


def clocked(A: es.LinearOperator) -> list[float]:
    """CPU seconds of the products of A, to which each adds its own."""
    product, spent = A._matmat, []

    def timed(X: Tensor) -> Tensor:
        began = time.process_time()
        image = product(X)
        spent.append(time.process_time() - began)
        return image

    A._matmat = timed  # type: ignore[method-assign]
    return spent


CASES = [
    *((200_000, k, Layout("Krylov", place, 1, 5)) for k in (20, 100) for place in ("device", "disk")),
    (200_000, 50, Layout("restarts", "device", 1, 5)),
    (200_000, 100, Layout("sketch", "disk", 1, 64)),
    *((200_000, 50, Layout("Krylov", place, ranks, 8)) for place in ("device", "disk") for ranks in (2, 4)),
    (500_000, 50, Layout("Krylov", "device", 1, 16)),
    (1_000_000, 50, Layout("sketch", "disk", 1, 16)),
    *((1_000_000, 50, Layout("Krylov", place, 1, 5)) for place in ("device", "disk")),
    (2_000_000, 20, Layout("Krylov", "device", 1, 5)),
]


@attrs.frozen
class Taken:
    """What a solve took: CPU seconds outside products and in exchanges, products, and bytes of its basis."""

    outside: float
    exchanging: float
    products: int
    basis: int


def solve(n: int, k: int, layout: Layout, mesh: Any = None) -> Taken:
    """The k leading pairs of diag(1, 1/2, 1/3, …)."""
    A: es.LinearOperator = es.Diagonal(1 / torch.arange(1, n + 1).float())
    multiplying = clocked(A)
    A = A if mesh is None else RowSharded(A, mesh)
    inside = multiplying if mesh is None else clocked(A)
    limit = restart_limit(k) if layout.method == "restarts" else None
    solver: es.EigenSolver = es.BlockLanczos(k=k, block_size=layout.width, storage=layout.place, max_basis=limit)
    if layout.method == "sketch":
        solver = es.SketchedEigh(
            k=k,
            two_pass=True,
            storage=es.Storage(layout.place, dtype="bfloat16"),
            test_matrix="rademacher",
            block_size=layout.width,
            measure_residuals=False,
        )
    kept, numbers = [], es.Storage.numbers

    def counted(self: es.Storage, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        kept.append(count * dtype.itemsize)
        return numbers(self, count, dtype, device)

    with mock.patch.object(es.Storage, "numbers", counted):
        began = time.process_time()
        report = solver.solve(A).report
        spent = time.process_time() - began
    return Taken(spent - sum(inside), sum(inside) - sum(multiplying), report.products, sum(kept))


def rank(number: int, ranks: int, port: int, n: int, k: int, layout: Layout, folder: str) -> None:
    """One of the processes that share out rows: the first writes what it took, and the bytes a second it can send."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with job() as mesh:
        solve(1000, k, layout, mesh)  # modules are loaded
        sent = torch.randn(n * layout.width // ranks)
        received = torch.empty_like(sent)
        exchange = functools.partial(torch.distributed.all_to_all_single, received, sent, group=mesh.get_group())
        link = FLOAT * len(sent) * (ranks - 1) / ranks / cpu(exchange)
        taken = solve(n, k, layout, mesh)
        if number == 0:
            torch.save((link, attrs.astuple(taken)), Path(folder) / "taken.pt")


def solve_in_ranks(n: int, k: int, layout: Layout) -> tuple[float, Taken]:
    """What the first rank sends a second, and what it took."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank, (layout.rows, port, n, k, layout, folder), nprocs=layout.rows)
        link, taken = torch.load(Path(folder) / "taken.pt")
    return link, Taken(*taken)


def product_flops() -> None:
    """Prints flops of a product, as they are counted, and what they make of seconds that were measured."""
    from torchvision.models import resnet18

    gpt = WORKLOADS["c"]()
    tokens, n = gpt.batch[0].numel(), sum(parameter.numel() for parameter in gpt.model.parameters())
    vector = torch.randn(n, 1)
    counts = {}
    with sdpa_kernel(SDPBackend.MATH):
        for engine in ("retained", "forward"):
            H = es.Hessian(
                gpt.model, gpt.loss, gpt.batch, engine=engine, chunk_size=1, micro_batch_size=len(gpt.batch[0])
            )
            H @ vector  # its trial
            counts[engine] = flops(H, vector) / n / tokens
    model, image = resnet18().to("meta").eval(), torch.empty(1, 3, 224, 224, device="meta")
    forward = flops(model.__call__, image)
    print(f"GPT of {n:,}: {counts['retained']:.1f} flops a token and parameter, {counts['forward']:.1f} with the graph")
    print(f"ResNet-18: {forward / GIGA:.2f} GFlop forward an image of 224 x 224")
    for precision, (seconds, peak) in RESNET18.items():
        share = 5000 * 9 * forward / seconds / peak  # nothing is kept: the graph is made anew for each column
        print(f"  {seconds} s a product of 5,000 in {precision}: {share:.0%} of {peak / 1e12:.0f} TFlop/s")


def flops(function: Any, X: Tensor) -> int:
    """Of the matrix products and convolutions of a function, or of an operator's product."""
    with FlopCounterMode(display=False) as counter:
        _ = function @ X if isinstance(function, es.LinearOperator) else function(X)
    return int(counter.get_total_flops())


def check(options: argparse.Namespace) -> None:
    """Prints model / measured for each case, and the constants that the model was given."""
    solve(1000, 20, Layout("Krylov", "device", 1, 5))  # modules are loaded
    print(f"\ntorch {torch.__version__}, one thread; model / measured; seconds of the CPU of one rank")
    product_flops()
    print(
        "| solver | basis | ranks | n | k | columns | products | seconds outside | in exchanges | basis MB "
        "| GFlop/s | GB/s | M signs/s |"
    )
    print("|" + "---|" * 13)
    for n, k, layout in (CASES[number] for number in options.cases):
        link, taken = (math.inf, solve(n, k, layout)) if layout.rows == 1 else solve_in_ranks(n, k, layout)
        machine = measured_machine(layout.width, link)
        work = work_of(k, layout)
        alone = attrs.evolve(machine, link=math.inf)
        expected = sum(seconds_of(n, work, layout, alone, layout.rows).values())
        exchanging = sum(seconds_of(n, work, layout, machine, layout.rows).values()) - expected
        rates = [*machine.rates.values(), *([link] if layout.rows > 1 else [])]
        case = [layout.method, layout.place, layout.rows, f"{n:,}", k, layout.width]
        case += [f"{work.products} / {taken.products}", compared(expected, taken.outside)]
        case += [compared(exchanging, taken.exchanging) if layout.rows > 1 else ""]
        case += [f"{work.number * n * work.vectors / layout.rows / 1e6:.0f} / {taken.basis / 1e6:.0f}"]
        case += [f"{machine.narrow_flops / GIGA:.0f}, {machine.wide_flops / GIGA:.0f}"]
        case += [", ".join(f"{rate / GIGA:.1f}" for rate in rates), f"{machine.draws / 1e6:.0f}"]
        print(f"| {' | '.join(map(str, case))} |", flush=True)


def compared(expected: float, taken: float) -> str:
    """Two numbers of seconds and their ratio."""
    return f"{expected:.2f} / {taken:.2f} = {expected / taken:.2f}"


def main() -> None:
    """Prints the table, or the model beside real solves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e6, help="of the data of the Hessian")
    parser.add_argument("--share-tf32", type=float, default=0.1, help="of 495 TFlop/s, in products")
    parser.add_argument("--share-fp32", type=float, default=0.5, help="of 67 TFlop/s, in algebra")
    parser.add_argument("--share-bytes", type=float, default=0.8, help="of each rate of bytes")
    parser.add_argument("--draws", type=float, default=1e8, help="random signs a second of a CPU")
    parser.add_argument("--activations", type=float, default=10e9, help="bytes of a micro-batch and its graph")
    parser.add_argument("--host", type=float, default=200e9, help="bytes of main memory for each GPU")
    parser.add_argument("--disk", type=float, default=3.4e12, help="bytes of disk for each GPU")
    parser.add_argument("--check", action="store_true", help="the model beside solves on this machine")
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="of --check, by number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.check:
        check(options)
    else:
        table(options)


if __name__ == "__main__":
    main()
