"""Which solver to take, by a table of rules."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator, as_operator
from ..linops.distributed import least
from ..linops.memory import allowance
from .dense import DenseEigh, DenseSVD
from .golub_kahan import BlockGolubKahan
from .gram import GramEigh
from .krylov import BlockKrylov
from .lanczos import BlockLanczos
from .parameters import int_or_none, positive_integer, tolerance
from .report import solver_from_dict, solver_to_dict
from .solver import EigenPairs, EigenSolver, Which
from .storage import Storage, as_storage
from .svd_solver import SVDSolver
from .watched import Watched

_SMALL = 300  # rows up to which DenseEigh is three times as fast or more, by benchmarks/solver_choice.py
_DENSE_SHARE = 3  # BlockLanczos takes two to three products a pair: with k above n / 3 all columns are needed anyway
_ROWS_A_PAIR = 10  # up to twice as many GramEigh is faster, residual norms inside, by benchmarks/solver_choice.py
_MOST_ROWS = 10_000  # of a Gram matrix: 800 MB in float64
_Krylov = TypeVar("_Krylov", bound=BlockKrylov)


def choose(
    A: Any,
    k: int,
    *,
    which: Which | str = "LM",
    tol: float | None = None,
    seed: int = 0,
    start: bool = False,
    max_products: int | None = None,
    check_symmetry: bool = True,
    memory_budget: int | None = None,
    storage: Storage | str | None = None,
) -> EigenSolver:
    """The solver for the k leading eigenpairs of a symmetric A; the first rule that holds.

    | where | solver |
    | --- | --- |
    | n <= 300, or k > n / 3, and 4 n² numbers fit into the budget | `DenseEigh` |
    | A has a factor with m < n rows, m <= 10 k and m <= 10,000, and what that takes fits | `GramEigh`, exact |
    | all vectors that `BlockLanczos` may come to keep fit, or a storage is given | `BlockLanczos` |
    | else | `BlockLanczos` with ``max_basis`` |

    A storage that is the memory of A does not count as one.

    The thresholds come from ``benchmarks/solver_choice.py``. `DenseEigh` takes n products, which may be dear; where
    these are cheap it is the faster one further up, see ``docs/solvers.md``.

    Sketches are not among them: they are for products that cannot wait for one another. Where these can, `BlockLanczos`
    finds the best approximation of rank k, to a thousandth, on every spectrum of ``benchmarks/solvers.py``.

    Args:
        A: a symmetric operator, or what `as_operator` makes one of.
        k: how many pairs.
        which: the end of the spectrum.
        tol: of residual norms, for solvers that take one.
        seed: of random numbers.
        start: whether a start is to be used, as `BlockLanczos` can.
        max_products: where `BlockLanczos` is to stop at the latest; what is exact takes what it takes.
        check_symmetry: see `EigenSolver`.
        memory_budget: bytes; by default a quarter of what is free, so that the choice may differ from time to time.
        storage: where a basis that grows is kept, a `Storage` or the name of its kind.

    Raises:
        ValueError: no restart fits into the budget.

    Cost: none, or one forward pass over the data where a factor is considered.
    """
    lanczos = BlockLanczos(
        k=k,
        which=which,
        seed=seed,
        check_symmetry=check_symmetry,
        tol=tol,
        max_products=max_products,
        storage=as_storage(storage),
    )
    operator = as_operator(A)
    return _choice(operator, lanczos, start, memory_budget, _budget(operator, memory_budget))[0]


def _budget(A: LinearOperator, memory_budget: int | None) -> int:
    """Bytes that are allowed, the same on all ranks that share out A."""
    return int(least(allowance(memory_budget, A.device), A))


def _choice(
    A: LinearOperator, lanczos: BlockLanczos, start: bool, memory_budget: int | None, budget: int
) -> tuple[EigenSolver, str]:
    """The solver of the first rule of `choose` that holds, and why it does, for what ``lanczos`` is asked for."""
    n, k = A.shape[1], lanczos.k
    options: dict[str, Any] = {name: getattr(lanczos, name) for name in ("k", "which", "seed", "check_symmetry")}
    if not start:
        if (n <= _SMALL or _DENSE_SHARE * k > n) and 4 * _bytes(A, n, n) <= budget:
            small = f"n = {n} <= {_SMALL}" if n <= _SMALL else f"k = {k} > n / {_DENSE_SHARE}"
            return DenseEigh(**options), f"{small}: all columns would be needed anyway"
        rows = _rows_of_factor(A)
        if rows is not None and rows < n and rows <= min(_ROWS_A_PAIR * k, _MOST_ROWS):
            fits = 4 * torch.float64.itemsize * rows**2 + 2 * _bytes(A, n, k) <= budget
            if fits:
                gram = GramEigh(**options, memory_budget=memory_budget)
                return gram, f"a factor with {rows} rows, at most {_ROWS_A_PAIR} k: exact"
    if lanczos._has_room_of_its_own:
        return lanczos, f"all vectors that it may come to keep have room in {lanczos.storage}"
    solver = _within(budget, lanczos, A, n, "vectors")
    if solver.max_basis is None:
        return solver, "all vectors that it may come to keep fit into the memory budget"
    return solver, f"restarts, as the memory budget holds {solver.max_basis} vectors beside the result"


def choose_svd(
    A: Any,
    k: int,
    *,
    tol: float | None = None,
    seed: int = 0,
    start: bool = False,
    max_products: int | None = None,
    check_adjoint: bool = True,
    memory_budget: int | None = None,
    storage: Storage | str | None = None,
) -> SVDSolver:
    """The solver for the k leading singular triplets of an (m, n) A; the first rule that holds.

    | where, with s = min(m, n) | solver |
    | --- | --- |
    | s <= 300, or k > s / 3, and 4 m n numbers fit into the budget | `DenseSVD` |
    | all vectors that `BlockGolubKahan` may come to keep fit, or a storage is given | `BlockGolubKahan` |
    | else | `BlockGolubKahan` with ``max_basis`` |

    A storage that is the memory of A does not count as one.

    Args:
        A: an operator, or what `as_operator` makes one of.
        k: how many triplets.
        tol: of residual norms, for solvers that take one.
        seed: of random numbers.
        start: whether a start is to be used, as `BlockGolubKahan` can.
        max_products: where `BlockGolubKahan` is to stop at the latest.
        check_adjoint: see `SVDSolver`.
        memory_budget: bytes; by default a quarter of what is free, so that the choice may differ from time to time.
        storage: where a basis that grows is kept, a `Storage` or the name of its kind.

    Raises:
        ValueError: no restart fits into the budget.

    Cost: none.
    """
    operator = as_operator(A)
    (m, n), budget = operator.shape, _budget(operator, memory_budget)
    size = min(m, n)
    options: dict[str, Any] = {"k": k, "seed": seed, "check_adjoint": check_adjoint}
    golub_kahan = BlockGolubKahan(**options, tol=tol, max_products=max_products, storage=as_storage(storage))
    if not start and (size <= _SMALL or _DENSE_SHARE * k > size) and 4 * _bytes(operator, m, n) <= budget:
        return DenseSVD(**options)
    return _within(budget, golub_kahan, operator, m + n, "vectors of both sides")


@attrs.frozen(kw_only=True)
class Auto(EigenSolver):
    """The k leading eigenpairs by the solver that `choose` names, once the operator is known; a note says which it is.

    Args:
        k: how many pairs.
        tol: of residual norms, for solvers that take one.
        max_products: for solvers that take one.
        memory_budget: bytes; by default a quarter of what is free.
        storage: where a basis that grows is kept, a `Storage` or the name of its kind.
        which, seed, check_symmetry: see `EigenSolver`.

    Raises:
        ValueError: besides those of `EigenSolver`, no solver fits into the budget.

    Source: the rules of `choose`, from ``benchmarks/solver_choice.py``.

    Cost: that of the solver.
    """

    tol: float | None = attrs.field(default=None, validator=tolerance)
    max_products: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    memory_budget: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    storage: Storage | None = attrs.field(default=None, converter=as_storage)

    uses_start = True

    def _most(self, A: LinearOperator) -> int | None:
        return None if self.max_products is None else self.max_products + 2 * self.check_symmetry

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        # Free memory, on which the choice may depend, is another when a solve goes on.
        budget = _budget(A.A, self.memory_budget)
        choice = functools.partial(self._choice, A.A, start is not None, self.memory_budget, budget)
        chosen = A.decided("solver", lambda: solver_to_dict(choice()[0]))
        # A solve may go on with another storage, and with more products.
        own: dict[str, Any] = {name: getattr(self, name) for name in ("storage", "max_products") if name in chosen}
        solver = solver_from_dict({**chosen, **own})
        assert isinstance(solver, EigenSolver)
        solver._require_suitable(A.A)
        pairs = solver._solve(A, start)
        return attrs.evolve(pairs, notes=(f"Chosen: {solver!r}.", *pairs.notes))

    def _taken(self, A: LinearOperator, memory_budget: int | None) -> tuple[EigenSolver, str]:
        allowed = self.memory_budget if memory_budget is None else memory_budget
        solver, reason = self._choice(A, False, allowed, _budget(A, allowed))
        solver._require_suitable(A)
        return solver, reason

    def _choice(
        self, A: LinearOperator, start: bool, memory_budget: int | None, budget: int
    ) -> tuple[EigenSolver, str]:
        names = ("k", "which", "seed", "check_symmetry", "tol", "max_products", "storage")
        lanczos = BlockLanczos(**{name: getattr(self, name) for name in names})
        return _choice(A, lanczos, start, memory_budget, budget)


def _rows_of_factor(A: LinearOperator) -> int | None:
    """Rows of the factor of A, if it has one."""
    if not A.is_psd:
        return None
    try:
        with torch.no_grad():
            return A.factor().shape[0]
    except (TypeError, ValueError):
        return None


def _within(budget: int, solver: _Krylov, A: LinearOperator, length: int, vectors: str) -> _Krylov:
    """The solver, with as large a basis of ``vectors`` of that length as ``budget`` bytes hold, if they limit it."""
    if solver._has_room_of_its_own:
        return solver
    k, least = solver.k, solver.least_basis
    affordable = budget // _bytes(A, length, 1) - k  # the result is another k
    if affordable >= min(solver._most_vectors, *A.shape):
        return solver
    if affordable < least:
        raise ValueError(
            f"memory_budget={budget} bytes hold {max(affordable, 0)} {vectors} of {A} beside a result of {k}, and "
            f"{type(solver).__name__} needs {least}: allow {_bytes(A, length, least + k)}, ask for fewer "
            f"{solver.wanted}, or keep the basis elsewhere by storage='disk'"
        )
    return attrs.evolve(solver, max_basis=affordable)


def _bytes(A: LinearOperator, rows: int, columns: int) -> int:
    return rows * columns * A.dtype.itemsize
