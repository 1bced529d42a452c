"""All eigenpairs of BᵀB from the Gram matrix of the rows of B."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, Diagonal, LinearOperator, Structure
from eigenspan.solvers import DenseEigh, GramEigh, Status


def gram_operator(rows, n, dtype=torch.float64, device="cpu", decay=0.0, scale=1.0):
    """BᵀB for a random B whose rows fall by powers of ten."""
    generator = torch.Generator().manual_seed(1)
    B = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    B = scale * B * 10 ** (-decay * torch.arange(rows, dtype=torch.float64))[:, None]
    B = Dense(B.to(device, dtype))
    return B.T @ B


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request):
    return request.param


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("k", [1, 12, 15, 40])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_beside_a_dense_diagonalisation(which, k, decay, dtype, device):
    A = gram_operator(12, 40, dtype, device, decay)
    result, exact = GramEigh(k=k, which=which).solve(A), DenseEigh(k=k, which=which).solve(A)
    atol = 100 * torch.finfo(dtype).eps * float(DenseEigh(k=1).solve(A).eigenvalues)
    torch.testing.assert_close(result.eigenvalues, exact.eigenvalues, rtol=0, atol=atol)
    residuals = (A @ result.eigenvectors - result.eigenvectors * result.eigenvalues).norm(dim=0)
    assert float(residuals.max()) < atol
    V = result.eigenvectors
    identity = torch.eye(k, dtype=dtype, device=device)
    torch.testing.assert_close(V.mT @ V, identity, rtol=0, atol=100 * torch.finfo(dtype).eps)
    assert result.report.status is Status.COMPLETE


def test_one_product_verifies(device):
    A = gram_operator(12, 40, device=device)
    report = GramEigh(k=12).solve(A).report
    assert report.products == 3  # two test the symmetry
    assert "a Gram matrix of 12 rows" in report.notes[0]


@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_any_scale(scale, dtype, device):
    """Its eigenvalues are squares."""
    A = gram_operator(10, 30, dtype, device, scale=scale)
    result, exact = GramEigh(k=10).solve(A), DenseEigh(k=10).solve(A)
    torch.testing.assert_close(result.eigenvalues, exact.eigenvalues, rtol=1e-4, atol=0)


def test_zero(device):
    A = gram_operator(5, 20, device=device, scale=0.0)
    assert GramEigh(k=3).solve(A).eigenvalues.tolist() == [0.0] * 3


def test_repeated_eigenvalues(device):
    B = torch.linalg.qr(torch.randn(30, 12, dtype=torch.float64))[0].mT.to(device)
    B = Dense(B * torch.tensor([2.0] * 6 + [1.0] * 6, device=device)[:, None])
    values = GramEigh(k=14).solve(B.T @ B).eigenvalues.cpu()
    expected = torch.tensor([4.0] * 6 + [1.0] * 6 + [0.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [8, 30, 59])
def test_of_a_ggn(k, dtype, device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).to(device, dtype)
    batch = (torch.randn(10, 8, dtype=dtype).to(device), torch.randint(3, (10,)).to(device))
    A = es.GGN(model, nn.CrossEntropyLoss(), batch)
    result, exact = GramEigh(k=k).solve(A), DenseEigh(k=k).solve(A)
    atol = 100 * torch.finfo(dtype).eps * float(exact.eigenvalues[0])
    torch.testing.assert_close(result.eigenvalues, exact.eigenvalues, rtol=0, atol=atol)
    assert float(result.residual_norms.max()) < atol


def test_a_seed_matters_only_beyond_the_rank():
    A = gram_operator(12, 40)
    first, second = (GramEigh(k=12, seed=seed).solve(A) for seed in (0, 1))
    assert torch.equal(first.eigenvectors, second.eigenvectors)
    first, second = (GramEigh(k=14, seed=seed).solve(A) for seed in (0, 1))
    assert not torch.equal(first.eigenvectors, second.eigenvectors)


class Wrong(LinearOperator):
    """An operator with the factor of another."""

    def __init__(self):
        super().__init__((20, 20), torch.float64, "cpu", Structure.PSD)

    def _matmat(self, X):
        return X

    def factor(self):
        return Dense(2 * torch.eye(20, dtype=torch.float64)[:5])


class TestErrors:
    def test_a_wrong_factor(self):
        with pytest.raises(RuntimeError, match="is wrong"):
            GramEigh(k=3).solve(Wrong())

    def test_no_factor(self):
        with pytest.raises(TypeError, match="no factor"):
            GramEigh(k=3).solve(Diagonal(torch.tensor([1.0, -1.0, 2.0, 3.0])))

    def test_too_many_rows(self):
        with pytest.raises(ValueError, match="above limit=11"):
            GramEigh(k=3, limit=11).solve(gram_operator(12, 40))

    def test_entries_that_are_not_finite(self):
        B = torch.ones(3, 8, dtype=torch.float64)
        B[1, 2] = float("nan")
        A = Dense(B)
        with pytest.raises(ValueError, match="NaN or infinite"):
            GramEigh(k=2, check_symmetry=False).solve(A.T @ A)

    def test_more_pairs_than_there_are(self):
        with pytest.raises(ValueError, match="choose k <= 40"):
            GramEigh(k=41).solve(gram_operator(12, 40))
