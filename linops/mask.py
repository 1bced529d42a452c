"""Parameter masks as subspaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, overload

import attrs
import numpy
import torch
from torch import Tensor, nn

from .basic import Dense, is_count, seeded
from .composition import Composition, parts_of
from .coordinate import Embedding, PartialPermutation
from .named_masks import flattened, pruning_masks
from .operator import LinearOperator
from .orthonormal import OrthonormalSubspace
from .parameters import ParameterSpace
from .selection import Selected, Ties
from .stored import dtype_name, dtype_named
from .subspace import Subspace

if TYPE_CHECKING:

    class _OfMasks(Protocol):
        """What `Lattice` makes of two masks is a mask."""

        @overload
        def __call__(self, other: MaskSubspace) -> MaskSubspace: ...
        @overload
        def __call__(self, other: Subspace) -> Subspace: ...


class MaskSubspace(Selected, Subspace, kind="mask"):
    """The span of the coordinate axes that a boolean mask selects; its basis vectors stand in the order of the axes.

    Scores choose it by `top_k`, `top_fraction` and `above`. ``A & B``, ``A | B``, ``A - B`` of masks are the spans of
    the common, joint and remaining axes.

    Args:
        mask: (n,) boolean, at least one entry true.
        dtype: dtype of the basis, to be that of the subspaces and operators it meets.

    Attributes:
        mask: (n,) boolean.
        indices: (k,) the selected coordinates, ascending.
        ties: `Ties` where scores chose the mask and the last places went to some of several equals; else None. Set
            operations do not keep it.

    Raises:
        ValueError: a wrong shape, or a mask that selects nothing.
        TypeError: a tensor that is not boolean.

    Cost: n bytes and 8 k; never a dense basis.
    """

    def __init__(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(
                f"a mask is a boolean tensor, got {given}; "
                "for coordinates use MaskSubspace.from_indices, for tensors by name MaskSubspace.from_named"
            )
        if mask.ndim != 1:
            raise ValueError(f"a mask is flat, (n,), got shape {tuple(mask.shape)}; flatten it with mask.flatten()")
        if not bool(mask.any()):
            raise ValueError("the mask selects no coordinate; a subspace has at least one dimension")
        self.mask = mask.clone()
        self.indices = mask.nonzero()[:, 0]
        self.ties: Ties | None = None
        self._basis = Embedding(self.indices, len(mask), dtype)

    @classmethod
    def from_mask(cls, mask: Tensor, dtype: torch.dtype = torch.float32) -> MaskSubspace:
        """The span of the axes where the boolean ``mask``, (n,), is true.

        Args:
            mask: (n,) boolean.
            dtype: of the basis.

        Raises:
            ValueError, TypeError: see `MaskSubspace`.

        Cost: n bytes and 8 k.
        """
        return cls(mask, dtype)

    @classmethod
    def from_indices(cls, indices: Tensor, n: int, dtype: torch.dtype = torch.float32) -> MaskSubspace:
        """The span of the axes ``indices``, (k,) distinct integers in [0, n), in any order.

        Args:
            indices: (k,), which give the device.
            n: dimension of the space.
            dtype: of the basis.

        Raises:
            ValueError: no index, one out of range, or one twice.
            TypeError: indices that are not integers.

        Cost: n bytes and 8 k, and a look for indices that are there twice.
        """
        if not isinstance(indices, Tensor):
            raise TypeError(f"coordinates are a tensor of integers, got {type(indices).__name__}; use torch.tensor")
        embedding = Embedding(indices, n, dtype)  # checks both
        mask = torch.zeros(n, dtype=torch.bool, device=indices.device)
        mask[embedding.indices] = True
        return cls(mask, dtype)

    @classmethod
    def from_named(
        cls, parameters: ParameterSpace, masks: Mapping[str, Tensor], *, missing: bool | None = None
    ) -> MaskSubspace:
        """The span of the axes where boolean tensors by parameter name are true, in the dtype of the parameters.

        Args:
            parameters: the space of the coordinates, ``H.parameters``.
            masks: name to a tensor of the parameter's shape: boolean, or of numbers that are exactly 0 or 1.
            missing: whether tensors without a mask are selected whole (True) or not at all (False); None to refuse.

        Raises:
            ValueError: names that are missing or not in the space, other shapes, entries other than 0 and 1, or masks
                that select nothing.
            TypeError: a mask that is no tensor, or on another device.

        Cost: n bytes and 8 k.
        """
        return cls(flattened(parameters, masks, missing), parameters.dtype)

    @classmethod
    def from_pruned(cls, model: nn.Module, parameters: ParameterSpace) -> MaskSubspace:
        """The span of the axes that ``torch.nn.utils.prune`` kept; tensors that are not pruned are kept whole.

        Args:
            model: a model with pruned modules, which hold parameters ``weight_orig`` and buffers ``weight_mask``.
            parameters: its space, made before it was pruned, with names such as ``weight``, or after. The order of the
                coordinates differs: pruning moves a tensor behind the others of its module.

        Raises:
            ValueError: a model that holds no masks, a space of another model, or a tensor that modules share and that
                is not pruned alike in all of them; see `from_named`.
            TypeError: see `from_named`.

        Cost: n bytes and 8 k.
        """
        return cls.from_named(parameters, pruning_masks(model, parameters), missing=True)

    @classmethod
    def parts(cls, parameters: ParameterSpace, by: str = "tensor") -> dict[str, MaskSubspace]:
        """The spans of the axes of each tensor or module, by name: together they are all of the space.

        Those without entries are left out.

        Args:
            parameters: the space of the coordinates, ``H.parameters``.
            by: ``"tensor"`` or ``"module"``; see `composition`.

        Raises:
            ValueError: another ``by``.

        Cost: n bytes for each.
        """
        names, labels = parts_of(parameters, by)
        present = set(torch.unique(labels).tolist())
        return {name: cls(labels == label, parameters.dtype) for label, name in enumerate(names) if label in present}

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

        Args:
            n: dimension of the space.
            k: how many axes.
            seed: of the draw, which is made on the CPU.
            dtype: of the basis.
            device: of the mask.

        Raises:
            TypeError: a seed that is no integer.
            ValueError: k outside 1 … n.

        Cost: a random permutation of n.
        """
        if not (is_count(n) and is_count(k, n)):
            raise ValueError(f"a random mask has integers 1 <= k <= n, got k={k!r}, n={n!r}")
        indices = torch.randperm(n, generator=seeded(seed))[:k]
        return cls.from_indices(indices.to(device), n, dtype)

    @property
    def basis(self) -> LinearOperator:
        """The (n, k) embedding of the selected coordinates."""
        return self._basis

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> MaskSubspace:
        """The same subspace in another dtype or on another device.

        Cost: a copy of the mask where the device is another.
        """
        moved = MaskSubspace(self.mask.to(device=device), dtype or self.dtype)
        moved.ties = self.ties
        return moved

    def to_named(self, parameters: ParameterSpace) -> dict[str, Tensor]:
        """The mask as boolean tensors by parameter name, of the parameters' shapes, as `from_named` takes it.

        ``prune.custom_from_mask(module, "weight", masks[name])`` prunes by one of them.

        Raises:
            ValueError: a space that does not have n coordinates.

        Cost: n bytes.
        """
        self._require_space(parameters)
        return parameters.unflatten(self.mask.clone())

    def composition(self, parameters: ParameterSpace, by: str = "tensor") -> Composition:
        """How many of the selected coordinates each tensor or module has.

        Args:
            parameters: the space of the coordinates, ``H.parameters``.
            by: ``"tensor"`` or ``"module"``; a module has the tensors of its own, not those of modules within it.

        Raises:
            ValueError: a space that does not have n coordinates, or another ``by``.

        Cost: 8 n bytes.
        """
        self._require_space(parameters)
        names, labels = parts_of(parameters, by)
        chosen = labels[self.indices.to(labels.device)]
        sizes, counts = (torch.bincount(part, minlength=len(names)).tolist() for part in (labels, chosen))
        return Composition(by, names, tuple(sizes), tuple(counts))

    def _require_space(self, parameters: ParameterSpace) -> None:
        if parameters.size != self.ambient_dim:
            raise ValueError(f"{self} is no mask of {parameters}; take the parameters of the operator it was made for")

    def complement(self) -> MaskSubspace:
        """The span of the axes that are not selected.

        Raises:
            ValueError: a mask of all coordinates, whose complement is empty.

        Cost: 9 n bytes at most.
        """
        if self.dim == self.ambient_dim:
            raise ValueError(f"{self} holds every coordinate, so its complement is empty; select fewer")
        return MaskSubspace(~self.mask, self.dtype)

    def leverage(self) -> Tensor:
        """The mask as numbers, (n,): one where an axis is selected, zero elsewhere.

        Cost: n numbers.
        """
        return self.mask.to(self.dtype)

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self.ties is None else f"{text[:-1]}; {self.ties}>"

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
        ties = None if self.ties is None else attrs.asdict(self.ties)
        return {"n": self.ambient_dim, "dtype": dtype_name(self.dtype), "ties": ties}

    @classmethod
    def _of_tensors(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> MaskSubspace:
        bits = tensors["bits"]
        mask = torch.from_numpy(numpy.unpackbits(bits.cpu().numpy(), count=header["n"])).bool()
        loaded = MaskSubspace(mask.to(bits.device), dtype_named(header["dtype"]))
        ties = header.get("ties")  # what a file does not name is not known
        loaded.ties = None if ties is None else Ties(**ties)
        return loaded

    def _cross_gram(self, other: Subspace) -> Any:
        if isinstance(other, MaskSubspace):
            shared = self.mask & other.mask
            rows = shared[self.indices].nonzero()[:, 0]
            columns = shared[other.indices].nonzero()[:, 0]
            return PartialPermutation(rows, columns, (self.dim, other.dim), self.dtype)
        if isinstance(other, OrthonormalSubspace):
            return Dense(other.rows(self.indices))
        return NotImplemented

    def _residual(self, other: Subspace) -> Any:
        if isinstance(other, MaskSubspace):
            outside = (~self.mask[other.indices]).nonzero()[:, 0]
            return PartialPermutation(other.indices[outside], outside, (self.ambient_dim, other.dim), self.dtype)
        if isinstance(other, OrthonormalSubspace):
            return Dense(other.vectors.masked_fill(self.mask[:, None], 0.0))
        return NotImplemented
