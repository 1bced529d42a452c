"""How a solve ended and what it cost."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from .template import Solver


class ConvergenceWarning(UserWarning):
    """A solver or an estimator did not meet its tolerance."""


class Status(enum.Enum):
    """How a solve ended; the value says what to do next."""

    CONVERGED = "converged: every wanted pair meets the tolerance"
    COMPLETE = "complete: all of the operator was decomposed, to rounding"
    SKETCHED = (
        "sketched at a fixed cost, without a convergence test: judge by residual_norms, and for smaller ones raise the "
        "sizes of the sketch or the passes, or use BlockLanczos"
    )
    ROUNDED = (
        "converged but for the dtype of the storage: the space holds every wanted pair to the tolerance, and vectors "
        "are rounded; judge by residual_norms, and for smaller ones raise the dtype of the storage to the operator's"
    )
    OUT_OF_PRODUCTS = (
        "not converged when max_products were spent: raise max_products, with which a checkpoint goes on, or tol"
    )
    OUT_OF_ITERATIONS = "not converged when maxiter was reached: raise maxiter or tol, or use BlockLanczos"

    @property
    def is_success(self) -> bool:
        """Whether every wanted pair is known to be accurate."""
        return self in (Status.CONVERGED, Status.COMPLETE)

    @property
    def is_failure(self) -> bool:
        """Whether a tolerance was asked for and not met."""
        return self in (Status.OUT_OF_PRODUCTS, Status.OUT_OF_ITERATIONS)


@attrs.frozen(kw_only=True)
class SolveReport:
    """How a result was found and what it cost.

    Attributes:
        solver: the solver itself, with all its parameters.
        status: how it ended.
        products: columns multiplied by the operator, those of checks included.
        check_products: of these, the columns spent to test symmetry, or the adjoint, and to measure residual norms.
        passes: blocks multiplied, each one pass over the data of a curvature operator.
        seconds_in_products: wall time inside the operator.
        seconds_outside: wall time of the solver's own algebra.
        peak_memory: bytes; the most that this process has held so far, of main memory for an operator on the CPU, of
            PyTorch's device memory for one on a GPU. It is a high-water mark, of earlier work too. None where the
            system does not tell.
        notes: what else there is to know of this solve, in sentences.
    """

    solver: Solver
    status: Status
    products: int
    check_products: int
    passes: int
    seconds_in_products: float
    seconds_outside: float
    peak_memory: int | None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Wall time of the whole solve."""
        return self.seconds_in_products + self.seconds_outside

    @property
    def ending(self) -> str:
        """How the solve ended, and what else there is to know of it, in words."""
        return ". ".join([self.status.value, *self.notes])

    def __str__(self) -> str:
        """The report in two lines, and one for each note."""
        parameters = [f"k={self.solver.k}"]
        parameters += [f"which={which.name}" for which in [getattr(self.solver, "which", None)] if which is not None]
        memory = "" if self.peak_memory is None else f", the process at most {self.peak_memory / 2**20:.0f} MiB"
        return (
            f"{type(self.solver).__name__}({', '.join(parameters)}): {self.status.value}\n"
            f"{self.products} products ({self.check_products} of them checks) in {self.passes} passes, "
            f"{self.seconds:.2f} s ({self.seconds_in_products:.2f} s in products){memory}"
            + "".join(f"\n{note}" for note in self.notes)
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings and one dictionary for the solver, ready for JSON."""
        own = attrs.asdict(self, recurse=False)
        return {**own, "solver": solver_to_dict(self.solver), "status": self.status.name, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> SolveReport:
        """The report that `to_dict` wrote.

        Raises:
            ValueError: a solver class that is not imported, or entries that are not those of a report.
        """
        try:
            solver = solver_from_dict(entries["solver"])
            status, notes = Status[entries["status"]], tuple(entries.get("notes", ()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the entries of a SolveReport: {error!r}") from error
        return cls(**{**entries, "solver": solver, "status": status, "notes": notes})


def solver_to_dict(solver: Solver) -> dict[str, Any]:
    """The class and the parameters of a solver, ready for JSON."""
    entries = {"class": type(solver).__name__}
    for name, value in attrs.asdict(solver).items():
        entries[name] = value.value if isinstance(value, enum.Enum) else value
    return entries


def solver_from_dict(entries: dict[str, Any]) -> Solver:
    """The solver that `solver_to_dict` wrote.

    Raises:
        KeyError: no class is named.
        TypeError: parameters that the class has not.
        ValueError: a class that is not imported, or parameters that it refuses.
    """
    from .template import Solver

    parameters = dict(entries)
    name = parameters.pop("class")
    known = {solver.__name__: solver for solver in _descendants(Solver)}  # type: ignore[type-abstract]
    if name not in known:
        raise ValueError(f"no solver is called {name!r}; import the module that defines it before loading")
    return known[name](**parameters)


def _descendants(solver: type[Solver]) -> list[type[Solver]]:
    return [descendant for child in solver.__subclasses__() for descendant in (child, *_descendants(child))]
