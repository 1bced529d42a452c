"""Masks as subspaces: set algebra, and the rules that choose them by scores; never a dense basis."""

from __future__ import annotations

import numpy
import pytest
import torch
from metric_contract import LargestTensor
from subspace_contract import KINDS, SubspaceContract, dense

from eigenspan.linops import Dense, MaskSubspace, OrthonormalSubspace, PartialPermutation, Ties, ranking


class TestMask(SubspaceContract):
    make = staticmethod(KINDS["mask"])


def mask(text, dtype=torch.float32, device="cpu"):
    """A mask as a row of ones and zeros."""
    return MaskSubspace(torch.tensor([letter == "1" for letter in text], device=device), dtype)


def written(subspace):
    return "".join("01"[bit] for bit in subspace.mask.tolist())


class TestConstruction:
    def test_basis_vectors_stand_in_the_order_of_the_axes(self, device):
        for A in (
            mask("01011", device=device),
            MaskSubspace.from_mask(torch.tensor([0, 1, 0, 1, 1], device=device).bool()),
            MaskSubspace.from_indices(torch.tensor([4, 1, 3], device=device), 5),
            MaskSubspace.from_indices(torch.tensor([3, 4, 1], dtype=torch.int32, device=device), 5),
        ):
            assert written(A) == "01011"
            assert A.indices.tolist() == [1, 3, 4]
            assert dense(A).tolist() == torch.eye(5)[:, [1, 3, 4]].tolist()
            assert A.leverage().tolist() == [0, 1, 0, 1, 1]

    @pytest.mark.parametrize("wrong", [torch.ones(4), torch.tensor([0, 2]), [True, False], numpy.ones(3, dtype=bool)])
    def test_what_is_not_a_boolean_tensor(self, wrong):
        with pytest.raises(TypeError, match=r"a mask is a boolean tensor, got .*from_indices, .*from_named"):
            MaskSubspace(wrong)

    def test_not_flat(self):
        with pytest.raises(ValueError, match=r"flat, \(n,\), got shape \(2, 3\); flatten it"):
            MaskSubspace(torch.ones(2, 3, dtype=torch.bool))

    def test_no_coordinate(self):
        with pytest.raises(ValueError, match="selects no coordinate"):
            mask("0000")
        with pytest.raises(ValueError, match="selects no coordinate"):
            MaskSubspace(torch.zeros(0, dtype=torch.bool))
        with pytest.raises(ValueError, match="selects no coordinate"):
            MaskSubspace.from_indices(torch.zeros(0, dtype=torch.long), 4)

    def test_all_coordinates(self, device):
        A = mask("1111", device=device)
        assert torch.equal(A.basis.to_dense(), torch.eye(4, device=device))
        assert bool((A.complement_projector.to_dense() == 0).all())
        with pytest.raises(ValueError, match="holds every coordinate, so its complement is empty"):
            A.complement()

    @pytest.mark.parametrize(
        ("indices", "error"), [([0, 0], ValueError), ([5], ValueError), ([-1], ValueError), ([0.0, 1.0], TypeError)]
    )
    def test_bad_indices(self, indices, error):
        with pytest.raises(error, match="indices"):
            MaskSubspace.from_indices(torch.tensor(indices), 5)


class TestSetAlgebra:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_that_of_sets(self, seed, device):
        A = MaskSubspace.random(20, 9, seed=seed, device=device)
        B = MaskSubspace.random(20, 12, seed=seed + 50, device=device)
        a, b = set(A.indices.tolist()), set(B.indices.tolist())
        for result, expected in (
            (A & B, a & b),
            (A | B, a | b),
            (A - B, a - b),
            (B - A, b - a),
            (A.complement(), set(range(20)) - a),
            (A & A, a),
            (A | A.complement(), set(range(20))),
        ):
            assert result.indices.tolist() == sorted(expected)
            assert (result.dtype, result.device) == (A.dtype, A.device)

    def test_complement_spans_the_orthogonal_complement(self, device):
        A = MaskSubspace.random(9, 4, dtype=torch.float64, device=device)
        assert dense(A.complement().projector).tolist() == dense(A.complement_projector).tolist()
        assert written(A.complement().complement()) == written(A)

    @pytest.mark.parametrize(("left", "symbol", "right"), [("1100", "&", "0011"), ("1100", "-", "1110")])
    def test_nothing_left(self, left, symbol, right):
        A, B = mask(left), mask(right)
        with pytest.raises(ValueError, match=rf"{A} {symbol} {B} selects no coordinate"):
            A & B if symbol == "&" else A - B

    def test_bad_operands(self):
        A = mask("1010")
        for operate in (lambda B: A & B, lambda B: A | B, lambda B: A - B):
            with pytest.raises(ValueError, match="different dimension"):
                operate(mask("10"))
            with pytest.raises(TypeError, match="differ in dtype"):
                operate(mask("1110", torch.float64))
            with pytest.raises(TypeError, match="unsupported operand"):
                operate(A.mask)

    def test_operands_are_left_alone(self):
        A, B = mask("1100"), mask("0110")
        A & B, A | B, A - B, A.complement()
        assert (written(A), written(B)) == ("1100", "0110")


class TestRanking:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.bfloat16], ids=str)
    def test_largest_first_and_of_equals_the_lower_index(self, dtype, device):
        scores = torch.tensor([2, 7, 2, 9, 7, 2], dtype=dtype, device=device)
        assert ranking(scores, 6).tolist() == [3, 1, 4, 0, 2, 5]
        assert [written(MaskSubspace.top_k(scores, k)) for k in (1, 2, 3, 4)] == [
            "000100",
            "010100",
            "010110",
            "110110",
        ]

    def test_many_ties(self, device):
        """A sort that is not stable shuffles equals once there are more than a few."""
        scores = (torch.arange(20_000, device=device) % 3).float()
        expected = torch.cat([torch.arange(start, 20_000, 3, device=device) for start in (2, 1, 0)])
        assert torch.equal(ranking(scores, 20_000), expected)

    def test_top_k_are_nested_and_agree_with_numpy(self):
        scores = torch.randn(200, dtype=torch.float64)
        order = numpy.argsort(-scores.numpy(), kind="stable")
        for k in (1, 50, 200):
            assert MaskSubspace.top_k(scores, k).indices.tolist() == sorted(order[:k].tolist())

    def test_infinities_have_a_rank(self):
        assert ranking(torch.tensor([0.0, -torch.inf, torch.inf]), 3).tolist() == [2, 0, 1]

    def test_dtype_of_the_mask_is_that_of_the_scores(self):
        assert MaskSubspace.top_k(torch.ones(3, dtype=torch.float64), 2).dtype == torch.float64
        assert MaskSubspace.top_k(torch.ones(3, dtype=torch.int64), 2).dtype == torch.float32

    @pytest.mark.parametrize("k", [0, 4, -1])
    def test_out_of_range(self, k):
        with pytest.raises(ValueError, match=rf"1 <= k <= n = 3, got k={k}"):
            ranking(torch.ones(3), k)

    def test_nan_has_no_rank(self):
        scores = torch.tensor([1.0, float("nan"), 2.0])
        for rank in (ranking, MaskSubspace.top_k):
            with pytest.raises(ValueError, match="scores hold NaN, which has no rank"):
                rank(scores, 1)

    def test_not_flat(self):
        with pytest.raises(ValueError, match=r"scores are flat, \(n,\), got shape \(2, 2\)"):
            MaskSubspace.top_k(torch.ones(2, 2), 1)


def scores_with_ties(device="cpu", dtype=torch.float64):
    """300 scores of which each of 20 values stands about 15 times."""
    numbers = numpy.random.default_rng(5).integers(-10, 10, 300)
    return torch.from_numpy(numbers).to(device, dtype)


def lexsorted(scores, eligible):
    """The eligible coordinates by falling score, then by rising index: the keys of lexsort, the last one first."""
    return eligible[numpy.lexsort((eligible, -scores.cpu().numpy()[eligible]))]


class TestWithin:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64], ids=str)
    @pytest.mark.parametrize("k", [1, 30, 99])
    def test_agrees_with_numpy(self, k, dtype, device):
        scores = scores_with_ties(device, dtype)
        eligible = numpy.random.default_rng(6).permutation(300)[:99]
        expected = lexsorted(scores, numpy.sort(eligible))[:k].tolist()
        indices = torch.from_numpy(eligible).to(device)
        boolean = torch.zeros(300, dtype=torch.bool, device=device).index_fill_(0, indices, True)
        for within in (indices, indices.int(), boolean, MaskSubspace(boolean)):
            assert ranking(scores, k, within=within).tolist() == expected
            assert MaskSubspace.top_k(scores, k, within=within).indices.tolist() == sorted(expected)

    def test_of_all_coordinates_is_that_without(self, device):
        scores = scores_with_ties(device)
        assert torch.equal(ranking(scores, 300, within=torch.arange(300, device=device).flip(0)), ranking(scores, 300))

    def test_nan_outside_does_not_matter(self):
        scores = torch.tensor([1.0, float("nan"), 2.0])
        assert written(MaskSubspace.top_k(scores, 1, within=torch.tensor([0, 2]))) == "001"
        with pytest.raises(ValueError, match="scores hold NaN"):
            MaskSubspace.top_k(scores, 1, within=torch.tensor([0, 1]))

    @pytest.mark.parametrize(
        ("within", "error", "message"),
        [
            (torch.tensor([0, 0]), ValueError, "twice"),
            (torch.tensor([0, 3]), ValueError, r"lie in \[0, 3\)"),
            (torch.tensor([0.0]), TypeError, "indices are integers"),
            (torch.tensor([], dtype=torch.long), ValueError, "no coordinate to choose from"),
            (torch.zeros(3, dtype=torch.bool), ValueError, "no coordinate to choose from"),
            (torch.ones(4, dtype=torch.bool), ValueError, r"shape \(4,\), the scores have \(3,\)"),
            (mask("1111"), ValueError, r"shape \(4,\), the scores have \(3,\)"),
            (torch.tensor([0], device="meta"), TypeError, "different devices"),
            ([0, 1], TypeError, "a mask or a tensor of coordinates, got list"),
        ],
    )
    def test_what_is_no_choice(self, within, error, message):
        for rank in (
            lambda scores: ranking(scores, 1, within=within),
            lambda scores: MaskSubspace.top_fraction(scores, 0.5, within=within),
            lambda scores: MaskSubspace.above(scores, 0, within=within),
        ):
            with pytest.raises(error, match=message):
                rank(torch.ones(3))

    @pytest.mark.parametrize("k", [0, 3, 1.0, True])
    def test_more_than_there_are(self, k):
        with pytest.raises(ValueError, match=f"1 <= k <= 2, as many as within= holds, got k={k}"):
            MaskSubspace.top_k(torch.ones(3), k, within=torch.tensor([0, 2]))

    def test_no_scores(self):
        for rank in (MaskSubspace.top_k, MaskSubspace.top_fraction, MaskSubspace.above, ranking):
            with pytest.raises(ValueError, match="scores hold no coordinate to choose from"):
                rank(torch.zeros(0), 1)

    def test_scores_are_a_tensor(self):
        with pytest.raises(TypeError, match=r"scores are a tensor, \(n,\), got list"):
            ranking([1.0, 2.0], 1)

    def test_scores_have_an_order(self):
        for choose in (lambda scores: ranking(scores, 1), lambda scores: MaskSubspace.above(scores, 0)):
            with pytest.raises(TypeError, match=r"scores are real, got torch.complex64, .* take scores.abs\(\)"):
                choose(torch.ones(3, dtype=torch.complex64))


class TestRandomTies:
    def test_only_equals_change_places(self, device):
        scores = scores_with_ties(device)
        first, second = (ranking(scores, 300, seed=seed) for seed in (1, 2))
        assert torch.equal(scores[first], scores[ranking(scores, 300)])
        assert torch.equal(scores[first], scores[second])
        assert not torch.equal(first, second)
        assert sorted(first.tolist()) == list(range(300))

    def test_a_seed_gives_the_same_on_every_device_and_nested_masks(self, device):
        scores = scores_with_ties(device)
        order = ranking(scores, 300, seed=3)
        assert order.tolist() == ranking(scores.cpu(), 300, seed=3).tolist()
        for k in (1, 77, 300):
            assert MaskSubspace.top_k(scores, k, seed=3).indices.tolist() == sorted(order[:k].tolist())

    def test_every_equal_is_as_likely(self):
        """Counts over 2000 seeds of 2 out of 5 equals, within five standard deviations of the binomial."""
        scores = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.0])
        counts = sum(MaskSubspace.top_k(scores, 3, seed=seed).mask.double() for seed in range(2000))
        expected = torch.tensor([800, 800, 2000, 800, 0, 800, 800]).double()
        torch.testing.assert_close(counts, expected, rtol=0, atol=5 * (2000 * 0.4 * 0.6) ** 0.5)
        assert (counts[2], counts[4]) == (2000, 0)

    def test_within_a_choice(self, device):
        scores, eligible = scores_with_ties(device), torch.arange(0, 300, 2, device=device)
        found = MaskSubspace.top_k(scores, 40, within=eligible, seed=1)
        assert bool((found.indices % 2 == 0).all())
        plain = MaskSubspace.top_k(scores, 40, within=eligible)
        assert torch.equal(scores[found.indices].sort().values, scores[plain.indices].sort().values)


class TestTopFraction:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("density", [0.004, 0.1, 1 / 3, 0.5, 1.0, 1])
    @pytest.mark.parametrize("within", [False, True])
    def test_of_each_stratum_agrees_with_numpy(self, density, within, dtype, device):
        """Labels neither sorted nor consecutive, and a stratum of a single coordinate."""
        scores = scores_with_ties(device, dtype)
        labels = numpy.random.default_rng(7).choice([-3, 8, 40], 300)
        labels[123] = 5
        eligible = numpy.arange(0, 300, 3) if within else numpy.arange(300)
        expected = []
        for label in set(labels[eligible].tolist()):
            members = eligible[labels[eligible] == label]
            expected += lexsorted(scores, members)[: max(1, round(density * len(members)))].tolist()
        chosen = torch.from_numpy(eligible).to(device) if within else None
        found = MaskSubspace.top_fraction(scores, density, torch.from_numpy(labels).to(device), within=chosen)
        assert found.indices.tolist() == sorted(expected)
        assert found.dtype == dtype

    @pytest.mark.parametrize(("density", "k"), [(0.01, 1), (0.25, 2), (0.26, 3), (0.35, 4), (0.99, 10)])
    def test_rounds_to_the_nearest_and_keeps_one(self, density, k, device):
        """A half goes to the even number: 2.5 to 2, 3.5 to 4."""
        scores = torch.arange(10.0, device=device)
        assert MaskSubspace.top_fraction(scores, density).indices.tolist() == list(range(10 - k, 10))

    def test_without_strata_is_top_k(self, device):
        scores = scores_with_ties(device)
        for seed in (None, 4):
            one, other = MaskSubspace.top_fraction(scores, 0.1, seed=seed), MaskSubspace.top_k(scores, 30, seed=seed)
            assert torch.equal(one.mask, other.mask)
            assert one.ties == other.ties

    @pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan")])
    def test_density_out_of_range(self, density):
        with pytest.raises(ValueError, match=rf"in \(0, 1\], got {density}"):
            MaskSubspace.top_fraction(torch.ones(3), density)

    @pytest.mark.parametrize(
        ("strata", "error", "message"),
        [
            (torch.zeros(3), TypeError, "integer labels, .* got torch.float32; use H.parameters.labels"),
            (torch.zeros(3, dtype=torch.bool), TypeError, "integer labels, .* got torch.bool"),
            ([0, 0, 1], TypeError, "integer labels, .* got list"),
            (torch.zeros(4, dtype=torch.long), ValueError, r"each of 3 coordinates, got shape \(4,\)"),
            (torch.zeros(3, dtype=torch.long, device="meta"), TypeError, "different devices"),
        ],
    )
    def test_what_is_no_strata(self, strata, error, message):
        with pytest.raises(error, match=message):
            MaskSubspace.top_fraction(torch.ones(3), 0.5, strata)


class TestAbove:
    def test_is_strict(self, device):
        scores = torch.tensor([0.5, 2.0, 1.0, 3.0, -4.0], device=device)
        assert written(MaskSubspace.above(scores, 1)) == "01010"
        assert written(MaskSubspace.above(scores, 0.5, within=torch.tensor([0, 1, 4], device=device))) == "01000"
        assert MaskSubspace.above(scores.double(), -9).dtype == torch.float64
        assert MaskSubspace.above(scores.long(), 1).dtype == torch.float32

    def test_threshold_is_rounded_to_the_scores(self):
        """0.1 in float32 lies above 0.1, but is not above what 0.1 is rounded to."""
        with pytest.raises(ValueError, match=r"no score is above 0.1; the largest is 0\.1"):
            MaskSubspace.above(torch.tensor([0.1, 0.0]), 0.1)

    @pytest.mark.parametrize("threshold", [3.0, float("nan"), float("inf")])
    def test_nothing_above(self, threshold):
        with pytest.raises(ValueError, match=f"no score is above {threshold}; the largest is 3"):
            MaskSubspace.above(torch.tensor([3.0, 1.0]), threshold)

    def test_nan(self):
        with pytest.raises(ValueError, match="scores hold NaN"):
            MaskSubspace.above(torch.tensor([3.0, float("nan")]), 1)


class TestTies:
    SCORES = (1.0, 5.0, 1.0, 1.0, 0.0, 1.0)

    @pytest.mark.parametrize(
        ("k", "ties"), [(1, None), (2, Ties(1.0, 4, 1)), (4, Ties(1.0, 4, 3)), (5, None), (6, None)]
    )
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64], ids=str)
    def test_only_where_the_choice_was_arbitrary(self, k, ties, dtype, device):
        for seed in (None, 1):
            found = MaskSubspace.top_k(torch.tensor(self.SCORES, dtype=dtype, device=device), k, seed=seed)
            assert found.ties == ties
            assert found.to(dtype=torch.float64).ties == ties

    def test_the_repr_says_so(self):
        scores = torch.tensor(self.SCORES)
        assert repr(MaskSubspace.top_k(scores, 3)) == "<MaskSubspace 3 of 6 float32 cpu; 2 of 4 tied at 1>"
        assert repr(MaskSubspace.top_k(scores, 5)) == "<MaskSubspace 5 of 6 float32 cpu>"

    def test_within_counts_those_to_choose_from(self):
        found = MaskSubspace.top_k(torch.tensor(self.SCORES), 2, within=torch.tensor([1, 2, 5, 4]))
        assert found.ties == Ties(1.0, 2, 1)

    def test_of_strata(self, device):
        """Two strata with a choice at 1, one of single scores."""
        scores = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 2.0, 4.0], device=device)
        strata = torch.tensor([0, 0, 1, 2, 2, 2, 1, 1], device=device)
        found = MaskSubspace.top_fraction(scores, 0.5, strata)
        assert written(found) == "10111001"  # half of three is two
        assert found.ties == Ties(1.0, 5, 3, strata=2)
        assert repr(found).endswith("; 3 of 5 tied at 1 in 2 strata>")
        other = MaskSubspace.top_fraction(scores + 10 * (strata == 2), 0.5, strata)
        assert other.ties == Ties(None, 5, 3, strata=2)
        assert str(other.ties) == "3 of 5 tied in 2 strata"

    def test_equals_in_another_stratum_do_not_count(self):
        """Two equals, each alone in its stratum beside a smaller score."""
        found = MaskSubspace.top_fraction(torch.tensor([1.0, 0.0, 1.0, 0.5]), 0.5, torch.tensor([0, 0, 1, 1]))
        assert found.ties is None
        assert MaskSubspace.top_fraction(torch.ones(4), 0.5, torch.tensor([0, 0, 1, 1])).ties == Ties(1.0, 4, 2, 2)

    def test_other_masks_have_none(self):
        A, B = MaskSubspace.top_k(torch.ones(4), 2), mask("0111")
        assert A.ties is not None
        for other in (B, A & B, A | B, A.complement(), MaskSubspace.above(torch.ones(3), 0), MaskSubspace.random(4, 2)):
            assert other.ties is None


class TestRandom:
    def test_every_coordinate_is_equally_likely(self):
        """Counts over 2000 seeds within five standard deviations of the binomial."""
        counts = sum(MaskSubspace.random(8, 3, seed=seed).mask.double() for seed in range(2000))
        error = 5 * (2000 * 3 / 8 * 5 / 8) ** 0.5
        torch.testing.assert_close(counts, torch.full((8,), 750.0).double(), rtol=0, atol=error)

    def test_seed_gives_the_same_on_every_device_and_leaves_the_global_generator(self, device):
        before = torch.get_rng_state()
        A = MaskSubspace.random(50, 20, seed=3, device=device)
        assert torch.equal(torch.get_rng_state(), before)
        assert A.device.type == device
        assert (
            written(A) == written(MaskSubspace.random(50, 20, seed=3)) != written(MaskSubspace.random(50, 20, seed=4))
        )

    @pytest.mark.parametrize("k", [0, 6])
    def test_out_of_range(self, k):
        with pytest.raises(ValueError, match=f"1 <= k <= n, got k={k}, n=5"):
            MaskSubspace.random(5, k)


class TestNeverDense:
    N = 10_000_000

    def test_two_masks_of_ten_million_coordinates(self, device):
        """No tensor larger than the mask; a dense basis would take 4 n k bytes, eighty terabytes."""
        numbers = torch.arange(self.N, device=device)
        A, B = MaskSubspace(numbers % 7 == 1), MaskSubspace(numbers % 5 == 2)
        with LargestTensor() as largest:
            gram, residual = A.cross_gram(B), A.residual(B)
            joint, common = A | B, A & B
        assert largest.entries <= self.N
        assert isinstance(gram, PartialPermutation)
        assert isinstance(residual, PartialPermutation)
        # Every 35th coordinate is in both.
        assert gram.rank == common.dim == A.dim + B.dim - joint.dim == self.N // 35
        assert gram.rank + residual.rank == B.dim
        x = torch.zeros(B.dim, device=device)
        x[gram.columns[0]] = 1.0
        assert (gram @ x).nonzero().flatten().tolist() == [int(gram.rows[0])]

    def test_a_mask_and_a_basis_gather_rows(self, device):
        """Of a (100,000, 3) basis the (50, 3) rows, by reading no more."""
        A = MaskSubspace.random(100_000, 50, device=device)
        B = OrthonormalSubspace.random(100_000, 3, device=device)
        with LargestTensor() as largest:
            grams = A.cross_gram(B), B.cross_gram(A)
        assert largest.entries <= 150
        assert torch.equal(grams[0].to_dense(), B.vectors[A.indices])
        assert torch.equal(grams[1].to_dense(), B.vectors[A.indices].mT)

    def test_comparisons_with_masks_are_exact(self):
        """Gathers and zeros, no arithmetic: even of entries that sums would round."""
        A = MaskSubspace.random(30, 12, dtype=torch.float32)
        B = OrthonormalSubspace.random(30, 4, dtype=torch.float32)
        residual = A.residual(B).to_dense()
        assert torch.equal(residual[~A.mask], B.vectors[~A.mask])
        assert bool((residual[A.mask] == 0).all())


def test_masked_operator_has_zeros_outside(device):
    M = torch.arange(16.0, device=device).reshape(4, 4) + 1
    A = mask("1010", device=device)
    expected = M * A.mask[:, None] * A.mask
    assert torch.equal(Dense(M).masked(A).to_dense(), expected)
    assert torch.equal(Dense(M).masked(A.mask).to_dense(), expected)


@pytest.mark.parametrize("kind", [MaskSubspace, OrthonormalSubspace])
class TestArgumentsOfRandom:
    @pytest.mark.parametrize("k", [0, 7, 2.0, "2", None])
    def test_sizes_are_integers(self, kind, k):
        with pytest.raises(ValueError, match="integers 1 <= k <= n, got k="):
            kind.random(6, k)

    def test_seeds_are_integers_of_numpy_too(self, kind):
        torch.testing.assert_close(
            kind.random(6, 2, seed=numpy.int64(3)).leverage(), kind.random(6, 2, seed=3).leverage()
        )
        with pytest.raises(TypeError, match="a seed is an integer, got"):
            kind.random(6, 2, seed=1.5)


def test_seeds_of_rankings_are_integers_of_numpy_too():
    scores = torch.zeros(6)
    assert torch.equal(ranking(scores, 3, seed=numpy.int64(3)), ranking(scores, 3, seed=3))
    with pytest.raises(TypeError, match="a seed is an integer, got 'a'"):
        ranking(scores, 3, seed="a")


def test_indices_of_any_integers_in_a_space_of_some_dimension():
    indices = torch.tensor([1, 3])
    assert torch.equal(MaskSubspace.from_indices(indices.to(torch.uint16), 5).indices, indices)
    with pytest.raises(ValueError, match="dimension of a space is an integer, got"):
        MaskSubspace.from_indices(indices, 5.0)
