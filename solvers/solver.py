"""The eigensolver as a template method: everything that all solvers share, written once."""

from __future__ import annotations

import abc
import enum
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import Counted, LinearOperator, Subspace, as_operator
from .results import ConvergenceWarning, EigenDecomposition, SolveReport, Status
from .sketches import Gaussian
from .tall import column_major, column_norms, gram

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


class Which(enum.Enum):
    """Which end of the spectrum leads: LM the largest |λ|, LA the largest λ, SA the smallest λ."""

    LM = "LM"
    LA = "LA"
    SA = "SA"

    @classmethod
    def _missing_(cls, value: object) -> Which:
        raise ValueError(f"which is one of 'LM' (largest |λ|), 'LA' (largest λ), 'SA' (smallest λ), got {value!r}")

    def key(self, eigenvalues: Tensor) -> Tensor:
        """What is the larger, the further an eigenvalue leads, (m,)."""
        return {Which.LM: eigenvalues.abs(), Which.LA: eigenvalues, Which.SA: -eigenvalues}[self]

    def order(self, eigenvalues: Tensor) -> Tensor:
        """The permutation that puts (m,) eigenvalues in order, leading first; equal ones keep their order."""
        return torch.argsort(self.key(eigenvalues), descending=True, stable=True)


def positive_integer(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: an int of at least 1; None where that is the default."""
    if value is None and attribute.default is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} is a positive integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{attribute.name} is at least 1, got {value}")


def _seed(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} is a non-negative integer, got {value!r}")


@attrs.frozen(eq=False)
class EigenPairs:
    """What a subclass finds: pairs in any order, at least as many as wanted unless it could not.

    Attributes:
        eigenvalues: (m,) in any real dtype.
        eigenvectors: (n, m) orthonormal.
        status: how it ended.
        residual_norms: (m,) ‖A v - λ v‖ if they are known without further products, else None.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    status: Status
    residual_norms: Tensor | None = None


@attrs.frozen(kw_only=True)
class EigenSolver(abc.ABC):
    """A method to find k leading eigenpairs of a symmetric operator.

    Parameters stand in the constructor, the operator in `solve`. A subclass is a frozen attrs class that defines
    ``_solve``.

    Args:
        k: how many pairs.
        which: the end of the spectrum, a `Which` or its name.
        seed: root of all random numbers.
        check_symmetry: whether to test by two products that the operator is as symmetric as it says. Leave it out for
            products so inexact, in half precision say, that they fail the test.

    Raises:
        TypeError: a k that is no integer.
        ValueError: k < 1, an unknown ``which``, a negative seed.
    """

    k: int = attrs.field(validator=positive_integer)
    which: Which = attrs.field(default=Which.LM, converter=Which)
    seed: int = attrs.field(default=0, validator=_seed)
    check_symmetry: bool = True

    uses_start: ClassVar[bool] = False

    @torch.no_grad()
    def solve(self, A: Any, start: Subspace | Tensor | None = None, progress: bool = False) -> EigenDecomposition:
        """The k leading eigenpairs of A.

        Args:
            A: a symmetric `LinearOperator`, or what `as_operator` makes one of, in float32 or float64.
            start: a guess of the wanted eigenspace: a subspace, or an (n, b) tensor that spans one.
            progress: whether to show a bar that counts products.

        Raises:
            TypeError: A in another dtype; a start of another dtype or device.
            ValueError: A is not square, is not known to be symmetric, or is not although it says so; k exceeds n;
                a start of the wrong size or for a solver that uses none; a product with NaN or infinite entries.

        Warns:
            ConvergenceWarning: some pairs do not meet the tolerance; ``report.status`` says what to do.

        Cost: that of the solver, two products to test symmetry and, unless the solver knows the residuals, k products
        to measure them.
        """
        began = time.perf_counter()
        if isinstance(A, torch.nn.Module):
            raise TypeError(
                f"a {type(A).__name__} is a model, not an operator: build eigenspan.Hessian(model, loss, data)"
            )
        operator = as_operator(A)
        self._require_suitable(operator)
        guess = None if start is None else self._checked_start(start, operator)
        with tqdm(disable=not progress, desc=type(self).__name__, unit=" products", total=self._total(operator)) as bar:
            watched = Watched(operator, bar)
            if self.check_symmetry:
                self._test_symmetry(watched)
            checks = watched.products
            pairs = self._solve(watched, guess)
            self._require_orthonormal(pairs)
            order = self.which.order(pairs.eigenvalues.cpu())[: self.k]
            values = pairs.eigenvalues.cpu()[order].to(operator.device, operator.dtype)
            vectors = column_major(pairs.eigenvectors[:, order.to(operator.device)])
            if pairs.residual_norms is None:
                checks += len(values)
                norms = column_norms(watched._matmat(vectors) - vectors * values)
            else:
                norms = pairs.residual_norms.cpu()[order]
        report = SolveReport(
            solver=self,
            status=pairs.status,
            products=watched.products,
            check_products=checks,
            passes=watched.calls,
            seconds_in_products=watched.seconds,
            seconds_outside=time.perf_counter() - began - watched.seconds,
            peak_memory=_peak_memory(operator.device),
        )
        result = EigenDecomposition(values, vectors, norms.to(values), report)
        if not pairs.status.is_success and pairs.status is not Status.SKETCHED:
            warnings.warn(f"{result!r}: {pairs.status.value}", ConvergenceWarning, stacklevel=3)
        return result

    @abc.abstractmethod
    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        """Pairs of a symmetric A; every product of A is counted, and is finite or has raised."""

    def _total(self, A: LinearOperator) -> int | None:
        """The number of products it will take, if that is known."""
        return None

    def _require_suitable(self, A: LinearOperator) -> None:
        m, n = A.shape
        if m != n:
            raise ValueError(f"eigenvalues need a square operator, got {A}; A.T @ A and A @ A.T are square")
        if A.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{type(self).__name__} works in float32 or float64, got {A}; wrap its products to convert")
        if not A.is_symmetric:
            raise ValueError(
                f"{type(self).__name__} needs a symmetric operator, and nothing says that {A} is one; if it is, pass "
                "Declared(A, Structure.SYMMETRIC), or as_operator(A, structure=Structure.SYMMETRIC) for a matrix"
            )
        if self.k > n:
            raise ValueError(f"k={self.k} eigenpairs were asked of {A}, which has {n}; choose k <= {n}")

    def _require_orthonormal(self, pairs: EigenPairs) -> None:
        """What a subclass gives back: pairs whose vectors are orthonormal to the root of the precision."""
        name = type(self).__name__
        if not isinstance(pairs, EigenPairs):
            raise TypeError(f"{name}._solve must return EigenPairs, got {type(pairs).__name__}")
        defect = gram(pairs.eigenvectors) - torch.eye(pairs.eigenvectors.shape[1], dtype=torch.float64)
        if not bool((defect.abs() <= torch.finfo(pairs.eigenvectors.dtype).eps ** 0.5).all()):
            raise RuntimeError(f"{name}._solve gave eigenvectors that are not orthonormal: VᵀV is not the identity")

    def _checked_start(self, start: Subspace | Tensor, A: LinearOperator) -> Tensor:
        if not self.uses_start:
            raise ValueError(f"{type(self).__name__} computes afresh and uses no start; leave it out")
        block = start.basis.to_dense() if isinstance(start, Subspace) else start
        if not isinstance(block, Tensor) or block.dtype != A.dtype or block.device != A.device:
            raise TypeError(f"a start for {A} is a subspace or tensor of its dtype on its device, got {start!r}")
        if block.ndim != 2 or block.shape[0] != A.shape[0] or block.shape[1] == 0:
            raise ValueError(f"a start for {A} has shape ({A.shape[0]}, b), b >= 1; got {tuple(block.shape)}")
        return block

    def _test_symmetry(self, A: Watched) -> None:
        """Compare uᵀ A v and vᵀ A u for normal u, v: they differ by about ‖A - Aᵀ‖, Au and Av are about ‖A‖ (all F)."""
        vectors = Gaussian(A.shape[0], 2, seed=self.seed, purpose="verification", dtype=A.dtype, device=A.device)
        pair = vectors.columns(0, 2)
        images = A._matmat(pair)
        cross = gram(pair.double(), images.double())
        difference = abs(float(cross[0, 1] - cross[1, 0]))
        size = float(column_norms(images).sum())
        if difference > torch.finfo(A.dtype).eps ** 0.5 * size:
            raise ValueError(
                f"{A.A} says that it is symmetric, but uᵀ A v and vᵀ A u of two random vectors differ by "
                f"{difference / size:.1e} of ‖A‖; symmetrise it, (A + A.T) / 2, or if its products are only inexact "
                f"set {type(self).__name__}(check_symmetry=False)"
            )


class Watched(Counted):
    """A counted, with a progress bar, whose products are finite."""

    def __init__(self, A: LinearOperator, bar: tqdm[Any]) -> None:
        super().__init__(A)
        self._bar = bar

    def note(self, text: str) -> None:
        """Show ``text`` beside the progress bar."""
        self._bar.set_postfix_str(text)

    def _counted(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        result = super()._counted(product, X)
        self._bar.update(X.shape[1])
        if not bool(result.isfinite().all()):
            raise ValueError(
                f"{self.A} gave NaN or infinite entries, in product {self.products - X.shape[1] + 1} or one of the "
                "next; look at the parameters, the data and the loss there"
            )
        return result


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
