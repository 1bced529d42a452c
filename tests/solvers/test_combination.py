"""Eigenvectors that are not formed: all that is asked of them comes from rows, blocks and small matrices."""

from __future__ import annotations

import functools
import pickle

import numpy
import pytest
import torch
from metric_contract import LargestTensor

import eigenspan as es
from eigenspan.solvers import basis as basis_module
from eigenspan.solvers.combination import Combination

N, K = 1300, 24


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Chunks, blocks of rows and blocks of columns of which the matrices have several."""
    monkeypatch.setattr(basis_module, "CHUNK", 512)
    monkeypatch.setattr("eigenspan.solvers.tall._ROWS", 512)
    monkeypatch.setattr(basis_module, "_SMALL", 0)
    monkeypatch.setattr("eigenspan.linops.tall_matrix._ROW_NUMBERS", 500 * K)
    monkeypatch.setattr("eigenspan.linops.tall_matrix._COLUMN_NUMBERS", 5 * N)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(params=["device", "host", "disk"])
def kind(request):
    return request.param


@functools.cache
def low_rank(dtype, device="cpu"):
    """A diagonal and thirty directions."""
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(N, 30, generator=generator, dtype=torch.float64))[0].to(device, dtype)
    values = (50 * 0.85 ** torch.arange(30.0)).to(device, dtype)
    diagonal = (0.01 * torch.rand(N, generator=generator)).to(device, dtype)
    return es.Diagonal(diagonal) + es.Diagonal(values).congruence(es.Dense(U.mT))


@functools.cache
def exact(dtype):
    return es.DenseEigh(k=K).solve(low_rank(dtype))


def both(kind, dtype, device="cpu", **options):
    A = low_rank(dtype, device)
    return A, es.BlockLanczos(k=K, **options).solve(A), es.BlockLanczos(k=K, storage=kind, **options).solve(A)


def test_the_result_is_that_of_memory(kind, dtype):
    """Eigenvalues to the last bit; some BLAS round vectors otherwise where fewer columns are combined at a time."""
    _, expected, found = both(kind, dtype)
    eps = torch.finfo(dtype).eps
    assert torch.equal(found.eigenvalues, expected.eigenvalues)
    # Of |λ| up to 50, from vectors with a few roundings each.
    torch.testing.assert_close(found.residual_norms, expected.residual_norms, rtol=0, atol=10 * 50 * eps)
    assert found.report.status is es.Status.CONVERGED
    torch.testing.assert_close(found.eigenvectors, expected.eigenvectors, rtol=0, atol=10 * eps)
    assert found.eigenvectors is found.eigenvectors  # formed once
    assert found.eigenvectors.mT.is_contiguous()


def test_restarts_end_with_orthonormal_vectors(kind, dtype, device):
    """To a few roundings of their dtype, and with the residual norms that they are given."""
    A, expected, found = both(kind, dtype, device, max_basis=50, block_size=5)
    eps = torch.finfo(dtype).eps
    V = found.eigenvectors.to(device).double()
    assert float((V.mT @ V - torch.eye(K, device=device)).abs().max()) < 20 * eps
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues, rtol=0, atol=200 * 50 * eps)
    norms = torch.linalg.vector_norm(A @ V.to(dtype) - V.to(dtype) * found.eigenvalues, dim=0)
    torch.testing.assert_close(norms, found.residual_norms, rtol=0.1, atol=50 * 10 * eps)


@pytest.mark.parametrize(("dtype", "stored"), [(torch.float32, "bfloat16"), (torch.float64, "float32")])
@pytest.mark.parametrize("max_basis", [None, 60])
def test_a_narrower_dtype_gives_ritz_pairs_of_rounded_vectors(dtype, stored, max_basis, kind):
    """Vectors are off by the rounding u of their storage at most, λ by u² of the largest: sums of K ‖A‖ u²."""
    A, expected = low_rank(dtype), exact(dtype)
    storage = es.Storage(kind, dtype=stored)
    found = es.BlockLanczos(k=K, storage=storage, max_basis=max_basis, block_size=5).solve(A)
    u, eps = torch.finfo(getattr(torch, stored)).eps / 2, torch.finfo(dtype).eps
    assert found.report.status is es.Status.ROUNDED
    assert not found.report.status.is_success
    largest = float(expected.eigenvalues[0])
    assert float((found.eigenvalues - expected.eigenvalues).abs().max()) < K * largest * (u**2 + 10 * eps)
    assert float(found.residual_norms.max()) < 2 * u * largest
    V = found.eigenvectors
    norms = torch.linalg.vector_norm(A @ V - V * found.eigenvalues, dim=0)
    torch.testing.assert_close(norms, found.residual_norms, rtol=1e-2, atol=100 * largest * eps)
    gram = V.double().mT @ V.double()
    torch.testing.assert_close(gram, torch.eye(K, dtype=torch.float64), rtol=0, atol=50 * eps)
    assert 1 - es.overlap(found.subspace, expected.subspace) < (20 * u) ** 2 + 20 * eps


@pytest.mark.parametrize("storage", [None, "host"])
@pytest.mark.parametrize(
    ("indices", "error"),
    [
        (torch.tensor([0, N]), ValueError),
        (torch.tensor([-1]), ValueError),
        (torch.tensor([[0, 1]]), ValueError),
        (torch.arange(N) < 3, TypeError),
        (torch.tensor([0.0]), TypeError),
    ],
)
def test_what_are_no_numbers_of_rows_is_refused_wherever_the_vectors_are(storage, indices, error):
    A = es.Diagonal(torch.linspace(1, 2, N, dtype=torch.float64))
    found = es.SketchedEigh(k=2, outer=4, two_pass=True, core="rayleigh-ritz", storage=storage).solve(A)
    with pytest.raises(error, match="rows"):
        found.rows(indices)
    assert torch.equal(found.rows([N - 1, 0]), found.rows(torch.tensor([N - 1, 0], dtype=torch.int32)))
    assert found.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 2)


def test_what_a_mask_asks_takes_rows_alone(kind, dtype, device):
    """The overlaps and chance levels of the formed vectors, to rounding, and no tensor of the size of the basis."""
    _, expected, found = both(kind, dtype, device)
    scores = torch.rand(N).to(device)
    mask = es.MaskSubspace.top_k(scores, 2 * K).to(dtype=dtype)
    labels = torch.arange(N, device=device) % 7
    indices = torch.tensor([0, 511, 512, N - 1], device=device)
    tol = {"rtol": 100 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(dtype).eps}
    subspace, formed, largest = found.subspace, expected.subspace, LargestTensor()
    with largest:
        overlap, chance = es.overlap(mask, subspace), es.chance(mask, subspace, labels)
        curve = es.overlap_curve(scores, subspace)
        rows, leverage = found.leading(5).rows(indices), subspace.leverage()
        shares = es.layer_energy(subspace, labels)
        leading = es.overlap(mask, subspace.leading(7))
        chances = es.chance_curve(scores, subspace, labels)
        itself = es.overlap(subspace, formed)
    assert largest.entries < N * K
    assert overlap == pytest.approx(es.overlap(mask, expected.subspace), rel=tol["rtol"])
    assert leading == pytest.approx(es.overlap(mask, expected.subspace.leading(7)), rel=tol["rtol"])
    assert itself == pytest.approx(1, rel=tol["rtol"])
    reference = es.chance(mask, expected.subspace, labels)
    assert (chance.mean, chance.std) == pytest.approx((reference.mean, reference.std), rel=tol["rtol"])
    torch.testing.assert_close(curve, es.overlap_curve(scores, expected.subspace), **tol)
    torch.testing.assert_close(rows, expected.eigenvectors[indices, :5], **tol)
    torch.testing.assert_close(leverage, expected.subspace.leverage(), **tol)
    torch.testing.assert_close(shares, es.layer_energy(expected.subspace, labels), **tol)
    torch.testing.assert_close(chances.std, es.chance_curve(scores, expected.subspace, labels).std, **tol)


def test_metrics_read_the_basis_once(kind, monkeypatch):
    """Blocks of columns would read all of it for each; here for five of K."""
    _, _, found = both(kind, torch.float64)
    taken = []
    parts = basis_module.Basis._parts

    def counted(self, *places):
        for part, columns in parts(self, *places):
            taken.append(columns.numel())
            yield part, columns

    monkeypatch.setattr(basis_module.Basis, "_parts", counted)
    labels, scores = torch.arange(N) % 7, torch.rand(N)
    subspace = found.subspace
    es.layer_energy(subspace, labels)
    es.participation_ratio(subspace)
    es.chance_curve(scores, subspace, labels)
    assert sum(taken) == 3 * N * len(found._eigenvectors.coefficients)


def test_once_formed_rows_are_read_and_the_basis_is_not(kind, device, monkeypatch):
    """A study reads them five times and more; the basis has more columns, and its combinations are products."""
    _, _, found = both(kind, torch.float64, device)
    lazy = found.leading(K)
    indices = torch.tensor([0, 7, 511, 512, N - 1])
    rows = lazy.rows(indices)
    assert found.eigenvectors.shape == (N, K)
    monkeypatch.setattr(basis_module.Basis, "_parts", lambda *_: pytest.fail("the basis is read"))
    monkeypatch.setattr(basis_module.Basis, "_own_rows", lambda *_: pytest.fail("the basis is read"))
    torch.testing.assert_close(found.rows(indices), rows, rtol=0, atol=1e-15)
    assert found.rows(indices).device.type == device
    blocks = torch.cat([block for _, block in found.subspace.row_blocks()])
    assert torch.equal(blocks, found.eigenvectors.to(device))


def test_a_file_is_written_by_rows_and_read_as_any(kind, dtype, tmp_path):
    _, expected, found = both(kind, dtype)
    found.save(tmp_path / "result.npz")
    assert found._eigenvectors._formed is None
    loaded = es.EigenDecomposition.load(tmp_path / "result.npz")
    torch.testing.assert_close(loaded.eigenvectors, expected.eigenvectors, rtol=0, atol=50 * torch.finfo(dtype).eps)
    assert torch.equal(loaded.eigenvalues, expected.eigenvalues)
    assert loaded.report == found.report
    assert torch.equal(es.EigenDecomposition.load(tmp_path / "result.npz", mmap=True).eigenvectors, loaded.eigenvectors)
    with numpy.load(tmp_path / "result.npz", allow_pickle=False) as archive:
        assert archive["eigenvectors"].shape == (N, K)


def test_products_certificates_and_starts_of_what_is_not_formed(kind, dtype, device):
    """The same as those of the formed vectors."""
    A, expected, found = both(kind, dtype, device)
    tol = {"rtol": 1e-3, "atol": 1e4 * torch.finfo(dtype).eps}
    X = torch.randn(N, 3, dtype=torch.float64).to(device, dtype)
    torch.testing.assert_close(found.operator @ X, expected.operator @ X, **tol)
    torch.testing.assert_close(X.mT @ found.subspace.basis, X.mT @ expected.eigenvectors, **tol)
    torch.testing.assert_close(es.certify(found, A).intervals, es.certify(expected, A).intervals, **tol)
    assert es.scree(found, A).error == pytest.approx(es.scree(expected, A).error, rel=1e-3)
    assert isinstance(found._eigenvectors, Combination)
    assert found._eigenvectors._formed is None
    again = es.BlockLanczos(k=K, storage=kind).solve(A, start=found.subspace)
    torch.testing.assert_close(again.eigenvalues, expected.eigenvalues, **tol)


def test_a_copy_in_a_pickle_holds_the_numbers(kind):
    _, _, found = both(kind, torch.float64)
    copy = pickle.loads(pickle.dumps(found.subspace))
    assert torch.equal(copy.vectors, found.eigenvectors)
