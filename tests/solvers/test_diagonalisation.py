"""Diagonalisation of a matrix that grows: by the dense one, for borders that join all, some or no pairs."""

from __future__ import annotations

import pytest
import torch

from eigenspan.solvers.diagonalisation import GrowingDiagonalisation


def symmetric(m, seed=0):
    matrix = torch.randn(m, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (matrix + matrix.mT) / 2


def arrow(known, joined, new, coupling):
    """A matrix whose leading ``known`` part has ``joined`` eigenvectors that the border reaches by more."""
    vectors = torch.linalg.eigh(symmetric(known)).eigenvectors
    border = torch.cat([coupling * torch.ones(known - joined, new), torch.randn(joined, new)]).double()
    border = vectors @ (border / border.norm(dim=1, keepdim=True).clamp(min=1))
    return torch.cat([torch.cat([symmetric(known), border], dim=1), torch.cat([border.mT, symmetric(new, 1)], dim=1)])


def check(S, values, vectors, negligible):
    """Orthonormal vectors, residuals of what may be left out at most, and eigenvalues as near as these allow (Weyl)."""
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(len(S), dtype=S.dtype), rtol=0, atol=1e-12)
    residuals = (S @ vectors - vectors * values).norm(dim=0)
    assert float(residuals.max()) <= negligible * len(S) ** 0.5 + 1e-12
    distance = (values.sort().values - torch.linalg.eigvalsh(S)).abs().max()
    assert float(distance) <= float(residuals.norm()) + 1e-12


@pytest.mark.parametrize("joined", [0, 1, 10, 15, 20])
@pytest.mark.parametrize("coupling", [0.0, 1e-9])
def test_pairs_of_a_matrix_that_grows(joined, coupling):
    """Borders that join all pairs, some or none, to what is left out or beyond."""
    S = arrow(20, joined, 5, coupling)
    growing, negligible = GrowingDiagonalisation(), 1e-8
    check(S[:20, :20], *growing.grown(S[:20, :20], negligible), negligible)
    check(S, *growing.grown(S, negligible), negligible)


def test_only_what_the_border_joins_is_diagonalised(monkeypatch):
    """The eigenvectors of the rest stay as they are."""
    S = arrow(20, 4, 3, 0.0)
    growing = GrowingDiagonalisation()
    before = growing.grown(S[:20, :20], 1e-10)[1]
    sizes, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or eigh(matrix))
    after = growing.grown(S, 1e-10)[1]
    assert sizes == [4 + 3]
    assert bool((after[:20, :16] == before[:, :16]).all())


def test_it_grows_again_and_again():
    """Steps of different sizes, of a matrix with a few entries off the diagonal: as a whole each time."""
    S = torch.diag(torch.arange(60.0, dtype=torch.float64)) + torch.diag(torch.full((59,), 1e-3).double(), 1)
    S = (S + S.mT) / 2
    growing = GrowingDiagonalisation()
    for m in (7, 8, 20, 20, 59, 60):
        check(S[:m, :m], *growing.grown(S[:m, :m], 1e-12), 1e-12)


def test_it_forgets():
    """Another matrix, smaller than the last."""
    growing = GrowingDiagonalisation()
    growing.grown(symmetric(9), 0.0)
    growing.forget()
    check(symmetric(4, 2), *growing.grown(symmetric(4, 2), 0.0), 0.0)
