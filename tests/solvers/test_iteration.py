"""Subspace iteration: what a fixed number of passes gives, both ends of the spectrum, starts that lack pairs."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from solver_cases import SUCCESS, N, joined, key, line, problem, quietly, rounding, zoo
from solver_contract import SolverContract

from eigenspan.linops import Counted, Dense, Diagonal, OrthonormalSubspace, Structure
from eigenspan.solvers import ConvergenceWarning, Gaussian, Status, Storage, Which
from eigenspan.solvers.iteration import SubspaceIteration


class TestSubspaceIteration(SolverContract):
    uses_start = True
    # Where λ ≈ 0 leads, as SA of a decaying spectrum, neighbours lie too close for hundreds of products.
    accurate_on = frozenset({"indefinite", "repeated", "few distinct", "clustered", "zero", "identity", "tiny", "huge"})

    def make(self, k, which="LM", seed=0, **parameters):
        return SubspaceIteration(k=k, which=which, seed=seed, **{"max_products": 1900, **parameters})

    def accuracy(self, dtype):
        """The default tolerance of residual norms, which bound the errors of eigenvalues."""
        return {torch.float64: 1e-9, torch.float32: 1e-5 + rounding(torch.float32)}[dtype]


def decaying():
    """Spectra of Tropp, Yurtsever, Udell & Cevher (2019), section 7.3: 2000 eigenvalues, of which 40 are wanted."""
    i = torch.arange(1, 2001, dtype=torch.float64)
    for rate in (0.01, 0.1, 0.5):
        yield f"10^(-{rate} i)", 10 ** (-rate * i)
    for power in (0.5, 1, 2):
        yield f"i^-{power}", i**-power
    generator = torch.Generator().manual_seed(1)
    radius, angle = torch.rand(2, 2000, generator=generator, dtype=torch.float64)
    noise = (2 * radius.sqrt() * torch.cos(math.pi * angle)).square()  # eigenvalues of G Gᵀ / n, G normal
    for level in (1e-4, 1e-2, 1e-1):
        yield f"40 ones and noise {level}", torch.where(i <= 40, 1.0, 0.0) + level * noise


DECAYING = dict(decaying())


class TestFixedPasses:
    @pytest.mark.parametrize("signs", ["positive", "random signs"])
    @pytest.mark.parametrize("name", DECAYING)
    def test_six_products_a_pair_come_within_a_tenth_of_the_best(self, name, signs, device):
        """Frobenius norm of A - V Θ Vᵀ against that of the best of rank 40, from 240 products."""
        eigenvalues, k = DECAYING[name], 40
        if signs == "random signs":
            generator = torch.Generator().manual_seed(2)
            eigenvalues = eigenvalues * (2 * torch.randint(2, (2000,), generator=generator) - 1)
        result = SubspaceIteration(k=k, oversampling=k, passes=3).solve(Diagonal(eigenvalues.to(device)))
        assert result.report.products - result.report.check_products == 6 * k
        difference = -(result.eigenvectors * result.eigenvalues) @ result.eigenvectors.mT
        difference.diagonal().add_(eigenvalues.to(device))
        best = eigenvalues.abs().sort().values[:-k].norm()
        # The fastest decay leaves less than a rounding of A.
        floor = 100 * torch.finfo(torch.float64).eps * eigenvalues.abs().max()
        assert float(difference.norm()) <= max(1.1 * float(best), float(floor))

    @pytest.mark.parametrize("passes", [1, 2, 4])
    def test_is_the_textbook_iteration(self, passes, device):
        """Rayleigh-Ritz on orth(A^(passes - 1) Ω), by NumPy."""
        truth = zoo("indefinite", torch.float64, device)
        result = SubspaceIteration(k=5, oversampling=3, passes=passes).solve(truth.operator)
        omega = Gaussian(N, 8, purpose="iteration", dtype=torch.float64).columns(0, 8)
        power = numpy.linalg.matrix_power(truth.matrix.numpy(), passes - 1)
        Q = numpy.linalg.qr(power @ omega.numpy())[0]
        values, S = numpy.linalg.eigh(Q.T @ truth.matrix.numpy() @ Q)
        order = numpy.argsort(-abs(values))[:5]
        numpy.testing.assert_allclose(result.eigenvalues.cpu(), values[order], rtol=0, atol=1e-11)
        overlaps = abs((Q @ S[:, order]).T @ result.eigenvectors.cpu().numpy())
        numpy.testing.assert_allclose(overlaps, numpy.eye(5), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("which", ["LM", "LA", "SA"])
    @pytest.mark.parametrize("name", ["indefinite", "positive", "rank deficient", "slow decay", "huge"])
    def test_no_ritz_value_exceeds_the_range(self, name, which, device):
        for dtype in (torch.float64, torch.float32):
            truth = zoo(name, dtype, device)
            for passes in (1, 2, 3, 6):
                values = SubspaceIteration(k=8, which=which, passes=passes).solve(truth.operator).eigenvalues.double()
                unit = rounding(dtype) * truth.norm
                assert float(values.max()) <= float(truth.eigenvalues.max()) + unit
                assert float(values.min()) >= float(truth.eigenvalues.min()) - unit

    @pytest.mark.parametrize(("oversampling", "width"), [(None, 16), (1, 7), (20, 26)])
    def test_products_are_counted_and_known_beforehand(self, oversampling, width, device):
        A = Counted(zoo("slow decay", torch.float64, device).operator)
        solver = SubspaceIteration(k=6, oversampling=oversampling, passes=3)
        report = solver.solve(A).report
        assert A.products == report.products == 3 * width + 2 == solver._total(A)
        assert report.passes == 3 + 1
        assert report.status is Status.SKETCHED

    def test_each_pass_brings_smaller_residuals(self, device):
        A = zoo("indefinite", torch.float64, device).operator
        norms = [SubspaceIteration(k=5, passes=passes).solve(A).residual_norms.norm() for passes in (2, 5, 10, 20)]
        assert norms == sorted(norms, reverse=True)


class TestOneEnd:
    """The iteration alone finds the largest |λ|; a shift makes of it one of either end."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("far", [-3.0, -12.0])
    def test_the_other_end_dominates(self, far, dtype, device):
        """By its magnitude and by its number: more eigenvalues than Q has columns."""
        eigenvalues = joined(line(far, far / 2, 40), line(-0.1, 0.1, 150), [1.0, 1.2, 1.5, 2.0])
        tol = 1e-5 if dtype == torch.float32 else 1e-9
        for sign, which in ((1, "LA"), (-1, "SA")):
            truth = problem(sign * eigenvalues, dtype, device)
            result = SubspaceIteration(k=4, which=which, max_products=10_000).solve(truth.operator)
            assert result.report.status is Status.CONVERGED
            expected = truth.leading(which, 4)
            torch.testing.assert_close(result.eigenvalues.double().cpu(), expected, rtol=0, atol=2 * tol * truth.norm)

    def test_both_ends_are_mirror_images(self, device):
        A = zoo("repeated", torch.float64, device).operator
        above = SubspaceIteration(k=5, which="LA").solve(A)
        below = SubspaceIteration(k=5, which="SA").solve(Dense(-A.matrix, Structure.SYMMETRIC))
        torch.testing.assert_close(above.eigenvalues, -below.eigenvalues, rtol=0, atol=1e-12)
        assert abs(above.report.passes - below.report.passes) <= 2


class TestBudget:
    @pytest.mark.parametrize(("max_products", "passes"), [(16, 1), (31, 1), (32, 2), (100, 6)])
    def test_is_never_exceeded(self, max_products, passes, device):
        A = Counted(zoo("indefinite", torch.float64, device).operator)
        result = quietly(SubspaceIteration(k=6, max_products=max_products), A)
        assert A.products == result.report.products == 16 * passes + 2
        assert result.report.status is Status.OUT_OF_PRODUCTS

    def test_warns_and_says_what_to_do(self, device):
        solver = SubspaceIteration(k=6, max_products=40)
        with pytest.warns(
            ConvergenceWarning,
            match=r"out of products>: .* raise max_products, .*, or tol",
        ):
            solver.solve(zoo("indefinite", torch.float64, device).operator)

    def test_default_is_a_hundred_passes(self, device):
        A = Diagonal(torch.linspace(-1, 1, 900, dtype=torch.float64, device=device))
        assert quietly(SubspaceIteration(k=2, tol=1e-13), A).report.products == 100 * 12 + 2

    @pytest.mark.parametrize("options", [{}, {"passes": 7}, {"tol": 1e-12}], ids=str)
    def test_the_whole_space_takes_one_pass(self, options, device):
        truth = zoo("indefinite", torch.float64, device)
        solver = SubspaceIteration(k=20, oversampling=60, **options)
        result = solver.solve(truth.operator)
        assert result.report.status is Status.COMPLETE
        assert result.report.products == N + 2 == solver._total(truth.operator)
        torch.testing.assert_close(result.eigenvalues.cpu(), truth.leading("LM", 20), rtol=0, atol=1e-13)


class TestStart:
    @pytest.mark.parametrize("which", ["LM", "LA", "SA"])
    @pytest.mark.parametrize(("noise", "oversampling"), [(0.0, 2), (1e-6, 10)])
    def test_interior_eigenvectors_are_not_the_answer(self, which, noise, oversampling, device):
        """They meet the tolerance at once, or nearly so; random columns show what leads."""
        alternating = torch.logspace(0, -3, N, dtype=torch.float64) * torch.tensor([1.0, -1.0]).repeat(N // 2)
        outliers = joined([3.0, 2.5, -2.0, 1.5], line(-0.9, 1, N - 4))
        generator = torch.Generator().manual_seed(3)
        found = 0
        for truth in (problem(alternating, device=device), problem(outliers, device=device)):
            order = Which(which).order(truth.eigenvalues)
            for k, skipped in ((1, 1), (3, 5)):
                start = truth.eigenvectors[:, order[skipped : skipped + k]]
                start = start + noise * torch.randn(N, k, generator=generator, dtype=torch.float64)
                solver = SubspaceIteration(k=k, which=which, oversampling=oversampling, max_products=900)
                result = quietly(solver, truth.operator, start=start.to(device))
                if result.report.status in SUCCESS:
                    found += 1
                    error = key(result.eigenvalues.cpu(), which) - key(truth.leading(which, k), which)
                    assert float(error.abs().max()) <= 2e-9 * truth.norm
        assert found >= 2  # of four: where the next pairs lie close the products end first

    @pytest.mark.parametrize("k", [1, 3])
    def test_one_leading_pair_in_a_large_null_space(self, k, device):
        """A random vector has a part of 1 / √n of it, so that its first products look like those of a zero operator."""
        diagonal = torch.zeros(100_000, device=device)
        diagonal[0], diagonal[1:6] = 1.0, 0.5
        start = torch.zeros(100_000, 5, device=device)
        start[1:6] = torch.eye(5, device=device)
        result = SubspaceIteration(k=k).solve(Diagonal(diagonal), start=start)
        assert result.report.status is Status.CONVERGED
        assert result.eigenvalues.tolist() == pytest.approx([1.0, 0.5, 0.5][:k], abs=1e-5)

    @pytest.mark.parametrize(("value", "which"), [(0.0, "LM"), (0.0, "SA"), (1.0, "LM"), (1.0, "LA"), (-1.0, "LA")])
    def test_all_vectors_are_eigenvectors(self, value, which, device):
        A = Diagonal(torch.full((N,), value, dtype=torch.float64, device=device))
        start = torch.eye(N, dtype=torch.float64, device=device)[:, :3]
        result = SubspaceIteration(k=3, which=which).solve(A, start=start)
        assert result.report.status is Status.CONVERGED
        assert result.report.passes - 1 == 2
        torch.testing.assert_close(result.eigenvalues.cpu(), joined([value] * 3), rtol=0, atol=1e-14)

    def test_from_the_eigenspace_of_yesterday_takes_fewer_products(self, device):
        truth = problem(joined([-3.0, 2.5, 2.0, -1.5, 1.2, -1.0], line(-0.5, 0.5, 300)), device=device)
        yesterday = SubspaceIteration(k=6).solve(truth.operator)
        noise = torch.randn(306, 306, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        today = Dense(truth.operator.matrix + 1e-7 * (noise + noise.mT).to(device), Structure.SYMMETRIC)
        cold = SubspaceIteration(k=6).solve(today)
        warm = SubspaceIteration(k=6).solve(today, start=yesterday.subspace)
        assert warm.report.products < 0.7 * cold.report.products
        torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues, rtol=0, atol=6e-9)

    def test_goes_on_where_the_products_ended(self, device):
        """As the status of the first advises."""
        A = problem(joined([3.0, 2.5, 2.0, -1.5], line(-0.5, 0.5, 300)), device=device).operator
        first = quietly(SubspaceIteration(k=4, max_products=150), A)
        assert first.report.status is Status.OUT_OF_PRODUCTS
        second = SubspaceIteration(k=4).solve(A, start=first.subspace)
        assert second.report.status is Status.CONVERGED
        assert second.report.products < SubspaceIteration(k=4).solve(A).report.products

    @pytest.mark.parametrize("width", [1, 3, 9])
    def test_of_any_width_even_degenerate(self, width, device):
        """Random combinations of many; columns of zeros are none."""
        truth = zoo("clustered", torch.float64, device)
        block = torch.zeros(N, width, dtype=torch.float64, device=device)
        block[3, 0] = 1e-20
        kept = block.clone()
        result = SubspaceIteration(k=6).solve(truth.operator, start=block)
        assert torch.equal(block, kept)
        error = result.eigenvalues.cpu().abs() - truth.leading("LM", 6).abs()
        assert float(error.abs().max()) <= 1e-9

    def test_is_used_by_fixed_passes(self, device):
        truth = zoo("indefinite", torch.float64, device)
        order = Which.LM.order(truth.eigenvalues)[:5]
        start = OrthonormalSubspace(truth.eigenvectors[:, order].to(device))
        result = SubspaceIteration(k=5, passes=1).solve(truth.operator, start=start)
        torch.testing.assert_close(result.eigenvalues.cpu(), truth.leading("LM", 5), rtol=0, atol=1e-13)


@pytest.mark.parametrize("which", ["LM", "LA"])
@pytest.mark.parametrize("name", ["indefinite", "few distinct", "rank deficient", "zero"])
def test_status_does_not_depend_on_scale(name, which, device):
    """A power of two changes no rounding, so neither products nor eigenvectors."""
    A = zoo(name, torch.float64, device).operator
    solver = SubspaceIteration(k=5, which=which, max_products=600)
    base, scaled = quietly(solver, A), quietly(solver, Dense(A.matrix * 2.0**-60, Structure.SYMMETRIC))
    assert (scaled.report.status, scaled.report.products) == (base.report.status, base.report.products)
    torch.testing.assert_close(scaled.eigenvalues * 2.0**60, base.eigenvalues, rtol=1e-6, atol=1e-15)


class TestStorage:
    @pytest.mark.parametrize("options", [{"passes": 3}, {"which": "SA", "max_products": 60}])
    def test_on_disk_as_in_memory_to_the_last_bit(self, options, device):
        A = zoo("slow decay", torch.float64, device).operator
        inside, outside = (
            quietly(SubspaceIteration(k=5, block_size=4, storage=kind, **options), A) for kind in (None, "disk")
        )
        assert torch.equal(outside.eigenvalues, inside.eigenvalues)
        assert torch.equal(outside.residual_norms, inside.residual_norms)
        assert torch.equal(outside.eigenvectors, inside.eigenvectors)
        assert outside.report.products == inside.report.products
        assert outside.report.passes > outside.report.products // 5

    def test_blocks_change_nothing_beyond_rounding(self, device):
        A = zoo("slow decay", torch.float64, device).operator
        alone, four = (SubspaceIteration(k=5, passes=3, block_size=size).solve(A) for size in (None, 4))
        torch.testing.assert_close(four.eigenvalues, alone.eigenvalues, rtol=0, atol=1e-12)

    def test_no_rounding(self, device):
        with pytest.raises(ValueError, match="Q and A Q are not rounded: leave out the dtype"):
            SubspaceIteration(k=5, storage=Storage("disk", dtype="float32")).solve(
                zoo("slow decay", torch.float64, device).operator
            )


class TestBadParameters:
    @pytest.mark.parametrize("parameter", ["oversampling", "passes", "max_products"])
    def test_counts_are_positive_integers(self, parameter):
        with pytest.raises(ValueError, match=f"{parameter} is at least 1"):
            SubspaceIteration(k=1, **{parameter: 0})
        with pytest.raises(TypeError, match=f"{parameter} is a positive integer"):
            SubspaceIteration(k=1, **{parameter: 1.5})

    @pytest.mark.parametrize("options", [{"tol": 1e-3}, {"max_products": 100}], ids=str)
    def test_fixed_passes_test_nothing(self, options):
        with pytest.raises(ValueError, match="passes fixes the cost"):
            SubspaceIteration(k=1, passes=3, **options)

    def test_fewer_products_than_a_pass(self, device):
        A = Counted(zoo("positive", torch.float64, device).operator)
        with pytest.raises(ValueError, match="k \\+ oversampling = 16 products, got max_products=15"):
            SubspaceIteration(k=6, max_products=15).solve(A)
        assert A.products == 0

    @pytest.mark.parametrize("tol", [0.0, 1.0])
    def test_tolerance_that_is_none(self, tol):
        with pytest.raises(ValueError, match="tol is a number between 0 and 1"):
            SubspaceIteration(k=1, tol=tol)

    def test_tolerance_below_rounding(self, device):
        with pytest.raises(ValueError, match="below the rounding errors"):
            SubspaceIteration(k=1, tol=1e-8).solve(zoo("positive", torch.float32, device).operator)
