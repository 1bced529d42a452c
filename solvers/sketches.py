"""Random test matrices, as operators: Gaussian, Rademacher, and scrambled subsampled randomised cosine transforms."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from ..linops import LinearOperator
from .streams import stream

_WIDTH = 64  # columns drawn at a time in a product


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
    """

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
        result = Y.new_empty(self.shape[1], Y.shape[1])
        for start in range(0, self.shape[1], _WIDTH):
            stop = min(start + _WIDTH, self.shape[1])
            result[start:stop] = self._columns(start, stop).mT @ Y
        return result


class Gaussian(Sketch):
    """Ω with independent standard normal entries.

    Cost: a product draws the n s entries anew; they are never kept.
    """

    def _columns(self, start: int, stop: int) -> Tensor:
        block = torch.empty(stop - start, self.shape[0], dtype=torch.float64)
        for row, j in enumerate(range(start, stop)):
            block[row] = torch.from_numpy(stream(self.seed, self.purpose, j).standard_normal(self.shape[0]))
        return block.to(self.device, self.dtype).mT


class Rademacher(Sketch):
    """Ω with independent entries 1 and -1 of equal probability.

    Cost: a product draws the n s entries anew; they are never kept.
    """

    def _columns(self, start: int, stop: int) -> Tensor:
        block = torch.empty(stop - start, self.shape[0], dtype=self.dtype)
        for row, j in enumerate(range(start, stop)):
            block[row] = _signs(self.seed, self.purpose, j, self.shape[0])
        return block.to(self.device).mT


class SSRFT(Sketch):
    """√n times the transpose of a scrambled subsampled randomised Fourier transform, real: Ωᵀ = √n R F Π₂ F Π₁.

    F is the orthonormal discrete cosine transform (DCT-II), Π₁ and Π₂ are random signed permutations, and R picks s
    random coordinates. The columns of Ω are orthogonal, of norm √n. Needs s <= n.

    Raises:
        ValueError: more columns than rows.

    Source: Woolfe, Liberty, Rokhlin & Tygert (2008); Tropp, Yurtsever, Udell & Cevher (2019), section 3.2.2.

    Cost: a product with one vector takes two fast transforms, O(n log n) flops; two permutations, two sets of signs and
    the coordinates are kept, 26 n bytes.
    """

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
        super().__init__(n, s, seed=seed, purpose=purpose, dtype=dtype, device=device)
        if s > n:
            raise ValueError(f"an SSRFT picks s of n coordinates, so s <= n; got n={n}, s={s}")
        # Prefixes of one permutation: column j does not depend on s.
        self._picked = self._permutation(0)[:s]
        self._orders = [self._permutation(1), self._permutation(2)]
        self._signs = [_signs(seed, purpose, number, n).to(self.device) for number in (3, 4)]

    def _permutation(self, number: int) -> Tensor:
        rng = stream(self.seed, self.purpose, number)
        return torch.from_numpy(rng.permutation(self.shape[0])).to(self.device)

    def _columns(self, start: int, stop: int) -> Tensor:
        return self._lifted(torch.eye(stop - start, dtype=self.dtype, device=self.device), self._picked[start:stop])

    def _matmat(self, X: Tensor) -> Tensor:
        return self._lifted(X, self._picked)

    def _rmatmat(self, Y: Tensor) -> Tensor:
        for order, signs in zip(self._orders, self._signs, strict=True):
            Y = cosine_transform((signs[:, None] * Y)[order])
        return math.sqrt(self.shape[0]) * Y[self._picked]

    def _lifted(self, X: Tensor, picked: Tensor) -> Tensor:
        """√n Π₁ᵀ Fᵀ Π₂ᵀ Fᵀ of the block that has the rows of X at the picked coordinates."""
        Y = X.new_zeros(X.shape[1], self.shape[0]).mT.index_copy_(0, picked, X)
        for order, signs in zip(reversed(self._orders), reversed(self._signs), strict=True):
            Y = torch.empty_like(Y).index_copy_(0, order, inverse_cosine_transform(Y)) * signs[:, None]
        return math.sqrt(self.shape[0]) * Y


def _signs(seed: int, purpose: str, index: int, n: int) -> Tensor:
    """N independent random signs, int8."""
    bits = stream(seed, purpose, index).integers(0, 2, size=n, dtype="int8")
    return torch.from_numpy(2 * bits - 1)


def cosine_transform(X: Tensor) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) of the columns of X, (n, b).

    Source: Makhoul (1980): one Fourier transform of the even entries followed by the odd ones in reverse.

    Cost: O(b n log n) flops and 2 n b complex numbers.
    """
    n = X.shape[0]
    if X.numel() == 0:
        return X.clone()  # the Fourier transforms of some devices take no empty blocks
    Y: Tensor = torch.fft.fft(torch.cat([X[::2], X[1::2].flip(0)]), dim=0)
    Y = (Y * _twiddle(n, X).conj()[:, None]).real * math.sqrt(2 / n)
    Y[:1] *= math.sqrt(0.5)
    return Y


def inverse_cosine_transform(X: Tensor) -> Tensor:
    """The inverse and transpose of `cosine_transform`, of the columns of X, (n, b).

    Cost: O(b n log n) flops and 2 n b complex numbers.
    """
    n = X.shape[0]
    if X.numel() == 0:
        return X.clone()
    Y = X * math.sqrt(n / 2)
    Y[:1] *= math.sqrt(2)
    # The spectrum of the reordered, real signal: its imaginary part is that of the mirrored coefficients.
    mirrored = torch.cat([torch.zeros_like(Y[:1]), Y[1:].flip(0)])
    Y = torch.fft.ifft(torch.complex(Y, -mirrored) * _twiddle(n, X)[:, None], dim=0).real
    half = (n + 1) // 2
    result = torch.empty_like(X)
    result[::2], result[1::2] = Y[:half], Y[half:].flip(0)
    return result


def _twiddle(n: int, X: Tensor) -> Tensor:
    """exp(i π j / 2n), j = 0 … n-1."""
    angle = torch.arange(n, dtype=X.dtype, device=X.device) * (math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle)
