"""What block Krylov solvers share: their options, the bases that they multiply, and what random vectors show."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.sharding import placed
from .basis import Basis, most_columns, random_directions
from .parameters import int_or_none, positive_integer, tolerance
from .storage import DEVICE, Storage, as_storage
from .tall import Orthonormalised, column_norms, gram, orthonormalise
from .template import Solver
from .watched import Takes, Watched
from .workload import Workload

DOUBT = 0.01  # the probability that random vectors have not shown what leads
_ROUNDINGS = 10.0  # that A Q = Q H may change by as vectors of another run are taken: the least tol of a solve
_ORTHONORMAL = 100.0  # roundings that they may lack of being orthonormal to the others
CLUSTER = 1e-4  # relative distance of neighbours that a Krylov space of usual length does not tell apart
_NARROWEST = 5
_WANTED_PER_COLUMN = 4  # and digit of the tolerance: digits ask for passes, and wide blocks for products
_DIGITS = 5  # at least
_GROWTH = 0.04  # of the space between two looks at it, at least, so that these cost little beside the products
# That spaces of one side, or of either of two, take as a rule, by benchmarks/plan.py --rules.
_VECTORS_A_PAIR, _BLOCKS_A_DIGIT = 2.05, {1: 1.9, 2: 1.4}
_VECTORS_EACH = 1.5  # that the space grows by for each pair that is still missing, or more


@attrs.frozen(kw_only=True, slots=False)
class BlockKrylov(Solver):
    """A solver that looks for k pairs or triplets in block Krylov spaces: see `BlockLanczos` and `BlockGolubKahan`."""

    block_size: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    tol: float | None = attrs.field(default=None, validator=tolerance)
    max_products: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    max_basis: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    storage: Storage | None = attrs.field(default=None, converter=as_storage)

    uses_start = True
    wanted: ClassVar[str]  # what there are k of, in the plural
    least_blocks: ClassVar[int]  # that it restarts with beside what is wanted

    def __attrs_post_init__(self) -> None:
        if self.max_basis is not None and self.max_basis < self.least_basis:
            raise ValueError(
                f"max_basis={self.max_basis} is too small to restart with k={self.k} {self.wanted} and blocks of "
                f"{self._widest}: choose at least {self.least_basis}, or a smaller block_size"
            )

    @property
    def least_basis(self) -> int:
        """The smallest ``max_basis`` that it can restart with."""
        return self.k + self.least_blocks * self._widest

    @property
    @abc.abstractmethod
    def _most_vectors(self) -> int:
        """How many vectors of each side it may come to keep where nothing limits the basis."""

    def _space_workload(self, tol: float, most: int, sides: int, cube: float) -> Workload:
        """What spaces of that many ``sides`` and ``most`` vectors at most take; small matrices ``cube`` dim³ flops."""
        width = self._width(tol)
        dim = min(most, width * math.ceil(expected_dimension(self.k, width, tol, sides) / width))
        basis = dim + width if self.max_basis is None else min(dim + width, self.max_basis)
        dropped = max(1, (basis - self.k) * 2 // 3)  # by a restart
        restarts = max(0, -(-(dim - basis) // dropped))
        return Workload(
            products=sides * dim + 2,
            rule=f"{_VECTORS_A_PAIR} a pair and {_BLOCKS_A_DIGIT[sides] * -math.log10(tol):.0f} blocks"
            + (", on each side" if sides == 2 else ""),
            width=width,
            passes=sides * -(-dim // width) + sides,
            basis=basis,
            working=6 * width + (2 * self.k if restarts else 0),
            row_flops=2 * basis * max(dim, 2 * dim - basis) + 16 * width * dim + 2 * basis * self.k * (1 + restarts),
            core=basis,
            core_flops=cube * (min(dim, basis) ** 3 * (1 + restarts) + self.k**3),
        )

    def _width(self, tol: float) -> int:
        """Columns of a block, to begin with."""
        if self.block_size is not None:
            return self.block_size
        digits = max(_DIGITS, -math.log10(tol))
        return max(_NARROWEST, int(self.k / (_WANTED_PER_COLUMN * digits)))

    def _doubt(self, converged: int) -> tuple[str, ...]:
        """What to say where products were spent before random vectors have shown that nothing is missing."""
        return (
            f"{converged} of {self.k} {self.wanted} meet the tolerance, but it is not shown that no other leads them: "
            "copies of those with equal values may be missing.",
        )

    @property
    def _has_room_of_its_own(self) -> bool:
        """Whether its basis lives elsewhere than in the memory of the operator."""
        return self.storage is not None and self.storage.kind != "device"

    def _stored(self, A: LinearOperator, rows: int, formed: int = 0) -> Storage:
        """Where bases of A of so many rows in all live, once it is known to have room for them and vectors formed."""
        storage = self.storage or DEVICE
        most = min(self._most_vectors if self.max_basis is None else self.max_basis, *A.shape)
        columns = most_columns(min(A.shape), most)
        if storage.is_rounding(A.dtype) and A.row_mesh is not None:
            raise ValueError(f"a basis whose rows are spread is not rounded: leave out the dtype of {storage}")
        return storage.prepared(A, rows, columns, min(columns, self._workload(A).basis), formed)

    @property
    def _widest(self) -> int:
        """Columns of a block where the dtype of the operator is not known yet."""
        return self._width(0.1**_DIGITS if self.tol is None else self.tol)


class MultipliedBasis:
    """An orthonormal basis of Rⁿ that grows, of which the first ``dim`` columns have been multiplied.

    Args:
        A: the operator, for its dtype and device.
        n: rows.
        seed: of the random vectors that join it.
        purpose: of their stream.
        storage: where it is kept.

    Attributes:
        waiting: the columns that have not been multiplied, (n, w).
        coefficients: of the products in the basis that they fall into, block by block, each as long as that then was.
        drawn: random vectors that have joined it.
    """

    def __init__(self, A: Watched, n: int, seed: int, purpose: str, storage: Storage = DEVICE) -> None:
        self.n, self.seed, self.purpose = n, seed, purpose
        self.basis = Basis(n, A.dtype, A.device, storage, A.row_mesh)
        self.waiting = placed(torch.empty(0, n, dtype=A.dtype, device=A.device).mT, A.row_mesh)
        self.coefficients: list[Tensor] = []
        self.drawn = 0

    @property
    def width(self) -> int:
        """Columns that wait."""
        return self.waiting.shape[1]

    @property
    def dim(self) -> int:
        """Columns that have been multiplied."""
        return self.basis.size - self.width

    def append(self, block: Tensor) -> None:
        """Add columns that wait."""
        self.basis.append(block)
        self.waiting = torch.cat([self.waiting.mT, block.mT]).mT

    def draw(self, count: int) -> int:
        """Append random vectors, as many as there is room for; returns how many."""
        count, first = min(count, self.n - self.basis.size), self.drawn
        if count <= 0:
            return 0
        self.drawn += count
        block = random_directions(self.basis, first, self.drawn, self.seed, self.purpose)
        self.append(block)
        return block.shape[1]

    def multiply(
        self, product: Callable[[Tensor, Takes], Tensor], width: int, other: MultipliedBasis, norm: float
    ) -> Orthonormalised:
        """Multiply the first ``width`` columns that wait, and append what is new in the product to the ``other`` basis.

        ``norm`` is that of the operator, as far as it is known. For a symmetric one both bases are the same.
        """
        image = product(self.waiting[:, :width], lambda vectors: self._takes(vectors, other, norm))
        step = orthonormalise(image, other.basis, scale=norm, first=other._reached(self.dim))
        self.coefficients.append(torch.cat([step.C, step.R]))
        self.waiting = self.waiting[:, image.shape[1] :]
        other.append(step.Q)
        return step

    def matrix(self, rows: int) -> Tensor:
        """All coefficients, (rows, dim)."""
        matrix = torch.zeros(self.dim, rows, dtype=torch.float64).mT
        start = 0
        for block in self.coefficients:
            matrix[: len(block), start : start + block.shape[1]] = block
            start += block.shape[1]
        return matrix

    def replace(self, C: Tensor, products: Tensor) -> None:
        """Put the combinations with C, (dim, j), whose products are known, in the place of the multiplied columns."""
        self.basis.replace(C)
        self.basis.append(self.waiting)
        self.coefficients = [products]

    def _takes(self, vectors: Tensor, other: MultipliedBasis, norm: float) -> bool:
        """Put vectors in the place of the first that wait, if they differ from them by rounding errors alone.

        Then all products keep their coefficients, to rounding: those that fall into what the vectors differ by are
        small. So is what they lack of being orthonormal to all other columns.
        """
        width, own = vectors.shape[1], self.waiting[:, : vectors.shape[1]]
        difference, start, stop = gram(vectors - own), self.dim, self.dim + width
        rounding, squares = torch.finfo(self.basis.dtype).eps, 0.0
        for C in other.coefficients:
            rows = C[start:stop]
            squares += float((difference[: len(rows), : len(rows)] @ rows * rows).sum())
        if squares > (_ROUNDINGS * rounding * norm) ** 2:
            return False
        self.basis.put(start, vectors)
        defect = self.basis.coefficients(vectors)
        defect[start:stop] -= torch.eye(width, dtype=torch.float64)
        is_orthonormal = float(column_norms(defect).max()) <= _ORTHONORMAL * rounding
        if not is_orthonormal:
            self.basis.put(start, own)
        return is_orthonormal

    def _reached(self, column: int) -> int:
        """The first column whose product has a part along this ``column`` of the other side; no earlier one has."""
        return sum(block.shape[1] for block in self.coefficients if len(block) <= column)


def expected_dimension(k: int, width: int, tol: float, sides: int = 1) -> float:
    """Dimension in which block Krylov spaces of that width, of one side or two, show k pairs to ``tol`` as a rule.

    The vectors of the pairs make up most of it; blocks beyond them let the last ones converge, each by as much.
    """
    return _VECTORS_A_PAIR * k - _BLOCKS_A_DIGIT[sides] * math.log10(tol) * width


def products_to_next_look(missing: int, dim: int, each: int = 1) -> int:
    """Products before it is worth another look at spaces of that dimension, which take ``each`` to grow by a vector."""
    return math.ceil(each * max(_VECTORS_EACH * missing, _GROWTH * dim))


def evidence(steps: list[int], gap: float, spread: float) -> float:
    """The logarithm of how much products have amplified the part of a pair ahead of all others in a random vector.

    After j products with a random vector the largest eigenvalue is above that of the space by ε times the spread of the
    spectrum with a probability below 1.648 √n exp(-√ε (2 j - 1)) (Kuczyński & Woźniakowski 1992). Every restart keeps
    the leading Ritz vector, whose Krylov space amplifies it by a Chebyshev polynomial, of the steps since.

    Args:
        steps: products between restarts.
        gap: ε times the spread.
        spread: of the spectrum.
    """
    root = math.sqrt(gap / spread)
    total = root * (2 * steps[0] - 1)
    for step in steps[1:]:
        growth = 2 * root * step
        total += growth + math.log1p(math.exp(-2 * growth)) - math.log(2)  # log cosh
    return total


def evidence_needed(n: int, drawn: int) -> float:
    """The `evidence` for which ``drawn`` vectors in Rⁿ, which fail independently, all fail with probability DOUBT."""
    return math.log(1.648 * n**0.5) - math.log(DOUBT) / max(1, drawn)
