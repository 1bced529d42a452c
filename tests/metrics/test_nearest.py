"""The nearest mask against all masks, the nearest part of a subspace against other parts."""

from __future__ import annotations

import itertools

import pytest
import torch
from metric_contract import dense, rotation, span

from eigenspan.linops import MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import (
    GRASSMANN_DISTANCES,
    chordal,
    nearest_mask,
    nearest_subspace,
    overlap,
    principal_angles,
)


class TestNearestMask:
    @pytest.mark.parametrize("k", [None, 1, 4, 7])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_no_mask_of_that_size_is_nearer(self, k, dtype, device):
        A = OrthonormalSubspace.random(7, 3, seed=1, dtype=dtype, device=device)
        found = nearest_mask(A, k)
        assert (found.dim, found.dtype, found.device) == (k or 3, dtype, A.device)
        masks = [
            MaskSubspace.from_indices(torch.tensor(axes, device=device), 7, dtype)
            for axes in itertools.combinations(range(7), k or 3)
        ]
        best = max(masks, key=lambda mask: overlap(mask, A))
        assert torch.equal(found.mask, best.mask)
        # A distance is a root of a sum of roundings.
        assert chordal(found, A) == pytest.approx(min(chordal(mask, A) for mask in masks), abs=1e-6)

    def test_of_a_mask_is_itself(self, device):
        A = MaskSubspace.random(9, 4, device=device)
        assert torch.equal(nearest_mask(A).mask, A.mask)

    def test_of_equal_leverages_the_lower_index(self, device):
        A = OrthonormalSubspace(torch.full((4, 1), 0.5, device=device))
        assert nearest_mask(A, 2).indices.tolist() == [0, 1]

    def test_bad_input(self):
        with pytest.raises(ValueError, match="1 <= k <= n = 5, got k=6"):
            nearest_mask(OrthonormalSubspace.random(5, 2), 6)
        with pytest.raises(TypeError, match=r"expected a subspace, got Tensor.*MaskSubspace\.top_k"):
            nearest_mask(torch.ones(5))


class TestNearestSubspace:
    @pytest.mark.parametrize("distance", GRASSMANN_DISTANCES, ids=lambda distance: distance.__name__)
    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_no_subspace_of_that_rank_is_nearer(self, distance, rank, device):
        A = OrthonormalSubspace.random(9, 5, seed=1, dtype=torch.float64, device=device)
        B = MaskSubspace.random(9, 3, seed=2, dtype=torch.float64, device=device)
        C = nearest_subspace(A, B, rank)
        assert C.dim == rank
        assert float(A.residual(C).to_dense().norm()) < 1e-14
        least = {pad: distance(C, B, pad=pad) for pad in (True, False)}
        for seed in range(20):
            other = span(dense(A) @ rotation(5, seed, device)[:, :rank])
            for pad, value in least.items():
                # Some are at their maximum for every C, once padded.
                assert distance(other, B, pad=pad) >= value - 1e-14

    def test_attains_the_first_angles(self, device):
        A = OrthonormalSubspace.random(9, 3, seed=1, dtype=torch.float64, device=device)
        B = OrthonormalSubspace.random(9, 5, seed=2, dtype=torch.float64, device=device)
        expected = principal_angles(A, B).radians[:2]
        torch.testing.assert_close(principal_angles(nearest_subspace(A, B, 2), B).radians, expected, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("rank", [0, 3, 1.5, None])
    def test_rank_out_of_range(self, rank):
        A, B = OrthonormalSubspace.random(9, 4), MaskSubspace.random(9, 2)
        with pytest.raises(ValueError, match=f"an integer 1 <= rank <= 2, got rank={rank}"):
            nearest_subspace(A, B, rank)
