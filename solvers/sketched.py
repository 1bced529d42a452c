"""Sketched eigendecompositions: all products are with random vectors that are known in advance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .basis import Basis
from .results import Status
from .sketches import SSRFT, Gaussian, Rademacher, Sketch
from .solver import EigenPairs, EigenSolver, Watched, positive_integer
from .tall import column_norms, combine, gram, orthonormalise

_TEST_MATRICES: dict[str, type[Sketch]] = {"ssrft": SSRFT, "gaussian": Gaussian, "rademacher": Rademacher}


@attrs.frozen(kw_only=True)
class SketchedEigh(EigenSolver):
    """An approximation A ≈ Q C Qᵀ of a symmetric A from its products W = A Ω with a random test matrix Ω, (n, inner).

    Q, (n, outer), is an orthonormal basis of the span of the first ``outer`` columns of W. The core C comes from all of
    W: the products need not wait for one another, and A is applied to no vector that depends on A. The k leading
    eigenpairs of Q C Qᵀ are returned. It is accurate where the spectrum decays; ``which`` picks from the pairs with
    large |λ|, which are all it finds.

    The core is

    - ``"symmetric"``: the symmetric C that minimises ‖Qᵀ W - C Qᵀ Ω‖, in closed form (Higham 1988);
    - ``"two-sided"``: (Ωᵀ Q)⁺ (Ωᵀ W) (Qᵀ Ω)⁺ by two least-squares solves, made symmetric. This is the published
      method; it uses Ωᵀ W alone, and is less accurate;
    - with ``two_pass``, Qᵀ A Q from ``outer`` further products (Rayleigh-Ritz), the best C there is. Residual norms then
      come free.

    Args:
        outer: dimension of Q; by default k + max(10, k / 4), at most n.
        k: how many pairs; by default ``outer``.
        inner: products in all, for a single pass; by default 2 outer, at most n.
        test_matrix: ``"ssrft"``, ``"gaussian"`` or ``"rademacher"``.
        core: ``"symmetric"`` or ``"two-sided"``.
        two_pass: whether to apply A to Q.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        measure_residuals: whether a single pass is followed by k products that measure the residual norms, which are
            NaN otherwise.
        which, seed, check_symmetry: see `EigenSolver`.

    Raises:
        ValueError: besides those of `EigenSolver`, sizes that are not k <= outer <= inner <= n, neither k nor outer
            given, an unknown test matrix or core, or ``inner`` with ``two_pass``.

    Source: arXiv 2504.14701, after Tropp, Yurtsever, Udell & Cevher (2019) and Boutsidis, Woodruff & Zhong (2016).
    Two passes: Halko, Martinsson & Tropp (2011), section 5.3. Core: Higham (1988), The symmetric Procrustes problem.

    Cost: inner products, or 2 outer; about 2 n outer (outer + 2 inner) flops and 2 n outer numbers.
    """

    outer: int | None = attrs.field(default=None, validator=positive_integer)
    k: int = attrs.field(validator=positive_integer)
    inner: int | None = attrs.field(default=None, validator=positive_integer)
    test_matrix: str = attrs.field(default="ssrft", validator=attrs.validators.in_(tuple(_TEST_MATRICES)))
    core: str = attrs.field(default="symmetric", validator=attrs.validators.in_(("symmetric", "two-sided")))
    two_pass: bool = False
    block_size: int = attrs.field(default=64, validator=positive_integer)
    measure_residuals: bool = True

    @k.default
    def _outer_pairs(self) -> Any:
        if self.outer is None:
            raise ValueError("SketchedEigh needs k, the number of pairs, or outer, the size of the outer sketch")
        return self.outer

    def __attrs_post_init__(self) -> None:
        if self.two_pass and self.inner is not None:
            raise ValueError("inner counts the products of a single pass; with two_pass=True give outer alone")

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        outer, inner = self._sizes(A)
        omega = _TEST_MATRICES[self.test_matrix](
            A.shape[0], inner, seed=self.seed, purpose="sketch", dtype=A.dtype, device=A.device
        )
        W = torch.empty(outer, A.shape[0], dtype=A.dtype, device=A.device).mT
        for columns in self._blocks(0, outer):
            W[:, columns] = A._matmat(omega.columns(columns.start, columns.stop))
        Q = self._completed(orthonormalise(W).Q, outer)
        if self.two_pass:
            return self._rayleigh_ritz(A, Q, out=W)
        core = self._core(A, omega, Q, W)
        values, vectors = self._leading(core)
        norms = None if self.measure_residuals else torch.full_like(values, torch.nan)
        return EigenPairs(values, combine(Q, vectors), Status.SKETCHED, norms)

    def _core(self, A: Watched, omega: Sketch, Q: Tensor, W: Tensor) -> Tensor:
        """C from W and the remaining products, which are seen once and not kept."""
        outer, inner = Q.shape[1], omega.shape[1]
        test, image = torch.empty(2, outer, inner, dtype=torch.float64)  # Qᵀ Ω and Qᵀ W
        squared = torch.empty(inner, inner if self.core == "two-sided" else 0, dtype=torch.float64)  # Ωᵀ W
        for columns in (*self._blocks(0, outer), *self._blocks(outer, inner)):
            block = omega.columns(columns.start, columns.stop)
            product = W[:, columns] if columns.stop <= outer else A._matmat(block)
            test[:, columns] = gram(Q, block)
            image[:, columns] = gram(Q, product)
            if self.core == "two-sided":
                squared[:, columns] = (omega.T @ product).double().cpu()
        return symmetric_core(test, image) if self.core == "symmetric" else two_sided_core(test, squared)

    def _rayleigh_ritz(self, A: Watched, Q: Tensor, out: Tensor) -> EigenPairs:
        for columns in self._blocks(0, Q.shape[1]):
            out[:, columns] = A._matmat(Q[:, columns])
        core = gram(Q, out)
        values, coefficients = self._leading((core + core.mT) / 2)
        vectors = combine(Q, coefficients)
        residuals = combine(out, coefficients) - vectors * values.to(vectors)
        return EigenPairs(values, vectors, Status.SKETCHED, column_norms(residuals))

    def _leading(self, core: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(core)
        order = self.which.order(values)[: self.k]
        return values[order], vectors[:, order]

    def _completed(self, Q: Tensor, width: int) -> Tensor:
        """Q with random columns added up to ``width``, where A Ω is of lower rank."""
        n, rank = Q.shape
        if rank == width:
            return Q
        basis = Basis(n, Q.dtype, Q.device)
        basis.append(Q)
        random = Gaussian(n, width - rank, seed=self.seed, purpose="completion", dtype=Q.dtype, device=Q.device)
        return torch.cat([Q.mT, orthonormalise(random.columns(0, width - rank), basis).Q.mT]).mT

    def _sizes(self, A: LinearOperator) -> tuple[int, int]:
        """(outer, inner), inner as large as the test matrix must be."""
        n = A.shape[0]
        outer = min(n, self.k + max(10, self.k // 4)) if self.outer is None else self.outer
        inner = min(n, 2 * outer) if self.inner is None else self.inner
        if not self.k <= outer <= inner <= n:
            raise ValueError(
                f"sizes must be k <= outer <= inner <= n, got k={self.k}, outer={outer}, inner={inner}, n={n}"
            )
        return outer, outer if self.two_pass else inner

    def _blocks(self, start: int, stop: int) -> Iterator[slice]:
        for first in range(start, stop, self.block_size):
            yield slice(first, min(first + self.block_size, stop))

    def _total(self, A: LinearOperator) -> int | None:
        outer, inner = self._sizes(A)
        return 2 * self.check_symmetry + (2 * outer if self.two_pass else inner + self.k * self.measure_residuals)


def symmetric_core(test: Tensor, image: Tensor) -> Tensor:
    """The symmetric C that minimises ‖image - C test‖_F, of (o, s) matrices, o <= s, ``test`` of full rank.

    With test = U Σ Yᵀ and B = Uᵀ image Y it is U X Uᵀ, X_ij = (B_ij σ_j + σ_i B_ji) / (σ_i² + σ_j²).

    Source: Higham (1988), The symmetric Procrustes problem, BIT 28.

    Cost: a singular value decomposition, about 10 s o² flops.
    """
    U, sigma, Yt = torch.linalg.svd(test, full_matrices=False)
    B = U.mT @ image @ Yt.mT
    X = (B * sigma + sigma[:, None] * B.mT) / (sigma.square() + sigma.square()[:, None])
    return U @ X @ U.mT


def two_sided_core(test: Tensor, squared: Tensor) -> Tensor:
    """(testᵀ)⁺ squared test⁺ made symmetric, of (o, s) and (s, s) matrices, o <= s, ``test`` of full rank.

    Source: Tropp, Yurtsever, Udell & Cevher (2019), equation (2.10), for equal test matrices on both sides.

    Cost: two least-squares solves, about 4 s² o flops.
    """
    half = torch.linalg.lstsq(test.mT, squared).solution
    core = torch.linalg.lstsq(test.mT, half.mT).solution
    return (core + core.mT) / 2
