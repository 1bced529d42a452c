"""Nyström approximations against the same formula with dense matrices, and where they are exact."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy
import pytest
import solver_cases
import solver_contract
import torch
from solver_cases import SPECTRA, N, joined, line, problem, quietly, rounding, zoo
from solver_contract import SolverContract

import eigenspan as es
from eigenspan.linops import Counted, Dense, Diagonal, Identity, Structure
from eigenspan.solvers import SSRFT, Gaussian, Rademacher, SketchedEigh, Status
from eigenspan.solvers.nystrom import Nystrom
from eigenspan.solvers.sketches import SparseSign

TEST_MATRICES = {"ssrft": SSRFT, "gaussian": Gaussian, "rademacher": Rademacher, "sparse-sign": SparseSign}


@functools.cache
def semidefinite(name, dtype, device):
    """The spectrum of that name without its signs, known to have none."""
    truth = problem(SPECTRA[name].abs(), dtype, device)
    return truth._replace(operator=Dense(truth.operator.matrix, Structure.PSD))


@functools.cache
def solved(solver, name, dtype, device):
    return quietly(solver, semidefinite(name, dtype, device).operator)


class TestNystrom(SolverContract):
    """The contract with operators that are known to be positive semidefinite in place of the symmetric ones."""

    accurate_on = frozenset({"rank deficient", "few distinct", "zero"})

    @pytest.fixture(autouse=True)
    def _semidefinite(self, monkeypatch):
        declared = SimpleNamespace(SYMMETRIC=Structure.PSD)
        monkeypatch.setattr(solver_contract, "zoo", semidefinite)
        monkeypatch.setattr(solver_contract, "solved", solved)
        for module in (solver_contract, solver_cases):
            monkeypatch.setattr(module, "Structure", declared)

    @pytest.fixture(params=["LM", "LA"])
    def which(self, request):
        return request.param

    def make(self, k, which="LM", seed=0, **parameters):
        return Nystrom(k=k, which=which, seed=seed, **parameters)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_very_small_operators(self, n, dtype, device):
        truth = problem(line(1, 2, n), dtype, device)
        self.check(quietly(self.make(n), truth.operator), truth, "LM", n, accurate=True)

    def test_negative_eigenvalues_lead_by_magnitude(self, device):
        """They are refused, if they show."""
        truth = problem(joined([-5.0, 4.0, -3.0], [0.0] * (N - 3)), device=device)
        with pytest.raises(ValueError, match=r"says that it is positive semidefinite, but xᵀ A x is negative"):
            self.make(3).solve(truth.operator)


@pytest.mark.parametrize("name", TEST_MATRICES)
class TestEveryTestMatrix:
    def test_is_the_formula(self, name, device):
        """Y (Ωᵀ Y)⁻¹ Yᵀ by NumPy, in full."""
        truth = semidefinite("slow decay", torch.float64, device)
        result = Nystrom(k=6, sketch_size=20, test_matrix=name).solve(truth.operator)
        omega = TEST_MATRICES[name](N, 20, purpose="sketch", dtype=torch.float64).columns(0, 20).numpy()
        Y = truth.matrix.numpy() @ omega
        values, vectors = numpy.linalg.eigh(Y @ numpy.linalg.solve(omega.T @ Y, Y.T))
        numpy.testing.assert_allclose(result.eigenvalues.cpu(), values[::-1][:6], rtol=0, atol=1e-12)
        overlaps = abs(vectors[:, ::-1][:, :6].T @ result.eigenvectors.cpu().numpy())
        numpy.testing.assert_allclose(overlaps, numpy.eye(6), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_exact_for_operators_of_low_rank(self, name, dtype, device):
        """Their core is singular: its rounding errors are left out."""
        eigenvalues = joined([4.0, 3.0, 2.0, 1.0, 0.5], [0.0] * (N - 5))
        truth = problem(eigenvalues, dtype, device)
        A = Dense(truth.operator.matrix, Structure.PSD)
        for size in (6, 20, N):
            result = Nystrom(k=5, sketch_size=size, test_matrix=name).solve(A)
            error = (result.eigenvalues.double().cpu() - eigenvalues[:5]).abs().max()
            assert float(error) <= 4 * rounding(dtype)
            assert float(result.residual_norms.max()) <= 4 * rounding(dtype)
            assert f"rank 5 of {size}" in result.report.notes[0]

    def test_block_size_changes_nothing_beyond_rounding(self, name, device):
        A = semidefinite("slow decay", torch.float64, device).operator
        one, seven, all_at_once = (
            Nystrom(k=6, block_size=size, test_matrix=name).solve(A).eigenvalues for size in (1, 7, 1000)
        )
        for other in (one, seven):
            torch.testing.assert_close(other, all_at_once, rtol=0, atol=1e-12)

    def test_operator_tests_share_no_randomness_with_the_sketch(self, name, device):
        """The vectors that test symmetry are not columns of Ω."""
        checks = Gaussian(N, 2, purpose="verification", dtype=torch.float64).columns(0, 2)
        omega = TEST_MATRICES[name](N, 30, purpose="sketch", dtype=torch.float64).columns(0, 30)
        cosines = (checks / checks.norm(dim=0)).mT @ (omega / omega.norm(dim=0))
        assert float(cosines.abs().max()) < 0.6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_no_eigenvalue_exceeds_that_of_the_operator(name, dtype, device):
    """A minus its approximation is positive semidefinite; eigenvalues grow with the sketch."""
    truth = semidefinite(name, dtype, device)
    # A core of as many columns as A has rank is square, and of a condition of some hundreds.
    unit = 10 * rounding(dtype) * truth.norm
    smaller = torch.zeros(6, dtype=torch.float64)
    for size in (6, 12, 24, N):
        result = quietly(Nystrom(k=6, sketch_size=size), truth.operator)
        values = result.eigenvalues.double().cpu()
        assert bool((values <= truth.leading("LA", 6) + unit).all())
        assert bool((values >= smaller - unit).all())
        smaller = values
    assert bool((smaller >= truth.leading("LA", 6) - unit).all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_more_accurate_than_a_sketch_that_does_not_use_definiteness(exponent, seed, device):
    """Frobenius norm of what the k pairs leave of A, from as many products."""
    eigenvalues = torch.arange(1, 501, dtype=torch.float64, device=device) ** -exponent

    def left(solver):
        result = solver.solve(Diagonal(eigenvalues))
        difference = -(result.eigenvectors * result.eigenvalues) @ result.eigenvectors.mT
        difference.diagonal().add_(eigenvalues)
        return float(difference.norm())

    options = {"k": 20, "seed": seed, "measure_residuals": False}
    assert left(Nystrom(sketch_size=60, **options)) < left(SketchedEigh(outer=30, inner=60, **options))


def test_error_is_within_the_published_bound(device):
    """E of the sum of what is left of the eigenvalues <= (1 + k / (s - k - 1)) of the tail, for a Gaussian Ω."""
    eigenvalues = torch.arange(1, 201, dtype=torch.float64, device=device) ** -1.0
    size = 30
    left = []
    for seed in range(40):
        solver = Nystrom(k=size, sketch_size=size, test_matrix="gaussian", seed=seed, measure_residuals=False)
        left.append(float(eigenvalues.sum() - solver.solve(Diagonal(eigenvalues)).eigenvalues.sum()))
    bound = min((1 + j / (size - j - 1)) * float(eigenvalues[j:].sum()) for j in range(size - 2))
    mean, error = numpy.mean(left), numpy.std(left) / len(left) ** 0.5
    assert float(eigenvalues[size:].sum()) <= mean <= bound + 4 * error


def test_a_core_that_is_singular_in_single_precision_costs_no_accuracy(device):
    """Where a shift that makes it definite would: n / s of it."""
    n = 20_000
    diagonal = torch.zeros(n, device=device)
    diagonal[:20] = 1.0
    result = Nystrom(k=20, sketch_size=60).solve(Diagonal(diagonal))
    assert float((result.eigenvalues - 1).abs().max()) <= 10 * torch.finfo(torch.float32).eps


def test_products_are_counted_and_known_beforehand(device):
    for options, products in (
        ({}, 2 + 32 + 6),
        ({"measure_residuals": False}, 2 + 32),
        ({"check_symmetry": False, "sketch_size": 11}, 11 + 6),
    ):
        A = Counted(semidefinite("slow decay", torch.float64, device).operator)
        solver = Nystrom(k=6, block_size=5, **options)
        result = solver.solve(A)
        assert A.products == result.report.products == products == solver._total(A)
        assert result.report.status is Status.SKETCHED
        assert bool(result.residual_norms.isnan().all()) is ("measure_residuals" in options)


def test_more_pairs_than_the_operator_has_rank(device):
    """Zeros, with vectors that A maps to zero."""
    truth = semidefinite("rank deficient", torch.float64, device)
    result = Nystrom(k=10).solve(truth.operator)
    torch.testing.assert_close(result.eigenvalues.cpu(), truth.leading("LA", 10), rtol=0, atol=1e-13)
    assert float(result.residual_norms.max()) < 1e-13


def test_identity(device):
    """All that the sketch spans has eigenvalue one."""
    result = Nystrom(k=5).solve(Identity(N, torch.float64, device))
    torch.testing.assert_close(result.eigenvalues.cpu(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-13)


class TestRefusals:
    @pytest.mark.parametrize("structure", [Structure.SYMMETRIC, Structure.NSD])
    def test_not_known_to_be_semidefinite(self, structure, device):
        A = Counted(Dense(zoo("positive", torch.float64, device).operator.matrix, structure))
        with pytest.raises(ValueError, match=r"nothing says that <.* is one; .* structure=eigenspan\.Structure\.PSD"):
            Nystrom(k=2).solve(A)
        assert A.products == 0
        declared = es.linops.Declared(A, Structure.PSD)
        assert len(Nystrom(k=2).solve(declared).eigenvalues) == 2

    @pytest.mark.parametrize("name", ["indefinite", "negative", "repeated"])
    def test_declared_in_error(self, name, device):
        for dtype in (torch.float64, torch.float32):
            wrong = es.linops.Declared(zoo(name, dtype, device).operator, Structure.PSD)
            with pytest.raises(ValueError, match=r"says that it is positive semidefinite, but .* BlockLanczos"):
                Nystrom(k=4).solve(wrong)

    def test_smallest_eigenvalues(self):
        with pytest.raises(ValueError, match=r"the largest eigenvalues alone: .* which='SA'.* BlockLanczos"):
            Nystrom(k=2, which="SA")

    @pytest.mark.parametrize("size", [3, N + 1])
    def test_sizes_out_of_order(self, size, device):
        A = Counted(semidefinite("positive", torch.float64, device).operator)
        with pytest.raises(ValueError, match=f"k <= sketch_size <= n, got k=4, sketch_size={size}, n={N}"):
            Nystrom(k=4, sketch_size=size).solve(A)
        assert A.products == 0

    def test_unknown_test_matrix(self):
        with pytest.raises(ValueError, match="test_matrix"):
            Nystrom(k=2, test_matrix="uniform")

    @pytest.mark.parametrize("parameter", ["sketch_size", "block_size"])
    def test_counts_are_positive(self, parameter):
        with pytest.raises(ValueError, match=f"{parameter} is at least 1"):
            Nystrom(k=1, **{parameter: 0})


def test_single_and_double_precision_agree(device):
    single, double = (
        Nystrom(k=6).solve(semidefinite("positive", dtype, device).operator).eigenvalues
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-6)


@pytest.mark.parametrize("exponent", [-100, 90])
def test_scale_changes_nothing(exponent, device):
    """A power of two, in single precision."""
    A = semidefinite("slow decay", torch.float32, device).operator
    base = Nystrom(k=6).solve(A)
    scaled = Nystrom(k=6).solve(Dense(A.matrix * 2.0**exponent, Structure.PSD))
    torch.testing.assert_close(scaled.eigenvalues * 2.0**-exponent, base.eigenvalues, rtol=1e-5, atol=0)
