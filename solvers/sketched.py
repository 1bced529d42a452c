"""Sketched eigendecompositions: all products are with random vectors that are known in advance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .basis import Basis
from .core_sketching import CoreSketching
from .cores import least_squares_core, two_sided_core
from .measurement import Measurement
from .rayleigh_ritz import orthonormalise_in_place, ritz_pairs
from .report import Status
from .results import EigenDecomposition
from .sketches import Sketch
from .solver import EigenPairs, EigenSolver
from .storage import DEVICE, Storage, as_storage
from .tall import blocks, column_norms, combine, gram, orthonormalise
from .watched import Watched
from .workload import Workload

_CORES = {False: ("symmetric", "two-sided"), True: ("bordered", "rayleigh-ritz")}  # by two_pass, the default first


@attrs.frozen(kw_only=True)
class SketchedEigh(CoreSketching, EigenSolver):
    """An approximation A ≈ Q C Qᵀ of a symmetric A from its products W = A Ω with a random test matrix Ω, (n, inner).

    The k leading eigenpairs of Q C Qᵀ are returned. It is accurate where the spectrum decays; ``which`` picks from the
    pairs with large |λ|, which are all it finds. The products need not wait for one another: a single pass applies A to
    no vector that depends on A. So they may be measured in parts, by `measure`, on many machines or of parts of the
    data, and put together before `decompose` makes pairs of them.

    Q, (n, outer), is orthonormal. It spans, by ``basis``,

    - ``"leading"``: the outer leading left singular vectors of all of W, which is kept whole: n inner numbers;
    - ``"first"``: the first outer columns of W, as published. Of the others Ωᵀ W is kept: n outer + inner² numbers in
      all. The error is about a half larger.

    The core C comes from all of W. It is, by ``core``,

    - ``"symmetric"``: the symmetric C that minimises ‖Qᵀ W - C Qᵀ Ω‖, in closed form (Higham 1988). It needs all of W;
    - ``"two-sided"``: (Ωᵀ Q)⁺ (Ωᵀ W) (Qᵀ Ω)⁺ by two least-squares solves, made symmetric, as published. It uses Ωᵀ W
      alone; its error in norm is about a tenth larger.

    What A does outside the span of Q is an error of the core, large where an indefinite spectrum decays slowly. The
    report notes if it is as large as half of an eigenvalue found.

    With ``two_pass`` outer products give Q and as many more give A Q. Then A is approximated by

    - core ``"bordered"``: P A + A P - P A P for the projector P = Q Qᵀ, the symmetric matrix of least Frobenius norm
      that agrees with A on Q. Its rank is up to 2 outer, and its k leading pairs come close to the best of rank k;
    - core ``"rayleigh-ritz"``: P A P, as usual. No eigenvalue exceeds the range of A, and residual norms come free.

    Args:
        outer: dimension of Q; by default k + max(10, k / 4), at most n.
        k: how many pairs; by default ``outer``.
        inner: products in all, for a single pass; by default 2 outer, at most n.
        test_matrix: ``"ssrft"``, ``"gaussian"``, ``"rademacher"`` or ``"sparse-sign"``.
        two_pass: whether to apply A to Q.
        basis: ``"leading"`` or ``"first"``, for a single pass.
        core: ``"symmetric"`` or ``"two-sided"``, by default the first that goes with ``basis``; with two passes
            ``"bordered"`` (the default) or ``"rayleigh-ritz"``, the only one with a ``storage``.
        storage: for two passes, where W and then Q are kept, in the same place, a `Storage` or the name of its kind; by
            default in the memory of the operator, with a second copy. If it is given eigenvectors are formed only when
            they are asked for, and residual norms take k products of their own, if ``measure_residuals``. A narrower
            dtype rounds W, in which small |λ| are the smaller part: where no more than k matter, λᵢ is off by about
            u² / 6 · (1 + Σ λ² / (λᵢ² (outer - k))) of itself, u = 2⁻⁸ for ``bfloat16``.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        measure_residuals: whether k further products measure residual norms that do not come free; else they are NaN.
        which, seed, check_symmetry: see `EigenSolver`.

    Raises:
        OSError: a directory that cannot be written, or a disk without room for W.
        ValueError: besides those of `EigenSolver`, sizes that are not k <= outer <= inner <= n, neither k nor outer
            given, an unknown test matrix, basis or core, ``inner`` or ``basis`` with ``two_pass``, the symmetric core
            with the first columns, or a ``storage`` for a single pass or with the bordered core.

    Source: arXiv 2504.14701, after Tropp, Yurtsever, Udell & Cevher (2019) and Boutsidis, Woodruff & Zhong (2016):
    ``basis="first"``. Two passes: Halko, Martinsson & Tropp (2011), section 5.3. Symmetric core: Higham (1988), The
    symmetric Procrustes problem.

    Cost: inner products, or 2 outer. About 8 n inner² + 6 n outer inner flops; 8 n outer² + 2 n inner² for
    ``basis="first"``. Memory: the numbers kept, and twice those of W while Q is made; 4 n outer for two passes.
    With a storage n outer numbers there, a few blocks of ``block_size`` columns in memory, and 5 n outer² flops.
    """

    two_pass: bool = False
    basis: str = attrs.field(default="leading", validator=attrs.validators.in_(("leading", "first")))
    storage: Storage | None = attrs.field(default=None, converter=as_storage)
    core: str = attrs.field()

    @core.default
    def _best_core(self) -> str:
        if self.two_pass and self.storage is not None:
            return "rayleigh-ritz"
        published = self.basis == "first" and not self.two_pass
        return "two-sided" if published else _CORES[self.two_pass][0]

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
        if self.basis == "first" and self.core == "symmetric":
            raise ValueError("the symmetric core needs all of W: take basis='leading', or core='two-sided'")
        if self.storage is not None and not self.two_pass:
            raise ValueError(
                "storage is for two_pass=True; the products of a single pass are kept in a folder by measure_columns"
            )
        if self.storage is not None and self.core == "bordered":
            raise ValueError("the bordered core keeps A Q as well: with a storage take core='rayleigh-ritz'")

    @torch.no_grad()
    def decompose(self, measurement: Measurement) -> EigenDecomposition:
        """The k leading eigenpairs of the operator that was measured.

        They are those of `solve`, to rounding. Residual norms are NaN: to measure them takes products.

        Args:
            measurement: all columns of this sketch, from `measure` by solvers of the same seed, test matrix and sizes.

        Raises:
            TypeError: it is no measurement.
            ValueError: it is of another sketch, or lacks columns; a solver of two passes.

        Cost: no products; the flops and memory of `solve`.
        """
        pairs, cost = self._decomposing(measurement, lambda A: self._ordered(self._pairs(A, measurement), A))
        return self._result(pairs, cost, check_products=0)

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        if not self.two_pass:
            return self._pairs(A, self._measured(A))
        return self._second_pass(A) if self.storage is None else self._stored_pass(A, self._stored(A))

    def _pairs(self, A: LinearOperator, measurement: Measurement) -> EigenPairs:
        """Pairs of Q C Qᵀ, from a whole measurement."""
        W, omega = measurement.arrays["range"], self._omega(A)
        Q = self._spanned(W, self._sizes(A.shape)[0])
        test = (omega.T @ Q).double().cpu().mT  # Qᵀ Ω
        if self.core == "symmetric":
            image = gram(Q, W)
            core = least_squares_core(test, image, test, image)
        else:
            squared = [(omega.T @ W).double().cpu()]
            squared += [measurement.arrays["core"]] if "core" in measurement.arrays else []
            core = two_sided_core(test, torch.cat(squared, dim=1), test)
        values, vectors = self._leading((core.matrix + core.matrix.mT) / 2)
        notes = self._notes(core, values, A, "take two_pass=True, a larger inner, or BlockLanczos")
        return EigenPairs(values, combine(Q, vectors), Status.SKETCHED, notes=notes)

    def _second_pass(self, A: Watched) -> EigenPairs:
        """Pairs of the approximation that A Q makes."""
        Q = self._spanned(self._measured(A).arrays["range"], self._sizes(A.shape)[0])
        basis = Basis(A.shape[0], A.dtype, A.device, mesh=A.row_mesh)
        basis.append(Q)
        image = self._joined(lambda start, stop: A._matmat(Q[:, start:stop]), 0, Q.shape[1])
        step = orthonormalise(image, basis)  # A Q = Q C + Q' R
        C = (step.C + step.C.mT) / 2
        if self.core == "bordered":
            zero = torch.zeros(len(step.R), len(step.R), dtype=C.dtype)
            values, vectors = self._leading(torch.cat([torch.cat([C, step.R.mT], 1), torch.cat([step.R, zero], 1)]))
            basis.append(step.Q)
            return EigenPairs(values, basis.combine(vectors), Status.SKETCHED)
        values, vectors = self._leading(C)
        residuals = torch.cat([step.C @ vectors - vectors * values, step.R @ vectors])
        return EigenPairs(values, combine(Q, vectors), Status.SKETCHED, column_norms(residuals))

    def _stored_pass(self, A: Watched, storage: Storage) -> EigenPairs:
        """As `_second_pass`, Rayleigh-Ritz, with no tall matrix but W, in whose place Q comes."""
        outer, measure = self._sizes(A.shape)[0], self._products(A)["range"]
        basis = Basis(A.shape[0], A.dtype, A.device, storage, A.row_mesh, most=outer)
        for start, stop in blocks(0, outer, self.block_size):
            basis.append(measure(start, stop))
        G, _ = orthonormalise_in_place(basis, outer, self.seed, "completion")
        values, vectors = ritz_pairs(A, basis, G, self.block_size)
        order = self.which.order(values)[: self.k]
        return EigenPairs(values[order], vectors.selected(order), Status.SKETCHED)

    def _stored(self, A: LinearOperator) -> Storage:
        """Where W is kept, once that is known to have room for it."""
        return (self.storage or DEVICE).prepared(A, A.shape[0], self._sizes(A.shape)[0], formed=self.k)

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        self._stored(A)

    def _leading(self, core: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(core)
        order = self.which.order(values)[: self.k]
        return values[order], vectors[:, order]

    def _columns(self, outer: int, inner: int) -> dict[str, int]:
        if self.two_pass:
            return {"range": outer}
        seen = inner - outer if self.basis == "first" else 0
        return {"range": inner - seen, **({"core": seen} if seen else {})}

    def _products(self, A: LinearOperator) -> dict[str, Callable[[int, int], Tensor]]:
        omega, (outer, _) = self._omega(A), self._sizes(A.shape)

        def seen(start: int, stop: int) -> Tensor:
            """Ωᵀ W of columns beyond the first."""
            return (omega.T @ A._matmat(omega.columns(outer + start, outer + stop))).double().cpu()

        return {"range": lambda start, stop: A._matmat(omega.columns(start, stop)), "core": seen}

    @property
    def _measures_residuals(self) -> bool:
        free = self.core == "rayleigh-ritz" and self.storage is None
        return self.measure_residuals and not free

    def _omega(self, A: LinearOperator) -> Sketch:
        return self._draw(A, A.shape[0], self._sizes(A.shape)[1], "sketch")

    def _require_measurable(self, A: LinearOperator) -> None:
        self._require_suitable(A)

    def _require_single_pass(self) -> None:
        if self.two_pass:
            raise ValueError("two passes multiply A by vectors that depend on A, so they are solved at once: use solve")

    def _workload(self, A: LinearOperator) -> Workload:
        outer, inner = self._sizes(A.shape)
        wide = outer if self.two_pass or self.basis == "first" else inner
        if self.two_pass and self.storage is not None:
            flops, working, core, drawn = 5 * outer**2, 0, outer, outer
        elif self.two_pass:
            flops, working, core, drawn = 24 * outer**2, 4 * outer, 2 * outer, outer
        elif self.basis == "first":
            flops, working, core, drawn = 8 * outer**2 + 2 * inner**2, 3 * outer, inner, 2 * inner
        else:
            flops, working, core, drawn = 8 * inner**2 + 6 * outer * inner, 3 * inner, inner, inner + outer
        return Workload(
            width=min(self.block_size, wide),
            passes=self._passes(A.shape) * (1 + self.two_pass) + self.check_symmetry + self._measures_residuals,
            working=working + 3 * min(self.block_size, wide),
            basis=0 if self.storage is None else outer,
            row_flops=flops,
            core=core,
            core_flops=20 * wide**3 + 9 * core**3,  # of the triangular factor, and of the core
            sketch=self._omega(A),
            sketched=drawn,
        )

    def _total(self, A: LinearOperator) -> int | None:
        outer, inner = self._sizes(A.shape)
        measured = self.k * self._measures_residuals
        return 2 * self.check_symmetry + (2 * outer if self.two_pass else inner) + measured
