"""The template: ordering, the symmetry test, warnings, and a solver that a user writes."""

from __future__ import annotations

import copy
import pickle

import attrs
import numpy
import pytest
import scipy.sparse
import torch
from solver_cases import N, problem, zoo
from solver_contract import SolverContract

import eigenspan as es
from eigenspan.linops import Dense, Diagonal, Structure
from eigenspan.solvers import BlockLanczos, ConvergenceWarning, DenseEigh, EigenSolver, Status, Which
from eigenspan.solvers.solver import EigenPairs


@attrs.frozen(kw_only=True)
class ThroughNumpy(EigenSolver):
    """All that a user writes."""

    def _solve(self, A, start):
        values, vectors = numpy.linalg.eigh(A.to_dense().cpu().double().numpy())
        return EigenPairs(torch.from_numpy(values), torch.from_numpy(vectors).to(A.device, A.dtype), Status.COMPLETE)


class TestSolverOfAUser(SolverContract):
    """Given order, counts, residual norms, errors and files."""

    random = False

    def make(self, k, which="LM", seed=0, **parameters):
        return ThroughNumpy(k=k, which=which, seed=seed, **parameters)


def test_solver_of_a_user_may_take_a_start():
    @attrs.frozen(kw_only=True)
    class SubspaceIteration(EigenSolver):
        steps: int = 5
        uses_start = True

        def _solve(self, A, start):
            Q = start
            for _ in range(self.steps):
                Q = torch.linalg.qr(A._matmat(Q))[0]
            values, S = torch.linalg.eigh(Q.mT @ A._matmat(Q))
            return EigenPairs(values, Q @ S, Status.SKETCHED)

    A = Diagonal(torch.tensor([8.0, -4.0, 0.1, 0.1], dtype=torch.float64))
    result = SubspaceIteration(k=2).solve(A, start=torch.ones(4, 2, dtype=torch.float64).tril())
    torch.testing.assert_close(result.eigenvalues.tolist(), [8.0, -4.0], rtol=1e-12, atol=0)
    # Two for symmetry, six blocks of two, two for the residuals.
    assert (result.report.products, result.report.check_products) == (16, 4)


class TestWhich:
    VALUES = torch.tensor([1.0, -3.0, 2.0, 0.0, 3.0])

    @pytest.mark.parametrize(
        ("which", "order"), [("LM", [1, 4, 2, 0, 3]), ("LA", [4, 2, 0, 3, 1]), ("SA", [1, 3, 0, 2, 4])]
    )
    def test_order(self, which, order):
        """LM by |λ|, not by λ; of equal keys the first stays first."""
        assert Which(which).order(self.VALUES).tolist() == order
        assert Which(which) is Which[which]

    def test_solvers_take_the_name_or_the_member(self):
        assert DenseEigh(k=1, which="SA") == DenseEigh(k=1, which=Which.SA)

    @pytest.mark.parametrize("name", ["lm", "LR", None, 3])
    def test_unknown(self, name):
        with pytest.raises(ValueError, match="which is one of"):
            Which(name)


class TestSymmetryTest:
    def skewed(self, size, dtype=torch.float64):
        """A symmetric matrix of norm one, and a skew part of norm ``size`` relative to it (both Frobenius)."""
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(N, N, generator=generator, dtype=torch.float64)
        S, K = X + X.mT, X - X.mT
        return Dense((S / S.norm() + size * K / K.norm()).to(dtype), Structure.SYMMETRIC)

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-4), (torch.float32, 0.3)])
    def test_sees_a_skew_part_above_the_root_of_rounding(self, dtype, size):
        for seed in range(20):
            with pytest.raises(ValueError, match=r"symmetrise it, \(A \+ A\.T\) / 2"):
                DenseEigh(k=1, seed=seed).solve(self.skewed(size, dtype))

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
    def test_lets_rounding_pass(self, dtype, size):
        for seed in range(20):
            DenseEigh(k=1, seed=seed).solve(self.skewed(size, dtype))

    def test_can_be_left_out(self):
        report = DenseEigh(k=1, check_symmetry=False).solve(self.skewed(0.1)).report
        assert report.check_products == 0

    def test_names_the_size_and_the_way_out(self):
        with pytest.raises(ValueError, match=r"differ by \d\.\de-\d\d of ‖A‖.*DenseEigh\(check_symmetry=False\)"):
            DenseEigh(k=1).solve(self.skewed(0.1))

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_does_not_depend_on_scale(self, scale):
        DenseEigh(k=1).solve(scale * self.skewed(0, torch.float32))
        with pytest.raises(ValueError, match="says that it is symmetric"):
            DenseEigh(k=1).solve(scale * self.skewed(0.1, torch.float32))


class TestConvergenceWarning:
    SOLVER = BlockLanczos(k=6, max_products=10)

    def test_points_at_the_line_that_solves(self):
        with pytest.warns(ConvergenceWarning) as warned:
            self.SOLVER.solve(zoo("indefinite", torch.float64, "cpu").operator)
        assert [warning.filename for warning in warned] == [__file__]

    def test_shows_the_result(self):
        with pytest.warns(
            ConvergenceWarning, match=r"^<EigenDecomposition 6 of 60 float64 cpu, λ .*, out of products>: "
        ):
            self.SOLVER.solve(zoo("indefinite", torch.float64, "cpu").operator)

    def test_not_on_success(self):
        """Warnings are errors in all tests."""
        BlockLanczos(k=6).solve(zoo("indefinite", torch.float64, "cpu").operator).require_converged()


class TestTemplate:
    def test_pairs_in_any_order_and_more_than_wanted(self):
        @attrs.frozen(kw_only=True)
        class Careless(EigenSolver):
            def _solve(self, A, start):
                return EigenPairs(*torch.linalg.eigh(A.to_dense()), Status.COMPLETE)

        result = Careless(k=3, which="LM").solve(Diagonal(torch.tensor([1.0, -5.0, 2.0, 4.0, -3.0])))
        assert result.eigenvalues.tolist() == [-5.0, 4.0, -3.0]
        torch.testing.assert_close(result.residual_norms, torch.zeros(3), rtol=0, atol=1e-6)
        assert result.report.check_products == 2 + 3
        assert result.eigenvectors.mT.is_contiguous()

    def test_values_in_float64_come_back_in_the_dtype_of_the_operator(self):
        result = DenseEigh(k=2).solve(Diagonal(torch.arange(4.0)))
        assert result.eigenvalues.dtype == result.eigenvectors.dtype == result.residual_norms.dtype == torch.float32

    @pytest.mark.parametrize(
        "convert", [numpy.asarray, scipy.sparse.csr_matrix, torch.as_tensor], ids=["numpy", "scipy", "torch"]
    )
    def test_operators_of_other_libraries(self, convert):
        matrix = numpy.diag([3.0, -4.0, 1.0])
        A = es.as_operator(convert(matrix), structure=Structure.SYMMETRIC)
        assert DenseEigh(k=2).solve(A).eigenvalues.tolist() == pytest.approx([-4.0, 3.0])

    def test_no_gradients_are_tracked(self):
        leaf = torch.eye(5, requires_grad=True)
        result = DenseEigh(k=2).solve(Dense(leaf * 2, Structure.SYMMETRIC))
        assert not result.eigenvectors.requires_grad

    def test_errors_of_the_operator_pass_through(self):
        def broken(X):
            raise ArithmeticError("the loss diverged")

        A = es.Function(broken, (5, 5), torch.float32, structure=Structure.SYMMETRIC)
        with pytest.raises(ArithmeticError, match="the loss diverged"):
            DenseEigh(k=1).solve(A)

    def test_number_of_the_product_that_was_not_finite(self):
        truth = problem(torch.arange(10.0))

        def matmat(X):
            return truth.operator.matrix @ X * (float("nan") if X.shape[1] == 3 else 1.0)

        A = es.Function(matmat, (10, 10), torch.float64, structure=Structure.SYMMETRIC)
        # Two products test symmetry, the third starts the first block.
        with pytest.raises(ValueError, match=r"<Function 10x10 .* in product 3 or one of the next"):
            BlockLanczos(k=2, block_size=3).solve(A)

    def test_solvers_are_values(self):
        assert BlockLanczos(k=3) == BlockLanczos(k=3)
        assert hash(BlockLanczos(k=3)) != hash(BlockLanczos(k=4))
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            BlockLanczos(k=3).k = 4


def test_what_a_subclass_gives_back_is_checked():
    """Its vectors must be orthonormal, whatever status it claims."""

    @attrs.frozen(kw_only=True)
    class Careless(EigenSolver):
        answer: object = None

        def _solve(self, A, start):
            return self.answer

    A = Diagonal(torch.arange(5.0))
    twice = EigenPairs(torch.ones(2), torch.ones(5, 2), Status.CONVERGED)
    with pytest.raises(RuntimeError, match="not orthonormal"):
        Careless(k=2, answer=twice).solve(A)
    with pytest.raises(TypeError, match="EigenPairs, got Tensor"):
        Careless(k=2, answer=torch.ones(5, 2)).solve(A)


def test_a_model_is_no_operator():
    with pytest.raises(TypeError, match=r"eigenspan\.Hessian"):
        BlockLanczos(k=1).solve(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("kind", [BlockLanczos, DenseEigh, es.SketchedEigh, es.SketchedSVD, es.Auto])
def test_parameters_have_names(kind):
    with pytest.raises(TypeError, match=rf"by name: write {kind.__name__}\(k=3\)"):
        kind(3)
    solver = kind(k=3)
    assert pickle.loads(pickle.dumps(solver)) == copy.deepcopy(solver) == attrs.evolve(solver) == solver


def test_a_start_of_another_dtype_is_named_and_not_printed():
    A = Diagonal(torch.arange(50.0))
    for start, given in ((torch.ones(50, 2).double(), r"torch\.float64 on cpu"), ([1.0], "list")):
        with pytest.raises(TypeError, match=f"of its dtype on its device, got {given}$"):
            BlockLanczos(k=1).solve(A, start=start)


def test_a_report_reads_as_text():
    text = str(DenseEigh(k=2).solve(Diagonal(torch.arange(5.0))).report)
    assert text.startswith("DenseEigh(k=2, which=LM): complete")
    assert "7 products (2 of them checks)" in text
