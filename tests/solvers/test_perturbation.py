"""Perturbation bounds against dense truths: clusters, Rayleigh quotients, what is beyond."""

from __future__ import annotations

import pytest
import torch
from certificate_cases import F64, all_match, matching, tilted
from solver_cases import problem
from torch import Tensor

from eigenspan.solvers import Which
from eigenspan.solvers.perturbation import ResidualBounds


def quotients(matrix: Tensor, V: Tensor) -> Tensor:
    return (V * (matrix @ V)).sum(dim=0)


def residuals(matrix: Tensor, V: Tensor, theta: Tensor) -> Tensor:
    """Residual norms, and a rounding."""
    return (matrix @ V - V * theta).norm(dim=0) + 1e-13


def bounds(values: list[float], norms: list[float], which: str = "LA") -> ResidualBounds:
    return ResidualBounds.of(torch.tensor(values, dtype=F64), torch.tensor(norms, dtype=F64), Which(which))


class TestClusters:
    @pytest.mark.parametrize("noise", [1e-3, 1e-1, 10.0])
    def test_intervals_match_one_to_one(self, noise):
        """Of eigenvalues in three groups, so that clusters of every size occur; also of values off the quotients."""
        generator = torch.Generator().manual_seed(1)
        for trial in range(80):
            centres = torch.randint(0, 3, (8,), generator=generator).double()
            truth = problem(centres + 1e-3 * torch.randn(8, generator=generator, dtype=F64), seed=trial)
            V = tilted(truth.eigenvectors[:, :4], noise, generator)
            for off in (0.0, noise):
                theta = quotients(truth.matrix, V) + off * torch.randn(4, generator=generator, dtype=F64)
                found = ResidualBounds.of(theta, residuals(truth.matrix, V, theta), Which.LA)
                assert matching(found.intervals(), torch.linalg.eigvalsh(truth.matrix)) is not None

    def test_two_copies_need_two_eigenvalues(self):
        """Values 2 and 2 of residual 1 with the eigenvalues 1 and 3: the joint radius is larger, for its proof."""
        assert bounds([2, 2], [1, 1]).radii.tolist() == pytest.approx([2**0.5] * 2)

    def test_values_apart_keep_their_own_radii(self):
        assert bounds([5, 2, 1.5, -1], [0.1, 0.3, 0.4, 0.1]).radii.tolist() == pytest.approx([0.1, 0.5, 0.5, 0.1])

    def test_a_cluster_grows_until_it_meets_no_other(self):
        """The first two meet; only together, with a radius of 0.5, do they meet the third."""
        assert bounds([0, 0.6, 1.17], [0.3, 0.4, 0.1]).radii.tolist() == pytest.approx([0.26**0.5] * 3)
        assert bounds([1.17, 0.57, 0], [0.3, 0.4, 0.1]).radii.tolist() == pytest.approx([0.26**0.5] * 3)

    def test_norms_of_any_scale(self):
        assert bounds([0, 0], [3e-200, 4e-200]).radii.tolist() == pytest.approx([5e-200] * 2, rel=1e-12)


class TestSharpIntervals:
    def test_of_clusters(self):
        """Ritz values of a cluster, with an eigenpair ahead, so that it has neighbours on both sides."""
        generator = torch.Generator().manual_seed(2)
        sharper = 0
        for trial in range(150):
            cluster = 1 + 1e-3 * torch.randn(3, generator=generator, dtype=F64)
            ahead, rest = torch.tensor([3.0], dtype=F64), torch.rand(6, generator=generator, dtype=F64) - 1
            truth = problem(torch.cat([cluster, ahead, rest]), seed=trial)
            V = tilted(truth.eigenvectors[:, :3], 0.05, generator)
            V = V @ torch.linalg.eigh(V.mT @ truth.matrix @ V)[1]
            theta = quotients(truth.matrix, V)
            norms = residuals(truth.matrix, V, theta)
            exact = torch.cat([ahead, cluster.sort().values])
            for sign, which in ((1, Which.LA), (-1, Which.SA)):
                found = ResidualBounds.of(sign * torch.cat([ahead, theta]), torch.cat([0 * ahead, norms]), which)
                low, high = found.sharp_intervals(0.0, 1e-13).mT
                assert bool(((low <= sign * exact) & (sign * exact <= high)).all())
                sharper += bool((high - low)[1:].max() < found.radii[1])
        assert sharper > 200

    def test_gaps_are_those_to_neighbours_and_to_the_rest(self):
        """By LM a negative value has the rest above it, a positive one below."""
        values = torch.tensor([4, -3, 2, -1.5], dtype=F64)
        low, high = bounds(values.tolist(), [0.1] * 4, "LM").sharp_intervals(1.0, 0.0).mT
        # To a value the gap ends at its radius. Nothing is above 4, or below -3.
        assert (high - values).tolist() == pytest.approx([0.01 / 1.9, 0, 0.01 / 1, 0.01 / 1.4])
        assert (values - low).tolist() == pytest.approx([0, 0.01 / 1.4, 0.01 / 1.9, 0.01 / 0.5])

    @pytest.mark.parametrize("which", ["LM", "LA", "SA"])
    def test_without_others_the_outermost_are_bounds_of_the_spectrum(self, which):
        low, high = bounds([-1, 0, 3], [0.1, 0.1, 0.1], which).sharp_intervals(-torch.inf, 0.0).mT
        assert (float(high[0]), float(low[2])) == (-1, 3)

    def test_values_that_may_be_among_the_rest_keep_their_intervals(self):
        found = bounds([4, 2], [0.1, 0.1])
        sharp = found.sharp_intervals(1.95, 0.0)
        assert torch.equal(sharp[1], found.intervals()[1])
        assert float(sharp[0, 1] - sharp[0, 0]) < 0.01

    @pytest.mark.parametrize(("which", "sign"), [("LA", 1), ("SA", -1)])
    def test_the_rest_reaches_to_the_far_end(self, which, sign):
        """By LM -3 would be apart from what is below 1; not by LA."""
        found = bounds([4 * sign, -3 * sign], [0.1, 0.1], which)
        assert torch.equal(found.sharp_intervals(1.0, 0.0)[1], found.intervals()[1])


class TestAngles:
    def test_each_vector_has_its_own_gap(self):
        """Norms 0.3 and 0.1: to the pair behind of radius 0.1, or to the rest."""
        leads, norms = bounds([9, 5], [0.3, 0.1]).angles(2.0)
        assert leads.tolist() == [True, True]
        assert norms.tolist() == pytest.approx([0.3 / (9 - 5.1), ((0.3 / 7) ** 2 + (0.1 / 3) ** 2) ** 0.5])

    def test_neighbours_by_magnitude_may_be_far(self):
        """The nearest eigenvalue to 9 is 1: not -8, which leads next."""
        _, norms = bounds([9, -8], [0.4, 0.0], "LM").angles(1.0)
        assert float(norms[0]) == pytest.approx(0.4 / 8)

    def test_order_that_is_not_certain(self):
        """The first two may change places; both are ahead of the rest."""
        leads, norms = bounds([3, 2.9], [0.1, 0.1]).angles(1.0)
        assert leads.tolist() == [False, True]
        assert float(norms[0]) == 1

    def test_one_of_them_that_may_be_among_the_rest(self):
        leads, norms = bounds([9, -8], [6, 0.1], "LM").angles(3.5)
        assert leads.tolist() == [False, False]
        assert norms.square().tolist() == pytest.approx([1, 2])


class TestBeyond:
    @pytest.mark.parametrize("which", Which)
    def test_all_that_is_ahead_of_the_bound_matches_a_value(self, which):
        """Of one good pair and two of which there is no telling, whose radii reach over others."""
        generator = torch.Generator().manual_seed(3)
        for trial in range(200):
            truth = problem(torch.randn(7, generator=generator, dtype=F64), seed=trial)
            random = torch.randn(7, 2, generator=generator, dtype=F64)
            noise = 10.0 ** -float(3 * torch.rand(1, generator=generator))
            V = tilted(torch.linalg.qr(torch.cat([truth.eigenvectors[:, :1], random], 1))[0], noise, generator)
            theta = quotients(truth.matrix, V)
            found = ResidualBounds.of(theta, residuals(truth.matrix, V, theta), which)
            P = torch.eye(7, dtype=F64) - V @ V.mT
            limit = found.bound_of_others(float(torch.linalg.matrix_norm(P @ truth.matrix @ P, 2)))
            ahead = truth.eigenvalues[which.key(truth.eigenvalues) > limit]
            assert all_match(ahead, found.intervals())

    def test_a_value_that_reaches_the_bound_raises_it(self):
        """Residuals 0.3 and 0.4, 0.5 in all: the bound is 2; what matches 2.3 may be at 1.9 or else at 2.8."""
        assert bounds([9, 2.3], [0.3, 0.4]).bound_of_others(1.0) == pytest.approx(2.8)
        assert bounds([9, 2.5], [0.3, 0.4]).bound_of_others(1.0) == pytest.approx(2.0)

    def test_raised_again_by_what_the_raised_bound_reaches(self):
        raised = bounds([9, 3.0, 2.3], [0.0, 0.3, 0.4]).bound_of_others(1.0)
        assert raised == pytest.approx(3.5)
