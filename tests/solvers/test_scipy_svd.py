"""PROPACK and ARPACK through SciPy: what they find, and what they say when they give up."""

from __future__ import annotations

import numpy
import pytest
import scipy.sparse.linalg
import torch
from svd_cases import N, through_functions, zoo
from svd_contract import SVDContract

from eigenspan.linops import Dense
from eigenspan.solvers import ConvergenceWarning, Status
from eigenspan.solvers.scipy_svd import ArpackSVD, Propack


class TestPropack(SVDContract):
    uses_start = True
    accurate_on = frozenset({"spread", "decay", "slow decay", "zero", "tiny", "huge"})
    # A single vector sees one copy of a multiple singular value; rounding errors bring the others, or not.
    incomplete_on = frozenset({"repeated", "few distinct", "clustered", "isometry"})
    refused_on = frozenset({"decay", "repeated", "few distinct", "clustered", "rank deficient", "isometry"})

    def make(self, k, seed=0, **parameters):
        return Propack(k=k, seed=seed, **parameters)

    def rounding(self, dtype):
        """Its bases are orthogonal to about the root of the precision."""
        return 10 * torch.finfo(dtype).eps ** 0.5


class TestArpackSVD(SVDContract):
    uses_start = True
    accurate_on = frozenset({"spread", "decay", "slow decay", "zero", "tiny", "huge", "clustered"})
    incomplete_on = frozenset({"repeated", "few distinct"})
    refused_on = frozenset({"few distinct", "rank deficient", "isometry"})

    def make(self, k, seed=0, **parameters):
        return ArpackSVD(k=k, seed=seed, **parameters)

    def accuracy(self, dtype):
        """Roundings of σ₁² over σ: of AᵀA it sees σ no better."""
        return torch.finfo(dtype).eps ** 0.5


SOLVERS = [Propack, ArpackSVD]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", ["square", "tall", "wide"])
def test_singular_values_are_accurate_to_rounding(solver, shape, device):
    """Also where vectors are not."""
    truth = zoo("slow decay", shape, torch.float64, device)
    result = solver(k=5).solve(truth.operator)
    torch.testing.assert_close(result.singular_values.cpu(), truth.singular_values[:5], rtol=0, atol=1e-14)
    expected = scipy.sparse.linalg.svds(truth.matrix.numpy(), k=5, return_singular_vectors=False)
    numpy.testing.assert_allclose(result.singular_values.cpu(), sorted(expected, reverse=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [2.0**-300, 2.0**-100, 2.0**100])
def test_scale_changes_nothing(solver, scale, device):
    """ARPACK alone takes values below eps^(2/3) for zero."""
    A = zoo("spread", "tall", torch.float64, device).operator
    base, scaled = solver(k=4).solve(A), solver(k=4).solve(Dense(scale * A.matrix))
    assert scaled.report.products == base.report.products
    torch.testing.assert_close(scaled.singular_values / scale, base.singular_values, rtol=1e-13, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_entries_whose_squares_overflow_or_vanish(solver, scale, device):
    A = Dense(torch.full((N, N), scale, dtype=torch.float64, device=device))
    values = solver(k=1, check_adjoint=False).solve(A).singular_values
    torch.testing.assert_close(values, N * A.matrix[0, :1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_all_triplets_are_those_of_the_dense_matrix(solver, device):
    report = solver(k=N).solve(zoo("spread", "wide", torch.float64, device).operator).report
    assert report.status is Status.COMPLETE
    assert report.products == N + 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_looser_tolerance_takes_fewer_products(solver, device):
    A = zoo("spread", "tall", torch.float64, device).operator
    loose, tight = (solver(k=4, tol=tol).solve(A) for tol in (1e-3, 0.0))
    assert loose.report.products < tight.report.products
    assert float(loose.residual_norms.max()) > float(tight.residual_norms.max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_a_good_start_is_made_use_of(solver, shape, device):
    """A sum of four singular vectors spans a Krylov space of dimension four, which holds them to rounding."""
    truth = zoo("spread", shape, torch.float64, device)
    start = truth.right_vectors[:, :4].to(device)
    cold, warm = (solver(k=1, tol=1e-4).solve(truth.operator, start=given) for given in (None, start))
    assert warm.report.products <= cold.report.products + 1  # with A, for a first left vector
    assert float(warm.residual_norms) < 1e-12 < float(cold.residual_norms)


@pytest.mark.parametrize("solver", SOLVERS)
def test_start_that_is_zero_or_in_the_null_space(solver, device):
    truth = zoo("rank deficient", "wide", torch.float64, device)
    start = torch.zeros(70, 1, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match=r"the start is zero, or <Dense 40x70 .* maps it to zero"):
        solver(k=4).solve(truth.operator, start=start)


@pytest.mark.parametrize("solver", SOLVERS)
def test_errors_of_the_operator_pass_through(solver, device):
    """Also those raised in the middle of PROPACK, whose C code takes none."""
    A, count = zoo("spread", "tall", torch.float64, device).operator, 0

    def fail(X, result):
        nonlocal count
        count += 1
        if count == 9:
            raise ArithmeticError("the loss diverged")

    with pytest.raises(ArithmeticError, match="the loss diverged"):
        solver(k=4).solve(through_functions(A, seen=fail))
    assert count == 9  # and nothing is multiplied after that


def test_propack_that_gives_up_returns_nothing_and_warns(device):
    with pytest.warns(ConvergenceWarning, match="SingularValueDecomposition 0 of 40x40 .* raise maxiter"):
        result = Propack(k=4, maxiter=5).solve(zoo("spread", "square", torch.float64, device).operator)
    assert result.report.status is Status.OUT_OF_ITERATIONS
    assert (result.left_vectors.shape, result.right_vectors.shape) == ((N, 0), (N, 0))
    with pytest.raises(RuntimeError, match="raise maxiter"):
        result.require_converged()


def test_propack_keeps_no_fewer_vectors_than_triplets():
    with pytest.raises(ValueError, match="k=4 triplets take as many vectors of each side, got maxiter=3"):
        Propack(k=4, maxiter=3)


@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_arpack_that_gives_up_returns_what_has_converged_and_warns(shape, device):
    truth = zoo("slow decay", shape, torch.float64, device)
    with pytest.warns(ConvergenceWarning, match="out of iterations>: .* raise maxiter or tol"):
        result = ArpackSVD(k=10, ncv=12, maxiter=3).solve(truth.operator)
    found = len(result.singular_values)
    assert 0 < found < 10
    assert (result.left_vectors.shape[1], result.right_vectors.shape[1]) == (found, found)
    assert bool(result.converged(1e-9).all())
    torch.testing.assert_close(result.singular_values.cpu(), truth.singular_values[:found], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ncv", [4, N])
def test_space_of_a_wrong_size(ncv, device):
    with pytest.raises(ValueError, match=rf"ncv={ncv} must be above k=4 and below min\(m, n\)={N}"):
        ArpackSVD(k=4, ncv=ncv).solve(zoo("spread", "tall", torch.float64, device).operator)


def test_propack_says_when_its_vectors_are_not_orthonormal(monkeypatch, device):
    """As it returns them for some multiple singular values."""
    A = zoo("spread", "square", torch.float64, device).operator
    triplets = numpy.ones((N, 2)), numpy.ones(2), numpy.ones((2, N))
    monkeypatch.setattr("scipy.sparse.linalg.svds", lambda *_, **__: triplets)
    with pytest.raises(RuntimeError, match=r"PROPACK failed on <Dense 40x40 .* not orthonormal; use BlockGolubKahan"):
        Propack(k=2).solve(A)
