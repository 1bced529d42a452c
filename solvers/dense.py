"""Eigenpairs and singular triplets of an operator by forming its matrix."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.operator import DENSE_COLUMNS
from .report import Status
from .solver import EigenPairs, EigenSolver
from .svd_solver import SingularTriplets, SVDSolver
from .tall import column_norms
from .watched import Watched
from .workload import Workload


@attrs.frozen(kw_only=True)
class DenseEigh(EigenSolver):
    """The k leading eigenpairs from a full diagonalisation of the dense matrix: exact to rounding.

    The matrix is (A + Aᵀ) / 2 of the measured entries. Residuals are those against the entries as measured, and take no
    further products.

    Args:
        k, which, seed, check_symmetry: see `EigenSolver`.

    Source: LAPACK's divide and conquer (Cuppen 1981; Gu & Eisenstat 1995), or the device's like.

    Cost: n products, about 9 n³ flops and 4 n² numbers.
    """

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        matrix = A.to_dense()
        symmetric = (matrix + matrix.mT) / 2
        # In single precision the vectors of a GPU's routine are orthonormal to 1e-5 only.
        values, vectors = torch.linalg.eigh(symmetric.double() if symmetric.is_cuda else symmetric)
        eigenvalues, eigenvectors = values.to(matrix.dtype), vectors.to(matrix.dtype)
        order = self.which.order(eigenvalues)[: self.k]
        eigenvalues, eigenvectors = eigenvalues[order], eigenvectors[:, order]
        residual_norms = column_norms(matrix @ eigenvectors - eigenvectors * eigenvalues)
        return EigenPairs(eigenvalues.cpu(), eigenvectors, Status.COMPLETE, residual_norms)

    def _workload(self, A: LinearOperator) -> Workload:
        n = A.shape[0]
        return Workload(
            width=min(n, DENSE_COLUMNS),
            passes=-(-n // DENSE_COLUMNS) + self.check_symmetry,
            working=4 * n,
            row_flops=2 * n * self.k,
            core=n,
            core_flops=9 * n**3,
            dense=True,
        )

    def _total(self, A: LinearOperator) -> int | None:
        return A.shape[0] + 2 * self.check_symmetry


@attrs.frozen(kw_only=True)
class DenseSVD(SVDSolver):
    """The k largest singular triplets from a full decomposition of the dense matrix: exact to rounding.

    Its entries come from products with A, or with Aᵀ where A has fewer rows than columns. Residuals are those against
    these entries, and take no further products.

    Args:
        k, seed, check_adjoint: see `SVDSolver`.

    Source: LAPACK's divide and conquer (Gu & Eisenstat 1995), or the device's like.

    Cost: min(m, n) products, about 20 m n min(m, n) flops and 4 m n numbers.
    """

    def _solve(self, A: Watched, start: Tensor | None) -> SingularTriplets:
        m, n = A.shape
        # Not A.T.to_dense(), which takes the n products of A.
        matrix = A.to_dense() if m >= n else LinearOperator.to_dense(A.T).mT
        # A GPU's default, Jacobi's method, leaves vectors short of orthonormal, and its QR method small float32 ones.
        on_gpu = matrix.is_cuda
        factors = torch.linalg.svd(
            matrix.double() if on_gpu else matrix, full_matrices=False, driver="gesvd" if on_gpu else None
        )
        left, values, right = (factor.to(matrix.dtype) for factor in factors)
        U, sigma, V = left[:, : self.k], values[: self.k], right[: self.k].mT
        norms = torch.hypot(column_norms(matrix @ V - U * sigma), column_norms(matrix.mT @ U - V * sigma)) / 2**0.5
        return SingularTriplets(U, sigma, V, Status.COMPLETE, norms)

    def _workload(self, A: LinearOperator) -> Workload:
        (m, n), least = A.shape, min(A.shape)
        return Workload(
            width=min(least, DENSE_COLUMNS),
            passes=-(-least // DENSE_COLUMNS) + 2 * self.check_adjoint,
            working=4 * m * n / (m + n),
            row_flops=2 * least * self.k,
            core=least,
            core_flops=20 * m * n * least,
            dense=True,
        )

    def _total(self, A: LinearOperator) -> int | None:
        return min(A.shape) + 2 * self.check_adjoint
