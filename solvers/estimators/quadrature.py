"""Lanczos runs from many starting vectors at once, and the Gauss quadratures that they give."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..basis import Basis
from ..tall import column_major, column_norms
from ..watched import Watched

_ROUNDING = 100.0  # roundings of the longest product below which what is new in a product is none
_DISTANCE = 1e-8  # of the largest node: how far a node may be put from where it was wanted


@attrs.frozen(eq=False)
class JacobiMatrix:
    """The tridiagonal matrix T that k steps of Lanczos make of a symmetric operator J and a unit vector q.

    Its eigenvalues are the nodes of the k-point Gauss quadrature of the spectral measure of q, Σ (qᵀuᵢ)² δ(λᵢ) over the
    eigenpairs of J; the squares of the first entries of its eigenvectors are the weights.

    Attributes:
        diagonal: (k,).
        couplings: (k,), all positive: k - 1 off the diagonal, and one more that couples T to what it lacks.
        is_closed: whether the last coupling is next to nothing, so that the quadrature is the measure itself.
    """

    diagonal: Tensor
    couplings: Tensor
    is_closed: bool

    def rule(self, order: int | None = None) -> tuple[Tensor, Tensor]:
        """Nodes and weights, (order,) each; ``order`` is k by default, or k + 1 if the next diagonal entry is zero."""
        k = len(self.diagonal)
        order = k if order is None else order
        off = self.couplings.clone()
        off[-1] = 0 if self.is_closed else off[-1]
        above = off[: order - 1].diag(1)
        nodes, vectors = torch.linalg.eigh(pad(self.diagonal, (0, order - k)).diag() + above + above.mT)
        return nodes, vectors[0].square()

    def cumulative_bounds(self, x: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
        """Certain bounds of the measure of (-∞, x) at finite points x, (p,) each.

        A quadrature of k + 1 points, x one of them, that integrates polynomials of degree up to 2 k exactly is given by
        T, the last coupling, and a last diagonal entry that makes x an eigenvalue. The measure of (-∞, x) is at least
        the sum of the weights before x, and with the weight of x at most. These are the best bounds that T implies.
        They differ by 1 / Σ pᵢ(x)², with the orthonormal polynomials of degree up to k, which is next to nothing where
        x is clear of the spectrum. Of an eigenvalue nearer to x than ``rounding`` times the largest node, or 1e-8 of
        it, they leave open on which side it is.

        Source: the inequalities of Chebyshev, Markov and Stieltjes: Szegő, Orthogonal Polynomials, section 3.41; the
        matrix: Golub (1973), Some modified matrix eigenvalue problems, section 7.

        Cost: the eigenvalues and vectors of a (k + 1, k + 1) matrix for each bound of each point.
        """
        nodes, weights = self.rule()
        distance = max(rounding, _DISTANCE) * float(nodes.abs().max())
        if self.is_closed:
            sums = pad(weights.cumsum(0), (1, 0))
            return sums[torch.searchsorted(nodes, x - distance)], sums[
                torch.searchsorted(nodes, x + distance, right=True)
            ]
        return self._through(x - distance)[0], self._through(x + distance)[1]

    def _through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the weights before x, and through x, of quadratures with a node at x, or nearer than _DISTANCE."""
        k, coupling = len(self.diagonal), self.couplings[-1]
        above = self.couplings[:-1].diag(1)
        T = self.diagonal.diag() + above + above.mT
        nodes, vectors = torch.linalg.eigh(T)
        # x is an eigenvalue if the last entry is x + coupling² eᵀ (T - x)⁻¹ e, infinite where T has the eigenvalue.
        largest = float(nodes.abs().max() + coupling) / _DISTANCE
        last = x + coupling.square() * (vectors[-1].square() / (nodes - x[:, None])).sum(1)
        extended = pad(T, (0, 1, 0, 1)).repeat(len(x), 1, 1)
        extended[:, k, k] = last.clamp(-largest, largest)
        extended[:, k, k - 1] = extended[:, k - 1, k] = coupling
        sums = pad(torch.linalg.eigh(extended).eigenvectors[:, 0].square().cumsum(1), (1, 0))
        before = torch.searchsorted(nodes, x)[:, None]  # as many as T has, as the eigenvalues of both interlace
        return sums.gather(1, before)[:, 0], sums.gather(1, before + 1)[:, 0]


def lanczos_runs(A: Watched, starts: Tensor, steps: int, symmetric: bool) -> list[JacobiMatrix]:
    """One run of Lanczos for each column of ``starts``, all in step, so that each step multiplies one block.

    For a symmetric A it is run on A. Otherwise it is the bidiagonalisation of Golub & Kahan: Lanczos on [0 A; Aᵀ 0]
    from (0, q), whose vectors lie in turn in the domain and in the range of A. Then one step is one product, with A and
    Aᵀ in turn, and the diagonal is zero.

    Every vector is orthogonalised twice against all of its own run. A run ends early if its space closes, that is, if
    what is new in a product is within a hundred roundings of the longest one.

    Args:
        A: (m, n).
        starts: (n, b), no column zero.
        steps: products for each run, at most.
        symmetric: whether to run on A, or on [0 A; Aᵀ 0].

    Raises:
        ValueError: coefficients that show that A is not symmetric, or its transpose is another.

    Source: Golub & Meurant, Matrices, Moments and Quadrature with Applications, chapters 4 and 6.

    Cost: ``steps`` products for each run; n b steps numbers, half of them of m entries if A is not symmetric; about
    4 n (b steps)² flops: coefficients in the vectors of other runs are computed and dropped, as one matrix product with
    all vectors takes about as long as reading them.
    """
    runs = _Runs(A, starts, symmetric)
    for _ in range(steps):
        if len(runs.active) == 0:
            break
        runs.step()
    return runs.matrices()


class _Runs:
    """Runs in step; those that have not closed are active."""

    def __init__(self, A: Watched, starts: Tensor, symmetric: bool) -> None:
        count = starts.shape[1]
        self.A, self.symmetric = A, symmetric
        self.products = [A._matmat] if symmetric else [A._matmat, A._rmatmat]
        self.bases = [Basis(size, A.dtype, A.device) for size in A.shape[::-1]][: len(self.products)]
        self.owners = [torch.empty(0, dtype=torch.long) for _ in self.bases]  # the run of each vector
        self.active = torch.arange(count)
        self.longest = torch.zeros(count, dtype=torch.float64)
        self.diagonals: list[list[float]] = [[] for _ in range(count)]
        self.couplings: list[list[float]] = [[] for _ in range(count)]
        self.is_closed = [False] * count
        self.block = starts / column_norms(starts).to(starts)
        self.taken = 0
        self._keep(0)

    def step(self) -> None:
        """Multiply the last vector of every active run; what is new in the product is the next."""
        product = self.products[self.taken % len(self.products)](self.block)
        self.taken += 1
        side = self.taken % len(self.bases)
        basis, own = self.bases[side], self.owners[side][:, None] == self.active
        lengths = column_norms(product)
        self.longest[self.active] = torch.maximum(self.longest[self.active], lengths)
        known = torch.zeros(own.shape, dtype=torch.float64)
        for _ in range(2):
            coefficients = torch.where(own, basis.coefficients(product), 0)
            product = product - basis.combine(coefficients)
            known += coefficients
        for column, run in enumerate(self.active.tolist()):
            self._record(run, known[own[:, column], column])
        norms = column_norms(product)
        is_open = norms > _ROUNDING * torch.finfo(self.A.dtype).eps * self.longest[self.active]
        for run, norm, kept in zip(self.active.tolist(), norms.tolist(), is_open.tolist(), strict=True):
            self.couplings[run].append(norm)
            self.is_closed[run] = not kept
        self.active = self.active[is_open]
        self.block = column_major(product[:, is_open.to(product.device)] / norms[is_open].to(product))
        self._keep(side)

    def matrices(self) -> list[JacobiMatrix]:
        """What the steps so far have made."""
        return [
            JacobiMatrix(
                torch.tensor(diagonal, dtype=torch.float64), torch.tensor(couplings, dtype=torch.float64), closed
            )
            for diagonal, couplings, closed in zip(self.diagonals, self.couplings, self.is_closed, strict=True)
        ]

    def _keep(self, side: int) -> None:
        self.bases[side].append(self.block)
        self.owners[side] = torch.cat([self.owners[side], self.active])

    def _record(self, run: int, coefficients: Tensor) -> None:
        """The next diagonal entry, from the coefficients of a product in the vectors of its run, on its side.

        Of a J that is symmetric they are zero, but for the last coupling and, for the vector multiplied, the diagonal.
        """
        self.diagonals[run].append(float(coefficients[-1]) if self.symmetric else 0.0)
        rest = coefficients[:-1].clone() if self.symmetric else coefficients.clone()
        if len(rest):
            rest[-1] -= self.couplings[run][-1]
        if float(rest.norm()) > torch.finfo(self.A.dtype).eps ** 0.5 * float(self.longest[run]):
            if self.symmetric:
                claim, bilinear, remedy = (
                    "says that it is symmetric",
                    "uᵀ A v and vᵀ A u",
                    "symmetrise it, (A + A.T) / 2",
                )
            else:
                claim, bilinear, remedy = "has a transposed product", "uᵀ A v and vᵀ Aᵀ u", "correct its transpose"
            raise ValueError(
                f"{self.A.A} {claim}, but {bilinear} of Lanczos vectors differ by "
                f"{float(rest.norm()) / float(self.longest[run]):.1e} of the longest product; {remedy}"
            )
