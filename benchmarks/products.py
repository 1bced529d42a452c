"""Products with the Hessian and the GGN: ours beside curvlinops, hessian-eigenthings and plain double backward.

Run `python benchmarks/products.py [--models abcd] [--columns 1 8 32] [--device cpu]` after
`pip install -e ".[bench]"`. All contenders get the same data as one batch and are timed in turn, five times; the
figures are medians, in milliseconds per column, and quotients of curvlinops' time by theirs. The first product has the
set-up in it (ours: the trial that chooses a plan, and the graphs that are kept). Differences are relative, from ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from models import WORKLOADS, Workload
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import eigenspan as es

REPETITIONS = 5
Product = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="abcd", help="letters of benchmarks/models.py")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--operators", nargs="+", default=["hessian", "ggn"], choices=["hessian", "ggn"])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {options.device}")
    for letter in options.models:
        workload = WORKLOADS[letter]().to(options.device)
        for operator in options.operators:
            for columns in options.columns:
                # The kernel that the others need for second derivatives; ours chooses it itself.
                with sdpa_kernel(SDPBackend.MATH):
                    compare(workload, operator, columns)


def compare(workload: Workload, operator: str, columns: int) -> None:
    """One table: every contender's time per column and set-up."""
    size = sum(parameter.numel() for parameter in workload.model.parameters())
    X = torch.randn(columns, size, generator=torch.Generator().manual_seed(0)).to(workload.batch[0].device).mT
    print(f"\n{workload.name}, {operator}, {columns} columns", flush=True)
    products: dict[str, Product] = {}
    setups: dict[str, float] = {}
    images: dict[str, Tensor] = {}
    for name, build in CONTENDERS[operator].items():
        began = time.perf_counter()
        try:
            products[name] = build(workload)
            images[name] = products[name](X)
        except Exception as error:  # a contender that cannot do this model is a row too
            print(f"  {name:22} failed: {str(error).splitlines()[0][:90]}")
            products.pop(name, None)
            continue
        _wait(X)
        setups[name] = time.perf_counter() - began
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(REPETITIONS):
        for name, product in products.items():
            began = time.perf_counter()
            product(X)
            _wait(X)
            times[name].append((time.perf_counter() - began) / columns)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    for name, median in medians.items():
        quotient = medians["curvlinops"] / median if "curvlinops" in medians else float("nan")
        print(
            f"  {name:22} {1e3 * median:9.2f} ms a column, {quotient:5.2f}x; first product {setups[name]:6.2f} s; "
            f"differs by {_difference(images[name], images['eigenspan']):.0e}"
        )
    print(f"  plan: {products['eigenspan'].__self__.plan(columns)}", flush=True)  # type: ignore[attr-defined]


def _difference(X: Tensor, Y: Tensor) -> float:
    return float((X - Y).norm() / Y.norm())


def _wait(X: Tensor) -> None:
    if X.device.type == "cuda":
        torch.cuda.synchronize()


def _ours(operator: type[es.Hessian | es.GGN]) -> Callable[[Workload], Product]:
    return lambda workload: operator(workload.model, workload.loss, workload.batch).__matmul__


def _curvlinops(name: str) -> Callable[[Workload], Product]:
    def build(workload: Workload) -> Product:
        import curvlinops

        parameters = list(workload.model.parameters())
        operator = getattr(curvlinops, name)(
            workload.model, workload.loss, parameters, [workload.batch], check_deterministic=False
        )
        return operator.__matmul__

    return build


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
