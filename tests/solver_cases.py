"""Symmetric operators with known eigenpairs: a zoo of spectra in random orthogonal bases."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from eigenspan.linops import Dense, Function, LinearOperator, Structure
from eigenspan.solvers import ConvergenceWarning, EigenDecomposition, EigenSolver, Status

N = 60
SUCCESS = (Status.CONVERGED, Status.COMPLETE)


def joined(*parts: list[float] | Tensor) -> Tensor:
    return torch.cat([torch.as_tensor(part, dtype=torch.float64) for part in parts])


def line(start: float, stop: float, count: int) -> Tensor:
    return torch.linspace(start, stop, count, dtype=torch.float64)


def _decay(rate: float, count: int = N) -> Tensor:
    return torch.logspace(0, rate, count, dtype=torch.float64)


_NEARLY_ONE = 1 + 1e-6 * torch.arange(8, dtype=torch.float64)
SPECTRA = {
    "indefinite": line(-1, 1.1, N),
    "positive": _decay(-6),
    "negative": -_decay(-6),
    # Multiplicity 12 exceeds the usual block; few distinct values close a Krylov space early.
    "repeated": joined([3.0] * 12, [-2.0] * 12, line(-1, 1, N - 24)),
    "few distinct": joined([1.0] * 12, [0.5] * 12, [0.0] * (N - 24)),
    "clustered": joined(_NEARLY_ONE, -_NEARLY_ONE, line(-0.5, 0.5, N - 16)),
    "rank deficient": joined([5.0, -4.0, 3.0, -2.0, 1.0, 0.5], [0.0] * (N - 6)),
    "zero": torch.zeros(N, dtype=torch.float64),
    "identity": torch.ones(N, dtype=torch.float64),
    "slow decay": torch.arange(1, N + 1, dtype=torch.float64) ** -0.5,
    "tiny": 1e-30 * line(-1, 1.1, N),
    "huge": 1e30 * line(-1, 1.1, N),
}


class Problem(NamedTuple):
    """A = Q diag(λ) Qᵀ: the operator, its entries as rounded, and all λ in the order in which they were chosen."""

    operator: Dense
    matrix: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    @property
    def norm(self) -> float:
        return float(self.eigenvalues.abs().max())

    def leading(self, which: str, k: int) -> Tensor:
        """The k leading eigenvalues, by Python's own sort."""
        keys = {"LM": lambda value: -abs(value), "LA": lambda value: -value, "SA": lambda value: value}
        return torch.tensor(sorted(self.eigenvalues.tolist(), key=keys[which])[:k], dtype=torch.float64)


def problem(eigenvalues: Tensor, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Problem:
    """A random orthogonal basis times a chosen spectrum; all but the operator in float64 on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    matrix = (Q * eigenvalues.double()) @ Q.mT
    operator = Dense(((matrix + matrix.mT) / 2).to(device, dtype), Structure.SYMMETRIC)
    return Problem(operator, operator.matrix.double().cpu(), eigenvalues.double(), Q)


@functools.cache
def zoo(name: str, dtype: torch.dtype, device: str) -> Problem:
    return problem(SPECTRA[name], dtype, device)


def quietly(solver: EigenSolver, A: LinearOperator, **options) -> EigenDecomposition:
    """Solve without the warning, which is tested by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solver.solve(A, **options)


@functools.cache
def solved(solver: EigenSolver, name: str, dtype: torch.dtype, device: str) -> EigenDecomposition:
    return quietly(solver, zoo(name, dtype, device).operator)


def rounding(dtype: torch.dtype) -> float:
    """A hundred roundings: sums of N = 60 rounded terms, through half a dozen matrix products."""
    return 100 * torch.finfo(dtype).eps


def key(eigenvalues: Tensor, which: str) -> Tensor:
    """By LM ±λ may change places: compare |λ|."""
    return eigenvalues.abs() if which == "LM" else eigenvalues


def noisy(A: LinearOperator, product: int, value: float) -> Function:
    """A whose product of that number, counted from one, has an entry of ``value``."""
    seen = 0

    def matmat(X: Tensor) -> Tensor:
        nonlocal seen
        result = A @ X
        if seen < product <= seen + X.shape[1]:
            result[0, product - 1 - seen] = value
        seen += X.shape[1]
        return result

    return Function(matmat, A.shape, A.dtype, A.device, structure=Structure.SYMMETRIC)
