"""What holds for every linear operator, checked against a dense twin of the same entries."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import Tensor

from eigenspan.linops import Dense, LinearOperator, MaskSubspace, OrthonormalSubspace, Structure, as_operator


class Case(NamedTuple):
    """An operator, the float64 matrix it stands for by other means than its own, and all it is to know of itself."""

    operator: LinearOperator
    twin: Tensor
    structure: Structure = Structure.NONE


def matrix(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """Standard normal entries, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64).to(device, dtype)


def isometry(m: int, n: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """The first n columns of a Householder reflection, which is symmetric for n = m."""
    v = torch.arange(1, m + 1, dtype=torch.float64)
    return (torch.eye(m, dtype=torch.float64) - 2 * torch.outer(v, v) / (v @ v))[:, :n].to(device, dtype)


def tolerance(dtype: torch.dtype, scale: Tensor) -> float:
    """A few dozen rounded terms, through up to six factors of norm below ten: 1000 eps of the largest entry."""
    return 1000 * torch.finfo(dtype).eps * max(1.0, float(scale.abs().max()) if scale.numel() else 1.0)


def assert_close(actual: Tensor, expected: Tensor, like: LinearOperator, what: str = "") -> None:
    """``actual`` is of the operator's dtype and device, and equals the float64 ``expected`` up to its rounding."""
    assert (actual.dtype, actual.device) == (like.dtype, like.device), what
    assert actual.shape == expected.shape, what
    atol = tolerance(like.dtype, expected)
    torch.testing.assert_close(
        actual.double().cpu(), expected.cpu(), rtol=0, atol=atol, msg=lambda message: f"{what}: {message}"
    )


def truth(M: Tensor, atol: float = 1e-12) -> Structure:
    """What is true of a matrix, decided from its entries and eigenvalues."""
    M = M.double().cpu()
    found = Structure.NONE
    if torch.allclose(M.T @ M, torch.eye(M.shape[1], dtype=M.dtype), rtol=0, atol=atol):
        found |= Structure.ISOMETRY
    if M.shape[0] != M.shape[1]:
        return found
    if torch.allclose(M, M.T, rtol=0, atol=atol):
        found |= Structure.SYMMETRIC
    eigenvalues = torch.linalg.eigvalsh((M + M.T) / 2)
    if (eigenvalues >= -atol).all():
        found |= Structure.NONNEGATIVE
    if (eigenvalues <= atol).all():
        found |= Structure.NONPOSITIVE
    return found


def layouts(rows: int, like: LinearOperator) -> Iterator[tuple[str, Tensor]]:
    """Blocks of several columns, and vectors, with every kind of strides."""

    def fresh(m: int, n: int) -> Tensor:
        return matrix(m, n, 7, like.dtype, like.device)

    yield "contiguous columns", fresh(3, rows).mT
    yield "every second row and column", fresh(2 * rows, 6)[::2, ::2]
    yield "one column of a matrix", fresh(rows, 4)[:, 2:3]
    yield "one column repeated", fresh(rows, 1).expand(rows, 3)
    yield "one row repeated", fresh(1, 3).expand(rows, 3)
    yield "strided vector", fresh(rows, 3)[:, 1]
    yield "constant vector", fresh(1, 1)[0].expand(rows)


def bad_blocks(size: int, like: LinearOperator) -> Iterator[tuple[Tensor, type[Exception], str]]:
    """What is no block of vectors with ``size`` entries, and the error that says so."""

    def zeros(*shape: int, **options: Any) -> Tensor:
        return torch.zeros(shape, **{"dtype": like.dtype, "device": like.device, **options})

    for wrong in (size + 1, size - 1):
        yield zeros(wrong), ValueError, f"{size} entries.* got {wrong} entries"
        yield zeros(wrong, 3), ValueError, f"{size} entries.* got {wrong} entries"
    yield zeros(), ValueError, "got 0 axes"
    yield zeros(2, size, size), ValueError, "got 3 axes"
    other = torch.float32 if like.dtype == torch.float64 else torch.float64
    for dtype in (other, torch.bfloat16, torch.int64, torch.complex64):
        yield zeros(size, dtype=dtype), TypeError, f"X is {dtype} .*{like.dtype}.*convert"
    yield zeros(size, device="meta"), TypeError, "X is .* on meta.*convert"


# One expression serves operators and matrices. B is of the shape of A, C and D fit on its right and left.
EXPRESSIONS = {
    "A + B": lambda A, B, C, D: A + B,
    "A - B": lambda A, B, C, D: A - B,
    "B - A": lambda A, B, C, D: B - A,
    "(A - B).T": lambda A, B, C, D: (A - B).T,
    "A - A": lambda A, B, C, D: A - A,
    "-A": lambda A, B, C, D: -A,
    "2.5 A": lambda A, B, C, D: 2.5 * A,
    "A * 3": lambda A, B, C, D: A * 3,
    "0 A": lambda A, B, C, D: 0 * A,
    "A / -4": lambda A, B, C, D: A / -4,
    "(-0.5 A).T": lambda A, B, C, D: (-0.5 * A).T,
    "A.T.T": lambda A, B, C, D: A.T.T,
    "A C": lambda A, B, C, D: A @ C,
    "(D A C).T": lambda A, B, C, D: (D @ A @ C).T,
    "A.T A": lambda A, B, C, D: A.T @ A,
    "A A.T": lambda A, B, C, D: A @ A.T,
    "C.T A.T A C": lambda A, B, C, D: C.T @ A.T @ A @ C,
    "A.T B + B.T A": lambda A, B, C, D: A.T @ B + B.T @ A,
}


class OperatorContract:
    """Inherit and define `make`, or the fixture `case`."""

    def make(self, dtype: torch.dtype, device: str) -> Case:
        raise NotImplementedError

    @pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
    def dtype(self, request):
        return request.param

    @pytest.fixture
    def case(self, dtype, device):
        return self.make(dtype, device)

    @pytest.fixture
    def A(self, case):  # noqa: N802
        return case.operator

    @pytest.fixture
    def twin(self, case):
        return case.twin

    # -- products -----------------------------------------------------------------------------------------------------

    def test_products_with_blocks_and_vectors(self, A, twin):
        m, n = A.shape
        for k in (0, 1, 3):
            X, Y = matrix(n, k, 1, A.dtype, A.device), matrix(m, k, 2, A.dtype, A.device)
            assert_close(A @ X, twin @ X.double(), A, f"A @ X, {k} columns")
            assert_close(A.T @ Y, twin.T @ Y.double(), A, f"A.T @ Y, {k} columns")
            assert_close(Y.T @ A, Y.T.double() @ twin, A, f"Y.T @ A, {k} rows")
        x, y = X[:, 0], Y[:, 0]
        assert_close(A @ x, twin @ x.double(), A, "A @ x")
        assert_close(A.T @ y, twin.T @ y.double(), A, "A.T @ y")
        assert_close(y @ A, y.double() @ twin, A, "y @ A")

    def test_any_strides(self, A, twin):
        for name, X in layouts(A.shape[1], A):
            assert_close(A @ X, twin @ X.double(), A, name)
        for name, Y in layouts(A.shape[0], A):
            assert_close(A.T @ Y, twin.T @ Y.double(), A, name)
            left = Y.mT if Y.ndim == 2 else Y
            assert_close(left @ A, left.double() @ twin, A, name)

    def test_adjoint_dot_test(self, A, twin):
        """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, for all pairs of the columns of two blocks."""
        X, Y = matrix(A.shape[1], 3, 1, A.dtype, A.device), matrix(A.shape[0], 2, 2, A.dtype, A.device)
        torch.testing.assert_close((A @ X).T @ Y, X.T @ (A.T @ Y), rtol=0, atol=10 * tolerance(A.dtype, twin))

    def test_linearity(self, A, twin):
        X, Y = (matrix(A.shape[1], 3, seed, A.dtype, A.device) for seed in (1, 2))
        torch.testing.assert_close(
            A @ (2 * X - 3 * Y), 2 * (A @ X) - 3 * (A @ Y), rtol=0, atol=10 * tolerance(A.dtype, twin)
        )

    def test_to_dense(self, A, twin):
        dense = A.to_dense()
        assert_close(dense, twin, A)
        dense.fill_(torch.nan)
        assert_close(A.T.to_dense(), twin.T, A, "the transpose, after the first copy was overwritten")

    # -- structure and algebra ----------------------------------------------------------------------------------------

    def test_structure_is_known_and_true(self, case):
        A, twin, structure = case
        assert A.structure == structure
        assert structure in truth(twin, tolerance(A.dtype, twin))
        assert A.is_symmetric == (Structure.SYMMETRIC in structure)
        assert A.is_psd == (Structure.PSD in structure)

    def test_algebra(self, A, twin):
        m, n = A.shape
        parts = [matrix(*shape, seed, A.dtype, A.device) for seed, shape in enumerate([(m, n), (n, 4), (2, m)])]
        for name, expression in EXPRESSIONS.items():
            result = expression(A, *(Dense(part) for part in parts))
            expected = expression(twin, *(part.double() for part in parts))
            assert_close(result.to_dense(), expected, A, name)
            assert_close(result.T.to_dense(), expected.T, A, f"({name}).T")
            assert result.structure in truth(expected, tolerance(A.dtype, expected)), name

    def test_operators_that_a_subspace_induces(self, A, twin):
        """For a rectangular operator those of its Gram operator."""
        if A.shape[0] != A.shape[1]:
            A, twin = A.T @ A, twin.T @ twin
        n = A.shape[0]
        mask = MaskSubspace.random(n, (n + 1) // 2, seed=1, dtype=A.dtype, device=A.device)
        for S in (mask, OrthonormalSubspace(isometry(n, (n + 1) // 2, A.dtype, A.device))):
            B = S.basis.to_dense().double()
            P = B @ B.T
            Q = torch.eye(n, dtype=torch.float64, device=A.device) - P
            for induced, expected in [
                (A.restricted(S), B.T @ twin @ B),
                (A.projected(S), P @ twin @ P),
                (A.masked(S), P @ twin @ P),
                (A.deflated(S), Q @ twin @ Q),
                (A.congruence(S.basis), B.T @ twin @ B),
            ]:
                assert_close(induced.to_dense(), expected, A, str(induced))
                assert_close(induced.T.to_dense(), expected.T, A, str(induced))
                assert induced.structure == A.structure & ~Structure.ISOMETRY
        rows = mask.mask.double()
        assert_close(A.masked(mask.mask).to_dense(), rows[:, None] * twin * rows, A)

    # -- SciPy --------------------------------------------------------------------------------------------------------

    def test_scipy_round_trip(self, A, twin):
        m, n = A.shape
        S, expected = A.to_scipy(), twin.cpu().numpy()
        back = as_operator(S, structure=A.structure)
        assert (S.shape, back.shape, back.dtype, back.structure) == (A.shape, A.shape, A.dtype, A.structure)
        for k in (0, 1, 3):
            X, Y = matrix(n, k, 1, A.dtype), matrix(m, k, 2, A.dtype)
            forth, adjoint = torch.from_numpy(expected @ X.numpy()), torch.from_numpy(expected.T @ Y.numpy())
            assert_close(torch.from_numpy(S.matmat(X.numpy())), forth, back, f"matmat, {k} columns")
            assert_close(torch.from_numpy(S.rmatmat(Y.numpy())), adjoint, back, f"rmatmat, {k} columns")
            assert_close(back @ X, forth, back, f"and back, {k} columns")
            assert_close(back.T @ Y, adjoint, back, f"and back, transposed, {k} columns")
        for column in (0, slice(1)):  # (n,) and (n, 1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # SciPy 1.18 is about to refuse the latter by itself
                product, back_product = S.matvec(X.numpy()[:, column]), S.rmatvec(Y.numpy()[:, column])
            assert_close(torch.from_numpy(product), forth[:, column], back, "matvec")
            assert_close(torch.from_numpy(back_product), adjoint[:, column], back, "rmatvec")

    # -- what is refused ----------------------------------------------------------------------------------------------

    def test_bad_input(self, A):
        m, n = A.shape
        for multiply, size in [(lambda X: A @ X, n), (lambda X: (X.mT if X.ndim == 2 else X) @ A, m)]:
            for X, error, message in bad_blocks(size, A):
                with pytest.raises(error, match=message) as caught:
                    multiply(X)
                assert repr(A) in str(caught.value)
        for X in (numpy.zeros(n), numpy.zeros((n, n)), [0.0] * n):
            for multiply in (lambda X: A @ X, lambda X: X @ A):
                with pytest.raises(TypeError, match=f"{type(X).__name__}.*to_scipy"):
                    multiply(X)

    def test_bad_factors_and_terms(self, A):
        for factor in (2j, None, torch.ones(1), torch.tensor(1j), numpy.ones(3), A):
            with pytest.raises(TypeError, match="operand"):
                A * factor
        for term in (1.0, torch.ones(()), numpy.ones(A.shape)):
            with pytest.raises(TypeError, match="operand"):
                A + term
            with pytest.raises(TypeError, match="operand"):
                A - term
        for factor in (float("inf"), float("nan")):
            with pytest.raises(ValueError, match="finite"):
                A * factor
        with pytest.raises(ZeroDivisionError, match=re.escape(repr(A))):
            A / 0

    # -- side effects -------------------------------------------------------------------------------------------------

    def test_products_neither_write_into_nor_alias_their_input(self, A, twin):
        m, n = A.shape
        for product, size in [
            (lambda X: A @ X, n),
            (lambda X: A.T @ X, m),
            (lambda X: (X.mT if X.ndim == 2 else X) @ A, m),
        ]:
            for name, X in layouts(size, A):
                before = X.clone()
                result = product(X)
                assert torch.equal(X, before), name
                result.fill_(torch.nan)
                assert torch.equal(X, before), f"{name}: the result shares memory with the block"
        assert_close(A.to_dense(), twin, A, "a result shares memory with the operator")

    def test_products_do_not_track_gradients(self, A):
        m, n = A.shape
        X, y = (torch.ones(s, dtype=A.dtype, device=A.device, requires_grad=True) for s in ((n, 2), (m,)))
        for result in (A @ X, A.T @ y, y @ A, A.to_dense()):
            assert not result.requires_grad
        assert torch.is_grad_enabled()

    def test_repr_says_kind_size_dtype_device_and_structure(self, A, twin, dtype):
        m, n = twin.shape
        name, known = str(dtype).removeprefix("torch."), f" {A.structure}" if A.structure else ""
        assert (A.shape, A.dtype) == ((m, n), dtype)
        assert repr(A) == f"<{type(A).__name__} {m}x{n} {name} {A.device}{known}>"
