"""What is certain of a result, or probable, or follows from an assumption: intervals, angles and the error."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from .perturbation import ResidualBounds
from .probe import ROUNDINGS, Factors, Probe, Result, probe
from .report import Status
from .results import SingularValueDecomposition
from .scree import Scree, require_confidence, scree_of
from .solver import EigenSolver, Which
from .tall import gram

_DEVIATIONS = 10  # standard deviations that no normal variable is off, but for one in 1e23
_ROWS = 10  # shown of a table
_OTHERS = {Which.LM: "eigenvalue of |λ| above", Which.LA: "eigenvalue above", Which.SA: "eigenvalue below"}


@attrs.frozen(eq=False, repr=False)
class Certificate:
    """Bounds of the errors of k eigenpairs or singular triplets; its `str` is a table that says what they rest on.

    What follows from the residual norms alone is *certain*, to the rounding of products. All else needs a ``premise``,
    a bound of the eigenvalues that the result does not hold. This is certain too if there are none; it holds with a
    *probability* if test vectors showed it; else it is *assumed*.

    Attributes:
        values: (k,) float64, the eigenvalues or singular values θ of the result, in its order.
        intervals: (k, 2), certain: k eigenvalues of A, counted with multiplicity, match the values one to one, each
            within its interval.
        sharp_intervals: (k, 2), by the premise: smaller intervals of the same eigenvalues, of the order of the squared
            residual norm over the gap. They hold for Rayleigh-Ritz pairs, Vᵀ A V = Θ, which solvers give that do not
            sketch; intervals of a sketch stay as they are.
        leads: (k,) boolean, by the premise: entry j - 1 says that the first j of these eigenvalues are the leading ones
            of A, apart from all others.
        sine_norms: (k,), by the premise: entry j - 1 bounds √(Σ sin²) of the angles between the span of the first j
            vectors and the leading eigenspace of A, or singular subspace of either side. √j, no information, where
            these do not lead.
        premise: in words.
        beyond: the bound of the premise, of |λ|, λ or σ; infinite where nothing is beyond.
        probability: of the premise; 1 if it is certain, None if it is assumed.
        scree: the error of the result as a whole, if A was multiplied; else None.
    """

    values: Tensor
    intervals: Tensor
    sharp_intervals: Tensor
    leads: Tensor
    sine_norms: Tensor
    premise: str
    beyond: float
    probability: float | None
    scree: Scree | None

    @property
    def radii(self) -> Tensor:
        """The most by which each value is off, (k,), certain."""
        return (self.intervals - self.values[:, None]).abs().amax(dim=1)

    @property
    def sharp_radii(self) -> Tensor:
        """The most by which each value is off, (k,), by the premise."""
        return (self.sharp_intervals - self.values[:, None]).abs().amax(dim=1)

    @property
    def sines(self) -> Tensor:
        """Upper bounds of the sine of the largest angle to the leading eigenspace, (k,), by the premise; at most 1."""
        return self.sine_norms.clamp(max=1)

    @property
    def overlaps(self) -> Tensor:
        """Lower bounds of the overlap ‖XᵀV‖²_F / j with the leading eigenspace, (k,), by the premise; at least 0."""
        return (1 - self.sine_norms.square() / torch.arange(1, len(self.values) + 1)).clamp(min=0)

    @property
    def leading(self) -> int:
        """The largest j whose pairs are shown to be the leading ones, by the premise."""
        shown = torch.nonzero(self.leads)
        return int(shown[-1]) + 1 if len(shown) > 0 else 0

    @property
    def _verdict(self) -> str:
        basis = f"with probability {self.probability:g}" if self.probability is not None else "assuming that"
        lead = f"the first {self.leading} of {len(self.values)} lead" if self.leading > 0 else "none is shown to lead"
        return f"{'certain, as' if self.probability == 1 else basis} {self.premise}: {lead}"

    def __repr__(self) -> str:
        return f"<Certificate of {len(self.values)} values within {float(self.radii.max()):.1e}; {self._verdict}>"

    def __str__(self) -> str:
        columns = (self.values, self.radii, self.sharp_radii, self.sines, self.overlaps)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        lines = [
            f"certain: {len(rows)} eigenvalues or singular values match these one to one, each within its radius",
            f"{self._verdict}. By this premise also:",
            "sharp radii; sine of the largest angle, and overlap, of the first j vectors and the leading space",
            f"{'j':>5} {'value':>12} {'radius':>9} {'sharp':>9} {'sine <=':>9} {'overlap >=':>10}",
        ]
        lines += [
            f"{j:>5} {value:>12.5g} {radius:>9.1e} {sharp:>9.1e} {_if(sine < 1, f'{sine:.1e}'):>9} "
            f"{_if(overlap >= 5e-5, f'{overlap:.4f}'):>10}"
            for j, (value, radius, sharp, sine, overlap) in enumerate(rows[:_ROWS], 1)
        ]
        lines += [f"{'':>5} and {len(rows) - _ROWS} more"] if len(rows) > _ROWS else []
        return "\n".join(lines if self.scree is None else [*lines, repr(self.scree)])


def _if(is_told: bool, text: str) -> str:
    return text if is_told else "-"


def certify(
    result: Result,
    A: Any = None,
    *,
    beyond: float | None = None,
    test_vectors: int = 10,
    confidence: float = 0.99,
    seed: int = 0,
) -> Certificate:
    """Bounds of the errors of eigenpairs or singular triplets, from residual norms and at most one block of products.

    **Certain.** A value θᵢ of residual norm ρᵢ is within ρᵢ of an eigenvalue. Values whose intervals meet make a
    cluster C of radius ρ_C = √(Σ ρᵢ²), within which it holds as many eigenvalues as values (Kahan).

    **The premise** bounds all other eigenvalues. Without A and ``beyond`` it is *assumed* that none leads the last one
    found. With ``beyond`` the bound is the caller's. With A it comes from s normal vectors, whose products bound
    ‖(I - V Vᵀ) A‖ with a given probability; all other |λ| are below that plus 2 √(Σ ρᵢ²), for every `Which`. For ten
    vectors it is about the Frobenius norm of what was not found, or twice ∜(Σ λ⁴) where that is less: where the
    spectrum decays slowly only the first pairs are shown to lead.

    **By the premise.** A cluster with all other eigenvalues g below and g' above it is off by at most ρ_C² / g upwards
    and ρ_C² / g' downwards (Kato & Temple). The angles of the first j vectors have Σ sin² <= Σᵢ (ρᵢ / gᵢ)², where gᵢ is
    the distance of θᵢ to all eigenvalues but the j that lead: after Davis & Kahan, vector by vector.

    To each residual norm ten roundings of ‖A‖ are added, and what VᵀV is away from the identity. ‖A‖ is taken from the
    values and, with A, from the test vectors: without, it may be taken too small for `Which.LA` and `Which.SA`. Of
    singular triplets all holds with ρ = √2 times the residual norm, which bounds ‖A v - σ u‖ and ‖Aᵀ u - σ v‖, and for
    the angles of both sides.

    Args:
        result: eigenpairs or singular triplets with residual norms.
        A: the operator they are of, or what `as_operator` makes one of; left out, nothing is multiplied.
        beyond: a bound, known otherwise, of all eigenvalues but the k of the result: of |λ| for `Which.LM`, of λ from
            above for `Which.LA` and from below for `Which.SA`; of σ.
        test_vectors: s, products of one block.
        confidence: the probability of the premise, and that of the `Scree`.
        seed: of the test vectors. They are independent of all random numbers of a solver, of the same seed too.

    Raises:
        TypeError: another kind of result; A in another dtype or on another device.
        ValueError: no pairs; residual norms that were not measured, or that A refutes; both A and ``beyond``, or one
            that is no bound; an A of another shape; s < 1; a confidence not between 0 and 1; products with NaN or
            infinite entries.

    Source: Parlett, The Symmetric Eigenvalue Problem, chapters 10 and 11; Kahan's theorem for values that are not
    Rayleigh quotients, and for singular values, by the dilations of Davis, Kahan & Weinberger (1982). Davis & Kahan
    (1970); Wedin (1972). Test vectors: after Halko, Martinsson & Tropp (2011), lemma 4.1.

    Cost: no products without A, s in one block with it; 2 n k² flops, with A 8 n k s more and 5 n s numbers.
    """
    require_confidence(confidence)
    factors, singular = Factors.of(result), isinstance(result, SingularValueDecomposition)
    _require_measured(result)
    solver = result.report.solver
    which = solver.which if isinstance(solver, EigenSolver) else Which.LA
    if beyond is not None:
        _require_bound(beyond, A, which is Which.LM or singular)
    seen = None if A is None else probe(factors, A, test_vectors, seed)
    rounding = _rounding(factors, seen)
    norms = (2**0.5 if singular else 1) * result.residual_norms.double().cpu() + rounding
    if seen is not None:
        _require_consistent(norms, seen, torch.finfo(factors.left.dtype).eps ** 0.5)
    bounds = ResidualBounds.of(factors.values, norms, which)
    bound, probability = _premise(bounds, factors, beyond, seen, confidence)
    sharp = bounds.intervals() if result.report.status is Status.SKETCHED else bounds.sharp_intervals(bound, rounding)
    leads, sine_norms = bounds.angles(bound)
    limit = -bound if which is Which.SA else bound
    others = "singular value above" if singular else _OTHERS[which]
    return Certificate(
        values=factors.values,
        intervals=bounds.intervals().clamp(min=0) if singular else bounds.intervals(),
        sharp_intervals=sharp.clamp(min=0) if singular else sharp,
        leads=leads,
        sine_norms=sine_norms,
        premise=f"there is no other {others} {limit:.5g}" if math.isfinite(limit) else "there is no other eigenvalue",
        beyond=limit,
        probability=probability,
        scree=None if seen is None else scree_of(factors, seen, confidence),
    )


def _premise(
    bounds: ResidualBounds, factors: Factors, beyond: float | None, seen: Probe | None, confidence: float
) -> tuple[float, float | None]:
    """A bound of the keys of all eigenvalues but k, and its probability; None where it is assumed."""
    if len(bounds.values) == min(factors.left.shape[0], factors.right.shape[0]):
        # Singular values are eigenvalues of [0, A; Aᵀ, 0], where their negatives, and zeros, are beyond.
        return (-math.inf if factors.left is factors.right else 0.0), 1.0
    if beyond is not None:
        return (-beyond if bounds.which is Which.SA else float(beyond)), None
    if seen is None:
        return float((bounds.keys + bounds.radii).min()), None
    return bounds.bound_of_others(seen.norm_outside(confidence)), confidence


def _rounding(factors: Factors, seen: Probe | None) -> float:
    """What residual norms may miss: roundings of products, and of vectors that are not quite orthonormal."""
    bases = [factors.left] if factors.left is factors.right else [factors.left, factors.right]
    identity = torch.eye(len(factors.values), dtype=torch.float64)
    defect = max(float(torch.linalg.matrix_norm(gram(basis) - identity, 2)) for basis in bases)
    size = max(float(factors.values.abs().max()), 0.0 if seen is None else float((seen.images / seen.lengths).max()))
    return (ROUNDINGS * torch.finfo(factors.left.dtype).eps + 2 * defect) * size


def _require_measured(result: Result) -> None:
    norms = result.residual_norms
    if len(norms) == 0:
        raise ValueError(f"{result!r} holds nothing to certify")
    if not bool(norms.isfinite().all()):
        raise ValueError(
            f"{result!r}: bounds follow from residual norms, and {int((~norms.isfinite()).sum())} of {len(norms)} were "
            "not measured; solve with measure_residuals=True, or call scree(result, A), which needs none"
        )


def _require_bound(beyond: float, A: Any, of_size: bool) -> None:
    if A is not None:
        raise ValueError("give A, whose products bound what is beyond, or a bound beyond=, not both")
    if not math.isfinite(beyond) or (of_size and beyond < 0):
        raise ValueError(f"beyond is a finite bound{', of a size not below zero' if of_size else ''}; got {beyond!r}")


def _require_consistent(norms: Tensor, seen: Probe, noise: float) -> None:
    """The products rᵢᵀ ω of residuals and normal vectors are normal, of standard deviation ‖rᵢ‖, to rounding."""
    excess = seen.residuals.abs() - _DEVIATIONS * norms[:, None] - noise * seen.images
    worst = int(excess.amax(dim=1).argmax())
    if bool((excess[worst] > 0).any()):
        shown = float(seen.residuals[worst].square().mean().sqrt())
        raise ValueError(
            f"A is not the operator that was solved, or residual norms are wrong: that of pair {worst + 1} is "
            f"{float(norms[worst]):.1e}, but test vectors show {shown:.1e}"
        )
