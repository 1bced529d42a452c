"""The rules of structure: nothing false is ever claimed, and what users rely on is."""

import functools
import itertools
import operator as arithmetic

import pytest
import torch
from operator_contract import matrix, truth

from eigenspan.linops import BlockDiagonal, Congruence, Dense, Kronecker, Product, Stacked, Structure, Sum

NONE, PSD, NSD = Structure.NONE, Structure.PSD, Structure.NSD
FLAGS = [Structure.SYMMETRIC, Structure.NONNEGATIVE, Structure.NONPOSITIVE, Structure.ISOMETRY]
SYMMETRIC, NONNEGATIVE, NONPOSITIVE, ISOMETRY = FLAGS

_eye = torch.eye(2, dtype=torch.float64)
_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
_swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
_shift = torch.eye(4, dtype=torch.float64).roll(1, 0)

# Twice each on the diagonal, which changes none of the properties: a permutation without any needs four rows.
WITNESSES = {
    name: M if len(M) == 4 else torch.block_diag(M, M)
    for name, M in {
        "zero": 0 * _eye,
        "identity": _eye,
        "minus identity": -_eye,
        "swap": _swap,
        "quarter turn": _turn,
        "eighth of a turn": (_eye + _turn) / 2**0.5,
        "three eighths": (_turn - _eye) / 2**0.5,
        "cyclic shift": _shift,
        "psd": torch.tensor([[2.0, 1.0], [1.0, 0.5]], dtype=torch.float64),
        "nsd": -torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64),
        "indefinite": torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=torch.float64),
        "skew": 3 * _turn,
        "nonnegative": 2 * _eye + 3 * _turn,
        "nonpositive": -2 * _eye + 3 * _turn,
        "shear": _eye + 5 * _swap.triu(),
    }.items()
}


def subsets(structure):
    """Everything that a user may know of a matrix with this structure."""
    known = [flag for flag in FLAGS if flag in structure]
    for size in range(len(known) + 1):
        for some in itertools.combinations(known, size):
            yield functools.reduce(arithmetic.or_, some, NONE)


def operators(*names):
    """The matrices of those names with all ways to know some of what is true of them."""
    matrices = [WITNESSES[name] for name in names]
    for structures in itertools.product(*(subsets(truth(M)) for M in matrices)):
        yield [Dense(M, structure) for M, structure in zip(matrices, structures, strict=True)]


def test_witnesses_have_every_combination_of_properties():
    """All 16 but one: what is psd and nsd is zero, and no isometry."""
    everything = {a | b | c | d for a, b, c, d in itertools.product(*([NONE, flag] for flag in FLAGS))}
    assert everything - {truth(M) for M in WITNESSES.values()} == {PSD | NSD | ISOMETRY}


@pytest.mark.parametrize("name", WITNESSES)
def test_of_one_matrix(name):
    M = WITNESSES[name]
    for (A,) in operators(name):
        assert A.T.structure in truth(M.T)
        assert A.structure.transposed() in truth(M.T)
        for factor in (-2.0, -1.0, -0.0, 0.0, 0.5, 1.0):
            assert (factor * A).structure in truth(factor * M)
            assert A.structure.scaled(factor) in truth(factor * M)
        for B in (Dense(matrix(4, 3)), A, A.T):
            assert Congruence(A, B).structure in truth(B.to_dense().T @ M @ B.to_dense())
            assert (B.T @ A @ B).structure in truth(B.to_dense().T @ M @ B.to_dense())
        assert Stacked([A, A]).structure in truth(torch.cat([M, M]))
        assert (A + A.T).structure in truth(M + M.T)
        assert (A.T @ A @ A).structure in truth(M.T @ M @ M)


@pytest.mark.parametrize("first", WITNESSES)
def test_of_two_matrices(first):
    for second, N in WITNESSES.items():
        M = WITNESSES[first]
        combinations = [
            (Sum, truth(M + N)),
            (Product, truth(M @ N)),
            (Kronecker, truth(torch.kron(M, N))),
            (lambda A, B: BlockDiagonal([A, B]), truth(torch.block_diag(M, N))),
            (lambda A, B: A - B, truth(M - N)),
            (lambda A, B: A.T @ B, truth(M.T @ N)),
        ]
        for A, B in operators(first, second):
            for combine, true in combinations:
                assert combine(A, B).structure in true, f"{combine(A, B)} of {A} and {B}"


@pytest.mark.parametrize(
    ("structure", "factor", "expected"),
    [
        (PSD, 2.0, PSD),
        (PSD, -2.0, NSD),
        (NSD, -0.5, PSD),
        (NSD, 3.0, NSD),
        (PSD, 0.0, PSD | NSD),
        (SYMMETRIC, -1.0, SYMMETRIC),
        (NONNEGATIVE, -1.0, NONPOSITIVE),
        (ISOMETRY, -1.0, ISOMETRY),
        (ISOMETRY, 2.0, NONE),
        (PSD | ISOMETRY, -1.0, NSD | ISOMETRY),
        (PSD | ISOMETRY, 2.0, PSD),
        (PSD | NSD, -3.0, PSD | NSD),
        (NONE, 0.0, NONE),
    ],
    ids=str,
)
def test_scaled(structure, factor, expected):
    assert structure.scaled(factor) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (PSD, PSD, PSD),
        (NSD, NSD, NSD),
        (PSD, NSD, SYMMETRIC),
        (PSD, SYMMETRIC, SYMMETRIC),
        (PSD, NONNEGATIVE, NONNEGATIVE),
        (PSD | ISOMETRY, PSD | ISOMETRY, PSD),
        (SYMMETRIC, NONE, NONE),
    ],
    ids=str,
)
def test_added(first, second, expected):
    assert first.added(second) == expected
    assert second.added(first) == expected


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (SYMMETRIC | ISOMETRY, SYMMETRIC | ISOMETRY),
        (PSD, PSD),
        (ISOMETRY, NONE),
        (NONNEGATIVE | ISOMETRY, NONNEGATIVE),
    ],
    ids=str,
)
def test_transposed(structure, expected):
    assert structure.transposed() == expected


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (NONE, ""),
        (SYMMETRIC, "symmetric"),
        (PSD, "psd"),
        (NSD, "nsd"),
        (PSD | NSD, "psd nsd"),
        (NONNEGATIVE, "nonnegative"),
        (ISOMETRY | NONPOSITIVE, "nonpositive isometry"),
        (PSD | ISOMETRY, "psd isometry"),
    ],
)
def test_in_words(structure, words):
    assert str(structure) == words


def test_every_bit_is_named():
    assert [flag.value for flag in FLAGS] == [1, 2, 4, 8]
    assert SYMMETRIC | NONNEGATIVE == PSD
    assert SYMMETRIC | NONPOSITIVE == NSD
    assert PSD & NSD == SYMMETRIC
