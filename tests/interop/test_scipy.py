"""SciPy's algorithms on our operators, ours on SciPy's, and the algebra of both, in float64."""

import curvature_cases as cases
import numpy
import pytest
import scipy.sparse
import torch
from operator_contract import matrix
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator
from scipy.sparse.linalg import aslinearoperator, cg, eigsh, lobpcg, lsqr, svds
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, Diagonal, as_operator, to_scipy

LOSS = nn.CrossEntropyLoss()


class TestScipyAlgorithms:
    """SciPy's own solvers run on our operators; those for eigenvalues reach the accuracy of a dense factorisation."""

    @pytest.fixture
    def M(self, device):  # noqa: N802
        return matrix(40, 30, 1, device=device)

    def test_eigsh(self, M):
        A = Dense(M).T @ Dense(M) - Diagonal(torch.linspace(0, 60, 30, dtype=M.dtype, device=M.device))
        expected = numpy.linalg.eigvalsh(A.to_dense().cpu().numpy())
        largest = eigsh(A.to_scipy(), k=4, which="LA", return_eigenvectors=False, v0=numpy.ones(30))
        numpy.testing.assert_allclose(numpy.sort(largest), expected[-4:], rtol=1e-10)

    def test_svds(self, M):
        expected = numpy.linalg.svd(M.cpu().numpy(), compute_uv=False)[:3]
        sigma = svds(Dense(M).to_scipy(), k=3, return_singular_vectors=False, v0=numpy.ones(30))
        numpy.testing.assert_allclose(numpy.sort(sigma)[::-1], expected, rtol=1e-10)

    def test_cg(self, M):
        A = Dense(M).T @ Dense(M) + Diagonal(torch.ones(30, dtype=M.dtype, device=M.device))
        solution, failed = cg(to_scipy(A), numpy.ones(30))
        assert not failed
        expected = numpy.linalg.solve(A.to_dense().cpu().numpy(), numpy.ones(30))
        # The default residual of 1e-5, times a condition number below a hundred.
        assert numpy.linalg.norm(solution - expected) < 1e-3 * numpy.linalg.norm(expected)

    def test_scipy_algebra(self, M):
        S, N = Dense(M).to_scipy(), M.cpu().numpy()
        numpy.testing.assert_allclose((2 * S.T @ S + S.H * S).matmat(numpy.eye(30)), 3 * N.T @ N, atol=1e-12)

    def test_lsqr(self, M):
        """Both products; an absolute and relative tolerance of 1e-12 at a condition number below ten."""
        solution = lsqr(Dense(M).to_scipy(), numpy.ones(40), atol=1e-12, btol=1e-12)[0]
        expected = numpy.linalg.lstsq(M.cpu().numpy(), numpy.ones(40), rcond=None)[0]
        numpy.testing.assert_allclose(solution, expected, atol=1e-8)

    def test_lobpcg(self, M):
        """It stops at residuals of 1e-8, which eigenvalues are off by at most."""
        A = Dense(M).T @ Dense(M)
        values, _ = lobpcg(A.to_scipy(), numpy.eye(30, 3), tol=1e-8, maxiter=200)
        expected = numpy.linalg.eigvalsh(A.to_dense().cpu().numpy())[:-4:-1]
        numpy.testing.assert_allclose(values, expected, atol=1e-7)


def test_eigsh_on_a_hessian():
    H = es.Hessian(cases.mlp(), LOSS, cases.classes(11))
    values = eigsh(H.to_scipy(), k=4, which="LA", return_eigenvectors=False, v0=numpy.ones(53))
    expected = numpy.linalg.eigvalsh(cases.dense_hessian(cases.mlp(), LOSS, cases.classes(11)).numpy())
    numpy.testing.assert_allclose(numpy.sort(values), expected[-4:], atol=1e-10)  # ARPACK goes to machine precision


def test_a_newton_step_by_cg():
    """(G + I/10) x = -g: its residual, by a matrix from autograd alone, is the tolerance of cg times |g|."""
    G = es.GGN(cases.mlp(), LOSS, cases.classes(11))
    damped = G + 0.1 * es.Identity(53, dtype=torch.float64)
    g = G.gradient().numpy()
    step, failed = cg(damped.to_scipy(), -g, rtol=1e-8)
    assert not failed
    M = cases.dense_ggn(cases.mlp(), LOSS, cases.classes(11)).numpy() + 0.1 * numpy.eye(53)
    assert numpy.linalg.norm(M @ step + g) < 2e-8 * numpy.linalg.norm(g)


class TestTheirs:
    """Their operators in our algebra and under our solvers, to rounding or what was converged to."""

    def test_algebra_of_theirs_is_ours(self):
        N = matrix(5, 5, 1).numpy()
        S = aslinearoperator(N)
        for theirs, expected in [(2 * S + S.T @ S, 2 * N + N.T @ N), (S.H, N.T), (S**2, N @ N), (-S, -N)]:
            A = as_operator(theirs)
            numpy.testing.assert_allclose(A.to_dense().numpy(), expected, atol=1e-12)
            numpy.testing.assert_allclose(A.T.to_dense().numpy(), expected.T, atol=1e-12)

    def test_both_in_one_expression(self):
        N = scipy.sparse.csr_array(numpy.eye(6, 4, 1) + 2 * numpy.eye(6, 4, -2))
        A = as_operator(N).T @ as_operator(aslinearoperator(N)) + 2 * es.Identity(4, dtype=torch.float64)
        numpy.testing.assert_allclose(A.to_dense().numpy(), (N.T @ N).toarray() + 2 * numpy.eye(4), atol=1e-12)

    def test_eigenpairs_of_a_sparse_matrix(self):
        """The second difference on a line, whose eigenvalues are 2 - 2 cos(j π / 101)."""
        L = scipy.sparse.diags_array([-numpy.ones(99), 2 * numpy.ones(100), -numpy.ones(99)], offsets=[-1, 0, 1])
        eig = es.BlockLanczos(k=3, tol=1e-8).solve(as_operator(L.tocsr()))
        expected = 2 - 2 * numpy.cos(numpy.arange(100, 97, -1) * numpy.pi / 101)
        numpy.testing.assert_allclose(eig.eigenvalues.numpy(), expected, atol=1e-8)

    def test_singular_values_of_products(self):
        N = matrix(30, 20, 1).numpy()
        theirs = ScipyLinearOperator(N.shape, matvec=N.__matmul__, rmatvec=N.T.__matmul__, dtype=N.dtype)
        found = es.svds(as_operator(theirs), k=3).singular_values.numpy()
        numpy.testing.assert_allclose(found, numpy.linalg.svd(N, compute_uv=False)[:3], atol=1e-8)
