"""Norms of an operator, of any shape: Frobenius, spectral and nuclear."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import scipy
import torch

from ..parameters import require_integer
from ..sketches import Rademacher
from ..tall import blocks, column_norms, gram, require_scale
from ..watched import Watched
from .estimates import Bounds, Estimate, EstimateStatus, Sample, bracketed, jackknifed, warn_unless_reached
from .quadrature import JacobiMatrix, lanczos_runs
from .range_sketch import RangeSketch, Spherical
from .sampling import Sampler, Sampling, choice, operand


def frobenius_norm(
    A: Any,
    method: str = "xtrace",
    *,
    tol: float | None = None,
    max_products: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    block_size: int = 16,
    progress: bool = False,
) -> Estimate:
    """The Frobenius norm ‖A‖_F = √Σ aᵢⱼ² of an operator, from products with random vectors.

    ‖A‖_F² is estimated without bias, and its root taken. By ``method``, where k is the number of products,

    - ``"hutchinson"``: the mean of ‖A ω‖², with random signs ω. No product with Aᵀ is needed. The relative error of the
      norm is √(1/2k) for an A of rank one, and the less, the more singular values share the norm;
    - ``"xtrace"``: the mean of ‖A Q‖_F² + ‖(I - QQᵀ) Aᵀ ω‖², where Q is an orthonormal basis of the range of Aᵀ times
      all other vectors, as `trace` does: two products for each. It is exact for an A of rank below k/2.

    Standard errors are as those of `trace`; the margin of the norm is what that of its square makes of the lower end.

    Args:
        A: an (m, n) operator, or what `as_operator` makes one of, in float32 or float64.
        method: ``"xtrace"`` or ``"hutchinson"``.
        tol: stop when the margin is at most tol ‖A‖_F; None for as many samples as ``max_products`` allow.
        max_products: the most to spend; ``"xtrace"`` needs no more than 2 (min(m, n) + 1).
        confidence: the probability that the margin holds: see `trace`.
        seed: root of all random numbers.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: A in another dtype, or no operator.
        ValueError: an unknown method, a tol or confidence outside 0 … 1, a tol below rounding, max_products for fewer
            than two samples; a product with NaN or infinite entries.
        NotImplementedError: ``"xtrace"`` of an A that has no transposed product.

    Warns:
        ConvergenceWarning: ``tol`` was not reached.

    Source: Epperly, Tropp & Webber (2024), XTrace: its use of every vector, for the squared norm. Jackknife: Efron &
    Stein (1981).

    Cost: k products. Memory: none to speak of for ``"hutchinson"``; (m + n) k/2 numbers for ``"xtrace"``, and O(n k²)
    flops.
    """
    sampling = Sampling(
        tol=tol, max_products=max_products, confidence=confidence, seed=seed, block_size=block_size, progress=progress
    )
    sampler: Callable[[Watched, Sampling], Sampler] = choice("method", method, _METHODS)
    operator = operand(A, "frobenius_norm", transpose=method == "xtrace")
    return sampling.run(operator, lambda watched: sampler(watched, sampling), "frobenius_norm", then=_root)


def _root(squared: Estimate) -> Estimate:
    """The estimate of √x, of that of x >= 0."""
    value = squared.value.clamp(min=0).sqrt()
    error = torch.where(value > 0, squared.standard_error / (2 * value), 0)
    margin = value - (squared.value - squared.margin).clamp(min=0).sqrt()
    return attrs.evolve(squared, value=value, standard_error=error, margin=margin)


class _SquaredNorms(Sampler):
    """‖A ω‖², with random signs ω."""

    cost = 1

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        self.A, self.width = A, sampling.block_size
        self.probes = Rademacher(
            A.shape[1], sampling.max_products, seed=sampling.seed, purpose="norm", dtype=A.dtype, device=A.device
        )
        self.squares: list[float] = []

    def draw(self, count: int) -> Sample:
        for start, stop in blocks(len(self.squares), count, self.width):
            norms = column_norms(self.A._matmat(self.probes.columns(start, stop)))
            require_scale(float(norms.max()), (self.A.shape[0], stop - start), norms.dtype)
            self.squares += norms.square().tolist()
        samples = torch.tensor(self.squares, dtype=torch.float64)
        return bracketed(samples, samples)


class _SquaredNormsOfRange(Sampler):
    """‖A Q‖_F² of the range Q of Aᵀ times all vectors but one, + ‖(I - QQᵀ) Aᵀ ω‖² with this one."""

    cost = 2

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        m, n = A.shape
        probes = Spherical(m, sampling.max_products, seed=sampling.seed, purpose="norm", dtype=A.dtype, device=A.device)
        self.sketch = RangeSketch(probes, A._rmatmat, n, A._matmat, m, sampling.block_size)
        self.enough = min(m, n) + 1
        self.squared = torch.zeros((), dtype=torch.float64)  # ‖A Q‖_F² with all vectors

    def draw(self, count: int) -> Sample:
        self.squared = self.squared + column_norms(self.sketch.extend(count)[1]).square().sum()
        out = self.sketch.left_out()
        S, g, c = out
        K = gram(self.sketch.Z.combine(S))  # of A Q sⱼ
        k = K.diagonal()
        lost = k + c.square() * (k[:, None] - 2 * g * K + g.square() * k)
        # (I - QQᵀ) Aᵀ ωⱼ is Q times what s = sⱼ and v hold of column j of R, to which sᵢ is orthogonal.
        remainder = (S * self.sketch.R).sum(0).square() * (1 + (c * g).square())
        return jackknifed(self.squared - lost + remainder)


_METHODS = {"xtrace": _SquaredNormsOfRange, "hutchinson": _SquaredNorms}


def spectral_norm(
    A: Any,
    *,
    tol: float | None = None,
    max_products: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Bounds:
    """Bounds of the spectral norm ‖A‖₂ = σ₁ of an operator, from Lanczos bidiagonalisation of one random vector.

    The lower bound is a norm ‖A x‖ or ‖Aᵀ x‖ of a unit vector, the largest in the Krylov space: it is certain, but for
    rounding errors. For the upper bound let q be the starting vector, uniform on the unit sphere of Rⁿ, and v the
    leading right singular vector. If |qᵀv| >= τ, then after j products

        σ₁ <= lower · cosh(arcosh(1/τ) / j)    and    σ₁ <= lower + √2 β / τ,

    where β is the last coupling, next to nothing in a space that has closed. The smaller bound is given, with τ such
    that |qᵀv| is smaller with probability 1 - confidence. As this is all that may go wrong, the bounds hold together
    however many products are taken.

    Args:
        A: an (m, n) operator, or what `as_operator` makes one of, in float32 or float64.
        tol: stop when upper - lower is at most tol · lower; None to spend ``max_products``.
        max_products: the most to spend, with A and Aᵀ in turn.
        confidence: the probability that the upper bound holds.
        seed: root of all random numbers.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: A in another dtype, or no operator.
        ValueError: a tol or confidence outside 0 … 1, a tol below rounding; a product with NaN or infinite entries; a
            transpose that is not that of A.
        NotImplementedError: an A that has no transposed product.

    Warns:
        ConvergenceWarning: ``tol`` was not reached.

    Source: Kuczyński & Woźniakowski (1992), SIAM J. Matrix Anal. Appl. 13: Chebyshev polynomials in their proof for
    Lanczos, with the exact distribution of qᵀv; for the second bound the residual of v projected on the Krylov space.

    Cost: for a relative distance ε about ln(2/τ) / √(2 ε) products, with τ about 0.06 / √n at a confidence of 0.95;
    (m + n) / 2 numbers for each.
    """
    sampling = Sampling(tol=tol, max_products=max_products, confidence=confidence, seed=seed, progress=progress)
    operator = operand(A, "spectral_norm", transpose=True)
    sampling.require_attainable(operator)
    n = operator.shape[1]
    least = math.sqrt(scipy.special.betaincinv(0.5, (n - 1) / 2, 1 - confidence)) if n > 1 else 1.0
    growth = math.acosh(1 / least)
    needed = max_products if tol is None else max(1, math.ceil(growth / math.acosh(1 + tol)))
    start = Spherical(n, 1, seed=seed, purpose="spectral norm", dtype=operator.dtype, device=operator.device)
    with sampling.watching(operator, "spectral_norm") as watched:
        (run,) = lanczos_runs(watched, start.columns(0, 1), min(needed, max_products), symmetric=False)
    taken = len(run.couplings)
    lower = float(run.rule(taken + 1)[0].abs().max())
    rounding = 10 * torch.finfo(operator.dtype).eps * float(run.couplings.max())
    coupling = max(float(run.couplings[-1]), rounding)
    upper = min(lower * math.cosh(growth / taken), lower + math.sqrt(2) * coupling / least)
    status = EstimateStatus.SAMPLED
    if tol is not None:
        reached = upper - lower <= tol * lower
        status = EstimateStatus.REACHED if reached else EstimateStatus.OUT_OF_PRODUCTS
    bounds = Bounds(lower=lower, upper=upper, confidence=confidence, products=watched.products, status=status)
    warn_unless_reached(bounds, stacklevel=2)
    return bounds


def nuclear_norm(
    A: Any,
    *,
    tol: float | None = None,
    max_products: int = 500,
    steps: int = 25,
    confidence: float = 0.95,
    seed: int = 0,
    block_size: int = 16,
    progress: bool = False,
) -> Estimate:
    """The nuclear norm ‖A‖_* = Σ σᵢ = tr √(AᵀA) of an operator, by stochastic Lanczos quadrature.

    For each of several random vectors q, uniform on the unit sphere, Lanczos bidiagonalisation gives two quadratures of
    n qᵀ √(AᵀA) q: as all even derivatives of the root are negative and all odd ones positive, Gauss's is too large, and
    that of Gauss & Radau with a node at zero too small. The value is half way between their means; the bias is half
    their distance, a certain bound of the error of quadrature. More steps reduce it, the slower, the more of the
    spectrum is near zero; more vectors reduce the standard error. AᵀA is never formed, so small σᵢ are not lost.

    For a positive semidefinite A it is the trace, and `trace` is far better.

    Args:
        A: an (m, n) operator, or what `as_operator` makes one of, in float32 or float64.
        tol: stop when the margin, with the bias in it, is at most tol ‖A‖_*; None for as many vectors as
            ``max_products`` allow.
        max_products: the most to spend; ``steps`` for each vector.
        steps: products with each vector, of A and Aᵀ in turn, at least 2.
        confidence: the probability that the margin holds: see `trace`.
        seed: root of all random numbers.
        block_size: vectors that advance together, in one block for each step; it does not change the result beyond
            rounding.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: A in another dtype, or no operator; steps that are no integer.
        ValueError: fewer than 2 steps, a tol or confidence outside 0 … 1, a tol below rounding, max_products for fewer
            than two vectors; a product with NaN or infinite entries; a transpose that is not that of A.
        NotImplementedError: an A that has no transposed product.

    Warns:
        ConvergenceWarning: ``tol`` was not reached.

    Source: Ubaru, Chen & Saad (2017), SIAM J. Matrix Anal. Appl. 38; the two bounds: Golub & Meurant, Matrices, Moments
    and Quadrature with Applications, chapter 6.

    Cost: ``steps`` products for each vector, (m + n) / 2 numbers for each product of a block.
    """
    require_integer("steps", steps, least=2)
    sampling = Sampling(
        tol=tol, max_products=max_products, confidence=confidence, seed=seed, block_size=block_size, progress=progress
    )
    operator = operand(A, "nuclear_norm", transpose=True)
    return sampling.run(operator, lambda watched: _Roots(watched, sampling, steps), "nuclear_norm")


class _Roots(Sampler):
    """Bounds of n qᵀ √(AᵀA) q, with q uniform on the unit sphere."""

    def __init__(self, A: Watched, sampling: Sampling, steps: int) -> None:
        self.A, self.width, self.cost = A, sampling.block_size, steps
        most = sampling.max_products // steps
        self.probes = Spherical(
            A.shape[1], most, seed=sampling.seed, purpose="nuclear norm", dtype=A.dtype, device=A.device
        )
        self.bounds: list[tuple[float, float]] = []

    def draw(self, count: int) -> Sample:
        for start, stop in blocks(len(self.bounds), count, self.width):
            runs = lanczos_runs(self.A, self.probes.columns(start, stop), self.cost, symmetric=False)
            self.bounds += [self._bounds(run) for run in runs]
        lower, upper = torch.tensor(self.bounds, dtype=torch.float64).mT
        return bracketed(self.A.shape[1] * lower, self.A.shape[1] * upper)

    @staticmethod
    def _bounds(run: JacobiMatrix) -> tuple[float, float]:
        """The integrals of |x| by rules of an odd order, which has a node at zero, and of an even one."""
        taken = len(run.couplings)
        rules = [run.rule(order) for order in (taken, taken + 1)]
        values = [float((nodes.abs() * weights).sum()) for nodes, weights in rules]
        return (values[0], values[1]) if taken % 2 else (values[1], values[0])
