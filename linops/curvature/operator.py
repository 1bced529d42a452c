"""What all curvature operators share: a risk, its point, and products summed over the data."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn

from ..operator import LinearOperator
from ..parameters import ParameterSpace, Selection
from ..structure import Structure
from .products import TensorMap, default_chunk_size, summed_product
from .risk import Risk


class CurvatureOperator(LinearOperator):
    """A symmetric (n, n) matrix of second-order information of a risk L at a point, a sum over the data.

    A subclass defines ``_map``, the product of one micro-batch's share with one vector.

    Args:
        model: the network, in the mode that the loss is meant in (``model.eval()``). It is not changed, and training it
            further does not change the operator.
        loss: a callable of (output, target), such as ``torch.nn.CrossEntropyLoss()``; a `Loss`, or an `Objective`.
        data: a batch ``(inputs, target)``, or a list, DataLoader or other re-iterable of batches.
        parameters: which parameters are coordinates: name patterns, modules, tensors, or a list of such; by default
            all trainable ones.
        chunk_size: columns of a block to multiply at once; more is faster until memory runs out. By default as many as
            fit in about half a gibibyte, at most 32.
        micro_batch_size: the most samples to process at once; by default batches as they come. It bounds memory and
            changes nothing else.

    Raises:
        ValueError: see `Risk`; or a chunk size below one.
        TypeError: see `Risk`.

    Cost: see the subclass; memory grows with ``chunk_size`` times the micro-batch.
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
    ) -> None:
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise ValueError(f"chunk_size is None or an integer >= 1, got {chunk_size!r}")
        self._risk = Risk(model, loss, data, parameters=parameters, micro_batch_size=micro_batch_size)
        space = self._risk.parameters
        self.chunk_size = chunk_size or default_chunk_size(space, self._risk.activation_bytes)
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

    @abc.abstractmethod
    def _map(self, theta: dict[str, Tensor], batch: Any) -> TensorMap:
        """The product with the share of one micro-batch."""

    def _matmat(self, X: Tensor) -> Tensor:
        if X.shape[1] == 0:
            return X.clone()
        theta = self._risk.point()
        with self._risk.conditions():
            maps = (self._map(theta, batch) for batch in self._risk.batches())
            return summed_product(maps, self.parameters, X, self.chunk_size)
