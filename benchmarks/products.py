"""Products with the Hessian and the GGN: ours beside curvlinops, hessian-eigenthings and plain double backward.

Run `python benchmarks/products.py` after `pip install -e ".[bench]"`. All contenders get the same data as one batch and
are timed in turn, five times; the figures are medians, in milliseconds per column, and quotients of curvlinops' time by
theirs. The first product has the set-up in it (ours: the trial that chooses a plan, and what is kept). A block that
does not fit into memory goes to curvlinops in halves. Differences are relative, from ours. The bound is what the matrix
products and convolutions of our program need, as PyTorch counts them, at the rate at which this machine multiplies
matrices of 1024 x 1024.

- `--models abcd`, `--columns 1 8 32`, `--operators hessian ggn`, `--contenders`, `--device cpu` choose;
- `--fifty` times fifty single columns with the set-up inside instead, for a fresh operator of each contender;
- `--memory` adds the peak memory of a first and a second product, each contender in a process of its own: what the
  process's resident size, or the allocator's, grew by over that with model and data loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from models import WORKLOADS, Workload
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import eigenspan as es

REPETITIONS = 5
FIFTY = 50
MOST_OF_MEMORY = 0.85
Product = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="abcd", help="letters of benchmarks/models.py")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--operators", nargs="+", default=["hessian", "ggn"], choices=["hessian", "ggn"])
    names = list(CONTENDERS["hessian"])
    parser.add_argument("--contenders", nargs="+", default=names, choices=names, help="eigenspan and others")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fifty", action="store_true", help="fifty single columns, set-up inside")
    parser.add_argument("--memory", action="store_true", help="peak memory too")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the contender whose memory this process measures
    options = parser.parse_args()
    limit_memory()
    # The kernel that the others need for second derivatives; ours chooses it itself.
    with sdpa_kernel(SDPBackend.MATH):
        if options.only:
            print(json.dumps(peak_memory(options)))
            return
        rate = matrix_rate(options.device)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine(options.device)}")
        print(f"matrix products: {rate / 1e9:.0f} GFlop/s")
        for letter in options.models:
            workload = WORKLOADS[letter]().to(options.device)
            for operator in options.operators:
                if options.fifty:
                    fifty_columns(workload, operator)
                    continue
                for columns in options.columns:
                    compare(workload, operator, columns, rate, options)


def compare(workload: Workload, operator: str, columns: int, rate: float, options: Any) -> None:
    """One table: every contender's time per column and set-up."""
    X = block(workload, columns)
    print(f"\n{workload.name}, {operator}, {columns} columns", flush=True)
    products: dict[str, Product] = {}
    setups: dict[str, float] = {}
    images: dict[str, Tensor] = {}
    for name, build in CONTENDERS[operator].items():
        if name not in options.contenders:
            continue
        began = time.perf_counter()
        with failures_reported(name):
            product = build(workload)
            images[name] = product(X)
            wait(X)
            setups[name] = time.perf_counter() - began
            products[name] = product
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(REPETITIONS):
        for name, product in products.items():
            began = time.perf_counter()
            product(X)
            wait(X)
            times[name].append((time.perf_counter() - began) / columns)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    for name, median in medians.items():
        quotient = medians["curvlinops"] / median if "curvlinops" in medians else float("nan")
        taken = memory_of(workload, operator, columns, name, options) if options.memory else ""
        width = getattr(products[name], "width", None)
        taken += f"; {width} columns at a time, more do not fit" if width else ""
        print(
            f"  {name:20} {1e3 * median:9.2f} ms a column, {quotient:5.2f}x; first product {setups[name]:6.2f} s; "
            f"differs by {_difference(images[name], images['eigenspan']):.0e}{taken}"
        )
    needed = flops_needed(workload, operator)
    print(
        f"  bound {1e3 * needed / rate:.2f} ms a column for {needed / 1e9:.3g} GFlop: ours takes "
        f"{medians['eigenspan'] * rate / needed:.1f} times as long\n  plan: {_plan(products['eigenspan'], columns)}",
        flush=True,
    )


def flops_needed(workload: Workload, operator: str) -> int:
    """Floating-point operations of matrix products and convolutions in a reverse pass through the graph."""
    samples = len(workload.batch[0])
    product = OPERATORS[operator](
        workload.model, workload.loss, workload.batch, engine="retained", chunk_size=1, micro_batch_size=samples
    )
    X = block(workload, 1)
    product @ X
    with FlopCounterMode(display=False) as counter:
        product @ X
    return counter.get_total_flops()


def fifty_columns(workload: Workload, operator: str) -> None:
    """Fifty products with one column each, by an operator that is built for them."""
    X = block(workload, FIFTY)
    print(f"\n{workload.name}, {operator}, {FIFTY} single columns, set-up inside", flush=True)
    spent: dict[str, float] = {}
    for name in ("curvlinops", "eigenspan"):
        build = CONTENDERS[operator][name]
        with failures_reported(name):
            build(workload)(X[:, :1])  # modules are loaded, kernels chosen
            began = time.perf_counter()
            product = build(workload)
            for column in range(FIFTY):
                product(X[:, column : column + 1])
            wait(X)
            spent[name] = time.perf_counter() - began
            print(f"  {name:20} {spent[name]:7.2f} s, {spent['curvlinops'] / spent[name]:5.2f}x", flush=True)


def memory_of(workload: Workload, operator: str, columns: int, name: str, options: Any) -> str:
    """Peak memory of a contender in a process of its own, as text."""
    command = [sys.executable, __file__, "--only", name, "--models", workload.name[0], "--device", options.device]
    command += ["--operators", operator, "--columns", str(columns)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return "; memory not measured"
    peak = json.loads(done.stdout.splitlines()[-1])
    return f"; {peak / 2**20:.0f} MiB"


def peak_memory(options: Any) -> int:
    """Bytes that two products take beside the model and the data, set-up inside."""
    warnings.filterwarnings("ignore")
    workload = WORKLOADS[options.models]().to(options.device)
    X = block(workload, options.columns[0])
    with torch.no_grad():
        workload.model(workload.batch[0][:1])
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident_peak()
    product = CONTENDERS[options.operators[0]][options.only](workload)
    for _ in range(2):
        product(X)
    if options.device != "cpu":
        return torch.cuda.max_memory_allocated() - before
    return resident_peak(reset=False) - before


def resident_peak(reset: bool = True) -> int:
    """Bytes that the process has had resident at most; from now on, with ``reset`` (Linux)."""
    if reset:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as switch:
            switch.write("5")
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def block(workload: Workload, columns: int) -> Tensor:
    """Random vectors, the same for every contender."""
    size = sum(parameter.numel() for parameter in workload.model.parameters())
    return torch.randn(columns, size, generator=torch.Generator().manual_seed(0)).to(workload.batch[0].device).mT


def matrix_rate(device: str) -> float:
    """Floating-point operations per second of a product of square matrices, the best of some."""
    A = torch.randn(1024, 1024, device=device)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        A @ A
        wait(A)
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best


def machine(device: str) -> str:
    """The processor's name."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def limit_memory() -> None:
    """A contender that takes too much fails, in place of the machine."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (int(MOST_OF_MEMORY * total), resource.RLIM_INFINITY))


@contextlib.contextmanager
def failures_reported(name: str) -> Iterator[None]:
    """A contender that cannot do this model is a row too."""
    try:
        yield
    except (ImportError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        print(f"  {name:20} failed: {str(error).splitlines()[0][:90]}", flush=True)


def wait(X: Tensor) -> None:
    """Until the device has done what it was given."""
    if X.device.type == "cuda":
        torch.cuda.synchronize()


def _difference(X: Tensor, Y: Tensor) -> float:
    return float((X - Y).norm() / Y.norm())


def _plan(product: Product, columns: int) -> Any:
    return product.__self__.plan(columns)  # type: ignore[attr-defined]


def _ours(operator: type[es.Hessian | es.GGN]) -> Callable[[Workload], Product]:
    return lambda workload: operator(workload.model, workload.loss, workload.batch).__matmul__


def _curvlinops(name: str) -> Callable[[Workload], Product]:
    def build(workload: Workload) -> Product:
        import curvlinops

        parameters = list(workload.model.parameters())
        operator = getattr(curvlinops, name)(
            workload.model, workload.loss, parameters, [workload.batch], check_deterministic=False
        )
        return _Narrowing(operator)

    return build


class _Narrowing:
    """Products with blocks, halved until they fit into memory."""

    def __init__(self, operator: Any) -> None:
        self._operator = operator
        self.width: int | None = None

    def __call__(self, X: Tensor) -> Tensor:
        while True:
            width = self.width or X.shape[1]
            try:
                return torch.cat([self._operator @ block for block in X.split(width, 1)], 1)
            except (MemoryError, RuntimeError) as error:
                if width == 1 or "memory" not in str(error):
                    raise
            gc.collect()
            self.width = width // 2


def _eigenthings(name: str) -> Callable[[Workload], Product]:
    def build(workload: Workload) -> Product:
        from hessian_eigenthings import operators

        def loss(model: torch.nn.Module, batch: Any) -> Tensor:
            return workload.loss(model(batch[0]), batch[1])

        def split(model: torch.nn.Module, batch: Any) -> Tensor:
            return model(batch[0])

        if name == "GGNOperator":
            operator = operators.GGNOperator(
                workload.model, [workload.batch], split, lambda output, batch: workload.loss(output, batch[1])
            )
        else:
            operator = operators.HessianOperator(workload.model, [workload.batch], loss)
        return lambda X: torch.stack([operator.matvec(column) for column in X.unbind(1)], 1)

    return build


def _double_backward(workload: Workload) -> Product:
    parameters = list(workload.model.parameters())

    def product(X: Tensor) -> Tensor:
        columns = []
        for column in X.unbind(1):
            parts = column.split([parameter.numel() for parameter in parameters])
            vector = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
            loss = workload.loss(workload.model(workload.batch[0]), workload.batch[1])
            gradient = torch.autograd.grad(loss, parameters, create_graph=True)
            images = torch.autograd.grad(gradient, parameters, vector)
            columns.append(torch.cat([image.flatten() for image in images]))
        return torch.stack(columns, 1)

    return product


OPERATORS = {"hessian": es.Hessian, "ggn": es.GGN}
CONTENDERS: dict[str, dict[str, Callable[[Workload], Product]]] = {
    "hessian": {
        "eigenspan": _ours(es.Hessian),
        "curvlinops": _curvlinops("HessianLinearOperator"),
        "hessian-eigenthings": _eigenthings("HessianOperator"),
        "double backward": _double_backward,
    },
    "ggn": {
        "eigenspan": _ours(es.GGN),
        "curvlinops": _curvlinops("GGNLinearOperator"),
        "hessian-eigenthings": _eigenthings("GGNOperator"),
    },
}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # of the others' kernels
    main()
