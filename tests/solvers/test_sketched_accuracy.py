"""How close sketches come to the best of their rank on spectra of every decay, and whether they say so if they do not.

The spectra are those of Tropp, Yurtsever, Udell & Cevher (2019), section 7, with signs of either kind.
"""

from __future__ import annotations

import pytest
import torch
from solver_cases import N, zoo

import eigenspan as es
from eigenspan.solvers import SketchedEigh


def signed(magnitudes):
    """The spectrum with random signs, as a diagonal operator."""
    generator = torch.Generator().manual_seed(1)
    return es.Diagonal(magnitudes * (2 * torch.randint(0, 2, magnitudes.shape, generator=generator) - 1))


def counting(n, dtype=torch.float64):
    return torch.arange(1, n + 1, dtype=dtype)


class TestNotes:
    """The report says where an indefinite spectrum that decays slowly makes the core unreliable."""

    @pytest.mark.parametrize("inner", [160, 240])
    @pytest.mark.parametrize("options", [{}, {"basis": "first"}, {"test_matrix": "sparse-sign"}], ids=str)
    def test_indefinite_and_of_slow_decay(self, inner, options):
        A = signed(counting(1000) ** -0.5)
        report = SketchedEigh(k=40, outer=80, inner=inner, measure_residuals=False, **options).solve(A).report
        (note,) = report.notes
        assert note.startswith("The core is ill-determined: 0.")
        assert note.endswith("take two_pass=True, a larger inner, or BlockLanczos.")
        assert str(report).endswith(note)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("options", [{}, {"basis": "first"}, {"which": "LA"}], ids=str)
    def test_none_for_fast_decay_low_rank_or_two_passes(self, dtype, options):
        numbers = counting(1000, dtype)
        sharp, steady = 10 ** (-0.5 * numbers), 10 ** (-0.1 * numbers)
        for magnitudes in (sharp, steady, (numbers <= 30).to(dtype), torch.zeros(1000, dtype=dtype)):
            solver = SketchedEigh(k=40, outer=80, inner=160, measure_residuals=False, **options)
            assert solver.solve(signed(magnitudes)).report.notes == ()
        two_pass = SketchedEigh(k=40, two_pass=True, measure_residuals=False)
        assert two_pass.solve(signed(numbers**-0.5)).report.notes == ()

    def test_none_where_nothing_is_left_out(self, device):
        A = zoo("indefinite", torch.float64, device).operator
        assert SketchedEigh(k=N).solve(A).report.notes == ()

    def test_no_redundancy(self):
        found = SketchedEigh(k=10, outer=20, inner=20).solve(signed(counting(300) ** -1.0))
        assert "A core fits inner = outer products whatever they are" in found.report.notes[0]


@pytest.mark.parametrize(
    "magnitudes",
    [
        *(10 ** (-rate * counting(1000)) for rate in (0.01, 0.1, 0.5)),
        *(counting(1000) ** -power for power in (0.5, 1.0, 2.0)),
        *((counting(1000) <= 20) + noise * torch.linspace(0, 2, 1000, dtype=torch.float64) for noise in (1e-4, 1e-2)),
    ],
    ids=[*(f"exponential {rate}" for rate in (0.01, 0.1, 0.5)), *(f"polynomial {power}" for power in (0.5, 1, 2))]
    + [f"low rank and noise {noise}" for noise in (1e-4, 1e-2)],
)
@pytest.mark.parametrize("indefinite", [False, True])
def test_two_passes_come_close_to_the_best_of_that_rank(magnitudes, indefinite):
    """At 4 k products: of rank k, relative to the error of the best, or to rounding errors where there is none."""
    k, A = 20, signed(magnitudes) if indefinite else es.Diagonal(magnitudes)
    found = SketchedEigh(k=k, outer=2 * k, two_pass=True, measure_residuals=False).solve(A)
    error = float((found.operator.to_dense() - A.to_dense()).norm())
    best = float(magnitudes.sort(descending=True).values[k:].norm())
    assert error < max(1.1 * best, 1e-13 * float(magnitudes.max()))
