"""The spectral density of a symmetric operator by stochastic Lanczos quadrature, and counts of eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...linops.basic import is_integer
from ..parameters import require_integer
from ..tall import blocks
from ..watched import Watched
from .estimates import Estimate, EstimateStatus, Sample, bracketed
from .quadrature import JacobiMatrix, lanczos_runs
from .range_sketch import Spherical
from .sampling import Sampler, Sampling, operand

_ROUNDING = 100.0  # roundings of the largest |λ| within which an eigenvalue is on either side of a point


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SpectralDensity:
    """The spectral measure μ = (1/n) Σ δ(λᵢ) of a symmetric operator, as Gauss quadratures of random vectors tell it.

    A vector q uniform on the unit sphere has the spectral measure Σ (qᵀuᵢ)² δ(λᵢ), whose expectation is μ. Each row of
    nodes and weights is the Gauss quadrature of such a measure: it integrates polynomials of degree below 2 steps
    exactly. So every number here has a sampling error, told by its standard error, which falls like 1 / √vectors (and
    like 1 / √n), and an error of quadrature, told by its ``bias`` where there is a bound, which falls with the steps.

    Attributes:
        nodes: (vectors, steps), ascending in each row.
        weights: (vectors, steps), each row of sum 1; 0 beyond the nodes of a row that is shorter.
        matrices: one for each vector; nodes and weights are those of their rules.
        n: the number of eigenvalues.
        eps: the rounding unit of the operator's dtype.
        confidence: the probability that the margin of a number holds.
        products: columns multiplied by the operator.
    """

    nodes: Tensor
    weights: Tensor
    matrices: tuple[JacobiMatrix, ...]
    n: int
    eps: float
    confidence: float
    products: int

    @property
    def is_exact(self) -> bool:
        """Whether each row is the measure of its vector itself, to rounding, and no quadrature of it."""
        return all(matrix.is_closed for matrix in self.matrices)

    def integral(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """∫ f dμ = (1/n) tr f(A), of a function that maps a tensor of numbers to one of the same shape.

        The bias is 0 if `is_exact`, else NaN: it depends on f, and is small for a smooth one.

        Raises:
            TypeError: values that are no tensor.
            ValueError: values of another shape, or not finite ones.

        Cost: f at all nodes.
        """
        return self._integral(f, exact_degree=False)

    def moment(self, p: int) -> Estimate:
        """∫ xᵖ dμ = (1/n) tr Aᵖ, p >= 0; without bias for p below 2 steps, else with one that is not known.

        Raises:
            ValueError: a p that is no integer >= 0.

        Cost: none to speak of.
        """
        if not is_integer(p, 0):
            raise ValueError(f"a moment takes an integer power >= 0, got {p!r}")
        return self._integral(lambda x: x**p, exact_degree=p < 2 * self.nodes.shape[1])

    def density(self, x: Tensor | float, width: float) -> Estimate:
        """The density of μ smoothed by a Gaussian of standard deviation ``width``, at the points x of any shape.

        The bias is NaN unless `is_exact`. It is negligible for a width above about
        (largest - smallest eigenvalue) / steps; for one below that the nodes show one by one.

        Raises:
            ValueError: a width that is not positive, or points that are not finite.

        Cost: an exponential for each point and node.
        """
        if not 0 < width < math.inf:
            raise ValueError(f"width is a positive number, got {width!r}")
        points = _points(x)
        if not bool(points.isfinite().all()):
            raise ValueError(f"a density has finite points, got {x!r}")
        distances = (points.reshape(-1, 1, 1) - self.nodes) / width
        kernel = torch.exp(-distances.square() / 2) / (math.sqrt(2 * math.pi) * width)
        samples = (kernel * self.weights).sum(-1).mT.reshape(-1, *points.shape)
        return self._estimate(samples, samples, known=self.is_exact)

    def cumulative(self, x: Tensor | float) -> Estimate:
        """The fraction μ((-∞, x)) of eigenvalues below the points x of any shape, which may be infinite.

        The value is half way between the means of two bounds that are certain for each vector, those that partial sums
        of the weights of a Gauss quadrature with a node at x give. The bias is half their distance. An
        eigenvalue within a hundred roundings of the largest |λ| from x, or 1e-8 of it, counts as being on either side.

        Raises:
            ValueError: points that are NaN.

        Cost: two eigenvalue problems of the size of the steps for each point and vector.
        """
        return self._estimate(*_below(self.matrices, _points(x), self.eps))

    def count(self, lower: float, upper: float) -> Estimate:
        """The number of eigenvalues in [lower, upper), either of which may be infinite, with bounds as `cumulative`.

        Raises:
            ValueError: not lower < upper.

        Cost: that of `cumulative` at both ends.
        """
        _require_interval(lower, upper)
        return self._estimate(*_counts(self.matrices, self.n, lower, upper, self.eps))

    def __repr__(self) -> str:
        vectors, steps = self.nodes.shape
        return (
            f"<SpectralDensity of {self.n} eigenvalues, {float(self.nodes.min()):.4g} … {float(self.nodes.max()):.4g}, "
            f"from {vectors} vectors by {steps} steps ({self.products} products)>"
        )

    def _integral(self, f: Callable[[Tensor], Tensor], exact_degree: bool) -> Estimate:
        values = f(self.nodes)
        if not isinstance(values, Tensor):
            raise TypeError(f"f maps a tensor to a tensor of the same shape, got {type(values).__name__}")
        if values.shape != self.nodes.shape or not bool(values[self.weights > 0].isfinite().all()):
            raise ValueError(
                f"f maps nodes of shape {tuple(self.nodes.shape)} to as many finite values, got {values!r} "
                f"at {self.nodes!r}"
            )
        samples = torch.where(self.weights > 0, self.weights * values, 0).sum(1)
        return self._estimate(samples, samples, known=exact_degree or self.is_exact)

    def _estimate(self, lower: Tensor, upper: Tensor, known: bool = True) -> Estimate:
        sample = bracketed(lower, upper)
        if not known:
            sample = attrs.evolve(sample, bias=torch.full_like(sample.value, torch.nan))
        doubt, status = 1 - self.confidence, EstimateStatus.SAMPLED
        return sample.estimate(doubt, self.confidence, self.eps, len(self.nodes), self.products, status)


def spectral_density(
    A: Any,
    *,
    vectors: int = 10,
    steps: int = 50,
    confidence: float = 0.95,
    seed: int = 0,
    block_size: int = 16,
    progress: bool = False,
) -> SpectralDensity:
    """The distribution of the eigenvalues of a symmetric operator, by stochastic Lanczos quadrature.

    Lanczos runs from random vectors, fully reorthogonalised, each give a Gauss quadrature of the spectral measure of
    their vector: see `SpectralDensity`. A run that meets an invariant subspace, as it does after as many steps as A has
    distinct eigenvalues, ends there, and gives the measure itself. It has no tolerance, as it is no one number: those
    that are drawn from it say how far each can be off.

    Args:
        A: a symmetric (n, n) operator, or what `as_operator` makes one of, in float32 or float64.
        vectors: random starting vectors, at least 2.
        steps: products with each.
        confidence: the probability that the margin of a number holds.
        seed: root of all random numbers.
        block_size: vectors that advance together, in one block for each step; it does not change the result beyond
            rounding.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: A in another dtype, or no operator; vectors or steps that are no integers.
        ValueError: an A that is not square, is not known to be symmetric, or is not although it says so; fewer than 2
            vectors, no steps; a confidence outside 0 … 1; a product with NaN or infinite entries.

    Source: Lin, Saad & Yang (2016), SIAM Review 58; Ubaru, Chen & Saad (2017), SIAM J. Matrix Anal. Appl. 38.

    Cost: vectors · steps products. n numbers for each step and each vector of a block.
    """
    require_integer("vectors", vectors, least=2)
    require_integer("steps", steps)
    sampling = Sampling(
        max_products=vectors * steps, confidence=confidence, seed=seed, block_size=block_size, progress=progress
    )
    operator = operand(A, "spectral_density", symmetric=True)
    n = operator.shape[0]
    probes = Spherical(n, vectors, seed=seed, purpose="density", dtype=operator.dtype, device=operator.device)
    with sampling.watching(operator, "spectral_density") as watched:
        runs = [
            run
            for start, stop in blocks(0, vectors, block_size)
            for run in lanczos_runs(watched, probes.columns(start, stop), steps, symmetric=True)
        ]
    width = max(len(run.diagonal) for run in runs)
    rules = [run.rule() for run in runs]
    return SpectralDensity(
        nodes=torch.stack([pad(nodes, (0, width - len(nodes)), value=float(nodes[-1])) for nodes, _ in rules]),
        weights=torch.stack([pad(weights, (0, width - len(weights))) for _, weights in rules]),
        matrices=tuple(runs),
        n=n,
        eps=torch.finfo(operator.dtype).eps,
        confidence=confidence,
        products=watched.products,
    )


def eigenvalue_count(
    A: Any,
    lower: float,
    upper: float,
    *,
    tol: float | None = None,
    max_products: int = 500,
    steps: int = 50,
    confidence: float = 0.95,
    seed: int = 0,
    block_size: int = 16,
    progress: bool = False,
) -> Estimate:
    """The number of eigenvalues of a symmetric operator in [lower, upper), either of which may be infinite.

    It is `SpectralDensity.count` of the `spectral_density`: the standard error tells what more vectors would change,
    and the bias bounds for certain what more steps would, that is the weight of the quadrature near the two ends. It is
    least where the ends lie in gaps of the spectrum. An eigenvalue within a hundred roundings of the largest |λ| from
    an end counts as being on either side: to leave out zeros of a singular A, choose ends clear of zero.

    Args:
        A: a symmetric (n, n) operator, or what `as_operator` makes one of, in float32 or float64.
        lower: the smaller end, which belongs to the interval.
        upper: the larger end, which does not.
        tol: stop when the margin, with the bias in it, is at most tol times the number; None for as many vectors as
            ``max_products`` allow.
        max_products: the most to spend; ``steps`` for each vector.
        steps: products with each vector.
        confidence: the probability that the margin holds: see `trace`.
        seed: root of all random numbers.
        block_size: vectors that advance together, in one block for each step; it does not change the result beyond
            rounding.
        progress: whether to show a bar that counts products.

    Raises:
        TypeError: as `spectral_density`.
        ValueError: besides those of `spectral_density`, not lower < upper; a tol below rounding, or max_products for
            fewer than two vectors.

    Warns:
        ConvergenceWarning: ``tol`` was not reached.

    Source: Di Napoli, Polizzi & Saad (2016), Efficient estimation of eigenvalue counts in an interval; bounds:
    the inequalities of Chebyshev, Markov and Stieltjes.

    Cost: ``steps`` products for each vector. n numbers for each step and each vector of a block.
    """
    _require_interval(lower, upper)
    require_integer("steps", steps)
    sampling = Sampling(
        tol=tol, max_products=max_products, confidence=confidence, seed=seed, block_size=block_size, progress=progress
    )
    operator = operand(A, "eigenvalue_count", symmetric=True)
    return sampling.run(operator, lambda watched: _Counts(watched, sampling, steps, (lower, upper)), "eigenvalue_count")


class _Counts(Sampler):
    """Bounds of n times the weight of an interval in the spectral measures of random vectors."""

    def __init__(self, A: Watched, sampling: Sampling, steps: int, interval: tuple[float, float]) -> None:
        self.A, self.width, self.cost, self.interval = A, sampling.block_size, steps, interval
        n, most = A.shape[0], sampling.max_products // steps
        self.probes = Spherical(n, most, seed=sampling.seed, purpose="density", dtype=A.dtype, device=A.device)
        self.runs: list[JacobiMatrix] = []

    def draw(self, count: int) -> Sample:
        for start, stop in blocks(len(self.runs), count, self.width):
            self.runs += lanczos_runs(self.A, self.probes.columns(start, stop), self.cost, symmetric=True)
        eps = torch.finfo(self.A.dtype).eps
        return bracketed(*_counts(self.runs, self.A.shape[0], *self.interval, eps))


def _counts(matrices: Sequence[JacobiMatrix], n: int, lower: float, upper: float, eps: float) -> tuple[Tensor, Tensor]:
    """Bounds of n times the measures of [lower, upper), one for each matrix."""
    (low, lowest), (high, highest) = (_below(matrices, _points(end), eps) for end in (upper, lower))
    return n * (low - highest).clamp(min=0), n * (lowest - high).clamp(max=1)


def _below(matrices: Sequence[JacobiMatrix], points: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Bounds of the measures of (-∞, x), (matrices, *points) each."""
    flat = points.reshape(-1)
    finite = flat.isfinite()
    low = (flat == math.inf).double().repeat(len(matrices), 1)
    high = low.clone()
    for row, matrix in enumerate(matrices):
        low[row, finite], high[row, finite] = matrix.cumulative_bounds(flat[finite], _ROUNDING * eps)
    # The weights of a rule sum to one to rounding only, and a measure is no larger.
    return low.clamp(max=1).reshape(-1, *points.shape), high.clamp(max=1).reshape(-1, *points.shape)


def _points(x: Any) -> Tensor:
    points = torch.as_tensor(x, dtype=torch.float64, device="cpu")
    if bool(points.isnan().any()):
        raise ValueError(f"points on the line are no NaN, got {x!r}")
    return points


def _require_interval(lower: float, upper: float) -> None:
    if not lower < upper:
        raise ValueError(f"an interval has lower < upper, got lower={lower!r}, upper={upper!r}")
