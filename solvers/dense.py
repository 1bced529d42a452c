"""Eigenpairs of an operator by forming its matrix."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .report import Status
from .solver import EigenPairs, EigenSolver
from .tall import column_norms
from .watched import Watched


@attrs.frozen(kw_only=True)
class DenseEigh(EigenSolver):
    """The k leading eigenpairs from a full diagonalisation of the dense matrix: exact to rounding.

    The matrix is (A + Aᵀ) / 2 of the measured entries. Residuals are those against the entries as measured, and take no
    further products.

    Source: LAPACK's divide and conquer (Cuppen 1981; Gu & Eisenstat 1995), or the device's like.

    Cost: n products, about 9 n³ flops and 4 n² numbers.
    """

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        matrix = A.to_dense()
        eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        order = self.which.order(eigenvalues)[: self.k]
        eigenvalues, eigenvectors = eigenvalues[order], eigenvectors[:, order]
        residual_norms = column_norms(matrix @ eigenvectors - eigenvectors * eigenvalues)
        return EigenPairs(eigenvalues.cpu(), eigenvectors, Status.COMPLETE, residual_norms)

    def _total(self, A: LinearOperator) -> int | None:
        return A.shape[0] + 2 * self.check_symmetry
