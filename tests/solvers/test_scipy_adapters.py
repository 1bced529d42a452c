"""ARPACK through SciPy: what it finds, and what it says when it gives up."""

from __future__ import annotations

import pytest
import scipy.sparse.linalg
import torch
from solver_cases import SPECTRA, N, quietly, rounding, zoo
from solver_contract import SolverContract

from eigenspan.linops import Counted, Dense, Diagonal, Structure
from eigenspan.solvers import Arpack, ConvergenceWarning, Status


class TestArpack(SolverContract):
    uses_start = True
    # Where λ ≈ 0 leads, as SA of a decaying spectrum, no relative accuracy is reached and maxiter may be.
    accurate_on = frozenset({"zero", "indefinite", "clustered", "identity", "slow decay", "tiny", "huge"})
    # A single vector sees one copy of a multiple eigenvalue; rounding errors bring the others, or not.
    incomplete_on = frozenset({"repeated", "few distinct"})

    def make(self, k, which="LM", seed=0, **parameters):
        return Arpack(k=k, which=which, seed=seed, **parameters)

    def accuracy(self, dtype):
        """Dozens of restarts, each of which rounds the kept vectors anew."""
        return 50 * rounding(dtype)

    def residual_accuracy(self, dtype):
        """Its tolerance is that of eigenvalues, whose error is about the square of the residual.

        Seldom the pair of a copy of a repeated eigenvalue has more than rounding: of 900 random starts 8e-9 at most.
        """
        return 10 * torch.finfo(dtype).eps ** 0.5


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
def test_agrees_with_scipy_on_the_matrix(which, device):
    A = zoo("slow decay", torch.float64, device).operator
    result = Arpack(k=5, which=which).solve(A)
    expected = scipy.sparse.linalg.eigsh(A.matrix.cpu().numpy(), k=5, which=which, return_eigenvectors=False)
    ours = result.eigenvalues.cpu().sort().values
    torch.testing.assert_close(ours, torch.from_numpy(expected).sort().values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e-12, 1.0, 1e30])
def test_small_operators_are_not_taken_for_zero(scale, device):
    """ARPACK alone calls everything below eps^(2/3) = 4e-11 converged after one restart."""
    A = zoo("indefinite", torch.float64, device).operator
    result = Arpack(k=4).solve(Dense(scale * A.matrix, Structure.SYMMETRIC))
    assert bool(result.converged(rounding(torch.float64)).all())
    torch.testing.assert_close(result.eigenvalues / scale, Arpack(k=4).solve(A).eigenvalues, rtol=1e-13, atol=0)


def test_all_pairs_are_those_of_the_dense_matrix(device):
    report = Arpack(k=N).solve(zoo("indefinite", torch.float64, device).operator).report
    assert report.status is Status.COMPLETE
    assert report.products == N + 2


def test_giving_up_returns_what_has_converged_and_warns(device):
    truth = zoo("slow decay", torch.float64, device)
    with pytest.warns(ConvergenceWarning, match="out of iterations>: .* raise maxiter or tol"):
        result = Arpack(k=10, ncv=12, maxiter=2).solve(truth.operator)
    assert result.report.status is Status.OUT_OF_ITERATIONS
    found = len(result.eigenvalues)
    assert found < 10
    assert result.eigenvectors.shape == (N, found)
    assert result.residual_norms.shape == (found,)
    assert bool(result.converged(1e-9).all())
    with pytest.raises(RuntimeError, match="raise maxiter"):
        result.require_converged()


def test_a_good_start_takes_fewer_products(device):
    """ARPACK keeps what the first vector spans: the sum of eigenvectors is a space of their number."""
    truth = zoo("slow decay", torch.float64, device)
    A = Counted(truth.operator)
    start = truth.eigenvectors[:, :4].to(truth.operator.device)
    cold = Arpack(k=4).solve(A).report.products
    assert Arpack(k=4).solve(A, start=start).report.products < cold


def test_looser_tolerance_takes_fewer_products(device):
    A = zoo("indefinite", torch.float64, device).operator
    loose, tight = (Arpack(k=4, tol=tol).solve(A) for tol in (1e-2, 0.0))
    assert loose.report.products < tight.report.products
    assert float(loose.residual_norms.max()) > float(tight.residual_norms.max())


@pytest.mark.parametrize("ncv", [4, N + 1])
def test_space_of_a_wrong_size(ncv, device):
    with pytest.raises(ValueError, match=f"ncv={ncv} must be above k=4 and at most n={N}"):
        Arpack(k=4, ncv=ncv).solve(zoo("indefinite", torch.float64, device).operator)


@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_entries_whose_squares_overflow_or_vanish(scale, device):
    A = Diagonal(torch.full((N,), scale, dtype=torch.float64, device=device))
    values = Arpack(k=4, check_symmetry=False).solve(A).eigenvalues
    torch.testing.assert_close(values, A.diagonal[:4], rtol=1e-12, atol=0)


def test_a_space_that_ends_too_early_says_to_raise_ncv(device):
    A = Diagonal(torch.tensor([1.0, 0.5], dtype=torch.float64, device=device).repeat(N // 2))
    with pytest.raises(RuntimeError, match=r"ARPACK error 3: .*; raise ncv, or use BlockLanczos"):
        Arpack(k=5, ncv=6).solve(A)


def test_no_pair_spans_no_subspace(device):
    result = quietly(Arpack(k=10, ncv=11, maxiter=1), zoo("slow decay", torch.float64, device).operator)
    assert len(result.eigenvalues) == 0
    with pytest.raises(ValueError, match=r"EigenDecomposition 0 of 60 .* no pair was found: .* raise maxiter"):
        _ = result.subspace


def test_start_of_zeros_is_an_error(device):
    A = zoo("indefinite", torch.float64, device).operator
    with pytest.raises(ValueError, match="the start is zero; leave it out"):
        Arpack(k=4).solve(A, start=torch.zeros(N, 1, dtype=torch.float64, device=device))


@pytest.mark.parametrize("name", sorted(set(SPECTRA) - TestArpack.accurate_on))
def test_every_returned_pair_is_one(name, device):
    """Also where not all were found."""
    truth = zoo(name, torch.float64, device)
    result = quietly(Arpack(k=5), truth.operator)
    assert bool((result.residual_norms <= TestArpack().accuracy(torch.float64) * truth.norm).all())
