"""The template: order, the adjoint test, warnings, and a solver that a user writes."""

from __future__ import annotations

import attrs
import numpy
import pytest
import scipy.sparse
import torch
from svd_cases import problem, through_functions, zoo
from svd_contract import SVDContract

import eigenspan as es
from eigenspan.linops import Dense, Diagonal
from eigenspan.solvers import ConvergenceWarning, SingularTriplets, Status, SVDSolver
from eigenspan.solvers.dense import DenseSVD
from eigenspan.solvers.golub_kahan import BlockGolubKahan


@attrs.frozen(kw_only=True)
class SVDThroughNumpy(SVDSolver):
    """All that a user writes."""

    def _solve(self, A, start):
        left, values, right = numpy.linalg.svd(A.to_dense().cpu().double().numpy(), full_matrices=False)
        U, sigma, Vt = (torch.from_numpy(array) for array in (left, values, right))
        return SingularTriplets(U.to(A.device, A.dtype), sigma, Vt.to(A.device, A.dtype).mT, Status.COMPLETE)


class TestSolverOfAUser(SVDContract):
    """Given order, counts, residual norms, errors and files."""

    random = False

    def make(self, k, seed=0, **parameters):
        return SVDThroughNumpy(k=k, seed=seed, **parameters)


def test_subspaces_are_the_spans_of_the_vectors_of_either_side():
    matrix = torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    found = DenseSVD(k=1).solve(Dense(matrix))
    for subspace, axis in ((found.left_subspace, [1.0, 0.0]), (found.right_subspace, [0.0, 1.0, 0.0])):
        torch.testing.assert_close(subspace.vectors.abs().flatten().tolist(), axis)


def test_solver_of_a_user_may_take_a_start():
    @attrs.frozen(kw_only=True)
    class SubspaceIteration(SVDSolver):
        steps: int = 5
        uses_start = True

        def _solve(self, A, start):
            V = start
            for _ in range(self.steps):
                U = torch.linalg.qr(A._matmat(V))[0]
                V = torch.linalg.qr(A._rmatmat(U))[0]
            X, values, Yt = torch.linalg.svd(U.mT @ A._matmat(V))
            return SingularTriplets(U @ X, values, V @ Yt.mT, Status.SKETCHED)

    matrix = torch.zeros(3, 4, dtype=torch.float64)
    matrix[range(3), range(3)] = torch.tensor([8.0, -4.0, 0.1], dtype=torch.float64)
    result = SubspaceIteration(k=2).solve(Dense(matrix), start=torch.ones(4, 2, dtype=torch.float64).tril())
    torch.testing.assert_close(result.singular_values.tolist(), [8.0, 4.0], rtol=1e-12, atol=0)
    # Two for the adjoint, eleven blocks of two, two of each side for the residuals.
    assert (result.report.products, result.report.check_products) == (28, 6)


class TestAdjointTest:
    def skewed(self, size, dtype=torch.float64, seed=0):
        """A matrix of norm one, and a transpose that is off by ``size`` (both Frobenius)."""
        generator = torch.Generator().manual_seed(seed)
        A, E = (torch.randn(40, 30, generator=generator, dtype=torch.float64) for _ in range(2))
        A, E = A / A.norm(), E / E.norm()
        return through_functions(Dense(A.to(dtype)), (A + size * E).mT.to(dtype))

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-4), (torch.float32, 0.3)])
    def test_sees_what_is_above_the_root_of_rounding(self, dtype, size):
        for seed in range(20):
            with pytest.raises(ValueError, match=r"differ by \d\.\de-\d\d of ‖A‖; mend rmatmat"):
                DenseSVD(k=1, seed=seed).solve(self.skewed(size, dtype))

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
    def test_lets_rounding_pass(self, dtype, size):
        for seed in range(20):
            DenseSVD(k=1, seed=seed).solve(self.skewed(size, dtype))

    def test_can_be_left_out(self):
        assert DenseSVD(k=1, check_adjoint=False).solve(self.skewed(0.1)).report.check_products == 0

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_does_not_depend_on_scale(self, scale):
        DenseSVD(k=1).solve(scale * self.skewed(0, torch.float32))
        with pytest.raises(ValueError, match="are not adjoint"):
            DenseSVD(k=1).solve(scale * self.skewed(0.3, torch.float32))

    def test_shares_no_random_vector_between_the_sides(self):
        """Of a square operator too: a difference that is skew would not show in xᵀ (A - B) x."""
        matrix = torch.zeros(30, 30, dtype=torch.float64)
        matrix[0, 1], matrix[1, 0] = 1.0, -1.0
        with pytest.raises(ValueError, match="are not adjoint"):
            DenseSVD(k=1).solve(through_functions(Dense(torch.eye(30).double() + matrix), torch.eye(30).double()))


class TestConvergenceWarning:
    SOLVER = BlockGolubKahan(k=6, max_products=12)

    def test_points_at_the_line_that_solves(self):
        with pytest.warns(ConvergenceWarning) as warned:
            self.SOLVER.solve(zoo("spread", "tall", torch.float64, "cpu").operator)
        assert [warning.filename for warning in warned] == [__file__]

    def test_shows_the_result(self):
        with pytest.warns(
            ConvergenceWarning, match=r"^<SingularValueDecomposition 6 of 70x40 float64 cpu, σ .*, out of products>: "
        ):
            self.SOLVER.solve(zoo("spread", "tall", torch.float64, "cpu").operator)

    def test_not_on_success(self):
        """Warnings are errors in all tests."""
        DenseSVD(k=6).solve(zoo("spread", "tall", torch.float64, "cpu").operator).require_converged()


class TestTemplate:
    def test_triplets_in_any_order_and_more_than_wanted(self):
        @attrs.frozen(kw_only=True)
        class Careless(SVDSolver):
            def _solve(self, A, start):
                order = torch.tensor([2, 0, 3, 1])
                U, values, Vt = torch.linalg.svd(A.to_dense())
                return SingularTriplets(U[:, order], values[order], Vt.mT[:, order], Status.COMPLETE)

        truth = problem(torch.tensor([4.0, 3.0, 2.0, 1.0]), (4, 4))
        result = Careless(k=3).solve(truth.operator)
        torch.testing.assert_close(result.singular_values.tolist(), [4.0, 3.0, 2.0], rtol=1e-14, atol=0)
        assert float(result.residual_norms.max()) < 1e-14
        assert result.report.check_products == 2 + 2 * 3
        assert result.left_vectors.mT.is_contiguous()
        assert result.right_vectors.mT.is_contiguous()

    def test_values_in_float64_come_back_in_the_dtype_of_the_operator(self):
        result = SVDThroughNumpy(k=2).solve(Dense(torch.arange(6.0).reshape(2, 3)))
        for name in ("left_vectors", "singular_values", "right_vectors", "residual_norms"):
            assert getattr(result, name).dtype == torch.float32

    @pytest.mark.parametrize(
        "convert", [numpy.asarray, scipy.sparse.csr_matrix, torch.as_tensor], ids=["numpy", "scipy", "torch"]
    )
    def test_operators_of_other_libraries(self, convert):
        matrix = numpy.diag([3.0, -4.0, 1.0])[:2]
        assert DenseSVD(k=2).solve(es.as_operator(convert(matrix))).singular_values.tolist() == pytest.approx(
            [4.0, 3.0]
        )

    def test_no_gradients_are_tracked(self):
        leaf = torch.eye(5, requires_grad=True)
        result = BlockGolubKahan(k=2).solve(Dense(leaf * 2))
        assert not result.left_vectors.requires_grad
        assert not result.right_vectors.requires_grad

    def test_residual_norms_are_measured_on_both_sides(self):
        """A solver that is exact on one side alone: A v = σ u for any v, but Aᵀ u is not σ v."""

        @attrs.frozen(kw_only=True)
        class OneSided(SVDSolver):
            def _solve(self, A, start):
                V = torch.tensor([[0.6], [0.8]], dtype=A.dtype)
                image = A._matmat(V)
                return SingularTriplets(image / image.norm(), image.norm()[None], V, Status.SKETCHED)

        A = Diagonal(torch.tensor([2.0, 1.0], dtype=torch.float64))
        result = OneSided(k=1).solve(A)
        sigma = float(result.singular_values)
        squares = 0.6**2 * 16 + 0.8**2 - sigma**4  # of AᵀA v - σ² v
        assert float(result.residual_norms) == pytest.approx((squares / 2) ** 0.5 / sigma, rel=1e-12)


def test_what_a_subclass_gives_back_is_checked():
    """Its vectors must be orthonormal, whatever status it claims."""

    @attrs.frozen(kw_only=True)
    class Careless(SVDSolver):
        answer: object = None

        def _solve(self, A, start):
            return self.answer

    A, good, bad = Dense(torch.ones(5, 4)), torch.eye(5), torch.ones(5, 2)
    for left, right, what in ((bad, good[:4, :2], "left"), (good[:, :2], bad[:4], "right")):
        answer = SingularTriplets(left, torch.ones(2), right, Status.CONVERGED)
        with pytest.raises(RuntimeError, match=f"{what} singular vectors that are not orthonormal"):
            Careless(k=2, answer=answer).solve(A)
    with pytest.raises(TypeError, match="SingularTriplets, got Tensor"):
        Careless(k=2, answer=bad).solve(A)


def test_a_model_is_no_operator():
    with pytest.raises(TypeError, match=r"is a model, not an operator"):
        BlockGolubKahan(k=1).solve(torch.nn.Linear(2, 2))


def test_a_report_reads_as_text():
    text = str(DenseSVD(k=2).solve(Dense(torch.arange(20.0).reshape(5, 4))).report)
    assert text.startswith("DenseSVD(k=2): complete")
    assert "6 products (2 of them checks)" in text
