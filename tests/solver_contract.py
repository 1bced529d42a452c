"""What holds for every eigensolver, checked on a zoo of spectra whose eigenpairs are known."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from solver_cases import SPECTRA, SUCCESS, N, Problem, joined, key, line, noisy, problem, quietly, rounding, solved, zoo
from template_contract import TemplateContract
from torch import Tensor

import eigenspan as es
from eigenspan.linops import Dense, Function, MaskSubspace, OrthonormalSubspace, Structure
from eigenspan.solvers import EigenDecomposition, EigenSolver, Status, Which


class ZooContract:
    """What the pairs and their report say of known spectra: inherit and define `make`.

    Attributes:
        accurate_on: spectra whose k = 8 leading pairs are to be found, for each `Which`.
        incomplete_on: spectra where pairs may be missing from the leading ones, all of them true pairs.
    """

    accurate_on: frozenset[str] = frozenset(SPECTRA)
    incomplete_on: frozenset[str] = frozenset()

    def make(self, k: int, which: str = "LM", seed: int = 0, **parameters) -> EigenSolver:
        raise NotImplementedError

    def accuracy(self, dtype: torch.dtype) -> float:
        """The error of an eigenvalue that counts as found, relative to ‖A‖."""
        return rounding(dtype)

    def residual_accuracy(self, dtype: torch.dtype) -> float:
        """The residual norm of a pair that counts as found, relative to ‖A‖."""
        return self.accuracy(dtype)

    @pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
    def dtype(self, request):
        return request.param

    @pytest.fixture(params=["LM", "LA", "SA"])
    def which(self, request):
        return request.param

    def check(
        self, result: EigenDecomposition, truth: Problem, which: str, k: int, accurate: bool, complete: bool = True
    ) -> None:
        dtype = result.eigenvalues.dtype
        values, V = result.eigenvalues.double().cpu(), result.eigenvectors.double().cpu()
        status, unit = result.report.status, truth.norm * rounding(dtype)
        m = len(values)
        # As many columns as asked for, unless it says that it could not.
        assert m == k or (m < k and status is Status.OUT_OF_ITERATIONS)
        assert V.shape == (len(truth.matrix), m)
        assert result.eigenvectors.dtype == result.residual_norms.dtype == dtype == truth.operator.dtype
        assert result.eigenvectors.device == result.residual_norms.device == truth.operator.device
        torch.testing.assert_close(V.mT @ V, torch.eye(m, dtype=V.dtype), rtol=0, atol=rounding(dtype))
        assert values.tolist() == values[Which(which).order(values)].tolist()
        # Residual norms are those of a product anew, and bound the distance to an eigenvalue (Bauer & Fike).
        residuals = (truth.matrix @ V - V * values).norm(dim=0)
        # Two roundings of the products by the same matrix differ by some units on a GPU, which sums in another order.
        torch.testing.assert_close(result.residual_norms.double().cpu(), residuals, rtol=1e-6, atol=3 * unit)
        distances = (values[:, None] - truth.eigenvalues).abs().amin(dim=1)
        assert bool((distances <= residuals + unit).all())
        if status in SUCCESS:
            assert bool((residuals <= self.residual_accuracy(dtype) * truth.norm).all())
        if complete and (status in SUCCESS or accurate):
            error = (key(values, which) - key(truth.leading(which, k)[:m], which)).abs()
            assert bool((error <= self.accuracy(dtype) * truth.norm).all()), f"{result}: off by {error.max():.1e}"

    @pytest.mark.parametrize("name", SPECTRA)
    def test_finds_the_leading_pairs_or_says_that_it_did_not(self, name, which, dtype, device):
        """Orthonormal vectors, true residual norms, leading first; success is claimed only when it is one."""
        truth = zoo(name, dtype, device)
        result, accurate = solved(self.make(8, which), name, dtype, device), name in self.accurate_on
        assert not accurate or result.report.status in (*SUCCESS, Status.SKETCHED)
        self.check(result, truth, which, 8, accurate, complete=name not in self.incomplete_on)

    @pytest.mark.parametrize("k", [1, N - 1, N])
    @pytest.mark.parametrize("name", ["indefinite", "positive", "rank deficient"])
    def test_one_pair_all_but_one_and_all(self, name, which, k, dtype, device):
        result, truth = solved(self.make(k, which), name, dtype, device), zoo(name, dtype, device)
        self.check(result, truth, which, k, accurate=k >= N - 1)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_very_small_operators(self, n, dtype, device):
        truth = problem(line(-1, 2, n) if n > 1 else joined([-3.0]), dtype, device)
        self.check(quietly(self.make(n), truth.operator), truth, "LM", n, accurate=True)

    def test_negative_eigenvalues_lead_by_magnitude(self, device):
        truth = problem(joined([-5.0, 4.0, -3.0], [0.0] * (N - 3)), device=device)
        result = quietly(self.make(3), truth.operator)
        torch.testing.assert_close(result.eigenvalues.cpu(), joined([-5.0, 4.0, -3.0]), rtol=0, atol=1e-8)


class SolverContract(TemplateContract, ZooContract):
    """All that holds for a solver: inherit and define `make`."""

    saved: ClassVar[dict] = {"which": "LA", "seed": 4}

    def slowly_decaying(self, dtype, device):
        return zoo("slow decay", dtype, device).operator

    @pytest.fixture
    def A(self, device):  # noqa: N802
        return zoo("positive", torch.float64, device).operator

    # -- what it costs ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("options", [{}, {"check_symmetry": False}], ids=["checked", "unchecked"])
    def test_counts_are_those_of_the_operator(self, options, dtype, device):
        A = zoo("rank deficient", dtype, device).operator
        widths: list[int] = []

        def matmat(X: Tensor) -> Tensor:
            widths.append(X.shape[1])
            return A.matrix @ X

        counting = Function(matmat, A.shape, dtype, device, structure=Structure.SYMMETRIC)
        report = quietly(self.make(6, **options), counting).report
        assert (report.products, report.passes) == (sum(widths), len(widths))
        measured = report.check_products - 2 * report.solver.check_symmetry
        assert measured in (0, 6)
        # A solver is either spared the measurement or has it done last.
        assert widths[-1] == 6 or measured == 0
        assert report.seconds_in_products > 0
        assert report.seconds_outside > 0
        assert report.seconds == report.seconds_in_products + report.seconds_outside

    # -- random numbers -----------------------------------------------------------------------------------------------

    def test_another_seed_another_sample(self, device):
        A = zoo("slow decay", torch.float64, device).operator
        first, second = (quietly(self.make(6, seed=seed), A).eigenvectors.abs() for seed in (0, 1))
        assert torch.equal(first, second) is not self.random

    # -- the call -----------------------------------------------------------------------------------------------------

    def test_start_is_used_or_refused(self, A, device):
        V = torch.linalg.eigh(A.matrix).eigenvectors[:, -6:]
        for start in (V, OrthonormalSubspace(V), MaskSubspace.random(N, 3, dtype=torch.float64, device=device)):
            if self.uses_start:
                result = quietly(self.make(6), A, start=start)
                self.check(result, zoo("positive", torch.float64, device), "LM", 6, accurate=True)
            else:
                with pytest.raises(ValueError, match="uses no start"):
                    self.make(6).solve(A, start=start)

    def test_takes_what_as_operator_takes(self, A):
        symmetric = es.as_operator(A.matrix.cpu().numpy(), structure=Structure.SYMMETRIC)
        assert len(quietly(self.make(2), symmetric).eigenvalues) == 2

    # -- bad input ----------------------------------------------------------------------------------------------------

    def test_unknown_end_of_the_spectrum(self):
        with pytest.raises(ValueError, match="which is one of 'LM'"):
            self.make(2, which="SM")

    def test_more_pairs_than_there_are(self, A):
        with pytest.raises(ValueError, match=rf"k={N + 1} .* which has {N}; choose k <= {N}"):
            self.make(N + 1).solve(A)

    def test_rectangular(self):
        with pytest.raises(ValueError, match=r"need a square operator, got <Dense 4x3"):
            self.make(2).solve(torch.ones(4, 3))

    def test_symmetry_not_declared(self, A):
        with pytest.raises(ValueError, match=r"nothing says that <Dense .* structure=eigenspan\.Structure\.SYMMETRIC"):
            self.make(2).solve(Dense(A.matrix))

    def test_entries_that_are_not_quite_symmetric(self, A):
        rounded = A.matrix.clone()
        rounded[0, 1] += 0.25
        with pytest.raises(ValueError, match=r"differ from those of its transpose by up to 2\.5e-01\); .* rounding"):
            self.make(2).solve(rounded)

    @pytest.mark.parametrize("size", [1e-4, 1.0])
    def test_symmetry_claimed_in_error(self, A, size):
        upper = Dense(A.matrix + size * torch.ones_like(A.matrix).triu(1), Structure.SYMMETRIC)
        with pytest.raises(ValueError, match="says that it is symmetric, but"):
            self.make(2).solve(upper)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, A, dtype):
        with pytest.raises(TypeError, match=r"works in float32 or float64, got <Dense .*float16"):
            self.make(2).solve(Dense(A.matrix.to(dtype), Structure.SYMMETRIC))

    @pytest.mark.parametrize("product", [1, 5, 12])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_product_that_is_not_finite(self, A, product, value):
        with pytest.raises(ValueError, match="gave NaN or infinite entries, in product"):
            self.make(6).solve(noisy(A, product, value))

    @pytest.mark.parametrize("scale", [1e-200, 1e200])
    def test_scale_is_handled_or_refused(self, A, scale):
        """None takes small numbers for zeros, or large ones for infinite."""
        scaled = Dense(scale * A.matrix, A.structure)
        try:
            found, refusal = quietly(self.make(2), scaled).eigenvalues / scale, ""
        except (ValueError, TypeError) as error:
            found, refusal = None, str(error)
        if found is None:
            assert "scale the operator" in refusal or "no factor" in refusal
        else:
            torch.testing.assert_close(found, quietly(self.make(2), A).eigenvalues, rtol=1e-6, atol=0)

    @pytest.mark.parametrize(
        ("wrong", "gave"),
        [
            (lambda Y: Y.float(), r"\(60, \d+\) torch.float32"),
            (lambda Y: Y[:-1], r"\(59, \d+\) torch.float64"),
            (lambda Y: Y[:, 0], r"\(60,\) torch.float64"),
            (lambda Y: None, "a product gave NoneType"),
        ],
        ids=["dtype", "rows", "vector", "nothing"],
    )
    def test_products_that_are_none(self, A, wrong, gave):
        class Broken(type(A)):
            def _matmat(self, X):
                return wrong(super()._matmat(X))

        broken = copy.copy(A)
        broken.__class__ = Broken
        with pytest.raises(RuntimeError, match=f"Broken broke its contract: .*{gave}"):
            self.make(2).solve(broken)
