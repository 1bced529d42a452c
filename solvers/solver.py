"""The eigensolver as a template method: everything that all of them share, written once."""

from __future__ import annotations

import abc
import enum
import os
import warnings
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator, Subspace
from ..linops.sharding import placed
from ..linops.tall_matrix import TallMatrix
from .report import ConvergenceWarning, Status
from .results import EigenDecomposition
from .sketches import Gaussian
from .tall import column_norms, gram, leading_columns, scale_columns
from .template import Cost, Solver, operator_for, require_available, require_known_symmetric
from .watched import Watched


class Which(enum.Enum):
    """Which end of the spectrum leads: LM the largest |λ|, LA the largest λ, SA the smallest λ."""

    LM = "LM"
    LA = "LA"
    SA = "SA"

    @classmethod
    def _missing_(cls, value: object) -> Which:
        raise ValueError(f"which is one of 'LM' (largest |λ|), 'LA' (largest λ), 'SA' (smallest λ), got {value!r}")

    def key(self, eigenvalues: Tensor) -> Tensor:
        """What is the larger, the further an eigenvalue leads, (m,).

        Args:
            eigenvalues: (m,).
        """
        return {Which.LM: eigenvalues.abs(), Which.LA: eigenvalues, Which.SA: -eigenvalues}[self]

    def order(self, eigenvalues: Tensor) -> Tensor:
        """The permutation that puts (m,) eigenvalues in order, leading first; equal ones keep their order."""
        return torch.argsort(self.key(eigenvalues), descending=True, stable=True)


@attrs.frozen(eq=False)
class EigenPairs:
    """What a subclass finds: pairs in any order, at least as many as wanted unless it could not.

    Attributes:
        eigenvalues: (m,) in any real dtype.
        eigenvectors: (n, m) orthonormal; those that a `Storage` holds stay unformed in the result until asked for.
        status: how it ended.
        residual_norms: (m,) ‖A v - λ v‖ if they are known without further products, else None.
        notes: what else the report is to say, in sentences.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor | TallMatrix
    status: Status
    residual_norms: Tensor | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class EigenSolver(Solver):
    """A method to find k leading eigenpairs of a symmetric operator.

    Parameters stand in the constructor, the operator in `solve`. A subclass is a frozen attrs class that defines
    ``_solve``.

    Args:
        k: how many pairs.
        which: the end of the spectrum, a `Which` or its name.
        seed: root of all random numbers.
        check_symmetry: whether to test by two products that the operator is as symmetric as it says. Leave it out for
            products so inexact, in half precision say, that they fail the test.

    Raises:
        TypeError: a k that is no integer.
        ValueError: k < 1, an unknown ``which``, a negative seed.
    """

    which: Which = attrs.field(default=Which.LM, converter=Which)
    check_symmetry: bool = True

    @torch.no_grad()
    def solve(
        self,
        A: Any,
        start: Subspace | Tensor | None = None,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> EigenDecomposition:
        """The k leading eigenpairs of A.

        Args:
            A: a symmetric `LinearOperator`, or what `as_operator` makes one of, in float32 or float64.
            start: a guess of the wanted eigenspace: a subspace, or an (n, b) tensor that spans one.
            progress: whether to show a bar that counts products.
            checkpoint: a folder to keep every product in, so that the same call goes on after an interruption, with
                the same result, see ``docs/solvers.md``. It belongs to this solver, operator and start.

        Raises:
            TypeError: A in another dtype; a start of another dtype or device.
            ValueError: A is not square, is not known to be symmetric, or is not although it says so; k exceeds n;
                a start of the wrong size or for a solver that uses none; a product with NaN or infinite entries; a
                checkpoint of something else.
            OSError: the checkpoint cannot be written, to begin with.
            RuntimeError: the checkpoint is in use, or its products do not fit, as rounding has changed.

        Warns:
            ConvergenceWarning: some pairs do not meet the tolerance; ``report.status`` says what to do.

        Cost: that of the solver, two products to test symmetry and, unless the solver knows the residuals, k products
        to measure them.
        """
        result = self._solve_silently(A, start, progress, checkpoint)
        if result.report.status.is_failure:
            warnings.warn(result._ending, ConvergenceWarning, stacklevel=3)
        return result

    def _solve_silently(
        self,
        A: Any,
        start: Subspace | Tensor | None,
        progress: bool,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> EigenDecomposition:
        """See `solve`; it warns of nothing, so that whoever solves for others can say of whom."""
        operator = operator_for(A, type(self).__name__, self.takes_spread_rows)
        self._require_suitable(operator)
        guess = self._checked_start(start, operator)

        def find(watched: Watched) -> tuple[EigenPairs, int]:
            if self.check_symmetry:
                self._test_symmetry(watched)
            checks = watched.products
            pairs = self._ordered(self._solve(watched, guess), operator)
            if pairs.residual_norms is not None or not self._measures_residuals:
                return pairs, checks
            norms = _residual_norms(watched, pairs)
            return attrs.evolve(pairs, residual_norms=norms), checks + len(norms)

        (pairs, checks), cost = self._watching(operator, progress, find, checkpoint, guess)
        return self._result(pairs, cost, checks)

    @abc.abstractmethod
    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        """Pairs of a symmetric A."""

    def _result(self, pairs: EigenPairs, cost: Cost, check_products: int) -> EigenDecomposition:
        """The result of `_ordered` pairs; of residual norms that are not known there are none."""
        norms = pairs.residual_norms
        norms = torch.full_like(pairs.eigenvalues, torch.nan) if norms is None else norms.to(pairs.eigenvalues)
        report = self._report(cost, pairs.status, check_products, pairs.notes)
        return EigenDecomposition(pairs.eigenvalues, pairs.eigenvectors, norms, report)

    def _require_suitable(self, A: LinearOperator) -> None:
        m, n = A.shape
        if m != n:
            raise ValueError(f"eigenvalues need a square operator, got {A}; A.T @ A and A @ A.T are square")
        require_known_symmetric(A, type(self).__name__)
        require_available(self.k, "eigenpairs", A, n)

    def _ordered(self, pairs: EigenPairs, A: LinearOperator) -> EigenPairs:
        """The k leading pairs that a subclass gave back, once checked, in the dtype and on the device of A."""
        if not isinstance(pairs, EigenPairs):
            raise TypeError(f"{type(self).__name__}._solve must return EigenPairs, got {type(pairs).__name__}")
        self._require_orthonormal(pairs.eigenvectors, "eigenvectors")
        order = self.which.order(pairs.eigenvalues.cpu())[: self.k]
        values = pairs.eigenvalues.cpu()[order].to(A.device, A.dtype)
        vectors = leading_columns(pairs.eigenvectors, order)
        if isinstance(vectors, Tensor):
            vectors = placed(vectors, A.row_mesh)
        norms = None if pairs.residual_norms is None else pairs.residual_norms.cpu()[order]
        return attrs.evolve(pairs, eigenvalues=values, eigenvectors=vectors, residual_norms=norms)

    def _test_symmetry(self, A: Watched) -> None:
        """Compare uᵀ A v and vᵀ A u for normal u, v: they differ by about ‖A - Aᵀ‖, Au and Av are about ‖A‖ (all F)."""
        vectors = Gaussian(A.shape[0], 2, seed=self.seed, purpose="verification", dtype=A.dtype, device=A.device)
        pair = vectors.columns(0, 2)
        images = A._matmat(pair)
        cross = gram(pair.double(), images.double())
        difference = abs(float(cross[0, 1] - cross[1, 0]))
        size = float(column_norms(images).sum())
        if difference > torch.finfo(A.dtype).eps ** 0.5 * size:
            raise ValueError(
                f"{A.A} says that it is symmetric, but uᵀ A v and vᵀ A u of two random vectors differ by "
                f"{difference / size:.1e} of ‖A‖; symmetrise it, (A + A.T) / 2, or if its products are only inexact "
                f"set {type(self).__name__}(check_symmetry=False)"
            )


def _residual_norms(A: Watched, pairs: EigenPairs) -> Tensor:
    """‖A v - λ v‖, by one product for each pair; of a `TallMatrix` some vectors at a time."""
    vectors = pairs.eigenvectors
    if not isinstance(vectors, TallMatrix):
        return column_norms(A._matmat(vectors) - scale_columns(vectors, pairs.eigenvalues))
    norms = [
        column_norms(A._matmat(block) - scale_columns(block, pairs.eigenvalues[columns]))
        for columns, block in vectors.column_blocks()
    ]
    return torch.cat(norms)
