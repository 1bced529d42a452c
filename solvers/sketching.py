"""What sketching solvers share: test matrices, and products that are known in advance."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import Function, LinearOperator
from .basis import completed
from .measurement import Measurement
from .parameters import as_int, positive_integer
from .sketches import SSRFT, Gaussian, Rademacher, Sketch, SparseSign
from .tall import blocks, combine, empty_columns, orthonormalise
from .template import Cost, Solver, operator_for
from .watched import Watched

TEST_MATRICES: dict[str, type[Sketch]] = {
    "ssrft": SSRFT,
    "gaussian": Gaussian,
    "rademacher": Rademacher,
    "sparse-sign": SparseSign,
}
_Found = TypeVar("_Found")


@attrs.frozen(kw_only=True, slots=False)
class Sketching(Solver):
    """A solver whose products are with random test matrices, whatever A is: see `SketchedEigh` and `Nystrom`.

    A subclass names the parts of a `Measurement`, says how their columns are measured, and makes pairs or triplets of
    them.
    """

    test_matrix: str = attrs.field(default="ssrft", validator=attrs.validators.in_(tuple(TEST_MATRICES)))
    block_size: int = attrs.field(default=64, converter=as_int, validator=positive_integer)
    measure_residuals: bool = True

    @property
    def _measures_residuals(self) -> bool:
        return self.measure_residuals

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
        operator = operator_for(A, type(self).__name__, self.takes_spread_rows)
        chosen = self._checked_columns(operator, columns)
        with tqdm(disable=not progress, desc=type(self).__name__, unit=" products", total=len(chosen)) as bar:
            return self._measured(Watched(operator, bar), chosen)

    def _checked_columns(self, A: LinearOperator, columns: range | None) -> range:
        """The columns to measure of an operator, by default all, once they and it have been checked."""
        self._require_single_pass()
        self._require_measurable(A)
        total = sum(self._parts(A.shape).values())
        chosen = range(total) if columns is None else columns
        if not isinstance(chosen, range):
            raise TypeError(f"columns is a range, such as range(0, {total}), got {columns!r}")
        if chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= total:
            raise ValueError(f"a sketch of {A} by {self} has columns range(0, {total}), got {columns!r}")
        return chosen

    @abc.abstractmethod
    def decompose(self, measurement: Measurement) -> Any:
        """The pairs or triplets of the operator that was measured."""

    def _measured(self, A: Watched, columns: range | None = None) -> Measurement:
        """The measurement of columns whose numbers have been checked, by default of all."""
        parts = self._parts(A.shape)
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
        whole = empty_columns(first, stop - start)
        whole[:, : first.shape[1]] = first
        for low, high in blocks(start + first.shape[1], stop, self.block_size):
            whole[:, low - start : high - start] = block(low, high)
        return whole

    def _decomposing(self, measurement: Measurement, find: Callable[[LinearOperator], _Found]) -> tuple[_Found, Cost]:
        """What ``find`` makes of a whole measurement by this solver, and what that costs; of A no more is known."""
        self._require_single_pass()
        if not isinstance(measurement, Measurement):
            raise TypeError(f"decompose takes a Measurement, got {measurement!r}; solve takes an operator")
        parts = self._parts(measurement.shape)
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

    def _require_single_pass(self) -> None:
        """Refuse to measure in advance what depends on other products."""

    @abc.abstractmethod
    def _require_measurable(self, A: LinearOperator) -> None:
        """Refuse an operator that `solve` would refuse."""

    @abc.abstractmethod
    def _parts(self, shape: tuple[int, int]) -> dict[str, int]:
        """The parts of a measurement of an (m, n) operator with their numbers of columns, those that have any."""

    def _core_rows(self, shape: tuple[int, int]) -> int:
        """The rows of the part that is a small matrix, if there is one."""
        return 0

    def _passes(self, shape: tuple[int, int]) -> int:
        """Blocks in which an (m, n) operator is measured."""
        return sum(-(-size // self.block_size) for size in self._parts(shape).values())

    @abc.abstractmethod
    def _products(self, A: LinearOperator) -> Mapping[str, Callable[[int, int], Tensor]]:
        """How to measure the columns of each part, from one number to another."""
