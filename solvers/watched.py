"""An operator as a solver sees it: counted, with a progress bar, and finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..linops import Counted, LinearOperator
from .tall import is_finite


class Watched(Counted):
    """A counted, with a progress bar, whose products are what they should be, and finite."""

    def __init__(self, A: LinearOperator, bar: tqdm[Any]) -> None:
        super().__init__(A)
        self._bar = bar

    def note(self, text: str) -> None:
        """Show ``text`` beside the progress bar."""
        self._bar.set_postfix_str(text)

    def _counted(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        result = super()._counted(product, X)
        self.A._require_product(result, X, sum(self.shape) - len(X))
        self._bar.update(X.shape[1])
        if not is_finite(result):
            raise ValueError(
                f"{self.A} gave NaN or infinite entries, in product {self.products - X.shape[1] + 1} or one of the "
                "next; look at the parameters, the data and the loss there"
            )
        return result
