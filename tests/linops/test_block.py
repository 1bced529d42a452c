"""Block-diagonal, stacked and Kronecker operators against torch.block_diag, torch.cat and torch.kron."""

import functools

import pytest
import torch
from operator_contract import Case, OperatorContract, assert_close, matrix

from eigenspan.linops import (
    BlockDiagonal,
    Counted,
    Dense,
    Diagonal,
    Embedding,
    Function,
    Identity,
    Kronecker,
    Stacked,
    Structure,
)

NONE, SYMMETRIC, ISOMETRY = Structure.NONE, Structure.SYMMETRIC, Structure.ISOMETRY
PSD, NSD = Structure.PSD, Structure.NSD


def part(name, dtype, device):
    """An operator and its matrix, by a letter."""
    options = {"dtype": dtype, "device": device}
    if name in ("wide", "tall"):
        M = matrix(2, 4, 1, **options) if name == "wide" else matrix(3, 2, 2, **options).mT.contiguous().mT
        return Dense(M), M.double()
    if name == "adjoint":
        M = matrix(3, 2, 3, **options)
        return Dense(M).T, M.double().T
    if name == "gather":
        E = Embedding(torch.tensor([2, 0], device=device), 4, dtype)
        return E.T, torch.eye(4, dtype=torch.float64, device=device)[[2, 0]]
    if name == "scatter":
        E = Embedding(torch.tensor([2, 0], device=device), 4, dtype)
        return E, torch.eye(4, dtype=torch.float64, device=device)[:, [2, 0]]
    if name == "identity":
        return Identity(2, **options), torch.eye(2, dtype=torch.float64, device=device)
    diagonals = {"psd": [1.0, 3.0, 0.0], "nsd": [-1.0, -2.0], "symmetric": [2.0, -1.0], "signs": [-1.0, 1.0]}
    diagonal = torch.tensor(diagonals[name], **options)
    return Diagonal(diagonal), torch.diag(diagonal.double())


COMBINATIONS = {
    "diagonal": (BlockDiagonal, lambda matrices: torch.block_diag(*matrices)),
    "stacked": (Stacked, torch.cat),
    "kronecker": (
        functools.partial(functools.reduce, Kronecker),
        lambda matrices: functools.reduce(torch.kron, [matrix.contiguous() for matrix in matrices]),
    ),
}

# How to combine which parts, and the structure of the whole.
CASES = {
    "diagonal wide tall adjoint": NONE,
    "diagonal tall": NONE,
    "diagonal psd psd identity": PSD,
    "diagonal nsd nsd": NSD,
    "diagonal psd nsd symmetric": SYMMETRIC,
    "diagonal scatter identity": ISOMETRY,
    "diagonal signs identity": SYMMETRIC | ISOMETRY,
    "diagonal psd tall": NONE,
    "stacked wide gather wide": NONE,
    "stacked tall identity signs": NONE,
    "stacked adjoint": NONE,
    "kronecker wide tall": NONE,
    "kronecker adjoint gather": NONE,
    "kronecker tall identity": NONE,
    "kronecker identity tall": NONE,
    "kronecker psd psd": PSD,
    "kronecker nsd nsd": PSD,
    "kronecker psd nsd": NSD,
    "kronecker nsd psd": NSD,
    "kronecker psd symmetric": SYMMETRIC,
    "kronecker psd wide": NONE,
    "kronecker scatter identity": ISOMETRY,
    "kronecker signs signs": SYMMETRIC | ISOMETRY,
    "kronecker tall nsd adjoint": NONE,
}


class TestBlocks(OperatorContract):
    @pytest.fixture(params=CASES)
    def case(self, request, dtype, device):
        kind, *names = request.param.split()
        operators, matrices = zip(*(part(name, dtype, device) for name in names), strict=True)
        combine, combine_matrices = COMBINATIONS[kind]
        return Case(combine(operators), combine_matrices(matrices), CASES[request.param])


def test_side_by_side_is_the_transpose_of_a_stack_of_transposes(device):
    M, N = matrix(3, 2, 1, device=device), matrix(3, 4, 2, device=device)
    A = Stacked([Dense(M).T, Dense(N).T]).T
    assert_close(A.to_dense(), torch.cat([M, N], dim=1), A)


def test_kronecker_mixed_products(device):
    """(A ⊗ B)(C ⊗ D) = AC ⊗ BD, and (A ⊗ B)ᵀ = Aᵀ ⊗ Bᵀ."""
    A, B, C, D = (Dense(matrix(*s, i, device=device)) for i, s in enumerate([(2, 3), (4, 2), (3, 2), (2, 5)]))
    left, right = Kronecker(A, B) @ Kronecker(C, D), Kronecker(A @ C, B @ D)
    assert_close(left.to_dense(), right.to_dense(), left)
    assert_close(Kronecker(A, B).T.to_dense(), Kronecker(A.T, B.T).to_dense(), A)


def test_kronecker_is_the_product_with_a_matrix_between():
    """(A ⊗ B) vec(X) = vec(A X Bᵀ) for vec by rows, the curvature of a linear layer whose weight is X."""
    A, B, X = matrix(3, 2, 1), matrix(4, 5, 2), matrix(2, 5, 3)
    K = Kronecker(Dense(A), Dense(B))
    assert_close(K @ X.flatten(), (A @ X @ B.T).flatten(), K)


def test_costs():
    """One block a part, and for a Kronecker product as many columns as its docstring says."""
    A, B = Counted(Dense(matrix(2, 3))), Counted(Dense(matrix(4, 5)))
    Kronecker(A, B) @ matrix(15, 7)
    assert (A.calls, A.products) == (1, 4 * 7)
    assert (B.calls, B.products) == (1, 3 * 7)
    A, B = Counted(Dense(matrix(2, 3))), Counted(Dense(matrix(4, 3)))
    Stacked([A, B]) @ matrix(3, 7)
    BlockDiagonal([A, B]).T @ matrix(6, 7)
    assert (A.products, B.products) == (14, 14)


@pytest.mark.parametrize("kind", [BlockDiagonal, Stacked])
class TestRefusals:
    def test_no_block(self, kind):
        with pytest.raises(ValueError, match=f"{kind.__name__} needs at least one block"):
            kind([])

    @pytest.mark.parametrize("other", [Identity(2, torch.float32), Identity(2, torch.float64, "meta")], ids=str)
    def test_mixed_dtypes_and_devices(self, kind, other):
        first = Identity(2, torch.float64)
        with pytest.raises(TypeError, match=f"{kind.__name__}: {first} and {other} differ in dtype or device"):
            kind([first, other])

    def test_keeps_its_blocks(self, kind):
        """A list that changes later does not change the operator."""
        blocks = [Identity(2), Identity(2)]
        A = kind(blocks)
        blocks.append(Identity(2))
        assert A.to_dense().shape == A.shape


def test_kronecker_refuses_mixed_dtypes():
    with pytest.raises(TypeError, match=r"float64.*float32.*differ in dtype"):
        Kronecker(Identity(2, torch.float64), Identity(2, torch.float32))


def test_stacked_refuses_different_widths():
    with pytest.raises(ValueError, match=r"<Identity 2x2.*<Identity 3x3.*number of columns"):
        Stacked([Identity(2), Identity(3)])


@pytest.mark.parametrize(
    "build", [lambda A: BlockDiagonal([A, A]), lambda A: Stacked([A, A]), lambda A: Kronecker(A, A)]
)
def test_a_block_without_transpose_is_named(build):
    A = build(Function(lambda X: X[:1], (1, 2), torch.float32))
    with pytest.raises(NotImplementedError, match="<Function 1x2 float32 cpu> has no transposed product"):
        A.T @ torch.ones(A.shape[0])
