"""Growing bases: where the vectors of a Krylov space live."""

from __future__ import annotations

import torch
from torch import Tensor

from .tall import combine, gram

_WIDTH = 64  # columns of a store: the most that is allocated and not used


class Basis:
    """A growing (n, k) matrix B, kept in memory on one device.

    Solvers touch it only through `append`, `coefficients` and `combine`, so that a basis kept elsewhere has these three
    to define. Nothing is copied when it grows: it is a list of stores of `_WIDTH` contiguous columns.

    Args:
        n: rows.
        dtype: of the vectors.
        device: where they live.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n, self.dtype, self.device = n, dtype, device
        self.size = 0
        self._stores: list[Tensor] = []

    def append(self, block: Tensor) -> None:
        """Add the columns of an (n, b) block, which are copied.

        Cost: n b numbers.
        """
        while block.shape[1] > 0:
            used = self.size % _WIDTH
            if used == 0:
                self._stores.append(torch.empty(_WIDTH, self.n, dtype=self.dtype, device=self.device).mT)
            taken = min(_WIDTH - used, block.shape[1])
            self._stores[-1][:, used : used + taken] = block[:, :taken]
            self.size += taken
            block = block[:, taken:]

    def coefficients(self, X: Tensor) -> Tensor:
        """Bᵀ X of an (n, b) block: a small (k, b) matrix.

        Cost: 2 n k b flops.
        """
        parts = [gram(columns, X) for columns in self._columns(self.size)]
        return torch.cat(parts) if parts else torch.zeros(0, X.shape[1], dtype=torch.float64)

    def combine(self, C: Tensor) -> Tensor:
        """The product of the first j columns with small coefficients (j, b), j <= k: an (n, b) block.

        Cost: 2 n j b flops.
        """
        total = torch.zeros(C.shape[1], self.n, dtype=self.dtype, device=self.device).mT
        start = 0
        for columns in self._columns(len(C)):
            total += combine(columns, C[start : start + columns.shape[1]])
            start += columns.shape[1]
        return total

    def _columns(self, count: int) -> list[Tensor]:
        """The first ``count`` columns, store by store."""
        return [
            store[:, : min(_WIDTH, count - start)]
            for start, store in zip(range(0, count, _WIDTH), self._stores, strict=False)
        ]
