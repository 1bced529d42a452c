"""Eigenpairs of a small matrix that grows, as projections on Krylov spaces do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .tall import column_norms

_MOST = 0.75  # of the eigenpairs that may be joined by others: above it next to nothing is gained


class GrowingDiagonalisation:
    """Eigenpairs of a symmetric matrix S that grows by rows and columns, each time by means of the last ones.

    In terms of the eigenvectors of the smaller matrix and of the new rows, S is a diagonal matrix with a border. An
    eigenvector with next to nothing in the border remains one and is left out, so that only the rest is diagonalised:
    in a Krylov space all pairs but those that have not converged.

    Source: deflation, as in divide and conquer (Cuppen 1981; Golub & Van Loan, section 8.4).
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin with another matrix."""
        self._values = torch.zeros(0, dtype=torch.float64)
        self._vectors = torch.zeros(0, 0, dtype=torch.float64)

    def grown(self, S: Tensor, negligible: float) -> tuple[Tensor, Tensor]:
        """(m,) eigenvalues of S, (m, m), in no order, and (m, m) eigenvectors.

        Args:
            S: the matrix; its leading part is the one of the last call.
            negligible: the norm of a row of the border that is left out. In a residual these add up, over all rows of
                this call and of those before.

        Cost: 9 r³ flops for the r pairs that the border joins and the new rows, and 2 m r².
        """
        m, known = len(S), len(self._values)
        border = self._vectors.mT @ S[:known, known:]
        joined = column_norms(border.mT) > negligible
        if int(joined.sum()) >= _MOST * known:
            self._values, self._vectors = torch.linalg.eigh(S)
            return self._values, self._vectors
        border = border[joined]
        top = torch.cat([self._values[joined].diag(), border], dim=1)
        bottom = torch.cat([border.mT, S[known:, known:]], dim=1)
        values, vectors = torch.linalg.eigh(torch.cat([top, bottom]))
        inside, new = vectors[: len(border)], vectors[len(border) :]
        unchanged = pad(self._vectors[:, ~joined], (0, 0, 0, m - known))
        self._values = torch.cat([self._values[~joined], values])
        self._vectors = torch.cat([unchanged, torch.cat([self._vectors[:, joined] @ inside, new])], dim=1)
        return self._values, self._vectors
