"""Random probes of an operator, and an orthonormal basis of the range that they show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..basis import Basis
from ..sketches import Gaussian, Sketch
from ..tall import blocks, column_norms, in_blocks, orthonormalise

_DEPENDENT = 1e-8  # how far below 1 the leverage of a column that others make up is, at least


class Spherical(Gaussian):
    """Ω with independent columns, uniform on the sphere of radius √n.

    Cost: that of `Gaussian`, and 3 flops for an entry.
    """

    def _columns(self, start: int, stop: int) -> Tensor:
        block = super()._columns(start, stop)
        return block * (math.sqrt(self.shape[0]) / column_norms(block)).to(block)


def column_dots(X: Tensor, Y: Tensor) -> Tensor:
    """The inner products of columns of X and Y, both (n, b), with one another: (b,), small.

    Cost: 2 n b flops and n b numbers.
    """
    return (X * Y).sum(0, dtype=torch.float64).cpu()


class LeftOut(NamedTuple):
    """What leaving out one or two columns takes from the range of a sketch.

    Attributes:
        S: (r, s). The range without column j is the orthogonal complement of Q sⱼ; zero where the others span it too.
        cosines: (s, s), g = sᵢᵀ sⱼ off the diagonal, which is 0.
        sizes: (s, s), c = 1 / √(1 - g²). Leaving out i as well takes Q v, with v = c (sᵢ - g sⱼ), a unit vector
            orthogonal to sⱼ; c is 0 on the diagonal, and where v is zero or lost in rounding errors.
    """

    S: Tensor
    cosines: Tensor
    sizes: Tensor

    def beside(self, B: Tensor) -> Tensor:
        """vᵀ bⱼ for all (i, j), of an (s, s) matrix of sᵢᵀ bⱼ."""
        return self.sizes * (B - self.cosines * B.diagonal())


class RangeSketch:
    """An orthonormal basis Q of the range of M Ω, with M Ω = Q R, and Z = N Q, of linear maps M and N.

    Args:
        probes: Ω; the sketch takes more and more of its columns.
        product: X to M X.
        rows: of M.
        image: X to N X.
        image_rows: of N.
        width: columns multiplied at a time.

    Attributes:
        Q: (rows, r).
        R: (r, s), small.
        Z: (image_rows, r).
        longest: the largest norm of a column of M Ω.

    Cost: s + r products, 4 rows s² flops, and (rows + image_rows) r numbers.
    """

    def __init__(
        self,
        probes: Sketch,
        product: Callable[[Tensor], Tensor],
        rows: int,
        image: Callable[[Tensor], Tensor],
        image_rows: int,
        width: int,
    ) -> None:
        self.probes, self._product, self._image, self._width = probes, product, image, width
        self.Q = Basis(rows, probes.dtype, probes.device)
        self.Z = Basis(image_rows, probes.dtype, probes.device)
        self.R = torch.zeros(0, 0, dtype=torch.float64)
        self.longest = 0.0

    def extend(self, count: int) -> tuple[Tensor, Tensor]:
        """Take the columns of Ω up to number ``count``; return the columns that Q and Z gain by them."""
        first = self.R.shape[1]
        Y = torch.empty(count - first, self.Q.n, dtype=self.probes.dtype, device=self.probes.device).mT
        for start, stop in blocks(first, count, self._width):
            Y[:, start - first : stop - first] = self._product(self.probes.columns(start, stop))
        self.longest = max([self.longest, *column_norms(Y).tolist()])
        step = orthonormalise(Y, self.Q, scale=self.longest)
        below = torch.zeros(len(step.R), first, dtype=torch.float64)
        self.R = torch.cat([torch.cat([self.R, step.C], 1), torch.cat([below, step.R], 1)])
        image = in_blocks(self._image, self.Z.n, step.Q, self._width)
        self.Q.append(step.Q)
        self.Z.append(image)
        return step.Q, image

    def left_out(self) -> LeftOut:
        """What the range loses with one or two columns, from R alone.

        With R = U Σ Vᵀ, sⱼ is proportional to U Σ⁻¹ Vᵀ eⱼ, the j-th row of the pseudoinverse of R, if column j is not
        in the span of the others, that is if its leverage ‖Vᵀ eⱼ‖² is 1.

        Cost: a singular value decomposition of R.
        """
        U, sigma, Vt = torch.linalg.svd(self.R, full_matrices=False)
        independent = Vt.square().sum(0) > 1 - _DEPENDENT
        S = torch.where(independent, U @ (Vt / sigma[:, None]), 0)
        S = torch.where(independent, S / column_norms(S), 0)
        cosines = (S.mT @ S).fill_diagonal_(0)
        # Where the two directions are parallel, but for the square root of a rounding, v would be made of roundings.
        squares = 1 - cosines.square()
        apart = (squares > torch.finfo(self.probes.dtype).eps ** 0.5) & independent[:, None]
        sizes = torch.where(apart, squares.abs().rsqrt(), 0).fill_diagonal_(0)
        return LeftOut(S, cosines, sizes)
