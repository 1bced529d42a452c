"""SciPy's eigensolvers behind the same interface."""

from __future__ import annotations

import math

import attrs
import numpy
import scipy
import torch
from torch import Tensor

from ..linops import LinearOperator
from .dense import DenseEigh
from .krylov import expected_dimension
from .parameters import int_or_none, positive_integer
from .report import Status
from .sketches import Gaussian
from .solver import EigenPairs, EigenSolver
from .streams import stream
from .tall import column_norms, orthonormalise
from .watched import Watched
from .workload import Workload


@attrs.frozen(kw_only=True)
class Arpack(EigenSolver):
    """The k leading eigenpairs by the implicitly restarted Lanczos method of ARPACK, through SciPy, on the CPU.

    It keeps ``ncv`` vectors only and multiplies one at a time. For k = n, which ARPACK cannot do, the matrix is formed
    and diagonalised. ARPACK takes eigenvalues below eps^(2/3) for zero, so A is first divided by about its norm.
    Copies of a repeated eigenvalue may be missing although all that was found has converged, and the vectors of those
    that are found be as accurate as the root of the tolerance alone: `BlockLanczos` looks for them.

    Args:
        k: how many pairs.
        tol: relative accuracy of the eigenvalues; 0 is machine precision.
        ncv: vectors kept, k < ncv <= n; by default 2 k + 1, at least 20.
        maxiter: restarts at most; by default 10 n.
        which, seed, check_symmetry: see `EigenSolver`.

    A random combination of the columns of a ``start`` is the first vector. If ARPACK gives up, the pairs that did
    converge are returned, possibly none, with a warning.

    Raises:
        ValueError: besides those of `EigenSolver`, an ncv outside k+1 … n, a start of zeros, or products whose squares
            overflow or vanish.
        RuntimeError: ARPACK failed otherwise.

    Source: Lehoucq, Sorensen & Yang (1998), ARPACK Users' Guide.

    Cost: products are not known beforehand, one more for the norm and k for the residuals; n ncv numbers.
    """

    tol: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    ncv: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    maxiter: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)

    uses_start, takes_spread_rows = True, False

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        n = A.shape[0]
        if self.k == n:
            return DenseEigh(k=self.k, which=self.which)._solve(A, None)
        if self.ncv is not None and not self.k < self.ncv <= n:
            raise ValueError(f"ncv={self.ncv} must be above k={self.k} and at most n={n}")
        scale = power_of_two(A, self.seed)
        if scale == 0:  # A random vector is mapped to zero by the zero operator alone, which ARPACK refuses.
            random = Gaussian(n, self.k, seed=self.seed, purpose="start", dtype=A.dtype, device=A.device)
            return EigenPairs(torch.zeros(self.k), orthonormalise(random.columns(0, self.k)).Q, Status.CONVERGED)
        first = stream(self.seed, "start").standard_normal(n)
        if start is not None:
            first = start.cpu().double().numpy() @ stream(self.seed, "mixing").standard_normal(start.shape[1])
            if not first.any():
                raise ValueError(f"{type(self).__name__}: the start is zero; leave it out")
        status = Status.CONVERGED
        try:
            values, vectors = scipy.sparse.linalg.eigsh(
                (A / scale).to_scipy(),
                k=self.k,
                which=self.which.value,
                v0=first.astype(str(A.dtype).removeprefix("torch.")),
                ncv=self.ncv,
                maxiter=self.maxiter,
                tol=self.tol,
            )
        except scipy.sparse.linalg.ArpackNoConvergence as stopped:
            values, vectors = stopped.eigenvalues, stopped.eigenvectors
            status = Status.OUT_OF_ITERATIONS
        except scipy.sparse.linalg.ArpackError as error:
            raise RuntimeError(f"ARPACK failed on {A.A}: {error}; raise ncv, or use BlockLanczos") from error
        vectors = torch.from_numpy(numpy.ascontiguousarray(vectors)).to(A.device)
        return EigenPairs(torch.from_numpy(values) * scale, vectors, status)

    def _workload(self, A: LinearOperator) -> Workload:
        if self.k == A.shape[0]:
            return attrs.evolve(DenseEigh(k=self.k)._workload(A), products=self.k + 2 * self.check_symmetry)
        kept, steps = arnoldi_steps(A.shape[0], self.k, self.ncv, max(self.tol, torch.finfo(A.dtype).eps))
        return Workload(
            products=steps + 1 + self.k + 2 * self.check_symmetry,
            rule="as many vectors as ARPACK keeps, and restarts as BlockLanczos(block_size=1) has products",
            width=1,
            passes=steps + 2 + self.check_symmetry,
            basis=kept,
            working=2 * self.k,
            row_flops=8 * kept * steps + 2 * kept * self.k,
            core=kept,
            core_flops=9 * kept**3,
            algebra_width=8,  # compiled code: single vectors, but nothing else takes time
        )


def arnoldi_steps(n: int, k: int, ncv: int | None, tol: float) -> tuple[int, int]:
    """Vectors that ARPACK keeps, and steps that it takes as a rule: until it is full, and in restarts."""
    kept = min(n, max(2 * k + 1, 20)) if ncv is None else ncv
    missing = max(0.0, expected_dimension(k, 1, tol) - kept)
    return kept, kept + math.ceil(missing / (kept - k)) * (kept - k)


def power_of_two(A: Watched, seed: int) -> float:
    """A power of two, so that no product is rounded anew, of about the norm of A, or less by √n; 0 for A = 0.

    Cost: one product.
    """
    n = A.shape[1]
    vector = Gaussian(n, 1, seed=seed, purpose="scale", dtype=A.dtype, device=A.device).columns(0, 1)
    size = float(column_norms(A._matmat(vector)) / column_norms(vector))
    return 2.0 ** round(math.log2(size)) if size > 0 else 0.0
