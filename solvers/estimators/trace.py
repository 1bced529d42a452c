"""The trace of a square operator: Hutchinson's estimator, Hutch++ and XTrace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from ..sketches import Rademacher, Sketch
from ..tall import blocks, column_norms
from ..watched import Watched
from .estimates import Estimate, Sample, bracketed, jackknifed
from .range_sketch import RangeSketch, Spherical, column_dots
from .sampling import Sampler, Sampling, choice, operand


def trace(
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
    """The trace tr A = Σ aᵢᵢ of a square operator, symmetric or not, without bias, from products with random vectors.

    By ``method``, where ‖·‖ is the Frobenius norm and k the number of products,

    - ``"hutchinson"``: the mean of ωᵀ A ω over vectors ω of random signs. The variance of one is
      2 (‖A‖² - Σ aᵢᵢ²) for a symmetric A, so the error falls like ‖A‖ / √k;
    - ``"hutch++"``: tr QᵀAQ for an orthonormal basis Q of the range of A times k/3 random vectors, and by Hutchinson
      the trace of what Q leaves, (I - QQᵀ) A (I - QQᵀ). The error falls like ‖A‖_* / k, faster if A decays;
    - ``"xtrace"``: the mean of as many such estimates as there are random vectors, each with one vector for the
      remainder and all others for Q: two products for each. It is more accurate than Hutch++.

    The last two are exact for an A of rank below the number of vectors, and for a multiple of the identity. Their
    vectors are uniform on spheres: of Rⁿ for Q, of the orthogonal complement of Q for the remainder.

    The standard error is that of the mean for ``"hutchinson"`` and ``"hutch++"``, whose samples are independent for a
    given Q. For ``"xtrace"`` it is the jackknife's, which in expectation is no less than the true one, and about twice
    as large; that of the mean, as published, is too small where the samples depend on one another, several times so
    where the number of vectors is near to the rank.

    The margin is the standard error times a quantile of Student's t. Its degrees of freedom are one less than the
    samples for the jackknife. For independent samples they are as few as if A, or its remainder, were of rank one,
    whose samples are the most skewed; where many eigenvalues have a share, the margin is wider than it need be. Random
    signs may happen to agree on an A that couples few coordinates only: fewer than 20 samples of them tell little.

    Args:
        A: an (n, n) operator, or what `as_operator` makes one of, in float32 or float64.
        method: ``"xtrace"``, ``"hutch++"`` or ``"hutchinson"``.
        tol: stop when the margin is at most tol |tr A|; None for as many samples as ``max_products`` allow. A trace of
            next to zero does not reach it.
        max_products: the most to spend; ``"xtrace"`` needs no more than 2 (n + 1).
        confidence: the probability that the margin holds, whenever it stops: see `Estimate`. With ``tol`` the samples
            are looked at J times at most, fixed beforehand, each time half as many again, with a margin that fails with
            probability (1 - confidence) / J.
        seed: root of all random numbers.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: A in another dtype, or no operator.
        ValueError: an A that is not square, an unknown method, a tol or confidence outside 0 … 1, a tol below rounding,
            max_products for fewer than two samples; a product with NaN or infinite entries.

    Warns:
        ConvergenceWarning: ``tol`` was not reached.

    Source: Hutchinson (1990); Meyer, Musco, Musco & Woodruff (2021), Hutch++; Epperly, Tropp & Webber (2024), XTrace.
    Jackknife: Efron & Stein (1981); Epperly & Tropp (2024).

    Cost: k products. Memory: none to speak of for ``"hutchinson"``; n k numbers for the others, and O(n k²) flops.
    """
    sampling = Sampling(
        tol=tol, max_products=max_products, confidence=confidence, seed=seed, block_size=block_size, progress=progress
    )
    sampler: Callable[[Watched, Sampling], Sampler] = choice("method", method, _METHODS)
    operator = operand(A, "trace", square=True)
    return sampling.run(operator, lambda watched: sampler(watched, sampling), "trace")


class _Hutchinson(Sampler):
    """ωᵀ A ω, with random signs ω."""

    cost = 1

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        self.A, self.width = A, sampling.block_size
        self.probes = Rademacher(
            A.shape[0], sampling.max_products, seed=sampling.seed, purpose="trace", dtype=A.dtype, device=A.device
        )
        self.forms: list[float] = []
        self.longest = 0.0

    def draw(self, count: int) -> Sample:
        for start, stop in blocks(len(self.forms), count, self.width):
            omega = self.probes.columns(start, stop)
            product = self.A._matmat(omega)
            self.longest = max([self.longest, *column_norms(product).tolist()])
            self.forms += column_dots(omega, product).tolist()
        samples = torch.tensor(self.forms, dtype=torch.float64)
        return _rounded(bracketed(samples, samples), self.longest)


class _Compression:
    """Q of the range of A Ω, Z = A Q, and H = Qᵀ A Q, which grow together.

    Attributes:
        H: (r, r), small.
    """

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        n, self.width = A.shape[0], sampling.block_size
        self.probes = Spherical(
            n, sampling.max_products, seed=sampling.seed, purpose="trace range", dtype=A.dtype, device=A.device
        )
        self.sketch = RangeSketch(self.probes, A._matmat, n, A._matmat, n, self.width)
        self.H = torch.zeros(0, 0, dtype=torch.float64)

    def extend(self, count: int) -> None:
        """Take the columns of Ω up to that number."""
        old = len(self.H)
        basis, image = self.sketch.extend(count)
        right = self.sketch.Q.coefficients(image)[:old]
        below = self.sketch.Z.coefficients(basis).mT
        self.H = torch.cat([torch.cat([self.H, right], 1), below])

    def coefficients(self, probes: Sketch, count: int) -> tuple[Tensor, Tensor]:
        """Qᵀ G and Zᵀ G of the first ``count`` columns G of probes."""
        Q, Z = self.sketch.Q, self.sketch.Z
        parts = []
        for start, stop in blocks(0, count, self.width):
            block = probes.columns(start, stop)
            parts.append(torch.cat([Q.coefficients(block), Z.coefficients(block)]))
        both = torch.cat(parts, 1)
        return both[: Q.size], both[Q.size :]


class _HutchPlusPlus(Sampler):
    """Tr H + a form of the remainder, with as many vectors for H as for the remainder."""

    cost = 3

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        self.A, self.width = A, sampling.block_size
        self.compression = _Compression(A, sampling)
        self.probes = Spherical(
            A.shape[0], sampling.max_products, seed=sampling.seed, purpose="trace", dtype=A.dtype, device=A.device
        )
        self.enough = A.shape[0] + 1
        self.products: list[Tensor] = []
        self.forms: list[float] = []

    def draw(self, count: int) -> Sample:
        self.compression.extend(count)
        for start, stop in blocks(len(self.forms), count, self.width):
            block = self.probes.columns(start, stop)
            self.products.append(self.A._matmat(block))
            self.forms += column_dots(block, self.products[-1]).tolist()
        H, n = self.compression.H, self.A.shape[0]
        W, T = self.compression.coefficients(self.probes, count)
        C = torch.cat([self.compression.sketch.Q.coefficients(product) for product in self.products], 1)
        # gᵀ (I - QQᵀ) A (I - QQᵀ) g, with W = Qᵀ G, C = Qᵀ A G and T = Zᵀ G, and g made as long as its expectation.
        forms = torch.tensor(self.forms, dtype=torch.float64) - (W * (C + T - H @ W)).sum(0)
        lengths = n - W.square().sum(0)
        forms *= (n - len(H)) / lengths if len(H) < n else 0.0
        samples = H.trace() + forms
        return _rounded(bracketed(samples, samples), self.compression.sketch.longest)


class _XTrace(Sampler):
    """Tr H of the range of all vectors but one, + a form of the remainder with this one."""

    cost = 2

    def __init__(self, A: Watched, sampling: Sampling) -> None:
        self.compression = _Compression(A, sampling)
        self.enough = A.shape[0] + 1

    def draw(self, count: int) -> Sample:
        self.compression.extend(count)
        sketch, H, n = self.compression.sketch, self.compression.H, self.compression.probes.shape[0]
        W, T = self.compression.coefficients(self.compression.probes, count)
        out = sketch.left_out()
        S, g, c = out
        # Entries (i, j): without the vectors i and j the range is that of Q less the span of s = sⱼ and v.
        K = S.mT @ (H + H.mT) @ S / 2
        k, sHv = K.diagonal(), out.beside(K)
        vHv = c.square() * (k[:, None] - 2 * g * K + g.square() * k)
        D = S.mT @ W
        d, e = D.diagonal(), out.beside(D)
        # With p = s sᵀw + v vᵀw the remainder of ω is u = ω - Q (w - p), and A ω = Q R.
        B = S.mT @ (sketch.R + T - (H + H.mT) @ W)
        constant = (W * (H @ W - T)).sum(0)
        forms = constant + d * B.diagonal() + e * out.beside(B) + d.square() * k + 2 * d * e * sHv + e.square() * vHv
        lengths = n - W.square().sum(0) + d.square() + e.square()
        dims = n - len(H) + (S != 0).any(0).to(H) + (c != 0).to(H)
        forms = torch.where(dims > 0, dims / lengths * forms, 0)
        return _rounded(jackknifed(H.trace() - k - vHv + forms), sketch.longest)


def _rounded(sample: Sample, longest: float) -> Sample:
    """A sample that carries the roundings of inner products with products of that length as well."""
    return attrs.evolve(sample, size=sample.value.abs() + longest)


_METHODS = {"xtrace": _XTrace, "hutch++": _HutchPlusPlus, "hutchinson": _Hutchinson}
