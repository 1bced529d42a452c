"""The abstract operator and its algebra: the gate, compositions against the same expression of matrices, refusals."""

from types import SimpleNamespace

import numpy
import pytest
import torch
from operator_contract import Case, OperatorContract, assert_close, isometry, matrix

from eigenspan.linops import (
    Adjoint,
    Congruence,
    Counted,
    Declared,
    Dense,
    Diagonal,
    Embedding,
    Function,
    Identity,
    LinearOperator,
    MaskSubspace,
    Product,
    Scaled,
    Structure,
    Sum,
)

NONE, SYMMETRIC, ISOMETRY = Structure.NONE, Structure.SYMMETRIC, Structure.ISOMETRY
NONNEGATIVE, PSD, NSD = Structure.NONNEGATIVE, Structure.PSD, Structure.NSD


def of_operators(kind, of_matrices):
    """An operation that has a class for operators and a formula for matrices."""
    return lambda *parts: (kind if isinstance(parts[0], LinearOperator) else of_matrices)(*parts)


adjoint = of_operators(Adjoint, lambda A: A.T)
congruence = of_operators(Congruence, lambda A, B: B.T @ A @ B)

# One expression serves operators and matrices: A, B square, C and D (7, 5), S symmetric, P psd, N nsd, G nonnegative
# but not symmetric, Q a (7, 5) isometry, R a symmetric isometry.
COMPOSITIONS = {
    "adjoint": (lambda x: x.C.T, NONE),
    "adjoint of a symmetric operator": (lambda x: adjoint(x.P), PSD),
    "adjoint of an isometry": (lambda x: x.Q.T, NONE),
    "adjoint of nonnegative": (lambda x: x.G.T, NONNEGATIVE),
    "multiple": (lambda x: 2.5 * x.C, NONE),
    "negative multiple of psd": (lambda x: -2 * x.P, NSD),
    "minus nsd": (lambda x: -x.N, PSD),
    "zero times psd": (lambda x: 0.0 * x.P, PSD | NSD),
    "minus an isometry": (lambda x: -x.Q, ISOMETRY),
    "quotient": (lambda x: x.S / -4, SYMMETRIC),
    "sum": (lambda x: x.C + x.D, NONE),
    "difference": (lambda x: x.C - x.D, NONE),
    "adjoint of a difference": (lambda x: (x.C - 3 * x.D).T, NONE),
    "psd + psd": (lambda x: x.P + 0.5 * x.P, PSD),
    "psd - nsd": (lambda x: x.P - x.N, PSD),
    "psd - psd": (lambda x: x.P - 2 * x.P, SYMMETRIC),
    "psd + nonnegative": (lambda x: x.P + x.G, NONNEGATIVE),
    "isometry + isometry": (lambda x: x.R + x.R, SYMMETRIC),
    "with its adjoint": (lambda x: x.A + x.A.T, SYMMETRIC),
    "adjoint first": (lambda x: x.G.T + x.G, PSD),
    "minus its adjoint": (lambda x: x.A - x.A.T, NONE),
    "product": (lambda x: x.C @ x.B, NONE),
    "adjoint of a product": (lambda x: (x.C @ x.B).T, NONE),
    "product of symmetric": (lambda x: x.S @ x.P, NONE),
    "product of isometries": (lambda x: x.Q @ x.R, ISOMETRY),
    "square of symmetric": (lambda x: x.S @ x.S, PSD),
    "gram": (lambda x: x.C.T @ x.C, PSD),
    "outer gram": (lambda x: x.C @ x.C.T, PSD),
    "palindrome around symmetric": (lambda x: x.C @ x.S @ x.C.T, SYMMETRIC),
    "palindrome around psd": (lambda x: x.C @ (x.P @ x.C.T), PSD),
    "palindrome around nsd": (lambda x: x.A.T @ x.N @ x.A, NSD),
    "palindrome around general": (lambda x: x.A.T @ x.B @ x.A, NONE),
    "long palindrome": (lambda x: (x.A.T @ x.C.T) @ (x.C @ x.A), PSD),
    "cube of symmetric": (lambda x: x.S @ x.S @ x.S, SYMMETRIC),
    "broken palindrome": (lambda x: x.C.T @ (2 * x.C), NONE),
    "congruence of general": (lambda x: congruence(x.A, x.C.T), NONE),
    "congruence of psd": (lambda x: congruence(x.P, x.C.T), PSD),
    "congruence of nsd": (lambda x: congruence(x.N, x.B), NSD),
    "congruence of a symmetric isometry": (lambda x: congruence(x.R, x.B), SYMMETRIC),
    "nested": (lambda x: (2 * (x.A - x.S).T + x.P @ x.B) / 3, NONE),
}


def parts(dtype, device):
    """The matrices of the expressions above, rounded to the dtype, and their structure."""
    square, spread = matrix(5, 5, 3), matrix(5, 3, 4)
    entries = {
        "A": (matrix(5, 5, 1), NONE),
        "B": (matrix(5, 5, 2), NONE),
        "C": (matrix(7, 5, 6), NONE),
        "D": (matrix(7, 5, 7), NONE),
        "S": (square + square.T, SYMMETRIC),
        "P": (spread @ spread.T, PSD),
        "N": (-spread @ spread.T - torch.eye(5, dtype=torch.float64), NSD),
        "G": (spread @ spread.T + square - square.T, NONNEGATIVE),
        "Q": (isometry(7, 5), ISOMETRY),
        "R": (isometry(5, 5), SYMMETRIC | ISOMETRY),
    }
    return {name: (entry.to(device, dtype), structure) for name, (entry, structure) in entries.items()}


def composed(name, dtype, device):
    expression, structure = COMPOSITIONS[name]
    entries = parts(dtype, device)
    operators = SimpleNamespace(**{name: Dense(*entry) for name, entry in entries.items()})
    matrices = SimpleNamespace(**{name: entry[0].double() for name, entry in entries.items()})
    return Case(expression(operators), expression(matrices), structure)


class TestCompositions(OperatorContract):
    @pytest.fixture
    def dtype(self):
        """One is enough for the whole contract: the parts alone do arithmetic in their dtype."""
        return torch.float64

    @pytest.fixture(params=COMPOSITIONS)
    def case(self, request, dtype, device):
        return composed(request.param, dtype, device)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compositions_in_float32(name, device):
    A, twin, structure = composed(name, torch.float32, device)
    assert_close(A @ torch.eye(len(twin.T), device=device), twin, A)
    assert_close(A.T @ torch.eye(len(twin), device=device), twin.T, A)
    assert A.structure == structure


class Shift(LinearOperator):
    """(x₁, …, x_n) to (x₂, …, x_n): a subclass that has no transpose."""

    def __init__(self, n=4, dtype=torch.float64):
        super().__init__((n - 1, n), dtype, "cpu")

    def _matmat(self, X):
        return X[1:].clone()


class TestSubclass:
    def test_one_method_is_enough_for_products(self):
        A = Shift()
        x = torch.arange(4, dtype=torch.float64)
        assert (A @ x).tolist() == [1, 2, 3]
        assert (Scaled(A, 2.0) @ x).tolist() == [2, 4, 6]
        assert A.to_dense().tolist() == torch.eye(4)[1:].tolist()
        assert A.T.to_dense().tolist() == torch.eye(4)[:, 1:].tolist(), (
            "the dense transpose needs no transposed product"
        )

    @pytest.mark.parametrize(
        "product",
        [
            lambda A, y: A.T @ y,
            lambda A, y: y @ A,
            lambda A, y: (2 * A + A).T @ y,
            lambda A, y: (A @ Identity(4, A.dtype)).T @ y,
            lambda A, y: (A.T @ A) @ (A.T @ y),
            lambda A, y: Counted(A).T @ y,
            lambda A, y: A.to_scipy().rmatvec(y.numpy()),
        ],
    )
    def test_without_transpose_the_error_names_the_class(self, product):
        with pytest.raises(NotImplementedError, match=r"<Shift 3x4 float64 cpu> .* define Shift\._rmatmat"):
            product(Shift(), torch.ones(3, dtype=torch.float64))

    def test_symmetric_needs_no_transposed_product(self):
        A = Function(lambda X: 2 * X, (3, 3), torch.float64, structure=SYMMETRIC)
        y = torch.ones(3, dtype=torch.float64)
        assert A.T is A
        assert A.H is A
        assert (y @ A).tolist() == [2, 2, 2]

    def test_must_define_its_product(self):
        class Nothing(LinearOperator):
            pass

        with pytest.raises(TypeError, match="_matmat"):
            Nothing((2, 2), torch.float32, "cpu")

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda X: X[:2], r"shape \(3, 2\) gave \(2, 2\) torch.float32 on cpu, expected \(3, 2\) torch.float32"),
            (lambda X: X[:, :1], r"gave \(3, 1\)"),
            (lambda X: X.mT, r"gave \(2, 3\)"),
            (lambda X: X.sum(), r"gave \(\)"),
            (lambda X: X.double(), r"gave \(3, 2\) torch.float64 on cpu, expected \(3, 2\) torch.float32 on cpu"),
            (lambda X: X.to("meta"), "on meta"),
            (lambda X: X.numpy(), "ndarray"),
            (lambda X: None, "NoneType"),
        ],
    )
    def test_a_wrong_result_is_caught_at_the_gate(self, wrong, message):
        class Broken(Function):
            pass

        A = Broken(wrong, (3, 3), torch.float32, structure=SYMMETRIC)
        for product in (lambda X: A @ X, lambda X: X.mT @ A):
            with pytest.raises(RuntimeError, match=f"Broken broke its contract.*{message}"):
                product(torch.ones(3, 2))

    @pytest.mark.parametrize("shape", [(2.5, 3), (2, 3, 4), (2,), (-1, 2), (2, -1), ("2", 3)])
    def test_refuses_what_is_no_shape(self, shape):
        with pytest.raises(ValueError, match="Function: a shape is two non-negative integers, got"):
            Function(lambda X: X, shape, torch.float32)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex128, "float32", numpy.float32, None])
    def test_refuses_what_is_no_real_dtype(self, dtype):
        with pytest.raises(TypeError, match=r"Function: .*real floating-point torch dtype"):
            Function(lambda X: X, (2, 2), dtype)

    @pytest.mark.parametrize("structure", [SYMMETRIC, PSD, NSD])
    def test_refuses_symmetry_of_a_rectangle(self, structure):
        with pytest.raises(ValueError, match=f"declared {structure}, but 2 x 3 is not square"):
            Function(lambda X: X, (2, 3), torch.float32, structure=structure)

    def test_sizes_of_other_integer_types_become_plain(self):
        A = Function(lambda X: X, (numpy.int64(2), torch.Size([2])[0]), torch.float32)
        assert [type(size) for size in A.shape] == [int, int]


class TestAlgebraKeepsItsParts:
    def test_transposing_twice_gives_the_operator_back(self):
        A = Dense(matrix(3, 4))
        assert A.T.T is A
        assert isinstance(A.H, Adjoint)

    def test_adjoint_of_a_difference_keeps_signs_and_input(self, device):
        """Small integers, so that equality is exact."""
        A = Dense(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device=device))
        B = Dense(torch.tensor([[1.0, 0.0, 1.0], [0.0, 7.0, 0.0]], device=device))
        y = torch.tensor([1.0, 10.0], device=device)
        for _ in range(2):
            assert ((A - B).T @ y).tolist() == [40.0, -18.0, 62.0]
            assert (y @ (A - B)).tolist() == [40.0, -18.0, 62.0]
            assert ((A.T - B.T) @ y).tolist() == [40.0, -18.0, 62.0]
            assert (-(A - B).T @ y).tolist() == [-40.0, 18.0, -62.0]
            assert y.tolist() == [1.0, 10.0]

    def test_minus_psd_is_not_psd(self):
        P = Diagonal(torch.tensor([1.0, 2.0]))
        assert P.is_psd
        for negative in (-P, -1 * P, P / -2, P * -0.5, Scaled(P, -3.0), Identity(2) * 0 - P):
            assert not negative.is_psd
            assert negative.is_symmetric
        assert (-negative).is_symmetric
        assert (-1 * -P).is_psd

    def test_palindromes_are_of_the_same_operators_not_of_equal_ones(self):
        C = matrix(4, 3)
        assert (Dense(C).T @ Dense(C)).structure == NONE
        assert (Dense(C.T) @ Dense(C)).structure == NONE

    def test_building_costs_no_product(self):
        A = Counted(Dense(matrix(4, 4)))
        repr((2 * (A @ A.T - A) + A.congruence(A)).T)
        assert A.calls == 0

    def test_costs(self):
        """A sum and a product take one product of each part; a congruence two of B and one of A."""
        A, B = Counted(Dense(matrix(4, 4, 1))), Counted(Dense(matrix(4, 4, 2)))
        X = matrix(4, 3)
        for build, expected in [
            (Sum, (3, 3)),
            (Product, (3, 3)),
            (Congruence, (3, 6)),
            (lambda A, B: Adjoint(A), (3, 0)),
            (lambda A, B: -A, (3, 0)),
        ]:
            for operator in (build(A, B), build(A, B).T):
                before = A.products, B.products
                operator @ X
                assert (A.products - before[0], B.products - before[1]) == expected

    @pytest.mark.parametrize(
        "factor", [2, 2.0, True, numpy.float32(2), numpy.int64(2), torch.tensor(2), torch.tensor(2.0, dtype=torch.half)]
    )
    def test_factors_of_every_real_type(self, factor):
        M = matrix(2, 3)
        A = Dense(M)
        for product in (A * factor, factor * A):
            assert isinstance(product, Scaled)
            assert torch.equal(product.to_dense(), float(factor) * M)
        assert torch.equal((A / factor).to_dense(), M / float(factor))

    def test_a_quotient_by_a_number_without_inverse_is_refused(self):
        """The reciprocal of 1e-310 is beyond float64."""
        with pytest.raises(ValueError, match="finite numbers, got inf"):
            Dense(matrix(2, 2)) / 1e-310


class TestRefusals:
    A, B = Dense(matrix(2, 3)), Dense(matrix(4, 2))

    @pytest.mark.parametrize(
        "build",
        [
            lambda A, B: A + B,
            lambda A, B: A - B,
            lambda A, B: A @ B,
            lambda A, B: Congruence(A, B),
            lambda A, B: A.congruence(B),
            lambda A, B: Sum(A, B),
        ],
    )
    def test_sizes_that_do_not_fit_name_both_operands(self, build):
        with pytest.raises(ValueError, match=r"<Dense 2x3 float64 cpu>.*<.* float64 cpu>"):
            build(self.A, self.B)

    @pytest.mark.parametrize(
        "build", [lambda A, B: A + B, lambda A, B: A - B, lambda A, B: A @ B, lambda A, B: A.congruence(B)]
    )
    @pytest.mark.parametrize(("dtype", "device"), [("float32", "cpu"), ("float64", "meta")])
    def test_mixed_dtypes_and_devices_name_both_operands(self, build, dtype, device):
        with pytest.raises(TypeError, match=f"<Dense 3x3 float64 cpu>.* and .*<.* 3x3 {dtype} {device} "):
            build(Dense(matrix(3, 3)), Identity(3, getattr(torch, dtype), device))

    def test_a_subspace_of_another_size_or_dtype(self):
        A = Dense(matrix(3, 3))
        for induce in (A.restricted, A.projected, A.masked, A.deflated):
            with pytest.raises(ValueError, match="square A of the size"):
                induce(MaskSubspace.random(4, 2, dtype=torch.float64))
            with pytest.raises(TypeError, match="differ in dtype"):
                induce(MaskSubspace.random(3, 2, dtype=torch.float32))
        with pytest.raises(TypeError, match="boolean"):
            A.masked(torch.ones(3))

    def test_numpy_neither_multiplies_nor_swallows_an_operator(self):
        A = Dense(matrix(3, 3))
        for product in (lambda: numpy.ones((2, 3)) @ A, lambda: A @ numpy.ones((3, 2))):
            with pytest.raises(TypeError, match=r"ndarray.*A\.to_scipy\(\)"):
                product()
        for combine in (lambda: numpy.ones(3) * A, lambda: numpy.ones((3, 3)) + A, lambda: numpy.ones((3, 3)) - A):
            with pytest.raises(TypeError, match=r"operand|not implemented"):
                combine()
        with pytest.raises(TypeError, match=r"not an array.*to_scipy.*to_dense"):
            numpy.asarray(A)


class TestToDense:
    def test_in_several_chunks_of_columns(self):
        """1100 columns, more than two chunks, each product one column."""
        diagonal = torch.arange(1100, dtype=torch.float64)
        A = Counted(Diagonal(diagonal))
        assert torch.equal(A.to_dense(), torch.diag(diagonal))
        assert A.products == 1100
        assert 1 < A.calls < 1100, "neither all at once nor one by one"

    @pytest.mark.parametrize("shape", [(2, 1025), (1025, 2)])
    def test_of_rectangles(self, shape):
        M = matrix(*shape)
        A = Function(M.__matmul__, shape, torch.float64)
        assert torch.equal(A.to_dense(), M), "products with columns of the identity are exact"

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
    def test_of_empty_matrices(self, shape):
        A = Dense(torch.zeros(shape))
        for operator in (A, A.T, 2 * A, A + A, A @ A.T):
            assert operator.to_dense().shape == operator.shape
        assert Function(A.matrix.__matmul__, shape, torch.float32).to_dense().shape == shape
        assert (A @ torch.ones(shape[1])).tolist() == [0.0] * shape[0]

    def test_is_a_new_matrix(self):
        M = matrix(3, 3)
        for A in (Dense(M), Dense(M).T, Declared(Dense(M), NONE)):
            A.to_dense().zero_()
            assert torch.equal(M, matrix(3, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_half(dtype, device):
    M, X = matrix(5, 4, 1, dtype, device), matrix(4, 3, 2, dtype, device)
    A = 2 * Dense(M) - Dense(M)
    result = A @ X
    assert result.dtype == dtype
    # Sums of four products, rounded thrice.
    torch.testing.assert_close(result.double(), M.double() @ X.double(), rtol=0, atol=50 * torch.finfo(dtype).eps)
    assert (Embedding(torch.tensor([2, 0], device=device), 3, dtype) @ X[:2]).dtype == dtype


def test_devices_are_resolved():
    """``"cuda"`` is that of the blocks, ``"cuda:0"``."""
    name = "cuda" if torch.cuda.is_available() else "meta"
    A = Identity(3, device=name)
    assert A.device == torch.empty(0, device=name).device


def test_the_gate_restores_gradient_tracking_after_an_error():
    A = Function(lambda X: 1 / 0, (2, 2), torch.float32)
    with pytest.raises(ZeroDivisionError):
        A @ torch.ones(2)
    assert torch.is_grad_enabled()


def test_a_product_that_enables_gradients_itself_sees_a_detached_block():
    A = Function(torch.enable_grad()(lambda X: 2 * X), (2, 2), torch.float32)
    assert not (A @ torch.ones(2, 1, requires_grad=True)).requires_grad


def test_a_function_of_trainable_parameters_is_not_tracked():
    W = matrix(3, 2).requires_grad_()
    A = Function(W.__matmul__, (3, 2), torch.float64, rmatmat=W.T.__matmul__)
    x, y = torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert not any(result.requires_grad for result in (A @ x, A.T @ y, y @ A, A.to_dense()))
    assert A.to_scipy().matvec(x.numpy()).tolist() == (W @ x).tolist()
