"""The singular value solver as a template method: everything that all of them share, written once."""

from __future__ import annotations

import abc
import os
import warnings
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator, Subspace
from ..linops.sharding import placed
from .report import ConvergenceWarning, Status
from .results import SingularValueDecomposition
from .sketches import Gaussian
from .tall import column_norms, gram, leading_columns, scale_columns
from .template import Cost, Solver, operator_for, require_available
from .watched import Watched


@attrs.frozen(eq=False)
class SingularTriplets:
    """What a subclass finds: triplets in any order, at least as many as wanted unless it could not.

    Attributes:
        left_vectors: (m, j) orthonormal.
        singular_values: (j,) non-negative, in any real dtype.
        right_vectors: (n, j) orthonormal.
        status: how it ended.
        residual_norms: (j,) as in `SingularValueDecomposition` if they are known without further products, else None.
        notes: what else the report is to say, in sentences.
    """

    left_vectors: Tensor
    singular_values: Tensor
    right_vectors: Tensor
    status: Status
    residual_norms: Tensor | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class SVDSolver(Solver):
    """A method to find the k largest singular values of an operator, with their vectors.

    Parameters stand in the constructor, the operator in `solve`. A subclass is a frozen attrs class that defines
    ``_solve``. Products count columns multiplied by A or by Aᵀ.

    Args:
        k: how many triplets.
        seed: root of all random numbers.
        check_adjoint: whether to test by a product of A and one of Aᵀ that they are adjoint. Leave it out for products
            so inexact, in half precision say, that they fail the test.

    Raises:
        TypeError: a k that is no integer.
        ValueError: k < 1, a negative seed.
    """

    check_adjoint: bool = True

    _sides: ClassVar[int] = 2

    @torch.no_grad()
    def solve(
        self,
        A: Any,
        start: Subspace | Tensor | None = None,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> SingularValueDecomposition:
        """The k leading singular triplets of A.

        Args:
            A: an (m, n) `LinearOperator` that multiplies from both sides, or what `as_operator` makes one of, in
                float32 or float64.
            start: a guess of the space of right singular vectors: a subspace of Rⁿ, or an (n, b) tensor that spans one.
            progress: whether to show a bar that counts products.
            checkpoint: a folder to keep every product in, so that the same call goes on after an interruption, with
                the same result, see ``docs/solvers.md``. It belongs to this solver, operator and start.

        Raises:
            TypeError: A in another dtype; a start of another dtype or device.
            ValueError: k exceeds min(m, n); products of A and Aᵀ that are not adjoint; a start of the wrong size or for
                a solver that uses none; a product with NaN or infinite entries; a
                checkpoint of something else.
            OSError: the checkpoint cannot be written, to begin with.
            RuntimeError: the checkpoint is in use, or its products do not fit, as rounding has changed.
            NotImplementedError: A has no product with its transpose.

        Warns:
            ConvergenceWarning: some triplets do not meet the tolerance; ``report.status`` says what to do.

        Cost: that of the solver, two products to test the adjoint and, unless the solver knows the residuals, 2 k
        products to measure them.
        """
        operator = operator_for(A, type(self).__name__, self.takes_spread_rows)
        self._require_suitable(operator)
        guess = self._checked_start(start, operator)

        def find(watched: Watched) -> tuple[SingularTriplets, int]:
            if self.check_adjoint:
                self._test_adjoint(watched)
            checks = watched.products
            found = self._ordered(self._solve(watched, guess), operator)
            if found.residual_norms is not None or not self._measures_residuals:
                return found, checks
            U, sigma, V = found.left_vectors, found.singular_values, found.right_vectors
            right = column_norms(watched._matmat(V) - scale_columns(U, sigma))
            left = column_norms(watched._rmatmat(U) - scale_columns(V, sigma))
            return attrs.evolve(found, residual_norms=torch.hypot(left, right) / 2**0.5), checks + 2 * len(left)

        (found, checks), cost = self._watching(operator, progress, find, checkpoint, guess)
        result = self._result(found, cost, checks)
        if found.status.is_failure:
            warnings.warn(result._ending, ConvergenceWarning, stacklevel=3)
        return result

    @abc.abstractmethod
    def _solve(self, A: Watched, start: Tensor | None) -> SingularTriplets:
        """Triplets of A, by products of A and Aᵀ."""

    def _require_suitable(self, A: LinearOperator) -> None:
        require_available(self.k, "singular triplets", A, min(A.shape))

    def _result(self, found: SingularTriplets, cost: Cost, check_products: int) -> SingularValueDecomposition:
        """The result of `_ordered` triplets; of residual norms that are not known there are none."""
        sigma, norms = found.singular_values, found.residual_norms
        norms = torch.full_like(sigma, torch.nan) if norms is None else norms.to(sigma)
        report = self._report(cost, found.status, check_products, found.notes)
        return SingularValueDecomposition(found.left_vectors, sigma, found.right_vectors, norms, report)

    def _ordered(self, found: SingularTriplets, A: LinearOperator) -> SingularTriplets:
        """The k leading triplets that a subclass gave back, once checked, in the dtype and on the device of A."""
        if not isinstance(found, SingularTriplets):
            raise TypeError(f"{type(self).__name__}._solve must return SingularTriplets, got {type(found).__name__}")
        self._require_orthonormal(found.left_vectors, "left singular vectors")
        self._require_orthonormal(found.right_vectors, "right singular vectors")
        order = torch.argsort(found.singular_values.cpu(), descending=True, stable=True)[: self.k]
        norms = found.residual_norms
        return attrs.evolve(
            found,
            left_vectors=placed(leading_columns(found.left_vectors, order), A.row_mesh),
            singular_values=found.singular_values.cpu()[order].to(A.device, A.dtype),
            right_vectors=placed(leading_columns(found.right_vectors, order), A.row_mesh),
            residual_norms=None if norms is None else norms.cpu()[order],
        )

    def _test_adjoint(self, A: Watched) -> None:
        """Compare yᵀ (A x) and xᵀ (Aᵀ y) for normal x, y: they differ by about ‖A - (Aᵀ)ᵀ‖, A x is about ‖A‖."""
        y, x = (
            Gaussian(size, 1, seed=self.seed, purpose=purpose, dtype=A.dtype, device=A.device).columns(0, 1)
            for size, purpose in zip(A.shape, ("adjoint verification", "verification"), strict=True)
        )
        image, adjoint_image = A._matmat(x), A._rmatmat(y)
        difference = abs(float(gram(y.double(), image.double()) - gram(x.double(), adjoint_image.double())))
        size = float(column_norms(image) + column_norms(adjoint_image))
        if difference > torch.finfo(A.dtype).eps ** 0.5 * size:
            raise ValueError(
                f"products of {A.A} and its transpose are not adjoint: yᵀ (A x) and xᵀ (Aᵀ y) of two random vectors "
                f"differ by {difference / size:.1e} of ‖A‖; mend rmatmat, or if its products are only inexact set "
                f"{type(self).__name__}(check_adjoint=False)"
            )
