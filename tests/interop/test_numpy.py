"""Arrays in and arrays out."""

import curvature_cases as cases
import numpy
import pytest
import torch
from torch import nn

import eigenspan as es


@pytest.fixture
def S():  # noqa: N802
    """A symmetric array with eigenvalues of both signs."""
    Q = numpy.linalg.qr(numpy.random.default_rng(0).standard_normal((40, 40)))[0]
    S = (Q * numpy.linspace(-1, 2, 40)) @ Q.T
    return (S + S.T) / 2


@pytest.mark.parametrize("layout", ["C", "F", "read-only", "reversed"])
def test_eigenpairs_of_an_array_are_arrays(S, layout):
    """As numpy.linalg.eigh finds them: values as converged, squared, and vectors by their residuals."""
    given = numpy.array(S, order=layout if layout in "CF" else "C")
    given.flags.writeable = layout != "read-only"
    given = given[::-1, ::-1] if layout == "reversed" else given
    eig = es.BlockLanczos(k=4, tol=1e-8).solve(es.as_operator(given))
    expected = numpy.linalg.eigh(given)[0]
    values, vectors = numpy.asarray(eig.eigenvalues), numpy.asarray(eig.eigenvectors)
    assert values.dtype == vectors.dtype == numpy.float64
    numpy.testing.assert_allclose(values, sorted(expected, key=abs, reverse=True)[:4], atol=1e-12)
    numpy.testing.assert_allclose(given @ vectors, vectors * values, atol=1e-7)


def test_single_precision_stays_so(S):
    A = es.as_operator(S.astype(numpy.float32))
    assert A.is_symmetric
    product = A.to_scipy() @ numpy.ones(40, dtype=numpy.float32)
    assert product.dtype == numpy.float32
    numpy.testing.assert_allclose(product, S @ numpy.ones(40), atol=1e-5)  # sums of 40 in float32


def test_products_with_arrays_go_through_scipy():
    """A product of arrays is SciPy's: ours say so, and where to go."""
    H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(11))
    M = cases.dense_hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(11)).numpy()
    X = numpy.random.default_rng(0).standard_normal((53, 3))
    for wrong in (lambda: H @ X, lambda: X.T @ H, lambda: H @ X[:, 0]):
        with pytest.raises(TypeError, match=r"got ndarray; for NumPy and SciPy use A.to_scipy\(\)"):
            wrong()
    numpy.testing.assert_allclose(H.to_scipy() @ X, M @ X, atol=1e-12)  # sums of 11 samples in float64
    numpy.testing.assert_allclose((H @ torch.from_numpy(X)).numpy(), M @ X, atol=1e-12)
    with pytest.raises(TypeError, match=r"is not an array: use .*A.to_dense\(\).numpy\(\) for the entries"):
        numpy.asarray(H)


def test_scalars_are_numbers():
    """NumPy's own are no arrays of operators."""
    A = es.as_operator(numpy.eye(3))
    for scaled in (numpy.float64(2) * A, A * numpy.float64(2), A / numpy.float64(0.5)):
        assert torch.equal(scaled.to_dense(), 2 * torch.eye(3, dtype=torch.float64))


def test_masks_and_bases_from_arrays(S):
    """An overlap by hand, in float64: the squares of the rows that the mask selects."""
    vectors = numpy.linalg.eigh(S)[1][:, -5:]
    scores = numpy.abs(S).sum(axis=0)
    chosen = numpy.argsort(-scores)[:5]
    mask = es.MaskSubspace.from_indices(torch.from_numpy(chosen), 40, torch.float64)
    basis = es.OrthonormalSubspace(torch.from_numpy(vectors))
    assert es.overlap(mask, basis) == pytest.approx(float((vectors[chosen] ** 2).sum()) / 5, abs=1e-12)
    numpy.testing.assert_array_equal(mask.mask.numpy().nonzero()[0], numpy.sort(chosen))
    with pytest.raises(TypeError, match=r"ndarray; use torch\.tensor"):
        es.MaskSubspace.from_indices(chosen, 40)
