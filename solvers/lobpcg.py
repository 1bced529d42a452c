"""LOBPCG through SciPy and PyTorch, behind the same interface."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import attrs
import numpy
import scipy
import torch
from torch import Tensor

from ..linops import LinearOperator, Structure
from .dense import DenseEigh
from .lanczos import BlockLanczos
from .parameters import as_int, positive_integer, tolerance, tolerance_for
from .report import Status
from .sketches import Gaussian
from .solver import EigenPairs, EigenSolver, Which
from .tall import column_norms, combine, gram, orthonormalise
from .watched import Watched
from .workload import Workload

_LEAST_ROWS = {"scipy": 5, "torch": 3}  # a pair: the libraries iterate from here on
_PRODUCTS_A_DIGIT = {"scipy": 3, "torch": 14}  # and pair, as a rule, by benchmarks/plan.py --rules
_ITERATIONS_A_DIGIT = 10
_NORM = BlockLanczos(k=1, block_size=1, tol=0.1, max_products=10)


@attrs.frozen(kw_only=True)
class Lobpcg(EigenSolver):
    """The k leading eigenpairs by the locally optimal block preconditioned conjugate gradient method, without one.

    Each iteration is Rayleigh-Ritz on the span of three blocks of k vectors: the pairs, their residuals, and the last
    step. What the library returns is orthonormalised and goes through Rayleigh-Ritz once more, so that the residual
    norms are true; the status depends on them, not on what the library says.

    LOBPCG finds one end of the spectrum: ``which`` is LA or SA, or LM of an operator that is known to be definite,
    where it is one of these. It keeps any eigenvectors that it begins with, whether they lead or not, so it takes no
    start and begins with random vectors. Where n < 5 k in SciPy, or n < 3 k in PyTorch, it cannot run: the matrix is
    formed and diagonalised.

    PyTorch's function takes a matrix. It is given a tensor whose only operation is the product, so that none is formed;
    each iteration multiplies up to 4 k vectors, where SciPy's multiplies those that have not converged. The first use
    of such a tensor in a process may import more of PyTorch, for seconds.

    Args:
        k: how many pairs.
        library: ``"scipy"``, on the CPU, or ``"torch"``, on the device of the operator.
        tol: the pairs have converged when ‖A v - θ v‖ <= tol ‖A‖, ‖A‖ the largest |θ| seen; by default 1e-5 in float32,
            1e-9 in float64.
        maxiter: iterations at most.
        which, seed, check_symmetry: see `EigenSolver`.

    A is divided by about its norm, a power of two, as the libraries compare residuals with fixed numbers.

    Raises:
        ValueError: besides those of `EigenSolver`, another library, LM of an operator that is not known to be definite,
            or a tol below ten roundings of the dtype.
        RuntimeError: the library failed.

    Source: Knyazev (2001), SIAM J. Sci. Comput. 23. In PyTorch with the orthogonal basis of Stathopoulos & Wu (2002).

    Cost: up to ten products for the norm and k for the last Rayleigh-Ritz; in between they are not known beforehand.
    About 10 n k numbers.
    """

    library: str = attrs.field(default="scipy", validator=attrs.validators.in_(tuple(_LEAST_ROWS)))
    tol: float | None = attrs.field(default=None, validator=tolerance)
    maxiter: int = attrs.field(default=500, converter=as_int, validator=positive_integer)

    takes_spread_rows = False

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        n, tol = A.shape[0], tolerance_for(A, self.tol)
        rows = _LEAST_ROWS[self.library]
        if n < rows * self.k:
            pairs = DenseEigh(k=self.k, which=self.which)._solve(A, None)
            return attrs.evolve(pairs, notes=(f"n < {rows} k: the matrix was formed and diagonalised.",))
        random = Gaussian(n, self.k, seed=self.seed, purpose="lobpcg", dtype=A.dtype, device=A.device)
        X = orthonormalise(random.columns(0, self.k)).Q
        norm = float(_NORM._solve(A, None).eigenvalues.abs().max())
        if norm == 0:  # A random vector is mapped to zero by the zero operator alone.
            return EigenPairs(torch.zeros(self.k), X, Status.CONVERGED)
        scale, calls = 2.0 ** round(math.log2(norm)), A.calls
        # Half, as the libraries update A X without a product and may stop a little early.
        found = self._found(A / scale, X, tol * norm / scale / 2, _one_sided(self.which, A) is Which.LA)
        return self._ritz_pairs(A, found, norm, tol, A.calls - calls)

    def _workload(self, A: LinearOperator) -> Workload:
        n, checks = A.shape[0], 2 * self.check_symmetry
        if n < _LEAST_ROWS[self.library] * self.k:
            return attrs.evolve(DenseEigh(k=self.k)._workload(A), products=n + checks)
        digits, each = -math.log10(tolerance_for(A, self.tol)), _PRODUCTS_A_DIGIT[self.library]
        iterations = min(self.maxiter, math.ceil(_ITERATIONS_A_DIGIT * digits))
        return Workload(
            products=math.ceil(each * digits * self.k) + self.k + 10 + checks,
            rule=f"{each} a pair and digit of tol",
            width=self.k,
            passes=iterations + 12,
            working=10 * self.k,
            row_flops=24 * self.k**2 * iterations,
            core=3 * self.k,
            core_flops=9 * (3 * self.k) ** 3 * iterations,
        )

    def _found(self, A: LinearOperator, X: Tensor, tol: float, largest: bool) -> Tensor:
        """The vectors that the library returns, from X on, once their residual norms are below ``tol``."""
        try:
            if self.library == "torch":
                return _by_torch(A, X, tol, largest, self.maxiter)
            return _by_scipy(A, X, tol, largest, self.maxiter)
        except (AssertionError, numpy.linalg.LinAlgError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise RuntimeError(f"LOBPCG of {self.library} failed on {A}: {error}; take BlockLanczos") from error

    def _ritz_pairs(self, A: Watched, found: Tensor, norm: float, tol: float, calls: int) -> EigenPairs:
        if not bool(found.isfinite().all()):
            raise RuntimeError(f"LOBPCG of {self.library} gave NaN or infinite entries on {A.A}; take BlockLanczos")
        Q = orthonormalise(found).Q
        if Q.shape[1] < self.k:
            raise RuntimeError(
                f"LOBPCG of {self.library} gave {self.k} vectors on {A.A} that span {Q.shape[1]} dimensions; take "
                "BlockLanczos"
            )
        images = A._matmat(Q)
        projected = gram(Q, images)
        values, S = torch.linalg.eigh((projected + projected.mT) / 2)
        vectors = combine(Q, S)
        residual_norms = column_norms(combine(images, S) - vectors * values.to(Q))
        if bool((residual_norms <= tol * max(norm, float(values.abs().max()))).all()):
            return EigenPairs(values, vectors, Status.CONVERGED, residual_norms)
        notes = () if calls > self.maxiter else (f"The iteration of {self.library} broke down after {calls} blocks.",)
        return EigenPairs(values, vectors, Status.OUT_OF_ITERATIONS, residual_norms, notes)

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        if _one_sided(self.which, A) is Which.LM:
            raise ValueError(
                f"LOBPCG finds one end of the spectrum, not the largest |λ| of both, and nothing says that {A} is "
                "definite: choose which='LA' or 'SA', pass as_operator(A, structure=Structure.PSD) if it is, or take "
                "BlockLanczos"
            )


def _one_sided(which: Which, A: LinearOperator) -> Which:
    """The end of the spectrum where the pairs of ``which`` lie: of a definite operator LM is LA or SA."""
    if which is Which.LM and Structure.PSD in A.structure:
        return Which.LA
    if which is Which.LM and Structure.NSD in A.structure:
        return Which.SA
    return which


def _by_scipy(A: LinearOperator, X: Tensor, tol: float, largest: bool, maxiter: int) -> Tensor:
    with warnings.catch_warnings():
        # What it warns of is seen from the residuals. It lays some of its warnings at the door of its caller.
        for module in (re.escape(__name__), r"scipy\.sparse\.linalg\._eigen\.lobpcg"):
            warnings.filterwarnings("ignore", module=module)
        try:
            vectors = scipy.sparse.linalg.lobpcg(
                A.to_scipy(), X.cpu().numpy(), tol=tol, maxiter=maxiter, largest=largest
            )[1]
        except ValueError as error:
            if isinstance(error.__cause__, numpy.linalg.LinAlgError):
                raise error.__cause__ from error
            raise  # one of a product
    return torch.from_numpy(numpy.ascontiguousarray(vectors)).to(X.device)


def _by_torch(A: LinearOperator, X: Tensor, tol: float, largest: bool, maxiter: int) -> Tensor:
    def stop(worker: Any) -> None:
        """PyTorch's own test compares with the norm of products with random vectors, far below that of A at times."""
        worker.bvars["force_stop"] = bool((column_norms(worker.R) <= tol).all())

    rounding = torch.finfo(A.dtype).eps
    precise = dict.fromkeys(("ortho_tol", "ortho_tol_drop", "ortho_tol_replace"), rounding)
    options: dict[str, Any] = {"largest": largest, "niter": maxiter, "tol": 0.0, "tracker": stop}
    vectors: Tensor = torch.lobpcg(_Matrix(A), X=X, ortho_fparams=precise, **options)[1]
    return vectors


class _Matrix(Tensor):
    """A as a tensor that has no entries and can do nothing but multiply."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, A: LinearOperator) -> _Matrix:  # noqa: PYI034 - typing has no Self in Python 3.10
        matrix: _Matrix = Tensor._make_wrapper_subclass(cls, A.shape, dtype=A.dtype, device=A.device)
        return matrix

    def __init__(self, A: LinearOperator) -> None:
        self.operator = A

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.mm.default and isinstance(args[0], _Matrix):
            return args[0].operator._matmat(args[1])
        raise NotImplementedError(f"an operator multiplies, and does not {function}")
