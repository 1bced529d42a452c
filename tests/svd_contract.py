"""What holds for every singular value solver, checked on a zoo of spectra and shapes whose triplets are known."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from solver_cases import SUCCESS, quietly, rounding
from svd_cases import SHAPES, SPECTRA, N, Problem, problem, through_functions, true_residuals, zoo
from template_contract import TemplateContract
from torch import Tensor

import eigenspan as es
from eigenspan.linops import Dense, Function, MaskSubspace, OrthonormalSubspace
from eigenspan.solvers import SingularValueDecomposition, Status, SVDSolver


class SVDZooContract:
    """What the triplets and their report say of known spectra: inherit and define `make`.

    Attributes:
        accurate_on: spectra whose k = 8 leading triplets are to be found.
        incomplete_on: spectra where triplets may be missing from the leading ones, all of them true triplets.
        refused_on: spectra that the solver may give up on with a RuntimeError.
    """

    accurate_on: frozenset[str] = frozenset(SPECTRA)
    incomplete_on: frozenset[str] = frozenset()
    refused_on: frozenset[str] = frozenset()

    def make(self, k: int, seed: int = 0, **parameters) -> SVDSolver:
        raise NotImplementedError

    def accuracy(self, dtype: torch.dtype) -> float:
        """The residual norm, and the error of a singular value, that counts as none, relative to σ₁."""
        return self.rounding(dtype)

    def rounding(self, dtype: torch.dtype) -> float:
        """What entries of UᵀU and VᵀV may be off those of the identity, and residual norms, relative to σ₁."""
        return rounding(dtype)

    @pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
    def dtype(self, request):
        return request.param

    @pytest.fixture(params=SHAPES)
    def shape(self, request):
        return request.param

    def check(
        self, result: SingularValueDecomposition, truth: Problem, k: int, accurate: bool, complete: bool = True
    ) -> None:
        dtype, (m, n) = result.singular_values.dtype, truth.operator.shape
        sigma, status, j = result.singular_values.double().cpu(), result.report.status, len(result.singular_values)
        unit = truth.norm * self.rounding(dtype)
        # As many as asked for, unless it says that it could not.
        assert j == k or (j < k and status is Status.OUT_OF_ITERATIONS)
        assert (result.left_vectors.shape, result.right_vectors.shape) == ((m, j), (n, j))
        for vectors in (result.left_vectors, result.right_vectors):
            assert (vectors.dtype, vectors.device) == (dtype, truth.operator.device)
            defect = vectors.double().mT @ vectors.double() - torch.eye(j, dtype=torch.float64, device=vectors.device)
            assert j == 0 or float(defect.abs().max()) <= self.rounding(dtype)
        assert result.residual_norms.dtype == dtype == truth.operator.dtype
        assert bool((sigma >= 0).all())
        assert sigma.tolist() == sorted(sigma.tolist(), reverse=True)
        # Residual norms are those of products anew, and bound the distance to a singular value, or to zero.
        residuals = true_residuals(result, truth.matrix)
        torch.testing.assert_close(result.residual_norms.double().cpu(), residuals, rtol=1e-6, atol=unit)
        values = torch.cat([truth.singular_values, torch.zeros(int(m != n), dtype=torch.float64)])
        distances = (sigma[:, None] - values).abs().amin(dim=1)
        assert bool((distances <= residuals + unit).all())
        if status in SUCCESS:
            assert bool((residuals <= self.accuracy(dtype) * truth.norm).all())
        if complete and (status in SUCCESS or accurate):
            error = (sigma - truth.singular_values[:j]).abs()
            assert bool((error <= self.accuracy(dtype) * truth.norm).all()), f"{result}: off by {error.max():.1e}"

    @pytest.mark.parametrize("name", SPECTRA)
    def test_finds_the_leading_triplets_or_says_that_it_did_not(self, name, shape, dtype, device):
        """Orthonormal vectors, true residual norms, the largest first; success is claimed only when it is one."""
        truth, accurate = zoo(name, shape, dtype, device), name in self.accurate_on
        try:
            result = quietly(self.make(8), truth.operator)
        except RuntimeError:
            assert name in self.refused_on
            return
        assert not accurate or result.report.status in (*SUCCESS, Status.SKETCHED)
        self.check(result, truth, 8, accurate, complete=name not in self.incomplete_on)

    @pytest.mark.parametrize("k", [1, N - 1, N])
    @pytest.mark.parametrize("name", ["decay", "rank deficient"])
    def test_one_triplet_all_but_one_and_all(self, name, shape, k, dtype, device):
        truth = zoo(name, shape, dtype, device)
        try:
            result = quietly(self.make(k), truth.operator)
        except RuntimeError:
            assert name in self.refused_on
            assert k == N - 1
            return
        self.check(result, truth, k, accurate=k == N)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 2), (3, 4)], ids=str)
    def test_very_small_operators(self, shape, dtype, device):
        k = min(shape)
        truth = problem(torch.linspace(2, 1, k, dtype=torch.float64), shape, dtype, device)
        self.check(quietly(self.make(k), truth.operator), truth, k, accurate=True)


class SVDContract(TemplateContract, SVDZooContract):
    """All that holds for a solver: inherit and define `make`."""

    saved: ClassVar[dict] = {"seed": 4}

    def slowly_decaying(self, dtype, device):
        return zoo("slow decay", "wide", dtype, device).operator

    @pytest.fixture
    def truth(self, device):
        return zoo("slow decay", "tall", torch.float64, device)

    @pytest.fixture
    def A(self, truth):  # noqa: N802
        return truth.operator

    # -- what it costs ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("options", [{}, {"check_adjoint": False}], ids=["checked", "unchecked"])
    def test_counts_are_those_of_the_operator(self, options, shape, dtype, device):
        widths: list[int] = []
        counting = through_functions(
            zoo("slow decay", shape, dtype, device).operator, seen=lambda X, _: widths.append(X.shape[1])
        )
        report = quietly(self.make(6, **options), counting).report
        assert (report.products, report.passes) == (sum(widths), len(widths))
        measured = report.check_products - 2 * report.solver.check_adjoint
        assert measured in (0, 12)
        # A solver is either spared the measurement or has it done last.
        assert widths[-2:] == [6, 6] or measured == 0
        assert report.seconds_in_products > 0
        assert report.seconds_outside > 0

    # -- random numbers -----------------------------------------------------------------------------------------------

    def test_another_seed_another_sample(self, A):
        first, second = (quietly(self.make(6, seed=seed), A).right_vectors.abs() for seed in (0, 1))
        assert torch.equal(first, second) is not self.random

    # -- the call -----------------------------------------------------------------------------------------------------

    def test_start_is_used_or_refused(self, A, truth, device):
        V = truth.right_vectors[:, :6].to(device)
        for start in (V, OrthonormalSubspace(V), MaskSubspace.random(N, 3, dtype=torch.float64, device=device)):
            if self.uses_start:
                self.check(quietly(self.make(6), A, start=start), truth, 6, accurate=True)
            else:
                with pytest.raises(ValueError, match="uses no start"):
                    self.make(6).solve(A, start=start)

    def test_takes_what_as_operator_takes(self, A):
        assert len(quietly(self.make(2), es.as_operator(A.matrix.cpu().numpy())).singular_values) == 2

    # -- bad input ----------------------------------------------------------------------------------------------------

    def test_more_triplets_than_there_are(self, shape, device):
        with pytest.raises(ValueError, match=rf"k={N + 1} .* which has {N}; choose k <= {N}"):
            self.make(N + 1).solve(zoo("spread", shape, torch.float64, device).operator)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, A, dtype):
        with pytest.raises(TypeError, match=r"works in float32 or float64, got <Dense .*float16"):
            self.make(2).solve(Dense(A.matrix.to(dtype)))

    @pytest.mark.parametrize("size", [1e-4, 1.0])
    def test_adjoint_claimed_in_error(self, A, size):
        wrong = through_functions(A, A.matrix.mT + size)
        with pytest.raises(ValueError, match=r"are not adjoint: .* mend rmatmat.*\(check_adjoint=False\)"):
            self.make(2).solve(wrong)

    def test_no_adjoint_at_all(self, A):
        one_sided = Function(lambda X: A.matrix @ X, A.shape, A.dtype, A.device)
        with pytest.raises(NotImplementedError, match="rmatmat"):
            self.make(2).solve(one_sided)

    @pytest.mark.parametrize("product", [1, 2, 5, 12])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_product_that_is_not_finite(self, A, product, value):
        """Of either side, by its number, counted from one."""
        before = 0

        def spoil(X: Tensor, result: Tensor) -> None:
            nonlocal before
            if before < product <= before + X.shape[1]:
                result[0, product - 1 - before] = value
            before += X.shape[1]

        with pytest.raises(ValueError, match="gave NaN or infinite entries, in product"):
            self.make(6).solve(through_functions(A, seen=spoil))
