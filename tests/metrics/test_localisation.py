"""Localisation: closed forms, what a random direction has on average, and its tie to stratified chance levels."""

from __future__ import annotations

import math

import pytest
import torch
from metric_contract import eigenspace

from eigenspan.linops import MaskSubspace
from eigenspan.metrics import chance, layer_energy, participation_ratio

LABELS = torch.tensor([0, 2, 2, 0, 1])


class TestLayerEnergy:
    def test_closed_form(self, device):
        vectors = torch.tensor([[1.0, 0], [2, 0], [2, 3], [4, 0], [0, 0]], device=device)  # norms 5 and 3
        energy = layer_energy(vectors, LABELS.to(device))
        assert energy.dtype == torch.float64
        assert energy.tolist() == [[pytest.approx(17 / 25), 0], [0, 0], [pytest.approx(8 / 25), 1]]

    def test_a_subspace_is_its_vectors(self, device):
        B = eigenspace(30, 6, 1, torch.float32, device)
        labels = (torch.arange(30) % 4).to(device)
        energy = layer_energy(B, labels)
        assert torch.equal(energy, layer_energy(B.vectors, labels))
        for layer in range(4):
            squares = B.vectors[labels == layer].double().square().sum(dim=0)
            assert torch.allclose(energy[layer], squares, atol=1e-6)
        assert torch.allclose(energy.sum(dim=0), torch.ones(6, dtype=torch.float64, device=device), atol=1e-12)

    def test_it_gives_the_stratified_chance_level(self, device):
        """Of a mask with m_s coordinates in layer s the mean is Σ m_s e_s / n_s, e_s the mean energy, over √(m k)."""
        B = eigenspace(40, 5, 3, torch.float64, device)
        labels = (torch.arange(40) // 13).to(device)
        mask = MaskSubspace.random(40, 8, seed=2, dtype=torch.float64, device=device)
        sizes, counts = torch.bincount(labels), torch.bincount(labels[mask.indices], minlength=4)
        mean = float((counts / sizes * layer_energy(B, labels).sum(dim=1)).sum()) / math.sqrt(40)
        assert mean == pytest.approx(chance(mask, B, labels).mean, rel=1e-7)

    @pytest.mark.parametrize("factor", [1e-200, 1e200])
    def test_no_length_is_too_small_or_large(self, factor):
        vectors = torch.tensor([[3.0], [4.0]], dtype=torch.float64) * factor
        assert layer_energy(vectors, torch.tensor([0, 1])).flatten().tolist() == pytest.approx([9 / 25, 16 / 25])

    def test_a_vector_of_zeros_lies_nowhere(self):
        assert bool(layer_energy(torch.zeros(5, 1), LABELS).isnan().all())


class TestParticipationRatio:
    @pytest.mark.parametrize("count", [1, 2, 7, 50])
    def test_equal_entries_are_counted(self, count, device):
        vector = torch.zeros(50, 1, device=device)
        vector[:count] = -0.3
        found = participation_ratio(vector)
        assert found.shape == (1,)
        assert found.item() == pytest.approx(count, rel=1e-12)

    def test_closed_form(self):
        vectors = torch.tensor([[1.0, 5], [2, 0], [3, 5]])
        assert participation_ratio(vectors).tolist() == pytest.approx([14**2 / 98, 2])

    def test_a_random_direction_has_a_third_of_all(self):
        """The mean of Σ v⁴ on the sphere is 3 / (n + 2); over 4,000 vectors of 20 entries, to four standard errors."""
        vectors = torch.randn(20, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        inverse = 1 / participation_ratio(vectors)
        assert abs(inverse.mean() - 3 / 22) < 4 * inverse.std() / math.sqrt(4000)

    @pytest.mark.parametrize("factor", [1e-150, 1e150, -2.0])
    def test_scale_does_not_matter(self, factor):
        vectors = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
        assert participation_ratio(vectors * factor).item() == pytest.approx(25 / 17, rel=1e-12)

    def test_zeros_have_none(self):
        assert math.isnan(participation_ratio(torch.zeros(3, 1)).item())


class TestArguments:
    @pytest.mark.parametrize("function", [lambda V: layer_energy(V, LABELS), participation_ratio])
    def test_vectors(self, function):
        with pytest.raises(TypeError, match=r"MaskSubspace; a decomposition has its \.subspace.*composition"):
            function(MaskSubspace.random(5, 2))
        with pytest.raises(ValueError, match=r"got shape \(5,\); of one take v\[:, None\]"):
            function(torch.ones(5))
        with pytest.raises(TypeError, match=r"vectors are real, got torch.complex64; .*v.abs\(\)"):
            function(torch.full((5, 1), 1j))

    @pytest.mark.parametrize(
        ("labels", "error", "words"),
        [
            ([0] * 5, TypeError, "integer labels, .* got list"),
            (torch.zeros(5), TypeError, "integer labels, .* got torch.float32"),
            (torch.zeros(4, dtype=torch.long), ValueError, r"each of 5 coordinates, got shape \(4,\)"),
            (torch.tensor([0, 1, -1, 0, 0]), ValueError, "from 0, got -1"),
        ],
    )
    def test_labels(self, labels, error, words):
        with pytest.raises(error, match=words):
            layer_energy(torch.ones(5, 1), labels)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
    def test_labels_of_any_integers(self, dtype):
        torch.testing.assert_close(
            layer_energy(torch.ones(5, 1), LABELS.to(dtype)), layer_energy(torch.ones(5, 1), LABELS)
        )

    @pytest.mark.parametrize("function", [lambda V: layer_energy(V, LABELS), participation_ratio])
    def test_vectors_with_a_graph_and_of_no_numbers(self, function):
        assert not function(torch.ones(5, 1, requires_grad=True)).requires_grad
        with pytest.raises(TypeError, match=r"numbers, got torch.bool; .*mask.double\(\)"):
            function(torch.ones(5, 1, dtype=torch.bool))
