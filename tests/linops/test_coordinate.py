"""Embeddings and partial permutations: exact in every dtype, and strict about their indices."""

import pytest
import torch
from operator_contract import Case, OperatorContract, matrix

from eigenspan.linops import Embedding, PartialPermutation, Structure

ISOMETRY = Structure.ISOMETRY


class TestEmbedding(OperatorContract):
    @pytest.fixture(params=[[4, 1, 2], [0], [2, 0, 1]], ids=str)
    def case(self, request, dtype, device):
        n = max(request.param) + 1 + (len(request.param) < 3)
        twin = torch.eye(n, dtype=torch.float64, device=device)[:, request.param]
        return Case(Embedding(torch.tensor(request.param, device=device), n, dtype), twin, ISOMETRY)


class TestPartialPermutation(OperatorContract):
    @pytest.fixture(params=["partial", "all columns", "all rows", "permutation", "nothing"])
    def case(self, request, dtype, device):
        rows, columns, shape, structure = {
            "partial": ([3, 0], [1, 2], (5, 4), Structure.NONE),
            "all columns": ([3, 0, 4], [1, 2, 0], (5, 3), ISOMETRY),
            "all rows": ([1, 0], [1, 2], (2, 4), Structure.NONE),
            "permutation": ([1, 2, 0], [0, 1, 2], (3, 3), ISOMETRY),
            "nothing": ([], [], (2, 3), Structure.NONE),
        }[request.param]
        twin = torch.zeros(shape, dtype=torch.float64, device=device)
        twin[rows, columns] = 1
        rows, columns = (torch.tensor(indices, dtype=torch.int64, device=device) for indices in (rows, columns))
        return Case(PartialPermutation(rows, columns, shape, dtype), twin, structure)

    def test_rank(self, A, twin):
        assert A.rank == torch.linalg.matrix_rank(twin)
        assert int(torch.linalg.svdvals(twin).sum().round()) == A.rank


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_coordinates_move_exactly(dtype, device):
    """Not a bit changes, of numbers of any size."""
    X = (matrix(3, 4, 0, dtype, device) * torch.finfo(dtype).max / 8).mT.contiguous().mT
    indices = torch.tensor([4, 0, 2], device=device)
    E = Embedding(indices, 5, dtype)
    scattered = E @ X
    assert torch.equal(scattered[[4, 0, 2]], X)
    assert not scattered[[1, 3]].any()
    assert torch.equal(E.T @ scattered, X)
    M = PartialPermutation(torch.tensor([1, 0], device=device), torch.tensor([2, 0], device=device), (4, 3), dtype)
    assert torch.equal((M @ X)[:2], X[[0, 2]])
    assert not (M @ X)[2:].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_indices_of_any_integer_type(dtype):
    assert (Embedding(torch.tensor([2, 0], dtype=dtype), 3) @ torch.tensor([5.0, 7.0])).tolist() == [7.0, 0.0, 5.0]


def test_an_empty_embedding_has_no_columns():
    E = Embedding(torch.empty(0, dtype=torch.int64), 3)
    assert E.shape == (3, 0)
    assert (E @ torch.empty(0)).tolist() == [0.0, 0.0, 0.0]


BAD = [
    (torch.tensor([0, 3]), ValueError, r"lie in \[0, 3\), got 0 to 3"),
    (torch.tensor([-1, 2]), ValueError, r"lie in \[0, 3\), got -1 to 2"),
    (torch.tensor([1, 1]), ValueError, "1 indices stand twice"),
    (torch.tensor([[0, 1]]), ValueError, r"shape \(k,\), got \(1, 2\)"),
    (torch.tensor([0.0, 1.0]), TypeError, "integers, got torch.float32"),
    (torch.tensor([True, False]), TypeError, "integers, got torch.bool"),
]


@pytest.mark.parametrize(("indices", "error", "message"), BAD)
def test_bad_indices(indices, error, message):
    fine = torch.arange(indices.numel()).reshape(indices.shape)
    with pytest.raises(error, match=f"Embedding: .*{message}"):
        Embedding(indices, 3)
    with pytest.raises(error, match=f"PartialPermutation rows: .*{message}"):
        PartialPermutation(indices, fine, (3, 5), torch.float32)
    if fine.ndim == 1:
        with pytest.raises(error, match=f"PartialPermutation columns: .*{message}"):
            PartialPermutation(fine, indices, (5, 3), torch.float32)


def test_rows_pair_with_columns():
    with pytest.raises(ValueError, match="1 rows do not pair with 2 columns"):
        PartialPermutation(torch.tensor([0]), torch.tensor([0, 1]), (3, 3), torch.float32)
