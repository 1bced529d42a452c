"""SciPy's two verbs: leading pairs and triplets in one call, by the solver that suits the operator."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from ..linops import Subspace
from .auto import choose, choose_svd
from .results import EigenDecomposition, SingularValueDecomposition
from .solver import Which
from .storage import Storage


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: Which | str = "LM",
    tol: float | None = None,
    start: Subspace | Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    check_symmetry: bool = True,
    memory_budget: int | None = None,
    storage: Storage | str | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> EigenDecomposition:
    """The k leading eigenpairs of a symmetric A, by the solver that `choose` names.

    Args:
        A: a symmetric operator, or what `as_operator` makes one of.
        k: how many pairs.
        which: ``"LM"`` the largest |λ|, ``"LA"`` the largest λ, ``"SA"`` the smallest λ.
        tol: of residual norms relative to the largest |λ|; by default 1e-5 in float32, 1e-9 in float64.
        start: a guess of the eigenspace: a subspace, or an (n, b) tensor that spans one.
        seed: of random numbers.
        max_products: where `BlockLanczos` is to stop at the latest.
        check_symmetry: whether to test by two products that A is as symmetric as it says.
        memory_budget: bytes; by default a quarter of what is free.
        storage: where a basis that grows is kept, a `Storage` or the name of its kind, ``"auto"`` by what is free.
        progress: whether to show a bar that counts products.
        checkpoint: a folder to go on from, see `EigenSolver.solve`; give ``memory_budget`` with it, lest another
            solver be chosen when less memory is free.

    Raises:
        TypeError, ValueError: see `EigenSolver.solve`.

    Cost: that of the solver.
    """
    solver = choose(
        A,
        k,
        which=which,
        tol=tol,
        seed=seed,
        start=start is not None,
        max_products=max_products,
        check_symmetry=check_symmetry,
        memory_budget=memory_budget,
        storage=storage,
    )
    return solver.solve(A, start=start, progress=progress, checkpoint=checkpoint)


def svds(
    A: Any,
    k: int = 6,
    *,
    tol: float | None = None,
    start: Subspace | Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    check_adjoint: bool = True,
    memory_budget: int | None = None,
    storage: Storage | str | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> SingularValueDecomposition:
    """The k largest singular values of A and their vectors, by the solver that `choose_svd` names.

    Args:
        A: an (m, n) operator, or what `as_operator` makes one of.
        k: how many triplets.
        tol: of residual norms relative to the largest σ; by default 1e-5 in float32, 1e-9 in float64.
        start: a guess of the right singular subspace: a subspace of Rⁿ, or an (n, b) tensor that spans one.
        seed: of random numbers.
        max_products: where `BlockGolubKahan` is to stop at the latest.
        check_adjoint: whether to test by two products that the transpose is that of A.
        memory_budget: bytes; by default a quarter of what is free.
        storage: where a basis that grows is kept, a `Storage` or the name of its kind, ``"auto"`` by what is free.
        progress: whether to show a bar that counts products.
        checkpoint: a folder to go on from, see `SVDSolver.solve`; give ``memory_budget`` with it, lest another
            solver be chosen when less memory is free.

    Raises:
        TypeError, ValueError: see `SVDSolver.solve`.

    Cost: that of the solver.
    """
    solver = choose_svd(
        A,
        k,
        tol=tol,
        seed=seed,
        start=start is not None,
        max_products=max_products,
        check_adjoint=check_adjoint,
        memory_budget=memory_budget,
        storage=storage,
    )
    return solver.solve(A, start=start, progress=progress, checkpoint=checkpoint)
