"""Chance levels: against all masks, simulated masks, the hypergeometric law, and where nothing varies."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import scipy.stats
import torch
from metric_contract import TOLERANCE, LargestTensor, eigenspace

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import chance, chance_curve, overlap, overlap_curve, permutation_test

SIMULATED = 20_000


def uneven(n, k, dtype, device) -> EigenSubspace:
    """An eigenspace whose leverages spread over orders of magnitude, as those of a Hessian do."""
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(n, k, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, n)[:, None]
    vectors = torch.linalg.qr(matrix)[0].to(device, dtype)
    return EigenSubspace(vectors, torch.arange(k, 0, -1, dtype=dtype, device=device))


def labels_of(*sizes, device) -> torch.Tensor:
    return torch.repeat_interleave(torch.tensor(sizes)).to(device)


def simulated_overlaps(subspace, counts, labels, seed) -> numpy.ndarray:
    """Overlaps of random masks with `counts[s]` coordinates of stratum s, drawn by sorting random keys."""
    leverage = subspace.basis.to_dense().double().square().sum(1).cpu().numpy()
    generator = numpy.random.default_rng(seed)
    total = numpy.zeros(SIMULATED)
    for stratum, count in enumerate(counts):
        members = numpy.flatnonzero(labels == stratum)
        keys = generator.random((SIMULATED, len(members)))
        total += leverage[members[keys.argsort(axis=1)[:, :count]]].sum(axis=1)
    return total / math.sqrt(sum(counts) * subspace.dim)


def assert_within_three_standard_errors(level, sample) -> None:
    assert abs(sample.mean() - level.mean) < 3 * level.std / math.sqrt(len(sample))
    # The standard error of a sample's standard deviation, from its fourth moment: no normal law is assumed.
    excess = scipy.stats.kurtosis(sample, fisher=False) - 1
    assert abs(sample.std(ddof=1) - level.std) < 3 * level.std * math.sqrt(excess / (4 * len(sample)))


class TestAllMasks:
    """On nine coordinates every mask of the null is enumerated: the closed forms are exact."""

    @pytest.mark.parametrize("m", [1, 4, 8, 9])
    def test_uniform(self, device, m):
        subspace = uneven(9, 3, torch.float64, device)
        values = [overlap(self._mask(M, device), subspace) for M in itertools.combinations(range(9), m)]
        level = chance(self._mask(range(m), device), subspace)
        assert (level.null, level.strata) == ("uniform", 1)
        assert level.observed == pytest.approx(values[0], rel=1e-13)
        assert level.mean == pytest.approx(numpy.mean(values), rel=1e-13)
        assert level.std == pytest.approx(numpy.std(values), rel=1e-12, abs=1e-15)

    @pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1, 1, 1, 2, 2], [5, -1, 5, -1, 5, 900, -1, 900, 5], [0] * 9])
    @pytest.mark.parametrize("indices", [[0, 1, 4, 7], [3, 8], [0, 1, 2, 3, 7]])
    def test_stratified(self, device, labels, indices):
        subspace = uneven(9, 3, torch.float64, device)
        labels = numpy.array(labels)
        wanted = sorted(labels[indices])
        masks = itertools.combinations(range(9), len(indices))
        values = [overlap(self._mask(M, device), subspace) for M in masks if sorted(labels[list(M)]) == wanted]
        level = chance(self._mask(indices, device), subspace, strata=torch.from_numpy(labels).to(device))
        assert (level.null, level.strata) == ("stratified", len(set(labels.tolist())))
        assert level.mean == pytest.approx(numpy.mean(values), rel=1e-13)
        assert level.std == pytest.approx(numpy.std(values), rel=1e-12, abs=1e-15)

    @staticmethod
    def _mask(indices, device):
        return MaskSubspace.from_indices(torch.tensor(list(indices), device=device), 9, torch.float64)


class TestSimulatedMasks:
    """20,000 masks each; the seed is fixed, three standard errors of mean and of standard deviation."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_uniform(self, device, dtype):
        subspace = uneven(300, 12, dtype, device)
        mask = MaskSubspace.random(300, 40, seed=1, dtype=dtype, device=device)
        sample = simulated_overlaps(subspace, [40], numpy.zeros(300), seed=2)
        assert_within_three_standard_errors(chance(mask, subspace), sample)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_stratified(self, device, dtype):
        subspace = uneven(300, 12, dtype, device)
        labels = labels_of(20, 180, 1, 99, device=device)
        mask = MaskSubspace.from_mask(torch.arange(300, device=device) % 3 == 0, dtype)
        counts = torch.bincount(labels[mask.indices]).tolist()
        assert counts[0] > 0
        sample = simulated_overlaps(subspace, counts, labels.cpu().numpy(), seed=3)
        level = chance(mask, subspace, strata=labels)
        assert_within_three_standard_errors(level, sample)
        assert abs(chance(mask, subspace).std - level.std) > 0.1 * level.std, "the nulls must differ to be told apart"

    def test_at_a_point_of_the_curve(self, device):
        subspace = uneven(300, 12, torch.float64, device)
        labels = labels_of(20, 180, 1, 99, device=device)
        scores = torch.rand(300, generator=torch.Generator().manual_seed(4)).to(device)
        counts = torch.bincount(labels[MaskSubspace.top_k(scores, 10).indices], minlength=4).tolist()
        sample = simulated_overlaps(subspace.leading(10), counts, labels.cpu().numpy(), seed=5)
        assert_within_three_standard_errors(chance_curve(scores, subspace, labels).at(10), sample)

    def test_random_subspaces_have_the_mean_of_random_masks(self, device):
        """Haar measure against one fixed mask: the expectation of each leverage is l / n."""
        mask = MaskSubspace.random(30, 8, seed=1, dtype=torch.float64, device=device)
        subspaces = [
            OrthonormalSubspace.random(30, 5, seed=seed, dtype=torch.float64, device=device) for seed in range(3000)
        ]
        values = numpy.array([overlap(mask, subspace) for subspace in subspaces])
        mean = chance(mask, subspaces[0]).mean
        assert mean == pytest.approx(math.sqrt(8 * 5) / 30, rel=1e-13)
        assert abs(values.mean() - mean) < 3 * values.std() / math.sqrt(len(values))


def test_a_mask_against_a_mask_is_hypergeometric(device):
    n, sizes = 100_000, (3_000, 20_000)
    A, B = (MaskSubspace.random(n, size, seed=size, device=device) for size in sizes)
    law, scale = scipy.stats.hypergeom(n, *sizes), math.sqrt(math.prod(sizes))
    level = chance(A, B)
    assert level.observed == pytest.approx(overlap(A, B), rel=1e-14)
    assert level.mean * scale == pytest.approx(law.mean(), rel=1e-12)
    assert level.std * scale == pytest.approx(law.std(), rel=1e-12)


def test_ten_million_coordinates(device):
    n, k = 10_000_000, 2_000_000
    A, B = (MaskSubspace.random(n, k, seed=seed, device=device) for seed in (1, 2))
    strata = torch.arange(n, device=device) // 160_000
    with LargestTensor() as largest:
        levels = chance(A, B), chance(A, B, strata)
    assert largest.entries <= n
    for level in levels:
        assert level.mean == pytest.approx(k / n, rel=1e-2)
        assert abs(level.z) < 5
    law = scipy.stats.hypergeom(n, k, k)
    # Sums over ten million terms one after another, of rounding 1e-16 each: 1e-12 at a random walk's pace.
    assert levels[0].std * k == pytest.approx(law.std(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("stratified", [False, True])
def test_curve_equals_the_level_at_every_k(device, dtype, stratified):
    subspace = uneven(50, 12, dtype, device)
    labels = labels_of(5, 30, 1, 14, device=device) if stratified else None
    scores = torch.randint(0, 20, (50,), generator=torch.Generator().manual_seed(3)).to(device, dtype)  # ties
    curve = chance_curve(scores, subspace, labels)
    assert len(curve) == 12
    torch.testing.assert_close(curve.observed, overlap_curve(scores, subspace), rtol=0, atol=0)
    for k in range(1, 13):
        level = chance(MaskSubspace.top_k(scores, k), subspace.leading(k), labels)
        at = curve.at(k)
        assert (at.null, at.strata) == (level.null, level.strata) == (curve.null, curve.strata)
        # The leverages of a float32 subspace are float32; the curve adds the same squares up in float64.
        for name in ("observed", "mean", "std", "ratio"):
            assert getattr(at, name) == pytest.approx(getattr(level, name), rel=TOLERANCE[dtype])
        assert at.z == pytest.approx(level.z, abs=1e-4 if dtype == torch.float32 else 1e-12)
        assert curve.z[k - 1].item() == at.z
        assert curve.ratio[k - 1].item() == at.ratio


def test_curve_makes_no_copy_of_the_eigenvectors(device, monkeypatch):
    n, K = 3000, 40
    monkeypatch.setattr("eigenspan.linops.tall_matrix._ROW_NUMBERS", n)
    subspace = uneven(n, K, torch.float32, device)
    scores = torch.rand(n, generator=torch.Generator().manual_seed(0)).to(device)
    with LargestTensor() as largest:
        chance_curve(scores, subspace, labels_of(1000, 1999, 1, device=device))
    assert largest.entries <= max(n, K * K)


class TestNothingVaries:
    """A standard deviation of 0 means that every mask of the null has the observed overlap: z is nan, never noise."""

    def test_a_mask_of_everything(self, device):
        level = chance(MaskSubspace.random(9, 9, device=device), eigenspace(9, 3, 1, torch.float32, device))
        assert level.std == 0
        assert math.isnan(level.z)
        assert level.ratio == pytest.approx(1, rel=1e-6)

    def test_every_coordinate_a_stratum(self, device):
        mask, subspace = MaskSubspace.random(9, 4, device=device), eigenspace(9, 3, 1, torch.float32, device)
        level = chance(mask, subspace, strata=torch.arange(9, device=device))
        assert level.std == 0
        assert level.observed == pytest.approx(level.mean, rel=1e-12)
        assert math.isnan(level.z)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_equal_leverages_up_to_rounding(self, device, dtype):
        """Cosines and sines: every leverage is 2/n, but none is it exactly."""
        n = 100_000
        angle = 2 * math.pi * torch.arange(n, dtype=torch.float64, device=device) / n
        vectors = (torch.stack([angle.cos(), angle.sin()], dim=1) * math.sqrt(2 / n)).to(dtype)
        eig = EigenSubspace(vectors, torch.ones(2, dtype=dtype, device=device))
        for strata in (None, (torch.arange(n, device=device) * 7) % 3):
            level = chance(MaskSubspace.random(n, 500, dtype=dtype, device=device), eig, strata)
            assert level.std == 0
            assert math.isnan(level.z)
            curve = chance_curve(torch.arange(n, device=device), eig, strata)
            assert math.isnan(curve.z[1].item())
            assert curve.std[0].item() > 0, "one cosine alone does vary"

    def test_strata_without_leverage(self, device):
        """Two axes, and a mask in the stratum that they do not meet: overlap 0 whatever is drawn."""
        subspace = MaskSubspace.from_indices(torch.tensor([0, 1], device=device), 8)
        mask = MaskSubspace.from_indices(torch.tensor([5, 6], device=device), 8)
        level = chance(mask, subspace, strata=labels_of(4, 4, device=device))
        assert (level.observed, level.mean, level.std) == (0, 0, 0)
        assert math.isnan(level.z)
        assert math.isnan(level.ratio)


def test_strata_part_layer_from_size(device):
    """All leverage in one small tensor and a mask that sits in it: far above uniform chance, at stratified chance."""
    subspace = MaskSubspace.from_indices(torch.arange(0, 40, 2, device=device), 1000)
    mask = MaskSubspace.from_indices(torch.cat([torch.arange(0, 20), torch.arange(500, 510)]).to(device), 1000)
    assert chance(mask, subspace).z > 10
    assert chance(mask, subspace, labels_of(40, 960, device=device)).z == pytest.approx(0, abs=1e-12)


def test_labels_are_only_names(device):
    subspace, mask = (
        uneven(50, 4, torch.float64, device),
        MaskSubspace.random(50, 9, dtype=torch.float64).to(device=device),
    )
    labels = torch.arange(50, device=device) % 3
    for renamed in (2 - labels, labels * 10**12 - 5, labels.to(torch.int8), labels.to(torch.uint8)):
        level, other = chance(mask, subspace, labels), chance(mask, subspace, renamed)
        assert (other.mean, other.std) == pytest.approx((level.mean, level.std), rel=1e-14)
        assert (other.null, other.strata) == (level.null, level.strata) == ("stratified", 3)


def test_repr_is_readable(device):
    A = MaskSubspace.from_indices(torch.arange(4, device=device), 16)
    B = MaskSubspace.from_indices(torch.arange(2, 6, device=device), 16)
    assert repr(chance(A, B)) == "<ChanceLevel observed 0.5, by chance 0.25 ± 0.19 (uniform), ratio 2, z 1.29>"
    curve = chance_curve(torch.arange(9, device=device), eigenspace(9, 3, 1, torch.float32, device))
    assert repr(curve) == "<ChanceCurve k = 1 ... 3 (uniform)>"
    strata = labels_of(4, 12, device=device)
    assert "± 0 (stratified, 2 strata), ratio" in repr(chance(A, A, strata))
    assert "(stratified, 1 stratum)" in repr(chance(A, A, torch.zeros_like(strata)))


class TestBadInput:
    mask = MaskSubspace.random(9, 2)
    eig = eigenspace(9, 3, 1, torch.float32, "cpu")

    def test_kinds(self):
        with pytest.raises(TypeError, match="those of a MaskSubspace, got EigenSubspace"):
            chance(self.eig, self.mask)
        with pytest.raises(TypeError, match="two subspaces, got Tensor"):
            chance(self.mask, self.eig.vectors)
        with pytest.raises(TypeError, match="tensor of scores, got MaskSubspace"):
            chance_curve(self.mask, self.eig)
        with pytest.raises(TypeError, match="tensor of scores, got EigenSubspace"):
            chance_curve(self.eig, self.eig)
        with pytest.raises(TypeError, match="runs along an EigenSubspace"):
            chance_curve(torch.arange(9.0), self.mask)

    def test_spaces(self):
        with pytest.raises(ValueError, match="different dimension"):
            chance(MaskSubspace.random(8, 2), self.eig)
        with pytest.raises(TypeError, match="differ in dtype"):
            chance(MaskSubspace.random(9, 2, dtype=torch.float64), self.eig)

    @pytest.mark.parametrize("strata", [torch.zeros(9), torch.zeros(9, dtype=torch.bool), [0] * 9])
    def test_labels_that_are_not_integers(self, strata):
        with pytest.raises(TypeError, match="integer labels"):
            chance(self.mask, self.eig, strata)
        with pytest.raises(TypeError, match="integer labels"):
            chance_curve(torch.arange(9.0), self.eig, strata)

    @pytest.mark.parametrize("shape", [(8,), (9, 1), (0,)])
    def test_labels_of_another_shape(self, shape):
        with pytest.raises(ValueError, match="one label for each of 9"):
            chance(self.mask, self.eig, torch.zeros(shape, dtype=torch.long))

    @pytest.mark.parametrize("k", [0, 4, -1, 1.0, "1"])
    def test_a_curve_starts_at_one_and_ends_at_its_length(self, k):
        with pytest.raises(ValueError, match="1 <= k <= 3"):
            chance_curve(torch.arange(9.0), self.eig).at(k)


@pytest.mark.parametrize("value", [None, "much", torch.zeros(2)])
def test_a_statistic_is_a_number(value):
    with pytest.raises(TypeError, match="a statistic of a mask is a number, got"):
        permutation_test(lambda mask: value, MaskSubspace.random(6, 2))


def test_a_statistic_may_have_a_graph():
    level = permutation_test(lambda mask: torch.ones((), requires_grad=True), MaskSubspace.random(6, 2), draws=9)
    assert (level.observed, level.mean) == (1, 1)
