"""Solvers as template methods: what those of eigenvalues and of singular values share, written once."""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import Dense, LinearOperator, Subspace, as_operator
from ..linops.sharding import placed, whole
from ..linops.tall_matrix import TallMatrix
from .parameters import as_int, positive_integer, seed_number
from .planning import SolvePlan, plan_solve
from .product_log import digest
from .report import SolveReport, Status, solver_to_dict
from .shared_log import Log, log_of
from .tall import gram, is_finite, orthonormality_defects
from .watched import Watched
from .workload import Workload

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_Found = TypeVar("_Found")
_log = logging.getLogger(__name__)


def operator_for(A: Any, name: str, spread_rows: bool = False) -> LinearOperator:
    """The operator that A stands for, in a dtype that the solver or estimator of that name works in.

    Args:
        A: the operator.
        name: of the solver or estimator.
        spread_rows: whether it takes blocks whose rows are spread over ranks.

    Raises:
        TypeError: no operator, another dtype than float32 and float64, or rows that are spread.
    """
    if isinstance(A, torch.nn.Module):
        raise TypeError(f"a {type(A).__name__} is a model, not an operator: build eigenspan.Hessian(model, loss, data)")
    operator = as_operator(A)
    if operator.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} works in float32 or float64, got {operator}; wrap its products to convert")
    if operator.row_mesh is not None and not spread_rows:
        raise TypeError(
            f"{name} takes whole blocks, and those of {operator} have their rows spread over ranks: share out its "
            "products by ColumnParallel or DataParallel in the place of RowSharded"
        )
    return operator


def require_available(k: int, what: str, A: LinearOperator, most: int) -> None:
    """Refuse to look for more than there are.

    Raises:
        ValueError: k > most.
    """
    if k > most:
        remedy = f"choose k <= {most}" if most else "there is nothing to decompose"
        raise ValueError(f"k={k} {what} were asked of {A}, which has {most}; {remedy}")


def require_known_symmetric(A: LinearOperator, name: str) -> None:
    """Refuse an operator that nothing says is symmetric.

    Raises:
        ValueError: it is not known to be.
    """
    if not A.is_symmetric:
        entries = ""
        if isinstance(A, Dense) and A.matrix.layout is torch.strided:
            apart = float((A.matrix - A.matrix.mT).abs().max())
            entries = f" (its entries differ from those of its transpose by up to {apart:.1e})"
        raise ValueError(
            f"{name} needs a symmetric operator, and nothing says that {A} is one{entries}; if it is, but for "
            "rounding, pass eigenspan.as_operator(A, structure=eigenspan.Structure.SYMMETRIC)"
        )


@attrs.frozen
class Cost:
    """What a solve took: the fields of `SolveReport` that are counted and timed."""

    products: int
    passes: int
    seconds_in_products: float
    seconds_outside: float
    peak_memory: int | None
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Solver(abc.ABC):
    """A method to find k leading eigenpairs or singular triplets: see `EigenSolver` and `SVDSolver`.

    Args:
        k: how many.
        seed: root of all random numbers.

    Raises:
        TypeError: a k that is no integer.
        ValueError: k < 1, a negative seed.
    """

    k: int = attrs.field(converter=as_int, validator=positive_integer)
    seed: int = attrs.field(default=0, converter=as_int, validator=seed_number)

    uses_start: ClassVar[bool] = False
    takes_spread_rows: ClassVar[bool] = True  # blocks of `RowSharded`
    _sides: ClassVar[int] = 1  # 2 where half of the products are with the transpose

    if not TYPE_CHECKING:  # attrs would say how many positional arguments there are, and not what to write

        def __new__(cls, *positional: Any, **_: Any) -> Solver:  # noqa: PYI034 - typing has no Self in Python 3.10
            """Refuse arguments without a name."""
            if positional:
                raise TypeError(
                    f"{cls.__name__} takes its parameters by name: write {cls.__name__}(k={positional[0]!r}), "
                    "and likewise any others"
                )
            return super().__new__(cls)

    @torch.no_grad()
    def plan(self, A: Any, *, memory_budget: int | None = None) -> SolvePlan:
        """What `solve` is expected to take of A, without a start: products, seconds, memory, disk.

        Products are known where they do not depend on the spectrum, and else expected by a rule, which the plan states;
        for spectra that fall fast or have clusters they are fewer or more. Seconds come from two blocks of the width
        that the solver multiplies, up to 32 columns, three where they take less than a tenth of a second, and from the
        speed of small pieces of its algebra. What a curvature operator chooses and builds for them is kept, so that the
        solve does not pay for it again.

        Args:
            A: an operator as for `solve`.
            memory_budget: bytes that the solve may take on the device; by default a quarter of what is free. `Auto`
                chooses within it, others are told whether they fit.

        Raises:
            TypeError, ValueError: what `solve` would refuse, or a budget below one.
            NotImplementedError: a solver of one's own that does not define ``_workload``.

        Cost: two or three products with a block, up to as many with its transpose, and some tenths of a second.
        """
        operator = operator_for(A, type(self).__name__, self.takes_spread_rows)
        self._require_suitable(operator)
        solver, reason = self._taken(operator, memory_budget)
        return plan_solve(solver, operator, reason, memory_budget, self._sides)

    @abc.abstractmethod
    def _require_suitable(self, A: LinearOperator) -> None:
        """Refuse an operator that it cannot solve."""

    def _taken(self, A: LinearOperator, memory_budget: int | None) -> tuple[Solver, str]:
        """The solver that solves, and why it is this one."""
        return self, "as given"

    def _workload(self, A: LinearOperator) -> Workload:
        """What it reckons that it takes."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what it takes: define _workload(A), which returns a "
            "solvers.workload.Workload"
        )

    def _watching(
        self,
        operator: LinearOperator,
        progress: bool,
        find: Callable[[Watched], _Found],
        checkpoint: str | os.PathLike[str] | None = None,
        start: Tensor | None = None,
    ) -> tuple[_Found, Cost]:
        """What ``find`` returns of an operator that is counted, and what it cost, earlier runs included."""
        began, total = time.perf_counter(), self._total(operator)
        notes: tuple[str, ...] = ()
        with contextlib.ExitStack() as stack:
            log = None
            if checkpoint is not None:
                log = self._log(operator, checkpoint, start)
                stack.enter_context(log.held())
                log.begin(total, self._most(operator))
            bar = stack.enter_context(
                tqdm(
                    disable=not progress,
                    desc=type(self).__name__,
                    unit=" products",
                    total=total,
                    initial=0 if log is None else log.done,
                )
            )
            watched = Watched(operator, bar, log)
            found = find(watched)
            if log is not None:
                log.finish(watched.products)
                notes = log.notes()
        outside = time.perf_counter() - began - (watched.seconds - watched.seconds_replayed)
        memory = _peak_memory(operator.device)
        return found, Cost(watched.products, watched.calls, watched.seconds, outside, memory, notes)

    def _log(self, A: LinearOperator, folder: str | os.PathLike[str], start: Tensor | None) -> Log:
        """The products of this solve in a folder."""
        solve = solver_to_dict(self)
        if solve.get("storage") is not None:  # where numbers live makes no difference to them, but for their dtype
            solve["storage"] = solve["storage"]["dtype"]
        solve.pop("max_products", None)  # with more a solve goes on from where it stopped
        identity = {
            "solve": solve,
            "start": None if start is None else digest(whole(start)),
            "shape": A.shape,
            "dtype": str(A.dtype),
            "operator": A.fingerprint(),
        }
        return log_of(folder, identity, A)

    @abc.abstractmethod
    def _solve(self, A: Watched, start: Tensor | None) -> Any:
        """What the method finds; every product of A is counted, and is finite or has raised."""

    @property
    def _measures_residuals(self) -> bool:
        """Whether products measure the residual norms that a subclass does not know; else they are NaN."""
        return True

    def _total(self, A: LinearOperator) -> int | None:
        """The number of products it will take, if that is known."""
        return None

    def _most(self, A: LinearOperator) -> int | None:
        """The number of products it will take at most, if that is known."""
        return self._total(A)

    def _report(self, cost: Cost, status: Status, check_products: int, notes: tuple[str, ...]) -> SolveReport:
        spent = attrs.asdict(cost) | {"notes": (*notes, *cost.notes)}
        report = SolveReport(solver=self, status=status, check_products=check_products, **spent)
        _log.info("%s: %d products, %.1f s, %s", type(self).__name__, report.products, report.seconds, status.value)
        return report

    def _checked_start(self, start: Subspace | Tensor | None, A: LinearOperator) -> Tensor | None:
        """The (n, b) block of a start, n the columns of A."""
        if start is None:
            return None
        if not self.uses_start:
            raise ValueError(f"{type(self).__name__} computes afresh and uses no start; leave it out")
        block = start.basis.to_dense() if isinstance(start, Subspace) else start
        if not isinstance(block, Tensor) or block.dtype != A.dtype or block.device != A.device:
            given = f"{block.dtype} on {block.device}" if isinstance(block, Tensor) else type(block).__name__
            raise TypeError(f"a start for {A} is a subspace or tensor of its dtype on its device, got {given}")
        if block.ndim != 2 or block.shape[0] != A.shape[1] or block.shape[1] == 0:
            raise ValueError(f"a start for {A} has shape ({A.shape[1]}, b), b >= 1; got {tuple(block.shape)}")
        if not is_finite(block):
            raise ValueError(f"a start for {A} has entries that are not finite")
        return placed(block, A.row_mesh)

    def _require_orthonormal(self, vectors: Tensor | TallMatrix, what: str) -> None:
        """What a subclass gives back: vectors that are orthonormal to the root of the precision."""
        most = torch.finfo(vectors.dtype).eps ** 0.5
        if bool((orthonormality_defects(vectors, self.seed) <= most / 2).all()):
            return
        defect = gram(vectors) - torch.eye(vectors.shape[1], dtype=torch.float64)
        if not bool((defect.abs() <= most).all()):
            raise RuntimeError(
                f"{type(self).__name__}._solve gave {what} that are not orthonormal: VᵀV is not the identity"
            )


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
