"""The nine Grassmann distances: the contract, and the numerics at the ends of the range."""

from __future__ import annotations

import math

import pytest
import torch
from metric_contract import MetricContract, TriangleContract, planes, rotation, span

from eigenspan.linops import MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import (
    GRASSMANN_DISTANCES,
    GrassmannDistance,
    PrincipalAngles,
    asimov,
    binet_cauchy,
    chordal,
    fubini_study,
    geodesic,
    martin,
    principal_angles,
    procrustes,
    projection,
    spectral,
)

RIGHT = math.pi / 2

# Table 2 of Ye and Lim, in plain arithmetic.
TEXTBOOK = {
    "geodesic": lambda t: math.sqrt(sum(x**2 for x in t)),
    "chordal": lambda t: math.sqrt(sum(math.sin(x) ** 2 for x in t)),
    "procrustes": lambda t: 2 * math.sqrt(sum(math.sin(x / 2) ** 2 for x in t)),
    "projection": lambda t: max(math.sin(x) for x in t),
    "spectral": lambda t: 2 * max(math.sin(x / 2) for x in t),
    "asimov": max,
    "fubini_study": lambda t: math.asin(TEXTBOOK["binet_cauchy"](t)),
    "binet_cauchy": lambda t: math.sqrt(-math.expm1(sum(log_square_cosine(x) for x in t))),
    "martin": lambda t: math.sqrt(-sum(log_square_cosine(x) for x in t)),
}


def log_square_cosine(x: float) -> float:
    return -math.inf if x == RIGHT else math.log1p(-(math.sin(x) ** 2)) if x < 1 else 2 * math.log(math.cos(x))


class DistanceContract(MetricContract):
    distance: GrassmannDistance
    pad = True

    def evaluate(self, A, B):
        return self.distance(A, B, pad=self.pad)

    def closed_form(self, angles, dims):
        padding = [RIGHT] * (max(dims) - min(dims)) if self.pad else []
        return TEXTBOOK[self.distance.__name__](angles + padding)

    def test_maximum_is_the_largest_value(self):
        for dim in (1, 4):
            assert self.distance.maximum(dim) == pytest.approx(self.closed_form([RIGHT] * dim, (dim, dim)), rel=1e-15)


class TestGeodesic(DistanceContract, TriangleContract):
    distance = geodesic


class TestChordal(DistanceContract, TriangleContract):
    distance = chordal


class TestProcrustes(DistanceContract, TriangleContract):
    distance = procrustes


class TestProjection(DistanceContract, TriangleContract):
    distance = projection


class TestSpectral(DistanceContract, TriangleContract):
    distance = spectral


class TestAsimov(DistanceContract, TriangleContract):
    distance = asimov


class TestFubiniStudy(DistanceContract, TriangleContract):
    distance = fubini_study


class TestBinetCauchy(DistanceContract, TriangleContract):
    distance = binet_cauchy


class TestMartin(DistanceContract):
    distance = martin


class TestGeodesicUnpadded(DistanceContract):
    distance = geodesic
    pad = False


class TestMartinUnpadded(DistanceContract):
    distance = martin
    pad = False


def test_unpadded_distances_break_the_triangle_inequality(device):
    first, second, both = (
        MaskSubspace.from_indices(torch.tensor(indices, device=device), 3) for indices in ([0], [1], [0, 1])
    )
    assert geodesic(first, both, pad=False) + geodesic(both, second, pad=False) == 0
    assert geodesic(first, second, pad=False) == RIGHT


def test_martin_breaks_the_triangle_inequality(device):
    identity = torch.eye(2, dtype=torch.float64, device=device)
    A, C = span(identity[:, :1]), span(identity[:, 1:])
    B = span(torch.full((2, 1), math.sqrt(0.5), dtype=torch.float64, device=device))
    assert math.isinf(martin(A, C))
    assert martin(A, B) + martin(B, C) == pytest.approx(2 * math.sqrt(math.log(2)), rel=1e-14)


@pytest.mark.parametrize("distance", GRASSMANN_DISTANCES, ids=lambda distance: distance.__name__)
class TestEveryDistance:
    def test_unpadded_distance_is_that_to_the_nearest_subspace_of_the_larger(self, device, distance):
        """Ye and Lim, theorem 7: δ(A, B) is d(A, C) for the C in B nearest to A, and no other C in B is nearer."""
        A = OrthonormalSubspace.random(9, 2, seed=1, dtype=torch.float64, device=device)
        B = OrthonormalSubspace.random(9, 4, seed=2, dtype=torch.float64, device=device)
        U = torch.linalg.svd(B.vectors.mT @ A.vectors, full_matrices=False)[0]
        unpadded = distance(A, B, pad=False)
        assert distance(A, span(B.vectors @ U)) == pytest.approx(unpadded, rel=1e-12)
        for seed in range(20):
            C = span(B.vectors @ rotation(4, seed, device)[:, :2])
            assert distance(A, C) >= unpadded

    def test_padded_distance_is_that_of_completed_subspaces(self, device, distance):
        """A in Rⁿ completed by new directions to dimension n, as B is: the padded distance is theirs."""
        n = 7
        A = OrthonormalSubspace.random(n, 2, seed=1, dtype=torch.float64, device=device)
        B = OrthonormalSubspace.random(n, 4, seed=2, dtype=torch.float64, device=device)
        new = torch.eye(n, dtype=torch.float64, device=device)
        completed = [span(torch.block_diag(S.vectors, new[:, : n - S.dim])) for S in (A, B)]
        assert distance(A, B) == pytest.approx(distance(*completed), rel=1e-12)

    def test_contained_subspace(self, device, distance):
        B = OrthonormalSubspace.random(9, 4, seed=2, dtype=torch.float64, device=device)
        A = span(B.vectors[:, :2])
        assert distance(A, B, pad=False) == pytest.approx(0, abs=1e-14)
        assert distance(A, B) == pytest.approx(distance.maximum(2), rel=1e-15)

    def test_equal_dimensions_need_no_padding(self, device, distance):
        A, B = planes([0.2, 0.9], device)
        assert distance(A, B) == distance(A, B, pad=False)

    def test_tiny_angles_keep_their_digits(self, device, distance):
        """Every distance is θ to first order for one angle θ; cosines alone would give 0."""
        A, B = planes([0.0, 1e-9], device)
        assert distance(A, B) == pytest.approx(1e-9, rel=1e-14)

    def test_thousands_of_angles_stay_finite(self, distance):
        """A product of 5,000 cosines of 1 rad underflows; no distance may become nan, nor Martin's infinite."""
        theta = torch.ones(5000, dtype=torch.float64)
        value = distance.of(PrincipalAngles(theta.cos(), theta.sin(), (5000, 5000)))
        assert value == pytest.approx(TEXTBOOK[distance.__name__]([1.0] * 5000), rel=1e-12)

    def test_one_decomposition_serves_all(self, device, distance):
        A = OrthonormalSubspace.random(9, 2, seed=1).to(device=device)
        B = MaskSubspace.random(9, 4, seed=2).to(device=device)
        angles = principal_angles(A, B)
        assert distance.of(angles) == distance(A, B)
        assert distance.of(angles, pad=False) == distance(A, B, pad=False)
        assert distance.of(angles.padded()) == distance(A, B)

    def test_documented_by_its_formula(self, distance):
        assert "θᵢ" in distance.__doc__
        assert distance.__name__ in repr(distance)

    @pytest.mark.parametrize("dim", [0, 1.5, "2"])
    def test_maximum_needs_a_dimension(self, distance, dim):
        with pytest.raises(ValueError, match="the dimension of a subspace is an integer >= 1, got"):
            distance.maximum(dim)

    def test_zero_has_no_sign(self, distance):
        mask = MaskSubspace.from_indices(torch.tensor([0, 2]), 5)
        assert str(distance(mask, mask)) == "0.0"


def test_projection_and_chordal_are_norms_of_projector_differences(device):
    A = OrthonormalSubspace.random(9, 3, seed=1, dtype=torch.float64, device=device)
    B = OrthonormalSubspace.random(9, 3, seed=2, dtype=torch.float64, device=device)
    difference = A.vectors @ A.vectors.mT - B.vectors @ B.vectors.mT
    assert chordal(A, B) == pytest.approx(float(difference.norm()) / math.sqrt(2), rel=1e-13)
    assert projection(A, B) == pytest.approx(float(torch.linalg.matrix_norm(difference, 2)), rel=1e-13)


def test_procrustes_and_spectral_are_distances_of_best_aligned_bases(device):
    A = OrthonormalSubspace.random(9, 3, seed=1, dtype=torch.float64, device=device)
    B = OrthonormalSubspace.random(9, 3, seed=2, dtype=torch.float64, device=device)
    U, _, Vh = torch.linalg.svd(A.vectors.mT @ B.vectors)
    difference = A.vectors @ U - B.vectors @ Vh.mT
    assert procrustes(A, B) == pytest.approx(float(difference.norm()), rel=1e-13)
    assert spectral(A, B) == pytest.approx(float(torch.linalg.matrix_norm(difference, 2)), rel=1e-13)


def test_fubini_study_is_the_angle_of_the_exterior_products(device):
    A = OrthonormalSubspace.random(9, 3, seed=1, dtype=torch.float64, device=device)
    B = OrthonormalSubspace.random(9, 3, seed=2, dtype=torch.float64, device=device)
    determinant = abs(float(torch.linalg.det(A.vectors.mT @ B.vectors)))
    assert fubini_study(A, B) == pytest.approx(math.acos(determinant), rel=1e-12)
    assert binet_cauchy(A, B) == pytest.approx(math.sqrt(1 - determinant**2), rel=1e-12)


def test_a_new_distance_is_a_formula(device):
    @GrassmannDistance
    def mean_angle(angles):
        """Σ θᵢ / r."""
        return angles.radians.mean()

    A, B = planes([0.2, 0.6], device)
    assert mean_angle(A, B) == pytest.approx(0.4, rel=1e-14)
    assert mean_angle.maximum(3) == pytest.approx(RIGHT, rel=1e-15)
