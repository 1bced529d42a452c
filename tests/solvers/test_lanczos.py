"""Block Lanczos: no ghosts, no missing copies, both ends at once, restarts, honest about its budget."""

from __future__ import annotations

import numpy
import pytest
import scipy.sparse
import torch
from solver_cases import SPECTRA, SUCCESS, N, problem, quietly, rounding, zoo
from solver_contract import SolverContract, ZooContract
from tqdm import tqdm

import eigenspan as es
from eigenspan.linops import Counted, Dense, Diagonal, OrthonormalSubspace, Structure
from eigenspan.solvers import BlockLanczos, ConvergenceWarning, Lanczos, Status
from eigenspan.solvers import lanczos as lanczos_module
from eigenspan.solvers.krylov import evidence
from eigenspan.solvers.tridiagonalisation import KrylovSpace
from eigenspan.solvers.watched import Watched


class LanczosZoo(ZooContract):
    block_size = 5

    def make(self, k, which="LM", seed=0, **parameters):
        return BlockLanczos(k=k, which=which, seed=seed, block_size=self.block_size, **parameters)

    def accuracy(self, dtype):
        """The default tolerance of residual norms, which bound the errors of eigenvalues."""
        return {torch.float64: 1e-9, torch.float32: 1e-5 + rounding(torch.float32)}[dtype]


class TestBlockLanczos(LanczosZoo, SolverContract):
    uses_start = True


class TestBlockOfOne(LanczosZoo):
    """Every multiplicity is above the block, and a cluster that float32 does not resolve is one."""

    block_size = 1
    incomplete_on = frozenset({"repeated", "clustered"})

    @pytest.fixture
    def dtype(self):
        return torch.float32


class TestRestarted(LanczosZoo):
    """Within a basis that holds half of the space; where k is too large for that, without a limit."""

    # Where the wanted end is a cluster it does not get there, and says so.
    accurate_on = frozenset(SPECTRA) - {"positive", "negative", "clustered"}

    def make(self, k, which="LM", seed=0, **parameters):
        limit = 30 if k <= 8 else None
        return BlockLanczos(k=k, which=which, seed=seed, max_basis=limit, max_products=max(k, 900), **parameters)


class TestBlockAboveAllMultiplicities(LanczosZoo):
    """Also above the rank of some operators, and no copy is missing."""

    block_size = 16

    @pytest.fixture
    def dtype(self):
        return torch.float64


def spectrum(n, leading):
    """A few separate eigenvalues, and the rest spread over [-0.5, 0.5]."""
    tail = torch.linspace(-0.5, 0.5, n - len(leading), dtype=torch.float64)
    return torch.cat([torch.tensor(leading, dtype=torch.float64), tail])


@pytest.fixture
def separated(device):
    """An operator on R⁴⁰⁰ whose two ends stand apart."""
    return problem(spectrum(400, [-3.0, 2.5, 2.0, -1.5, 1.2, -1.0]), device=device)


@pytest.mark.parametrize("block_size", [1, 2, 7])
def test_no_ghosts_of_a_dominant_eigenvalue(device, block_size):
    """λ₁ converges early and, where orthogonality is lost, comes back as a second copy in the list."""
    leading = [1e4, 3.0, 2.5, 2.0, 1.8, 1.6, 1.4, 1.2]
    truth = problem(spectrum(300, leading), device=device)
    result = BlockLanczos(k=8, block_size=block_size, tol=1e-13, max_products=250).solve(truth.operator)
    assert result.report.status is Status.CONVERGED
    # Eigenvalues are accurate relative to ‖A‖ = 1e4.
    torch.testing.assert_close(result.eigenvalues.tolist(), leading, rtol=0, atol=1e-9)


def test_finds_both_ends_at_once(separated):
    result = BlockLanczos(k=6).solve(separated.operator)
    torch.testing.assert_close(result.eigenvalues.cpu(), separated.leading("LM", 6), rtol=0, atol=1e-9 * separated.norm)
    assert result.report.status is Status.CONVERGED
    assert result.report.products < 150


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
def test_laplacian_of_a_path(which):
    """A sparse operator with the eigenvalues 2 - 2 cos(π j / (n + 1)), close together at both ends."""
    n = 200
    laplacian = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n), format="csr")
    exact = 2 - 2 * numpy.cos(numpy.pi * numpy.arange(1, n + 1) / (n + 1))
    operator = es.as_operator(laplacian, structure=Structure.SYMMETRIC)
    result = BlockLanczos(k=3, which=which, block_size=4).solve(operator)
    expected = exact[:3] if which == "SA" else exact[::-1][:3]
    numpy.testing.assert_allclose(result.eigenvalues, expected, rtol=0, atol=4e-9)  # tol times ‖A‖ = 4


class TestInvariantSubspaces:
    """A Krylov space that closes holds some eigenvectors, not necessarily the leading ones."""

    @pytest.mark.parametrize("which", ["LM", "LA", "SA"])
    @pytest.mark.parametrize("block_size", [1, 5, 11])
    @pytest.mark.parametrize("k", [5, 8, 20])
    def test_all_copies_of_eigenvalues_above_the_block_size(self, device, which, block_size, k):
        """Few distinct eigenvalues: the first space closes with ``block_size`` copies of each."""
        values = torch.tensor([1.0] * 12 + [0.5] * 12 + [-0.7] * 12 + [0.0] * 84, dtype=torch.float64)
        truth = problem(values, device=device)
        result = BlockLanczos(k=k, which=which, block_size=block_size).solve(truth.operator)
        assert result.report.status in SUCCESS
        expected = truth.leading(which, k)
        torch.testing.assert_close(result.eigenvalues.cpu(), expected, rtol=0, atol=1e-9)

    def test_a_start_of_trailing_eigenvectors_is_not_mistaken_for_the_answer(self, separated):
        """It closes at once, with exact pairs, which random vectors show to be the wrong ones."""
        trailing = separated.eigenvectors[:, -6:].to(separated.operator.device)
        result = BlockLanczos(k=6, block_size=6).solve(separated.operator, start=trailing)
        assert result.report.status is Status.CONVERGED
        torch.testing.assert_close(result.eigenvalues.cpu(), separated.leading("LM", 6), rtol=0, atol=3e-9)

    def test_nor_when_there_is_no_product_left_to_see_it(self, separated):
        trailing = separated.eigenvectors[:, -6:].to(separated.operator.device)
        solver = BlockLanczos(k=6, block_size=6, max_products=6)
        assert quietly(solver, separated.operator, start=trailing).report.status is Status.OUT_OF_PRODUCTS

    def test_block_larger_than_the_rank(self, device):
        truth = problem(torch.tensor([2.0, -1.0] + [0.0] * 98, dtype=torch.float64), device=device)
        result = BlockLanczos(k=4, block_size=20).solve(truth.operator)
        assert result.report.status is Status.CONVERGED
        # Two blocks: one spans the range, one shows that the rest is zero.
        assert result.report.products - result.report.check_products <= 42
        torch.testing.assert_close(result.eigenvalues.cpu(), truth.leading("LM", 4), rtol=0, atol=1e-14)
        V = result.eigenvectors
        torch.testing.assert_close(V.mT @ V, torch.eye(4, dtype=V.dtype, device=V.device), rtol=0, atol=1e-13)

    def test_identity_takes_two_blocks(self, device):
        A = zoo("identity", torch.float64, device).operator
        report = BlockLanczos(k=3, block_size=3).solve(A).report
        assert report.status is Status.CONVERGED
        assert report.products - report.check_products == 6

    @pytest.mark.parametrize("noise", [0.0, 1e-8])
    @pytest.mark.parametrize("width", [1, 3, 12])
    @pytest.mark.parametrize("n", [50, 200])
    def test_a_start_of_interior_eigenvectors_is_not_the_answer(self, device, n, width, noise):
        """They meet the tolerance at once, or nearly so, and lead all that random vectors have shown by then."""
        truth = problem(torch.linspace(-1, 2, n, dtype=torch.float64), device=device)
        first = int(0.85 * n)
        generator = torch.Generator().manual_seed(5)
        start = truth.eigenvectors[:, first - width : first]
        start = start + noise * torch.randn(n, width, dtype=torch.float64, generator=generator)
        for block_size in (1, 5):
            solver = BlockLanczos(k=min(3, width), block_size=block_size)
            result = quietly(solver, truth.operator, start=start.to(device))
            assert result.report.status in SUCCESS
            expected = truth.leading("LM", solver.k)
            torch.testing.assert_close(result.eigenvalues.cpu(), expected, rtol=0, atol=2e-9)

    def test_nor_one_from_an_invariant_subspace_that_does_not_close(self, device):
        """Of 100 coordinates that A does not couple to the others, which hold the leading pairs."""
        small, large = (
            problem(torch.linspace(-size, size, n, dtype=torch.float64)) for size, n in ((1, 100), (2, 300))
        )
        A = Dense(torch.block_diag(small.matrix, large.matrix).to(device), Structure.SYMMETRIC)
        start = torch.zeros(400, 5, dtype=torch.float64, device=device)
        start[:100] = problem(torch.ones(100)).eigenvectors[:, :5]
        result = BlockLanczos(k=2, which="LA").solve(A, start=start)
        torch.testing.assert_close(result.eigenvalues.cpu(), large.leading("LA", 2), rtol=0, atol=2e-9)

    def test_one_leading_pair_in_a_large_null_space(self, device):
        """A random vector has a part of 1 / √n of it, so that its first products look like those of a zero operator."""
        diagonal = torch.zeros(100_000, device=device)
        diagonal[0], diagonal[1:6] = 1.0, 0.5
        start = torch.zeros(100_000, 5, device=device)
        start[1:6] = torch.eye(5, device=device)
        assert float(BlockLanczos(k=1).solve(Diagonal(diagonal), start=start).eigenvalues) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("seed", range(6))
    def test_a_cluster_that_hides_its_copies(self, device, seed):
        """The space closes around 1 and 1 - 1e-6, and its next direction has no part in the null space."""
        truth = problem(torch.tensor([1.0] * 7 + [0.999999] * 7 + [0.0] * 46, dtype=torch.float64), device=device)
        result = BlockLanczos(k=5, which="SA", block_size=1, seed=seed).solve(truth.operator)
        torch.testing.assert_close(result.eigenvalues.cpu(), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("rate", [0.3, 0.5, 0.7])
    def test_all_pairs_of_a_space_meet_the_tolerance_before_its_products_vanish(self, device, rate):
        """Among the smallest of 13 eigenvalues of such a space are the largest of all."""
        truth = problem(rate ** torch.arange(100, dtype=torch.float64), torch.float32, device)
        for seed in range(3):
            result = BlockLanczos(k=13, which="SA", block_size=1, seed=seed).solve(truth.operator)
            assert float(result.eigenvalues.max()) < 2e-5

    def test_the_first_pair_behind_need_not_settle(self, separated):
        """A gap behind the wanted pairs shows early that nothing leads them: the tail of close pairs may go on."""
        leading = separated.eigenvectors[:, :6].to(separated.operator.device)
        report = BlockLanczos(k=6).solve(separated.operator, start=leading).report
        assert report.status is Status.CONVERGED
        assert report.products - report.check_products <= 25


def line(start, stop, count):
    return torch.linspace(start, stop, count, dtype=torch.float64)


class TestCopies:
    """More copies of an eigenvalue than the block has columns, in a space that does not close."""

    VALUES = torch.cat([torch.full((12,), 3.0), torch.full((12,), -2.0), torch.linspace(-0.5, 0.5, 1976)]).double()

    @pytest.mark.parametrize("max_basis", [None, 80])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("k", [14, 24])
    def test_all_twelve_with_a_block_of_four(self, device, dtype, max_basis, k):
        solver = BlockLanczos(k=k, block_size=4, max_basis=max_basis)
        result = solver.solve(Diagonal(self.VALUES.to(device, dtype)))
        expected = torch.tensor(([3.0] * 12 + [-2.0] * 12)[:k], dtype=torch.float64)
        torch.testing.assert_close(result.eigenvalues.double().cpu(), expected, rtol=0, atol=3e-6)
        assert result.report.status is Status.CONVERGED

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("k", [12, 16])
    def test_gaps_of_a_millionth(self, device, dtype, k):
        """Twelve eigenvalues that float32 does not tell apart at its tolerance."""
        values = torch.cat([3 + 3e-6 * line(0, 11, 12), line(-0.5, 0.5, 984), line(1.6, 2, 4)])
        result = BlockLanczos(k=k, block_size=4).solve(Diagonal(values.to(device, dtype)))
        expected = values.sort(descending=True).values[:k]
        atol = 1e-8 if dtype == torch.float64 else 3e-5
        torch.testing.assert_close(result.eigenvalues.double().cpu(), expected, rtol=0, atol=atol)
        assert result.report.status is Status.CONVERGED

    def test_where_no_wider_block_fits(self, device):
        """The limit leaves no room: the pairs that were found are kept, and random vectors look beside them."""
        solver = BlockLanczos(k=14, block_size=4, max_basis=30)
        result = solver.solve(Diagonal(self.VALUES.to(device)))
        expected = torch.tensor([3.0] * 12 + [-2.0] * 2, dtype=torch.float64)
        torch.testing.assert_close(result.eigenvalues.cpu(), expected, rtol=0, atol=1e-8)

    def test_a_block_of_one_says_that_it_may_lack_some(self, device):
        """It finds 1 once, and then what comes next, each a true pair."""
        values = torch.cat([torch.ones(5), 0.5 ** torch.arange(1, 196)]).double().to(device)
        result = Lanczos(k=2).solve(Diagonal(values))
        torch.testing.assert_close(result.eigenvalues.tolist(), [1.0, 0.5], rtol=0, atol=1e-9)
        assert "one copy of each eigenvalue" in str(result.report)
        assert BlockLanczos(k=2).solve(Diagonal(values)).report.notes == ()

    def test_those_that_products_did_not_suffice_for_are_told_of(self, device):
        """Ten copies of one eigenvalue, of which the first ten pairs that meet the tolerance hold five."""
        values = torch.cat([torch.ones(10), 0.5 ** torch.arange(1, 991)]).double().to(device)
        solver = BlockLanczos(k=10, block_size=5, max_products=30)
        with pytest.warns(ConvergenceWarning, match=r"or tol\. 10 of 10 pairs meet the tolerance, but .* missing"):
            result = solver.solve(Diagonal(values))
        assert float(result.residual_norms.max()) < 1e-9
        assert float(result.eigenvalues[9]) < 0.51
        with pytest.raises(RuntimeError, match="copies of those with equal values may be missing"):
            result.require_converged()

    def test_where_none_can_be_missing_nothing_is_told_of(self, separated):
        assert quietly(BlockLanczos(k=6, max_products=30), separated.operator).report.notes == ()

    def test_what_the_solver_would_say_without_random_vectors(self, device, monkeypatch):
        """The tests above see the fault that they are about."""
        monkeypatch.setattr(BlockLanczos, "_may_have_all_copies", lambda *_: True)
        result = BlockLanczos(k=14, block_size=4).solve(Diagonal(self.VALUES.to(device)))
        assert float(result.eigenvalues[11]) < 0

    def test_distinct_eigenvalues_do_not_widen_the_block(self, separated, monkeypatch):
        monkeypatch.setattr(lanczos_module, "CLUSTER", 1e-16)
        plain = BlockLanczos(k=6).solve(separated.operator).report.products
        monkeypatch.undo()
        assert BlockLanczos(k=6).solve(separated.operator).report.products == plain


class TestRestarts:
    @pytest.mark.parametrize("which", ["LM", "LA", "SA"])
    @pytest.mark.parametrize("max_basis", [40, 80])
    def test_same_pairs_as_without_a_limit(self, separated, which, max_basis):
        result = BlockLanczos(k=6, which=which, max_basis=max_basis, max_products=5000).solve(separated.operator)
        expected = separated.leading(which, 6)
        torch.testing.assert_close(result.eigenvalues.cpu(), expected, rtol=0, atol=1e-8)
        assert result.report.status is Status.CONVERGED

    @pytest.mark.parametrize("block_size", [1, 5])
    def test_the_basis_never_exceeds_its_limit(self, device, block_size, monkeypatch):
        sizes = []
        multiply = KrylovSpace.multiply

        def watched(space, limit):
            multiply(space, limit)
            sizes.append(space.basis.size)

        monkeypatch.setattr(KrylovSpace, "multiply", watched)
        A = Diagonal(torch.linspace(-1, 1, 500, dtype=torch.float64, device=device))
        quietly(BlockLanczos(k=5, block_size=block_size, max_basis=25, max_products=300), A)
        assert max(sizes) <= 25
        assert len(sizes) > 100 / block_size

    @pytest.mark.parametrize("steps", [20, 60, 200])
    def test_residual_norms_are_true_after_any_number_of_them(self, device, steps):
        """Those of a space that has closed too, of which parts are dropped."""
        values = torch.cat([torch.ones(12), torch.full((12,), 0.5), torch.linspace(-0.3, 0.3, 176)]).double()
        truth = problem(values, device=device)
        result = quietly(BlockLanczos(k=15, block_size=2, max_basis=30, max_products=steps), truth.operator)
        measured = (truth.operator @ result.eigenvectors - result.eigenvectors * result.eigenvalues).norm(dim=0)
        # What is left of a closed space is noise, which the next directions are made of: its error stays below a
        # hundredth of the tolerance, 1e-9 of ‖A‖ = 1.
        torch.testing.assert_close(result.residual_norms, measured, rtol=1e-6, atol=1e-11)

    def test_take_few_products_more_with_a_basis_of_twice_k(self, device):
        A = Diagonal(torch.logspace(0, -6, 1000, dtype=torch.float64, device=device))
        free, limited = (BlockLanczos(k=50, max_basis=limit).solve(A).report.products for limit in (None, 100))
        assert limited < 1.2 * free

    def test_goes_on_from_a_start(self, separated):
        leading = separated.eigenvectors[:, :6].to(separated.operator.device)
        report = BlockLanczos(k=6, max_basis=30).solve(separated.operator, start=leading).report
        assert report.status is Status.CONVERGED

    def test_budget_counts_products_not_the_basis(self, device):
        A = Diagonal(torch.linspace(-1, 1, 300, dtype=torch.float64, device=device))
        report = quietly(BlockLanczos(k=5, max_basis=25, max_products=333), A).report
        assert report.products - report.check_products == 333
        assert report.status is Status.OUT_OF_PRODUCTS

    @pytest.mark.parametrize("max_basis", [1, 25])
    def test_limits_that_are_too_small(self, max_basis):
        with pytest.raises(ValueError, match=f"max_basis={max_basis} is too small .* choose at least 26"):
            BlockLanczos(k=6, max_basis=max_basis)


class TestEvidence:
    """What random vectors show, against what they do show."""

    @pytest.mark.parametrize("steps", [[12], [6, 6], [4, 4, 4, 4]])
    def test_bounds_the_share_of_vectors_that_show_nothing(self, steps):
        """By direct simulation of Krylov spaces that restart from their leading Ritz vector."""
        n, gap, seeds = 100, 0.05, 40
        values = torch.cat([torch.ones(1), torch.linspace(0, 1 - gap, n - 1)]).double()
        missed = 0
        for seed in range(seeds):
            A = Diagonal(values)
            space = KrylovSpace(Watched(A, tqdm(disable=True)), 1, seed, 1e-12, None)
            space.extend(1)
            for count in steps:
                for _ in range(count):
                    space.multiply(1)
                value = space.ritz_pairs(es.Which.LA, 1)
                space.limit = 3
                space.restart(es.Which.LA, 1, 0)
                space.limit = n
            missed += float(value.eigenvalues[0]) < 1 - gap
        bound = 1.648 * n**0.5 * numpy.exp(-evidence(steps, gap, 1.0))
        assert missed / seeds <= bound
        assert bound < 0.3  # it says something

    def test_grows_with_every_step_and_less_with_restarts(self):
        one, more, apart = (evidence(steps, 0.01, 1.0) for steps in ([20], [30], [20, 10]))
        assert one < apart < more


class TestLanczosIsABlockOfOne:
    @pytest.mark.parametrize("name", SPECTRA)
    def test_and_gives_its_numbers(self, name, device):
        """To the last bit, of each spectrum on which a block of one is tested."""
        A = zoo(name, torch.float64, device).operator
        found, expected = (quietly(solver, A) for solver in (Lanczos(k=8), BlockLanczos(k=8, block_size=1)))
        assert torch.equal(found.eigenvalues, expected.eigenvalues)
        assert torch.equal(found.eigenvectors, expected.eigenvectors)
        assert (found.report.status, found.report.products) == (expected.report.status, expected.report.products)

    def test_multiplies_one_at_a_time(self, separated):
        report = Lanczos(k=6).solve(separated.operator).report
        assert report.passes == report.products - 1  # the two that test the symmetry are one pass
        assert report.status is Status.CONVERGED

    def test_has_no_other_block(self):
        with pytest.raises(ValueError, match="block_size"):
            Lanczos(k=2, block_size=2)


class TestBudget:
    @pytest.mark.parametrize("max_products", [6, 7, 13, 29, 30])
    @pytest.mark.parametrize("block_size", [1, 4, 50])
    def test_is_spent_exactly_and_never_exceeded(self, device, max_products, block_size):
        A = Counted(zoo("indefinite", torch.float64, device).operator)
        solver = BlockLanczos(k=6, block_size=block_size, max_products=max_products)
        result = quietly(solver, A)
        assert result.report.status is Status.OUT_OF_PRODUCTS
        assert A.products == result.report.products == max_products + 2
        assert result.eigenvectors.shape == (N, 6)

    def test_warns_and_says_what_to_do(self, device):
        solver = BlockLanczos(k=6, max_products=10)
        with pytest.warns(
            ConvergenceWarning,
            match=r"out of products>: .* raise max_products, .*, or tol",
        ):
            result = solver.solve(zoo("indefinite", torch.float64, device).operator)
        assert not bool(result.converged(1e-9).all())
        with pytest.raises(RuntimeError, match="raise max_products"):
            result.require_converged()

    def test_default_is_never_more_than_the_matrix_has_columns(self, device):
        report = BlockLanczos(k=6).solve(zoo("indefinite", torch.float64, device).operator).report
        assert report.status is Status.COMPLETE
        assert report.products == N + 2

    def test_default_is_ten_products_a_pair_or_500(self, device):
        A = Diagonal(torch.linspace(-1, 1, 900, dtype=torch.float64, device=device))
        for k, products in ((2, 500), (60, 600)):
            report = quietly(BlockLanczos(k=k, block_size=100, tol=1e-13), A).report
            assert report.products - 2 == products
            assert report.status is Status.OUT_OF_PRODUCTS


class TestWarmStart:
    def test_from_the_eigenspace_of_yesterday_takes_fewer_products(self, separated):
        """The operator has moved a little."""
        yesterday = BlockLanczos(k=6).solve(separated.operator)
        noise = torch.randn(400, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        noise = 1e-6 * (noise + noise.mT).to(separated.operator.device)
        today = Dense(separated.operator.matrix + noise, Structure.SYMMETRIC)
        cold = BlockLanczos(k=6).solve(today)
        warm = BlockLanczos(k=6).solve(today, start=yesterday.subspace)
        assert warm.report.products < 0.8 * cold.report.products
        torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues, rtol=0, atol=3e-9)

    def test_goes_on_where_the_products_ended(self, device):
        """As the status of the first advises."""
        A = problem(spectrum(400, [3.0, 2.5, 2.0, -1.5]), device=device).operator
        first = quietly(BlockLanczos(k=4, max_products=40), A)
        assert first.report.status is Status.OUT_OF_PRODUCTS
        second = BlockLanczos(k=4).solve(A, start=first.subspace)
        assert second.report.products < BlockLanczos(k=4).solve(A).report.products

    @pytest.mark.parametrize("width", [1, 3, 5, 9])
    def test_of_any_width_even_degenerate(self, device, width):
        """Random combinations of many; columns of zeros are none."""
        A = zoo("indefinite", torch.float64, device).operator
        block = torch.zeros(N, width, dtype=torch.float64, device=device)
        block[3, 0] = 1e-20
        result = BlockLanczos(k=6).solve(A, start=block)
        assert result.report.status in SUCCESS
        torch.testing.assert_close(
            result.eigenvalues.cpu(), zoo("indefinite", torch.float64, device).leading("LM", 6), rtol=0, atol=1e-9
        )

    def test_does_not_write_to_the_start(self, device):
        A = zoo("indefinite", torch.float64, device).operator
        block = OrthonormalSubspace.random(N, 4, dtype=torch.float64, device=device).vectors
        kept = block.clone()
        BlockLanczos(k=4).solve(A, start=block)
        assert torch.equal(block, kept)


@pytest.mark.parametrize("name", sorted(SPECTRA))
def test_status_does_not_depend_on_scale(device, name):
    """A power of two changes no rounding, so neither products nor eigenvectors."""
    A = zoo(name, torch.float64, device).operator
    solver = BlockLanczos(k=5, max_products=40)
    base, scaled = quietly(solver, A), quietly(solver, Dense(A.matrix * 2.0**-60, Structure.SYMMETRIC))
    assert (scaled.report.status, scaled.report.products) == (base.report.status, base.report.products)
    torch.testing.assert_close(scaled.eigenvalues * 2.0**60, base.eigenvalues, rtol=1e-6, atol=0)


class TestBadParameters:
    @pytest.mark.parametrize("tol", [0.0, 1.0, -1e-3, float("nan")])
    def test_tolerance_that_is_none(self, tol):
        with pytest.raises(ValueError, match="tol is a number between 0 and 1"):
            BlockLanczos(k=1, tol=tol)

    def test_tolerance_that_is_no_number(self):
        with pytest.raises(TypeError, match="tol is a number between 0 and 1, or None for the default, got '1e-5'"):
            BlockLanczos(k=1, tol="1e-5")

    def test_tolerance_below_rounding(self, device):
        solver = BlockLanczos(k=1, tol=1e-8)
        with pytest.raises(ValueError, match=r"below the rounding errors of <Dense .* at least 1\.2e-06"):
            solver.solve(zoo("positive", torch.float32, device).operator)
        assert solver.solve(zoo("positive", torch.float64, device).operator).report.status in SUCCESS

    def test_fewer_products_than_pairs(self):
        with pytest.raises(ValueError, match="k=6 pairs take at least as many products, got max_products=5"):
            BlockLanczos(k=6, max_products=5)

    @pytest.mark.parametrize("parameter", ["block_size", "max_products"])
    def test_counts_are_positive_integers(self, parameter):
        with pytest.raises(ValueError, match=f"{parameter} is at least 1"):
            BlockLanczos(k=1, **{parameter: 0})
        with pytest.raises(TypeError, match=f"{parameter} is a positive integer"):
            BlockLanczos(k=1, **{parameter: 1.5})
