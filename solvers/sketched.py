"""Sketched eigendecompositions: all products are with random vectors that are known in advance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .basis import Basis
from .report import Status
from .sketches import SSRFT, Gaussian, Rademacher, Sketch
from .solver import EigenPairs, EigenSolver
from .tall import column_norms, combine, gram, orthonormalise
from .template import positive_integer
from .watched import Watched

_TEST_MATRICES: dict[str, type[Sketch]] = {"ssrft": SSRFT, "gaussian": Gaussian, "rademacher": Rademacher}
_CORES = {False: ("symmetric", "two-sided"), True: ("bordered", "rayleigh-ritz")}  # by two_pass, the default first


@attrs.frozen(kw_only=True)
class SketchedEigh(EigenSolver):
    """An approximation A ≈ Q C Qᵀ of a symmetric A from its products W = A Ω with a random test matrix Ω, (n, inner).

    The k leading eigenpairs of Q C Qᵀ are returned. It is accurate where the spectrum decays; ``which`` picks from the
    pairs with large |λ|, which are all it finds. The products need not wait for one another: a single pass applies A to
    no vector that depends on A.

    Q, (n, outer), is orthonormal. It spans, by ``basis``,

    - ``"leading"``: the outer leading left singular vectors of all of W, which is kept whole: 2 n inner numbers;
    - ``"first"``: the first outer columns of W, as published; the others are seen once and not kept. The error is about
      a third larger.

    The core C comes from all of W. It is, by ``core``,

    - ``"symmetric"``: the symmetric C that minimises ‖Qᵀ W - C Qᵀ Ω‖, in closed form (Higham 1988);
    - ``"two-sided"``: (Ωᵀ Q)⁺ (Ωᵀ W) (Qᵀ Ω)⁺ by two least-squares solves, made symmetric, as published. It uses Ωᵀ W
      alone; its error in norm is about a tenth larger.

    With ``two_pass`` outer products give Q and as many more give A Q. Then A is approximated by

    - core ``"bordered"``: P A + A P - P A P for the projector P = Q Qᵀ, the symmetric matrix of least Frobenius norm
      that agrees with A on Q. Its rank is up to 2 outer, and its k leading pairs come close to the best of rank k;
    - core ``"rayleigh-ritz"``: P A P, as usual. No eigenvalue exceeds the range of A, and residual norms come free.

    Args:
        outer: dimension of Q; by default k + max(10, k / 4), at most n.
        k: how many pairs; by default ``outer``.
        inner: products in all, for a single pass; by default 2 outer, at most n.
        test_matrix: ``"ssrft"``, ``"gaussian"`` or ``"rademacher"``.
        two_pass: whether to apply A to Q.
        basis: ``"leading"`` or ``"first"``, for a single pass.
        core: ``"symmetric"`` (the default) or ``"two-sided"``; with two passes ``"bordered"`` (the default) or
            ``"rayleigh-ritz"``.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        measure_residuals: whether k further products measure residual norms that do not come free; else they are NaN.
        which, seed, check_symmetry: see `EigenSolver`.

    Raises:
        ValueError: besides those of `EigenSolver`, sizes that are not k <= outer <= inner <= n, neither k nor outer
            given, an unknown test matrix, basis or core, or ``inner`` with ``two_pass``.

    Source: arXiv 2504.14701, after Tropp, Yurtsever, Udell & Cevher (2019) and Boutsidis, Woodruff & Zhong (2016):
    ``basis="first", core="two-sided"``. Two passes: Halko, Martinsson & Tropp (2011), section 5.3. Symmetric core:
    Higham (1988), The symmetric Procrustes problem.

    Cost: inner products, or 2 outer. About 8 n inner² + 8 n outer inner flops; 8 n outer² + 4 n outer inner for
    ``basis="first"``. Memory: 2 n inner numbers, 2 n outer for ``basis="first"``, 4 n outer for two passes.
    """

    outer: int | None = attrs.field(default=None, validator=positive_integer)
    k: int = attrs.field(validator=positive_integer)
    inner: int | None = attrs.field(default=None, validator=positive_integer)
    test_matrix: str = attrs.field(default="ssrft", validator=attrs.validators.in_(tuple(_TEST_MATRICES)))
    two_pass: bool = False
    basis: str = attrs.field(default="leading", validator=attrs.validators.in_(("leading", "first")))
    core: str = attrs.field()
    block_size: int = attrs.field(default=64, validator=positive_integer)
    measure_residuals: bool = True

    @k.default
    def _outer_pairs(self) -> Any:
        if self.outer is None:
            raise ValueError("SketchedEigh needs k, the number of pairs, or outer, the size of the outer sketch")
        return self.outer

    @core.default
    def _best_core(self) -> str:
        return _CORES[self.two_pass][0]

    @core.validator
    def _core_of_passes(self, _: Any, value: Any) -> None:
        if value not in _CORES[self.two_pass]:
            passes = "two passes" if self.two_pass else "a single pass"
            raise ValueError(f"the core of {passes} is one of {', '.join(_CORES[self.two_pass])}; got {value!r}")

    def __attrs_post_init__(self) -> None:
        if self.two_pass and self.inner is not None:
            raise ValueError("inner counts the products of a single pass; with two_pass=True give outer alone")
        if self.two_pass and self.basis != "leading":
            raise ValueError("basis is a choice of a single pass; with two_pass=True all of W spans Q")

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        outer, inner = self._sizes(A)
        omega = _TEST_MATRICES[self.test_matrix](
            A.shape[0], inner, seed=self.seed, purpose="sketch", dtype=A.dtype, device=A.device
        )
        kept = outer if self.basis == "first" else inner
        W = self._products(A, omega.columns, kept)
        Q = self._completed(self._span(W, outer), outer)
        if self.two_pass:
            del W
            return self._second_pass(A, Q)
        values, vectors = self._leading(self._core(A, omega, Q, W))
        norms = None if self.measure_residuals else torch.full_like(values, torch.nan)
        return EigenPairs(values, combine(Q, vectors), Status.SKETCHED, norms)

    def _products(self, A: Watched, block: Callable[[int, int], Tensor], count: int) -> Tensor:
        """The products of A with ``count`` columns, which ``block`` gives from one number to another."""
        W = torch.empty(count, A.shape[0], dtype=A.dtype, device=A.device).mT
        for columns in self._blocks(0, count):
            W[:, columns] = A._matmat(block(columns.start, columns.stop))
        return W

    def _span(self, W: Tensor, outer: int) -> Tensor:
        """An orthonormal basis of the outer leading left singular vectors of W."""
        step = orthonormalise(W)
        if W.shape[1] == outer:
            return step.Q
        return combine(step.Q, torch.linalg.svd(step.R).U[:, :outer])

    def _core(self, A: Watched, omega: Sketch, Q: Tensor, W: Tensor) -> Tensor:
        """C from W and the remaining products, which are seen once and not kept."""
        inner, kept = omega.shape[1], W.shape[1]
        test, image = torch.empty(2, Q.shape[1], inner, dtype=torch.float64)  # Qᵀ Ω and Qᵀ W
        squared = torch.empty(inner, inner if self.core == "two-sided" else 0, dtype=torch.float64)  # Ωᵀ W
        for columns in (*self._blocks(0, kept), *self._blocks(kept, inner)):
            block = omega.columns(columns.start, columns.stop)
            product = W[:, columns] if columns.stop <= kept else A._matmat(block)
            test[:, columns] = gram(Q, block)
            image[:, columns] = gram(Q, product)
            if self.core == "two-sided":
                squared[:, columns] = (omega.T @ product).double().cpu()
        return symmetric_core(test, image) if self.core == "symmetric" else two_sided_core(test, squared)

    def _second_pass(self, A: Watched, Q: Tensor) -> EigenPairs:
        basis = Basis(A.shape[0], A.dtype, A.device)
        basis.append(Q)
        image = self._products(A, lambda start, stop: Q[:, start:stop], Q.shape[1])
        step = orthonormalise(image, basis)  # A Q = Q C + Q' R
        C = (step.C + step.C.mT) / 2
        if self.core == "bordered":
            zero = torch.zeros(len(step.R), len(step.R), dtype=C.dtype)
            values, vectors = self._leading(torch.cat([torch.cat([C, step.R.mT], 1), torch.cat([step.R, zero], 1)]))
            norms = None if self.measure_residuals else torch.full_like(values, torch.nan)
            basis.append(step.Q)
            return EigenPairs(values, basis.combine(vectors), Status.SKETCHED, norms)
        values, vectors = self._leading(C)
        residuals = torch.cat([step.C @ vectors - vectors * values, step.R @ vectors])
        return EigenPairs(values, combine(Q, vectors), Status.SKETCHED, column_norms(residuals))

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
        measured = self.k * (self.measure_residuals and self.core != "rayleigh-ritz")
        return 2 * self.check_symmetry + (2 * outer if self.two_pass else inner) + measured


def symmetric_core(test: Tensor, image: Tensor) -> Tensor:
    """The symmetric C that minimises ‖image - C test‖_F, of (o, s) matrices, o <= s.

    With test = U Σ Yᵀ and B = Uᵀ image Y it is U X Uᵀ, X_ij = (B_ij σ_j + σ_i B_ji) / (σ_i² + σ_j²). Of a test of lower
    rank, to rounding, the C of least norm: singular values that are rounding errors count as zero.

    Source: Higham (1988), The symmetric Procrustes problem, BIT 28.

    Cost: a singular value decomposition, about 10 s o² flops.
    """
    U, sigma, Yt = torch.linalg.svd(test, full_matrices=False)
    sigma = torch.where(sigma > max(test.shape) * torch.finfo(test.dtype).eps * sigma[0], sigma, 0)
    B = U.mT @ image @ Yt.mT
    squares = sigma.square() + sigma.square()[:, None]
    X = torch.where(squares > 0, (B * sigma + sigma[:, None] * B.mT) / squares, 0)
    core: Tensor = U @ X @ U.mT
    return core


def two_sided_core(test: Tensor, squared: Tensor) -> Tensor:
    """(testᵀ)⁺ squared test⁺ made symmetric, of (o, s) and (s, s) matrices, o <= s.

    Source: Tropp, Yurtsever, Udell & Cevher (2019), equation (2.10), for equal test matrices on both sides.

    Cost: a pseudoinverse, about 10 s o² flops, and 2 s² o + 2 s o².
    """
    inverse = torch.linalg.pinv(test.mT)  # by singular values: the test may be of lower rank
    core: Tensor = inverse @ squared @ inverse.mT
    return (core + core.mT) / 2
