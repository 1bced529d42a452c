"""Sketched singular value decompositions: all products are with random vectors that are known in advance."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .core_sketching import CoreSketching
from .cores import least_squares_core, two_sided_core
from .measurement import Measurement
from .report import Status
from .results import SingularValueDecomposition
from .sketches import Sketch
from .svd_solver import SingularTriplets, SVDSolver
from .tall import combine, gram
from .watched import Watched
from .workload import Workload


@attrs.frozen(kw_only=True)
class SketchedSVD(CoreSketching, SVDSolver):
    """An approximation A ≈ Q C Pᵀ of an (m, n) operator from its products with random test matrices, in a single pass.

    The k leading singular triplets of Q C Pᵀ are returned. It is accurate where the singular values decay. No vector
    that A or Aᵀ multiplies depends on A, so products may be measured in parts, by `measure`, on many machines or of
    parts of the data, and put together before `decompose` makes triplets of them.

    The orthonormal Q, (m, outer), and P, (n, outer), and the core C come, by ``core``,

    - ``"least-squares"``: from Y = A Ω and X = Aᵀ Υ of inner columns each. Q and P span their outer leading left
      singular vectors, and C minimises ‖Qᵀ Y - C Pᵀ Ω‖² + ‖Pᵀ X - Cᵀ Qᵀ Υ‖², in closed form: the symmetric core of
      `SketchedEigh` for an A that is not symmetric. It takes 2 inner products and keeps (m + n) inner numbers;
    - ``"two-sided"``: from a range sketch Y = A Ω and a co-range sketch X = Aᵀ Υ of outer columns each, which Q and P
      span, and a core sketch Z = Φᵀ A Ψ of inner columns each way: C = (Φᵀ Q)⁺ Z (Pᵀ Ψ)⁺, as published. It takes
      2 outer + inner products and keeps (m + n) outer + inner² numbers. Of the same products the error is larger: of
      rank 40 with noise and 321 products 2.4 times the best, where least squares come to 1.4 from 320.

    What A does outside the spans is an error of the core, large where singular values decay slowly. The report notes if
    it is as large as half of a singular value found.

    Args:
        outer: dimension of Q and P; by default k + max(10, k / 4), at most min(m, n).
        k: how many triplets; by default ``outer``.
        inner: columns of the larger test matrices; by default 2 outer, or 2 outer + 1 for the two-sided core, at most
            min(m, n).
        test_matrix: ``"ssrft"``, ``"gaussian"``, ``"rademacher"`` or ``"sparse-sign"``.
        core: ``"least-squares"`` or ``"two-sided"``.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        measure_residuals: whether 2 k further products measure residual norms; else they are NaN.
        seed, check_adjoint: see `SVDSolver`.

    The columns of a measurement are those of Ω, of Υ and of Ψ, in this order.

    Raises:
        ValueError: besides those of `SVDSolver`, sizes that are not k <= outer <= inner <= min(m, n), neither k nor
            outer given, an unknown test matrix or core.

    Source: Tropp, Yurtsever, Udell & Cevher (2019), Streaming low-rank matrix approximation with an application to
    scientific simulation, SIAM J. Sci. Comput. 41, section 2: ``core="two-sided"``.

    Cost: the products above, by A and by Aᵀ. About 8 (m + n) inner² flops; 8 (m + n) outer² + 2 m inner² for the
    two-sided core. Memory: the numbers kept, and twice those of Y or X while Q or P is made.
    """

    core: str = attrs.field(default="least-squares", validator=attrs.validators.in_(("least-squares", "two-sided")))

    @torch.no_grad()
    def decompose(self, measurement: Measurement) -> SingularValueDecomposition:
        """The k leading singular triplets of the operator that was measured.

        They are those of `solve`, to rounding. Residual norms are NaN: to measure them takes products.

        Args:
            measurement: all columns of this sketch, from `measure` by solvers of the same seed, test matrix and sizes.

        Raises:
            TypeError: it is no measurement.
            ValueError: it is of another sketch, or lacks columns.

        Cost: no products; the flops and memory of `solve`.
        """
        found, cost = self._decomposing(measurement, lambda A: self._ordered(self._triplets(A, measurement), A))
        return self._result(found, cost, check_products=0)

    def _solve(self, A: Watched, start: Tensor | None) -> SingularTriplets:
        return self._triplets(A, self._measured(A))

    def _triplets(self, A: LinearOperator, measurement: Measurement) -> SingularTriplets:
        """Triplets of Q C Pᵀ, from a whole measurement."""
        outer, _ = self._sizes(A.shape)
        Y, X = measurement.arrays["range"], measurement.arrays["corange"]
        Q, P = self._spanned(Y, outer), self._spanned(X, outer)
        omega, upsilon, psi, phi = self._test_matrices(A)
        if self.core == "least-squares":
            core = least_squares_core(_image(omega, P), gram(Q, Y), _image(upsilon, Q), gram(P, X))
        else:
            core = two_sided_core(_image(phi, Q), measurement.arrays["core"], _image(psi, P))
        U, sigma, Vt = torch.linalg.svd(core.matrix)
        return SingularTriplets(
            combine(Q, U[:, : self.k]),
            sigma[: self.k],
            combine(P, Vt[: self.k].mT),
            Status.SKETCHED,
            notes=self._notes(core, sigma[: self.k], A, "take a larger inner, or BlockGolubKahan"),
        )

    def _columns(self, outer: int, inner: int) -> dict[str, int]:
        if self.core == "least-squares":
            return {"range": inner, "corange": inner}
        return {"range": outer, "corange": outer, "core": inner}

    def _products(self, A: LinearOperator) -> dict[str, Callable[[int, int], Tensor]]:
        omega, upsilon, psi, phi = self._test_matrices(A)
        return {
            "range": lambda start, stop: A._matmat(omega.columns(start, stop)),
            "corange": lambda start, stop: A._rmatmat(upsilon.columns(start, stop)),
            "core": lambda start, stop: _image(phi, A._matmat(psi.columns(start, stop))).mT,
        }

    def _test_matrices(self, A: LinearOperator) -> tuple[Sketch, Sketch, Sketch, Sketch]:
        """Ω, Υ, Ψ and Φ; what is not used is not drawn."""
        (m, n), (_, inner) = A.shape, self._sizes(A.shape)
        return (
            self._draw(A, n, inner, "range sketch"),
            self._draw(A, m, inner, "co-range sketch"),
            self._draw(A, n, inner, "core sketch"),
            self._draw(A, m, inner, "core sketch of the rows"),
        )

    def _default_inner(self, outer: int) -> int:
        return 2 * outer + (self.core == "two-sided")

    def _require_measurable(self, A: LinearOperator) -> None:
        self._require_suitable(A)

    def _workload(self, A: LinearOperator) -> Workload:
        outer, inner = self._sizes(A.shape)
        wide = inner if self.core == "least-squares" else outer
        return Workload(
            width=min(self.block_size, wide),
            passes=self._passes(A.shape) + 2 * self.check_adjoint + 2 * self.measure_residuals,
            working=3 * wide,
            row_flops=8 * wide**2 + 2 * inner**2 * (self.core == "two-sided"),
            core=inner,
            core_flops=40 * wide**3,  # singular value decompositions of both triangular factors
            sketch=self._test_matrices(A)[0],
            sketched=2 * (inner + outer),
        )

    def _total(self, A: LinearOperator) -> int | None:
        measured = 2 * self.k * self.measure_residuals
        return 2 * self.check_adjoint + sum(self._parts(A.shape).values()) + measured


def _image(omega: Sketch, X: Tensor) -> Tensor:
    """Xᵀ Ω, small."""
    return (omega.T @ X).double().cpu().mT
