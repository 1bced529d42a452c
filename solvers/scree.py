"""How far a result is from its operator, in the Frobenius norm, as the products of a few random vectors tell."""

from __future__ import annotations

from typing import Any

import attrs
import scipy
import torch
from torch import Tensor

from .probe import Factors, Probe, Result, probe


@attrs.frozen(eq=False, repr=False)
class Scree:
    """The error ‖A - Â‖_F of a result Â of rank k, and what it tells of the tail of the spectrum behind every rank.

    Attributes:
        error: estimate of ‖A - Â‖_F; its square is unbiased.
        interval: holds ‖A - Â‖_F with probability ``confidence``.
        confidence: of the interval, and at least that of the curves: all of them hold at once.
        lower: (k + 1,) float64; no approximation of A of rank r = 0 … k has a smaller relative error in the Frobenius
            norm, ‖A - B‖_F / ‖A‖_F.
        upper: (k + 1,); that of ``result.leading(r)``, hence of the best of rank r, is not larger. Infinite where ‖Â‖_F
            is within the error.
    """

    error: float
    interval: tuple[float, float]
    confidence: float
    lower: Tensor
    upper: Tensor

    def suggested_rank(self, tolerance: float) -> int | None:
        """The smallest r for which ``leading(r)`` has a relative error of at most ``tolerance``, by the upper curve.

        None if that is not shown of any r <= k: where ``lower[k]`` exceeds the tolerance no rank up to k will do, and
        more pairs are needed; else more test vectors may show it.

        Args:
            tolerance: relative, in the Frobenius norm.

        Raises:
            ValueError: a tolerance that is not between 0 and 1.

        Cost: none.
        """
        if not 0 < tolerance < 1:
            raise ValueError(f"a tolerance is a number between 0 and 1, relative to ‖A‖_F; got {tolerance!r}")
        enough = torch.nonzero(self.upper <= tolerance)
        return int(enough[0]) if len(enough) > 0 else None

    def __repr__(self) -> str:
        (low, high), least, most = self.interval, float(self.lower[-1]), float(self.upper[-1])
        return (
            f"<Scree of {len(self.lower) - 1} ranks: ‖A - Â‖_F = {self.error:.3g}, {low:.3g} … {high:.3g} with "
            f"probability {self.confidence:g}; relative error {least:.2g} … {most:.2g}>"
        )


def scree(result: Result, A: Any, *, test_vectors: int = 10, confidence: float = 0.99, seed: int = 0) -> Scree:
    """The error ‖A - Â‖_F of a result, estimated from random vectors, and bounds of the tail of the spectrum of A.

    With s independent normal vectors Ω the estimate is ‖(A - Â) Ω‖_F / √s. Its square is a mean of ‖A - Â‖²_F times
    Σ wₗ χ²_s / s, with weights of sum one that depend on the unknown spectrum of A - Â. The interval is the one of the
    worst weights: with quantiles of χ²_s, those of rank one.

    By a distance of e from Â (Mirsky) the tail of the spectrum of A behind rank r is that of Â up to e, as is ‖A‖_F.
    Curves of the upper limit e of the interval follow, relative to ‖A‖_F.

    No residual norms are used. The test vectors are independent of all random numbers of a solver, of the same seed
    too.

    *Why rank one.* Let Q = Σ wₗ Gₗ, with Gₗ independent χ²_s / s. Moving weight from wⱼ to the largest, wᵢ, changes
    P(Q <= x) at the rate (wᵢ - wⱼ) 2 h'(x) / s, for the density h of Q + 2 (wᵢ E + wⱼ E') / s, E and E' exponential.
    This h has one mode, between its mean less its largest scale, which is at least 1, and its mean, at most 1 + 2 / s.
    So P(Q <= x) is largest for rank one if x <= 1, and smallest if x >= 1 + 2 / s.

    Args:
        result: eigenpairs or singular triplets.
        A: the operator they are of, or what `as_operator` makes one of.
        test_vectors: s, products of one block.
        confidence: the probability of the interval.
        seed: of the test vectors.

    Raises:
        TypeError: another kind of result; A in another dtype or on another device.
        ValueError: an A of another shape; s < 1; a confidence not between 0 and 1; products with NaN or infinite
            entries.

    Source: Martinsson & Tropp (2020), Randomized numerical linear algebra, section 12; Tropp, Yurtsever, Udell & Cevher
    (2019), section 6. Tails of sums of gamma variables: Roosta-Khorasani & Székely (2015), Metrika 78.

    Cost: s products in one block, 8 n k s flops and 5 n s numbers.
    """
    require_confidence(confidence)
    factors = Factors.of(result)
    return scree_of(factors, probe(factors, A, test_vectors, seed), confidence)


def scree_of(factors: Factors, seen: Probe, confidence: float) -> Scree:
    """The scree plot that the products with test vectors show."""
    s = len(seen.errors)
    error, unit = (float(norms.norm()) / s**0.5 for norms in (seen.errors, seen.roundings))
    # Quantiles of χ²_s / s, each missed with half of the doubt, where rank one is the worst case.
    least = 2 * scipy.special.gammaincinv(s / 2, (1 - confidence) / 2) / s
    most = max(2 * scipy.special.gammaincinv(s / 2, (1 + confidence) / 2), s + 2) / s
    low, high = max(0.0, error / most**0.5 - unit), error / least**0.5 + unit
    sizes = factors.values.abs()
    best, own = _tails(sizes.sort(descending=True).values), _tails(sizes)
    norm = float(own[0])
    return Scree(
        error=error,
        interval=(low, high),
        confidence=confidence,
        lower=_quotient((best - high).clamp(min=0), norm + high),
        upper=_quotient(own + high, max(0.0, norm - high)),
    )


def require_confidence(confidence: float) -> None:
    """A confidence must lie between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a probability between 0 and 1, got {confidence!r}")


def _tails(sizes: Tensor) -> Tensor:
    """Euclidean norms of what stands behind the first r = 0 … k of (k,) numbers, (k + 1,)."""
    scale = float(sizes.max()) if len(sizes) else 0.0
    if scale == 0:
        return torch.zeros(len(sizes) + 1, dtype=torch.float64)
    squares = torch.cat([(sizes / scale).square().flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    return scale * squares.sqrt()


def _quotient(numerators: Tensor, denominator: float) -> Tensor:
    """Quotients, with 0 / 0 = 0."""
    return torch.where(numerators > 0, numerators / denominator, 0.0)
