"""The coordinates of a model's parameters: which tensors, in which order, at which point."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .compiled import as_named, as_written
from .coordinate import Embedding

Selection = str | nn.Module | Tensor | Iterable["str | nn.Module | Tensor"] | None
"""What selects parameters: name patterns, modules, tensors, or a list of such; None for all trainable ones."""


class ParameterSpace:
    """Rⁿ with coordinates named by the selected parameter tensors of a model, and the model's point in it.

    The tensors follow one another in the order of ``model.named_parameters()``, each flattened by rows; a tensor that
    several modules share counts once. The point is a copy: later training does not move it. What ``torch.compile`` made
    of a model has the names of that model.

    Args:
        model: the network.
        parameters: what to select: a name pattern in the sense of ``fnmatch`` (``"layer4.*"``, ``"*.bias"``) or the
            name of a module or parameter; a module of the model; a parameter tensor; or a list of such. By default
            every parameter with ``requires_grad``.

    Attributes:
        names: the names of the selected tensors.
        shapes: name to shape.
        slices: name to the slice of its coordinates.
        size: n, the number of coordinates.
        values: (n,) the point.

    Raises:
        ValueError: nothing selected, or a selection that matches nothing.
        TypeError: tensors of several dtypes or devices, or none that is real floating point.

    Cost: a copy of the selected parameters.
    """

    def __init__(self, model: nn.Module, parameters: Selection = None) -> None:
        model = as_written(model)
        named = as_named(model.named_parameters())
        chosen = _select(model, named, parameters)
        if not chosen:
            if parameters is not None:
                reason = "the list in parameters= is empty"
            elif named:
                reason = "all are frozen; set requires_grad or name them in parameters="
            else:
                reason = "the model has none"
            raise ValueError(f"no parameters selected: {reason}")
        self.names = tuple(name for name in named if name in chosen)
        selected = {name: named[name].detach() for name in self.names}
        first = selected[self.names[0]]
        if first.is_meta:
            raise TypeError(
                f"parameters have values, but {self.names[0]} is on the meta device: load the network first"
            )
        if not first.dtype.is_floating_point:
            raise TypeError(f"parameters are real floating point, but {self.names[0]} is {first.dtype}; leave it out")
        for name, tensor in selected.items():
            if tensor.dtype != first.dtype or tensor.device != first.device:
                raise TypeError(
                    f"parameters of one space share dtype and device, but {self.names[0]} is {first.dtype} on "
                    f"{first.device} and {name} is {tensor.dtype} on {tensor.device}; select or convert them alike"
                )
        self.shapes = {name: tensor.shape for name, tensor in selected.items()}
        self.slices: dict[str, slice] = {}
        self.size = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(self.size, self.size + shape.numel())
            self.size += shape.numel()
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        if self.size == 0:
            raise ValueError("no parameters selected: the selected tensors have no entries")
        self.values = self.flatten(selected)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the point."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """The device of the point."""
        return self.values.device

    def unflatten(self, X: Tensor) -> dict[str, Tensor]:
        """The tensors with the coordinates X: of their own shapes for (n,), of shapes (k, …) for an (n, k) block.

        Raises:
            ValueError: a block that does not have n rows.

        Cost: views where X is a vector or has contiguous columns, else a copy.
        """
        if X.ndim not in (1, 2) or X.shape[0] != self.size:
            raise ValueError(f"expected ({self.size},) or ({self.size}, k) coordinates, got shape {tuple(X.shape)}")
        batch = X.shape[1:]
        parts = X.mT.split_with_sizes(self._sizes, 1) if X.ndim == 2 else X.split_with_sizes(self._sizes)
        return {
            name: part if len(shape) == 1 else part.reshape(batch + shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The coordinates of tensors by name, (n,); of shapes (k, …), an (n, k) block with contiguous columns.

        Raises:
            ValueError: a tensor that is missing, left over, or of another shape.

        Cost: one copy.
        """
        if tensors.keys() != self.shapes.keys():
            raise ValueError(f"expected tensors named {list(self.names)}, got {list(tensors)}")
        first = tensors[self.names[0]].shape
        batch = first[: max(len(first) - len(self.shapes[self.names[0]]), 0)]
        parts: list[Tensor] = []
        for name, shape in self.shapes.items():
            tensor = tensors[name]
            if len(batch) > 1 or tensor.shape != batch + shape:
                raise ValueError(self._mismatch(name, tensors))
            parts.append(tensor if len(shape) == 1 else tensor.flatten(len(batch)) if shape else tensor[..., None])
        flat = torch.cat(parts, dim=-1)
        return flat.mT if flat.ndim == 2 else flat

    def _mismatch(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        """What is wrong with the shape of a tensor, the first that does not go with those before it."""
        given, shape = tensors[name].shape, self.shapes[name]
        if len(given) - len(shape) not in (0, 1) or given[len(given) - len(shape) :] != shape:
            return f"{name} has shape {tuple(given)}, expected {tuple(shape)} or (k, …)"
        return f"{self.names[0]} and {name} hold different numbers of vectors"

    def labels(self) -> Tensor:
        """The number of its tensor for each coordinate, (n,) integers, in the order of ``names``.

        Cost: 8 n bytes.
        """
        sizes = torch.tensor([shape.numel() for shape in self.shapes.values()])
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(self.device)

    @property
    def module_names(self) -> tuple[str, ...]:
        """The modules that hold the tensors, each once, in the order of ``names``; "" is the model itself."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.names))

    def module_labels(self) -> Tensor:
        """The number of its module for each coordinate, (n,) integers, in the order of ``module_names``.

        A module has the tensors of its own, not those of modules within it; one that is shared is its first holder's.

        Cost: 16 n bytes, half of which are given back.
        """
        number = {module: i for i, module in enumerate(self.module_names)}
        of_tensors = torch.tensor([number[name.rpartition(".")[0]] for name in self.names])
        return of_tensors.to(self.device)[self.labels()]

    def indices(self, *patterns: str) -> Tensor:
        """The coordinates of the tensors whose names match any of the patterns, ascending, (k,) integers.

        Raises:
            ValueError: a pattern that matches no selected tensor.

        Cost: 8 k bytes.
        """
        chosen = {name for pattern in patterns for name in _matching(self.names, pattern)}
        parts = [torch.arange(part.start, part.stop) for name, part in self.slices.items() if name in chosen]
        return torch.cat(parts).to(self.device)

    def embedding(self, part: ParameterSpace) -> Embedding:
        """The (n, m) embedding of a space over fewer of the tensors, which go by name and shape.

        ``A.embedded(E)`` takes a subspace for the selected parameters to this space, ``A.extracted(E)`` back.

        Raises:
            ValueError: a tensor of ``part`` that is not here, or of another shape.
            TypeError: another dtype or device, or no ParameterSpace.

        Cost: 8 m bytes.
        """
        if not isinstance(part, ParameterSpace):
            raise TypeError(f"{self} embeds another ParameterSpace, got {type(part).__name__}; take H.parameters")
        for name, shape in part.shapes.items():
            if name not in self.shapes:
                raise ValueError(f"{part} has a tensor {name}, which {self} has not; select it there too")
            if shape != self.shapes[name]:
                raise ValueError(f"{name} has shape {tuple(shape)} in {part}, {tuple(self.shapes[name])} in {self}")
        if part.dtype != self.dtype or part.device != self.device:
            raise TypeError(f"{self} and {part} differ in dtype or device; convert one of the models")
        slices = [self.slices[name] for name in part.names]
        indices = torch.cat([torch.arange(place.start, place.stop) for place in slices])
        return Embedding(indices.to(self.device), self.size, self.dtype)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"<ParameterSpace {self.size} in {len(self.names)} tensors {dtype} {self.device}>"


def _select(model: nn.Module, named: Mapping[str, Tensor], selection: Selection) -> set[str]:
    if selection is None:
        return {name for name, parameter in named.items() if parameter.requires_grad}
    if isinstance(selection, str | nn.Module | Tensor):
        selection = [selection]
    elif not isinstance(selection, Iterable):
        raise TypeError(f"parameters= takes name patterns, modules and tensors, got {type(selection).__name__}")
    items = list(selection)
    first_name = {id(parameter): name for name, parameter in named.items()}
    every = as_named(model.named_parameters(remove_duplicate=False))
    every_name = {name: first_name[id(shared)] for name, shared in every.items()}
    chosen: set[str] = set()
    for item in items:
        if isinstance(item, str):
            chosen.update(every_name[name] for name in _matching(every_name, item))
        elif isinstance(item, nn.Module | Tensor):
            tensors = list(item.parameters()) if isinstance(item, nn.Module) else [item]
            found = {name for name, parameter in named.items() if any(parameter is tensor for tensor in tensors)}
            if len(found) < len({id(tensor) for tensor in tensors}) or not found:
                kind = type(item).__name__
                raise ValueError(f"parameters= holds a {kind} that is not the model's own, or has no parameters")
            chosen.update(found)
        else:
            raise TypeError(f"parameters= takes name patterns, modules and tensors, got {type(item).__name__}")
    return chosen


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    # A name itself comes first: it may hold what a pattern would read as a wildcard.
    found = [name for name in names if name == pattern]
    found = found or [name for name in names if fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern + ".")]
    if not found:
        known = list(names)
        shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        raise ValueError(f"{pattern!r} matches no parameter; the names are {shown}")
    return found
