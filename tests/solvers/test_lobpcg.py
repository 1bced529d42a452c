"""LOBPCG through SciPy and PyTorch: which end it finds, what its status says, and what it multiplies."""

from __future__ import annotations

import warnings

import numpy
import pytest
import scipy.sparse.linalg
import torch
from solver_cases import SPECTRA, SUCCESS, N, joined, line, problem, quietly, rounding, zoo
from solver_contract import SolverContract, ZooContract

from eigenspan.linops import Counted, Declared, Dense, Diagonal, Function, Structure
from eigenspan.solvers import ConvergenceWarning, Status
from eigenspan.solvers.lobpcg import Lobpcg

LIBRARIES = ("scipy", "torch")


class Library(ZooContract):
    """The contract with LA where it has LM, which LOBPCG finds of definite operators alone."""

    # Where λ ≈ 0 leads, as SA of a decaying spectrum, neighbours lie too close.
    accurate_on = frozenset(SPECTRA) - {"positive", "negative", "slow decay", "clustered"}
    library: str

    @pytest.fixture(params=["LA", "SA"])
    def which(self, request):
        return request.param

    def make(self, k, which="LA", seed=0, **parameters):
        return Lobpcg(k=k, which=which, seed=seed, library=self.library, **{"maxiter": 90, **parameters})

    def accuracy(self, dtype):
        """The default tolerance of residual norms, which bound the errors of eigenvalues."""
        return {torch.float64: 1e-9, torch.float32: 1e-5 + rounding(torch.float32)}[dtype]

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_very_small_operators(self, n, dtype, device):
        truth = problem(line(-1, 2, n) if n > 1 else joined([-3.0]), dtype, device)
        self.check(quietly(self.make(n), truth.operator), truth, "LA", n, accurate=True)

    def test_negative_eigenvalues_lead_by_magnitude(self, device):
        """Where they are all that there are."""
        truth = problem(-SPECTRA["positive"], device=device)
        declared = Declared(truth.operator, Structure.NSD)
        result = quietly(self.make(3, which="LM"), declared)
        torch.testing.assert_close(result.eigenvalues.cpu(), truth.leading("LM", 3), rtol=0, atol=1e-9)


class TestScipy(Library, SolverContract):
    library = "scipy"


class TestTorch(Library, SolverContract):
    library = "torch"


@pytest.fixture(params=LIBRARIES)
def library(request):
    return request.param


class TestWhich:
    def test_both_ends_are_refused(self, library, device):
        A = Counted(zoo("indefinite", torch.float64, device).operator)
        with pytest.raises(ValueError, match=r"LOBPCG finds one end .* nothing says that <Counted .*'LA' or 'SA'"):
            Lobpcg(k=2, library=library).solve(A)
        assert A.products == 0

    @pytest.mark.parametrize(("name", "structure"), [("positive", Structure.PSD), ("negative", Structure.NSD)])
    def test_of_a_definite_operator_they_are_one(self, name, structure, library, device):
        truth = zoo(name, torch.float64, device)
        result = Lobpcg(k=4, library=library).solve(Declared(truth.operator, structure))
        torch.testing.assert_close(result.eigenvalues.cpu(), truth.leading("LM", 4), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("which", ["LA", "SA"])
    def test_agrees_with_scipy_on_the_matrix(self, which, library, device):
        truth = zoo("indefinite", torch.float64, device)
        result = Lobpcg(k=5, which=which, library=library).solve(truth.operator)
        expected = scipy.sparse.linalg.eigsh(truth.matrix.numpy(), k=5, which=which, return_eigenvectors=False)
        numpy.testing.assert_allclose(sorted(result.eigenvalues.tolist()), sorted(expected), rtol=0, atol=1e-12)


class TestStatus:
    def test_out_of_iterations_warns_of_that_and_of_nothing_else(self, library, device):
        A = zoo("slow decay", torch.float64, device).operator
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = Lobpcg(k=5, which="SA", library=library, maxiter=5).solve(A)
        assert [warning.category for warning in caught] == [ConvergenceWarning]
        assert result.report.status is Status.OUT_OF_ITERATIONS
        assert result.report.notes == ()
        assert not bool(result.converged(1e-9).all())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("which", ["LA", "SA"])
    def test_an_ill_conditioned_iteration_leaks_no_warning(self, which, dtype, library, device):
        """A cluster of eight makes Gram matrices of SciPy nearly singular."""
        truth = zoo("clustered", dtype, device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = Lobpcg(k=8, which=which, library=library).solve(truth.operator)
        assert {warning.category for warning in caught} <= {ConvergenceWarning}
        assert bool(caught) is (result.report.status is Status.OUT_OF_ITERATIONS)

    def test_warnings_of_the_operator_pass(self, library, device):
        A = zoo("indefinite", torch.float64, device).operator

        def matmat(X):
            warnings.warn("from the model", UserWarning, stacklevel=1)
            return A.matrix @ X

        noisy = Function(matmat, A.shape, A.dtype, A.device, structure=Structure.SYMMETRIC)
        with pytest.warns(UserWarning, match="from the model"):
            Lobpcg(k=3, which="LA", library=library).solve(noisy)

    def test_broken_down_iterations_are_noted(self, monkeypatch, device):
        """SciPy returns what it has: the residuals tell, and the number of blocks."""
        A = zoo("indefinite", torch.float64, device).operator
        monkeypatch.setattr("scipy.sparse.linalg.lobpcg", lambda A, X, **options: (A @ X, X))
        result = quietly(Lobpcg(k=3, which="LA"), A)
        assert result.report.status is Status.OUT_OF_ITERATIONS
        assert "broke down after 1 blocks" in result.report.notes[0]

    @pytest.mark.parametrize("wrong", [numpy.nan, 0.0])
    def test_vectors_that_are_none(self, wrong, monkeypatch, device):
        A = zoo("indefinite", torch.float64, device).operator
        monkeypatch.setattr("scipy.sparse.linalg.lobpcg", lambda A, X, **options: (0, wrong * X))
        with pytest.raises(RuntimeError, match=r"LOBPCG of scipy gave .* take BlockLanczos"):
            Lobpcg(k=3, which="LA").solve(A)

    @pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-11])
    def test_tolerance_is_met_and_not_far_exceeded(self, tol, library, device):
        truth = zoo("indefinite", torch.float64, device)
        result = Lobpcg(k=5, which="LA", library=library, tol=tol).solve(truth.operator)
        largest = float(result.residual_norms.max())
        assert tol / 100 * truth.norm < largest <= tol * truth.norm
        assert result.report.status is Status.CONVERGED

    @pytest.mark.parametrize("rank", [1, 30])
    def test_tolerance_is_one_of_the_norm(self, rank, library, device):
        """Of a few eigenvalues in many dimensions products with random vectors, and the smallest |λ|, tell little."""
        eigenvalues = torch.zeros(3000, device=device)
        eigenvalues[:rank] = torch.linspace(1, 0.1, rank, device=device)
        for which, sign in (("LA", 1), ("SA", -1)):
            A = Diagonal(sign * eigenvalues)
            result = Lobpcg(k=3, which=which, library=library, maxiter=60).solve(A)
            assert result.report.status is Status.CONVERGED
            expected = sign * eigenvalues[:3].cpu()
            torch.testing.assert_close(result.eigenvalues.cpu(), expected, rtol=0, atol=2e-5)


class TestProducts:
    def test_no_matrix_is_formed(self, library, device):
        """A thousand columns are not multiplied where the pairs converge soon."""
        n = 1000
        A = Counted(Diagonal(joined(line(3, 1, 30), [0.0] * (n - 30)).to(device)))
        report = Lobpcg(k=2, which="LA", library=library).solve(A).report
        assert report.status is Status.CONVERGED
        assert A.products == report.products < n / 2
        assert report.notes == ()

    @pytest.mark.parametrize(("which_library", "rows"), [("scipy", 5), ("torch", 3)])
    def test_dense_where_the_library_cannot_run(self, which_library, rows, device):
        truth = zoo("indefinite", torch.float64, device)
        k = N // rows
        runs = Lobpcg(k=k, which="LA", library=which_library).solve(truth.operator)
        assert runs.report.status is Status.CONVERGED
        dense = Lobpcg(k=k + 1, which="LA", library=which_library).solve(truth.operator)
        assert dense.report.status is Status.COMPLETE
        assert dense.report.products == N + 2
        assert f"n < {rows} k" in dense.report.notes[0]
        torch.testing.assert_close(dense.eigenvalues.cpu(), truth.leading("LA", k + 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["indefinite", "few distinct", "rank deficient", "zero"])
def test_scale_changes_nothing(name, library, device):
    """A power of two: the libraries see the same operator."""
    A = zoo(name, torch.float64, device).operator
    solver = Lobpcg(k=5, which="LA", library=library)
    base, scaled = quietly(solver, A), quietly(solver, Dense(A.matrix * 2.0**-90, Structure.SYMMETRIC))
    assert (scaled.report.status, scaled.report.products) == (base.report.status, base.report.products)
    torch.testing.assert_close(scaled.eigenvalues * 2.0**90, base.eigenvalues, rtol=1e-9, atol=1e-15)


def test_global_generators_and_the_library_are_left_as_they_were(library, device):
    """PyTorch's function draws from them where it is not told where to begin."""
    state, tracker = torch.get_rng_state(), torch._lobpcg.LOBPCG.call_tracker
    result = Lobpcg(k=3, which="LA", library=library).solve(zoo("indefinite", torch.float64, device).operator)
    assert result.report.status in SUCCESS
    assert torch.equal(torch.get_rng_state(), state)
    assert torch._lobpcg.LOBPCG.call_tracker is tracker


class TestBadParameters:
    def test_unknown_library(self):
        with pytest.raises(ValueError, match="library"):
            Lobpcg(k=2, library="numpy")

    @pytest.mark.parametrize("tol", [0.0, 1.0, -1e-3, float("nan")])
    def test_tolerance_that_is_none(self, tol):
        with pytest.raises(ValueError, match="tol is a number between 0 and 1"):
            Lobpcg(k=1, tol=tol)

    def test_tolerance_below_rounding(self, library, device):
        A = zoo("positive", torch.float32, device).operator
        with pytest.raises(ValueError, match="below the rounding errors"):
            Lobpcg(k=1, which="LA", tol=1e-8, library=library).solve(A)

    def test_counts_are_positive_integers(self):
        with pytest.raises(ValueError, match="maxiter is at least 1"):
            Lobpcg(k=1, maxiter=0)
        with pytest.raises(TypeError, match="maxiter is a positive integer"):
            Lobpcg(k=1, maxiter=1.5)
