"""Solvers as template methods: what those of eigenvalues and of singular values share, written once."""

from __future__ import annotations

import abc
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import attrs
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import LinearOperator, Subspace, as_operator
from ..linops.tall_matrix import TallMatrix
from .report import SolveReport, Status
from .tall import gram, orthonormality_defects
from .watched import Watched

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_Found = TypeVar("_Found")


def positive_integer(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: an int of at least 1; None where that is the default."""
    if value is None and attribute.default is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} is a positive integer, an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{attribute.name} is at least 1, got {value}")


def tolerance(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: a number between 0 and 1, or None."""
    if value is not None and not 0 < value < 1:
        raise ValueError(
            f"{attribute.name} is a number between 0 and 1, relative to the largest value, or None for the default; "
            f"got {value!r}"
        )


_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}


def tolerance_for(A: Watched, tol: float | None) -> float:
    """``tol``, or the default of the dtype of A: 1e-5 in float32, 1e-9 in float64.

    Raises:
        ValueError: a tol below ten roundings of the dtype.
    """
    rounding = torch.finfo(A.dtype).eps
    if tol is None:
        return _TOLERANCES[A.dtype]
    if tol < 10 * rounding:
        raise ValueError(f"tol={tol} is below the rounding errors of {A.A}: choose at least {10 * rounding:.1e}")
    return tol


def seed_number(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: an int of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} is a non-negative integer, got {value!r}")


def operator_for(A: Any, name: str) -> LinearOperator:
    """The operator that A stands for, in a dtype that the solver or estimator of that name works in.

    Raises:
        TypeError: no operator, or another dtype than float32 and float64.
    """
    if isinstance(A, torch.nn.Module):
        raise TypeError(f"a {type(A).__name__} is a model, not an operator: build eigenspan.Hessian(model, loss, data)")
    operator = as_operator(A)
    if operator.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} works in float32 or float64, got {operator}; wrap its products to convert")
    return operator


def require_known_symmetric(A: LinearOperator, name: str) -> None:
    """Refuse an operator that nothing says is symmetric.

    Raises:
        ValueError: it is not known to be.
    """
    if not A.is_symmetric:
        raise ValueError(
            f"{name} needs a symmetric operator, and nothing says that {A} is one; if it is, pass "
            "eigenspan.as_operator(A, structure=eigenspan.Structure.SYMMETRIC)"
        )


@attrs.frozen
class Cost:
    """What a solve took: the fields of `SolveReport` that are counted and timed."""

    products: int
    passes: int
    seconds_in_products: float
    seconds_outside: float
    peak_memory: int | None


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

    k: int = attrs.field(validator=positive_integer)
    seed: int = attrs.field(default=0, validator=seed_number)

    uses_start: ClassVar[bool] = False

    def _watching(
        self, operator: LinearOperator, progress: bool, find: Callable[[Watched], _Found]
    ) -> tuple[_Found, Cost]:
        """What ``find`` returns of an operator that is counted, and what it cost."""
        began = time.perf_counter()
        with tqdm(disable=not progress, desc=type(self).__name__, unit=" products", total=self._total(operator)) as bar:
            watched = Watched(operator, bar)
            found = find(watched)
        seconds = watched.seconds
        outside = time.perf_counter() - began - seconds
        return found, Cost(watched.products, watched.calls, seconds, outside, _peak_memory(operator.device))

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

    def _report(self, cost: Cost, status: Status, check_products: int, notes: tuple[str, ...]) -> SolveReport:
        return SolveReport(solver=self, status=status, check_products=check_products, notes=notes, **attrs.asdict(cost))

    def _checked_start(self, start: Subspace | Tensor | None, A: LinearOperator) -> Tensor | None:
        """The (n, b) block of a start, n the columns of A."""
        if start is None:
            return None
        if not self.uses_start:
            raise ValueError(f"{type(self).__name__} computes afresh and uses no start; leave it out")
        block = start.basis.to_dense() if isinstance(start, Subspace) else start
        if not isinstance(block, Tensor) or block.dtype != A.dtype or block.device != A.device:
            raise TypeError(f"a start for {A} is a subspace or tensor of its dtype on its device, got {start!r}")
        if block.ndim != 2 or block.shape[0] != A.shape[1] or block.shape[1] == 0:
            raise ValueError(f"a start for {A} has shape ({A.shape[1]}, b), b >= 1; got {tuple(block.shape)}")
        if not bool(block.isfinite().all()):
            raise ValueError(f"a start for {A} has entries that are not finite")
        return block

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
