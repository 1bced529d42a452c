"""Block Golub-Kahan: singular triplets from Krylov spaces of both sides."""

from __future__ import annotations

import attrs
from torch import Tensor

from ..linops import LinearOperator
from .bidiagonalisation import KrylovSpaces, RitzTriplets
from .krylov import CLUSTER, BlockKrylov, evidence, evidence_needed, products_to_next_look
from .parameters import tolerance_for
from .report import Status
from .storage import Storage
from .svd_solver import SingularTriplets, SVDSolver
from .tall import orthonormalise
from .watched import Watched
from .workload import Workload


@attrs.frozen(kw_only=True)
class BlockGolubKahan(BlockKrylov, SVDSolver):
    """The k largest singular triplets from block Krylov spaces of both sides, by Golub-Kahan bidiagonalisation.

    Orthonormal bases V of Rⁿ and U of Rᵐ grow in turn: U by the part of A times the last block of V that it does not
    contain, V by that of Aᵀ times the last block of U. Every new block is orthogonalised against its whole basis, to
    rounding, and all coefficients are kept, A V = U B and Aᵀ U = [V V'] D, where the upper part of D is Bᵀ. A singular
    triplet (σ, x, y) of B gives (σ, U x, V y), with B y - σ x and D x - σ y for the residual norm: small matrix
    products. No triplet is found twice, and none is called converged that is not. AᵀA is never formed, so that small
    singular values are as accurate as σ₁, not to the root of that.

    For a given number of products small blocks converge faster, large ones need fewer passes over the data and use fast
    matrix products.

    With ``max_basis`` the spaces restart from their leading triplets whenever they are full. Converged ones stay and
    are not multiplied again, so that their residual norms stay true.

    **What may be missing.** Random vectors replace directions that a product lacks, as for A of low rank. Still
    Krylov spaces of a block of b columns hold at most b copies of a singular value. Where as many converged ones agree
    to 1e-4, ahead of the last, or all triplets of the spaces meet ``tol``, so that these have closed, random vectors
    join the block. A ``start`` may lack leading triplets too, so it makes up at most half of the first block,
    (b + 1) // 2 columns, beside random vectors. In all these cases triplets count as converged only after so many
    products with these vectors that a triplet ahead of them would have shown, but for about one time in a hundred: the
    closer the next triplet behind, the more. With restarts this number is an estimate. Where ``max_products`` are spent
    before, a note of the report says so.

    Args:
        k: how many triplets.
        block_size: columns multiplied at a time, to begin with; by default k over four times the digits of ``tol``,
            at least 5: k / 20 for 1e-5, the widest, and k / 36 for 1e-9.
        tol: the triplets have converged when their residual norms, as in `SingularValueDecomposition`, are at most
            tol σ₁; by default 1e-5 in float32, 1e-9 in float64. The error of a σ apart from others is of the order of
            tol².
        max_products: where to stop at the latest, of A and its transpose together; by default 20 k or 1000, the larger;
            ten times as many with restarts.
        max_basis: the most vectors of each side to keep, at least k + 3 block_size, but for random ones that join a
            block; by default there is no limit. About 2 k, at least 50, cost few products more than no limit, but where
            many values are close to the last.
        storage: where the bases live, a `Storage` or the name of its kind; by default in the memory of the operator.
            The result is formed there. Its dtype must not be narrower than that of A.
        seed, check_adjoint: see `SVDSolver`.

    Of a ``start`` of more columns than there is room for, random combinations are taken.

    Raises:
        ValueError: besides those of `SVDSolver`, max_products < 2 k, a max_basis too small, or a tol below ten
            roundings of the dtype.

    Source: Golub, Luk & Overton (1981), ACM Trans. Math. Softw. 7, for blocks; Baglama & Reichel (2005), SIAM J. Sci.
    Comput. 27, for the restart by Ritz vectors. What random vectors show: Kuczyński & Woźniakowski (1992), SIAM J.
    Matrix Anal. Appl. 13, section 4, for AᵀA.

    Cost: for spaces of dimension p, 2 p products, 2 (m + n) p² flops and (m + n) p numbers, and (m + n) k for the
    result; each restart 2 (m + n) max_basis k flops.
    """

    wanted, least_blocks = "triplets", 3

    def __attrs_post_init__(self) -> None:
        if self.max_products is not None and self.max_products < 2 * self.k:
            raise ValueError(
                f"k={self.k} triplets take at least {2 * self.k} products, of A and of its transpose, got "
                f"max_products={self.max_products}"
            )
        super().__attrs_post_init__()

    def _solve(self, A: Watched, start: Tensor | None) -> SingularTriplets:
        tol, budget = tolerance_for(A, self.tol), self._budget
        spaces, before = KrylovSpaces(A, self._width(tol), self.seed, start, self._storage_for(A)), A.products
        next_look = 2 * self.k
        while True:
            if self.max_basis is not None and spaces.right.basis.size + spaces.width > self.max_basis:
                spaces.restart(self._kept(spaces, self.max_basis))
            spaces.multiply((budget - A.products + before) // 2)
            spent = A.products - before
            last = spaces.are_complete or budget - spent < 2
            if last or spent >= next_look:
                triplets = spaces.ritz_triplets()
                within = tol * float(triplets.values[0])
                missing = int((triplets.residual_norms[: self.k] > within).sum())
                A.note(f"{self.k - missing} of {self.k} triplets converged")
                lacking = missing == 0 and self._may_lack(spaces, triplets, within)
                settled = missing == 0 and not lacking and self._nothing_leads(spaces, triplets, within)
                if last or settled:
                    break
                if lacking:
                    spaces.extend(triplets.values[: self.k])
                next_look = spent + products_to_next_look(missing, spaces.right.dim, each=2)
        status = Status.CONVERGED if settled else Status.OUT_OF_PRODUCTS
        if spaces.are_complete:
            status = Status.COMPLETE
        is_doubtful = status.is_failure and (missing == 0 or spaces.found is not None)
        notes = self._doubt(self.k - missing) if is_doubtful else ()
        U = spaces.left.basis.combine(triplets.left[:, : self.k])
        V = spaces.right.basis.combine(triplets.right[:, : self.k])
        if len(spaces.steps) > 1:
            U, V = orthonormalise(U).Q, orthonormalise(V).Q  # each restart adds its rounding errors
        return SingularTriplets(U, triplets.values[: self.k], V, status, triplets.residual_norms[: self.k], notes)

    def _storage_for(self, A: LinearOperator) -> Storage:
        """Where the bases of both sides live."""
        storage = self._stored(A, sum(A.shape))
        if storage.is_rounding(A.dtype):
            raise ValueError(f"bases of both sides are not rounded: leave out the dtype of {storage} for {A}")
        return storage

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        self._storage_for(A)

    @property
    def _most_vectors(self) -> int:
        """How many vectors of each side it may come to keep where nothing limits the basis: one for two products."""
        return max(500, 10 * self.k) if self.max_products is None else -(-self.max_products // 2)

    def _workload(self, A: LinearOperator) -> Workload:
        most = min(self._budget // 2, *A.shape)
        return self._space_workload(tolerance_for(A, self.tol), most, 2, 20)

    def _most(self, A: LinearOperator) -> int | None:
        return self._budget + 2 * self.check_adjoint

    @property
    def _budget(self) -> int:
        if self.max_products is not None:
            return self.max_products
        return 2 * self._most_vectors * (1 if self.max_basis is None else 10)

    def _kept(self, spaces: KrylovSpaces, limit: int) -> int:
        """How many triplets to restart with: k and a block at least, with room for two more blocks if there is."""
        return max(self.k + spaces.block_size, min(self.k + (limit - self.k) // 3, limit - 2 * spaces.width))

    def _may_lack(self, spaces: KrylovSpaces, triplets: RitzTriplets, within: float) -> bool:
        """Whether copies of leading values may be missing that only further random vectors can show."""
        leading, columns = triplets.values[: self.k], spaces.block_size
        if spaces.found is not None:
            return bool((leading > spaces.found + within).any())
        # Are there as many copies of a value ahead of the last as the block has columns?
        apart = leading[:-columns] - leading[columns - 1 : -1]
        return triplets.are_closed(within) or bool((apart <= CLUSTER * leading[:-columns] + within).any())

    def _nothing_leads(self, spaces: KrylovSpaces, triplets: RitzTriplets, within: float) -> bool:
        """Whether the triplets are all that lead, as far as the random vectors that joined others tell."""
        if triplets.are_closed(within) or (spaces.found is None and not spaces.started):
            return True
        # A triplet that is missing is ahead of the last: for AᵀA it would make up the gap from the first that has not
        # converged, of a spread of no more than the square of the last.
        growing = triplets.values[self.k :][triplets.residual_norms[self.k :] > within]
        ratio = float(growing[0] / triplets.values[self.k - 1])
        needed = evidence_needed(spaces.right.n, spaces.drawn)
        return ratio < 1 and evidence(spaces.steps, 1 - ratio**2, 1.0) >= needed
