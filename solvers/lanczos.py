"""Block Lanczos: eigenpairs by Rayleigh-Ritz on a growing Krylov space."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .combination import Combination
from .krylov import CLUSTER, BlockKrylov, evidence, evidence_needed, products_to_next_look
from .parameters import tolerance_for
from .rayleigh_ritz import measured_ritz_pairs
from .report import Status
from .solver import EigenPairs, EigenSolver
from .tall import orthonormalise
from .tridiagonalisation import KrylovSpace, RitzPairs
from .watched import Watched
from .workload import Workload

_ONE_COPY = (
    "A space grown from one vector holds one copy of each eigenvalue: of those that are repeated, if any, others are "
    "missing. A block_size of 2 or more looks for them."
)


@attrs.frozen(kw_only=True)
class BlockLanczos(BlockKrylov, EigenSolver):
    """The k leading eigenpairs from a block Krylov space span{X, A X, A² X, …}, by Rayleigh-Ritz.

    An orthonormal basis Q of the space grows by the part of A times its last block that it does not contain. Every new
    block is orthogonalised against all of Q, to rounding, and all coefficients are kept: A Q = [Q Q'] H, so that the
    projected matrix Qᵀ A Q is the upper part of H, and the residual norm of a Ritz pair (θ, Q s) is ‖H s - θ s‖, a
    small matrix product. No pair is found twice (no ghosts), and none is called converged that is not.

    Both ends of the spectrum converge at once. The error of an eigenvalue falls with the number of blocks like a
    Chebyshev polynomial in its distance from the eigenvalues that the space cannot hold: for a given number of products
    small blocks converge faster, large ones need fewer passes over the data and use fast matrix products.

    With ``max_basis`` the space restarts from its leading Ritz vectors whenever the basis is full (thick restart).
    Converged pairs stay in it and are not multiplied again (soft locking), so that their residual norms stay true.

    **What may be missing.** A Krylov space of a block of b random columns holds at most b copies of an eigenvalue.
    Where the converged pairs ahead of the last show as many copies, or values closer than 1e-4 of their size or than
    their residual norms, random vectors widen the block: two or more, so that a block of one may miss copies. A space
    whose pairs all meet ``tol`` has closed, to an invariant subspace: it is extended by random vectors. A ``start`` may
    lack leading pairs and copies too, so it makes up at most half of the first block, (b + 1) // 2 columns, beside
    random vectors. In all cases pairs count as converged only after so many products with these vectors that a pair
    ahead of them, by more than that 1e-4, would have shown, but for about one time in a hundred: the closer the next
    pair behind, the more. With restarts this number is an estimate, and the spread of the spectrum, which it depends
    on, is that of the Ritz values. Where ``max_products`` are spent before, and for a block of one, a note of the
    report says what may be missing.

    Args:
        k: how many pairs.
        block_size: columns multiplied at a time, to begin with; by default k over four times the digits of ``tol``,
            at least 5: k / 20 for 1e-5, the widest, and k / 36 for 1e-9.
        tol: the pairs have converged when ‖A v - θ v‖ <= tol max|θ|, over all Ritz values; by default 1e-5 in float32,
            1e-9 in float64. The error of a θ apart from other eigenvalues is of the order of tol².
        max_products: where to stop at the latest; by default 10 k or 500, the larger, and never more than n; ten times
            as many with restarts.
        max_basis: the most vectors to keep, at least k + 4 block_size; by default there is no limit. About 2 k, and 50
            or more, cost few products more than no limit, but where many eigenvalues are close to the last.
        storage: where the basis lives, a `Storage` or the name of its kind; by default in the memory of the operator.
            If it is given eigenvectors are formed only when they are asked for. With a dtype that rounds the basis the
            solve ends as `Status.ROUNDED`, with Ritz pairs of the span of the rounded vectors, by k more products.
        which, seed, check_symmetry: see `EigenSolver`.

    Of a ``start`` of more columns than there is room for, random combinations are taken: more columns would cost more
    products than they save. Yesterday's eigenspace saves a tenth of the products of a cold start for ten pairs, and
    none for hundreds, since a pair takes one product to be confirmed and about two to be found.

    Raises:
        ValueError: besides those of `EigenSolver`, max_products < k, a max_basis too small, or a tol below ten
            roundings of the dtype.
        OSError: a directory that cannot be written, or a disk without room for all vectors that it may come to keep,
            and the k eigenvectors.

    Source: Golub & Van Loan, Matrix Computations, section 10.3; Parlett, The Symmetric Eigenvalue Problem, chapter 13;
    Saad, Numerical Methods for Large Eigenvalue Problems, chapter 6. Restarts: Wu & Simon (2000), SIAM J. Matrix Anal.
    Appl. 22. Growing blocks: Bai, Day & Ye (1999), ABLE, SIAM J. Matrix Anal. Appl. 20.

    Cost: for a space of dimension m, m products, 2 n m² flops and n m numbers, and n k for the result; each restart 2 n
    max_basis k flops.
    """

    wanted, least_blocks = "pairs", 4

    def __attrs_post_init__(self) -> None:
        if self.max_products is not None and self.max_products < self.k:
            raise ValueError(f"k={self.k} pairs take at least as many products, got max_products={self.max_products}")
        super().__attrs_post_init__()

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        tol, budget = tolerance_for(A, self.tol), self._budget(A)
        storage, before = self._stored(A, A.shape[0], self.k), A.products
        space = KrylovSpace(A, self._width(tol), self.seed, tol, self.max_basis, storage)
        if start is not None:
            space.begin(start)
        next_look = self.k
        while True:
            fresh = max(1, space.block_size - space.width) if space.is_closed else 0
            if space.must_restart(fresh):
                space.restart(self.which, self.k, fresh)
            if space.is_closed:
                space.extend(fresh)
            space.multiply(budget - (A.products - before))
            spent = A.products - before
            last = spent == budget or space.dim == A.shape[0]
            if last or (spent >= next_look and space.dim >= self.k):
                pairs = space.ritz_pairs(self.which, self.k)
                converged = pairs.residual_norms <= tol * space.scale
                space.is_closed |= pairs.largest_residual <= tol * space.scale
                A.note(f"{int(converged.sum())} of {self.k} pairs converged")
                has_all = self._may_have_all_copies(space, pairs, converged)
                settled = bool(converged.all()) and has_all and self._nothing_leads(space, pairs, tol)
                if last or settled:
                    break
                if not has_all and not space.is_closed:
                    self._seek_copies(space, pairs, converged)
                missing = self.k - int(converged.sum())
                next_look = spent + products_to_next_look(missing, space.dim)
        status = Status.CONVERGED if settled else Status.OUT_OF_PRODUCTS
        if space.dim == A.shape[0]:
            status = Status.COMPLETE
        notes: tuple[str, ...] = ()
        if status.is_failure and not (has_all and self._nothing_leads(space, pairs, tol)):
            notes = self._doubt(int(converged.sum()))
        elif status is Status.CONVERGED and space.origins == 1:
            notes = (_ONE_COPY,)
        if self.storage is not None:
            return attrs.evolve(self._stored_pairs(A, space, pairs, status), notes=notes)
        vectors = space.basis.combine(pairs.coefficients)
        if len(space.steps) > 1:
            vectors = orthonormalise(vectors).Q  # each restart adds its rounding errors
        return EigenPairs(pairs.eigenvalues, vectors, status, pairs.residual_norms, notes)

    def _stored_pairs(self, A: Watched, space: KrylovSpace, pairs: RitzPairs, status: Status) -> EigenPairs:
        """The pairs with vectors that are not formed, and if these are rounded Ritz pairs of their span."""
        vectors, rounds = Combination(space.basis, pairs.coefficients), space.basis.rounding > 0
        if rounds or len(space.steps) > 1:
            vectors = vectors.orthonormalised()
        if not rounds:
            return EigenPairs(pairs.eigenvalues, vectors, status, pairs.residual_norms)
        values, vectors, norms = measured_ritz_pairs(A, vectors)
        return EigenPairs(values, vectors, Status.ROUNDED if status.is_success else status, norms)

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        self._stored(A, A.shape[0], self.k)

    def _may_have_all_copies(self, space: KrylovSpace, pairs: RitzPairs, converged: Tensor) -> bool:
        """Whether of no eigenvalue ahead of the last there are as many copies as random vectors show, two of one."""
        least = 2 if space.block_size == 1 else 1
        return self._largest_cluster(space, pairs, converged)[0] < max(least, space.origins)

    def _seek_copies(self, space: KrylovSpace, pairs: RitzPairs, converged: Tensor) -> None:
        """Let random vectors join the block or, where it cannot grow and all pairs have converged, take its place."""
        copies, sought = self._largest_cluster(space, pairs, converged)
        fresh = max(space.block_size, copies + 1 - space.origins)
        if self.max_basis is None or self.k + self.least_blocks * (space.width + fresh) <= self.max_basis:
            space.extend(fresh, sought)
        elif bool(converged.all()):
            space.close(self.which, self.k)

    def _largest_cluster(self, space: KrylovSpace, pairs: RitzPairs, converged: Tensor) -> tuple[int, float]:
        """How many converged pairs ahead of the last are the same but for `CLUSTER` or errors, and their least key."""
        key, norms = self.which.key(pairs.eigenvalues), pairs.residual_norms
        ahead = converged & (key - key[-1] > CLUSTER * pairs.eigenvalues.abs() + norms + norms[-1])
        values, order = pairs.eigenvalues[ahead].sort()
        if len(values) == 0:
            return 0, 0.0
        norms = norms[ahead][order]
        apart = values.diff() > CLUSTER * values[1:].abs() + norms[1:] + norms[:-1]
        numbers = torch.cat([torch.zeros(1, dtype=torch.long), apart.long().cumsum(0)])
        counts = numbers.bincount()
        largest = int(counts.argmax())
        return int(counts[largest]), float(self.which.key(values[numbers == largest]).min())

    def _nothing_leads(self, space: KrylovSpace, pairs: RitzPairs, tol: float) -> bool:
        """Whether the pairs are all that lead, as far as random vectors that joined others tell."""
        if space.closed == 0 and (space.is_closed or not space.mixed):
            return not space.is_closed
        outside = space.ritz_pairs(self.which, space.dim - space.closed, first=space.closed)
        key, last = self.which.key(outside.eigenvalues), self.which.key(pairs.eigenvalues[-1])
        behind = torch.arange(len(key)) >= self.k if space.closed == 0 else key - last <= tol * space.scale
        if (space.is_closed or space.repeats) and not bool(behind.all()):
            return False  # one more invariant subspace, with pairs of which copies may be missing
        growing = behind & (outside.residual_norms > tol * space.scale)
        if not bool(growing.any()):
            return bool(behind.any())
        # A pair that is missing lies beyond the last, or is a copy of one: it would make up the gap, of a spread of at
        # least this.
        values = outside.eigenvalues[growing]
        gap = (float(last) if space.sought is None else space.sought) - float(key[growing][0])
        spread = gap + float(values.max() - values.min())
        return gap > 0 and evidence(space.steps, gap, spread) >= evidence_needed(space.A.shape[0], space.drawn)

    @property
    def _most_vectors(self) -> int:
        """How many vectors it may come to keep where nothing limits the basis: as many as products."""
        return max(500, 10 * self.k) if self.max_products is None else self.max_products

    def _workload(self, A: LinearOperator) -> Workload:
        work = self._space_workload(tolerance_for(A, self.tol), min(self._budget(A), A.shape[0]), sides=1, cube=9)
        return attrs.evolve(work, products=(work.products or 0) - 2 + 2 * self.check_symmetry)

    def _most(self, A: LinearOperator) -> int | None:
        return self._budget(A) + 2 * self.check_symmetry

    def _budget(self, A: LinearOperator) -> int:
        if self.max_basis is None:
            return min(self._most_vectors, A.shape[0])
        return 10 * self._most_vectors if self.max_products is None else self.max_products


@attrs.frozen(kw_only=True)
class Lanczos(BlockLanczos):
    """The k leading eigenpairs by the Lanczos method, `BlockLanczos` with a block of one.

    The fewest products, one at a time, where eigenvalues are distinct: of one that is repeated, copies may be missing
    although all that was found has converged, as a note of the report says. A ``start``, which may lack leading pairs,
    comes beside a random vector, so that the blocks are then of two.

    Args:
        block_size: 1.
        k, tol, max_products, max_basis, storage, which, seed, check_symmetry: see `BlockLanczos`.

    Raises:
        ValueError: as `BlockLanczos`, or another block_size.

    Source: Lanczos (1950); Simon (1984), for full reorthogonalisation.

    Cost: as for `BlockLanczos`, in matrix-vector products.
    """

    block_size: int | None = attrs.field(default=1, validator=attrs.validators.in_((1,)))
