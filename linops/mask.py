"""Parameter masks as subspaces, and the scores that choose them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy
import torch
from torch import Tensor

from .basic import Dense
from .coordinate import Embedding, PartialPermutation
from .operator import LinearOperator
from .storage import dtype_name, dtype_named
from .subspace import OrthonormalSubspace, Subspace

if TYPE_CHECKING:
    from .curvature.operator import CurvatureOperator
    from .parameters import ParameterSpace

    class _OfMasks(Protocol):
        """What `Lattice` makes of two masks is a mask."""

        @overload
        def __call__(self, other: MaskSubspace) -> MaskSubspace: ...
        @overload
        def __call__(self, other: Subspace) -> Subspace: ...


class MaskSubspace(Subspace, kind="mask"):
    """The span of the coordinate axes that a boolean mask selects; its basis vectors stand in the order of the axes.

    ``A & B``, ``A | B``, ``A - B`` of masks are the spans of the common, joint and remaining axes.

    Args:
        mask: (n,) boolean, at least one entry true.
        dtype: dtype of the basis, to be that of the subspaces and operators it meets.

    Raises:
        ValueError: a wrong shape, or a mask that selects nothing.
        TypeError: a tensor that is not boolean.

    Cost: n bytes and 8 k; never a dense basis.
    """

    def __init__(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"a mask is a boolean tensor, got {given}; for coordinates use MaskSubspace.from_indices")
        if mask.ndim != 1:
            raise ValueError(f"a mask is flat, (n,), got shape {tuple(mask.shape)}; flatten it with mask.flatten()")
        if not bool(mask.any()):
            raise ValueError("the mask selects no coordinate; a subspace has at least one dimension")
        self.mask = mask.clone()
        self.indices = mask.nonzero()[:, 0]
        self._basis = Embedding(self.indices, len(mask), dtype)

    @classmethod
    def from_mask(cls, mask: Tensor, dtype: torch.dtype = torch.float32) -> MaskSubspace:
        """The span of the axes where the boolean ``mask``, (n,), is true."""
        return cls(mask, dtype)

    @classmethod
    def from_indices(cls, indices: Tensor, n: int, dtype: torch.dtype = torch.float32) -> MaskSubspace:
        """The span of the axes ``indices``, (k,) distinct integers in [0, n), in any order.

        Raises:
            ValueError: no index, one out of range, or one twice.
            TypeError: indices that are not integers.
        """
        if not isinstance(indices, Tensor):
            raise TypeError(f"coordinates are a tensor of integers, got {type(indices).__name__}; use torch.tensor")
        embedding = Embedding(indices, n, dtype)  # checks the indices
        mask = torch.zeros(n, dtype=torch.bool, device=indices.device)
        mask[embedding.indices] = True
        return cls(mask, dtype)

    @classmethod
    def top_k(cls, scores: Tensor, k: int) -> MaskSubspace:
        """The span of the k axes with the largest scores, (n,), in the order of `ranking`: ties go to the lower index.

        Raises:
            ValueError: k outside 1 … n, scores that are not flat, or a NaN among them.

        Cost: one sort.
        """
        dtype = scores.dtype if scores.is_floating_point() else torch.float32
        return cls.from_indices(ranking(scores, k), len(scores), dtype)

    @classmethod
    def random(
        cls,
        n: int,
        k: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> MaskSubspace:
        """The span of k axes drawn uniformly without replacement.

        Raises:
            ValueError: k outside 1 … n.
        """
        if not 1 <= k <= n:
            raise ValueError(f"a random mask has 1 <= k <= n, got k={k}, n={n}")
        indices = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]
        return cls.from_indices(indices.to(device), n, dtype)

    @property
    def basis(self) -> LinearOperator:
        """The (n, k) embedding of the selected coordinates."""
        return self._basis

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> MaskSubspace:
        """The same subspace in another dtype or on another device."""
        return MaskSubspace(self.mask.to(device=device), dtype or self.dtype)

    def complement(self) -> MaskSubspace:
        """The span of the axes that are not selected.

        Raises:
            ValueError: a mask of all coordinates, whose complement is empty.
        """
        if self.dim == self.ambient_dim:
            raise ValueError(f"{self} holds every coordinate, so its complement is empty; select fewer")
        return MaskSubspace(~self.mask, self.dtype)

    def leverage(self) -> Tensor:
        """The mask as numbers, (n,): one where an axis is selected, zero elsewhere."""
        return self.mask.to(self.dtype)

    if TYPE_CHECKING:
        __and__: _OfMasks
        __or__: _OfMasks
        __sub__: _OfMasks

    def _combined(self, other: Subspace, symbol: str) -> Any:
        if not isinstance(other, MaskSubspace):
            return NotImplemented
        mask = {"&": torch.logical_and, "|": torch.logical_or, "-": torch.gt}[symbol](self.mask, other.mask)
        if not bool(mask.any()):
            raise ValueError(f"{self} {symbol} {other} selects no coordinate; a subspace has at least one dimension")
        return MaskSubspace(mask, self.dtype)

    def _image(self, M: LinearOperator) -> MaskSubspace:
        return MaskSubspace(M @ self.leverage() > 0, self.dtype)

    def _tensors(self) -> dict[str, Tensor]:
        return {"bits": torch.from_numpy(numpy.packbits(self.mask.cpu().numpy()))}

    def _header(self) -> dict[str, Any]:
        return {"n": self.ambient_dim, "dtype": dtype_name(self.dtype)}

    @classmethod
    def _of_tensors(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> MaskSubspace:
        bits = tensors["bits"]
        mask = torch.from_numpy(numpy.unpackbits(bits.cpu().numpy(), count=header["n"])).bool()
        return MaskSubspace(mask.to(bits.device), dtype_named(header["dtype"]))

    def _cross_gram(self, other: Subspace) -> Any:
        if isinstance(other, MaskSubspace):
            shared = self.mask & other.mask
            rows = shared[self.indices].nonzero()[:, 0]
            columns = shared[other.indices].nonzero()[:, 0]
            return PartialPermutation(rows, columns, (self.dim, other.dim), self.dtype)
        if isinstance(other, OrthonormalSubspace):
            return Dense(other.vectors[self.indices])
        return NotImplemented

    def _residual(self, other: Subspace) -> Any:
        if isinstance(other, MaskSubspace):
            outside = (~self.mask[other.indices]).nonzero()[:, 0]
            return PartialPermutation(other.indices[outside], outside, (self.ambient_dim, other.dim), self.dtype)
        if isinstance(other, OrthonormalSubspace):
            return Dense(other.vectors.masked_fill(self.mask[:, None], 0.0))
        return NotImplemented


def ranking(scores: Tensor, k: int) -> Tensor:
    """The indices of the k largest of ``scores``, (n,), largest first, (k,); among equal scores the lower index leads.

    Raises:
        ValueError: k outside 1 … n, scores that are not flat, or a NaN among them.

    Cost: one stable sort.
    """
    if scores.ndim != 1:
        raise ValueError(f"scores are flat, (n,), got shape {tuple(scores.shape)}")
    if not 1 <= k <= len(scores):
        raise ValueError(f"top k takes 1 <= k <= n = {len(scores)}, got k={k}")
    if bool(scores.isnan().any()):
        raise ValueError("scores hold NaN, which has no rank; mend the model or the score first")
    return scores.sort(descending=True, stable=True).indices[:k]


def magnitude(parameters: ParameterSpace) -> Tensor:
    """|θ|, (n,): the absolute value of each parameter at the point, the score of magnitude pruning.

    Raises:
        TypeError: something that is no ParameterSpace, such as a model.

    Cost: none to speak of.
    """
    if not hasattr(parameters, "values") or not hasattr(parameters, "slices"):
        raise TypeError(f"magnitude takes the parameters of an operator, H.parameters, got {type(parameters).__name__}")
    return parameters.values.abs()


def absolute_gradient(operator: CurvatureOperator) -> Tensor:
    """|∇L(θ)|, (n,): the absolute derivative of the operator's loss by each of its parameters.

    Cost: one backward pass over the data.
    """
    return operator.gradient().abs()


def random_scores(parameters: ParameterSpace, seed: int = 0) -> Tensor:
    """A random ranking of the coordinates, (n,), whose top k is a uniformly random mask.

    In the parameters' dtype, or float32 where that is a half precision, which cannot tell ranks apart.

    Cost: a random permutation, drawn on the CPU so that a seed gives the same scores on every device.
    """
    order = torch.randperm(parameters.size, generator=torch.Generator().manual_seed(seed))
    dtype = parameters.dtype if parameters.dtype in (torch.float32, torch.float64) else torch.float32
    return order.to(parameters.device, dtype)
