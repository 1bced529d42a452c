"""What a solve will take, before it is run: products, seconds, memory and disk."""

from __future__ import annotations

import enum
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from ..linops import Counted, LinearOperator
from ..linops.basic import synchronise
from ..linops.distributed import least
from ..linops.memory import allowance
from .basis import Basis
from .report import solver_to_dict
from .sketches import Gaussian
from .storage import DEVICE, Storage
from .tall import orthonormalise
from .workload import Workload

if TYPE_CHECKING:
    from .template import Solver

_MOST_TIMED = 32  # columns in a block that is timed: wider ones take as long for each
_ENOUGH = 0.1  # seconds: a block that took less is timed once more
_SLOW, _PATIENCE = 1.0, 10.0  # seconds: where a column takes the former, a block that is timed takes the latter
_ROWS, _VECTORS, _CORE = 1 << 15, 256, 512  # of the algebra that is timed, at most
_CORE_COPIES = 6  # of a small matrix in float64: itself, its eigenvectors, what LAPACK works with, and the ones before


@attrs.frozen(kw_only=True)
class SolvePlan:
    """What a solve is expected to take: see `Solver.plan`.

    Attributes:
        solver: that would be taken.
        operator: of which, as it is printed.
        reason: why this solver.
        products: columns that it will multiply, checks inside.
        rule: how they were expected; "" where the number is exact.
        passes: blocks, about.
        width: columns of most blocks.
        factor_products: beside them, with the transpose of the operator's factor.
        seconds_in_products: of wall time, from blocks that were timed.
        seconds_outside: of the solver's own algebra, from the speed of small pieces of it on this machine, and of
            products with the factor.
        storage: of the basis that grows, and of the result.
        basis_bytes: of its vectors there.
        working_bytes: of blocks and small matrices beside the basis, at the peak.
        result_bytes: of the vectors found.
        operator_bytes: what the operator keeps between products, if it tells; what it takes within one is not told.
        memory_budget: bytes that the user allows, or a quarter of what is free.
        products_spent: columns that planning multiplied.
        seconds_spent: by planning, with all that the operator chose, built and keeps for the solve.
        operator_plan: how the operator computes its products, if it tells.
        notes: what else there is to know, in sentences.
    """

    solver: Solver
    operator: str
    reason: str
    products: int
    rule: str
    passes: int
    width: int
    factor_products: int
    seconds_in_products: float
    seconds_outside: float
    storage: Storage
    basis_bytes: int
    working_bytes: int
    result_bytes: int
    operator_bytes: int
    memory_budget: int
    products_spent: int
    seconds_spent: float
    operator_plan: str | None
    notes: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the number of products is known, not expected."""
        return not self.rule

    @property
    def seconds(self) -> float:
        """Wall time of the whole solve."""
        return self.seconds_in_products + self.seconds_outside

    @property
    def memory(self) -> int:
        """Bytes of memory, of the device and of the host together."""
        return self.working_bytes + self.operator_bytes + self.basis_bytes + self.result_bytes - self.disk

    @property
    def disk(self) -> int:
        """Bytes on disk."""
        return self.basis_bytes + self.result_bytes if self.storage.kind == "disk" else 0

    @property
    def fits(self) -> bool:
        """Whether the memory budget holds it."""
        return self.memory <= self.memory_budget

    def to_dict(self) -> dict[str, Any]:
        """The plan as numbers, strings and dictionaries, ready for JSON."""
        own = attrs.asdict(self, recurse=False)
        derived = {name: getattr(self, name) for name in ("is_exact", "seconds", "memory", "disk", "fits")}
        described = {"solver": solver_to_dict(self.solver), "storage": attrs.asdict(self.storage)}
        return {**own, **derived, **described, "notes": list(self.notes)}

    def __str__(self) -> str:
        """The plan as a table of a few lines."""
        count = f"{self.products}" if self.is_exact else f"about {self.products} ({self.rule})"
        factor = f", {self.factor_products} with the factor" if self.factor_products else ""
        vectors = {f"basis on {self.storage.kind}": self.basis_bytes, "result": self.result_bytes}
        others = {"blocks": self.working_bytes, "operator": self.operator_bytes}
        disk = f": {_parts(vectors)}" if self.disk else ""
        memory = _parts(others if self.disk else {**vectors, **others})
        budget = f"{'of' if self.fits else 'above'} a budget of {size_text(self.memory_budget)}"
        rows = {
            "solver": f"{_described(self.solver)}: {self.reason}",
            "operator": self.operator + ("" if self.operator_plan is None else f", {self.operator_plan}"),
            "products": f"{count}{factor}, in {self.passes} passes of {self.width} columns or fewer",
            "seconds": f"{self.seconds:.3g}: {self.seconds_in_products:.2g} in products, "
            f"{self.seconds_outside:.2g} outside",
            "memory": f"{size_text(self.memory)}, {budget}: {memory}",
            "disk": f"{size_text(self.disk)}{disk}",
            "to plan": f"{self.products_spent} products, {self.seconds_spent:.2g} s",
        }
        return "\n".join([*(f"{name:9} {text}" for name, text in rows.items()), *self.notes])


def _described(solver: Solver) -> str:
    """The solver with the parameters that are not their default."""
    values = attrs.asdict(solver, recurse=False)
    fixed = {field.name for field in attrs.fields(type(solver)) if field.default == values[field.name]}
    changed = {name: value for name, value in values.items() if name not in fixed}
    texts = [f"{name}={value.name if isinstance(value, enum.Enum) else value!r}" for name, value in changed.items()]
    return f"{type(solver).__name__}({', '.join(texts)})"


def _parts(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items() if size)


def size_text(size: int) -> str:
    """Bytes in words, in the largest unit of which there is at least one."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def plan_solve(solver: Solver, A: LinearOperator, reason: str, memory_budget: int | None, sides: int) -> SolvePlan:
    """The plan of a solver that suits A; ``sides`` is 2 where products with the transpose are half of all."""
    began = time.perf_counter()
    work = solver._workload(A)
    known = solver._total(A)
    products = known if known is not None else work.products
    if products is None:
        raise NotImplementedError(f"{type(solver).__name__}._workload expects no number of products; give one")
    columns = min(work.width, _MOST_TIMED, *A.shape)
    operator_plan = _own_plan(A, columns)
    kept = 0 if operator_plan is None else operator_plan.kept_bytes * operator_plan.kept
    counted = Counted(A)
    multiplied = zip([counted._matmat, counted._rmatmat][:sides], A.shape[::-1], strict=False)
    each = statistics.mean(_seconds(product, size, columns, A) for product, size in multiplied)
    rows = sum(A.shape) if sides == 2 else A.shape[1]
    outside = work.row_flops * rows / _tall_rate(A, work) + work.core_flops / _core_rate(A, work)
    with_factor, spent_on_factor = _factor_seconds(A, work)
    storage: Storage = getattr(solver, "storage", None) or DEVICE
    basis_bytes = rows * work.basis * storage.dtype_for(A.dtype).itemsize
    small = 0 if work.dense else _CORE_COPIES * work.core**2 * torch.float64.itemsize
    plan = SolvePlan(
        solver=solver,
        operator=repr(A),
        reason=reason,
        products=products,
        rule="" if known is not None else work.rule,
        passes=work.passes,
        width=work.width,
        factor_products=work.factor_products,
        seconds_in_products=products * each,
        seconds_outside=outside + with_factor + _sketch_seconds(A, work),
        storage=storage.chosen(basis_bytes, A.device, memory_budget),
        basis_bytes=basis_bytes,
        working_bytes=int(rows * work.working * A.dtype.itemsize) + small,
        result_bytes=rows * solver.k * A.dtype.itemsize,
        operator_bytes=kept,
        memory_budget=allowance(memory_budget, A.device),
        products_spent=counted.products + spent_on_factor,
        seconds_spent=time.perf_counter() - began,
        operator_plan=None if operator_plan is None else str(operator_plan),
        notes=(),
    )
    return attrs.evolve(plan, notes=_notes(plan))


def _notes(plan: SolvePlan) -> tuple[str, ...]:
    notes = []
    if not plan.fits:
        remedy = "smaller blocks take less" if plan.disk else "a smaller k takes less"
        if not plan.disk and hasattr(plan.solver, "storage"):
            remedy = "a smaller k or max_basis takes less, and storage='disk' keeps the basis out of memory"
        notes.append(
            f"It takes more than the memory budget, by {size_text(plan.memory - plan.memory_budget)}: {remedy}."
        )
    try:
        plan.storage.require_room(plan.disk)
    except OSError as error:
        notes.append(f"{error}.")
    return tuple(notes)


def _own_plan(A: LinearOperator, columns: int) -> Any:
    """What an operator that plans its products has planned for blocks of so many columns; None for others."""
    plan: Callable[[int], Any] | None = getattr(A, "plan", None)
    return None if plan is None else plan(columns)


def _seconds(product: Callable[[Tensor], Tensor], n: int, columns: int, A: LinearOperator) -> float:
    """Seconds a column of a product with an (n, columns) block, once all that is kept has been built."""
    X = Gaussian(n, columns, seed=0, purpose="planning", dtype=A.dtype, device=A.device).columns(0, columns)

    def seconds(width: int) -> float:
        return least(_timed(product, X[:, :width], A.device), A)  # all ranks multiply as often

    if columns > 1 and seconds(1) >= _SLOW:
        one = seconds(1)
        columns = min(columns, int(_PATIENCE / one))
        if columns <= 1:
            return one
    seconds(columns)
    first = seconds(columns)
    return (first if first >= _ENOUGH else min(first, seconds(columns))) / columns


def _timed(function: Callable[[Tensor], Any], X: Tensor, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    function(X)
    synchronise(device)
    return time.perf_counter() - began


def _tall_rate(A: LinearOperator, work: Workload) -> float:
    """Flops a second of the orthonormalisation of a block, against half of a basis of its size if there is one."""
    n = max(A.shape)
    rows = min(n, _ROWS)
    columns = min(work.algebra_width or work.width, _MOST_TIMED, max(1, rows // 4))
    vectors = min(work.basis // 2, _VECTORS, rows // 2)
    basis = Basis(rows, A.dtype, A.device)
    basis.append(torch.eye(vectors, rows, dtype=A.dtype, device=A.device).mT)
    X = Gaussian(rows, columns, purpose="planning", dtype=A.dtype, device=A.device).columns(0, columns)
    # As in a Krylov space: the first pass has next to nothing to project out.
    seconds = statistics.median(
        _timed(lambda X: orthonormalise(X, basis, first=vectors), X, A.device) for _ in range(3)
    )
    return 4.0 * rows * columns * (vectors + 2 * columns) / seconds


def _factor_seconds(A: LinearOperator, work: Workload) -> tuple[float, int]:
    """Seconds of all products with the factor of A, if there are any, and how many were made to tell."""
    if not work.factor_products:
        return 0.0, 0
    B = Counted(A.factor())
    each = _seconds(B._rmatmat, B.shape[0], min(_MOST_TIMED, B.shape[0]), B)
    return work.factor_products * each, B.products


def _sketch_seconds(A: LinearOperator, work: Workload) -> float:
    """Seconds that the columns of test matrices take to be drawn, if there are any."""
    if work.sketch is None:
        return 0.0
    sketch, drawn = work.sketch, min(work.width, _MOST_TIMED)
    seconds = _timed(lambda _: sketch.columns(0, drawn), torch.empty(0, device=A.device), A.device)
    return work.sketched / drawn * seconds


def _core_rate(A: LinearOperator, work: Workload) -> float:
    """Flops a second of the diagonalisation of a small matrix, taken as nine times the cube of its size."""
    size = min(work.core, _CORE)
    dtype, device = (A.dtype, A.device) if work.dense else (torch.float64, torch.device("cpu"))
    S = Gaussian(size, size, purpose="planning", dtype=dtype, device=device).columns(0, size)
    S = S + S.mT
    seconds = min(_timed(torch.linalg.eigh, S, A.device) for _ in range(2))
    return 9.0 * size**3 / seconds
