"""What sketching solvers share: sizes, test matrices, and products that are known in advance."""

from __future__ import annotations

import abc
import bisect
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import Function, LinearOperator
from .basis import completed
from .cores import Core
from .measurement import Measurement
from .sketches import SSRFT, Gaussian, Rademacher, Sketch, SparseSign
from .tall import blocks, combine, orthonormalise
from .template import Cost, Solver, operator_for, positive_integer
from .watched import Watched

TEST_MATRICES: dict[str, type[Sketch]] = {
    "ssrft": SSRFT,
    "gaussian": Gaussian,
    "rademacher": Rademacher,
    "sparse-sign": SparseSign,
}
_Self = TypeVar("_Self", bound="Sketching")
_Found = TypeVar("_Found")


@attrs.frozen(kw_only=True, slots=False)
class Sketching(Solver):
    """A solver whose products are with random test matrices, whatever A is: see `SketchedEigh` and `SketchedSVD`.

    A subclass names the parts of a `Measurement`, says how their columns are measured, and makes pairs or triplets of
    them.
    """

    outer: int | None = attrs.field(default=None, validator=positive_integer)
    k: int = attrs.field(validator=positive_integer)
    inner: int | None = attrs.field(default=None, validator=positive_integer)
    test_matrix: str = attrs.field(default="ssrft", validator=attrs.validators.in_(tuple(TEST_MATRICES)))
    block_size: int = attrs.field(default=64, validator=positive_integer)
    measure_residuals: bool = True

    @k.default
    def _outer_pairs(self) -> Any:
        if self.outer is None:
            raise ValueError(
                f"{type(self).__name__} needs k, how many are wanted, or outer, the size of the outer sketch"
            )
        return self.outer

    @classmethod
    def within(  # noqa: PYI019 - typing has no Self in Python 3.10
        cls: type[_Self],
        memory_budget: int,
        shape: tuple[int, int],
        *,
        k: int,
        dtype: torch.dtype = torch.float32,
        **parameters: Any,
    ) -> _Self:
        """The solver whose sizes have the least `error_bound` of all whose measurement fits into memory.

        They obey k + 2 <= outer, 2 outer + 1 <= inner <= min(m, n). The bound is one of the two-sided core of
        `SketchedSVD`, and guides the choice for others. Memory alone limits the sizes: products are taken as free.

        Args:
            memory_budget: bytes that a whole measurement may take; to decompose it takes about twice as much again.
            shape: (m, n) of the operator.
            k: how many pairs or triplets are wanted.
            dtype: of the operator.
            parameters: of the solver, without its sizes.

        Raises:
            TypeError: ``parameters`` that are none of the solver.
            ValueError: no sizes fit; sizes among the parameters; a solver of two passes.

        Source: Tropp, Yurtsever, Udell & Cevher (2019), section 5.4, who take the largest outer.

        Cost: none; it tries every outer.
        """
        if parameters.keys() & {"outer", "inner"}:
            raise ValueError(f"within(...) chooses outer and inner: leave them out of {parameters}")
        solver = cls(k=k, **parameters)
        solver._require_single_pass()

        def storage(outer: int, inner: int) -> int:
            """Bytes of the arrays of a measurement."""
            columns = solver._parts(outer, inner)
            tall = shape[0] * columns["range"] + shape[1] * columns.get("corange", 0)
            return dtype.itemsize * tall + torch.float64.itemsize * inner * columns.get("core", 0)

        sizes = _best_sizes(k, min(shape), storage, memory_budget)
        if sizes is None:
            outer, inner = k + 2, 2 * k + 5
            need = f"takes {storage(outer, inner)} bytes" if inner <= min(shape) else "exceeds min(m, n)"
            raise ValueError(
                f"memory_budget={memory_budget} bytes hold no sketch for k={k} of a {shape[0]}x{shape[1]} operator: "
                f"the smallest, outer={outer}, inner={inner}, {need}"
            )
        return attrs.evolve(solver, outer=sizes[0], inner=sizes[1])

    @torch.no_grad()
    def measure(self, A: Any, columns: range | None = None, progress: bool = False) -> Measurement:
        """Products of A with the test matrices, those of some of their columns or of all, for `decompose`.

        Neither symmetry nor the adjoint are tested; products that lack it show as a core that explains little.

        Args:
            A: an operator as for `solve`.
            columns: their numbers, by default all. Bits do not depend on how the columns are divided up if every range
                begins at a multiple of ``block_size`` in its part.
            progress: whether to show a bar that counts products.

        Raises:
            TypeError: A in another dtype; columns that are no range.
            ValueError: A or sizes that `solve` would refuse; columns that are not there; a solver of two passes; a
                product with NaN or infinite entries.

        Cost: as many products as columns, and as many vectors.
        """
        self._require_single_pass()
        operator = operator_for(A, type(self).__name__)
        self._require_measurable(operator)
        total = sum(self._parts(*self._sizes(operator.shape)).values())
        chosen = range(total) if columns is None else columns
        if not isinstance(chosen, range):
            raise TypeError(f"columns is a range, such as range(0, {total}), got {columns!r}")
        if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= total:
            raise ValueError(f"a sketch of {operator} by {self} has columns range(0, {total}), got {columns!r}")
        with tqdm(disable=not progress, desc=type(self).__name__, unit=" products", total=len(chosen)) as bar:
            return self._measured(Watched(operator, bar), chosen)

    def _measured(self, A: Watched, columns: range | None = None) -> Measurement:
        """The measurement of columns whose numbers have been checked, by default of all."""
        parts = self._parts(*self._sizes(A.shape))
        chosen = range(sum(parts.values())) if columns is None else columns
        arrays, first = {}, 0
        products = self._products(A)
        for name, size in parts.items():
            start, stop = max(chosen.start - first, 0), min(chosen.stop - first, size)
            if start < stop:
                arrays[name] = self._joined(products[name], start, stop)
            first += size
        return Measurement(A.shape, A.dtype, self.seed, self.test_matrix, parts, tuple(chosen), arrays)

    def _joined(self, block: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor:
        """Columns start … stop-1, which ``block`` gives from one number to another, with contiguous columns."""
        first = block(start, min(stop, (start // self.block_size + 1) * self.block_size))
        whole = first.new_empty(stop - start, first.shape[0]).mT
        whole[:, : first.shape[1]] = first
        for low, high in blocks(start + first.shape[1], stop, self.block_size):
            whole[:, low - start : high - start] = block(low, high)
        return whole

    def _decomposing(self, measurement: Measurement, find: Callable[[LinearOperator], _Found]) -> tuple[_Found, Cost]:
        """What ``find`` makes of a whole measurement by this solver, and what that costs; of A no more is known."""
        self._require_single_pass()
        if not isinstance(measurement, Measurement):
            raise TypeError(f"decompose takes a Measurement, got {measurement!r}; solve takes an operator")
        parts = self._parts(*self._sizes(measurement.shape))
        own = {"seed": self.seed, "test_matrix": self.test_matrix, "parts": parts}
        measurement.require({**measurement.sketch, **own})

        def unknown(X: Tensor) -> Tensor:
            raise RuntimeError(f"of {measurement!r} no more products are known")

        operator = Function(unknown, measurement.shape, measurement.dtype, measurement.arrays["range"].device)
        return self._watching(operator, False, lambda watched: find(operator))

    def _draw(self, A: LinearOperator, n: int, s: int, purpose: str) -> Sketch:
        """The (n, s) test matrix of a purpose, for A."""
        kind = TEST_MATRICES[self.test_matrix]
        return kind(n, s, seed=self.seed, purpose=purpose, dtype=A.dtype, device=A.device)

    def _spanned(self, W: Tensor, width: int) -> Tensor:
        """An orthonormal basis of the leading left singular vectors of W, with random ones where W is of lower rank."""
        step = orthonormalise(W)
        Q = step.Q if W.shape[1] == width else combine(step.Q, torch.linalg.svd(step.R).U[:, :width])
        return completed(Q, 0, width - Q.shape[1], self.seed, "completion")

    def _sizes(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(outer, inner) for an (m, n) operator."""
        n = min(shape)
        outer = min(n, self.k + max(10, self.k // 4)) if self.outer is None else self.outer
        inner = min(n, self._default_inner(outer)) if self.inner is None else self.inner
        if not self.k <= outer <= inner <= n:
            least = "n" if shape[0] == shape[1] else "min(m, n)"
            raise ValueError(
                f"sizes must be k <= outer <= inner <= {least}, got k={self.k}, outer={outer}, inner={inner}, "
                f"{least}={n}"
            )
        return outer, inner

    def _default_inner(self, outer: int) -> int:
        return 2 * outer

    def _notes(self, core: Core, values: Tensor, A: LinearOperator, remedy: str) -> tuple[str, ...]:
        """What there is to warn of; where Q is a basis of the whole space nothing is left out."""
        whole = self._sizes(A.shape)[0] == min(A.shape)
        return () if whole else core.notes(values, remedy, torch.finfo(A.dtype).eps)

    def _require_single_pass(self) -> None:
        """Refuse to measure in advance what depends on other products."""

    @abc.abstractmethod
    def _require_measurable(self, A: LinearOperator) -> None:
        """Refuse an operator that `solve` would refuse."""

    @abc.abstractmethod
    def _parts(self, outer: int, inner: int) -> dict[str, int]:
        """The parts of a measurement with their numbers of columns, those that have any."""

    @abc.abstractmethod
    def _products(self, A: LinearOperator) -> Mapping[str, Callable[[int, int], Tensor]]:
        """How to measure the columns of each part, from one number to another."""


def error_bound(k: int, outer: int, inner: int) -> float:
    """A bound of E‖A - Â‖² over the least error of rank k, Σ σᵢ² over i > k: (s-1)/(s-o-1) (o+k-1)/(o-k-1).

    Â = Q C Pᵀ is the approximation of the two-sided core of `SketchedSVD` with Gaussian test matrices, before it is
    truncated; o = outer >= k + 2 and s = inner >= 2 o + 1.

    Source: Tropp, Yurtsever, Udell & Cevher (2019), theorem 5.1.
    """
    return (inner - 1) / (inner - outer - 1) * (outer + k - 1) / (outer - k - 1)


def _best_sizes(k: int, least: int, storage: Callable[[int, int], int], memory_budget: int) -> tuple[int, int] | None:
    """(outer, inner) of the least `error_bound` with inner <= least and storage <= memory_budget, if there are any.

    For one outer the bound falls as inner grows: the largest that fits is the best.
    """
    sizes = []
    for outer in range(k + 2, (least - 1) // 2 + 1):
        choices = range(2 * outer + 1, least + 1)
        fitting = bisect.bisect_right(choices, memory_budget, key=functools.partial(storage, outer))
        if fitting == 0:
            break
        sizes.append((outer, choices[fitting - 1]))
    return min(sizes, key=lambda pair: error_bound(k, *pair), default=None)
