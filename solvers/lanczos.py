"""Block Lanczos: eigenpairs by Rayleigh-Ritz on a growing Krylov space."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from .basis import Basis
from .results import Status
from .sketches import Gaussian
from .solver import EigenPairs, EigenSolver, Watched, Which, positive_integer
from .streams import stream
from .tall import column_norms, combine, orthonormalise

_GROWTH = 0.02  # of the space between two looks at it, at least, so that these cost little beside the products
_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}


def _tolerance(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not 0 < value < 1:
        raise ValueError(f"{attribute.name} is a number between 0 and 1, relative to the largest |λ|; got {value!r}")


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

    Directions of a block that are rounding errors are dropped. A product that adds nothing to the space, to ``tol``,
    has closed an invariant subspace, which may lack leading pairs: a start may lie in it, and it holds no more than
    ``block_size`` copies of an eigenvalue. It is extended by random vectors, and pairs count as converged only once the
    first pair behind them that grows outside has settled, to the square root of ``tol``. In a space that does not close
    copies above ``block_size`` may be missing still: choose a larger block where high multiplicities are expected.

    Args:
        k: how many pairs.
        block_size: columns multiplied at a time.
        tol: the pairs have converged when ‖A v - θ v‖ <= tol max|θ|, over all Ritz values; by default 1e-5 in float32,
            1e-9 in float64. The error of a θ apart from other eigenvalues is of the order of tol².
        max_products: where to stop at the latest; by default 10 k or 500, the larger, and never more than n.
        which, seed, check_symmetry: see `EigenSolver`.

    A ``start`` of fewer than ``block_size`` columns is filled up by random ones; of more, random
    combinations are taken.

    Raises:
        ValueError: besides those of `EigenSolver`, max_products < k, or a tol below ten roundings of the dtype.

    Source: Golub & Van Loan, Matrix Computations, section 10.3; Parlett, The Symmetric Eigenvalue Problem, chapter 13;
    Saad, Numerical Methods for Large Eigenvalue Problems, chapter 6.

    Cost: for a space of dimension m, m products, 4 n m² flops and n m numbers, and the basis of k vectors.
    """

    block_size: int = attrs.field(default=5, validator=positive_integer)
    tol: float | None = attrs.field(default=None, validator=_tolerance)
    max_products: int | None = attrs.field(default=None, validator=positive_integer)

    uses_start = True

    def __attrs_post_init__(self) -> None:
        if self.max_products is not None and self.max_products < self.k:
            raise ValueError(f"k={self.k} pairs take at least as many products, got max_products={self.max_products}")

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        tol, budget = self._tolerance(A), self._budget(A)
        space = _KrylovSpace(A, self.seed, tol)
        if start is not None:
            space.begin(start, min(self.block_size, budget))
        next_look = self.k
        while True:
            if space.is_closed:
                space.refill(self.block_size)
            space.multiply(budget - space.dim)
            last = space.dim == budget
            if last or space.dim >= next_look:
                pairs = space.ritz_pairs(self.which, self.k)
                converged = pairs.residual_norms <= tol * pairs.scale
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
        """Whether the pairs are all that lead, as far as is known outside the invariant subspace they may come from."""
        if space.closed == 0:
            return not space.is_closed
        outside = space.ritz_pairs(self.which, space.dim - space.closed, first=space.closed)
        last = self.which.key(pairs.eigenvalues[-1])
        ahead = self.which.key(outside.eigenvalues) > last + tol * pairs.scale
        if space.is_closed and bool(ahead.any()):
            return False  # one more invariant subspace, with pairs of which copies may be missing
        # The error of a Ritz value is of the order of its squared residual: the root of tol shows it to tol.
        first_behind = outside.residual_norms[~ahead][:1] <= tol**0.5 * pairs.scale
        return len(first_behind) > 0 and bool(first_behind)

    def _tolerance(self, A: Watched) -> float:
        rounding = torch.finfo(A.dtype).eps
        if self.tol is None:
            return _TOLERANCES[A.dtype]
        if self.tol < 10 * rounding:
            raise ValueError(
                f"tol={self.tol} is below the rounding errors of {A.A}: choose at least {10 * rounding:.1e}"
            )
        return self.tol

    def _budget(self, A: Watched) -> int:
        wanted = max(500, 10 * self.k) if self.max_products is None else self.max_products
        return min(wanted, A.shape[0])


@attrs.frozen(eq=False)
class _RitzPairs:
    """Rayleigh-Ritz pairs (θ, Q s), in order: (k,) θ, (m, k) s, (k,) residual norms, and the largest of all |θ|."""

    eigenvalues: Tensor
    coefficients: Tensor
    residual_norms: Tensor
    scale: float


class _KrylovSpace:
    """A basis Q, of which the first ``dim`` columns have been multiplied, and all coefficients of A Q in it.

    The columns that have not are the frontier: the next to multiply. ``is_closed`` says that A maps the space to
    itself, but for ``tol`` of its norm; ``closed`` is the dimension at which it last did before it grew to this one.
    """

    def __init__(self, A: Watched, seed: int, tol: float) -> None:
        self.A, self.seed, self.tol = A, seed, tol
        self.basis = Basis(A.shape[0], A.dtype, A.device)
        self.dim = self.closed = 0
        self.is_closed = True
        self._frontier = torch.empty(0, A.shape[0], dtype=A.dtype, device=A.device).mT
        self._coefficients: list[Tensor] = []  # the columns of H, block by block, each as long as the basis then was
        self._norm = 0.0  # the longest product so far, a lower bound of ‖A‖
        self._drawn = 0

    def begin(self, start: Tensor, width: int) -> None:
        """Make the first block: what ``start`` spans, cut down to ``width`` columns."""
        if start.shape[1] > width:
            mixing = stream(self.seed, "mixing").standard_normal((start.shape[1], width))
            start = combine(start, torch.from_numpy(mixing))
        self._append(orthonormalise(start).Q)

    def refill(self, width: int) -> None:
        """Fill the frontier up to ``width`` columns, or as many as there is room for, by random vectors."""
        n = self.A.shape[0]
        width = min(width - self._frontier.shape[1], n - self.basis.size)
        if width <= 0:
            return
        fresh = Gaussian(
            n, self._drawn + width, seed=self.seed, purpose="start", dtype=self.A.dtype, device=self.A.device
        )
        self._append(orthonormalise(fresh.columns(self._drawn, self._drawn + width), self.basis).Q)
        self._drawn += width

    def multiply(self, limit: int) -> None:
        """Multiply the frontier, up to ``limit`` columns of it, and append what is new in the product."""
        if self.is_closed:
            self.closed = self.dim
        block = self._frontier[:, :limit]
        product = self.A._matmat(block)
        self._norm = max(self._norm, float(column_norms(product).max()))
        step = orthonormalise(product, self.basis, scale=self._norm)
        self._coefficients.append(torch.cat([step.C, step.R]))
        self._frontier = self._frontier[:, block.shape[1] :]
        self.dim += block.shape[1]
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
        order = which.order(values)[:k]
        values, vectors = values[order], vectors[:, order]
        residuals = H @ vectors
        residuals[: len(vectors)] -= vectors * values
        # Q and its products are rounded, so that no residual norm is known to be smaller than a rounding of ‖A‖.
        rounding = torch.tensor(torch.finfo(self.A.dtype).eps * scale, dtype=torch.float64)
        return _RitzPairs(values, vectors, torch.hypot(column_norms(residuals), rounding), scale)

    def _append(self, block: Tensor) -> None:
        self.basis.append(block)
        self._frontier = torch.cat([self._frontier.mT, block.mT]).mT
