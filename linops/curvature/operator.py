"""What all curvature operators share: a risk, its point, and products summed over the data."""

from __future__ import annotations

import abc
import functools
import logging
from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ..operator import LinearOperator
from ..parameters import ParameterSpace, Selection
from ..structure import Structure
from .guards import full_precision
from .plan import Choices, ProductPlan, choose_plan
from .products import Share, summed_product
from .risk import Risk

_log = logging.getLogger(__name__)


class CurvatureOperator(LinearOperator):
    """A symmetric (n, n) matrix of second-order information of a risk L at a point, a sum over the data.

    A subclass defines ``_share``, the product with the share of one micro-batch. A product goes through the data in
    pieces, and keeps what it can from one product to the next: its `ProductPlan` is chosen by a short trial at the
    first product, within ``memory_budget``; ``plan()`` shows it, and ``release()`` gives back what is kept.

    Args:
        model: the network, in the mode that the loss is meant in (``model.eval()``). It is not changed, and training it
            further does not change the operator.
        loss: a callable of (output, target), such as ``torch.nn.CrossEntropyLoss()``; a `Loss`, or an `Objective`.
        data: a batch ``(inputs, target)``, or a list, DataLoader or other re-iterable of batches.
        parameters: which parameters are coordinates: name patterns, modules, tensors, or a list of such; by default
            all trainable ones.
        chunk_size: columns of a block to multiply at once, vectorised; 1 for one after the other. By default what a
            trial finds fastest.
        micro_batch_size: the most samples to process at once. By default what a trial finds fastest, batches as they
            come if their loss is not a mean or sum over samples.
        memory_budget: bytes that products may take beside the model and the data; by default a quarter of what is free.
            If the graphs of all the data do not fit they are built anew for each product, which takes twice as long.

    Raises:
        ValueError: see `Risk`; a size below one; or, at the first product, a memory budget too small for one sample.
        TypeError: see `Risk`.

    Cost: see the subclass; the trial takes about three products with one column and two with the first block.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        parameters: Selection = None,
        chunk_size: int | None = None,
        micro_batch_size: int | None = None,
        memory_budget: int | None = None,
    ) -> None:
        self._choices = Choices(micro_batch_size=micro_batch_size, chunk_size=chunk_size, memory_budget=memory_budget)
        self._risk = Risk(model, loss, data, parameters=parameters, micro_batch_size=micro_batch_size)
        self._plan: ProductPlan | None = None
        self._planned_columns = 0
        self._kept: list[Share] | None = None
        space = self._risk.parameters
        super().__init__((space.size, space.size), space.dtype, space.device, self._known_structure())

    @property
    def parameters(self) -> ParameterSpace:
        """The coordinates: names, slices, labels, and the point."""
        return self._risk.parameters

    def loss(self) -> float:
        """L at the point, over the whole data set, as measured when the operator was built. Cost: none."""
        return self._risk.value

    def gradient(self) -> Tensor:
        """∇L at the point, (n,). Cost: one backward pass over the data."""
        return self._risk.gradient()

    def _known_structure(self) -> Structure:
        return Structure.SYMMETRIC

    def plan(self, columns: int = 1) -> ProductPlan:
        """How products with blocks of that many columns are computed, chosen by a trial if it is not yet known."""
        # A wider block may gain from columns at once, where a narrower one could not tell.
        if self._plan is None or (columns >= 2 * self._planned_columns and self._choices.chunk_size is None):
            self.release()
            with self._risk.conditions():
                self._plan = choose_plan(
                    self._built_share,
                    self.parameters,
                    self._risk.first_batch(),
                    self._risk.samples,
                    columns,
                    self._choices,
                    divisible=self._choices.micro_batch_size is None and self._risk.divisible,
                )
            self._planned_columns = columns
        return self._plan

    def release(self) -> None:
        """Gives back what is kept between products; the next one builds it anew."""
        self._kept = None

    @abc.abstractmethod
    def _share(self, batch: Any) -> Share:
        """The product with the share of one micro-batch in the matrix, by graphs on ``self._leaves``."""

    @functools.cached_property
    def _leaves(self) -> dict[str, Tensor]:
        """The selected parameters at the point, as leaves that all graphs share."""
        return {name: tensor.clone().requires_grad_() for name, tensor in self._risk.point().items()}

    def _built_share(self, batch: Any) -> Share:
        with torch.enable_grad():
            return self._share(batch)

    def _matmat(self, X: Tensor) -> Tensor:
        if X.shape[1] == 0:
            return X.clone()
        plan = self.plan(X.shape[1])
        try:
            return self._planned_product(X, plan)
        except torch.OutOfMemoryError:
            if plan.chunk_size == 1:
                raise
            self._plan = attrs.evolve(plan, chunk_size=plan.chunk_size // 2)
            _log.warning("%s: out of memory with %d columns at once; going on with half as many", self, plan.chunk_size)
        return self._matmat(X)

    def _planned_product(self, X: Tensor, plan: ProductPlan) -> Tensor:
        with full_precision(self.device):
            if self._kept is not None:
                return summed_product(self._kept, self.parameters, X, plan.chunk_size)
            with self._risk.conditions():
                shares: Iterable[Share] = (
                    self._built_share(batch) for batch in self._risk.batches_of(plan.micro_batch_size)
                )
                if plan.kept:
                    shares = self._kept = list(shares)
                return summed_product(shares, self.parameters, X, plan.chunk_size)
