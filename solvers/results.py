"""What solvers return: eigenpairs or singular triplets, with residual norms and a report of how they were found."""

from __future__ import annotations

import abc
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs
import torch
from torch import Tensor

from ..linops import Dense, Diagonal, EigenSubspace, LinearOperator, OrthonormalSubspace
from ..linops.files import opened_archive, require_arrays
from ..linops.sharding import is_spread, rows_of
from ..linops.tall_matrix import TallMatrix, require_row_numbers
from .archive import mapped_tensor, write_archive
from .report import SolveReport

_Self = TypeVar("_Self", bound="_Decomposition")


class _Decomposition(abc.ABC):
    """What the results of eigensolvers and of singular value solvers share.

    A subclass is an attrs class whose fields are tensors of k numbers or (·, k) vectors, unformed ones too, and the
    report.
    """

    if TYPE_CHECKING:
        residual_norms: Tensor
        report: SolveReport

        def __init__(self, *, report: SolveReport, **tensors: Tensor | TallMatrix) -> None: ...

    @property
    @abc.abstractmethod
    def _leading_values(self) -> Tensor:
        """The eigenvalues or singular values, (k,)."""

    @property
    @abc.abstractmethod
    def operator(self) -> LinearOperator:
        """The operator of rank k that the result makes up."""

    def leading(self: _Self, j: int) -> _Self:  # noqa: PYI019 - typing has no Self in Python 3.10
        """The first j pairs or triplets, 1 <= j <= k.

        Raises:
            ValueError: j outside 1 … k.

        Cost: none, it is a view.
        """
        if not 1 <= j <= len(self._leading_values):
            raise ValueError(f"leading(j) takes 1 <= j <= {len(self._leading_values)}, got {j}")
        first = {name: _leading(tensor, j) for name, tensor in self._tensors().items()}
        return type(self)(**first, report=self.report)

    def converged(self, tol: float) -> Tensor:
        """Which have a residual norm of at most ``tol`` times the largest |value| among them: a boolean (k,) tensor.

        Those whose residual was not measured count as not converged.

        Cost: none to speak of.
        """
        if len(self._leading_values) == 0:
            return torch.zeros(0, dtype=torch.bool, device=self._leading_values.device)
        return self.residual_norms <= tol * self._leading_values.abs().max()

    def require_converged(self: _Self) -> _Self:  # noqa: PYI019
        """This result, if its solver found all of it to be accurate.

        Raises:
            RuntimeError: it did not; the message says what to do.

        Cost: none.
        """
        if not self.report.status.is_success:
            raise RuntimeError(self._ending)
        return self

    @property
    def _ending(self) -> str:
        """The result and how its solve ended, in words."""
        return f"{self!r}: {self.report.ending}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one file, a NumPy archive of plain arrays and a report in JSON.

        The file appears whole or not at all.

        Args:
            path: of the file, which is replaced if it is there.

        Raises:
            OSError: the file cannot be written.
            TypeError: vectors whose rows are spread over the ranks of a job.

        Cost: the numbers of all vectors on disk; unformed ones are written some rows at a time.
        """
        for name, tensor in self._tensors().items():
            if is_spread(tensor):
                raise TypeError(
                    f"{self!r} has its {name} spread over ranks, and a file takes whole ones: on all ranks gather it "
                    f"by attrs.evolve(result, {name}=whole(result.{name})), and save that on one"
                )
        write_archive(Path(path), self._tensors(), json.dumps(self.report.to_dict()))

    @classmethod
    def load(  # noqa: PYI019
        cls: type[_Self], path: str | os.PathLike[str], device: torch.device | str = "cpu", *, mmap: bool = False
    ) -> _Self:
        """The result that `save` wrote to ``path``, on ``device``. Loading runs no code from the file.

        Args:
            path: of the file.
            device: of the tensors.
            mmap: whether numbers stay in the file until they are asked for, as those of vectors that do not fit into
                memory: what takes them some rows at a time, masks among it, then does so from disk. They are not
                verified by the checksum of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a file of `save`, or of another kind of result; mmap on another device than the CPU.

        Cost: the numbers are read, unless they are mapped.
        """
        if mmap and torch.device(device).type != "cpu":
            raise ValueError(f"mmap=True keeps numbers in the file, not on {device}: leave out one of them")
        try:
            with opened_archive(path) as archive:
                require_arrays(archive, [*cls._tensor_names(), "report"])
                tensors = {
                    name: mapped_tensor(Path(path), name) if mmap else torch.from_numpy(archive[name]).to(device)
                    for name in cls._tensor_names()
                }
                report = SolveReport.from_dict(json.loads(str(archive["report"])))
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{path} holds no {cls.__name__} that can be loaded: {error}") from error
        return cls(**tensors, report=report)

    @classmethod
    def _tensor_names(cls) -> list[str]:
        return [field.alias for field in attrs.fields(cls) if field.name != "report"]  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor | TallMatrix]:
        fields = attrs.fields(type(self))  # type: ignore[arg-type]
        return {field.alias: getattr(self, field.name) for field in fields if field.name != "report"}

    def _described(self, size: str, vectors: Tensor | TallMatrix, letter: str) -> str:
        values, k = self._leading_values, len(self._leading_values)
        dtype = str(vectors.dtype).removeprefix("torch.")
        span = f", {letter} {values[0]:.4g} … {values[-1]:.4g}" if k else ""
        norms = self.residual_norms
        known = k > 0 and bool(norms.isfinite().all())
        told = f"up to {norms.max():.1e}" if known else "not measured"
        largest = f", residuals {told}" if k else ""
        status = self.report.status.name.lower().replace("_", " ")
        return f"<{type(self).__name__} {k} of {size} {dtype} {vectors.device}{span}{largest}, {status}>"


@attrs.frozen(eq=False, repr=False)
class EigenDecomposition(_Decomposition):
    """The leading part of A = V diag(λ) Vᵀ: eigenvalues, orthonormal eigenvectors, and how far A v is from λ v.

    Attributes:
        eigenvalues: (k,), leading first by the solver's `Which`.
        eigenvectors: (n, k) with orthonormal columns. Of a solver with a `Storage` they are formed when first asked
            for, where it keeps them; `subspace`, `operator`, `leading`, `rows`, `save` and `certify` do without.
        residual_norms: (k,), ‖A vᵢ - λᵢ vᵢ‖, each a bound of the distance of λᵢ to an eigenvalue of A; NaN where they
            were not measured.
        report: how the result was found.
    """

    eigenvalues: Tensor
    _eigenvectors: Tensor | TallMatrix
    residual_norms: Tensor
    report: SolveReport

    @property
    def eigenvectors(self) -> Tensor:
        """V, (n, k), formed when first asked for; see the class."""
        return self._eigenvectors.formed() if isinstance(self._eigenvectors, TallMatrix) else self._eigenvectors

    def rows(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The rows of V of those numbers, (j, k), without forming it: what a mask needs.

        Args:
            indices: (j,) integers.

        Raises:
            TypeError: numbers that are no integers.
            ValueError: numbers outside 0 … n - 1.

        Cost: as many rows of the basis.
        """
        vectors, indices = self._eigenvectors, torch.as_tensor(indices)
        if isinstance(vectors, TallMatrix):
            return vectors.rows(indices)
        require_row_numbers(indices, len(vectors))
        return rows_of(vectors, indices)

    @property
    def subspace(self) -> EigenSubspace:
        """The span of the eigenvectors.

        Raises:
            ValueError: no pair was found.
        """
        if len(self.eigenvalues) == 0:
            raise ValueError(f"{self!r} has no subspace, as no pair was found: {self.report.status.value}")
        return EigenSubspace(self._eigenvectors, self.eigenvalues, check=False)

    @property
    def operator(self) -> LinearOperator:
        """V diag(λ) Vᵀ, the (n, n) symmetric operator of rank k that the pairs make up.

        Cost: a product with b columns takes 4 n k b flops.
        """
        vectors = self._eigenvectors
        adjoint = vectors.T if isinstance(vectors, TallMatrix) else Dense(vectors.mT)
        return Diagonal(self.eigenvalues).congruence(adjoint)

    @property
    def _leading_values(self) -> Tensor:
        return self.eigenvalues

    def __repr__(self) -> str:
        return self._described(str(self._eigenvectors.shape[0]), self._eigenvectors, "λ")


@attrs.frozen(eq=False, repr=False)
class SingularValueDecomposition(_Decomposition):
    """The leading part of A = U diag(σ) Vᵀ: singular values, and orthonormal singular vectors of both sides.

    Attributes:
        left_vectors: U, (m, k) with orthonormal columns.
        singular_values: σ, (k,), the largest first.
        right_vectors: V, (n, k) with orthonormal columns.
        residual_norms: (k,), √((‖A v - σ u‖² + ‖Aᵀ u - σ v‖²) / 2), each a bound of the distance of ±σ to an eigenvalue
            of the symmetric matrix [0, A; Aᵀ, 0], that is of σ to a singular value of A, or to zero unless A is
            square; NaN where they were not measured.
        report: how the result was found.
    """

    left_vectors: Tensor
    singular_values: Tensor
    right_vectors: Tensor
    residual_norms: Tensor
    report: SolveReport

    @property
    def left_subspace(self) -> OrthonormalSubspace:
        """The span of the left singular vectors, in Rᵐ."""
        return OrthonormalSubspace(self.left_vectors, check=False)

    @property
    def right_subspace(self) -> OrthonormalSubspace:
        """The span of the right singular vectors, in Rⁿ."""
        return OrthonormalSubspace(self.right_vectors, check=False)

    @property
    def operator(self) -> LinearOperator:
        """U diag(σ) Vᵀ, the (m, n) operator of rank k that the triplets make up.

        Cost: a product with b columns takes 2 (m + n) k b flops.
        """
        return Dense(self.left_vectors) @ Diagonal(self.singular_values) @ Dense(self.right_vectors.mT)

    @property
    def _leading_values(self) -> Tensor:
        return self.singular_values

    def __repr__(self) -> str:
        return self._described(f"{len(self.left_vectors)}x{len(self.right_vectors)}", self.left_vectors, "σ")


def _leading(tensor: Tensor | TallMatrix, j: int) -> Tensor | TallMatrix:
    """The first j numbers or columns."""
    return tensor.leading(j) if isinstance(tensor, TallMatrix) else tensor[..., :j]
