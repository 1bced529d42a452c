"""Operators with known singular triplets: a zoo of spectra and shapes in random orthogonal bases."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from solver_cases import joined, line
from torch import Tensor

from eigenspan.linops import Dense, Function
from eigenspan.solvers import SingularValueDecomposition

N = 40
SHAPES = {"square": (N, N), "tall": (70, N), "wide": (N, 70)}
SPECTRA = {
    "spread": line(1.1, 0.1, N),
    "decay": torch.logspace(0, -6, N, dtype=torch.float64),
    "slow decay": torch.arange(1, N + 1, dtype=torch.float64) ** -0.5,
    # Multiplicity 12 exceeds the usual block; few distinct values close Krylov spaces early.
    "repeated": joined([3.0] * 12, [2.0] * 12, line(1, 0, N - 24)),
    "few distinct": joined([1.0] * 12, [0.5] * 12, [0.0] * (N - 24)),
    "clustered": joined(1 + 1e-6 * torch.arange(8, dtype=torch.float64), line(0.5, 0, N - 8)),
    "rank deficient": joined([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], [0.0] * (N - 6)),
    "zero": torch.zeros(N, dtype=torch.float64),
    "isometry": torch.ones(N, dtype=torch.float64),
    "tiny": 1e-30 * line(1.1, 0.1, N),
    "huge": 1e30 * line(1.1, 0.1, N),
}


class Problem(NamedTuple):
    """A = U diag(σ) Vᵀ: the operator, its entries as rounded, and its triplets, the largest first."""

    operator: Dense
    matrix: Tensor
    left_vectors: Tensor
    singular_values: Tensor
    right_vectors: Tensor

    @property
    def norm(self) -> float:
        return float(self.singular_values[0])


def problem(
    values: Tensor, shape: tuple[int, int], dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0
) -> Problem:
    """Random orthonormal bases around chosen singular values; all but the operator in float64 on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double().sort(descending=True).values
    U, V = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator, dtype=torch.float64))[0] for size in shape
    )
    operator = Dense(((U * values) @ V.mT).to(device, dtype))
    return Problem(operator, operator.matrix.double().cpu(), U, values, V)


@functools.cache
def zoo(name: str, shape: str, dtype: torch.dtype, device: str) -> Problem:
    return problem(SPECTRA[name], SHAPES[shape], dtype, device)


def spectrum(n: int, leading: list[float]) -> Tensor:
    """A few separate singular values, and the rest spread over [0, 0.5]."""
    return joined(leading, line(0.5, 0, n - len(leading)))


@functools.cache
def separate(device: str) -> Problem:
    """An operator from R²⁰⁰ to R³⁰⁰ whose six leading singular values stand apart."""
    return problem(spectrum(200, [3.0, 2.5, 2.0, 1.5, 1.2, 1.0]), (300, 200), device=device)


def true_residuals(result: SingularValueDecomposition, matrix: Tensor) -> Tensor:
    """√((‖A v - σ u‖² + ‖Aᵀ u - σ v‖²) / 2), by products anew in float64."""
    U, V, sigma = (
        tensor.double().cpu() for tensor in (result.left_vectors, result.right_vectors, result.singular_values)
    )
    left, right = (matrix @ V - U * sigma).norm(dim=0), (matrix.mT @ U - V * sigma).norm(dim=0)
    return torch.hypot(left, right) / 2**0.5


def through_functions(A: Dense, adjoint: Tensor | None = None, seen=None) -> Function:
    """A by functions, whose transpose is ``adjoint``; ``seen(X, result)`` is shown each product, and may change it."""
    adjoint = A.matrix.mT if adjoint is None else adjoint

    def by(matrix: Tensor):
        def product(X: Tensor) -> Tensor:
            result = matrix @ X
            if seen is not None:
                seen(X, result)
            return result

        return product

    return Function(by(A.matrix), A.shape, A.dtype, A.device, rmatmat=by(adjoint))
