"""Matrices, diagonals, the identity, functions, and the wrappers that count and declare."""

import pytest
import torch
from operator_contract import Case, OperatorContract, isometry, matrix, truth

from eigenspan.linops import Counted, Declared, Dense, Diagonal, Function, Identity, Structure
from eigenspan.solvers import BlockLanczos

SYMMETRIC, PSD, NSD, ISOMETRY = Structure.SYMMETRIC, Structure.PSD, Structure.NSD, Structure.ISOMETRY


class TestDense(OperatorContract):
    @pytest.fixture(params=["wide", "tall", "symmetric", "psd", "isometry"])
    def case(self, request, dtype, device):
        entries, structure = {
            "wide": (matrix(4, 6), Structure.NONE),
            "tall": (matrix(6, 4).mT.contiguous().mT, Structure.NONE),
            "symmetric": (matrix(5, 5) + matrix(5, 5).T, SYMMETRIC),
            "psd": (matrix(5, 3) @ matrix(5, 3).T, PSD),
            "isometry": (isometry(6, 4), ISOMETRY),
        }[request.param]
        entries = entries.to(device, dtype)
        return Case(Dense(entries, structure), entries.double(), structure)


class TestDiagonal(OperatorContract):
    @pytest.fixture(params=["indefinite", "psd", "nsd", "zero", "signs", "ones"])
    def case(self, request, dtype, device):
        entries, structure = {
            "indefinite": ([3.0, -1.0, 0.0, 2.0], SYMMETRIC),
            "psd": ([3.0, 1.0, 0.0, 2.0], PSD),
            "nsd": ([-3.0, -0.0, -2.0, -1.0], NSD),
            "zero": ([0.0, 0.0, 0.0], PSD | NSD),
            "signs": ([1.0, -1.0, 1.0], SYMMETRIC | ISOMETRY),
            "ones": ([1.0, 1.0, 1.0], PSD | ISOMETRY),
        }[request.param]
        diagonal = torch.tensor(entries, dtype=dtype, device=device)
        return Case(Diagonal(diagonal), torch.diag(diagonal.double()), structure)


class TestIdentity(OperatorContract):
    def make(self, dtype, device):
        return Case(Identity(5, dtype, device), torch.eye(5, dtype=torch.float64, device=device), PSD | ISOMETRY)


class TestFunction(OperatorContract):
    @pytest.fixture(params=["both ways", "symmetric"])
    def case(self, request, dtype, device):
        if request.param == "both ways":
            # Differences of neighbours, whose transpose adds them back with the opposite sign.
            twin = torch.eye(5, 6, dtype=torch.float64) - torch.eye(6, dtype=torch.float64)[1:]
            back = {"rmatmat": lambda Y: torch.cat([Y[:1], Y.diff(dim=0), -Y[-1:]])}
            operator = Function(lambda X: X[:-1] - X[1:], (5, 6), dtype, device, **back)
            return Case(operator, twin.to(device))
        # A circular average, its own transpose.
        eye = torch.eye(6, dtype=torch.float64)
        twin = (2 * eye + eye.roll(1, 0) + eye.roll(-1, 0)) / 4
        smooth = lambda X: (2 * X + X.roll(1, 0) + X.roll(-1, 0)) / 4  # noqa: E731
        return Case(Function(smooth, (6, 6), dtype, device, structure=PSD), twin.to(device), PSD)


class TestCounted(OperatorContract):
    @pytest.fixture(params=["rectangular", "nsd"])
    def case(self, request, dtype, device):
        if request.param == "rectangular":
            entries = matrix(4, 6, 0, dtype, device)
            return Case(Counted(Dense(entries)), entries.double())
        diagonal = -matrix(5, 1, 0, dtype, device)[:, 0].abs()
        return Case(Counted(Diagonal(diagonal)), torch.diag(diagonal.double()), NSD)


class TestDeclared(OperatorContract):
    @pytest.fixture(params=["nothing", "isometry", "symmetry", "definiteness"])
    def case(self, request, dtype, device):
        Q = isometry(6, 4, dtype, device)
        S = (matrix(5, 2) @ matrix(5, 2).T).to(device, dtype)
        operator, twin, structure = {
            "nothing": (Declared(Dense(Q), Structure.NONE), Q, Structure.NONE),
            "isometry": (Declared(Dense(Q), ISOMETRY), Q, ISOMETRY),
            # The wrapped function has no transpose: the declaration supplies it.
            "symmetry": (Declared(Function(lambda X: S @ X, (5, 5), dtype, device), SYMMETRIC), S, SYMMETRIC),
            "definiteness": (Declared(Dense(S, SYMMETRIC), Structure.NONNEGATIVE), S, PSD),
        }[request.param]
        return Case(operator, twin.double(), structure)


def test_dense_keeps_its_matrix_and_copies_it_out(device):
    M = matrix(3, 4, device=device).requires_grad_()
    A = Dense(M)
    assert A.matrix.data_ptr() == M.data_ptr()
    assert A.to_dense().data_ptr() != M.data_ptr()
    assert not A.to_dense().requires_grad


@pytest.mark.parametrize("build", [Dense, Diagonal])
def test_explicit_operators_refuse_other_shapes_and_dtypes(build):
    axes = 2 if build is Dense else 1
    for wrong in {1, 2, 3} - {axes}:
        with pytest.raises(ValueError, match=f"{build.__name__} takes .*got shape"):
            build(torch.ones([2] * wrong))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=f"{build.__name__}: .*floating-point.*{dtype}"):
            build(torch.ones([2] * axes, dtype=dtype))


def test_dense_refuses_a_numpy_array():
    with pytest.raises(TypeError, match="torch dtype"):
        Dense(matrix(2, 2).numpy())


def test_diagonal_with_nan_is_known_symmetric_only():
    assert Diagonal(torch.tensor([1.0, torch.nan])).structure == SYMMETRIC


def test_function_is_called_with_blocks_only():
    """A vector arrives as a block of one column."""
    shapes = []

    def double(X):
        shapes.append(tuple(X.shape))
        return 2 * X

    A = Function(double, (3, 3), torch.float32, structure=SYMMETRIC)
    A @ torch.ones(3)
    torch.ones(2, 3) @ A
    assert shapes == [(3, 1), (3, 2)]


@pytest.mark.parametrize("product", [lambda A: A @ torch.ones(3), lambda A: torch.ones(3) @ A], ids=["A", "transpose"])
def test_function_must_not_write_to_its_block(product):
    """It would be the user's vector, or the basis of a solver."""
    A = Function(lambda X: X.mul_(2), (3, 3), torch.float32, structure=SYMMETRIC)
    with pytest.raises(RuntimeError, match=r"<Function 3x3 .* writes to the block that it is given: let"):
        product(A)


def test_function_takes_derivatives_within_a_solver_in_inference_mode():
    """Its blocks are those of the solver, made in that mode."""
    numbers = torch.arange(1.0, 31.0)

    def hessian(X):
        x = torch.zeros_like(X, requires_grad=True)
        (slope,) = torch.autograd.grad((numbers[:, None] * x.square()).sum() / 2, x, create_graph=True)
        return torch.autograd.grad(slope, x, X)[0]

    A = Function(hessian, (30, 30), torch.float32, structure=SYMMETRIC)
    with torch.inference_mode():
        found = BlockLanczos(k=2).solve(A).eigenvalues
    # The tolerance of residual norms in float32, which bound the errors.
    torch.testing.assert_close(found.tolist(), [30.0, 29.0], rtol=0, atol=3e-4)


def test_function_without_transpose_says_how_to_give_one():
    A = Function(lambda X: X[:2], (2, 3), torch.float32)
    with pytest.raises(NotImplementedError, match=r"<Function 2x3 float32 cpu>.*rmatmat="):
        A.T @ torch.ones(2)


def test_counted_counts_columns_and_blocks_of_both_directions(device):
    A = Counted(Dense(matrix(4, 6, device=device)))
    assert (A.products, A.calls, A.seconds) == (0, 0, 0)
    A @ matrix(6, 3, device=device)
    A @ matrix(6, 1, device=device)[:, 0]
    assert (A.products, A.calls) == (4, 2)
    A.T @ matrix(4, 5, device=device)
    matrix(2, 4, device=device) @ A
    assert (A.products, A.calls) == (11, 4)
    assert A.seconds > 0
    A @ matrix(6, 0, device=device)
    assert (A.products, A.calls) == (11, 5)
    assert (A.T @ A).structure == PSD, "a counted operator is still recognised"


def test_counted_does_not_count_a_block_that_is_refused():
    A = Counted(Identity(3))
    with pytest.raises(ValueError, match="3 entries"):
        A @ torch.ones(4)
    assert A.calls == 0


def test_declared_adds_and_never_removes():
    A = Declared(Identity(3), Structure.NONPOSITIVE)
    assert A.structure == PSD | NSD | ISOMETRY
    with pytest.raises(ValueError, match="not square"):
        Declared(Dense(matrix(2, 3)), SYMMETRIC)


def test_declared_structure_passes_through_the_algebra():
    A = Declared(Function(lambda X: 2 * X, (3, 3), torch.float64), PSD)
    assert (A + Identity(3, torch.float64)).is_psd
    assert (-A).structure == NSD
    assert A.T is A
    assert truth((A @ A).to_dense()) == (A @ A).structure == PSD
