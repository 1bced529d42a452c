"""Random test matrices, as operators: Gaussian, signs dense and sparse, and scrambled subsampled cosine transforms."""

from __future__ import annotations

import abc
import functools
import math
from typing import ClassVar

import numpy
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.sharding import all_columns, mesh_of, own_columns
from .cosine import cosine_transform, inverse_cosine_transform
from .streams import stream
from .tall import gram

_WIDTH = 64  # columns drawn or transformed at a time in a product
_GROUP = 8  # columns that share the rows of a sparse sign matrix among them


class Sketch(LinearOperator):
    """A random (n, s) matrix Ω of isotropic columns: E[ω ωᵀ] = I, so that E[Ω Ωᵀ] = s I.

    Column j is a function of (n, seed, purpose, j) and the dtype alone: it does not depend on s, on the block in which
    it is drawn or, up to rounding, on the device. A subclass defines ``columns``.

    Args:
        n: rows.
        s: columns.
        seed: the root seed.
        purpose: name of the stream of random numbers; matrices of different purpose are independent.
        dtype: of the entries.
        device: where blocks of them live.

    Raises:
        ValueError: more columns than rows, of a kind that cannot have them.
    """

    _may_be_wide: ClassVar[bool] = True

    def __init__(
        self,
        n: int,
        s: int,
        *,
        seed: int = 0,
        purpose: str = "sketch",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__((n, s), dtype, device)
        if s > n and not self._may_be_wide:
            raise ValueError(f"{type(self).__name__} picks s of n coordinates, so s <= n; got n={n}, s={s}")
        self.seed, self.purpose = seed, purpose

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns start … stop-1 as an (n, stop-start) block with contiguous columns.

        Raises:
            ValueError: a range outside 0 … s.

        Cost: n (stop-start) random numbers or, for `SSRFT`, as many fast transforms as columns.
        """
        if not 0 <= start <= stop <= self.shape[1]:
            raise ValueError(f"{self} has columns 0 to {self.shape[1]}, not {start} to {stop}")
        return self._columns(start, stop)

    @abc.abstractmethod
    def _columns(self, start: int, stop: int) -> Tensor:
        """Columns of a range that has been checked."""

    def _matmat(self, X: Tensor) -> Tensor:
        total = X.new_zeros(X.shape[1], self.shape[0]).mT
        for start in range(0, self.shape[1], _WIDTH):
            stop = min(start + _WIDTH, self.shape[1])
            total += self._columns(start, stop) @ X[start:stop]
        return total

    def _rmatmat(self, Y: Tensor) -> Tensor:
        result = torch.empty(self.shape[1], Y.shape[1], dtype=self.dtype, device=self.device)
        for start in range(0, self.shape[1], _WIDTH):
            stop = min(start + _WIDTH, self.shape[1])
            result[start:stop] = gram(self._columns(start, stop), Y)
        return result


class Gaussian(Sketch):
    """Ω with independent standard normal entries.

    Args:
        n, s, seed, purpose, dtype, device: see `Sketch`.

    Cost: a product draws the n s entries anew; they are never kept.
    """

    def _columns(self, start: int, stop: int) -> Tensor:
        block = torch.empty(stop - start, self.shape[0], dtype=torch.float64)
        for row, j in enumerate(range(start, stop)):
            block[row] = torch.from_numpy(stream(self.seed, self.purpose, j).standard_normal(self.shape[0]))
        return block.to(self.device, self.dtype).mT


class Rademacher(Sketch):
    """Ω with independent entries 1 and -1 of equal probability.

    Args:
        n, s, seed, purpose, dtype, device: see `Sketch`.

    Cost: a product draws the n s entries anew; they are never kept.
    """

    def _columns(self, start: int, stop: int) -> Tensor:
        block = torch.empty(stop - start, self.shape[0], dtype=self.dtype)
        for row, j in enumerate(range(start, stop)):
            block[row] = _signs(self.seed, self.purpose, j, self.shape[0])
        return block.to(self.device).mT


class SparseSign(Sketch):
    """Ω whose columns come in groups of g = min(n, 8) that share out the rows: one entry in each row of a group.

    The rows of a group are dealt at random, as evenly as they go, to its columns. So a column has about n / g entries,
    of equal magnitude and random sign, and norm √n; columns of a group are orthogonal; and no coordinate is missed by
    any of the groups. Entries are as independent as that allows: take another kind where s comes close to n.

    Args:
        n, s, seed, purpose, dtype, device: see `Sketch`.

    Source: Martinsson & Tropp (2020), section 9.2, who write Ωᵀ; as blocks of columns Kane & Nelson (2014).

    Cost: n random numbers and a permutation for g columns; a product multiplies them as dense ones, which is faster
    than gathering entries.
    """

    def _columns(self, start: int, stop: int) -> Tensor:
        n = self.shape[0]
        size = max(1, min(n, _GROUP))
        first = start // size
        groups = -(-stop // size) - first
        block = torch.zeros(groups * size, n, dtype=self.dtype)
        for number in range(groups):
            rng = stream(self.seed, self.purpose, first + number)
            owner = torch.from_numpy(rng.permutation(n) % size)
            magnitudes = (n / torch.bincount(owner, minlength=size).double()).sqrt()
            entries = (_random_signs(rng, n) * magnitudes[owner]).to(self.dtype)
            block[number * size : (number + 1) * size].scatter_(0, owner[None], entries[None])
        return block[start - first * size : stop - first * size].to(self.device).mT


class SSRFT(Sketch):
    """√n times the transpose of a scrambled subsampled randomised Fourier transform, real: Ωᵀ = √n R F Π₂ F Π₁.

    F is the orthonormal discrete cosine transform (DCT-II), Π₁ and Π₂ are random signed permutations, and R picks s
    random coordinates. The columns of Ω are orthogonal, of norm √n. Needs s <= n.

    Args:
        n, s, seed, purpose, dtype, device: see `Sketch`.

    Raises:
        ValueError: s > n.

    Source: Woolfe, Liberty, Rokhlin & Tygert (2008); Tropp, Yurtsever, Udell & Cevher (2019), section 3, the
    scrambled SRFT.

    Cost: a product with one vector takes two fast transforms, O(n log n) flops; two permutations, two sets of signs and
    the coordinates are drawn once, when first used, and kept, 26 n bytes.
    """

    _may_be_wide = False

    def _columns(self, start: int, stop: int) -> Tensor:
        return self._lifted(torch.eye(stop - start, dtype=self.dtype, device=self.device), self._picked[start:stop])

    def _matmat(self, X: Tensor) -> Tensor:
        result = X.new_empty(X.shape[1], self.shape[0]).mT
        for start in range(0, X.shape[1], _WIDTH):
            result[:, start : start + _WIDTH] = self._lifted(X[:, start : start + _WIDTH], self._picked)
        return result

    def _rmatmat(self, Y: Tensor) -> Tensor:
        mesh = mesh_of(Y)
        if mesh is not None:  # transforms take whole columns
            return all_columns(self._rmatmat(own_columns(Y, mesh)), Y.shape[1], mesh)
        result = Y.new_empty(Y.shape[1], self.shape[1]).mT
        for start in range(0, Y.shape[1], _WIDTH):
            part = Y[:, start : start + _WIDTH]
            for order, signs in self._scrambles:
                part = cosine_transform((signs[:, None] * part)[order])
            result[:, start : start + _WIDTH] = math.sqrt(self.shape[0]) * part[self._picked]
        return result

    def _lifted(self, X: Tensor, picked: Tensor) -> Tensor:
        """√n Π₁ᵀ Fᵀ Π₂ᵀ Fᵀ of the block that has the rows of X at the picked coordinates."""
        Y = X.new_zeros(X.shape[1], self.shape[0]).mT.index_copy_(0, picked, X)
        for order, signs in reversed(self._scrambles):
            Y = torch.empty_like(Y).index_copy_(0, order, inverse_cosine_transform(Y)) * signs[:, None]
        return math.sqrt(self.shape[0]) * Y

    @functools.cached_property
    def _picked(self) -> Tensor:
        """The coordinates that R picks: prefixes of one permutation, so that column j does not depend on s."""
        return self._permutation(0)[: self.shape[1]]

    @functools.cached_property
    def _scrambles(self) -> list[tuple[Tensor, Tensor]]:
        """Permutation and signs of Π₁ and of Π₂."""
        n = self.shape[0]
        signs = [_signs(self.seed, self.purpose, number, n).to(self.device) for number in (3, 4)]
        return [(self._permutation(1), signs[0]), (self._permutation(2), signs[1])]

    def _permutation(self, number: int) -> Tensor:
        rng = stream(self.seed, self.purpose, number)
        return torch.from_numpy(rng.permutation(self.shape[0])).to(self.device)


def _signs(seed: int, purpose: str, index: int, n: int) -> Tensor:
    """N independent random signs, int8."""
    return _random_signs(stream(seed, purpose, index), n)


def _random_signs(rng: numpy.random.Generator, n: int) -> Tensor:
    return torch.from_numpy(2 * rng.integers(0, 2, size=n, dtype="int8") - 1)
