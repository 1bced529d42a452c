"""What a solver returns: eigenpairs, and a report of how they were found."""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy
import torch
from torch import Tensor

from ..linops import Dense, Diagonal, EigenSubspace, LinearOperator
from .files import written_whole

if TYPE_CHECKING:
    from .solver import EigenSolver


class ConvergenceWarning(UserWarning):
    """A solver returned pairs that do not meet its tolerance."""


class Status(enum.Enum):
    """How a solve ended; the value says what to do next."""

    CONVERGED = "converged: every wanted pair meets the tolerance"
    COMPLETE = "complete: the whole matrix was diagonalised, to rounding"
    SKETCHED = (
        "sketched at a fixed cost, without a convergence test: judge by residual_norms, and for smaller ones raise "
        "outer and inner, set two_pass=True, or use BlockLanczos"
    )
    OUT_OF_PRODUCTS = (
        "not converged when max_products were spent: raise max_products or tol, or solve again with "
        "start=result.subspace"
    )
    OUT_OF_ITERATIONS = "not converged when maxiter was reached: raise maxiter, ncv or tol, or use BlockLanczos"

    @property
    def is_success(self) -> bool:
        """Whether every wanted pair is known to be accurate."""
        return self in (Status.CONVERGED, Status.COMPLETE)


@attrs.frozen(kw_only=True)
class SolveReport:
    """How a result was found and what it cost.

    Attributes:
        solver: the solver itself, with all its parameters.
        status: how it ended.
        products: columns multiplied by the operator, those of checks included.
        check_products: of these, the columns spent to test symmetry and to measure residual norms.
        passes: blocks multiplied, each one pass over the data of a curvature operator.
        seconds_in_products: wall time inside the operator.
        seconds_outside: wall time of the solver's own algebra.
        peak_memory: bytes; the most that this process has held so far, of main memory for an operator on the CPU, of
            PyTorch's device memory for one on a GPU. It is a high-water mark, of earlier work too. None where the
            system does not tell.
    """

    solver: EigenSolver
    status: Status
    products: int
    check_products: int
    passes: int
    seconds_in_products: float
    seconds_outside: float
    peak_memory: int | None

    @property
    def seconds(self) -> float:
        """Wall time of the whole solve."""
        return self.seconds_in_products + self.seconds_outside

    def __str__(self) -> str:
        """The report in two lines."""
        memory = "" if self.peak_memory is None else f", at most {self.peak_memory / 2**20:.0f} MiB so far"
        return (
            f"{type(self.solver).__name__}(k={self.solver.k}, which={self.solver.which.name}): {self.status.value}\n"
            f"{self.products} products ({self.check_products} of them checks) in {self.passes} passes, "
            f"{self.seconds:.2f} s ({self.seconds_in_products:.2f} s in products){memory}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings and one dictionary for the solver, ready for JSON."""
        solver = {"class": type(self.solver).__name__}
        for name, value in attrs.asdict(self.solver).items():
            solver[name] = value.value if isinstance(value, enum.Enum) else value
        return {**attrs.asdict(self, recurse=False), "solver": solver, "status": self.status.name}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> SolveReport:
        """The report that `to_dict` wrote.

        Raises:
            ValueError: a solver class that is not imported, or entries that are not those of a report.
        """
        from .solver import EigenSolver

        try:
            parameters = dict(entries["solver"])
            name = parameters.pop("class")
            status = Status[entries["status"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the entries of a SolveReport: {error!r}") from error
        known = {solver.__name__: solver for solver in _descendants(EigenSolver)}  # type: ignore[type-abstract]
        if name not in known:
            raise ValueError(f"no solver is called {name!r}; import the module that defines it before loading")
        return cls(**{**entries, "solver": known[name](**parameters), "status": status})


def _descendants(solver: type[EigenSolver]) -> list[type[EigenSolver]]:
    return [descendant for child in solver.__subclasses__() for descendant in (child, *_descendants(child))]


@attrs.frozen(eq=False, repr=False)
class EigenDecomposition:
    """The leading part of A = V diag(λ) Vᵀ: eigenvalues, orthonormal eigenvectors, and how far A v is from λ v.

    Attributes:
        eigenvalues: (k,), leading first by the solver's `Which`.
        eigenvectors: (n, k) with orthonormal columns.
        residual_norms: (k,), ‖A vᵢ - λᵢ vᵢ‖, each a bound of the distance of λᵢ to an eigenvalue of A; NaN where they
            were not measured.
        report: how the result was found.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residual_norms: Tensor
    report: SolveReport

    @property
    def subspace(self) -> EigenSubspace:
        """The span of the eigenvectors.

        Raises:
            ValueError: no pair was found.
        """
        if len(self.eigenvalues) == 0:
            raise ValueError(f"{self!r} has no subspace, as no pair was found: {self.report.status.value}")
        return EigenSubspace(self.eigenvectors, self.eigenvalues, check=False)

    @property
    def operator(self) -> LinearOperator:
        """V diag(λ) Vᵀ, the (n, n) symmetric operator of rank k that the pairs make up.

        Cost: a product with b columns takes 4 n k b flops.
        """
        return Diagonal(self.eigenvalues).congruence(Dense(self.eigenvectors.mT))

    def leading(self, j: int) -> EigenDecomposition:
        """The first j pairs, 1 <= j <= k.

        Raises:
            ValueError: j outside 1 … k.

        Cost: none, it is a view.
        """
        if not 1 <= j <= len(self.eigenvalues):
            raise ValueError(f"leading(j) takes 1 <= j <= {len(self.eigenvalues)}, got {j}")
        return attrs.evolve(
            self,
            eigenvalues=self.eigenvalues[:j],
            eigenvectors=self.eigenvectors[:, :j],
            residual_norms=self.residual_norms[:j],
        )

    def converged(self, tol: float) -> Tensor:
        """Which pairs have a residual norm of at most ``tol`` times the largest |λ| among them: a boolean (k,) tensor.

        Pairs whose residual was not measured count as not converged.
        """
        if len(self.eigenvalues) == 0:
            return torch.zeros(0, dtype=torch.bool, device=self.eigenvalues.device)
        return self.residual_norms <= tol * self.eigenvalues.abs().max()

    def require_converged(self) -> EigenDecomposition:
        """This result, if its solver found every wanted pair to be accurate.

        Raises:
            RuntimeError: it did not; the message says what to do.
        """
        if not self.report.status.is_success:
            raise RuntimeError(f"{self!r}: {self.report.status.value}")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one file, a NumPy archive of plain arrays and a report in JSON.

        The file appears whole or not at all.

        Raises:
            OSError: the file cannot be written.

        Cost: n k numbers on disk.
        """
        arrays = {name: getattr(self, name).cpu().numpy() for name in _ARRAYS}
        with written_whole(Path(path)) as partial, partial.open("wb") as file:
            numpy.savez(file, report=json.dumps(self.report.to_dict()), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> EigenDecomposition:
        """The result that `save` wrote to ``path``, on ``device``. Loading runs no code from the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a file of `save`.
        """
        try:
            with open(path, "rb") as file, numpy.load(file, allow_pickle=False) as archive:
                tensors = {name: torch.from_numpy(archive[name]).to(device) for name in _ARRAYS}
                report = SolveReport.from_dict(json.loads(str(archive["report"])))
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{path} holds no EigenDecomposition that can be loaded: {error}") from error
        return cls(**tensors, report=report)

    def __repr__(self) -> str:
        n, k = self.eigenvectors.shape
        dtype = str(self.eigenvectors.dtype).removeprefix("torch.")
        span = f", λ {self.eigenvalues[0]:.4g} … {self.eigenvalues[-1]:.4g}" if k else ""
        largest = f", residuals up to {self.residual_norms.max():.1e}" if k else ""
        status = self.report.status.name.lower().replace("_", " ")
        return f"<EigenDecomposition {k} of {n} {dtype} {self.eigenvectors.device}{span}{largest}, {status}>"


_ARRAYS = ("eigenvalues", "eigenvectors", "residual_norms")
