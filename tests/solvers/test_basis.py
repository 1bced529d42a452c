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


def grown(widths, dtype, device):
    """A basis of blocks of these widths, and the matrix of all their columns."""
    basis = Basis(N, dtype, torch.device(device))
    blocks = [torch.randn(N, width, dtype=dtype).to(device) for width in widths]
    for block in blocks:
        basis.append(block)
    return basis, torch.cat(blocks, dim=1)


@pytest.mark.parametrize("widths", [[1], [64], [65], [3, 0, 5], [60, 60, 60], [200], [1] * 70])
def test_coefficients_and_combinations_are_those_of_the_matrix(widths, dtype, device):
    """However the blocks fall into stores of 64 columns."""
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


def test_allocates_at_most_one_store_that_is_not_full(device, monkeypatch):
    monkeypatch.setattr(basis_module, "_WIDTH", 8)
    basis, _ = grown([3] * 7, torch.float64, device)
    assert [store.shape for store in basis._stores] == [(N, 8)] * 3
    assert all(store.mT.is_contiguous() for store in basis._stores)
