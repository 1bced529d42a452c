"""Sketched singular values against the same formulas with dense matrices, and where they are exact."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy
import pytest
import torch
from solver_cases import SPECTRA, joined, rounding

import eigenspan as es
from eigenspan.linops import Dense, Function, OrthonormalSubspace
from eigenspan.solvers import SingularValueDecomposition, SketchedEigh, SolveReport, Status
from eigenspan.solvers.cores import least_squares_core
from eigenspan.solvers.sketched_svd import SketchedSVD
from eigenspan.solvers.sketches import SSRFT, Gaussian, Rademacher, SparseSign

METHODS = {"least-squares": {}, "two-sided": {"core": "two-sided"}}
KINDS = {"ssrft": SSRFT, "gaussian": Gaussian, "rademacher": Rademacher, "sparse-sign": SparseSign}
M, N = 70, 60


@functools.cache
def problem(spectrum, shape=(M, N)):
    """U diag(σ) Vᵀ with random U and V, float64 on the CPU, and σ in order; σ by name or a tuple."""
    sigma = (SPECTRA[spectrum] if isinstance(spectrum, str) else joined(list(spectrum))).abs()
    generator = torch.Generator().manual_seed(0)
    count = min(shape)
    U, V = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0][:, :count]
        for size in shape
    )
    return (U * sigma[:count]) @ V.mT, sigma[:count].sort(descending=True).values


def operator(matrix, dtype=torch.float64, device="cpu"):
    return Dense(matrix.to(device, dtype))


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(params=[(M, N), (N, M)], ids=["tall", "wide"])
def shape(request):
    return request.param


class TestAgainstDenseFormulas:
    """A spectrum that a sketch of 20 of 60 dimensions does not capture, so that every formula gives other numbers."""

    OUTER, INNER = 9, 20

    def draw(self, kind, n, s, purpose):
        return KINDS[kind](n, s, purpose=purpose, dtype=torch.float64).columns(0, s)

    def expected(self, matrix, method, kind):
        (m, n), o, s = matrix.shape, self.OUTER, self.INNER
        count = s if method == "least-squares" else o
        omega, upsilon = self.draw(kind, n, count, "range sketch"), self.draw(kind, m, count, "co-range sketch")
        Q, P = (torch.linalg.svd(W).U[:, :o] for W in (matrix @ omega, matrix.mT @ upsilon))
        if method == "two-sided":
            psi, phi = self.draw(kind, n, s, "core sketch"), self.draw(kind, m, s, "core sketch of the rows")
            C = torch.linalg.pinv(phi.mT @ Q) @ (phi.mT @ matrix @ psi) @ torch.linalg.pinv(P.mT @ psi)
        else:
            # The normal equations C R Rᵀ + L Lᵀ C = Qᵀ Y Rᵀ + L Xᵀ P, as one system for all entries of C.
            R, L, one = P.mT @ omega, Q.mT @ upsilon, torch.eye(o, dtype=torch.float64)
            target = Q.mT @ matrix @ omega @ R.mT + L @ (matrix.mT @ upsilon).mT @ P
            system = torch.kron(one, R @ R.mT) + torch.kron(L @ L.mT, one)
            C = torch.linalg.solve(system, target.flatten()).reshape(o, o)
        return Q @ C @ P.mT

    @pytest.mark.parametrize("kind", KINDS)
    def test_triplets_are_those_of_the_approximation(self, method, kind, shape, device):
        matrix, _ = problem("slow decay", shape)
        solver = SketchedSVD(k=5, outer=self.OUTER, inner=self.INNER, test_matrix=kind, block_size=7, **METHODS[method])
        result = solver.solve(operator(matrix, device=device))
        U, sigma, Vt = (
            torch.from_numpy(part) for part in numpy.linalg.svd(self.expected(matrix, method, kind).numpy())
        )
        torch.testing.assert_close(result.singular_values.cpu(), sigma[:5], rtol=0, atol=1e-11)
        # A pair of vectors up to one sign: the projectors u vᵀ.
        torch.testing.assert_close(
            result.operator.to_dense().cpu(), (U[:, :5] * sigma[:5]) @ Vt[:5], rtol=0, atol=1e-10
        )
        assert result.report.status is Status.SKETCHED

    def test_of_a_symmetric_operator_and_one_test_matrix_the_core_is_symmetric(self):
        """The core of the eigensolver is this one, with the same products on both sides."""
        generator = torch.Generator().manual_seed(0)
        test, image = torch.randn(2, 5, 9, generator=generator, dtype=torch.float64)
        core = least_squares_core(test, image, test, image).matrix
        gradient = (core @ test - image) @ test.mT
        torch.testing.assert_close(gradient + gradient.mT, torch.zeros(5, 5, dtype=torch.float64), rtol=0, atol=1e-11)


class TestZoo:
    def check(self, result, matrix, shape, k, dtype):
        U, sigma, V = (
            part.double().cpu() for part in (result.left_vectors, result.singular_values, result.right_vectors)
        )
        unit = rounding(dtype) * float(torch.linalg.matrix_norm(matrix, 2))
        assert (U.shape, sigma.shape, V.shape) == ((shape[0], k), (k,), (shape[1], k))
        assert result.left_vectors.dtype == result.residual_norms.dtype == dtype
        for vectors in (U, V):
            torch.testing.assert_close(vectors.mT @ vectors, torch.eye(k, dtype=U.dtype), rtol=0, atol=rounding(dtype))
        assert sigma.tolist() == sorted(sigma.tolist(), reverse=True)
        assert float(sigma.min()) >= 0
        entries = matrix.to(dtype).double()
        residuals = (
            torch.hypot((entries @ V - U * sigma).norm(dim=0), (entries.mT @ U - V * sigma).norm(dim=0)) / 2**0.5
        )
        torch.testing.assert_close(result.residual_norms.double().cpu(), residuals, rtol=1e-6, atol=unit)

    @pytest.mark.parametrize("spectrum", SPECTRA)
    def test_true_residuals_orthonormal_vectors_and_accuracy_where_rank_is_low(
        self, method, spectrum, shape, dtype, device
    ):
        matrix, sigma = problem(spectrum, shape)
        result = SketchedSVD(k=8, **METHODS[method]).solve(operator(matrix, dtype, device))
        self.check(result, matrix, shape, 8, dtype)
        if spectrum in ("rank deficient", "zero"):
            found = result.singular_values.double().cpu()
            # Two least-squares solves with random matrices of condition ten or so.
            torch.testing.assert_close(found, sigma[:8], rtol=0, atol=10 * rounding(dtype) * float(sigma[0]))
            assert result.report.notes == ()

    @pytest.mark.parametrize("spectrum", ["indefinite", "rank deficient"])
    def test_all_triplets(self, method, spectrum, shape, dtype, device):
        matrix, sigma = problem(spectrum, shape)
        result = SketchedSVD(k=N, **METHODS[method]).solve(operator(matrix, dtype, device))
        self.check(result, matrix, shape, N, dtype)
        torch.testing.assert_close(
            result.singular_values.double().cpu(), sigma, rtol=0, atol=10 * rounding(dtype) * float(sigma[0])
        )
        assert result.report.notes == ()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (2, 3), (3, 2)])
    def test_very_small_operators(self, method, shape, dtype, device):
        count = min(shape)
        matrix, sigma = problem((3.0, 0.5)[:count], shape)
        result = SketchedSVD(k=count, **METHODS[method]).solve(operator(matrix, dtype, device))
        self.check(result, matrix, shape, count, dtype)
        torch.testing.assert_close(result.singular_values.double().cpu(), sigma, rtol=0, atol=3 * rounding(dtype))


def test_what_the_same_products_give(device):
    """Errors of rank 8 from 60 products, over ten seeds: all of Y and X used tells more than a core sketch."""
    matrix, sigma = problem("slow decay")
    A, best = operator(matrix, device=device), float(sigma[8:].norm())

    def error(**options):
        found = [SketchedSVD(k=8, seed=seed, **options).solve(A).operator.to_dense().cpu() for seed in range(10)]
        return sum(float((matrix - one).norm()) for one in found) / 10 / best

    least_squares, two_sided = error(outer=15, inner=30), error(outer=15, inner=30, core="two-sided")
    assert 1 < least_squares < 1.25 < two_sided < 2


class TestEveryMethod:
    def test_block_size_changes_nothing_beyond_rounding(self, method, device):
        A = operator(problem("slow decay")[0], device=device)
        one, seven, all_at_once = (SketchedSVD(k=6, block_size=size, **METHODS[method]).solve(A) for size in (1, 7, 99))
        for other in (one, seven):
            torch.testing.assert_close(other.singular_values, all_at_once.singular_values, rtol=0, atol=1e-12)

    def test_products_are_counted_and_known_beforehand(self, method, device):
        A = operator(problem("slow decay")[0], device=device)
        widths = []

        def counting(product):
            def count(X):
                widths.append(X.shape[1])
                return product(X)

            return count

        counted = Function(counting(A._matmat), A.shape, A.dtype, A.device, rmatmat=counting(A._rmatmat))
        for options, checks in (({}, 14), ({"measure_residuals": False}, 2), ({"check_adjoint": False}, 12)):
            widths.clear()
            solver = SketchedSVD(k=6, outer=10, inner=25, block_size=4, **METHODS[method], **options)
            report = solver.solve(counted).report
            products = 2 * 25 if method == "least-squares" else 2 * 10 + 25
            assert report.products == sum(widths) == products + checks == solver._total(A)
            assert (report.check_products, report.passes) == (checks, len(widths))

    def test_default_sizes(self, method, device):
        """The sketch has k + max(10, k / 4) dimensions, twice that of products on each side, never more than n."""
        A = operator(problem("slow decay")[0], device=device)
        for k, products in (
            (4, {"least-squares": 56, "two-sided": 57}),
            (44, {"least-squares": 120, "two-sided": 170}),
        ):
            report = SketchedSVD(k=k, **METHODS[method]).solve(A).report
            assert report.products - report.check_products == products[method]

    def test_residuals_not_measured(self, method, device):
        result = SketchedSVD(k=6, measure_residuals=False, **METHODS[method]).solve(operator(problem("positive")[0]))
        assert bool(result.residual_norms.isnan().all())
        assert not bool(result.converged(1e-3).any())

    def test_same_seed_same_result_another_seed_another_sample(self, method, dtype, device):
        A = operator(problem("slow decay")[0], dtype, device)
        first = SketchedSVD(k=6, seed=3, **METHODS[method]).solve(A)
        torch.manual_seed(9)
        state = torch.get_rng_state()
        second, third = (SketchedSVD(k=6, seed=seed, **METHODS[method]).solve(A) for seed in (3, 4))
        assert torch.equal(torch.get_rng_state(), state)
        for name in ("left_vectors", "singular_values", "right_vectors", "residual_norms"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
            assert not torch.equal(getattr(first, name), getattr(third, name)), name

    def test_result_survives_a_file(self, method, tmp_path, device):
        solver = SketchedSVD(k=6, test_matrix="sparse-sign", **METHODS[method])
        result = solver.solve(operator(problem("slow decay")[0], device=device))
        result.save(tmp_path / "result.npz")
        loaded = SingularValueDecomposition.load(tmp_path / "result.npz", device=device)
        assert torch.equal(loaded.left_vectors, result.left_vectors)
        assert loaded.report == result.report
        assert loaded.report.solver == solver
        assert loaded.report.notes != ()
        assert SolveReport.from_dict(result.report.to_dict()) == result.report


class TestNotes:
    SIZES: ClassVar[dict] = {"k": 20, "outer": 40, "inner": 81, "measure_residuals": False}

    @pytest.mark.parametrize("decay", [0.5, 0.75])
    def test_slow_decay(self, method, decay, device):
        sigma = torch.arange(1, 1001, dtype=torch.float64, device=device) ** -decay
        report = SketchedSVD(**self.SIZES, **METHODS[method]).solve(es.Diagonal(sigma)).report
        (note,) = report.notes
        assert note.startswith("The core is ill-determined")
        assert note.endswith("take a larger inner, or BlockGolubKahan.")
        assert note in str(report)

    @pytest.mark.parametrize("rate", [0.2, 0.5, 2.0])
    def test_fast_decay(self, method, rate, dtype, device):
        sigma = 10 ** (-rate * torch.arange(1000, dtype=dtype, device=device))
        assert SketchedSVD(**self.SIZES, **METHODS[method]).solve(es.Diagonal(sigma)).report.notes == ()

    def test_without_redundancy(self, method, device):
        sigma = torch.arange(1, 101, dtype=torch.float64, device=device) ** -1.0
        found = SketchedSVD(k=5, outer=9, inner=9, **METHODS[method]).solve(es.Diagonal(sigma))
        assert "nothing tells how far off it is" in found.report.notes[0]


class TestBadInput:
    def test_start(self, device):
        A = operator(problem("positive")[0], device=device)
        with pytest.raises(ValueError, match="uses no start"):
            SketchedSVD(k=3).solve(A, start=OrthonormalSubspace.random(N, 3, dtype=A.dtype, device=device))

    @pytest.mark.parametrize("sizes", [{"k": 8, "outer": 7}, {"outer": 9, "inner": 8}, {"outer": 9, "inner": N + 1}])
    def test_sizes_out_of_order(self, sizes, method):
        with pytest.raises(ValueError, match=r"k <= outer <= inner <= min\(m, n\), got .* min\(m, n\)=60"):
            SketchedSVD(**sizes, **METHODS[method]).solve(operator(problem("positive")[0]))

    def test_outer_alone_gives_as_many_triplets(self, method):
        assert len(SketchedSVD(outer=7, **METHODS[method]).solve(operator(problem("positive")[0])).singular_values) == 7

    def test_neither_k_nor_outer(self):
        with pytest.raises(ValueError, match="SketchedSVD needs k, how many are wanted, or outer"):
            SketchedSVD()

    @pytest.mark.parametrize("wrong", [{"test_matrix": "uniform"}, {"core": "symmetric"}])
    def test_unknown_words(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SketchedSVD(k=2, **wrong)

    def test_more_triplets_than_there_are(self, method):
        with pytest.raises(ValueError, match=f"k={N + 1} singular triplets were asked of"):
            SketchedSVD(k=N + 1, **METHODS[method]).solve(operator(problem("positive")[0]))

    def test_products_that_are_not_adjoint(self, method):
        matrix, _ = problem("positive")
        wrong = Function(
            lambda X: matrix @ X, matrix.shape, torch.float64, rmatmat=lambda Y: matrix.mT @ Y + 1e-4 * Y.sum(dim=0)
        )
        with pytest.raises(ValueError, match="not adjoint"):
            SketchedSVD(k=2, **METHODS[method]).solve(wrong)

    def test_agrees_with_the_eigensolver_on_a_symmetric_operator_of_low_rank(self, method, device):
        eigenvalues = torch.tensor([-4.0, 3.0, -2.0, 1.0] + [0.0] * 36, dtype=torch.float64, device=device)
        pairs = SketchedEigh(k=4).solve(es.Diagonal(eigenvalues))
        triplets = SketchedSVD(k=4, **METHODS[method]).solve(es.Diagonal(eigenvalues))
        torch.testing.assert_close(triplets.singular_values, pairs.eigenvalues.abs(), rtol=0, atol=1e-11)
        torch.testing.assert_close(triplets.operator.to_dense(), pairs.operator.to_dense(), rtol=0, atol=1e-11)
