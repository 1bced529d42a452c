"""An operator as a solver sees it: counted, with a progress bar, finite, and given again where a solve goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import Counted, LinearOperator
from .product_log import ADJOINT_IMAGES, GRAM, IMAGES
from .shared_log import Log
from .tall import is_finite

Takes: TypeAlias = Callable[[Tensor], bool]


class Watched(Counted):
    """A counted, with a progress bar, whose products are what they should be, and finite.

    Products that ``log`` holds are given again, and count as they did.

    Attributes:
        seconds_replayed: of ``seconds`` those of earlier runs.
    """

    def __init__(self, A: LinearOperator, bar: tqdm[Any], log: Log | None = None) -> None:
        super().__init__(A)
        self._bar, self._log = bar, log
        self.seconds_replayed = 0.0

    def note(self, text: str) -> None:
        """Show ``text`` beside the progress bar."""
        self._bar.set_postfix_str(text)
        if self._log is not None:
            self._log.note(text)

    def decided(self, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``make`` gives, plain data, or gave when the solve began."""
        return make() if self._log is None else self._log.decided(what, make)

    def part(self, name: str, B: LinearOperator) -> Watched:
        """Another operator that the solve makes use of, whose products are counted and kept by themselves."""
        return Watched(B, tqdm(disable=True), None if self._log is None else self._log.part(name, B))

    def row_gram(self, memory_budget: int | None = None) -> Tensor:
        """That of A, which is kept as one block."""
        nothing = torch.empty(0, self.shape[0])  # as many columns as it has, which do not depend on any vectors
        return self._kept(GRAM, nothing, lambda _: self.A.row_gram(memory_budget))

    def multiply(self, X: Tensor, takes: Takes) -> Tensor:
        """A X, or the product of other vectors that an earlier run had in its place, if ``takes`` puts them there."""
        return self._kept(IMAGES, X, super()._matmat, takes)

    def multiply_transpose(self, X: Tensor, takes: Takes) -> Tensor:
        """Aᵀ X, see `multiply`."""
        return self._kept(ADJOINT_IMAGES, X, super()._rmatmat, takes)

    def _matmat(self, X: Tensor) -> Tensor:
        return self._kept(IMAGES, X, super()._matmat)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self._kept(ADJOINT_IMAGES, X, super()._rmatmat)

    def _kept(
        self, name: str, X: Tensor, make: Callable[[Tensor], Tensor], takes: Takes = lambda vectors: False
    ) -> Tensor:
        """``make(X)``, or what that was in an earlier run."""
        if self._log is None or X.shape[1] == 0:
            return make(X)
        found = self._log.read(name, X)
        if found is not None and found.vectors is not None and not takes(found.vectors):
            self._log.forget(name, X)
            found = None
        if found is None:
            began = time.perf_counter()
            image = make(X)
            return self._log.write(name, X, image, time.perf_counter() - began)
        if name != GRAM:
            self.products += X.shape[1]
            self.calls += 1
            self.seconds += found.seconds
            self.seconds_replayed += found.seconds
        return found.image

    def _counted(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        result = super()._counted(product, X)
        self.A._require_product(result, X, sum(self.shape) - len(X))
        self._bar.update(max(0, self.products - self._bar.n))  # which begins at what was there
        if not is_finite(result):
            raise ValueError(
                f"{self.A} gave NaN or infinite entries, in product {self.products - X.shape[1] + 1} or one of the "
                "next; look at the parameters, the data and the loss there"
            )
        return result
