"""Operators of other libraries as ours and back: SciPy and NumPy, duck-typed objects, functions, half precision."""

import numpy
import pytest
import scipy.sparse
import torch
from operator_contract import Case, OperatorContract, assert_close, matrix
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator
from scipy.sparse.linalg import aslinearoperator

from eigenspan.linops import Declared, Dense, Diagonal, Structure, as_operator

SYMMETRIC, PSD = Structure.SYMMETRIC, Structure.PSD


class Foreign:
    """The least that counts as an operator: a shape, a torch dtype, a device and ``@`` on tensors."""

    def __init__(self, M):
        self.M, self.shape, self.dtype, self.device = M, M.shape, M.dtype, M.device

    def __matmul__(self, X):
        return self.M @ X


class WithAdjoint(Foreign):
    """As in curvlinops."""

    def adjoint(self):
        return WithAdjoint(self.M.mT)


class WithT(Foreign):
    @property
    def T(self):  # noqa: N802
        return WithT(self.M.mT)


class TestAsOperator(OperatorContract):
    """Foreign operators obey the contract; what SciPy multiplies lives on the CPU."""

    @pytest.fixture(
        params=[
            "tensor",
            "sparse tensor",
            "array",
            "reversed array",
            "sparse matrix",
            "sparse array",
            "scipy operator",
            "scipy operator of vectors",
            "adjoint()",
            "T",
        ]
    )
    def case(self, request, dtype, device):
        M = matrix(5, 4, 1, dtype)
        M[M.abs() < 0.5] = 0
        N = M.numpy()
        foreign = {
            "tensor": lambda: M.to(device),
            "sparse tensor": lambda: M.to(device).to_sparse(),
            "array": lambda: N,
            "reversed array": lambda: N[::-1, ::-1],
            "sparse matrix": lambda: scipy.sparse.csr_matrix(N),
            "sparse array": lambda: scipy.sparse.coo_array(N),
            "scipy operator": lambda: aslinearoperator(N),
            "scipy operator of vectors": lambda: ScipyLinearOperator(
                N.shape, matvec=N.__matmul__, rmatvec=N.T.__matmul__, dtype=N.dtype
            ),
            "adjoint()": lambda: WithAdjoint(M.to(device)),
            "T": lambda: WithT(M.to(device)),
        }[request.param]()
        twin = M.flip(0, 1) if request.param == "reversed array" else M
        operator = as_operator(foreign)
        return Case(operator, twin.double().to(operator.device))


class TestAsSymmetricOperator(OperatorContract):
    """Declared symmetric, nothing is asked for its transpose, which these objects do not have."""

    @pytest.fixture(params=["scipy operator", "foreign", "function"])
    def case(self, request, dtype, device):
        spread = matrix(5, 3, 1)
        S = (spread @ spread.T).to(dtype)

        if request.param == "scipy operator":
            operator = as_operator(
                ScipyLinearOperator((5, 5), matvec=S.numpy().__matmul__, dtype=S.numpy().dtype), structure=PSD
            )
        elif request.param == "foreign":
            operator = as_operator(Foreign(S.to(device)), structure=PSD)
        else:
            M = S.to(device)
            operator = as_operator(lambda X: M @ X, shape=(5, 5), dtype=dtype, device=device, structure=PSD)
        return Case(operator, S.double().to(operator.device), PSD)


class TestAsOperatorOfOurs:
    def test_is_returned_as_it_is(self):
        A = Diagonal(torch.tensor([1.0, 2.0]))
        assert as_operator(A) is A
        assert as_operator(A, structure=PSD) is A

    def test_unless_structure_is_added(self):
        A = Dense(matrix(3, 3))
        declared = as_operator(A, structure=SYMMETRIC)
        assert isinstance(declared, Declared)
        assert declared.structure == SYMMETRIC


def test_structure_of_matrices_is_what_is_declared():
    for M in (matrix(3, 3), matrix(3, 3).numpy(), scipy.sparse.csr_matrix(numpy.triu(numpy.ones((3, 3))))):
        assert as_operator(M).structure == Structure.NONE
        assert as_operator(M, structure=PSD).is_psd


def test_matrices_are_symmetric_if_their_entries_are():
    M = matrix(4, 4) + matrix(4, 4).mT
    sparse = (M.to_sparse(), scipy.sparse.csr_matrix(M.numpy()), scipy.sparse.csc_array(M.numpy()))
    for symmetric in (M, M.numpy(), *sparse):
        assert as_operator(symmetric).structure == Structure.SYMMETRIC
    M[0, 1] += 1e-15
    sparse = (M.to_sparse(), M[:3].to_sparse(), scipy.sparse.csr_matrix(M.numpy()))
    for other in (M, M.numpy(), *sparse, M[:3], torch.full((2, 2), torch.nan)):
        assert as_operator(other).structure == Structure.NONE


def test_integer_scipy_matrices_multiply_as_float64():
    N = numpy.array([[1, 0, 2], [0, 3, 0]])
    A = as_operator(scipy.sparse.csr_matrix(N))
    assert A.dtype == torch.float64
    assert A.to_dense().tolist() == N.tolist()
    assert A.T.to_dense().tolist() == N.T.tolist()


def test_an_array_is_copied_and_its_operator_does_not_see_later_changes():
    N = numpy.ones((2, 2))
    A = as_operator(N)
    N[:] = 0
    assert A.to_dense().tolist() == [[1, 1], [1, 1]]


def test_a_foreign_transpose_is_looked_up_when_it_is_needed():
    class Reluctant(Foreign):
        def adjoint(self):
            raise LookupError("asked for the adjoint")

    A = as_operator(Reluctant(matrix(3, 2)))
    assert_close(A.to_dense(), matrix(3, 2), A)
    with pytest.raises(LookupError):
        A.T @ torch.ones(3, dtype=torch.float64)


def test_a_foreign_operator_without_transpose_is_named():
    with pytest.raises(NotImplementedError, match=r"Foreign has no transposed product: neither adjoint\(\) nor T"):
        as_operator(Foreign(matrix(3, 3))).T @ torch.ones(3, dtype=torch.float64)


def test_a_foreign_operator_that_promotes_is_caught_at_the_gate():
    class Promoting(Foreign):
        def __matmul__(self, X):
            return super().__matmul__(X).double()

    A = as_operator(Promoting(matrix(3, 3, dtype=torch.float32)))
    with pytest.raises(RuntimeError, match=r"gave \(3, 1\) torch.float64"):
        A @ torch.ones(3)


@pytest.mark.parametrize(
    ("thing", "error", "message"),
    [
        (torch.nn.Linear(2, 2), TypeError, r"Linear is a network; its Hessian is eigenspan.Hessian\(model, loss, data"),
        (lambda X: X, TypeError, r"shape=\(m, n\) and dtype="),
        ("matrix", TypeError, "str is no operator; expected an eigenspan, SciPy or curvlinops operator"),
        (None, TypeError, "NoneType is no operator"),
        ([[1.0]], TypeError, "list is no operator"),
        (type("NoDtype", (), {"shape": (2, 2), "device": "cpu", "__matmul__": None})(), TypeError, "NoDtype is no"),
        (numpy.ones(3), ValueError, r"\(m, n\) matrix, got shape \(3,\)"),
        (torch.ones(2, 2, 2), ValueError, r"got shape \(2, 2, 2\)"),
        (torch.ones(2, 2, 2).to_sparse(), ValueError, r"got shape \(2, 2, 2\)"),
        (numpy.ones((2, 2), dtype=int), TypeError, "floating-point torch dtype, got torch.int64"),
        (numpy.ones((2, 2), dtype=complex), TypeError, "got torch.complex128"),
        (scipy.sparse.csr_matrix(numpy.eye(2) * 1j), TypeError, "got torch.complex128"),
    ],
)
def test_refuses_what_is_no_operator(thing, error, message):
    with pytest.raises(error, match=message):
        as_operator(thing)


@pytest.mark.parametrize("options", [{"shape": (2, 2)}, {"dtype": torch.float32}])
def test_a_function_needs_both_shape_and_dtype(options):
    with pytest.raises(TypeError, match="function needs"):
        as_operator(lambda X: X, **options)


# -- to SciPy ---------------------------------------------------------------------------------------------------------


def test_to_scipy_converts_real_input_of_other_kinds(device):
    M = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    S = Dense(M).to_scipy()
    assert S.dtype == numpy.float32
    for x in ([1, 1], numpy.array([1, 1]), numpy.array([1.0, 1.0]), numpy.array([1.0, 5.0, 1.0])[::-2]):
        result = S.matvec(numpy.asarray(x))
        assert result.dtype == numpy.float32
        assert result.tolist() == [3, 7]


def test_to_scipy_refuses_complex_vectors():
    S = Dense(matrix(2, 2)).to_scipy()
    for product in (S.matvec, S.rmatvec):
        with pytest.raises(TypeError, match="<Dense 2x2 float64 cpu> is real and takes no complex vectors"):
            product(numpy.ones(2) * 1j)


def test_to_scipy_leaves_its_input_alone():
    """Even where an operator writes into its block, against the contract."""

    class Writing(Dense):
        def _matmat(self, X):
            return X.mul_(2)

    S = Writing(torch.eye(3, dtype=torch.float64)).to_scipy()
    x = numpy.ones(3)
    result = S.matvec(x)
    assert result.tolist() == [2, 2, 2]
    assert x.tolist() == [1, 1, 1]
    x.flags.writeable = False
    assert S.matvec(x).tolist() == [2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_exchanged_as_float32(dtype, device):
    """Small integers, exact in every dtype."""
    M = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=dtype, device=device)
    S = Dense(M).to_scipy()
    assert S.dtype == numpy.float32
    assert S.matvec(numpy.ones(3)).dtype == numpy.float32
    assert S.matvec(numpy.ones(3)).tolist() == [6, 15]
    assert S.rmatmat(numpy.eye(2)).tolist() == M.T.tolist()
    assert as_operator(S).dtype == torch.float32


def test_structure_is_one():
    with pytest.raises(TypeError, match="structure is a Structure, such as"):
        as_operator(matrix(3, 3), structure="symmetric")


def test_only_operators_are_declared():
    with pytest.raises(TypeError, match=r"takes an operator, got ndarray: as_operator\(A, structure=…\) makes one"):
        Declared(matrix(3, 3).numpy(), PSD)
