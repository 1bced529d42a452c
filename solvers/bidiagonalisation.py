"""Block Krylov spaces of both sides of an operator with all their coefficients, which restart from their triplets."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from .basis import narrowed
from .krylov import MultipliedBasis
from .storage import DEVICE, Storage
from .tall import column_norms
from .watched import Takes, Watched


@attrs.frozen(eq=False)
class RitzTriplets:
    """Triplets (σ, U x, V y) of the spaces, the largest first: (j,) σ, (q, j) x, (p, j) y, (j,) residual norms."""

    values: Tensor
    left: Tensor
    right: Tensor
    residual_norms: Tensor

    def are_closed(self, within: float) -> bool:
        """Whether the spaces are invariant, as all their triplets are accurate."""
        return bool((self.residual_norms <= within).all())


class KrylovSpaces:
    """Krylov spaces of both sides, that grow in step, with all coefficients of products in them: A V = U B, Aᵀ U = V D.

    The columns of V that have not been multiplied are the block to multiply next; of U there are none.

    Attributes:
        started: whether they began with a start.
        found: the leading singular values when random vectors last joined a block to show what it lacks; None if none
            did.
        drawn: how many they were, or joined the start.
        steps: the products of AᵀA with each of these, from one restart to the next.
    """

    def __init__(self, A: Watched, block_size: int, seed: int, start: Tensor | None, storage: Storage = DEVICE) -> None:
        self.A, self.block_size = A, block_size
        m, n = A.shape
        self.left = MultipliedBasis(A, m, seed, "left vectors", storage)
        self.right = MultipliedBasis(A, n, seed, "right vectors", storage)
        self.started, self.steps = start is not None, [0]
        self.found: Tensor | None = None
        self._dropped = torch.zeros(0, 0, dtype=torch.float64)  # what Aᵀ maps out of the basis since restarts
        self._norm = 0.0  # the longest product so far, a lower bound of ‖A‖
        if start is not None:
            self.right.append(narrowed(start, (block_size + 1) // 2, seed, "right mixing"))
        self._fresh = self.drawn = self.right.draw(max(1, block_size - self.width))

    @property
    def width(self) -> int:
        """Columns of the block to multiply next."""
        return self.right.width

    @property
    def are_complete(self) -> bool:
        """Whether nothing is left to multiply: the space of one side is all of it."""
        return self.width == 0

    def multiply(self, limit: int) -> None:
        """Multiply the block, up to ``limit`` columns of it, and by the transpose what is new in the product."""
        width = min(limit, self.width)
        rank = self._multiply(self.A.multiply, self.right, self.left, width)
        self.steps[-1] += self.width == 0
        self.left.draw(width - rank)
        if self.left.width > 0:
            self._multiply(self.A.multiply_transpose, self.left, self.right, self.left.width)
        # Once left vectors span Rᵐ their products say all of A.
        self._fresh = self.right.draw(self.block_size - self.width) if self.left.dim < self.left.n else 0

    def extend(self, found: Tensor) -> None:
        """Let at least one random vector join the block, unless some just have, to show what ``found`` lacks."""
        if self._fresh == 0:
            self._fresh = self.right.draw(max(1, self.block_size - self.width))
        self.found, self.drawn, self.steps = found, self._fresh, [0]

    def ritz_triplets(self) -> RitzTriplets:
        """The triplets of the projection of A on the spaces, with residual norms.

        Cost: the singular value decomposition of a (dim, dim) matrix, and no products.
        """
        B, D = self._projections()
        left, values, right = torch.linalg.svd(B, full_matrices=False)
        # A V y = U B y = σ U x, to rounding, so that all of the residual is that of the transpose.
        residuals = D @ left
        residuals[: self.right.dim] -= right.mT * values
        dropped = self._dropped @ left[: self._dropped.shape[1]]
        norms = torch.hypot(column_norms(residuals), column_norms(dropped)) / 2**0.5
        # The bases and their products are rounded: no residual norm is known to be smaller than a rounding of ‖A‖.
        rounding = (torch.finfo(self.A.dtype).eps * values[0]).expand(len(values))
        return RitzTriplets(values, left, right.mT, torch.hypot(norms, rounding))

    def restart(self, keep: int) -> None:
        """Replace the bases by the vectors of the leading triplets, and the block that waits.

        They remain Krylov spaces: they hold those of every right vector that is kept.

        Cost: 2 (m + n) dim keep flops, and no products.
        """
        triplets, (_, D), p = self.ritz_triplets(), self._projections(), self.right.dim
        X, Y = triplets.left[:, :keep], triplets.right[:, :keep]
        top, bottom = D[:p] @ X, D[p:] @ X
        projected = Y.mT @ top
        # To rounding nothing is dropped, if the products with A and its transpose are adjoint to rounding.
        earlier = self._dropped @ X[: self._dropped.shape[1]]
        self._dropped = torch.linalg.qr(torch.cat([top - Y @ projected, earlier])).R
        self.right.replace(Y, triplets.values[:keep].diag())
        self.left.replace(X, torch.cat([projected, bottom]))
        self.steps.append(0)

    def _projections(self) -> tuple[Tensor, Tensor]:
        """B, (q, p), and D, (p + width, q)."""
        return self.right.matrix(self.left.basis.size), self.left.matrix(self.right.basis.size)

    def _multiply(
        self, product: Callable[[Tensor, Takes], Tensor], side: MultipliedBasis, other: MultipliedBasis, width: int
    ) -> int:
        """Multiply ``width`` columns that wait, and append what is new in the product, of that rank, to the other."""
        step = side.multiply(product, width, other, self._norm)
        self._norm = step.scale
        return step.Q.shape[1]
