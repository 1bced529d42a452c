"""What all curvature operators share: a risk, its point, and products summed over the data."""

from __future__ import annotations

import abc
import contextlib
import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ..basic import require_count
from ..operator import LinearOperator
from ..parameters import ParameterSpace, Selection
from ..programs.program import LinearisationError
from ..structure import Structure
from .guards import ONE_THREAD, float32_products, prepare_forward_mode
from .plan import FEW_COLUMNS, MOST_AT_ONCE, Choices, ProductPlan, choose_plan
from .products import Linearised, Share, Tensors, column_by_column, summed_product
from .risk import Risk
from .trial import FEWEST_SAMPLES, Builders

_log = logging.getLogger(__name__)


class CurvatureOperator(LinearOperator):
    """A symmetric (n, n) matrix of second-order information of a risk L at a point, a sum over the data.

    A product goes through the data in pieces, by one of three engines:

    - ``"linearised"``: what the graph of the gradient computes for a vector is recorded once, as a list of operations
      without autograd, and shortened. The fastest by far, except for the first products.
    - ``"retained"``: a reverse pass through the graph of the gradient, which is kept, or built anew for each product
      where memory does not hold it. Does every model that can be derived twice.
    - ``"forward"``: forward over reverse mode, afresh for each column. Keeps nothing.

    Which, in which pieces, and how many columns at once is its `ProductPlan`, chosen by a short trial at the first
    product, within ``memory_budget``. ``plan()`` shows it, and ``release()`` gives back what is kept.

    Threads take turns with products, plans and releases, of any operators. Meanwhile no thread may use the model, whose
    parameters products put in and take out.

    A subclass defines ``_share`` and ``_forward``, the product with the share of one micro-batch by a graph and by
    forward mode.

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
        memory_budget: bytes that products may take beside the model, the data and blocks as wide as those multiplied;
            by default a quarter of what is free.
        engine: ``"linearised"``, ``"retained"`` or ``"forward"``; by default what is fastest and fits.
        compile: whether ``torch.compile`` translates linear programs. It takes up to minutes and needs a C++ compiler
            (on a GPU, Triton); it pays where many small operations are to be fused.
        tf32: whether a GPU may round factors of float32 products to TF32, three digits, which is up to several times as
            fast. Whatever PyTorch's own settings are, products are in full precision without it.

    Raises:
        ValueError: see `Risk`; a size below one; or, at the first product, a memory budget too small for one sample or
            an engine that cannot do this model.
        TypeError: see `Risk`.

    Cost: see the subclass. The trial takes as long as three to ten products of a large model, and some tenths of a
    second for the smallest, where building and recording graphs outweighs what is computed; ``engine=``,
    ``micro_batch_size=`` and ``chunk_size=`` together leave nothing to try.
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
        engine: str | None = None,
        compile: bool = False,
        tf32: bool = False,
    ) -> None:
        self._choices = Choices(
            engine=engine, micro_batch_size=micro_batch_size, chunk_size=chunk_size, memory_budget=memory_budget
        )
        self._compile = compile
        self._risk = Risk(
            model,
            loss,
            data,
            parameters=parameters,
            micro_batch_size=micro_batch_size,
            memory_budget=memory_budget,
            tf32=tf32,
        )
        self._plan: ProductPlan | None = None
        self._planned_columns = 0
        self._announced: int | None = None  # products to come, where they are few
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

    def _content(self) -> Any:
        return self._risk.content()

    def plan(self, columns: int = 1, products: int | None = None) -> ProductPlan:
        """How products are computed, chosen by a trial if it is not yet known.

        Args:
            columns: of the blocks to come. A block of twice as many, up to 32, starts another trial, as it may gain
                from columns at once.
            products: how many are to come, if that is known. For a few columns in all, nothing is timed or
                linearised, which would take longer than it saves; more products than announced start a trial.

        Raises:
            ValueError: numbers below one; what the operator's own arguments do not allow, see there.

        Cost: that of the trial, see the class; none for a plan that is known.
        """
        require_count("columns is", columns)
        if products is not None:
            require_count("products is None or", products)
        with ONE_THREAD:
            return self._planned_for(columns, products)

    def _planned_for(self, columns: int, products: int | None) -> ProductPlan:
        few = products is not None and products * columns <= FEW_COLUMNS
        columns = min(columns, MOST_AT_ONCE)
        wider = columns >= 2 * self._planned_columns and self._choices.chunk_size is None
        expired = self._announced is not None and (self._announced == 0 or (products is not None and not few))
        if self._plan is None or wider or expired:
            self.release()
            with torch.no_grad(), self._risk.at_point(self._leaves):
                self._plan = choose_plan(
                    self._builders,
                    self.parameters,
                    self._risk.typical_batch(FEWEST_SAMPLES),
                    self._risk.samples,
                    columns,
                    few,
                    self._choices,
                    divisible=self._choices.micro_batch_size is None and self._risk.divisible,
                )
            self._planned_columns = columns
            self._announced = products if few else None
            _log.info("%s: %s", self, self._plan)
        return self._plan

    def __getstate__(self) -> dict[str, Any]:
        """Without graphs and programs, which cannot be copied; the copy builds its own."""
        return self.__dict__ | {"_kept": None}

    def release(self) -> None:
        """Gives back what is kept between products; the next one builds it anew.

        Cost: none.
        """
        with ONE_THREAD:  # a product may be using it
            self._kept = None

    @abc.abstractmethod
    def _share(self, batch: Any) -> Share:
        """The product with the share of one micro-batch in the matrix, by graphs on ``self._leaves``."""

    @abc.abstractmethod
    def _forward(self, batch: Any) -> Callable[[Tensors], Tensors]:
        """The same for a single vector, by forward mode, with nothing kept."""

    @functools.cached_property
    def _leaves(self) -> dict[str, Tensor]:
        """The selected parameters at the point, as leaves that all graphs share."""
        return self._risk.leaves()

    @property
    def _builders(self) -> Builders:
        leaves = tuple(self._leaves.values())

        def retained(batch: Any) -> Share:
            with torch.enable_grad():
                return self._share(batch)

        def forward(batch: Any) -> Share:
            prepare_forward_mode()
            return column_by_column(torch.enable_grad()(self._forward(batch)))

        def linearised(share: Share) -> Linearised:
            return Linearised(share, leaves, self._compile)

        shared = (*leaves, *self._risk.fixed.values())
        return Builders(shared, retained, forward, linearised, self._risk.tolerance)

    def _built(self, engine: str, batch: Any) -> Share:
        return self._builders.build(engine, batch)

    def _built_share(self, batch: Any, plan: ProductPlan) -> Share:
        try:
            return self._built(plan.engine, batch)
        except LinearisationError as error:
            if self._choices.engine is not None:
                raise
            _log.warning("%s: a batch takes another way through the model, which is not linearised: %s", self, error)
        return self._built("retained", batch)

    def _matmat(self, X: Tensor) -> Tensor:
        if X.shape[1] == 0:
            return X.clone()
        return self._planned(lambda shares, width: summed_product(shares, self.parameters, X, width), X.shape[1])

    def _planned(self, product: Callable[[Iterable[Share], int], Tensor], columns: int) -> Tensor:
        """What ``product`` makes of the shares of all data, given with the number of columns to multiply at once.

        When memory runs out, it is called again with half as many.
        """
        with ONE_THREAD:
            return self._planned_alone(product, columns)

    def _planned_alone(self, product: Callable[[Iterable[Share], int], Tensor], columns: int) -> Tensor:
        plan = self.plan(columns)
        try:
            found = self._of_shares(product, plan)
            if self._announced is not None:
                self._announced -= 1
            return found
        except torch.OutOfMemoryError:
            if plan.chunk_size == 1:
                raise
            self.release()  # programs for blocks as wide are among what is kept
            self._plan = attrs.evolve(plan, chunk_size=plan.chunk_size // 2)
            _log.warning("%s: out of memory with %d columns at once; going on with half as many", self, plan.chunk_size)
        return self._planned_alone(product, columns)

    def _conditions_of(self, shares: Iterable[Share]) -> contextlib.AbstractContextManager[None]:
        """Graphs run under the conditions that they were built in; programs need but one, as all take longer to set."""
        programs = all(isinstance(share, Linearised) for share in shares)
        return float32_products(self.device, self._risk.tf32) if programs else self._risk.at_point(self._leaves)

    def _of_shares(self, product: Callable[[Iterable[Share], int], Tensor], plan: ProductPlan) -> Tensor:
        if self._kept is not None:
            with self._conditions_of(self._kept):
                return product(self._kept, plan.chunk_size)
        with self._risk.at_point(self._leaves):
            shares: Iterable[Share] = (
                self._built_share(batch, plan) for batch in self._risk.batches_of(plan.micro_batch_size)
            )
            if plan.kept:
                shares = self._kept = list(shares)
            return product(shares, plan.chunk_size)
