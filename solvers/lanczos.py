"""Block Lanczos: eigenpairs by Rayleigh-Ritz on a growing Krylov space."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from .basis import Basis
from .report import Status
from .sketches import Gaussian
from .solver import EigenPairs, EigenSolver, Which
from .streams import stream
from .tall import column_norms, combine, orthonormalise
from .template import positive_integer, tolerance, tolerance_for
from .watched import Watched

_GROWTH = 0.02  # of the space between two looks at it, at least, so that these cost little beside the products
_DOUBT = 0.01  # the probability that random vectors have not shown a pair that leads


@attrs.frozen(kw_only=True)
class BlockLanczos(EigenSolver):
    """The k leading eigenpairs from a block Krylov space span{X, A X, A² X, …}, by Rayleigh-Ritz.

    An orthonormal basis Q of the space grows by the part of A times its last block that it does not contain. Every new
    block is orthogonalised twice against all of Q, and all coefficients are kept: A Q = [Q Q'] H, so that the projected
    matrix Qᵀ A Q is the upper part of H, and the residual norm of a Ritz pair (θ, Q s) is ‖H s - θ s‖, a small matrix
    product. No pair is found twice (no ghosts), and none is called converged that is not.

    Both ends of the spectrum converge at once. The error of an eigenvalue falls with the number of blocks like a
    Chebyshev polynomial in its distance from the eigenvalues that the space cannot hold: for a given number of products
    small blocks converge faster, large ones need fewer passes over the data and use fast matrix products.

    Directions of a block that are rounding errors are dropped. A space whose pairs all meet ``tol`` has closed, to an
    invariant subspace that holds no more than ``block_size`` copies of an eigenvalue: it is extended by random vectors.
    A ``start`` may lack leading pairs too, so it makes up at most half of the first block, (b + 1) // 2 columns, beside
    random vectors. In both cases pairs count as converged only after so many products with these vectors that a pair
    ahead of them would have shown, but for about one time in a hundred: the closer the next pair behind, the more.

    Copies above ``block_size`` may still be missing from a space that does not close: choose a larger block where high
    multiplicities are expected.

    Args:
        k: how many pairs.
        block_size: columns multiplied at a time; one more where a random vector joins a full block.
        tol: the pairs have converged when ‖A v - θ v‖ <= tol max|θ|, over all Ritz values; by default 1e-5 in float32,
            1e-9 in float64. The error of a θ apart from other eigenvalues is of the order of tol².
        max_products: where to stop at the latest; by default 10 k or 500, the larger, and never more than n.
        which, seed, check_symmetry: see `EigenSolver`.

    Of a ``start`` of more columns than there is room for, random combinations are taken.

    Raises:
        ValueError: besides those of `EigenSolver`, max_products < k, or a tol below ten roundings of the dtype.

    Source: Golub & Van Loan, Matrix Computations, section 10.3; Parlett, The Symmetric Eigenvalue Problem, chapter 13;
    Saad, Numerical Methods for Large Eigenvalue Problems, chapter 6. What random vectors show: Kuczyński & Woźniakowski
    (1992), SIAM J. Matrix Anal. Appl. 13, section 4.

    Cost: for a space of dimension m, m products, 4 n m² flops and n m numbers, and the basis of k vectors.
    """

    block_size: int = attrs.field(default=5, validator=positive_integer)
    tol: float | None = attrs.field(default=None, validator=tolerance)
    max_products: int | None = attrs.field(default=None, validator=positive_integer)

    uses_start = True

    def __attrs_post_init__(self) -> None:
        if self.max_products is not None and self.max_products < self.k:
            raise ValueError(f"k={self.k} pairs take at least as many products, got max_products={self.max_products}")

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        tol, budget = tolerance_for(A, self.tol), self._budget(A)
        space = _KrylovSpace(A, self.seed, tol)
        if start is not None:
            space.begin(start, self.block_size)
        next_look = self.k
        while True:
            if space.is_closed:
                space.extend(self.block_size)
            space.multiply(budget - space.dim)
            last = space.dim == budget
            if last or space.dim >= next_look:
                pairs = space.ritz_pairs(self.which, self.k)
                converged = pairs.residual_norms <= tol * pairs.scale
                space.is_closed |= pairs.largest_residual <= tol * pairs.scale
                settled = bool(converged.all()) and self._nothing_leads(space, pairs, tol)
                A.note(f"{int(converged.sum())} of {self.k} pairs converged")
                if last or settled:
                    break
                # Every pair that is still missing takes about one more product, if not more.
                missing = self.k - int(converged.sum())
                next_look = space.dim + max(missing, math.ceil(_GROWTH * space.dim))
        status = Status.CONVERGED if settled else Status.OUT_OF_PRODUCTS
        if space.dim == A.shape[0]:
            status = Status.COMPLETE
        vectors = space.basis.combine(pairs.coefficients)
        return EigenPairs(pairs.eigenvalues, vectors, status, pairs.residual_norms)

    def _nothing_leads(self, space: _KrylovSpace, pairs: _RitzPairs, tol: float) -> bool:
        """Whether the pairs are all that lead, as far as the random vectors beside a start or a closed space tell."""
        if space.closed == 0 and (space.is_closed or not space.started):
            return not space.is_closed
        outside = space.ritz_pairs(self.which, space.dim - space.closed, first=space.closed)
        leads = self.which.key(outside.eigenvalues) - self.which.key(pairs.eigenvalues[-1])
        behind = torch.arange(len(leads)) >= self.k if space.closed == 0 else leads <= tol * pairs.scale
        if (space.is_closed or space.repeats) and not bool(behind.all()):
            return False  # one more invariant subspace, with pairs of which copies may be missing
        growing = behind & (outside.residual_norms > tol * pairs.scale)
        if not bool(growing.any()):
            return bool(behind.any())
        # After j products with a random vector the largest eigenvalue is above that of the space by ε times the spread
        # of the spectrum with a probability below 1.648 √n exp(-√ε (2 j - 1)). Several vectors fail independently.
        # A pair that is missing lies beyond the last: it would make up the gap, of a spread of at least this.
        values = outside.eigenvalues[growing]
        gap = -float(leads[growing][0])
        spread = gap + float(values.max() - values.min())
        needed = math.log(1.648 * space.A.shape[0] ** 0.5) - math.log(_DOUBT) / max(1, space.drawn)
        return gap > 0 and (2 * space.steps - 1) * (gap / spread) ** 0.5 >= needed

    def _budget(self, A: Watched) -> int:
        wanted = max(500, 10 * self.k) if self.max_products is None else self.max_products
        return min(wanted, A.shape[0])


@attrs.frozen(eq=False)
class _RitzPairs:
    """Rayleigh-Ritz pairs (θ, Q s), in order: (k,) θ, (m, k) s, (k,) residual norms.

    ``scale`` and ``largest_residual`` are the largest |θ| and residual norm of all pairs of the space, not of k alone.
    """

    eigenvalues: Tensor
    coefficients: Tensor
    residual_norms: Tensor
    scale: float
    largest_residual: float


class _KrylovSpace:
    """A basis Q, of which the first ``dim`` columns have been multiplied, and all coefficients of A Q in it.

    The columns that have not are the frontier: the next to multiply.

    Attributes:
        is_closed: whether A maps the space to itself, but for ``tol`` of its norm, or all its pairs meet ``tol``.
        closed: the dimension at which it last did before it grew to this one.
        repeats: whether a space grown from random vectors has closed, so that copies of its pairs may be missing.
        started: whether it began with a start.
        drawn: how many random vectors joined it last.
        steps: the products with each of these.
    """

    def __init__(self, A: Watched, seed: int, tol: float) -> None:
        self.A, self.seed, self.tol = A, seed, tol
        self.basis = Basis(A.shape[0], A.dtype, A.device)
        self.dim = self.closed = self.drawn = self.steps = 0
        self.is_closed, self.repeats, self.started = True, False, False
        self._frontier = torch.empty(0, A.shape[0], dtype=A.dtype, device=A.device).mT
        self._coefficients: list[Tensor] = []  # the columns of H, block by block, each as long as the basis then was
        self._norm = 0.0  # the longest product so far, a lower bound of ‖A‖
        self._drawn = 0  # random vectors in all

    def begin(self, start: Tensor, width: int) -> None:
        """Make the first block: what ``start`` spans, cut down to half of ``width``, and random vectors."""
        half = (width + 1) // 2
        if start.shape[1] > half:
            mixing = stream(self.seed, "mixing").standard_normal((start.shape[1], half))
            start = combine(start, torch.from_numpy(mixing))
        self._append(orthonormalise(start).Q)
        self.extend(width)
        self.started, self.is_closed = True, False

    def extend(self, width: int) -> None:
        """Fill the frontier up to ``width`` columns, or as many as there is room for, by at least one random vector."""
        self.closed = self.dim
        self.repeats |= self.is_closed and self._drawn > 0
        n, first = self.A.shape[0], self._drawn
        self.drawn = min(max(1, width - self._frontier.shape[1]), n - self.basis.size)
        self.steps = 0
        if self.drawn == 0:
            return
        self._drawn += self.drawn
        fresh = Gaussian(n, self._drawn, seed=self.seed, purpose="start", dtype=self.A.dtype, device=self.A.device)
        self._append(orthonormalise(fresh.columns(first, self._drawn), self.basis).Q)

    def multiply(self, limit: int) -> None:
        """Multiply the frontier, up to ``limit`` columns of it, and append what is new in the product."""
        block = self._frontier[:, :limit]
        product = self.A._matmat(block)
        self._norm = max(self._norm, float(column_norms(product).max()))
        step = orthonormalise(product, self.basis, scale=self._norm)
        self._coefficients.append(torch.cat([step.C, step.R]))
        self._frontier = self._frontier[:, block.shape[1] :]
        self.dim += block.shape[1]
        self.steps += self._frontier.shape[1] == 0
        # With nothing left to multiply, R alone couples the space to what lies outside.
        self.is_closed = self._frontier.shape[1] == 0 and float(step.R.norm()) <= self.tol * self._norm
        self._append(step.Q)

    def ritz_pairs(self, which: Which, k: int, first: int = 0) -> _RitzPairs:
        """The k leading Ritz pairs in the span of the columns from ``first`` on.

        Cost: the eigendecomposition of a (dim, dim) matrix, and no products.
        """
        H = torch.zeros(self.basis.size, self.dim, dtype=torch.float64)
        stop = 0
        for columns in self._coefficients:
            start, stop = stop, stop + columns.shape[1]
            H[: len(columns), start:stop] = columns
        H = H[first:, first:]
        projected = H[: self.dim - first]
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        scale = float(values.abs().max())
        residuals = H @ vectors
        residuals[: len(vectors)] -= vectors * values
        # Q and its products are rounded, so that no residual norm is known to be smaller than a rounding of ‖A‖.
        rounding = torch.tensor(torch.finfo(self.A.dtype).eps * scale, dtype=torch.float64)
        norms = torch.hypot(column_norms(residuals), rounding)
        order = which.order(values)[:k]
        return _RitzPairs(values[order], vectors[:, order], norms[order], scale, float(norms.max()))

    def _append(self, block: Tensor) -> None:
        self.basis.append(block)
        self._frontier = torch.cat([self._frontier.mT, block.mT]).mT
