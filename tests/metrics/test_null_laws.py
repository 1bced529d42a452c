"""p-values and intervals: uniform under the null, exact where laws are known, and of whole curves."""

from __future__ import annotations

import gc
import importlib
import math
import pickle
import weakref

import numpy
import pytest
import scipy.stats
import torch
from metric_contract import eigenspace

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import chance, chance_curve, geodesic, overlap, overlap_excess, permutation_test
from eigenspan.metrics.laws import BetaLaw, DrawnLaw, LatticeLaw
from eigenspan.metrics.sampling import Strata, ordered_samples

DRAWN = 2000  # masks of the null, each with a p-value
FEW = 79  # draws of a law: 5 % of 80 are two at either end, so that intervals of few hold 95 % as well as of many
CRITICAL = 1e-3  # of Kolmogorov-Smirnov tests, whose seeds are fixed


def uneven(n, k, decay, device) -> EigenSubspace:
    """Leverages that spread over ``decay`` orders of magnitude: sums of few are far from normal."""
    generator = torch.Generator().manual_seed(7)
    scale = torch.logspace(0, -decay, n, dtype=torch.float64)[:, None]
    vectors = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64) * scale)[0]
    return EigenSubspace(vectors.to(device), torch.arange(k, 0, -1, dtype=torch.float64, device=device))


def labels_of(*sizes, device) -> torch.Tensor:
    return torch.repeat_interleave(torch.tensor(sizes)).to(device)


def assert_uniform_and_covering(p_values, covered) -> None:
    assert scipy.stats.kstest(p_values, "uniform").pvalue > CRITICAL
    assert 0.93 <= numpy.mean(covered) <= 0.97


class TestUnderTheNull:
    """Random masks or subspaces: p-values are uniform, and 95 % intervals hold 93 to 97 % of them.

    By chance another share of 2,000 is held with a probability of 4e-5, of 1,000 with 0.3 %. A null whose deviation is
    10 % too small, so that 92.2 % are held, is seen by 2,000 with a probability of 90 %, by 1,000 with 81 %.
    """

    @pytest.mark.parametrize(
        ("sizes", "counts", "masks"),
        [
            pytest.param([300], [1], DRAWN, id="one coordinate"),
            pytest.param([300], [3], DRAWN, id="three"),
            pytest.param([300], [290], DRAWN, id="nearly all"),
            pytest.param([20, 180, 1, 99], [2, 1, 0, 0], DRAWN, id="few strata"),
            pytest.param([20, 180, 1, 99], [17, 60, 1, 40], DRAWN // 2, id="full strata"),
            pytest.param([2100, 400], [1050, 4], DRAWN // 2, id="a stratum by its moments"),
        ],
    )
    def test_masks(self, sizes, counts, masks, device):
        n = sum(sizes)
        subspace, labels = uneven(n, 12, 2, device), labels_of(*sizes, device=device)
        strata, generator = Strata(labels, torch.tensor(counts)), numpy.random.default_rng(1)
        p_values, covered = [], []
        for seed in range(masks):
            mask = MaskSubspace.from_indices(strata.mask(generator), n, torch.float64)
            level = chance(mask, subspace, labels if len(sizes) > 1 else None, draws=FEW, seed=seed)
            low, high = level.interval()
            p_values.append(level.p_value())
            covered.append(low <= level.observed <= high)
        assert_uniform_and_covering(p_values, covered)

    def test_a_single_axis_among_thousands(self, device):
        """The overlap with one axis is 0 or 1 / √m: its law is that of a coin, however many coordinates are drawn."""
        axis = OrthonormalSubspace(torch.eye(10_000, 1, dtype=torch.float64, device=device))
        hit, missed = (
            chance(MaskSubspace((torch.arange(10_000, device=device) - start) % 10_000 < 2000, torch.float64), axis)
            for start in (0, 5)
        )
        # Five standard errors of 9,999 draws.
        assert hit.p_value() == pytest.approx(0.2, abs=0.02)
        assert (hit.p_value("less"), missed.p_value()) == (1, 1)
        assert missed.p_value("less") == pytest.approx(0.8, abs=0.02)
        assert hit.interval() == pytest.approx((0, 2000**-0.5))

    def test_the_normal_law_would_not_do(self, device):
        subspace = uneven(300, 12, 2, device)
        masks = [MaskSubspace.random(300, 3, seed=seed, dtype=torch.float64, device=device) for seed in range(DRAWN)]
        z = [chance(mask, subspace).z for mask in masks]
        assert scipy.stats.kstest(scipy.stats.norm.sf(z), "uniform").pvalue < 1e-20

    @pytest.mark.parametrize(("n", "k", "dim"), [(10, 1, 3), (12, 3, 5), (40, 2, 2), (8, 4, 6), (60, 10, 20)])
    def test_subspaces(self, n, k, dim, device):
        A = OrthonormalSubspace.random(n, k, seed=DRAWN, dtype=torch.float64, device=device)
        levels = [
            chance(A, OrthonormalSubspace.random(n, dim, seed=seed, dtype=torch.float64, device=device), null="haar")
            for seed in range(DRAWN)
        ]
        intervals = [level.interval() for level in levels]
        covered = [low <= level.observed <= high for level, (low, high) in zip(levels, intervals, strict=True)]
        assert_uniform_and_covering([level.p_value() for level in levels], covered)

    def test_curves(self, device):
        subspace, labels = uneven(200, 9, 2, device), labels_of(30, 120, 50, device=device)
        generator = numpy.random.default_rng(2)
        first = torch.arange(0, 200, 22, device=device)
        strata = Strata(labels, torch.bincount(labels[first], minlength=3))
        p_values, covered = [], []
        for seed, order in enumerate(strata.orders(first, DRAWN, generator)):
            scores = torch.zeros(200, device=device)
            scores[torch.from_numpy(order).to(device)] = torch.arange(len(order), 0, -1.0, device=device)
            curve = chance_curve(scores, subspace, labels, draws=FEW, seed=seed)
            low, high = curve.interval()
            p_values.append(curve.p_value().cpu().numpy())
            covered.append(((low <= curve.observed) & (curve.observed <= high)).cpu().numpy())
        for k in range(9):
            assert scipy.stats.kstest(numpy.array(p_values)[:, k], "uniform").pvalue > CRITICAL
        # Of 79 draws the interval itself is off by 2.4 %, in each curve differently: on average it holds 95 %.
        assert 0.93 <= numpy.mean(covered) <= 0.97

    def test_bands_hold_whole_curves(self, device):
        subspace, generator = uneven(200, 9, 2, device), numpy.random.default_rng(3)
        strata = Strata(torch.zeros(200, dtype=torch.long), torch.tensor([9]))
        whole, each = 0, 0
        drawn = chance_curve(torch.arange(200.0, device=device), subspace, draws=9999)
        (low, high), narrow = drawn.band(), drawn.interval()
        for order in strata.orders(torch.arange(9), DRAWN, generator):
            scores = torch.zeros(200, device=device)
            scores[torch.from_numpy(order).to(device)] = torch.arange(9, 0, -1.0, device=device)
            observed = chance_curve(scores, subspace).observed
            whole += bool(((low <= observed) & (observed <= high)).all())
            each += bool(((narrow[0] <= observed) & (observed <= narrow[1])).all())
        assert 0.93 <= whole / DRAWN <= 0.97
        assert each / DRAWN < 0.93


@pytest.mark.parametrize(("draws", "K"), [(199, 1), (199, 3), (999, 40), (999, 300)])
def test_an_envelope_holds_new_draws(draws, K):
    """Where many draws are outermost at some k, too: those at the envelope itself are as far out as it is."""
    generator, inside, rounds = numpy.random.default_rng(0), [], 40
    for _ in range(rounds):
        new, old = (generator.standard_gamma(0.3, (size, K)).cumsum(1) for size in (500, draws))
        low, high = DrawnLaw(old, 0.0).envelope(0.9)
        inside.append(float(((low <= new) & (new <= high)).all(1).mean()))
    error = 3 * numpy.std(inside) / rounds**0.5
    assert 0.9 - error < numpy.mean(inside) < 0.95


def test_tails_of_wide_lattices():
    """Two strata of so many points that Fourier transforms are the faster way, and lose all tails below 1e-16."""
    law = LatticeLaw.common([10**9] * 2, [10**6 * 30] * 2, [10**6 * 30] * 2, 1.0)
    mean, std = 1.8e6, (2 * 9e5 * 0.97**2) ** 0.5
    for deviations in (-10, 10):  # the law is next to normal: its skewness is below a thousandth
        tail = float(law.tail(mean + deviations * std, upper=deviations > 0))
        assert tail == pytest.approx(scipy.stats.norm.sf(10), rel=0.3, abs=0)


class TestMoments:
    @pytest.mark.parametrize(("n", "k", "dim"), [(7, 1, 1), (9, 2, 5), (12, 8, 7), (5, 5, 2), (30, 3, 20)])
    def test_haar(self, n, k, dim, device):
        """20,000 Haar-random subspaces, dense pairs with k + l > n too: three standard errors of mean and deviation."""
        generator = torch.Generator().manual_seed(n)
        blocks = torch.randn(20_000, n, dim, generator=generator, dtype=torch.float64)
        sample = torch.linalg.qr(blocks)[0][:, :k].square().sum((1, 2)).numpy() / math.sqrt(k * dim)
        mask = MaskSubspace.from_indices(torch.arange(k, device=device), n, torch.float64)
        level = chance(mask, OrthonormalSubspace.random(n, dim, dtype=torch.float64, device=device), null="haar")
        assert (level.null, level.strata) == ("haar", 1)
        if k == n:
            assert level.std == 0
            assert sample == pytest.approx(level.mean, rel=1e-12)
            assert level.p_value() == 1
            assert level.interval() == (level.mean, level.mean)
            return
        assert abs(sample.mean() - level.mean) < 3 * level.std / math.sqrt(len(sample))
        excess = scipy.stats.kurtosis(sample, fisher=False) - 1
        assert abs(sample.std(ddof=1) - level.std) < 3 * level.std * math.sqrt(excess / (4 * len(sample)))

    @pytest.mark.parametrize("m", [60, 290])
    @pytest.mark.parametrize("dim", [12, 250])
    def test_masks(self, m, dim, device):
        """20,000 masks, dense ones with m + l > n too."""
        subspace = uneven(300, dim, 1, device)
        labels = labels_of(20, 180, 1, 99, device=device)
        mask = MaskSubspace.random(300, m, seed=3, dtype=torch.float64, device=device)
        counts = torch.bincount(labels[mask.indices], minlength=4)
        sample = Strata(labels, counts).sums(subspace.leverage(), 20_000, 5) / math.sqrt(m * dim)
        level = chance(mask, subspace, labels)
        assert abs(sample.mean() - level.mean) < 3 * level.std / math.sqrt(len(sample))
        excess = scipy.stats.kurtosis(sample, fisher=False) - 1
        assert abs(sample.std(ddof=1) - level.std) < 3 * level.std * math.sqrt(excess / (4 * len(sample)))

    def test_sums_by_their_moments(self, device):
        """Three standard errors of mean, deviation and skewness, beside those of samples."""
        values = torch.logspace(0, -2, 4001, dtype=torch.float64, device=device)
        strata = Strata(torch.zeros(4001, dtype=torch.long, device=device), torch.tensor([1500]))
        drawn = strata.sums(values, 10_000, 1)
        generator, population = numpy.random.default_rng(2), values.cpu().numpy()
        sampled = numpy.array([generator.permutation(population)[:1500].sum() for _ in range(10_000)])
        for moment, power in ((numpy.mean, 1), (numpy.std, 2), (scipy.stats.skew, 3)):
            single = {1: sampled.std(), 2: sampled.std() / 2**0.5, 3: 6**0.5}[power]
            error = single * math.sqrt(1 / len(sampled) + 1 / len(drawn))
            assert abs(moment(drawn) - moment(sampled)) < 3 * error


class TestLaws:
    def test_masks_are_hypergeometric(self, device):
        n, sizes = 500, (60, 90)
        A, B = (MaskSubspace.random(n, size, seed=size, device=device) for size in sizes)
        level, law, scale = chance(A, B), scipy.stats.hypergeom(n, *sizes), math.sqrt(math.prod(sizes))
        common = round(level.observed * scale)
        assert level.p_value() == pytest.approx(law.sf(common - 1), rel=1e-9)
        assert level.p_value("less") == pytest.approx(law.cdf(common), rel=1e-9)
        assert level.interval() == pytest.approx((law.ppf(0.025) / scale, law.ppf(0.975) / scale), rel=1e-12)

    def test_strata_of_masks_are_sums(self, device):
        sizes, left, right = [9, 30, 4], [3, 10, 4], [5, 7, 1]
        law = LatticeLaw.common(sizes, left, right, 0.5)
        parts = [
            scipy.stats.hypergeom(size, one, other).pmf(range(size + 1))
            for size, one, other in zip(sizes, left, right, strict=True)
        ]
        total = numpy.convolve(numpy.convolve(parts[0], parts[1]), parts[2])
        for common in range(len(total)):
            assert law.tail(common * 0.5) == pytest.approx(total[common:].sum(), abs=1e-12)
            assert law.tail(common * 0.5, upper=False) == pytest.approx(total[: common + 1].sum(), abs=1e-12)

    def test_masks_of_millions(self, device):
        n, k = 2_000_000, 400_000
        A, B = (MaskSubspace.random(n, k, seed=seed, device=device) for seed in (1, 2))
        level = chance(A, B, torch.arange(n, device=device) // 250_000)
        # So many coordinates are as good as normal: a half of a probability of one number in 300 steps of a deviation.
        assert level.p_value() == pytest.approx(scipy.stats.norm.sf(level.z), abs=1e-3)

    def test_one_haar_vector_is_beta(self, device):
        A = OrthonormalSubspace.random(30, 4, seed=1, dtype=torch.float64, device=device)
        line = OrthonormalSubspace.random(30, 1, seed=2, dtype=torch.float64, device=device)
        level, law = chance(A, line, null="haar"), scipy.stats.beta(2, 13)
        assert level.observed == pytest.approx(overlap(A, line), rel=1e-13)
        assert level.p_value() == pytest.approx(law.sf(level.observed * 2), rel=1e-10)
        assert level.interval(0.9) == pytest.approx((law.ppf(0.05) / 2, law.ppf(0.95) / 2), rel=1e-10)

    def test_beta_laws_of_a_curve(self):
        law = BetaLaw([0, 0], [1, 1], [0.5, 1], [12**-0.5, 0])
        assert law.tail([0.25, 1]).tolist() == pytest.approx([0.75, 1])
        assert law.quantile(0.25).tolist() == pytest.approx([0.25, 1])

    def test_draws_count_the_observed_value(self):
        law = DrawnLaw(numpy.array([1.0, 2.0, 3.0]), 1e-9)
        assert [float(law.tail(x)) for x in (0, 2, 2 + 1e-10, 2.5, 9)] == [1, 0.75, 0.75, 0.5, 0.25]
        assert [float(law.tail(x, upper=False)) for x in (0, 2, 9)] == [0.25, 0.75, 1]
        assert [float(law.quantile(q)) for q in (0.01, 0.25, 0.5, 0.75, 0.99)] == [1, 1, 2, 3, 3]

    def test_alternatives(self, device):
        mask, subspace = MaskSubspace.random(50, 4, device=device), eigenspace(50, 5, 1, torch.float32, device)
        level = chance(mask, subspace, draws=999)
        greater, less = level.p_value(), level.p_value("less")
        assert 1 <= greater + less <= 1 + 2 / 1000
        assert level.p_value("two-sided") == 2 * min(greater, less)

    def test_the_same_seed_gives_the_same_p_value(self, device):
        mask, subspace = MaskSubspace.random(50, 4, device=device), eigenspace(50, 5, 1, torch.float32, device)
        first, again, other = (chance(mask, subspace, seed=seed).law.values for seed in (1, 1, 2))
        assert (first == again).all()
        assert (first != other).any()

    def test_nothing_varies(self, device):
        mask, subspace = MaskSubspace.random(9, 9, device=device), eigenspace(9, 3, 1, torch.float32, device)
        level = chance(mask, subspace)
        assert level.p_value() == level.p_value("less") == level.p_value("two-sided") == 1
        assert level.interval() == (level.mean, level.mean)

    def test_no_p_value_is_zero(self, device):
        mask = MaskSubspace(torch.arange(100_000, device=device) < 1000)
        assert chance(mask, mask).p_value() == 1e-28
        for seed in range(5):
            line = OrthonormalSubspace.random(2, 1, seed=seed, device=device)
            # Equal to rounding: as far as single precision tells, an angle of 1e-3, which one line in 700 has.
            assert 1e-5 < chance(line, line, null="haar").p_value() < 3e-3

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_masks_of_any_dtype_are_counted(self, dtype, device):
        levels = []
        for each in (torch.float32, dtype):
            A, B = (MaskSubspace(torch.arange(1000, device=device) < size, each) for size in (500, 990))
            levels.append(chance(A, B))
        assert levels[0].std == levels[1].std > 0
        assert levels[0].p_value() == levels[1].p_value()

    def test_what_is_left_of_a_stratum_is_exact(self, device):
        """More than half of a stratum is drawn as what a sample leaves of it, and may leave nothing."""
        index = torch.arange(12, device=device)
        mask = MaskSubspace((index >= 3) & (index < 10), torch.float64)
        for seed in range(20):
            v = torch.zeros(12, 1, dtype=torch.float64)
            v[:3, 0] = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            level = chance(mask, OrthonormalSubspace((v / v.norm()).to(device)))
            exact = math.comb(9, 7) / math.comb(12, 7)  # the three are all left out
            assert level.p_value("less") == pytest.approx(exact, abs=5 * math.sqrt(exact / 9999))

    def test_entries_that_are_not_numbers(self, device):
        vectors = torch.eye(20, 3, device=device)
        vectors[0, 0] = torch.nan
        B = EigenSubspace(vectors, torch.ones(3, device=device), check=False)
        with pytest.raises(ValueError, match="entries that are not finite"):
            chance(MaskSubspace.random(20, 3, device=device), B)
        with pytest.raises(ValueError, match="entries that are not finite"):
            chance_curve(torch.arange(20.0, device=device).flip(0), B)

    @pytest.mark.parametrize("numbers", [2**24, 100], ids=["rows at once", "a few rows at a time"])
    def test_its_law_is_that_of_drawn_masks(self, numbers, device, monkeypatch):
        """To the last bit but for the order of sums."""
        monkeypatch.setattr(importlib.import_module("eigenspan.metrics.chance_curve"), "_NUMBERS", numbers)
        B, labels = uneven(90, 12, 1, device), labels_of(30, 60, device=device)
        scores = torch.rand(90, generator=torch.Generator().manual_seed(1)).to(device)
        curve, order = chance_curve(scores, B, labels, draws=FEW, seed=5), scores.argsort(descending=True)[:12]
        counts = torch.bincount(labels[order])
        orders = Strata(labels, counts).orders(order, FEW, numpy.random.default_rng(5))
        masks = [
            [MaskSubspace.from_indices(torch.from_numpy(drawn[:k]).to(device), 90, B.dtype) for k in (1, 7, 12)]
            for drawn in orders
        ]
        expected = [[float(overlap(mask, B.leading(mask.dim))) for mask in row] for row in masks]
        found = curve.law.values[:, [0, 6, 11]]
        numpy.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_a_band_of_too_few_draws(self, device):
        curve = chance_curve(torch.arange(200.0, device=device), uneven(200, 60, 1, device), draws=50)
        with pytest.raises(ValueError, match="50 draws are too few for a band"):
            curve.band()


class TestSamples:
    @pytest.mark.parametrize(("size", "count"), [(5, 2), (5, 4), (6, 3)])
    def test_every_order_is_as_probable(self, size, count):
        draws = 60_000
        found = ordered_samples(size, count, draws, numpy.random.default_rng(0))
        assert all(len(set(row)) == count for row in found[:100].tolist())
        orders = numpy.unique(found @ size ** numpy.arange(count), return_counts=True)[1]
        assert len(orders) == math.perm(size, count)
        assert scipy.stats.chisquare(orders).pvalue > CRITICAL

    def test_places_keep_their_strata(self):
        labels = torch.tensor([0, 1, 1, 0, 2, 1, 0])
        order = torch.tensor([3, 1, 6, 4])
        for row in Strata(labels, torch.tensor([2, 1, 1])).orders(order, 50, numpy.random.default_rng(0)):
            assert labels[torch.from_numpy(row)].tolist() == labels[order].tolist()
            assert len(set(row.tolist())) == 4


class TestPermutationTest:
    def test_of_the_overlap_agrees_with_chance(self, device):
        subspace, labels = uneven(100, 5, 2, device), labels_of(30, 70, device=device)
        mask = MaskSubspace.random(100, 10, seed=1, dtype=torch.float64, device=device)
        level = chance(mask, subspace, labels)
        drawn = permutation_test(lambda each: overlap(each, subspace), mask, labels, draws=2000)
        assert (drawn.null, drawn.strata, drawn.observed) == ("stratified", 2, pytest.approx(level.observed))
        assert drawn.mean == pytest.approx(level.mean, abs=4 * level.std / math.sqrt(2000))
        p = level.p_value()
        assert drawn.p_value() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000))

    def test_of_a_distance(self, device):
        subspace = uneven(60, 4, 2, device)
        close = MaskSubspace.top_k(subspace.leverage(), 4)
        level = permutation_test(lambda mask: geodesic(mask, subspace), close, draws=199)
        assert level.p_value("less") == 1 / 200
        assert level.z < -2

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_the_dtype_of_the_mask_does_not_round_the_statistic(self, dtype, device):
        mask = MaskSubspace(torch.arange(50, device=device) >= 40, dtype)
        level = permutation_test(lambda each: 0.9 + 1e-4 * float(each.indices.sum()), mask)
        assert level.std > 0
        assert level.p_value() == 1 / 1000

    def test_of_a_constant(self, device):
        level = permutation_test(lambda mask: 0.1 * mask.dim, MaskSubspace.random(9, 3, device=device))
        assert math.isnan(level.z)
        assert level.p_value() == 1

    def test_bad_input(self, device):
        mask = MaskSubspace.random(9, 3, device=device)
        with pytest.raises(TypeError, match="of a MaskSubspace, got Tensor"):
            permutation_test(overlap, mask.mask)
        with pytest.raises(ValueError, match="not finite"):
            permutation_test(lambda mask: math.inf, mask)
        with pytest.raises(ValueError, match="draws is an integer >= 1"):
            permutation_test(lambda mask: 1.0, mask, draws=0)


def test_overlap_excess_is_what_strata_leave(device):
    """All leverage in one small tensor, and a mask that sits in it: twenty times uniform chance, and no excess."""
    subspace = MaskSubspace.from_indices(torch.arange(0, 40, 2, device=device), 1000)
    mask = MaskSubspace.from_indices(torch.arange(0, 20, device=device), 1000)
    assert chance(mask, subspace).ratio == pytest.approx(25)
    assert overlap_excess(mask, subspace, labels_of(40, 960, device=device)) == pytest.approx(1)


def test_curves_of_two_eigenspaces_against_haar(device):
    A, B = (eigenspace(40, 6, seed, torch.float64, device) for seed in (1, 2))
    curve = chance_curve(A, B, null="haar")
    p_values, (low, high) = curve.p_value(), curve.interval(0.9)
    for k in range(1, 7):
        level = chance(A.leading(k), B.leading(k), null="haar")
        assert curve.at(k).z == pytest.approx(level.z, rel=1e-9)
        assert float(p_values[k - 1]) == pytest.approx(level.p_value(), rel=1e-9)
        assert (float(low[k - 1]), float(high[k - 1])) == pytest.approx(level.interval(0.9), rel=1e-9)
    with pytest.raises(ValueError, match="no band"):
        curve.band()


class TestKeeping:
    """Levels outlive what they are of: in a pickle, and without what their law was found from."""

    def levels(self, device):
        subspace, mask = uneven(60, 4, 1, device), MaskSubspace.random(60, 5, dtype=torch.float64, device=device)
        labels = labels_of(20, 40, device=device)
        line = EigenSubspace(subspace.vectors[:, :1], subspace.eigenvalues[:1])
        return [
            chance(mask, subspace, labels),
            chance(mask, subspace),
            chance(mask, MaskSubspace.random(60, 9, seed=1, dtype=torch.float64, device=device), labels),
            chance(subspace, line, null="haar"),
            chance(mask, MaskSubspace(torch.ones(60, dtype=torch.bool, device=device), torch.float64)),
            permutation_test(lambda other: overlap(other, subspace), mask, draws=20),
        ]

    @pytest.mark.parametrize("asked", [False, True])
    def test_pickles(self, asked, device):
        for level in self.levels(device):
            expected = (level.p_value(), level.interval()) if asked else None
            again = pickle.loads(pickle.dumps(level))
            assert again == level
            assert (again.p_value(), again.interval()) == (expected or (level.p_value(), level.interval()))
        curve = chance_curve(torch.arange(60.0, device=device), uneven(60, 4, 1, device), draws=99)
        again = pickle.loads(pickle.dumps(curve))
        torch.testing.assert_close(again.p_value(), curve.p_value(), rtol=0, atol=0)

    def test_what_a_law_is_found_from_is_let_go_of(self, device):
        n = 20_000
        subspace, strata = uneven(n, 4, 1, device), torch.arange(n, device=device) % 2
        level = chance(MaskSubspace.random(n, 5, dtype=torch.float64, device=device), subspace, draws=99)
        curve = chance_curve(torch.arange(float(n), device=device), subspace, strata, draws=99)
        assert 8 * n < len(pickle.dumps(level)) < 10 * n
        kept = weakref.ref(subspace)
        del subspace
        level.interval(), curve.interval()
        gc.collect()
        assert kept() is None
        assert len(pickle.dumps(level)) < n


class TestBadInput:
    mask = MaskSubspace.random(9, 2)
    eig = eigenspace(9, 3, 1, torch.float32, "cpu")
    strata = torch.arange(9)

    def test_nulls(self):
        with pytest.raises(ValueError, match="'uniform', 'stratified' or 'haar', got 'normal'"):
            chance(self.mask, self.eig, null="normal")
        with pytest.raises(ValueError, match="'stratified' takes strata"):
            chance(self.mask, self.eig, null="stratified")
        for null in ("uniform", "haar"):
            with pytest.raises(ValueError, match=f"'{null}' takes no strata"):
                chance_curve(torch.arange(9.0), self.eig, self.strata, null=null)
        with pytest.raises(TypeError, match="choose null='haar'"):
            chance(self.eig, self.eig)

    def test_draws_and_levels(self):
        for draws in (0, 2.5, True):
            with pytest.raises(ValueError, match=f"draws is an integer >= 1, got {draws}"):
                chance(self.mask, self.eig, draws=draws)
        for seed in (-1, 0.5, None):
            with pytest.raises(ValueError, match=f"seed is an integer >= 0, got {seed}"):
                chance_curve(torch.arange(9.0), self.eig, seed=seed)
            with pytest.raises(ValueError, match=f"seed is an integer >= 0, got {seed}"):
                permutation_test(lambda mask: 1.0, self.mask, seed=seed)
        level = chance(self.mask, self.eig)
        with pytest.raises(ValueError, match="between 0 and 1, got 95"):
            level.interval(95)
        with pytest.raises(ValueError, match="greater, less, two-sided; got 'above'"):
            level.p_value("above")

    def test_levels_without_a_law(self):
        level = chance_curve(torch.arange(9.0), self.eig).at(2)
        with pytest.raises(ValueError, match="moments but no law"):
            level.p_value()
