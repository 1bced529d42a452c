"""Full diagonalisation: exact to rounding, whatever the spectrum."""

from __future__ import annotations

import pytest
import torch
from solver_cases import SPECTRA, N, zoo
from solver_contract import SolverContract

from eigenspan.linops import Dense, Structure
from eigenspan.solvers import DenseEigh, Status


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
