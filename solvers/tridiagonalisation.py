"""A block Krylov space of a symmetric operator with all its coefficients, which restarts within a limit."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from .basis import Basis, narrowed
from .diagonalisation import GrowingDiagonalisation
from .krylov import MultipliedBasis
from .solver import Which
from .storage import DEVICE, Storage
from .tall import column_norms
from .watched import Watched


@attrs.frozen(eq=False)
class RitzPairs:
    """Rayleigh-Ritz pairs (θ, Q s), in order: (k,) θ, (m, k) s, (k,) residual norms.

    ``largest_residual`` is that of all pairs of the space, not of k alone, but for rounding errors.
    """

    eigenvalues: Tensor
    coefficients: Tensor
    residual_norms: Tensor
    largest_residual: float


class KrylovSpace:
    """A basis Q, of which the first ``dim`` columns have been multiplied, and all coefficients of A Q in it.

    The columns that have not are the frontier: the next to multiply.

    Attributes:
        is_closed: whether A maps the space to itself, but for ``tol`` of its norm, or all its pairs meet ``tol``.
        closed: the dimension at which it last did before it grew to this one.
        repeats: whether a space grown from random vectors has closed, so that copies of its pairs may be missing.
        mixed: whether random vectors joined others in it, so that they must show what those may lack.
        origins: how many random vectors it was grown from: of an eigenvalue that a start lacks it holds no more copies.
        sought: what a pair that random vectors are to show would lead by, `Which.key`; None for more than the last
            wanted pair.
        drawn: how many random vectors joined it last.
        steps: the products with each of these, from one restart to the next.
        scale: the largest |θ| seen.
    """

    def __init__(
        self,
        A: Watched,
        block_size: int,
        seed: int,
        tol: float,
        limit: int | None = None,
        storage: Storage = DEVICE,
    ) -> None:
        self.A, self.block_size, self.seed, self.tol = A, block_size, seed, tol
        self.limit = A.shape[0] if limit is None else min(limit, A.shape[0])
        self._vectors = MultipliedBasis(A, A.shape[0], seed, "start", storage)
        self.closed = self.drawn = self.origins = 0
        self.steps = [0]
        self.scale = 0.0
        self.sought: float | None = None
        self.is_closed, self.repeats, self.mixed = True, False, False
        self._dropped = torch.zeros(0, 0, dtype=torch.float64)  # what A maps out of the basis since restarts
        self._diagonalisation = GrowingDiagonalisation()
        self._norm = 0.0  # the longest product so far, a lower bound of ‖A‖

    @property
    def basis(self) -> Basis:
        """Q, with the frontier."""
        return self._vectors.basis

    @property
    def dim(self) -> int:
        """Columns that have been multiplied."""
        return self._vectors.dim

    @property
    def width(self) -> int:
        """Columns of the frontier."""
        return self._vectors.width

    def begin(self, start: Tensor) -> None:
        """Make the first block: what ``start`` spans, cut down to half of it, and random vectors."""
        self._vectors.append(narrowed(start, (self.block_size + 1) // 2, self.seed, "mixing"))
        self.extend(max(1, self.block_size - self.width))
        self.is_closed = False

    def extend(self, count: int, sought: float | None = None) -> None:
        """Add random vectors to the frontier, as many as there is room for.

        They are to show what the others lack: pairs that lead, or further copies of one whose key is ``sought``.
        """
        if self.mixed:
            self.sought = None if self.sought is None or sought is None else min(self.sought, sought)
        else:
            self.sought = sought
        self.mixed |= self.basis.size > 0
        if self.is_closed:
            self.repeats |= self._vectors.drawn > 0
            self.closed = self.dim
        self.steps = [0]
        self.drawn = self._vectors.draw(count)
        self.origins += self.drawn

    def multiply(self, limit: int) -> None:
        """Multiply the frontier, up to ``limit`` columns of it, and append what is new in the product."""
        is_all = self.width <= limit
        step = self._vectors.multiply(self.A.multiply, limit, self._vectors, self._norm)
        self._norm = step.scale
        self.steps[-1] += is_all
        # With nothing left to multiply, R alone couples the space to what lies outside.
        self.is_closed = is_all and float(step.R.norm()) <= self.tol * self._norm

    def ritz_pairs(self, which: Which, k: int, first: int = 0, last: int | None = None) -> RitzPairs:
        """The k leading Ritz pairs in the span of the columns from ``first`` to ``last``, those multiplied at most.

        Cost: the eigendecomposition of a (dim, dim) matrix, less what had converged when last asked; no products.
        """
        last = self.dim if last is None else last
        H = self._projected()[first:, first:last]
        projected = H[: last - first]
        symmetric = (projected + projected.mT).div_(2)
        rounding = torch.finfo(self.A.dtype).eps
        if len(symmetric) == self.dim:
            values, vectors = self._diagonalisation.grown(symmetric, rounding * self.scale)
        else:
            values, vectors = torch.linalg.eigh(symmetric)
        self.scale = max(self.scale, float(values.abs().max()))
        outside = H[last - first :] @ vectors
        dropped = self._dropped[:, first:last]
        dropped = dropped @ vectors[: dropped.shape[1]]
        # Q and its products are rounded, so that no residual norm is known to be smaller than a rounding of ‖A‖.
        least = torch.full_like(values, rounding * self.scale)
        norms = torch.stack([column_norms(outside), column_norms(dropped), least]).norm(dim=0)
        order = which.order(values)[:k]
        wanted = vectors[:, order]
        # Within the space nothing is left but for asymmetry, of products that are rounded, and what was neglected.
        inside = column_norms(projected @ wanted - wanted * values[order])
        return RitzPairs(values[order], wanted, torch.hypot(norms[order], inside), float(norms.max()))

    def must_restart(self, fresh: int) -> bool:
        """Whether ``fresh`` random vectors and the product of the frontier do not fit within the limit of the basis."""
        return self.limit < self.A.shape[0] and self.basis.size + 2 * fresh + self.width > self.limit

    def close(self, which: Which, k: int) -> None:
        """Replace the basis by its k leading Ritz vectors alone, and count it as closed.

        What A maps out of their span is dropped, and counts in their residual norms.

        Cost: 2 n dim k flops, and no products.
        """
        self._replace(self.ritz_pairs(which, k).coefficients, frontier=False)
        self.closed, self.is_closed = 0, True

    def restart(self, which: Which, k: int, fresh: int) -> None:
        """Replace the basis by its leading Ritz vectors, at least k of them, and the frontier.

        It remains a Krylov space: it holds that of every Ritz vector that is kept. Where it has closed before, Ritz
        vectors are those of the closed part and of the rest, of which the latter are still to be told apart.

        Source: thick restart (Wu & Simon 2000).

        Cost: 2 n dim k flops, and no products.
        """
        # Room for two products: of a single one, restarts would drop all that grows in it from random vectors.
        kept = max(1, min(k + (self.limit - k) // 3, self.limit - 3 * (fresh + self.width), self.dim))
        inside = self.closed if self.closed < self.dim else 0
        parts = [self.ritz_pairs(which, min(k, inside, kept), 0, inside).coefficients] if inside else []
        parts.append(self.ritz_pairs(which, max(1, kept - sum(part.shape[1] for part in parts)), inside).coefficients)
        self._replace(torch.block_diag(*parts), frontier=True)  # type: ignore[no-untyped-call]
        self.closed = parts[0].shape[1] if inside else 0
        self.steps.append(0)

    def _replace(self, C: Tensor, frontier: bool) -> None:
        """Put the combinations with C, (dim, r) orthonormal, in the place of the columns that have been multiplied."""
        H = self._projected()
        top, bottom = H[: self.dim] @ C, H[self.dim :] @ C
        projected = C.mT @ top
        # Unless C are Ritz vectors of the whole space, A maps to what is dropped of it: that counts as residual.
        dropped = [top - C @ projected, pad(self._dropped, (0, len(C) - self._dropped.shape[1])) @ C]
        if not frontier:
            dropped.append(bottom)
            bottom, self._vectors.waiting = bottom[:0], self._vectors.waiting[:, :0]
        self._dropped = torch.linalg.qr(torch.cat(dropped)).R
        self._vectors.replace(C, torch.cat([projected, bottom]))
        self._diagonalisation.forget()

    def _projected(self) -> Tensor:
        """H = Qᵀ A Q for all columns of the basis by those multiplied."""
        H = self._vectors.matrix(self.basis.size)
        if self.basis.rounding > 0:  # of stored vectors it shows as asymmetry, about which products can do nothing
            H[: self.dim] = (H[: self.dim] + H[: self.dim].mT) / 2
        return H
