"""The diagonal of a square operator: Hutchinson's estimator and XDiag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..sketches import Rademacher
from ..tall import blocks, column_norms, require_scale
from ..watched import Watched
from .estimates import Estimate, Sample, freedom_of_mean
from .range_sketch import RangeSketch
from .sampling import Sampler, Sampling, choice, operand

_ROWS = 1 << 16  # rows at a time: bounds the float64 copies
_SPARE = 20  # vectors of random signs beyond n that span Rⁿ but for about one time in a million


def diagonal(
    A: Any,
    method: str = "xdiag",
    *,
    tol: float | None = None,
    max_products: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    block_size: int = 16,
    progress: bool = False,
) -> Estimate:
    """The diagonal (a₁₁, …, aₙₙ) of a square operator, symmetric or not, without bias, with entrywise standard errors.

    By ``method``, where k is the number of products and ω has random signs,

    - ``"hutchinson"``: the mean of ω ⊙ A ω. The variance of an entry is Σ aᵢⱼ² over j != i, divided by k;
    - ``"xdiag"``: the mean of diag(QQᵀA) + ω ⊙ (I - QQᵀ) A ω, where Q is an orthonormal basis of the range of A times
      all other vectors: two products for each, one of them with Aᵀ. It is exact for an A of rank below k/2, and better
      where the spectrum decays. For an A near to a diagonal matrix Hutchinson is better: it is exact for one.

    Standard errors are those of the mean for ``"hutchinson"``. For ``"xdiag"`` they are the jackknife's, which in
    expectation are no less than the true ones, up to twice as large; those of the mean would be too small. Random signs
    may happen to agree on an A that is next to diagonal: there fewer than 10 samples, 20 products, of ``"xdiag"`` tell
    little, and margins are too small.

    Args:
        A: an (n, n) operator, or what `as_operator` makes one of, in float32 or float64.
        method: ``"xdiag"`` or ``"hutchinson"``.
        tol: stop when the norm of the margin is at most tol times the norm of the diagonal; None for as many samples as
            ``max_products`` allow.
        max_products: the most to spend; ``"xdiag"`` needs no more than 2 n + 20.
        confidence: the probability that the margin of an entry holds: see `trace`. If it is above 0.8, it is also the
            probability that the norm of the error is within that of the margin.
        seed: root of all random numbers.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: A in another dtype, or no operator.
        ValueError: an A that is not square, an unknown method, a tol or confidence outside 0 … 1, a tol below rounding,
            max_products for fewer than two samples; a product with NaN or infinite entries.
        NotImplementedError: ``"xdiag"`` of an A that has no transposed product.

    Warns:
        ConvergenceWarning: ``tol`` was not reached.

    Source: Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a matrix; Epperly, Tropp & Webber (2024),
    XDiag. That the quantile of one number serves for the norm: Székely & Bakirov (2003), Probab. Theory Relat. Fields
    126, of Gaussian quadratic forms.

    Cost: k products. A few n numbers for ``"hutchinson"``; about 2.5 n k, and O(n k²) flops, for ``"xdiag"``.
    """
    sampling = Sampling(
        tol=tol, max_products=max_products, confidence=confidence, seed=seed, block_size=block_size, progress=progress
    )
    sampler: Callable[[Watched, Sampling], Sampler] = choice("method", method, _METHODS)
    operator = operand(A, "diagonal", square=True, transpose=method == "xdiag")
    return sampling.run(operator, lambda watched: sampler(watched, sampling), "diagonal")


def _probes(A: Watched, sampling: Sampling) -> Rademacher:
    return Rademacher(
        A.shape[0], sampling.max_products, seed=sampling.seed, purpose="diagonal", dtype=A.dtype, device=A.device
    )


class _Hutchinson(Sampler):
    """ω ⊙ A ω, with random signs ω."""

    cost = 1

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        self.A, self.width, self.probes = A, sampling.block_size, _probes(A, sampling)
        self.count, self.longest = 0, 0.0
        self.mean, self.squares = torch.zeros(2, A.shape[0], dtype=torch.float64, device=A.device)

    def draw(self, count: int) -> Sample:
        for start, stop in blocks(self.count, count, self.width):
            omega = self.probes.columns(start, stop)
            product = self.A._matmat(omega)
            self.longest = max([self.longest, *column_norms(product).tolist()])
            require_scale(self.longest, tuple(product.shape), torch.float64)  # of the squares below
            for sample in (omega * product).mT.double():  # Welford's update: squares of the mean do not cancel
                self.count += 1
                difference = sample - self.mean
                self.mean += difference / self.count
                self.squares += difference * (sample - self.mean)
        error = (self.squares / (count * (count - 1))).sqrt()
        return _sample(self.mean, error, freedom_of_mean(count), self.longest, self.A)


class _XDiag(Sampler):
    """diag(QQᵀA) of the range Q of all vectors but one, + ω ⊙ (I - QQᵀ) A ω with this one."""

    cost = 2

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        n = A.shape[0]
        self.A, self.enough = A, n + _SPARE
        self.sketch = RangeSketch(_probes(A, sampling), A._matmat, n, A._rmatmat, n, sampling.block_size)
        self.diagonal = torch.zeros(n, dtype=torch.float64, device=A.device)  # of QQᵀA, with all vectors

    def draw(self, count: int) -> Sample:
        for basis, image in zip(*(block.mT for block in self.sketch.extend(count)), strict=True):
            self.diagonal += basis.double() * image.double()
        S, g, c = self.sketch.left_out()
        own = (S * self.sketch.R).sum(0)  # (I - QQᵀ) A ωⱼ = Q sⱼ sⱼᵀ rⱼ without vector j
        weights = (1 + (c * g).square()).fill_diagonal_(0)
        crossed, removed = c.square() * g, c.square().sum(1)
        own, weights, crossed, removed = (small.to(self.A.device) for small in (own, weights, crossed, removed))
        lost, lost_image = self.sketch.Q.combine(S), self.sketch.Z.combine(S)
        omega = self.sketch.probes.columns(0, count)
        mean, error = torch.empty_like(self.diagonal), torch.empty_like(self.diagonal)
        for start, stop in blocks(0, len(mean), _ROWS):
            Q, Z, signs = (block[start:stop].double() for block in (lost, lost_image, omega))
            # The estimates are diag(QQᵀA) + changes; replicates are means of those without one more vector.
            remainder = signs * own - Z
            changes = Q * remainder
            replicates = changes @ weights.mT + Z * (Q @ crossed.mT) - Q * (remainder @ crossed.mT + Z * removed)
            replicates /= count - 1
            mean[start:stop] = self.diagonal[start:stop] + changes.mean(1)
            error[start:stop] = (replicates - replicates.mean(1, keepdim=True)).norm(dim=1)
        return _sample(mean, error, count - 1, self.sketch.longest, self.A)


def _sample(mean: Tensor, error: Tensor, freedom: float, longest: float, A: Watched) -> Sample:
    """Entries carry the roundings of themselves and of the entries of products, of norm up to ``longest``."""
    size = mean.abs() + longest / A.shape[0] ** 0.5
    value, error, size = (entries.to(A.dtype) for entries in (mean, error, size))
    return Sample(value=value, standard_error=error, freedom=freedom, size=size, bias=torch.zeros_like(value))


_METHODS = {"xdiag": _XDiag, "hutchinson": _Hutchinson}
