"""Randomised Nyström approximations of positive semidefinite operators."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .basis import completed
from .measurement import Measurement
from .parameters import int_or_none, positive_integer
from .report import Status
from .results import EigenDecomposition
from .sketches import Sketch
from .sketching import Sketching
from .solver import EigenPairs, EigenSolver, Which
from .tall import combine, orthonormalise
from .watched import Watched
from .workload import Workload

_ROUNDING = 10.0  # roundings of the largest eigenvalue of the core: what is smaller is one


@attrs.frozen(kw_only=True)
class Nystrom(Sketching, EigenSolver):
    """The k leading eigenpairs of Y (Ωᵀ Y)⁺ Yᵀ, Y = A Ω, the Nyström approximation of a positive semidefinite A.

    Ω is a random (n, sketch_size) test matrix, and all products are with it: a single pass. No larger matrix with the
    range of Y leaves A minus it semidefinite. So it is exact where the rank of A is at most sketch_size, and its
    eigenvalues never exceed those of A, but for rounding errors, which grow with the condition of the core. For the
    same products it is more accurate than `SketchedEigh`, which does not use that A is definite. As there, products may
    be measured in parts, by `measure`, and put together before `decompose` makes pairs of them; with as many columns
    and the same seed they are the same products.

    The core Ωᵀ Y is Ωᵀ A Ω, semidefinite as A is, to rounding. Eigenvalues of it that are rounding errors, those within
    ten roundings of the largest or not above its negative ones, are left out of the pseudoinverse.

    Args:
        k: how many pairs.
        sketch_size: columns of Ω, each a product; by default 2 (k + max(10, k / 4)), at most n.
        test_matrix: ``"ssrft"``, ``"gaussian"``, ``"rademacher"`` or ``"sparse-sign"``.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        measure_residuals: whether k further products measure residual norms; else they are NaN.
        which: LM or LA, which are the same of a semidefinite A.
        seed, check_symmetry: see `EigenSolver`.

    Raises:
        ValueError: besides those of `EigenSolver`, an operator that is not known to be positive semidefinite, or whose
            core is not; ``which`` SA; sizes that are not k <= sketch_size <= n.

    Source: Tropp, Yurtsever, Udell & Cevher (2017), Fixed-rank approximation of a positive-semidefinite matrix from
    streaming data, algorithm 3, but for the core, which is shifted there and truncated here: a shift that is safe in
    single precision costs accuracy, about n / sketch_size times itself.

    Cost: sketch_size = s products, about 12 n s² flops and 3 n s numbers.
    """

    sketch_size: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)

    def __attrs_post_init__(self) -> None:
        if self.which is Which.SA:
            raise ValueError(
                "a Nyström approximation has the largest eigenvalues alone: of the smallest, which='SA', it knows "
                "nothing; take BlockLanczos"
            )

    @torch.no_grad()
    def decompose(self, measurement: Measurement) -> EigenDecomposition:
        """The k leading eigenpairs of the operator that was measured, as `SketchedEigh.decompose`.

        Args:
            measurement: all columns of this sketch, of a positive semidefinite operator.

        Raises:
            TypeError: it is no measurement.
            ValueError: it is of another sketch, lacks columns, or is not of a semidefinite operator.

        Cost: no products; the flops and memory of `solve`.
        """
        pairs, cost = self._decomposing(measurement, lambda A: self._ordered(self._pairs(A, measurement), A))
        return self._result(pairs, cost, check_products=0)

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        return self._pairs(A.A, self._measured(A))

    def _pairs(self, A: LinearOperator, measurement: Measurement) -> EigenPairs:
        """Pairs of Y (Ωᵀ Y)⁺ Yᵀ, from a whole measurement."""
        Y = measurement.arrays["range"]
        core = (self._omega(A).T @ Y).double().cpu()
        core = (core + core.mT) / 2
        eigenvalues, vectors = torch.linalg.eigh(core)
        kept = eigenvalues > self._noise(eigenvalues, A)
        step = orthonormalise(Y)
        # Y core⁺ Yᵀ = F Fᵀ
        F = step.R @ (vectors[:, kept] / eigenvalues[kept].sqrt())
        U, sigma, _ = torch.linalg.svd(F, full_matrices=False)
        found = min(self.k, len(sigma))
        values = torch.cat([sigma[:found].square(), torch.zeros(self.k - found, dtype=sigma.dtype)])
        pairs = completed(combine(step.Q, U[:, :found]), 0, self.k - found, self.seed, "completion of Nystrom")
        rank, size = int(kept.sum()), len(core)
        notes = () if rank == size else (f"The core has rank {rank} of {size}, to rounding, and so may A.",)
        return EigenPairs(values, pairs, Status.SKETCHED, notes=notes)

    def _parts(self, shape: tuple[int, int]) -> dict[str, int]:
        return {"range": self._size(shape[0])}

    def _products(self, A: LinearOperator) -> dict[str, Callable[[int, int], Tensor]]:
        omega = self._omega(A)
        return {"range": lambda start, stop: A._matmat(omega.columns(start, stop))}

    def _omega(self, A: LinearOperator) -> Sketch:
        return self._draw(A, A.shape[0], self._size(A.shape[0]), "sketch")

    def _require_measurable(self, A: LinearOperator) -> None:
        self._require_suitable(A)

    def _noise(self, eigenvalues: Tensor, A: LinearOperator) -> float:
        """The size of rounding errors among the eigenvalues of the core."""
        largest, least = float(eigenvalues.abs().max()), float(eigenvalues.min())
        rounding = torch.finfo(A.dtype).eps
        if -least > rounding**0.5 * largest:
            raise ValueError(
                f"{A} says that it is positive semidefinite, but xᵀ A x is negative for some combination x of random "
                f"vectors, by {-least / largest:.1e} of its largest value; BlockLanczos takes any symmetric operator"
            )
        return max(_ROUNDING * rounding * largest, -least)

    def _size(self, n: int) -> int:
        size = min(n, 2 * (self.k + max(10, self.k // 4))) if self.sketch_size is None else self.sketch_size
        if not self.k <= size <= n:
            raise ValueError(f"sizes must be k <= sketch_size <= n, got k={self.k}, sketch_size={size}, n={n}")
        return size

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        if not A.is_psd:
            raise ValueError(
                f"Nystrom needs a positive semidefinite operator, and nothing says that {A} is one; if it is, pass "
                "eigenspan.as_operator(A, structure=eigenspan.Structure.PSD)"
            )

    def _workload(self, A: LinearOperator) -> Workload:
        size = self._size(A.shape[0])
        return Workload(
            width=min(self.block_size, size),
            passes=self._passes(A.shape) + self.check_symmetry + self.measure_residuals,
            working=3 * (size + min(self.block_size, size)),
            row_flops=12 * size**2,
            core=size,
            core_flops=29 * size**3,  # the core, and the singular values of its root
            sketch=self._omega(A),
            sketched=2 * size,
        )

    def _total(self, A: LinearOperator) -> int | None:
        return 2 * self.check_symmetry + self._size(A.shape[0]) + self.k * self.measure_residuals
