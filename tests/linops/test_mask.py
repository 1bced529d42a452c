"""Masks as subspaces: set algebra, rankings and scores; never a dense basis."""

from __future__ import annotations

import numpy
import pytest
import torch
from metric_contract import LargestTensor
from subspace_contract import KINDS, SubspaceContract, dense
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, MaskSubspace, OrthonormalSubspace, PartialPermutation, ranking


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
        with pytest.raises(TypeError, match=r"a mask is a boolean tensor, got .*from_indices"):
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


class TestScores:
    @pytest.fixture
    def operator(self):
        model = nn.Linear(3, 2, dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, -4.0, 0.0], [2.0, -0.5, 3.0]]))
            model.bias.copy_(torch.tensor([-6.0, 0.25]))
        X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
        return es.Hessian(model, nn.MSELoss(), (X, torch.zeros(2, 2, dtype=torch.float64)))

    def test_magnitude(self, operator):
        scores = es.magnitude(operator.parameters)
        assert scores.tolist() == [1.0, 4.0, 0.0, 2.0, 0.5, 3.0, 6.0, 0.25]
        assert written(MaskSubspace.top_k(scores, 3)) == "01000110"

    def test_absolute_gradient(self, operator):
        """Of mean((W x + b)²): 2/4 Σ (W x + b) (x, 1), by hand."""
        W, b = operator.parameters.values[:6].reshape(2, 3), operator.parameters.values[6:]
        X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
        output = X @ W.mT + b
        expected = torch.cat([(output.mT @ X / 2).flatten(), output.sum(0) / 2]).abs()
        torch.testing.assert_close(es.absolute_gradient(operator), expected)

    def test_random_scores(self, operator):
        first, again, other = (es.random_scores(operator.parameters, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.shape == (8,)
        assert first.dtype == torch.float64
        assert sorted(first.tolist()) == list(range(8))  # a ranking, without ties

    def test_top_k_of_random_scores_is_a_random_mask(self, operator):
        counts = sum(
            MaskSubspace.top_k(es.random_scores(operator.parameters, seed), 2).mask.double() for seed in range(2000)
        )
        error = 5 * (2000 * 0.25 * 0.75) ** 0.5
        torch.testing.assert_close(counts, torch.full((8,), 500.0).double(), rtol=0, atol=error)


def test_masked_operator_has_zeros_outside(device):
    M = torch.arange(16.0, device=device).reshape(4, 4) + 1
    A = mask("1010", device=device)
    expected = M * A.mask[:, None] * A.mask
    assert torch.equal(Dense(M).masked(A).to_dense(), expected)
    assert torch.equal(Dense(M).masked(A.mask).to_dense(), expected)
