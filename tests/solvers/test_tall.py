"""Algebra of tall blocks: QR by Cholesky where that is hard, against a basis, at every scale."""

from __future__ import annotations

import pytest
import torch

from eigenspan.solvers import tall
from eigenspan.solvers.basis import Basis
from eigenspan.solvers.tall import blocks, column_major, column_norms, combine, gram, in_blocks, orthonormalise

N = 200


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def normal(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(sigma, seed=0):
    """An (N, b) block with the singular values ``sigma`` in random directions."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    U = torch.linalg.qr(normal(N, len(sigma), seed))[0]
    V = torch.linalg.qr(normal(len(sigma), len(sigma), seed + 1))[0]
    return (U * sigma) @ V.mT


_COPIED = normal(N, 3)
_LENGTHS = torch.logspace(0, -3, 6, dtype=torch.float64)
# Name: block, its numerical rank in float64 and in float32.
BLOCKS = {
    "normal": (normal(N, 6), 6, 6),
    "one column": (normal(N, 1), 1, 1),
    "square": (normal(6, 6), 6, 6),
    "condition 1e4": (with_singular_values(torch.logspace(0, -4, 8)), 8, 8),
    "condition 1e13": (with_singular_values(torch.logspace(0, -13, 14, dtype=torch.float64)), 14, None),
    "condition beyond rounding": (with_singular_values(torch.logspace(0, -30, 31, dtype=torch.float64)), None, None),
    "repeated columns": (torch.cat([_COPIED, _COPIED, 2 * _COPIED], dim=1), 3, 3),
    "nearly repeated columns": (torch.cat([_COPIED, _COPIED + 1e-4 * normal(N, 3, 5)], dim=1), 6, 6),
    "dependent": (normal(N, 3) @ normal(3, 9, 1), 3, 3),
    "a column of zeros": (torch.cat([normal(N, 2), torch.zeros(N, 1), normal(N, 2, 1)], dim=1), 4, 4),
    "zeros": (torch.zeros(N, 4, dtype=torch.float64), 0, 0),
    "more columns than rows": (normal(5, 12), 5, 5),
    "columns of lengths 1 to 1e-3": (normal(N, 6) * _LENGTHS, 6, 6),
    "columns below rounding": (normal(N, 4) * torch.tensor([1.0, 1e-30, 1.0, 1e-40]).double(), 2, 2),
    "tiny": (1e-30 * normal(N, 5), 5, 5),
    "huge": (1e30 * normal(N, 5), 5, 5),
    "tiny and dependent": (1e-30 * normal(N, 3) @ normal(3, 9, 1), 3, 3),
}


def basis_of(Q):
    basis = Basis(Q.shape[0], Q.dtype, Q.device)
    basis.append(Q)
    return basis


class TestOrthonormalise:
    @pytest.mark.parametrize("against", [0, 1, 4])
    @pytest.mark.parametrize("name", BLOCKS)
    def test_is_a_factorisation(self, name, against, dtype, device):
        """X = B C + Q R, Q orthonormal and orthogonal to B, and the rank that of the block."""
        block, *ranks = BLOCKS[name]
        X = block.to(device, dtype)
        kept, n = X.clone(), X.shape[0]
        B = torch.linalg.qr(normal(n, against, 9).to(device, dtype))[0]
        step = orthonormalise(X, basis_of(B) if against else None)
        Q, R, C = step.Q, step.R, step.C
        r = Q.shape[1]
        assert R.shape == (r, X.shape[1])
        assert C.shape == (against, X.shape[1])
        assert (Q.dtype, R.dtype, C.dtype, R.device.type) == (dtype, torch.float64, torch.float64, "cpu")
        # Orthonormal to the rounding of the dtype, whatever the condition.
        unit = 20 * torch.finfo(dtype).eps
        Q64, B64, X64 = Q.double().cpu(), B.double().cpu(), X.double().cpu()
        torch.testing.assert_close(Q64.mT @ Q64, torch.eye(r, dtype=torch.float64), rtol=0, atol=unit)
        torch.testing.assert_close(B64.mT @ Q64, torch.zeros(against, r, dtype=torch.float64), rtol=0, atol=unit)
        # Backward error: directions shorter than ten roundings of the longest column are left out.
        size = float(X64.norm(dim=0).max())
        assert float((B64 @ C + Q64 @ R - X64).norm(dim=0).max()) <= 10 * unit * size
        expected = ranks[dtype == torch.float32]
        if expected is not None:
            assert r == min(expected, n - against)
        assert torch.equal(X, kept)

    @pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
    def test_scale_by_a_power_of_two_changes_no_bit_of_the_directions(self, exponent, dtype):
        X = with_singular_values(torch.logspace(0, -4, 8)).to(dtype)
        step, scaled = orthonormalise(X), orthonormalise(X * 2.0**exponent)
        assert torch.equal(scaled.Q, step.Q)
        assert torch.equal(scaled.R * 2.0**-exponent, step.R)

    def test_spans_what_householder_qr_spans(self, dtype):
        X = with_singular_values([1.0, 0.3, 0.1, 1e-2]).to(dtype)
        Q = orthonormalise(X).Q.double()
        H = torch.linalg.qr(X.double())[0]
        torch.testing.assert_close(Q @ (Q.mT @ H), H, rtol=0, atol=3000 * torch.finfo(dtype).eps)

    def test_block_inside_the_basis_leaves_nothing(self, dtype, device):
        B = torch.linalg.qr(normal(N, 5))[0].to(device, dtype)
        inside = B @ normal(5, 3).to(device, dtype)
        step = orthonormalise(inside, basis_of(B))
        assert step.Q.shape == (N, 0)
        torch.testing.assert_close((B.double().cpu() @ step.C).to(dtype), inside.cpu(), rtol=0, atol=1e-4)

    def test_a_small_part_outside_the_basis_is_kept_to_relative_precision(self):
        """Twice is enough: one projection alone leaves it 1e-6 off orthogonality."""
        B, outside = torch.linalg.qr(normal(N, 6))[0].split([5, 1], dim=1)
        X = B @ normal(5, 1) + 1e-10 * outside
        step = orthonormalise(X, basis_of(B))
        assert float((B.mT @ step.Q).abs().max()) < 1e-15
        torch.testing.assert_close((step.Q.mT @ outside).abs(), torch.ones(1, 1).double(), rtol=0, atol=1e-9)

    def test_rounding_errors_of_a_longer_vector_are_no_direction(self, dtype):
        """A product of norm 1e-8 by an operator of norm 1 carries errors of size eps; ``scale`` says so."""
        eps = torch.finfo(dtype).eps
        X = eps * normal(N, 2).to(dtype) / N**0.5
        assert orthonormalise(X).Q.shape[1] == 2
        assert orthonormalise(X, scale=1.0).Q.shape[1] == 0
        assert orthonormalise(X * 1e6, scale=1.0).Q.shape[1] == 2

    def test_no_columns(self, dtype):
        step = orthonormalise(torch.zeros(N, 0, dtype=dtype))
        assert (step.Q.shape, step.R.shape) == ((N, 0), (0, 0))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_entries_that_are_not_finite(self, value, dtype):
        X = normal(N, 3).to(dtype)
        X[5, 1] = value
        with pytest.raises(ValueError, match=r"shape \(200, 3\) .* not finite"):
            orthonormalise(X)

    @pytest.mark.parametrize(
        ("dtype", "scale"), [(torch.float32, 1e-40), (torch.float64, 1e-153), (torch.float64, 1e160)]
    )
    def test_scale_that_the_dtype_cannot_square(self, dtype, scale):
        with pytest.raises(ValueError, match="scale the operator"):
            orthonormalise((scale * normal(N, 3)).to(dtype))


class TestGram:
    def test_is_the_matrix_of_inner_products(self, dtype, device):
        X, Y = normal(N, 3).to(device, dtype), normal(N, 4, 1).to(device, dtype)
        for result, expected in ((gram(X), X.mT.double() @ X.double()), (gram(X, Y), X.mT.double() @ Y.double())):
            assert (result.dtype, result.device.type) == (torch.float64, "cpu")
            # Sums of 200 products of order one, at worst in the dtype.
            torch.testing.assert_close(result, expected.cpu(), rtol=0, atol=200 * torch.finfo(dtype).eps)

    def test_own_gram_matrix_is_exact_in_float64(self):
        """A product in float32 would see columns that differ by 1e-6 as one: their Gram matrix by 1e-12."""
        X = with_singular_values([1.0, 1e-6]).float()
        expected = torch.linalg.eigvalsh(X.double().mT @ X.double())
        torch.testing.assert_close(torch.linalg.eigvalsh(gram(X)), expected, rtol=1e-3, atol=0)

    def test_sums_over_pieces(self, monkeypatch, dtype):
        monkeypatch.setattr(tall, "_ROWS", 7)
        X, Y = normal(N, 3).to(dtype), normal(N, 2, 1).to(dtype)
        expected = X.double().mT @ Y.double()
        torch.testing.assert_close(gram(X, Y), expected, rtol=0, atol=10 * torch.finfo(dtype).eps * N**0.5)
        torch.testing.assert_close(gram(X), X.double().mT @ X.double(), rtol=1e-14, atol=1e-13)

    def test_long_sums_of_single_precision_do_not_drift(self):
        """A million equal squares: sums in float32 round each of them once the sum is 2²⁴ times as large."""
        X = torch.full((1 << 20, 1), 17.3)
        assert float(gram(X)) == pytest.approx((1 << 20) * float(X[0]) ** 2, rel=1e-12)


def test_combine_is_a_product_with_contiguous_columns(dtype, device):
    X, C = normal(N, 3).to(device, dtype), normal(3, 5, 1)
    result = combine(X, C)
    assert result.mT.is_contiguous()
    assert (result.dtype, result.device) == (dtype, X.device)
    torch.testing.assert_close(result.double().cpu(), X.double().cpu() @ C, rtol=0, atol=30 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1.0, 1e20, 1e35])
def test_column_norms_neither_underflow_nor_overflow_in_single_precision(scale):
    X = (scale * normal(N, 4)).float()
    torch.testing.assert_close(column_norms(X), X.double().norm(dim=0), rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-150, 1.0, 1e150, 1e200])
def test_column_norms_neither_underflow_nor_overflow_in_double_precision(scale, device):
    X = normal(N, 4)
    X[:, 2] = 0
    found = column_norms((scale * X).to(device))
    torch.testing.assert_close(found, scale * X.norm(dim=0), rtol=1e-14, atol=0)


def test_column_major_copies_only_where_it_must(device):
    block = torch.randn(5, 3, device=device)
    columns = column_major(block)
    assert torch.equal(columns, block)
    assert columns.mT.is_contiguous()
    assert column_major(columns).data_ptr() == columns.data_ptr()


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e12])
def test_a_small_direction_before_large_columns_leaves_no_larger_error(condition, device):
    """Dividing by the triangular factor is backward stable row by row; multiplying by its inverse is not."""
    n, generator = 200, torch.Generator().manual_seed(4)
    basis_columns = torch.linalg.qr(torch.randn(n, 10, generator=generator, dtype=torch.float64))[0].to(device)
    X = torch.randn(n, 4, generator=generator, dtype=torch.float64).to(device)
    X[:, 1] = X[:, 0] + X[:, 1] / condition
    B = Basis(n, torch.float64, torch.device(device))
    B.append(basis_columns)
    step = orthonormalise(X, B)
    rest = X - basis_columns @ step.C.to(device) - step.Q @ step.R.to(device)
    assert float(rest.norm() / X.norm()) < 2e-15


def test_blocks():
    assert list(blocks(3, 10, 3)) == [(3, 6), (6, 9), (9, 10)]
    assert list(blocks(3, 3, 3)) == []


def test_products_in_blocks(device):
    M, N = 50, 30
    A, X = torch.randn(M, N, device=device), torch.randn(N, 7, device=device)
    widths = []

    def product(block):
        widths.append(block.shape[1])
        return A @ block

    torch.testing.assert_close(in_blocks(product, M, X, 3), A @ X)
    assert widths == [3, 3, 1]
    assert in_blocks(product, M, X[:, :0], 3).shape == (M, 0)
