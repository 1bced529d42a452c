"""Eigensolvers of other libraries, on our operators or their own, with what they took."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import numpy
import torch
from memory import Peak, resident_size
from torch import Tensor

import eigenspan as es


@attrs.frozen
class Found:
    """What a solver found, and what it took: seconds, those outside products, and bytes of memory."""

    solver: str
    products: int
    passes: int
    seconds: float
    outside: float | None
    memory: int
    values: Tensor
    vectors: Tensor


def _watched(name: str, A: es.LinearOperator, k: int, solve: Callable[[es.Counted], tuple[Any, Any]]) -> Found:
    counted = es.Counted(A)
    began = time.perf_counter()
    with Peak(resident_size) as size, torch.no_grad():
        values, vectors = solve(counted)
    seconds = time.perf_counter() - began
    values, vectors = torch.as_tensor(values).to(A.dtype), torch.as_tensor(vectors).to(A.dtype)
    order = values.abs().argsort(descending=True)[:k]
    outside = seconds - counted.seconds
    return Found(name, counted.products, counted.calls, seconds, outside, size.growth, values[order], vectors[:, order])


def skerch(A: es.LinearOperator, k: int) -> Found:
    """The single-pass Hermitian sketch of skerch, with the sizes of our one-pass sketch: it takes 6 k products."""
    from skerch.algorithms import seigh

    class Operator:
        shape = A.shape

        def __init__(self, counted: es.Counted) -> None:
            self.counted = counted

        def __matmul__(self, x: Tensor) -> Tensor:
            return (self.counted @ x[:, None])[:, 0] if x.ndim == 1 else self.counted @ x

        def __rmatmul__(self, x: Tensor) -> Tensor:
            return x @ self.counted if x.ndim == 2 else (self.counted @ x[:, None])[:, 0]

    def solve(counted: es.Counted) -> tuple[Tensor, Tensor]:
        return seigh(  # type: ignore[no-any-return]
            Operator(counted),
            A.device,
            A.dtype,
            2 * k,
            noise_type="rademacher",
            recovery_type=f"oversampled_{4 * k}",
            meas_blocksize=32,
        )

    return _watched("skerch seigh(oversampled)", A, k, solve)


def eigenthings(A: es.LinearOperator, k: int) -> Found:
    """hessian-eigenthings' Lanczos on our products, with full reorthogonalisation and twice its usual steps."""
    from hessian_eigenthings import LambdaOperator, lanczos

    def solve(counted: es.Counted) -> tuple[Tensor, Tensor]:
        operator = LambdaOperator(lambda x: (counted @ x[:, None])[:, 0], size=A.shape[0], dtype=A.dtype)
        steps = min(4 * k + 20, A.shape[0] - 1)
        found = lanczos(operator, k=k, max_iter=steps, tol=1e-5, reorthogonalize=True, seed=0)
        vectors = found.eigenvectors
        return found.eigenvalues, vectors if vectors.shape[0] == A.shape[0] else vectors.mT

    return _watched("hessian-eigenthings lanczos", A, k, solve)


def torch_lobpcg(A: es.LinearOperator, k: int) -> Found:
    """torch.lobpcg through our adapter; of the largest λ, as it finds no others."""
    solver = es.Lobpcg(k=k, which="LA", library="torch", tol=1e-5)

    def solve(counted: es.Counted) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = solver.solve(es.Declared(counted, es.Structure.SYMMETRIC))
        return found.eigenvalues, found.eigenvectors

    return _watched("torch.lobpcg (LA)", A, k, solve)


OTHERS: dict[str, Callable[[es.LinearOperator, int], Found]] = {
    "skerch seigh": skerch,
    "hessian-eigenthings lanczos": eigenthings,
    "torch.lobpcg": torch_lobpcg,
}


def scipy_over_curvlinops(H: es.Hessian, k: int, tol: float) -> tuple[Found, float]:
    """SciPy's eigsh over curvlinops' Hessian of the same risk, and the seconds that its first product takes."""
    import curvlinops
    from scipy.sparse.linalg import LinearOperator, eigsh

    risk = H._risk
    model, loss, batches = risk._model, risk.loss.function, list(risk.batches())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    began = time.perf_counter()
    operator = curvlinops.HessianLinearOperator(model, loss, parameters, batches, check_deterministic=False)
    operator @ torch.randn(H.shape[0], 1)
    setup = time.perf_counter() - began
    count, inside = 0, 0.0

    def multiply(x: Any) -> Any:
        nonlocal count, inside
        started = time.perf_counter()
        y = operator @ torch.from_numpy(numpy.array(x, dtype=numpy.float32).reshape(-1, 1))
        count, inside = count + 1, inside + time.perf_counter() - started
        return y[:, 0].detach().numpy()

    products = LinearOperator(H.shape, matvec=multiply, dtype=numpy.float32)
    began = time.perf_counter()
    start = numpy.random.default_rng(0).standard_normal(H.shape[0]).astype("float32")
    with Peak(resident_size) as size:
        values, vectors = eigsh(products, k=k, which="LM", tol=tol, v0=start)
    seconds = time.perf_counter() - began
    found = Found(
        "SciPy eigsh over curvlinops",
        count,
        count,
        seconds,
        seconds - inside,
        size.growth,
        torch.from_numpy(values),
        torch.from_numpy(numpy.ascontiguousarray(vectors)),
    )
    return found, setup
