"""Sketched eigendecompositions against the same formulas with dense matrices, and where they are exact."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy
import pytest
import torch
from solver_cases import N, problem, quietly, rounding, zoo
from solver_contract import SolverContract, ZooContract

import eigenspan as es
from eigenspan.linops import Function, Structure
from eigenspan.solvers import SSRFT, Gaussian, Rademacher, SketchedEigh, Status
from eigenspan.solvers.sketches import SparseSign

METHODS = {
    "default": {},
    "published": {"basis": "first"},
    "two-sided core": {"core": "two-sided"},
    "two passes": {"two_pass": True},
    "Rayleigh-Ritz": {"two_pass": True, "core": "rayleigh-ritz"},
    "stored": {"two_pass": True, "storage": "disk"},
}
KINDS = {SSRFT: "ssrft", Gaussian: "gaussian", Rademacher: "rademacher", SparseSign: "sparse-sign"}


class TestSinglePass(SolverContract):
    """Exact where the rank is below the sketch, or the sketch is the whole space; residual norms tell for the rest."""

    accurate_on = frozenset({"rank deficient", "zero"})
    options: ClassVar[dict] = METHODS["default"]

    def make(self, k, which="LM", seed=0, **parameters):
        return SketchedEigh(k=k, which=which, seed=seed, **self.options, **parameters)


class OtherMethod(ZooContract):
    accurate_on = TestSinglePass.accurate_on
    options: ClassVar[dict]
    make = TestSinglePass.make


class TestRayleighRitz(OtherMethod):
    options: ClassVar[dict] = METHODS["Rayleigh-Ritz"]


class TestTwoPasses(OtherMethod):
    options: ClassVar[dict] = METHODS["two passes"]


class TestPublished(OtherMethod):
    options: ClassVar[dict] = METHODS["published"]

    def accuracy(self, dtype):
        """Two least-squares solves instead of a product with an orthonormal basis."""
        return 10 * rounding(dtype)


def sketch(truth, kind, s, seed=0):
    """The test matrix that a solver of this seed uses."""
    A = truth.operator
    return kind(A.shape[0], s, seed=seed, purpose="sketch", dtype=A.dtype, device=A.device).columns(0, s).cpu()


def leading(matrix, k):
    """The k eigenpairs of largest |λ| of a dense matrix, by NumPy."""
    values, vectors = numpy.linalg.eigh(matrix.numpy())
    order = numpy.argsort(-abs(values), kind="stable")[:k]
    return torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order])


def pinv(matrix):
    return torch.linalg.pinv(matrix)


def best_symmetric(test, image):
    """The symmetric C of least ‖image - C test‖ over a basis of the symmetric matrices."""
    o = len(test)
    pairs = list(itertools.combinations_with_replacement(range(o), 2))
    units = torch.zeros(len(pairs), o, o, dtype=test.dtype)
    for number, (i, j) in enumerate(pairs):
        units[number, i, j] = units[number, j, i] = 1
    design = (units @ test).flatten(1).mT
    weights = torch.linalg.lstsq(design, image.flatten()[:, None], driver="gelsd").solution[:, 0]
    return torch.einsum("p,pij->ij", weights, units)


class TestAgainstDenseFormulas:
    """A spectrum that a sketch of 20 of 60 dimensions does not capture, so that every formula gives other numbers."""

    OUTER, INNER = 12, 20

    @pytest.fixture
    def truth(self, device):
        return problem(torch.linspace(-1, 1.3, N, dtype=torch.float64) ** 3, device=device)

    def expected(self, truth, name, kind):
        A, o = truth.matrix, self.OUTER
        Omega = sketch(truth, kind, o if METHODS[name].get("two_pass") else self.INNER)
        W = A @ Omega
        first = name == "published" or "two_pass" in METHODS[name]
        Q = torch.linalg.qr(W[:, :o])[0] if first else torch.linalg.svd(W).U[:, :o]
        P = Q @ Q.mT
        if name == "two passes":
            return P @ A + A @ P - P @ A @ P
        if name in ("Rayleigh-Ritz", "stored"):
            return P @ A @ P
        if name in ("published", "two-sided core"):
            C = pinv(Omega.mT @ Q) @ (Omega.mT @ W) @ pinv(Q.mT @ Omega)
            return Q @ ((C + C.mT) / 2) @ Q.mT
        return Q @ best_symmetric(Q.mT @ Omega, Q.mT @ W) @ Q.mT

    @pytest.mark.parametrize("name", METHODS)
    @pytest.mark.parametrize("kind", [SSRFT, Gaussian, Rademacher, SparseSign])
    def test_pairs_are_those_of_the_approximation(self, truth, name, kind):
        inner = {} if METHODS[name].get("two_pass") else {"inner": self.INNER}
        solver = SketchedEigh(k=6, outer=self.OUTER, **inner, test_matrix=KINDS[kind], **METHODS[name], block_size=7)
        result = solver.solve(truth.operator)
        values, vectors = leading(self.expected(truth, name, kind), 6)
        torch.testing.assert_close(result.eigenvalues.cpu(), values, rtol=0, atol=1e-11)
        # Up to sign; the six eigenvalues are separate.
        cosines = (result.eigenvectors.cpu() * vectors).sum(dim=0).abs()
        torch.testing.assert_close(cosines, torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-9)
        assert result.report.status is Status.SKETCHED

    def test_what_the_same_products_give(self, device):
        """Errors of the eigenvalues of a decaying spectrum, over seeds, from 24 products each."""
        truth = problem(torch.logspace(0, -3, N, dtype=torch.float64), device=device)

        def error(**options):
            results = [SketchedEigh(k=8, outer=12, seed=seed, **options).solve(truth.operator) for seed in range(20)]
            return sum(float((r.eigenvalues.cpu() - truth.leading("LM", 8)).norm()) for r in results)

        bordered, ritz = error(two_pass=True), error(two_pass=True, core="rayleigh-ritz")
        default, first = error(inner=24), error(inner=24, basis="first")
        assert bordered < ritz < default < first


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_exact_for_operators_of_low_rank_negative_eigenvalues_kept(self, name, device):
        eigenvalues = torch.tensor([-4.0, 3.0, -2.0, 1.0, -0.5] + [0.0] * (N - 5), dtype=torch.float64)
        truth = problem(eigenvalues, device=device)
        result = SketchedEigh(k=5, outer=5, **METHODS[name]).solve(truth.operator)
        # Errors of the core grow with the condition of Qᵀ Ω, a random (5, 10) matrix.
        torch.testing.assert_close(result.eigenvalues.cpu(), eigenvalues[:5], rtol=0, atol=1e-11)
        overlap = (result.eigenvectors.cpu().mT @ truth.eigenvectors[:, :5]).abs()
        torch.testing.assert_close(overlap, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-11)
        assert float(result.residual_norms.max()) < 1e-11

    def test_block_size_changes_nothing_beyond_rounding(self, name, device):
        A = zoo("slow decay", torch.float64, device).operator
        one, seven, all_at_once = (
            SketchedEigh(k=6, block_size=size, **METHODS[name]).solve(A) for size in (1, 7, 1000)
        )
        for other in (one, seven):
            torch.testing.assert_close(other.eigenvalues, all_at_once.eigenvalues, rtol=0, atol=1e-12)

    def test_products_are_counted_and_known_beforehand(self, name, device):
        A = zoo("slow decay", torch.float64, device).operator
        two = METHODS[name].get("two_pass", False)
        solver = SketchedEigh(k=6, outer=10, **METHODS[name], **({} if two else {"inner": 25}), block_size=4)
        report = solver.solve(A).report
        sketching = 2 * 10 if two else 25
        measuring = 0 if name == "Rayleigh-Ritz" else 6
        assert report.products == sketching + measuring + 2 == solver._total(A)
        assert report.check_products == measuring + 2

    def test_residuals_not_measured(self, name, device):
        solver = SketchedEigh(k=6, outer=10, measure_residuals=False, **METHODS[name])
        A = zoo("slow decay", torch.float64, device).operator
        result = solver.solve(A)
        assert result.report.products == 2 * 10 + 2 == solver._total(A)
        # Where they come free they are there.
        assert bool(result.residual_norms.isnan().all()) is (name != "Rayleigh-Ritz")
        assert not bool(result.converged(1e-3).any())

    def test_in_single_precision_as_in_double(self, name, device):
        """Small matrices are float64: only the tall blocks are rounded."""
        single, double = (
            SketchedEigh(k=6, **METHODS[name]).solve(zoo("positive", dtype, device).operator)
            for dtype in (torch.float32, torch.float64)
        )
        # The condition of the core, of the order of 100 for this sketch, amplifies the rounding.
        torch.testing.assert_close(single.eigenvalues.double(), double.eigenvalues, rtol=0, atol=1e-4)

    def test_default_sizes(self, name, device):
        """The sketch has k + max(10, k / 4) columns, twice that in all, never more than n."""
        A = zoo("slow decay", torch.float64, device).operator
        for k, products in ((4, 28), (44, 110 if METHODS[name].get("two_pass") else 60)):
            report = SketchedEigh(k=k, **METHODS[name]).solve(A).report
            assert report.products - report.check_products == products


def test_verification_shares_no_randomness_with_the_sketch(device):
    """Of the same root seed: a test of vectors already in the sketch would see an error of zero."""
    A = zoo("slow decay", torch.float64, device).operator
    blocks = []

    def matmat(X):
        blocks.append(X.clone())
        return A.matrix @ X

    recorded = Function(matmat, A.shape, A.dtype, A.device, structure=Structure.SYMMETRIC)
    SketchedEigh(k=5, test_matrix="gaussian", measure_residuals=False).solve(recorded)
    checks, sketched = blocks[0], torch.cat(blocks[1:], dim=1)
    assert (checks.shape[1], sketched.shape[1]) == (2, 30)
    cosines = (checks / checks.norm(dim=0)).mT @ (sketched / sketched.norm(dim=0))
    # Independent directions in R⁶⁰ have cosines of about 1/√60 = 0.13.
    assert float(cosines.abs().max()) < 0.6


class TestBadParameters:
    @pytest.mark.parametrize("sizes", [{"k": 8, "outer": 7}, {"outer": 9, "inner": 8}, {"outer": 9, "inner": N + 1}])
    def test_sizes_out_of_order(self, sizes, device):
        with pytest.raises(ValueError, match=rf"k <= outer <= inner <= n, got k=\d, outer=\d, inner=\d+, n={N}"):
            SketchedEigh(**sizes).solve(zoo("positive", torch.float64, device).operator)

    def test_outer_alone_gives_as_many_pairs(self, device):
        result = SketchedEigh(outer=7).solve(zoo("positive", torch.float64, device).operator)
        assert len(result.eigenvalues) == 7

    def test_neither_k_nor_outer(self):
        with pytest.raises(ValueError, match="needs k, how many are wanted, or outer"):
            SketchedEigh()

    def test_inner_with_two_passes(self):
        with pytest.raises(ValueError, match="inner counts the products of a single pass"):
            SketchedEigh(k=2, inner=8, two_pass=True)

    @pytest.mark.parametrize("wrong", [{"test_matrix": "uniform"}, {"core": "best"}, {"basis": "last"}])
    def test_unknown_words(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SketchedEigh(k=2, **wrong)

    @pytest.mark.parametrize(("two_pass", "core"), [(False, "rayleigh-ritz"), (True, "symmetric")])
    def test_core_of_the_other_number_of_passes(self, two_pass, core):
        with pytest.raises(ValueError, match=f"the core of .* got '{core}'"):
            SketchedEigh(k=2, two_pass=two_pass, core=core)

    @pytest.mark.parametrize("parameter", ["outer", "inner", "block_size"])
    def test_counts_are_positive(self, parameter):
        with pytest.raises(ValueError, match=f"{parameter} is at least 1"):
            SketchedEigh(k=1, **{parameter: 0})


def test_does_not_warn_where_it_makes_no_claim(device):
    """A sketch has no convergence test: no warning, and no success either."""
    result = quietly(SketchedEigh(k=6), zoo("indefinite", torch.float64, device).operator)
    assert result.report.status is Status.SKETCHED
    with pytest.raises(RuntimeError, match="judge by residual_norms"):
        result.require_converged()


@pytest.mark.parametrize("core", ["symmetric", "two-sided"])
@pytest.mark.parametrize("n", [2, 3])
def test_a_test_matrix_of_lower_rank_gives_no_nan(n, core):
    """Two Rademacher columns of two entries may be parallel."""
    for seed in range(8):
        A = es.Diagonal(torch.arange(1.0, n + 1, dtype=torch.float64))
        found = SketchedEigh(k=2, outer=2, test_matrix="rademacher", core=core, seed=seed).solve(A)
        assert bool(found.eigenvalues.isfinite().all())


def test_a_basis_is_no_choice_of_two_passes():
    with pytest.raises(ValueError, match="single pass"):
        SketchedEigh(k=2, two_pass=True, basis="first")


@pytest.mark.parametrize("options", [{}, {"two_pass": True, "core": "bordered"}])
def test_a_storage_is_for_ritz_pairs_of_two_passes(options):
    with pytest.raises(ValueError, match=r"storage (is for two_pass|take core)"):
        SketchedEigh(k=2, storage="disk", **options)


def test_the_symmetric_core_needs_all_of_w():
    with pytest.raises(ValueError, match="the symmetric core needs all of W"):
        SketchedEigh(k=2, basis="first", core="symmetric")


@pytest.mark.parametrize("decades", [0.5, 1.5])
def test_what_a_narrower_storage_costs_an_eigenvalue(decades):
    """u² / 6 · (1 + Σ λ² / (λᵢ² (outer - k))) of itself, as the documentation says, in the mean of ten pairs.

    The square of a number rounded to 8 bits is off by u² / 6.5: 2⁻¹⁶ / 3 over 1.5 / log 2, the mean square of a
    mantissa. W is rounded, which gives the second term, and then Q, most of whose rounding gives the first.
    """
    n, k, outer, u = 2000, 40, 80, 2.0**-8
    U = torch.linalg.qr(torch.randn(n, k, dtype=torch.float64))[0]
    values = torch.logspace(0, -decades, k, dtype=torch.float64)
    A = es.Diagonal(values).congruence(es.Dense(U.mT))
    storage = es.Storage("device", dtype="bfloat16")
    found = SketchedEigh(k=k, outer=outer, two_pass=True, storage=storage, measure_residuals=False).solve(A)
    errors = (values - found.eigenvalues) / values
    expected = u**2 / 6 * (1 + values.square().sum() / (values.square() * (outer - k)))
    for ratio in (errors / expected).split(10):
        assert 0.8 < float(ratio.mean()) < 1.2
