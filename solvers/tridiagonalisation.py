"""A block Krylov space with all its coefficients, which restarts within a limit of its basis."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from .basis import Basis
from .sketches import Gaussian
from .solver import Which
from .streams import stream
from .tall import column_norms, combine, orthonormalise
from .watched import Watched


@attrs.frozen(eq=False)
class RitzPairs:
    """Rayleigh-Ritz pairs (θ, Q s), in order: (k,) θ, (m, k) s, (k,) residual norms.

    ``largest_residual`` is that of all pairs of the space, not of k alone.
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
        origins: how many vectors it was grown from: of no eigenvalue does it hold more copies.
        sought: what a pair that random vectors are to show would lead by, `Which.key`; None for more than the last
            wanted pair.
        drawn: how many random vectors joined it last.
        steps: the products with each of these, from one restart to the next.
        scale: the largest |θ| seen.
    """

    def __init__(self, A: Watched, seed: int, tol: float, limit: int | None = None) -> None:
        self.A, self.seed, self.tol = A, seed, tol
        self.limit = A.shape[0] if limit is None else min(limit, A.shape[0])
        self.basis = Basis(A.shape[0], A.dtype, A.device)
        self.dim = self.closed = self.drawn = self.origins = 0
        self.steps = [0]
        self.scale = 0.0
        self.sought: float | None = None
        self.is_closed, self.repeats, self.mixed = True, False, False
        self._frontier = torch.empty(0, A.shape[0], dtype=A.dtype, device=A.device).mT
        self._coefficients: list[Tensor] = []  # the columns of H, block by block, each as long as the basis then was
        self._dropped = torch.zeros(0, 0, dtype=torch.float64)  # what A maps out of the basis since restarts
        self._norm = 0.0  # the longest product so far, a lower bound of ‖A‖
        self._drawn = 0  # random vectors in all

    @property
    def width(self) -> int:
        """Columns of the frontier."""
        return self._frontier.shape[1]

    def begin(self, start: Tensor, width: int) -> None:
        """Make the first block: what ``start`` spans, cut down to half of ``width``, and random vectors."""
        half = (width + 1) // 2
        if start.shape[1] > half:
            mixing = stream(self.seed, "mixing").standard_normal((start.shape[1], half))
            start = combine(start, torch.from_numpy(mixing))
        block = orthonormalise(start).Q
        self.origins += block.shape[1]
        self._append(block)
        self.extend(max(1, width - self.width))
        self.is_closed = False

    def extend(self, count: int, sought: float | None = None) -> None:
        """Add random vectors to the frontier, as many as there is room for.

        They are to show what the others lack: pairs that lead, or further copies of one whose key is ``sought``.
        """
        n, first = self.A.shape[0], self._drawn
        if self.mixed and (self.sought is None or sought is None):
            self.sought = None
        else:
            self.sought = sought if self.sought is None or sought is None else min(self.sought, sought)
        self.mixed |= self.basis.size > 0
        if self.is_closed:
            self.repeats |= self._drawn > 0
            self.closed = self.dim
        self.drawn = min(count, n - self.basis.size)
        self.steps = [0]
        if self.drawn == 0:
            return
        self._drawn += self.drawn
        self.origins += self.drawn
        fresh = Gaussian(n, self._drawn, seed=self.seed, purpose="start", dtype=self.A.dtype, device=self.A.device)
        self._append(orthonormalise(fresh.columns(first, self._drawn), self.basis).Q)

    def multiply(self, limit: int) -> None:
        """Multiply the frontier, up to ``limit`` columns of it, and append what is new in the product."""
        block = self._frontier[:, :limit]
        product = self.A._matmat(block)
        self._norm = max(self._norm, float(column_norms(product).max()))
        # A is symmetric: it couples the block to the columns from the one on whose product first reached it.
        reached = self._reached(self.dim)
        step = orthonormalise(product, self.basis, scale=self._norm, first=reached)
        self._coefficients.append(torch.cat([step.C, step.R]))
        self._frontier = self._frontier[:, block.shape[1] :]
        self.dim += block.shape[1]
        self.steps[-1] += self.width == 0
        # With nothing left to multiply, R alone couples the space to what lies outside.
        self.is_closed = self.width == 0 and float(step.R.norm()) <= self.tol * self._norm
        self._append(step.Q)

    def ritz_pairs(self, which: Which, k: int, first: int = 0, last: int | None = None) -> RitzPairs:
        """The k leading Ritz pairs in the span of the columns from ``first`` to ``last``, those multiplied at most.

        Cost: the eigendecomposition of a (dim, dim) matrix, and no products.
        """
        last = self.dim if last is None else last
        H = self._projected()[first:, first:last]
        projected = H[: last - first]
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        self.scale = max(self.scale, float(values.abs().max()))
        residuals = H @ vectors
        residuals[: len(vectors)] -= vectors * values
        dropped = self._dropped[:, first:last]
        dropped = dropped @ vectors[: dropped.shape[1]]
        # Q and its products are rounded, so that no residual norm is known to be smaller than a rounding of ‖A‖.
        rounding = torch.tensor(torch.finfo(self.A.dtype).eps * self.scale, dtype=torch.float64)
        norms = torch.hypot(torch.hypot(column_norms(residuals), column_norms(dropped)), rounding)
        order = which.order(values)[:k]
        return RitzPairs(values[order], vectors[:, order], norms[order], float(norms.max()))

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
        kept = max(1, min(k + (self.limit - k) // 3, self.limit - 2 * (fresh + self.width), self.dim))
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
        dropped = [
            top - C @ projected,
            torch.nn.functional.pad(self._dropped, (0, len(C) - self._dropped.shape[1])) @ C,
        ]
        if not frontier:
            dropped.append(bottom)
            bottom, self._frontier = bottom[:0], self._frontier[:, :0]
        self._dropped = torch.linalg.qr(torch.cat(dropped)).R
        self.basis.replace(C)
        self.dim, self._coefficients = C.shape[1], [torch.cat([projected, bottom])]
        self.basis.append(self._frontier)

    def _projected(self) -> Tensor:
        """H = Qᵀ A Q for all columns of the basis by those multiplied."""
        H = torch.zeros(self.basis.size, self.dim, dtype=torch.float64)
        stop = 0
        for columns in self._coefficients:
            start, stop = stop, stop + columns.shape[1]
            H[: len(columns), start:stop] = columns
        return H

    def _reached(self, column: int) -> int:
        """The first column whose product has a part along this ``column`` of the basis."""
        start = 0
        for columns in self._coefficients:
            if len(columns) > column:
                return start
            start += columns.shape[1]
        return start

    def _append(self, block: Tensor) -> None:
        self.basis.append(block)
        self._frontier = torch.cat([self._frontier.mT, block.mT]).mT


def evidence(steps: list[int], gap: float, spread: float) -> float:
    """The logarithm of how much products have amplified the part of a pair ahead of all others in a random vector.

    After j products with a random vector the largest eigenvalue is above that of the space by ε times the spread of the
    spectrum with a probability below 1.648 √n exp(-√ε (2 j - 1)) (Kuczyński & Woźniakowski 1992). Every restart keeps
    the leading Ritz vector, whose Krylov space amplifies it by a Chebyshev polynomial, of the steps since.

    Args:
        steps: products between restarts.
        gap: ε times the spread.
        spread: of the spectrum.
    """
    root = math.sqrt(gap / spread)
    total = root * (2 * steps[0] - 1)
    for step in steps[1:]:
        growth = 2 * root * step
        total += growth + math.log1p(math.exp(-2 * growth)) - math.log(2)  # log cosh
    return total
