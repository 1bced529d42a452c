"""Overlap, containment and jaccard: the contract, set arithmetic for masks at full size, the curve over k."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from metric_contract import TOLERANCE, LargestTensor, MetricContract, eigenspace, pairs, span

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import containment, geodesic, jaccard, overlap, overlap_curve, principal_angles


class TestOverlap(MetricContract):
    at_equality = 1.0

    def evaluate(self, A, B):
        return overlap(A, B)

    def closed_form(self, angles, dims):
        return sum(math.cos(angle) ** 2 for angle in angles) / math.sqrt(math.prod(dims))

    def extreme(self, dims):
        return 0.0


class TestContainment(MetricContract):
    at_equality = 1.0

    def evaluate(self, A, B):
        return containment(A, B)

    def closed_form(self, angles, dims):
        return sum(math.cos(angle) ** 2 for angle in angles) / dims[0]

    def extreme(self, dims):
        return 0.0

    def test_symmetry(self, device, dtype):
        """Shares of A in B and of B in A differ by the dimensions; their geometric mean is the overlap."""
        for A, B in pairs(device, dtype):
            forth, back = containment(A, B), containment(B, A)
            assert forth * A.dim == pytest.approx(back * B.dim, rel=TOLERANCE[dtype])
            assert math.sqrt(forth * back) == pytest.approx(overlap(A, B), rel=TOLERANCE[dtype])


def test_containment_is_one_exactly_for_a_contained_subspace(device):
    B = OrthonormalSubspace.random(20, 6, seed=1, dtype=torch.float64, device=device)
    A = span(B.vectors[:, :2])
    assert containment(A, B) == pytest.approx(1, abs=1e-14)
    assert containment(B, A) == pytest.approx(2 / 6, abs=1e-14)
    assert overlap(A, B) == pytest.approx(math.sqrt(2 / 6), abs=1e-14)


def test_masks_are_sets(device):
    generator = numpy.random.default_rng(0)
    for _ in range(20):
        first, second = (generator.choice(30, size, replace=False) for size in generator.integers(1, 30, size=2))
        A, B = (MaskSubspace.from_indices(torch.from_numpy(x).to(device), 30) for x in (first, second))
        shared = len(set(first.tolist()) & set(second.tolist()))
        union = len(set(first.tolist()) | set(second.tolist()))
        assert overlap(A, B) == shared / math.sqrt(len(first) * len(second))
        assert containment(A, B) == shared / len(first)
        assert jaccard(A, B) == shared / union
        assert jaccard(A, B) == jaccard(B, A)
    assert jaccard(A, A) == 1.0


def test_masks_of_two_million_of_ten_million_coordinates(device):
    n, k = 10_000_000, 2_000_000
    A, B = (MaskSubspace.random(n, k, seed=seed, device=device) for seed in (1, 2))
    with LargestTensor() as largest:
        gram = A.cross_gram(B)
        value = overlap(A, B)
        index = jaccard(A, B)
        angles = principal_angles(A, B)
    assert largest.entries <= n, "something dense was made"

    common, rows, columns = numpy.intersect1d(
        A.indices.cpu().numpy(), B.indices.cpu().numpy(), assume_unique=True, return_indices=True
    )
    numpy.testing.assert_array_equal(gram.rows.cpu(), rows)
    numpy.testing.assert_array_equal(gram.columns.cpu(), columns)
    assert value == len(common) / k
    assert index == len(common) / (2 * k - len(common))
    assert int((angles.sines == 0).sum()) == len(common)
    assert geodesic.of(angles) == pytest.approx(math.pi / 2 * math.sqrt(k - len(common)), rel=1e-13)


def test_a_mask_meets_a_basis_by_a_gather(device):
    """Neither order may form the (n, k) basis of the mask, nor multiply by an identity of its size."""
    n, k, dim = 200_000, 50_000, 3
    mask = MaskSubspace.random(n, k, seed=1, device=device)
    basis = OrthonormalSubspace.random(n, dim, seed=2, device=device)
    expected = float(basis.vectors[mask.mask].double().square().sum()) / math.sqrt(k * dim)
    with LargestTensor() as largest:
        values = overlap(mask, basis), overlap(basis, mask)
    assert values == pytest.approx((expected, expected), rel=1e-13)
    assert largest.entries <= k * dim


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
class TestCurve:
    def test_scores_equal_the_overlap_at_every_k(self, device, dtype):
        eig = eigenspace(40, 15, 1, dtype, device)
        scores = torch.randint(0, 12, (40,), generator=torch.Generator().manual_seed(2)).to(device, dtype)  # many ties
        curve = overlap_curve(scores, eig)
        assert curve.dtype == torch.float64
        expected = [overlap(MaskSubspace.top_k(scores, k), eig.leading(k)) for k in range(1, 16)]
        numpy.testing.assert_allclose(curve.cpu(), expected, rtol=1e-13)

    def test_eigenspaces_equal_the_overlap_at_every_k(self, device, dtype):
        A, B = eigenspace(40, 15, 1, dtype, device), eigenspace(40, 9, 2, dtype, device)
        expected = [overlap(A.leading(k), B.leading(k)) for k in range(1, 10)]
        # Products of other shapes add up in another order.
        numpy.testing.assert_allclose(overlap_curve(A, B).cpu(), expected, rtol=10 * TOLERANCE[dtype])
        numpy.testing.assert_allclose(overlap_curve(B, A).cpu(), expected, rtol=10 * TOLERANCE[dtype])

    def test_of_an_eigenspace_with_itself_is_one(self, device, dtype):
        A = eigenspace(40, 15, 1, dtype, device)
        numpy.testing.assert_allclose(overlap_curve(A, A).cpu(), numpy.ones(15), rtol=0, atol=TOLERANCE[dtype])


def test_curve_follows_the_order_of_the_eigenvectors_not_of_the_eigenvalues(device):
    """Leading by magnitude: -5 before 3. Nothing sorts again."""
    vectors = torch.eye(4, dtype=torch.float64, device=device)[:, [2, 0]]
    eig = EigenSubspace(vectors, torch.tensor([-5.0, 3.0], dtype=torch.float64, device=device))
    scores = torch.tensor([0.0, 1.0, 9.0, 2.0], dtype=torch.float64, device=device)
    assert overlap_curve(scores, eig).tolist() == [1.0, 0.5]


def test_curve_over_all_of_the_space_ends_at_one(device):
    eig = eigenspace(8, 8, 1, torch.float64, device)
    curve = overlap_curve(torch.arange(8.0, dtype=torch.float64, device=device), eig)
    assert curve[-1].item() == pytest.approx(1, abs=1e-14)


def test_scores_need_not_share_the_dtype(device):
    eig = eigenspace(8, 3, 1, torch.float64, device)
    scores = torch.arange(8, device=device)
    torch.testing.assert_close(overlap_curve(scores, eig), overlap_curve(scores.float(), eig), rtol=0, atol=0)


class TestBadInput:
    basis = OrthonormalSubspace.random(9, 2)

    @pytest.mark.parametrize("metric", [overlap, containment])
    def test_pairs(self, metric):
        with pytest.raises(ValueError, match="different dimension"):
            metric(self.basis, OrthonormalSubspace.random(8, 2))
        with pytest.raises(TypeError, match="differ in dtype"):
            metric(self.basis, OrthonormalSubspace.random(9, 2, dtype=torch.float64))
        for pair in ((self.basis, self.basis.vectors), (self.basis.vectors, self.basis)):
            with pytest.raises(TypeError, match="two subspaces, got Tensor"):
                metric(*pair)

    def test_jaccard_is_for_masks(self):
        mask = MaskSubspace.random(9, 2)
        for pair in ((mask, self.basis), (self.basis, mask), (mask, mask.mask)):
            with pytest.raises(TypeError, match=r"two MaskSubspaces.*use overlap"):
                jaccard(*pair)
        with pytest.raises(ValueError, match="different dimension"):
            jaccard(mask, MaskSubspace.random(8, 2))

    def test_curve_kinds(self):
        eig = eigenspace(9, 2, 1, torch.float32, "cpu")
        scores = torch.arange(9.0)
        with pytest.raises(TypeError, match="runs along an EigenSubspace, got OrthonormalSubspace"):
            overlap_curve(scores, self.basis)
        with pytest.raises(TypeError, match="pass the scores"):
            overlap_curve(MaskSubspace.random(9, 2), eig)
        with pytest.raises(ValueError, match="one score for each of the 9"):
            overlap_curve(torch.arange(8.0), eig)
        with pytest.raises(ValueError, match="NaN"):
            overlap_curve(scores.log().sub(math.inf).add(math.inf), eig)
        with pytest.raises(ValueError, match="different dimension"):
            overlap_curve(eigenspace(8, 2, 1, torch.float32, "cpu"), eig)
        with pytest.raises(TypeError, match="differ in dtype"):
            overlap_curve(eigenspace(9, 2, 1, torch.float64, "cpu"), eig)
