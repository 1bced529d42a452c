"""What holds for every stochastic estimator, checked on operators whose numbers are known."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy
import pytest
import torch
from solver_cases import line, noisy, problem, rounding
from torch import Tensor

import eigenspan as es
from eigenspan.linops import Dense, Function, Structure
from eigenspan.solvers import ConvergenceWarning

N = 40
# How often margins hold is told by some hundred trials; few of them find gross faults.
TRIALS = pytest.mark.parametrize("trials", [12, pytest.param(160, marks=pytest.mark.slow)])


def quietly(estimator: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The estimate without the warning that its tolerance was not reached, which is tested by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator(*arguments, **options)


def counting(A: Dense) -> tuple[Function, list[int]]:
    """A, and the widths of the blocks that it and its transpose multiply."""
    widths: list[int] = []

    def multiply(matrix: Tensor, X: Tensor) -> Tensor:
        if X.shape[1]:
            widths.append(X.shape[1])
        return matrix @ X

    function = Function(
        lambda X: multiply(A.matrix, X),
        A.shape,
        A.dtype,
        A.device,
        rmatmat=lambda X: multiply(A.matrix.mT, X),
        structure=A.structure,
    )
    return function, widths


def unbiased(values: Tensor, truth: Tensor | float, errors: float = 5.0) -> bool:
    """Whether the mean of independent values, along the first axis, is the truth within that many standard errors."""
    error = values.std(0) / math.sqrt(len(values))
    return bool(((values.mean(0) - truth).abs() <= errors * error).all())


def covers(hits: list[bool], confidence: float) -> bool:
    """Whether so many trials hit as they should with that probability, but for three standard deviations of chance."""
    return sum(hits) >= len(hits) * confidence - 3 * math.sqrt(len(hits) * confidence * (1 - confidence))


class EstimatorContract:
    """Inherit and define `function` and `truth`.

    Attributes:
        function: the estimator, with the options for which it is tested.
        square: whether only square operators have such a number.
        symmetric: whether only symmetric ones do.
        transposes: whether it needs the transpose.
    """

    function: Callable[..., Any]
    square: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False
    transposes: ClassVar[bool] = False

    def estimate(self, A: Any, **options: Any) -> Any:
        return self.function(A, **options)

    def numbers(self, result: Any) -> Tensor:
        """All numbers of a result, in one vector."""
        return torch.cat(
            [x.double().cpu().reshape(-1) for x in (result.value, result.standard_error, result.bias, result.margin)]
        )

    def truth(self, matrix: Tensor) -> Tensor:
        raise NotImplementedError

    def holds(self, result: Any, truth: Tensor) -> bool:
        """Whether the truth is within the margin, but for the rounding errors of the truth itself."""
        error = (result.value.double().cpu() - truth).abs()
        return bool((error <= result.margin.double().cpu() + 1e-6 * truth.abs()).all())

    @property
    def parameters(self) -> set[str]:
        return set(inspect.signature(self.function).parameters)

    @pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
    def dtype(self, request):
        return request.param

    @pytest.fixture
    def A(self, device):  # noqa: N802
        return problem(line(-1, 2, N), device=device).operator

    # -- what it draws and spends -------------------------------------------------------------------------------------

    def test_same_seed_same_numbers_whatever_the_global_generators_do(self, A):
        first = self.numbers(self.estimate(A, seed=3))
        torch.manual_seed(9)
        state, legacy = torch.get_rng_state(), numpy.random.get_state()  # noqa: NPY002
        second = self.numbers(self.estimate(A, seed=3))
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.get_rng_state(), state)
        numpy.testing.assert_equal(numpy.random.get_state(), legacy)  # noqa: NPY002
        assert not torch.equal(first, self.numbers(self.estimate(A, seed=4)))

    @pytest.mark.parametrize("block_size", [1, 3, 100])
    def test_block_size_does_not_change_the_numbers(self, A, block_size):
        if "block_size" not in self.parameters:
            return
        expected, found = (self.numbers(self.estimate(A, **o)) for o in ({}, {"block_size": block_size}))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)

    def test_products_are_counted(self, A):
        function, widths = counting(A)
        result = self.estimate(function)
        assert result.products == sum(widths) > 0
        if "max_products" in self.parameters:
            result = self.estimate(function, max_products=59)
            assert 0 < result.products <= 59

    def test_progress_bar(self, A, capsys):
        quiet = self.estimate(A)
        assert capsys.readouterr().err == ""
        shown = self.estimate(A, progress=True)
        written = capsys.readouterr().err
        assert "products" in written
        torch.testing.assert_close(self.numbers(quiet), self.numbers(shown), rtol=0, atol=0, equal_nan=True)

    def test_takes_what_as_operator_takes(self, A):
        array = es.as_operator(A.matrix.cpu().numpy(), structure=Structure.SYMMETRIC)
        expected = self.numbers(self.estimate(Dense(A.matrix.cpu(), Structure.SYMMETRIC)))
        torch.testing.assert_close(self.numbers(self.estimate(array)), expected, equal_nan=True)

    # -- easy operators -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_very_small_operators(self, n, dtype, device):
        A = problem(line(-1, 2, n) if n > 1 else torch.tensor([-3.0]), dtype, device)
        result = quietly(self.estimate, A.operator)
        assert self.holds(result, self.truth(A.matrix))
        assert bool(self.numbers(result).isfinite().all())

    def test_zero(self, dtype, device):
        numbers = self.numbers(self.estimate(problem(torch.zeros(N), dtype, device).operator))
        assert torch.equal(numbers, torch.zeros_like(numbers))

    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])  # about 1e-30 and 1e30
    def test_scale_is_a_factor(self, dtype, device, scale):
        A = problem(line(-1, 2, N), dtype, device).operator
        scaled = Dense(A.matrix * scale, Structure.SYMMETRIC)
        expected, found = self.numbers(self.estimate(A)), self.numbers(self.estimate(scaled)) / scale
        unit = float(expected.nan_to_num().abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=rounding(dtype) * unit, equal_nan=True)

    # -- bad input ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"seed": -1}, ValueError, "seed is a non-negative integer, got -1"),
            ({"seed": 0.5}, ValueError, "seed is a non-negative integer"),
            ({"confidence": 1.0}, ValueError, r"confidence is between 0 and 1, got 1\.0"),
            ({"confidence": 0}, ValueError, "confidence is between 0 and 1"),
            ({"confidence": "high"}, TypeError, "confidence is a number between 0 and 1, got 'high'"),
            ({"tol": 0.0}, ValueError, "tol is between 0 and 1"),
            ({"tol": 2}, ValueError, "tol is between 0 and 1, got 2"),
            ({"tol": math.nan}, ValueError, "tol is between 0 and 1, got nan"),
            ({"tol": True}, TypeError, "tol is a number"),
            ({"tol": 1e-15}, ValueError, "tol=1e-15 is below the rounding errors of <"),
            ({"max_products": 0}, ValueError, "max_products is at least 1"),
            ({"max_products": 10.0}, TypeError, "max_products is a positive integer"),
            ({"block_size": 0}, ValueError, "block_size is at least 1"),
            ({"steps": 0}, ValueError, "steps is at least"),
            ({"steps": 2.0}, TypeError, "steps is an integer"),
            ({"vectors": 1}, ValueError, "vectors is at least 2, got 1"),
            ({"vectors": 2.0}, TypeError, "vectors is an integer"),
            ({"method": "best"}, ValueError, "method is one of .*; got 'best'"),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_options_are_checked_before_any_product(self, A, options, error, message):
        if not set(options) <= self.parameters:
            return
        function, widths = counting(A)
        with pytest.raises(error, match=message):
            self.estimate(function, **options)
        assert widths == []

    def test_operators_that_it_cannot_take(self, A):
        with pytest.raises(TypeError, match=r"works in float32 or float64, got <Dense .*float16"):
            self.estimate(Dense(A.matrix.half(), Structure.SYMMETRIC))
        with pytest.raises(TypeError, match="int64"):
            self.estimate(torch.ones(3, 3, dtype=torch.int64))
        with pytest.raises(TypeError, match=r"a Linear is a model, not an operator: build eigenspan\.Hessian"):
            self.estimate(torch.nn.Linear(3, 3))
        with pytest.raises(TypeError, match="str is no operator"):
            self.estimate("A")
        with pytest.raises(ValueError, match="takes an operator with entries, got <Dense 0x0"):
            self.estimate(Dense(torch.empty(0, 0), Structure.SYMMETRIC))
        if self.square:
            with pytest.raises(ValueError, match=r"square operator, got <Dense 4x3.*A\.T @ A"):
                self.estimate(torch.ones(4, 3))
        if self.symmetric:
            with pytest.raises(
                ValueError,
                match=r"nothing says that <Dense .* structure=eigenspan\.Structure\.SYMMETRIC",
            ):
                self.estimate(Dense(A.matrix))

    def test_without_a_transpose(self, device):
        matrix = torch.eye(5, dtype=torch.float64, device=device).roll(1, 0)
        calls: list[int] = []

        def matmat(X: Tensor) -> Tensor:
            calls.append(X.shape[1])
            return matrix @ X

        one_sided = Function(matmat, (5, 5), torch.float64, device)
        if self.transposes:
            with pytest.raises(NotImplementedError, match="has no transposed product"):
                self.estimate(one_sided)
            assert calls == []
        elif not self.symmetric:
            assert quietly(self.estimate, one_sided).products > 0

    @pytest.mark.parametrize("product", [1, 5, 12])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_product_that_is_not_finite(self, A, product, value):
        with pytest.raises(ValueError, match="gave NaN or infinite entries, in product"):
            self.estimate(noisy(A, product, value))


class ToleranceContract(EstimatorContract):
    """What holds for every estimator that stops at a tolerance."""

    def test_tolerance(self, A):
        loose = self.estimate(A, tol=0.9, max_products=4000)
        strict = quietly(self.estimate, A, tol=1e-6, max_products=60)
        assert loose.status.is_success
        assert not strict.status.is_success
        assert strict.status.is_failure
        assert "tolerance reached" in repr(loose)
        assert "tolerance not reached: raise" in repr(strict)
        assert loose.products < 4000
        assert strict.products <= 60
        assert not self.estimate(A, max_products=60).status.is_failure

    def test_warning(self, A):
        with pytest.warns(ConvergenceWarning, match="tolerance not reached: raise") as caught:
            self.function(A, tol=1e-6, max_products=60)
        assert caught[0].filename == __file__
