"""Full diagonalisation: exact to rounding, whatever the spectrum."""

from __future__ import annotations

import pytest
import svd_cases
import torch
from solver_cases import SPECTRA, N, zoo
from solver_contract import SolverContract
from svd_contract import SVDContract

from eigenspan.linops import Dense, Function, Structure
from eigenspan.solvers import DenseEigh, Status
from eigenspan.solvers.dense import DenseSVD


class TestDenseEigh(SolverContract):
    random = False

    def make(self, k, which="LM", seed=0, **parameters):
        return DenseEigh(k=k, which=which, seed=seed, **parameters)


@pytest.mark.parametrize("name", SPECTRA)
def test_takes_as_many_products_as_rows_and_is_complete(name, device):
    report = DenseEigh(k=3).solve(zoo(name, torch.float64, device).operator).report
    assert report.status is Status.COMPLETE
    assert (report.products, report.check_products) == (N + 2, 2)


def test_residuals_are_those_of_the_entries_as_measured(device):
    """A perturbation that is unsymmetric shows in the residual norms, not in the eigenpairs."""
    symmetric = zoo("indefinite", torch.float64, device).operator.matrix
    skew = torch.zeros_like(symmetric)
    skew[0, 1], skew[1, 0] = 1e-6, -1e-6
    A = Dense(symmetric + skew, Structure.SYMMETRIC)
    result = DenseEigh(k=4, check_symmetry=False).solve(A)
    expected = DenseEigh(k=4).solve(Dense(symmetric, Structure.SYMMETRIC))
    torch.testing.assert_close(result.eigenvalues, expected.eigenvalues, rtol=0, atol=1e-14)
    torch.testing.assert_close(result.residual_norms, (skew @ result.eigenvectors).norm(dim=0), rtol=1e-6, atol=1e-14)


class TestDenseSVD(SVDContract):
    random = False

    def make(self, k, seed=0, **parameters):
        return DenseSVD(k=k, seed=seed, **parameters)


@pytest.mark.parametrize("shape", svd_cases.SHAPES)
def test_singular_values_take_as_many_products_as_the_shorter_side(shape, device):
    A = svd_cases.zoo("spread", shape, torch.float64, device).operator
    widths = {"forward": 0, "backward": 0}

    def counted(name, matrix):
        def product(X):
            widths[name] += X.shape[1]
            return matrix @ X

        return product

    counting = Function(
        counted("forward", A.matrix), A.shape, A.dtype, A.device, rmatmat=counted("backward", A.matrix.mT)
    )
    report = DenseSVD(k=3).solve(counting).report
    assert report.status is Status.COMPLETE
    assert (report.products, report.check_products) == (svd_cases.N + 2, 2)
    assert sorted(widths.values()) == [1, svd_cases.N + 1]
    assert widths["backward"] == (svd_cases.N + 1 if shape == "wide" else 1)


def test_singular_residuals_are_those_of_the_entries_as_measured(device):
    """They do not see that the transpose, which was not needed, is another matrix."""
    A = svd_cases.zoo("spread", "tall", torch.float64, device).operator
    wrong = svd_cases.through_functions(A, 2 * A.matrix.mT)
    result = DenseSVD(k=4, check_adjoint=False).solve(wrong)
    assert float(result.residual_norms.max()) < 2e-14
