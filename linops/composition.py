"""Where a mask lies: how many of its coordinates each tensor or module has."""

from __future__ import annotations

import math

import attrs
from torch import Tensor

from .parameters import ParameterSpace


@attrs.frozen(repr=False)
class Composition:
    """How many coordinates of a mask lie in each part of a model; printed, a table.

    Attributes:
        by: what the parts are: "tensor" or "module".
        names: the parts, in the order of the coordinates; "" is the model itself, as a module.
        sizes: how many coordinates each has; they sum to n.
        counts: how many of them the mask has; they sum to k.
    """

    by: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def densities(self) -> tuple[float, ...]:
        """The quotients count / size: how much of the part is in the mask; nan for a part without entries."""
        return tuple(count / size if size else math.nan for count, size in zip(self.counts, self.sizes, strict=True))

    @property
    def shares(self) -> tuple[float, ...]:
        """The quotients count / k: how much of the mask is in the part; they sum to one."""
        return tuple(count / sum(self.counts) for count in self.counts)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """``{name: {"size": …, "count": …, "density": …, "share": …}}``, plain numbers."""
        columns = zip(self.sizes, self.counts, self.densities, self.shares, strict=True)
        keys = ("size", "count", "density", "share")
        return {name: dict(zip(keys, row, strict=True)) for name, row in zip(self.names, columns, strict=True)}

    def __repr__(self) -> str:
        n, k = sum(self.sizes), sum(self.counts)
        columns = zip(self.names, self.sizes, self.counts, self.densities, self.shares, strict=True)
        rows = [(name or "(model)", *numbers) for name, *numbers in columns] + [("total", n, k, k / n, 1.0)]
        width = max(len(self.by), *(len(str(row[0])) for row in rows))
        head = f"{self.by:{width}} {'size':>10} {'count':>10} {'density':>8} {'share':>7}"
        return "\n".join(
            [head, *(f"{row[0]:{width}} {row[1]:10} {row[2]:10} {row[3]:8.2%} {row[4]:7.2%}" for row in rows)]
        )


def parts_of(parameters: ParameterSpace, by: str) -> tuple[tuple[str, ...], Tensor]:
    """The names of tensors or modules, and the number of its own for each coordinate."""
    if by not in ("tensor", "module"):
        raise ValueError(f'by is "tensor" or "module", got {by!r}')
    if by == "tensor":
        return parameters.names, parameters.labels()
    return parameters.module_names, parameters.module_labels()
