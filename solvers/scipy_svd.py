"""SciPy's singular value solvers behind the same interface."""

from __future__ import annotations

import abc
import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import numpy
import scipy
import torch
from torch import Tensor

from ..linops import LinearOperator
from .dense import DenseSVD
from .krylov import expected_dimension
from .parameters import int_or_none, positive_integer
from .report import Status
from .scipy_adapters import arnoldi_steps, power_of_two
from .sketches import Gaussian
from .streams import stream
from .svd_solver import SingularTriplets, SVDSolver
from .tall import combine, gram, orthonormalise
from .watched import Watched
from .workload import Workload

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

_VECTORS = 500  # of each side, at least, that PROPACK may keep


@attrs.frozen(kw_only=True)
class _SciPySVD(SVDSolver):
    """The k largest singular triplets through ``scipy.sparse.linalg.svds``, of A divided by about its norm."""

    tol: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    maxiter: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)

    uses_start, takes_spread_rows = True, False

    def _solve(self, A: Watched, start: Tensor | None) -> SingularTriplets:
        if self.k == min(A.shape):
            return DenseSVD(k=self.k)._solve(A, None)
        scale = power_of_two(A, self.seed)
        if scale == 0:  # A random vector is mapped to zero by the zero operator alone.
            U, V = (orthonormalise(self._random(A, side, self.k)).Q for side in (0, 1))
            return SingularTriplets(U, torch.zeros(self.k), V, Status.CONVERGED)
        return self._found(A, scale, start)

    @abc.abstractmethod
    def _found(self, A: Watched, scale: float, start: Tensor | None) -> SingularTriplets:
        """Triplets of A, whose norm is about ``scale``."""

    def _svds(
        self, A: Watched, scale: float, method: str, first: Tensor, maxiter: int | None, **options: Any
    ) -> SingularTriplets:
        operator, failures = _guarded((A / scale).to_scipy())
        try:
            left, values, right = scipy.sparse.linalg.svds(
                operator,
                k=self.k,
                tol=self.tol**0.5,  # svds squares it
                maxiter=maxiter,
                solver=method,
                v0=first[:, 0].cpu().numpy(),
                **{_generator_name(): stream(self.seed, method)},
                **options,
            )
        finally:
            if failures:
                raise failures[0]
        U, sigma, V = (torch.from_numpy(numpy.array(array, order="C")) for array in (left, values, right.T))
        return SingularTriplets(U.to(A.device), sigma.double() * scale, V.to(A.device), Status.CONVERGED)

    def _workload(self, A: LinearOperator) -> Workload:
        if self.k == min(A.shape):
            return attrs.evolve(DenseSVD(k=self.k)._workload(A), products=self.k + 2 * self.check_adjoint)
        kept, steps, products = self._steps(A)
        return Workload(
            products=products + 1 + 2 * self.k + 2 * self.check_adjoint,
            rule="the vectors that BlockGolubKahan(block_size=1) takes to this tolerance",
            width=1,
            passes=products + 3 + 2 * self.check_adjoint,
            basis=kept,
            working=2 * self.k,
            row_flops=4 * kept * steps + 2 * kept * self.k,
            core=kept,
            core_flops=20 * kept**3,
            algebra_width=8,  # as for Arpack
        )

    @abc.abstractmethod
    def _steps(self, A: LinearOperator) -> tuple[int, int, int]:
        """Vectors kept, steps, and products with A and its transpose, as a rule."""

    def _first(self, A: Watched, start: Tensor | None, side: int) -> Tensor:
        """The first vector on one side, 0 the left and 1 the right: a column of unit length."""
        if start is None:
            return orthonormalise(self._random(A, side, 1)).Q
        mixing = stream(self.seed, "right mixing").standard_normal((start.shape[1], 1))
        vector = orthonormalise(combine(start, torch.from_numpy(mixing))).Q
        vector = vector if side == 1 or vector.shape[1] == 0 else orthonormalise(A._matmat(vector)).Q
        if vector.shape[1] == 0:
            raise ValueError(f"{type(self).__name__}: the start is zero, or {A.A} maps it to zero; leave it out")
        return vector

    def _random(self, A: Watched, side: int, count: int) -> Tensor:
        purpose = ("left vectors", "right vectors")[side]
        sketch = Gaussian(A.shape[side], count, seed=self.seed, purpose=purpose, dtype=A.dtype, device=A.device)
        return sketch.columns(0, count)


@attrs.frozen(kw_only=True)
class Propack(_SciPySVD):
    """The k largest singular triplets by the Lanczos bidiagonalisation of PROPACK, through SciPy, on the CPU.

    It multiplies one vector at a time, and keeps its bases orthogonal to the root of the precision only: singular
    values are accurate to rounding, vectors are not quite. A single vector sees one copy of a multiple singular value;
    rounding errors bring the others, or not. For k = min(m, n) the matrix is formed and decomposed.

    Args:
        k: how many triplets.
        tol: relative accuracy of the singular values; 0 is machine precision.
        maxiter: the most vectors of each side; by default 10 k or 500, the larger.
        seed, check_adjoint: see `SVDSolver`.

    The product of A with a random combination of the columns of a ``start`` is the first left vector. If PROPACK gives
    up, no triplets are returned, with a warning.

    Raises:
        ValueError: besides those of `SVDSolver`, maxiter < k, or products whose squares overflow or vanish.
        RuntimeError: PROPACK failed otherwise: its vectors lost orthogonality, or it met an invariant subspace.

    Source: Larsen (1998), Lanczos bidiagonalization with partial reorthogonalization.

    Cost: products are not known beforehand, one more for the norm and 2 k for the residuals; (m + n) maxiter numbers.
    """

    def __attrs_post_init__(self) -> None:
        if self.maxiter is not None and self.maxiter < self.k:
            raise ValueError(f"k={self.k} triplets take as many vectors of each side, got maxiter={self.maxiter}")

    def _found(self, A: Watched, scale: float, start: Tensor | None) -> SingularTriplets:
        first = self._first(A, start, side=0)
        try:
            found = self._svds(A, scale, "propack", first, self._limit)
        except numpy.linalg.LinAlgError as error:
            if "did not converge" not in str(error):
                raise RuntimeError(f"PROPACK failed on {A.A}: {error} Use BlockGolubKahan") from error
            U, V = (torch.zeros(0, n, dtype=A.dtype, device=A.device).mT for n in A.shape)
            return SingularTriplets(U, torch.zeros(0), V, Status.OUT_OF_ITERATIONS, residual_norms=torch.zeros(0))
        identity, unit = torch.eye(self.k, dtype=torch.float64), torch.finfo(A.dtype).eps ** 0.5
        if any(bool(((gram(X) - identity).abs() > unit).any()) for X in (found.left_vectors, found.right_vectors)):
            raise RuntimeError(f"PROPACK failed on {A.A}: its vectors are not orthonormal; use BlockGolubKahan")
        return found

    def _steps(self, A: LinearOperator) -> tuple[int, int, int]:
        expected = math.ceil(expected_dimension(self.k, 1, max(self.tol, torch.finfo(A.dtype).eps), sides=2))
        steps = min(expected, self._limit, *A.shape)
        return steps, steps, 2 * steps

    @property
    def _limit(self) -> int:
        return max(_VECTORS, 10 * self.k) if self.maxiter is None else self.maxiter


@attrs.frozen(kw_only=True)
class ArpackSVD(_SciPySVD):
    """The k largest singular triplets by the implicitly restarted Lanczos method of ARPACK on AᵀA, through SciPy.

    Or on A Aᵀ, the smaller of them; on the CPU. It keeps ``ncv`` vectors only and multiplies one at a time. What is
    computed are the squares of the singular values: vectors of those below the root of the precision of σ₁ are wrong,
    as their residual norms tell. For k = min(m, n), which ARPACK cannot do, the matrix is formed and decomposed.

    Args:
        k: how many triplets.
        tol: relative accuracy of the squared singular values; 0 is machine precision.
        ncv: vectors kept, k < ncv < min(m, n); by default 2 k + 1, at least 20.
        maxiter: restarts at most; by default 10 min(m, n).
        seed, check_adjoint: see `SVDSolver`.

    A random combination of the columns of a ``start``, or its product with A, is the first vector. If ARPACK gives up,
    the triplets that did converge are returned, possibly none, with a warning.

    Raises:
        ValueError: besides those of `SVDSolver`, an ncv outside its range, or products whose squares overflow or
            vanish.
        RuntimeError: ARPACK failed otherwise.

    Source: Lehoucq, Sorensen & Yang (1998), ARPACK Users' Guide.

    Cost: products are not known beforehand, k + 1 more for the norm and the values, 2 k for the residuals; min(m, n)
    ncv numbers.
    """

    ncv: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)

    def _solve(self, A: Watched, start: Tensor | None) -> SingularTriplets:
        if self.ncv is not None and not self.k < self.ncv < min(A.shape):
            raise ValueError(f"ncv={self.ncv} must be above k={self.k} and below min(m, n)={min(A.shape)}")
        return super()._solve(A, start)

    def _found(self, A: Watched, scale: float, start: Tensor | None) -> SingularTriplets:
        m, n = A.shape
        first = self._first(A, start, side=1 if m >= n else 0)
        try:
            return self._svds(A, scale, "arpack", first, self.maxiter, ncv=self.ncv)
        except scipy.sparse.linalg.ArpackNoConvergence as stopped:
            vectors = torch.from_numpy(numpy.array(stopped.eigenvectors, order="C")).to(A.device, A.dtype)
        except scipy.sparse.linalg.ArpackError as error:
            raise RuntimeError(f"ARPACK failed on {A.A}: {error}; raise ncv, or use BlockGolubKahan") from error
        # As svds does with all of them: the triplets of A on their span.
        basis = orthonormalise(vectors).Q
        image = orthonormalise((A if m >= n else A.T)._matmat(basis))
        X, values, Yt = torch.linalg.svd(image.R, full_matrices=False)
        U, V = combine(image.Q, X), combine(basis, Yt.mT)
        return SingularTriplets(*((U, values, V) if m >= n else (V, values, U)), Status.OUT_OF_ITERATIONS)

    def _steps(self, A: LinearOperator) -> tuple[int, int, int]:
        kept, steps = arnoldi_steps(min(A.shape), self.k, self.ncv, max(self.tol, torch.finfo(A.dtype).eps))
        return kept, steps, 2 * steps + self.k


@functools.cache
def _generator_name() -> str:
    """Of the argument that takes a generator, renamed in SciPy 1.15."""
    return "rng" if "rng" in inspect.signature(scipy.sparse.linalg.svds).parameters else "random_state"


def _guarded(A: ScipyLinearOperator) -> tuple[ScipyLinearOperator, list[Exception]]:
    """A that raises nothing, as PROPACK's C code takes no errors, and what it would have raised; zero from then on."""
    failures: list[Exception] = []

    def guarded(product: Callable[[Any], Any], size: int, x: Any) -> Any:
        if not failures:
            try:
                return product(x)
            except Exception as error:
                failures.append(error)
        return numpy.zeros((size, *x.shape[1:]), dtype=A.dtype)

    forward, backward = (
        functools.partial(guarded, side.dot, size) for side, size in zip((A, A.H), A.shape, strict=True)
    )
    return scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=forward, matmat=forward, rmatvec=backward, rmatmat=backward, dtype=A.dtype
    ), failures
