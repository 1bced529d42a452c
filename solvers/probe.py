"""What the products of a few random vectors show of an operator beside a result that is to stand for it."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import attrs
import numpy
import scipy
import torch
from torch import Tensor

from ..linops import as_operator
from ..linops.basic import is_integer, require_count
from ..linops.tall_matrix import TallMatrix
from .results import EigenDecomposition, SingularValueDecomposition
from .sketches import Gaussian
from .tall import column_norms, combine, gram

Result: TypeAlias = EigenDecomposition | SingularValueDecomposition

ROUNDINGS = 10  # of the length of a product, in its dtype: the error that it may carry; also the least tol of solvers
_CELLS = 2000  # of a numerical integral, whose error then is a percent


@attrs.frozen(eq=False)
class Factors:
    """Â = L diag(values) Rᵀ: (k,) values in float64 on the CPU, orthonormal L, (m, k), and R, (n, k)."""

    values: Tensor
    left: Tensor | TallMatrix
    right: Tensor | TallMatrix

    @classmethod
    def of(cls, result: Result) -> Factors:
        """The factors of a result."""
        if isinstance(result, EigenDecomposition):
            return cls(result.eigenvalues.double().cpu(), result._eigenvectors, result._eigenvectors)
        if isinstance(result, SingularValueDecomposition):
            return cls(result.singular_values.double().cpu(), result.left_vectors, result.right_vectors)
        raise TypeError(f"expected an EigenDecomposition or SingularValueDecomposition, got {type(result).__name__}")


@attrs.frozen(eq=False)
class Probe:
    """What s independent normal vectors ω show of A beside Â = L diag(values) Rᵀ, in small tensors of float64.

    Attributes:
        lengths: ‖ω‖, (s,).
        images: ‖A ω‖, (s,).
        errors: ‖(A - Â) ω‖, (s,).
        outside: (Z Ω)ᵀ (Z Ω), (s, s), for the part Z = (I - L Lᵀ) A outside the range of L.
        residuals: Lᵀ A ω - diag(values) Rᵀ ω, (k, s): products of ω and the residuals Aᵀ lᵢ - valueᵢ rᵢ.
        roundings: the errors that A ω may carry, (s,).
    """

    lengths: Tensor
    images: Tensor
    errors: Tensor
    outside: Tensor
    residuals: Tensor
    roundings: Tensor

    def norm_outside(self, confidence: float) -> float:
        """A bound of ‖Z‖₂, Z = (I - L Lᵀ) A, that holds with probability ``confidence``: the smaller of two.

        With the leading right singular vector u of Z, ‖Z ω‖ is at least ‖Z‖ |uᵀω|: so max ‖Z ω‖ is not less than ‖Z‖ t
        but with a probability of (2 Φ(t) - 1)ˢ. This bound is of the size of the Frobenius norm of Z.

        For halves Ω = [Ω₁ Ω₂] of the vectors ‖Ω₁ᵀ ZᵀZ Ω₂‖₂ is at least ‖Ω₁ᵀ ZᵀZ Ω₂ c‖ for the unit vector c along
        Ω₂ᵀu. Given Ω₂ this is ‖ZᵀZ Ω₂ c‖ χ, where χ has as many degrees of freedom as Ω₁ columns, and ‖ZᵀZ Ω₂ c‖ is at
        least ‖Z‖² ‖Ω₂ᵀu‖: so it is not less than ‖Z‖² q but with the probability that a product of two independent χ
        is below q. This bound is of the size of the Schatten 4-norm, (Σ σ⁴)^¼: far smaller for a slow decay.

        Source: Halko, Martinsson & Tropp (2011), lemma 4.1, for the first, here with the exact quantile.
        """
        s = len(self.images)
        norms = self.outside.diagonal().clamp(min=0).sqrt()
        longest = norms + self.roundings
        doubt = (1 - confidence) / (1 if s == 1 else 2)
        first = float(longest.max()) / float(scipy.special.ndtri((1 + doubt ** (1 / s)) / 2))
        if s == 1:
            return first
        half = s // 2
        rounding = torch.outer(longest, longest) - torch.outer(norms, norms)
        block, error = self.outside[:half, half:], rounding[:half, half:]
        size = float(torch.linalg.matrix_norm(block, 2)) + float(error.norm())
        return min(first, math.sqrt(size / _product_quantile(half, s - half, doubt)))


@torch.no_grad()
def probe(factors: Factors, A: Any, test_vectors: int, seed: int) -> Probe:
    """Multiply A by one block of test vectors."""
    require_count("test_vectors is", test_vectors)
    if not is_integer(seed, 0):
        raise ValueError(f"seed is a non-negative integer, got {seed!r}")
    operator = as_operator(A)
    L, R = factors.left, factors.right
    m, n = L.shape[0], R.shape[0]
    if operator.shape != (m, n):
        raise ValueError(f"a result of a {m}x{n} operator cannot be certified by {operator}")
    if (operator.dtype, operator.device) != (L.dtype, L.device):
        raise TypeError(
            f"a result in {L.dtype} on {L.device} is certified by an operator of that dtype and device, got {operator}"
        )
    sketch = Gaussian(n, test_vectors, seed=seed, purpose="certificate", dtype=R.dtype, device=R.device)
    omega = sketch.columns(0, test_vectors)
    image = operator @ omega
    if not bool(image.isfinite().all()):
        raise ValueError(
            f"{operator} gave NaN or infinite entries; look at the parameters, the data and the loss there"
        )
    inside, scaled = gram(L, image), factors.values[:, None] * gram(R, omega)
    combined = combine(L, torch.cat([scaled, inside], dim=1))  # at once, as L may be read from a disk
    return Probe(
        lengths=column_norms(omega),
        images=column_norms(image),
        errors=column_norms(image - combined[:, :test_vectors]),
        outside=gram(image - combined[:, test_vectors:]),
        residuals=inside - scaled,
        roundings=ROUNDINGS * torch.finfo(R.dtype).eps * column_norms(image),
    )


@functools.cache
def _product_quantile(i: int, j: int, probability: float) -> float:
    """The q that a product of independent χᵢ and χⱼ is below with this probability, or a little less."""
    # The probability is an integral over that of χᵢ of a falling function; this is an upper sum.
    grid = numpy.geomspace(probability / 100, 1, _CELLS + 1)
    squares = 2 * scipy.special.gammaincinv(i / 2, grid[:-1])

    def excess(q: float) -> float:
        return float(grid[0] + numpy.diff(grid) @ scipy.special.gammainc(j / 2, q**2 / squares / 2)) - probability

    return float(scipy.optimize.brentq(excess, 0.0, 4.0 * (i * j) ** 0.5))
