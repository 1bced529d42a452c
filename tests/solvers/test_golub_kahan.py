"""Block Golub-Kahan: small singular values kept, copies found, honest about its budget."""

from __future__ import annotations

import numpy
import pytest
import scipy.sparse
import torch
from solver_cases import SUCCESS, quietly, rounding
from svd_cases import SPECTRA, N, problem, separate, spectrum, zoo
from svd_contract import SVDContract, SVDZooContract

import eigenspan as es
from eigenspan.linops import Counted, Dense, Diagonal, OrthonormalSubspace
from eigenspan.solvers import ConvergenceWarning, Status
from eigenspan.solvers.golub_kahan import BlockGolubKahan


class GolubKahanZoo(SVDZooContract):
    def make(self, k, seed=0, **parameters):
        return BlockGolubKahan(k=k, seed=seed, **parameters)

    def accuracy(self, dtype):
        """The default tolerance of residual norms, which bound the errors of singular values."""
        return {torch.float64: 1e-9, torch.float32: 1e-5 + rounding(torch.float32)}[dtype]


class TestBlockGolubKahan(GolubKahanZoo, SVDContract):
    uses_start = True


class Rectangular(GolubKahanZoo):
    """Square operators are left out."""

    @pytest.fixture(params=["tall", "wide"])
    def shape(self, request):
        return request.param


class TestBlockOfOne(Rectangular):
    """Every multiplicity is above the block, and a cluster that float32 does not resolve is one."""

    @pytest.fixture
    def dtype(self):
        return torch.float32

    def make(self, k, seed=0, **parameters):
        return BlockGolubKahan(k=k, seed=seed, block_size=1, **parameters)


class TestBlockAboveAllMultiplicities(Rectangular):
    """Also above the rank of some operators."""

    @pytest.fixture
    def dtype(self):
        return torch.float64

    def make(self, k, seed=0, **parameters):
        return BlockGolubKahan(k=k, seed=seed, block_size=16, **parameters)


class TestRestarts(Rectangular):
    """Within the smallest basis for blocks of two."""

    @pytest.fixture
    def dtype(self):
        return torch.float64

    def make(self, k, seed=0, **parameters):
        return BlockGolubKahan(k=k, seed=seed, block_size=2, max_basis=k + 6, **parameters)

    def rounding(self, dtype):
        """Hundreds of restarts, each of which rounds the kept vectors anew."""
        return 10 * rounding(dtype)


@pytest.fixture
def separated(device):
    return separate(device)


class TestAccuracy:
    def test_small_singular_values_are_as_accurate_as_large_ones(self, device):
        """Through AᵀA those below 1e-8 σ₁ would be lost."""
        values = torch.logspace(0, -12, 30, dtype=torch.float64)
        truth = problem(values, (50, 30), device=device)
        result = BlockGolubKahan(k=30, block_size=3).solve(truth.operator)
        assert result.report.status is Status.COMPLETE
        torch.testing.assert_close(result.singular_values.cpu(), values, rtol=0, atol=1e-15)

    def test_small_singular_values_that_lead(self, device):
        """Eight of two hundred, without a complete decomposition."""
        leading = torch.logspace(0, -7, 8, dtype=torch.float64)
        truth = problem(torch.cat([leading, 1e-9 * torch.rand(192, dtype=torch.float64)]), (200, 250), device=device)
        result = BlockGolubKahan(k=8, tol=1e-12).solve(truth.operator)
        assert result.report.status is Status.CONVERGED
        torch.testing.assert_close(result.singular_values.cpu(), leading, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("block_size", [1, 7])
    def test_no_ghosts_of_a_dominant_singular_value(self, device, block_size):
        """σ₁ converges early and, where orthogonality is lost, comes back as a second copy in the list."""
        leading = [1e4, 3.0, 2.5, 2.0, 1.8, 1.6, 1.4, 1.2]
        truth = problem(spectrum(150, leading), (150, 170), device=device)
        result = BlockGolubKahan(k=8, block_size=block_size, tol=1e-13).solve(truth.operator)
        assert result.report.status in SUCCESS
        # Singular values are accurate relative to σ₁ = 1e4.
        torch.testing.assert_close(result.singular_values.tolist(), leading, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("max_basis", [None, 30])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_differences_of_neighbours(self, max_basis, transposed):
        """A sparse operator from Rⁿ to Rⁿ⁻¹ with the singular values 2 cos(π j / 2n), close together at the top."""
        n = 60
        differences = scipy.sparse.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n), format="csr")
        operator = es.as_operator(differences.T if transposed else differences)
        result = BlockGolubKahan(k=3, block_size=2, max_basis=max_basis).solve(operator)
        assert result.report.status in SUCCESS
        exact = 2 * numpy.cos(numpy.pi * numpy.arange(1, 4) / (2 * n))
        numpy.testing.assert_allclose(result.singular_values, exact, rtol=0, atol=2e-9)  # tol times σ₁ = 2

    def test_agrees_with_eigenvalues_of_the_gram_operator(self, separated):
        A = separated.operator
        result = BlockGolubKahan(k=6).solve(A)
        assert result.report.status is Status.CONVERGED
        assert result.report.products < 150
        squares = es.BlockLanczos(k=6).solve(A.T @ A).eigenvalues
        torch.testing.assert_close(result.singular_values.square(), squares, rtol=1e-12, atol=0)


class TestInvariantSubspaces:
    """Spaces that close hold some triplets, not necessarily the leading ones."""

    @pytest.mark.parametrize("max_basis", [None, 60])
    @pytest.mark.parametrize("block_size", [1, 5])
    @pytest.mark.parametrize("k", [5, 15])
    def test_all_copies_of_singular_values_above_the_block_size(self, device, block_size, k, max_basis):
        """Few distinct values: the first spaces close with ``block_size`` copies of each."""
        values = torch.tensor([1.0] * 12 + [0.5] * 12 + [0.0] * 66, dtype=torch.float64)
        truth = problem(values, (90, 100), device=device)
        result = BlockGolubKahan(k=k, block_size=block_size, max_basis=max_basis).solve(truth.operator)
        assert result.report.status in SUCCESS
        torch.testing.assert_close(result.singular_values.cpu(), values[:k], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("seed", range(2))
    @pytest.mark.parametrize("block_size", [1, 2, 5])
    def test_copies_also_where_the_spaces_do_not_close(self, device, block_size, seed):
        values = torch.cat([torch.tensor([3.0] * 7 + [2.0] * 7), torch.linspace(1, 0, 136)]).double()
        truth = problem(values, (150, 160), device=device)
        result = BlockGolubKahan(k=10, block_size=block_size, seed=seed).solve(truth.operator)
        assert result.report.status in SUCCESS
        torch.testing.assert_close(result.singular_values.cpu(), values[:10], rtol=0, atol=3e-9)

    @pytest.mark.parametrize("max_basis", [None, 21, 40])
    @pytest.mark.parametrize("noise", [0.0, 1e-8])
    @pytest.mark.parametrize("width", [1, 5])
    def test_a_start_of_interior_vectors_is_not_the_answer(self, device, width, noise, max_basis):
        """They meet the tolerance at once, or nearly so, and lead all that random vectors have shown by then."""
        truth = problem(torch.linspace(2, 0, 100, dtype=torch.float64), (120, 100), device=device)
        generator = torch.Generator().manual_seed(5)
        start = truth.right_vectors[:, 15 : 15 + width]
        start = start + noise * torch.randn(100, width, dtype=torch.float64, generator=generator)
        solver = BlockGolubKahan(k=3, block_size=5, max_basis=max_basis)
        result = quietly(solver, truth.operator, start=start.to(device))
        assert result.report.status in SUCCESS
        torch.testing.assert_close(result.singular_values.cpu(), truth.singular_values[:3], rtol=0, atol=2e-9)

    def test_nor_when_there_is_no_product_left_to_see_it(self, separated):
        trailing = separated.right_vectors[:, -6:].to(separated.operator.device)
        solver = BlockGolubKahan(k=6, block_size=6, max_products=12)
        assert quietly(solver, separated.operator, start=trailing).report.status is Status.OUT_OF_PRODUCTS

    def test_one_leading_triplet_in_a_large_null_space(self, device):
        """A random vector has a part of 1 / √n of it, so that its first products look like those of a zero operator."""
        diagonal = torch.zeros(100_000, device=device)
        diagonal[0], diagonal[1:6] = 1.0, 0.5
        start = torch.zeros(100_000, 5, device=device)
        start[1:6] = torch.eye(5, device=device)
        result = BlockGolubKahan(k=1).solve(Diagonal(diagonal), start=start)
        assert float(result.singular_values) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize(("k", "rank"), [(4, 0), (4, 2), (6, 6)])
    def test_block_larger_than_the_rank(self, device, k, rank):
        """Triplets beyond the rank have orthonormal vectors of either side, that A or its transpose map to zero."""
        values = torch.cat([torch.arange(rank, 0, -1), torch.zeros(100 - rank)]).double()
        truth = problem(values, (110, 100), device=device)
        result = BlockGolubKahan(k=k, block_size=20).solve(truth.operator)
        assert result.report.status is Status.CONVERGED
        # Three blocks: one spans the range, one that of the transpose, one shows that the rest is zero.
        assert result.report.products <= 3 * 2 * 20 + 2
        torch.testing.assert_close(result.singular_values.cpu(), values[:k], rtol=0, atol=1e-13)
        for vectors in (result.left_vectors, result.right_vectors):
            torch.testing.assert_close(vectors.mT @ vectors, torch.eye(k).to(vectors), rtol=0, atol=1e-13)

    def test_isometry_takes_two_blocks_of_either_side(self, device):
        report = (
            BlockGolubKahan(k=3, block_size=3).solve(zoo("isometry", "tall", torch.float64, device).operator).report
        )
        assert report.status is Status.CONVERGED
        assert report.products - report.check_products == 12


class TestBudget:
    @pytest.mark.parametrize("max_products", [12, 13, 27, 40])
    @pytest.mark.parametrize("block_size", [1, 4, 50])
    def test_is_never_exceeded_and_all_is_returned(self, device, max_products, block_size):
        """A product that is left over has no partner of the other side."""
        A = Counted(zoo("spread", "tall", torch.float64, device).operator)
        solver = BlockGolubKahan(k=6, block_size=block_size, max_products=max_products)
        result = quietly(solver, A)
        assert result.report.status is Status.OUT_OF_PRODUCTS
        assert A.products == result.report.products == max_products - max_products % 2 + 2
        assert result.left_vectors.shape == (70, 6)

    def test_warns_and_says_what_to_do(self, device):
        solver = BlockGolubKahan(k=6, max_products=20)
        with pytest.warns(
            ConvergenceWarning,
            match=r"out of products>: .* raise max_products, .*, or tol",
        ):
            result = solver.solve(zoo("spread", "tall", torch.float64, device).operator)
        assert not bool(result.converged(1e-9).all())
        with pytest.raises(RuntimeError, match="raise max_products"):
            result.require_converged()

    def test_says_if_it_is_not_shown_that_nothing_is_missing(self, device):
        """All have converged, and copies have just joined: products would go on to look for more."""
        values = torch.cat([torch.ones(10), 0.5 ** torch.arange(1, 991)]).double().to(device)
        solver = BlockGolubKahan(k=10, block_size=5, max_products=70)
        with pytest.warns(ConvergenceWarning, match=r"or tol\. 10 of 10 triplets meet the tolerance, but .* missing"):
            result = solver.solve(Diagonal(values))
        assert float(result.residual_norms.max()) < 1e-9

    @pytest.mark.parametrize("shape", ["square", "tall", "wide"])
    def test_ends_when_one_side_is_complete(self, shape, device):
        report = BlockGolubKahan(k=30).solve(zoo("spread", shape, torch.float64, device).operator).report
        assert report.status is Status.COMPLETE
        assert report.products <= 2 * N + 5 + 2

    @pytest.mark.parametrize(
        ("k", "block_size", "max_basis", "products"),
        [(2, 100, None, 1000), (52, 260, None, 1040), (2, 50, 152, 10_000)],
    )
    def test_default(self, device, k, block_size, max_basis, products):
        """Of a diagonal too close to the identity to be resolved."""
        A = Diagonal(torch.linspace(1, 1 + 1e-6, 800, dtype=torch.float64, device=device))
        solver = BlockGolubKahan(k=k, block_size=block_size, max_basis=max_basis, tol=3e-15)
        report = quietly(solver, A).report
        assert report.products - 2 == products
        assert report.status is Status.OUT_OF_PRODUCTS


class TestWarmStart:
    def test_from_the_space_of_yesterday_takes_fewer_products(self, separated):
        """The operator has moved a little."""
        yesterday = BlockGolubKahan(k=6).solve(separated.operator)
        noise = torch.randn(300, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        today = Dense(separated.operator.matrix + 1e-6 * noise.to(separated.operator.device))
        cold = BlockGolubKahan(k=6, block_size=12).solve(today)
        warm = BlockGolubKahan(k=6, block_size=12).solve(today, start=yesterday.right_subspace)
        assert warm.report.products < 0.8 * cold.report.products
        torch.testing.assert_close(warm.singular_values, cold.singular_values, rtol=0, atol=3e-9)

    @pytest.mark.parametrize("width", [1, 5, 9])
    def test_of_any_width_even_degenerate(self, device, width):
        """Random combinations of many; columns of zeros are none."""
        truth = zoo("spread", "wide", torch.float64, device)
        block = torch.zeros(70, width, dtype=torch.float64, device=device)
        block[3, 0] = 1e-20
        kept = block.clone()
        result = BlockGolubKahan(k=6).solve(truth.operator, start=block)
        assert result.report.status in SUCCESS
        assert torch.equal(block, kept)
        torch.testing.assert_close(result.singular_values.cpu(), truth.singular_values[:6], rtol=0, atol=2e-9)

    def test_a_good_one_needs_no_more_than_the_evidence(self, separated):
        """A gap behind the wanted triplets shows early that nothing leads them."""
        start = OrthonormalSubspace(separated.right_vectors[:, :6].to(separated.operator.device))
        report = BlockGolubKahan(k=6, block_size=12).solve(separated.operator, start=start).report
        assert report.status is Status.CONVERGED
        assert report.products <= 100


@pytest.mark.parametrize("max_basis", [None, 20])
@pytest.mark.parametrize("name", SPECTRA)
def test_status_does_not_depend_on_scale(device, name, max_basis):
    """A power of two changes no rounding, so neither products nor vectors."""
    A = zoo(name, "tall", torch.float64, device).operator
    solver = BlockGolubKahan(k=5, max_products=60, max_basis=max_basis)
    base, scaled = quietly(solver, A), quietly(solver, Dense(A.matrix * 2.0**-60))
    assert (scaled.report.status, scaled.report.products) == (base.report.status, base.report.products)
    torch.testing.assert_close(scaled.singular_values * 2.0**60, base.singular_values, rtol=1e-6, atol=0)


class TestBadParameters:
    @pytest.mark.parametrize("tol", [0.0, 1.0, -1e-3, float("nan")])
    def test_tolerance_that_is_none(self, tol):
        with pytest.raises(ValueError, match="tol is a number between 0 and 1"):
            BlockGolubKahan(k=1, tol=tol)

    def test_tolerance_below_rounding(self, device):
        with pytest.raises(ValueError, match=r"below the rounding errors of <Dense .* at least 1\.2e-06"):
            BlockGolubKahan(k=1, tol=1e-8).solve(zoo("spread", "tall", torch.float32, device).operator)

    def test_fewer_products_than_triplets_take(self):
        with pytest.raises(ValueError, match=r"k=6 triplets take at least 12 products, .* got max_products=11"):
            BlockGolubKahan(k=6, max_products=11)

    @pytest.mark.parametrize("parameter", ["block_size", "max_products", "max_basis"])
    def test_counts_are_positive_integers(self, parameter):
        with pytest.raises(ValueError, match=f"{parameter} is at least 1"):
            BlockGolubKahan(k=1, **{parameter: 0})
        with pytest.raises(TypeError, match=f"{parameter} is a positive integer"):
            BlockGolubKahan(k=1, **{parameter: 1.5})
