"""Perturbation bounds: how far eigenvalues and eigenspaces are from approximations with given residual norms."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from .solver import Which


@attrs.frozen(eq=False)
class ResidualBounds:
    """What follows from k values θᵢ with orthonormal vectors V and bounds ρᵢ >= ‖A vᵢ - θᵢ vᵢ‖, for a symmetric A.

    The values stand in clusters C of radii ρ_C = √(Σ ρᵢ²) >= ‖A V_C - V_C Θ_C‖ that do not meet one another. As many
    eigenvalues of A as values, counted with multiplicity, are within each (Kahan).

    Attributes:
        values: θ, (k,), leading first, in float64.
        norms: ρ, (k,).
        which: the order in which they lead.
        order: (k,) the permutation that makes the values ascend.
        clusters: (first, stop, radius) of the ascending values.
    """

    values: Tensor
    norms: Tensor
    which: Which
    order: Tensor
    clusters: list[tuple[int, int, float]]

    @classmethod
    def of(cls, values: Tensor, norms: Tensor, which: Which) -> ResidualBounds:
        """The bounds of values with residual norms."""
        order = torch.argsort(values, stable=True)
        return cls(values, norms, which, order, _clusters(values[order].tolist(), norms[order].tolist()))

    @property
    def keys(self) -> Tensor:
        """How far each value leads, (k,): by the key of `which`, which moves no more than the value."""
        return self.which.key(self.values)

    @property
    def radii(self) -> Tensor:
        """The radius of the cluster of each value, (k,)."""
        radii = torch.empty_like(self.values)
        for first, stop, radius in self.clusters:
            radii[self.order[first:stop]] = radius
        return radii

    @property
    def total(self) -> float:
        """A bound of the norm of the block of all residuals."""
        return math.hypot(*self.norms.tolist())

    def intervals(self) -> Tensor:
        """The values with their radii, (k, 2): k eigenvalues match them one to one."""
        return torch.stack([self.values - self.radii, self.values + self.radii], dim=1)

    def bound_of_others(self, complement: float) -> float:
        """A bound of the keys of all eigenvalues but k that match the values, within their intervals.

        It follows from a bound of the norm of A on the complement, ‖(I - V Vᵀ) A (I - V Vᵀ)‖ <= ``complement``. All
        eigenvalues are within ‖R‖ <= `total` of the values and of numbers up to complement + ‖R‖. This may match
        other eigenvalues to the values than the intervals do, but those in question are not ahead of a value, plus
        ‖R‖, whose interval reaches down to the bound: it is raised to that.
        """
        bound = complement + 2 * self.total
        while True:
            reaching = self.keys - self.radii <= bound
            raised = max([bound, *(self.keys + self.total)[reaching].tolist()])
            if raised == bound:
                return bound
            bound = raised

    def sharp_intervals(self, bound: float, rounding: float) -> Tensor:
        """Intervals for Rayleigh-Ritz pairs, Vᵀ A V = Θ, (k, 2), if no other eigenvalue has a key above ``bound``.

        Where all others are below a or above b a cluster is off by at most ρ_C² / (min θ - a) upwards and by
        ρ_C² / (b - max θ) downwards. Of one value that is the bound of Kato and Temple, of more it follows from
        Lehmann's: the negative eigenvalues of (A - b)⁻¹ are bounded by Rayleigh-Ritz on (A - b) V_C.

        Args:
            bound: -inf if there are no others.
            rounding: the error of a value without residual.
        """
        theta = self.values[self.order]
        low, high = self.intervals()[self.order].mT.contiguous()
        # Where the others are; from inf to -inf, an empty set, if there are none.
        others_low = -math.inf if self.which is Which.LA else -bound
        others_high = math.inf if self.which is Which.SA else bound
        tops = [-math.inf, *(float(theta[stop - 1]) + radius for _, stop, radius in self.clusters)]
        bottoms = [*(float(theta[first]) - radius for first, _, radius in self.clusters), math.inf]
        for number, (first, stop, radius) in enumerate(self.clusters):
            below, above = tops[number], bottoms[number + 1]
            if bottoms[number] > others_high:
                below = max(below, others_high)
            elif tops[number + 1] < others_low:
                above = min(above, others_low)
            else:
                continue
            part = slice(first, stop)
            up = radius * (radius / (float(theta[first]) - below))
            down = radius * (radius / (above - float(theta[stop - 1])))
            high[part] = high[part].minimum(theta[part] + up + rounding)
            low[part] = low[part].maximum(theta[part] - down - rounding)
        sharp = torch.empty(len(theta), 2, dtype=torch.float64)
        sharp[self.order] = torch.stack([low, high], dim=1)
        return sharp

    def angles(self, bound: float) -> tuple[Tensor, Tensor]:
        """The eigenspaces of the first j = 1 … k pairs, if no other eigenvalue than the k has a key above ``bound``.

        With the other eigenvectors X, of Λ, the entries of XᵀV satisfy (λₗ - θᵢ) xₗᵀvᵢ = xₗᵀrᵢ, so that column i has a
        norm of at most ρᵢ over the distance of θᵢ to Λ (after Davis & Kahan).

        Returns:
            (k,) whether they are the j leading ones, apart from all others; and (k,) bounds of √(Σ sin²) of the angles
            to the span of the first j vectors, √j where they are not.
        """
        keys, radii = self.keys, self.radii
        behind = _largest_behind((keys + radii)[None], -math.inf)[0].clamp(min=bound)
        leads = (keys - radii).cummin(0).values > behind
        # From the value i, a row, to the nearest eigenvalue behind the first j, a column.
        distances = ((self.values[:, None] - self.values).abs() - radii).clamp(min=0)
        gaps = (-_largest_behind(-distances, -math.inf)).minimum((keys - bound)[:, None])
        # Where they lead gaps exceed norms; where they do not there may be none.
        total = (self.norms[:, None] / gaps).square().triu().sum(dim=0)
        return leads, torch.where(leads, total, torch.arange(1, len(keys) + 1, dtype=torch.float64)).sqrt()


def _clusters(values: list[float], norms: list[float]) -> list[tuple[int, int, float]]:
    """Ascending values in groups (first, stop, radius), of radius √(Σ norms²), that do not meet with these radii."""
    clusters: list[tuple[int, int, float]] = []
    for i, norm in enumerate(norms):
        first, radius = i, norm
        while clusters and values[first - 1] + clusters[-1][2] >= values[first] - radius:
            first, _, other = clusters.pop()
            radius = math.hypot(radius, other)
        clusters.append((first, i + 1, radius))
    return clusters


def _largest_behind(rows: Tensor, last: float) -> Tensor:
    """For each entry the largest of those behind it in its row; ``last`` for the last one."""
    shifted = torch.cat([rows[:, 1:], torch.full_like(rows[:, :1], last)], dim=1)
    return shifted.flip(1).cummax(1).values.flip(1)
