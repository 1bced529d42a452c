"""A basis that grows in stores: the algebra is that of the whole matrix."""

from __future__ import annotations

import pytest
import torch

from eigenspan.solvers import basis as basis_module
from eigenspan.solvers.basis import Basis

N = 30


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(params=[0, basis_module._SMALL], ids=["narrow stores", "wide stores"], autouse=True)
def small(request, monkeypatch):
    """How many numbers a store has at least: none, so that some columns make up several stores."""
    monkeypatch.setattr(basis_module, "_SMALL", request.param)
    return request.param


def grown(widths, dtype, device):
    """A basis of blocks of these widths, and the matrix of all their columns."""
    basis = Basis(N, dtype, torch.device(device))
    blocks = [torch.randn(N, width, dtype=dtype).to(device) for width in widths]
    for block in blocks:
        basis.append(block)
    return basis, torch.cat(blocks, dim=1)


@pytest.mark.parametrize("widths", [[1], [64], [65], [3, 0, 5], [60, 60, 60], [200], [1] * 70])
def test_coefficients_and_combinations_are_those_of_the_matrix(widths, dtype, device):
    """However the blocks fall into stores."""
    basis, matrix = grown(widths, dtype, device)
    assert basis.size == sum(widths)
    X = torch.randn(N, 4, dtype=dtype).to(device)
    atol = 1000 * torch.finfo(dtype).eps
    small = basis.coefficients(X)
    assert (small.dtype, small.device.type) == (torch.float64, "cpu")
    torch.testing.assert_close(small, (matrix.mT @ X).double().cpu(), rtol=0, atol=atol)
    for j in {1, basis.size // 2, basis.size}:
        C = torch.randn(j, 2, dtype=torch.float64)
        expected = matrix[:, :j].double().cpu() @ C
        result = basis.combine(C)
        assert (result.dtype, result.device) == (dtype, matrix.device)
        torch.testing.assert_close(result.double().cpu(), expected, rtol=0, atol=10 * atol)
    for first in {0, 1, basis.size // 2, basis.size - 1}:
        torch.testing.assert_close(basis.coefficients(X, first), small[first:], rtol=0, atol=atol)
        C = torch.randn(basis.size - first, 2, dtype=torch.float64)
        expected = matrix[:, first:].double().cpu() @ C
        torch.testing.assert_close(basis.combine(C, first).double().cpu(), expected, rtol=0, atol=10 * atol)


@pytest.mark.parametrize("rows", [7, 1000])
@pytest.mark.parametrize(("j", "r"), [(70, 30), (70, 70), (50, 1), (20, 20)])
def test_combinations_take_the_place_of_the_basis(j, r, rows, dtype, device, monkeypatch):
    """In blocks of rows; then it grows on, in the stores that it has."""
    monkeypatch.setattr(basis_module, "_ROWS", rows)
    basis, matrix = grown([33, 37], dtype, device)
    C, X = torch.randn(j, r, dtype=torch.float64), torch.randn(N, 5, dtype=dtype).to(device)
    stores = [store.data_ptr() for store in basis._stores]
    basis.replace(C)
    basis.append(X)
    expected = torch.cat([matrix[:, :j].double().cpu() @ C, X.double().cpu()], dim=1)
    assert basis.size == r + 5
    held = basis.combine(torch.eye(r + 5, dtype=torch.float64))
    torch.testing.assert_close(held.double().cpu(), expected, rtol=0, atol=1e4 * torch.finfo(dtype).eps)
    assert [store.data_ptr() for store in basis._stores][: len(stores)] == stores


def test_nothing_in_it(device):
    basis = Basis(N, torch.float64, torch.device(device))
    X = torch.randn(N, 3, dtype=torch.float64, device=device)
    assert basis.coefficients(X).shape == (0, 3)
    assert torch.equal(basis.combine(torch.zeros(0, 3, dtype=torch.float64)), torch.zeros_like(X))


def test_keeps_copies(device):
    basis = Basis(N, torch.float64, torch.device(device))
    block = torch.ones(N, 2, dtype=torch.float64, device=device)
    basis.append(block)
    block.zero_()
    assert bool((basis.combine(torch.eye(2, dtype=torch.float64)) == 1).all())


def test_a_fifth_of_its_memory_is_unused_at_most(device, small):
    """Or one store of the narrowest, or a small one; none is wider than matrix products gain from."""
    basis = Basis(N, torch.float64, torch.device(device))
    for _ in range(300):
        basis.append(torch.ones(N, 7, dtype=torch.float64, device=device))
        unused = sum(basis._widths) - basis.size
        assert 0 <= unused < max(16, min(256, basis.size / 4) + 7, min(256, small // N))
        assert [len(store) for store in basis._stores] == [N * width for width in basis._widths]
        assert max(basis._widths) <= 256
