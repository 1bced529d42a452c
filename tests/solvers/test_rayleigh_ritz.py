"""A basis orthonormalised in its place, and Ritz pairs from blocks of it, against dense matrices."""

from __future__ import annotations

import pytest
import torch

import eigenspan as es
from eigenspan.solvers import Storage
from eigenspan.solvers import basis as basis_module
from eigenspan.solvers.basis import Basis
from eigenspan.solvers.combination import Combination
from eigenspan.solvers.rayleigh_ritz import measured_ritz_pairs, orthonormalise_in_place, ritz_pairs

N, K = 1100, 12
CPU = torch.device("cpu")
STORAGES = [Storage("device"), Storage("disk"), Storage("disk", dtype="bfloat16"), Storage("device", dtype="float32")]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Chunks and stores of which a basis has several."""
    monkeypatch.setattr(basis_module, "CHUNK", 512)
    monkeypatch.setattr(basis_module, "_WIDEST", 5)
    monkeypatch.setattr(basis_module, "_ROWS", 128)


def kept(X, storage, dtype=torch.float64):
    basis = Basis(N, dtype, CPU, storage, most=K)
    for columns in X.to(dtype).split(5, dim=1):
        basis.append(columns)
    return basis


def cosines(X, Y):
    """Of the principal angles between the spans."""
    return torch.linalg.svdvals(torch.linalg.qr(X.double())[0].mT @ torch.linalg.qr(Y.double())[0])


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("digits", [1, 10])
def test_the_span_stays_and_its_gram_matrix_is_told(storage, digits):
    mixed = torch.linalg.qr(torch.randn(K, K, dtype=torch.float64))[0]
    X = torch.randn(N, K, dtype=torch.float64) * torch.logspace(0, -digits, K, dtype=torch.float64) @ mixed
    basis = kept(X, storage)
    stored = basis.columns(0, K)
    G, _ = orthonormalise_in_place(basis, K, 0, "test")
    Q = basis.columns(0, K)
    torch.testing.assert_close(G, Q.mT @ Q, rtol=0, atol=1e-12)
    # Rounding after the last division: 12 columns of 2⁻⁸ or 2⁻²⁴ of their length.
    rounding = basis.rounding or 1e-9
    assert float((G - torch.eye(K, dtype=torch.float64)).norm()) < 0.5
    assert float(1 - cosines(stored, Q).min()) < 10 * K * rounding**2 + 1e-10
    assert basis.size == K


def test_of_lower_rank_random_directions_join():
    X = torch.randn(N, 5, dtype=torch.float64) @ torch.randn(5, K, dtype=torch.float64)
    basis = kept(X, Storage("device"))
    G, _ = orthonormalise_in_place(basis, K, 0, "test")
    assert basis.size == K
    torch.testing.assert_close(torch.linalg.eigvalsh(G), torch.ones(K, dtype=torch.float64), rtol=0, atol=0.5)
    assert float(cosines(X[:, :5], basis.columns(0, K)).min()) > 1 - 1e-12


def test_columns_of_zeros_become_random_ones():
    basis = kept(torch.zeros(N, K, dtype=torch.float64), Storage("device"))
    G, _ = orthonormalise_in_place(basis, K, 0, "test")
    assert float(torch.linalg.eigvalsh(G).min()) > 0.5


@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_squares_that_over_or_underflow_are_refused(scale):
    """As they are where the block is in memory; an underflow would look like columns of zeros."""
    basis = kept(scale * torch.randn(N, 3, dtype=torch.float64), Storage("device"))
    with pytest.raises(ValueError, match="scale the operator"):
        orthonormalise_in_place(basis, K, 0, "completion")


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_ritz_pairs_are_those_of_the_span(storage):
    d = torch.randn(N, dtype=torch.float64)
    basis = kept(torch.randn(N, K, dtype=torch.float64), storage)
    G, _ = orthonormalise_in_place(basis, K, 0, "test")
    values, vectors = ritz_pairs(es.Diagonal(d), basis, G, 5)
    Q = torch.linalg.qr(basis.columns(0, K))[0]
    expected, S = torch.linalg.eigh(Q.mT @ (d[:, None] * Q))
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close((vectors.formed() * (Q @ S)).sum(0).abs(), torch.ones(K, dtype=torch.float64))
    assert vectors.block_size == 5


@pytest.mark.parametrize("storage", STORAGES[:2], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-170, 1e150])
def test_residual_norms_are_measured_at_any_scale(storage, scale):
    """Beside dense residuals, to rounding of products; squares of them are no float64 numbers at these scales."""
    d = torch.randn(N, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(N, K, dtype=torch.float64))[0]
    vectors = Combination(kept(Q, storage), torch.eye(K, dtype=torch.float64), 5)
    values, found, norms = measured_ritz_pairs(es.Diagonal(scale * d), vectors)
    V = found.formed()
    expected = torch.linalg.vector_norm(d[:, None] * V - V * (values / scale), dim=0)
    torch.testing.assert_close(norms / scale, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(values / scale, torch.linalg.eigvalsh(Q.mT @ (d[:, None] * Q)), rtol=0, atol=1e-12)
