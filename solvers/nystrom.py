"""Randomised Nyström approximations of positive semidefinite operators."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .basis import completed
from .report import Status
from .sketching import TEST_MATRICES
from .solver import EigenPairs, EigenSolver, Which
from .tall import blocks, combine, gram, orthonormalise
from .template import positive_integer
from .watched import Watched

_ROUNDING = 10.0  # roundings of the largest eigenvalue of the core: what is smaller is one


@attrs.frozen(kw_only=True)
class Nystrom(EigenSolver):
    """The k leading eigenpairs of Y (Ωᵀ Y)⁺ Yᵀ, Y = A Ω, the Nyström approximation of a positive semidefinite A.

    Ω is a random (n, sketch_size) test matrix, and all products are with it: a single pass. No larger matrix with the
    range of Y leaves A minus it semidefinite. So it is exact where the rank of A is at most sketch_size, and its
    eigenvalues never exceed those of A, but for rounding errors, which grow with the condition of the core. For the
    same products it is more accurate than `SketchedEigh`, which does not use that A is definite.

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

    sketch_size: int | None = attrs.field(default=None, validator=positive_integer)
    test_matrix: str = attrs.field(default="ssrft", validator=attrs.validators.in_(tuple(TEST_MATRICES)))
    block_size: int = attrs.field(default=64, validator=positive_integer)
    measure_residuals: bool = True

    def __attrs_post_init__(self) -> None:
        if self.which is Which.SA:
            raise ValueError(
                "a Nyström approximation has the largest eigenvalues alone: of the smallest, which='SA', it knows "
                "nothing; take BlockLanczos"
            )

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        Y, core = self._sketch(A)
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
        norms = None if self.measure_residuals else torch.full_like(values, torch.nan)
        return EigenPairs(values, pairs, Status.SKETCHED, norms, notes)

    def _sketch(self, A: Watched) -> tuple[Tensor, Tensor]:
        """Y = A Ω, and Ωᵀ Y, whose upper blocks are the transposes of the lower: Ω is drawn once and not kept."""
        n, size = A.shape[0], self._size(A)
        omega = TEST_MATRICES[self.test_matrix](
            n, size, seed=self.seed, purpose="nystrom", dtype=A.dtype, device=A.device
        )
        Y = torch.empty(size, n, dtype=A.dtype, device=A.device).mT
        core = torch.zeros(size, size, dtype=torch.float64)
        for start, stop in blocks(0, size, self.block_size):
            block = omega.columns(start, stop)
            Y[:, start:stop] = A._matmat(block)
            core[start:stop, :stop] = gram(block, Y[:, :stop])
            core[:start, start:stop] = core[start:stop, :start].mT
        return Y, (core + core.mT) / 2

    def _noise(self, eigenvalues: Tensor, A: Watched) -> float:
        """The size of rounding errors among the eigenvalues of the core."""
        largest, least = float(eigenvalues.abs().max()), float(eigenvalues.min())
        rounding = torch.finfo(A.dtype).eps
        if -least > rounding**0.5 * largest:
            raise ValueError(
                f"{A.A} says that it is positive semidefinite, but xᵀ A x is negative for some combination x of random "
                f"vectors, by {-least / largest:.1e} of its largest value; BlockLanczos takes any symmetric operator"
            )
        return max(_ROUNDING * rounding * largest, -least)

    def _size(self, A: LinearOperator) -> int:
        n = A.shape[0]
        size = min(n, 2 * (self.k + max(10, self.k // 4))) if self.sketch_size is None else self.sketch_size
        if not self.k <= size <= n:
            raise ValueError(f"sizes must be k <= sketch_size <= n, got k={self.k}, sketch_size={size}, n={n}")
        return size

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        if not A.is_psd:
            raise ValueError(
                f"Nystrom needs a positive semidefinite operator, and nothing says that {A} is one; if it is, pass "
                "Declared(A, Structure.PSD), or as_operator(A, structure=Structure.PSD) for a matrix"
            )

    def _total(self, A: LinearOperator) -> int | None:
        return 2 * self.check_symmetry + self._size(A) + self.k * self.measure_residuals
