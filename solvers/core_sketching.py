"""What sketching solvers share that make a range of `outer` dimensions and a core from `inner` products."""

from __future__ import annotations

import abc
import bisect
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from .cores import Core
from .parameters import as_int, int_or_none, positive_integer
from .sketching import Sketching

_Self = TypeVar("_Self", bound="CoreSketching")


@attrs.frozen(kw_only=True, slots=False)
class CoreSketching(Sketching):
    """A solver that approximates A by a core between bases of its range: see `SketchedEigh` and `SketchedSVD`."""

    outer: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    k: int = attrs.field(converter=as_int, validator=positive_integer)
    inner: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)

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
        """The solver whose sizes have the least bound of the mean error of all whose measurement fits into memory.

        They obey k + 2 <= outer, 2 outer + 1 <= inner <= min(m, n). The bound is that of the two-sided core of
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
            columns = solver._columns(outer, inner)
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

    def _parts(self, shape: tuple[int, int]) -> dict[str, int]:
        return self._columns(*self._sizes(shape))

    def _core_rows(self, shape: tuple[int, int]) -> int:
        return self._sizes(shape)[1]

    @abc.abstractmethod
    def _columns(self, outer: int, inner: int) -> dict[str, int]:
        """The parts of a measurement with their numbers of columns, those that have any."""

    def _notes(self, core: Core, values: Tensor, A: LinearOperator, remedy: str) -> tuple[str, ...]:
        """What there is to warn of; where Q is a basis of the whole space nothing is left out."""
        whole = self._sizes(A.shape)[0] == min(A.shape)
        return () if whole else core.notes(values, remedy, torch.finfo(A.dtype).eps)


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
