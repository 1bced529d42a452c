"""Random probes, and what leaving out one or two of them takes from the range that they show."""

from __future__ import annotations

import math

import pytest
import torch
from solver_cases import rounding

from eigenspan.solvers import Rademacher
from eigenspan.solvers.estimators.range_sketch import RangeSketch, Spherical, column_dots

M, N, S = 50, 30, 9


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def normal(rows, columns):
    return torch.randn(rows, columns, dtype=torch.float64)


def sketch_of(A, B, count=S, width=4, probes=Spherical, dtype=torch.float64, device="cpu"):
    """Q R = A Ω, Z = B Q, grown in three steps."""
    A, B = (matrix.to(device, dtype) for matrix in (A, B))
    omega = probes(A.shape[1], count, seed=5, purpose="test", dtype=dtype, device=device)
    sketch = RangeSketch(omega, A.__matmul__, A.shape[0], B.__matmul__, B.shape[0], width)
    for stop in (2, 3, count):
        sketch.extend(stop)
    return sketch, omega.columns(0, count)


def dense(basis):
    """The matrix of a Basis, (n, k)."""
    return basis.combine(torch.eye(basis.size, dtype=torch.float64))


def test_spherical_columns_are_uniform_on_the_sphere(dtype, device):
    omega = Spherical(5, 1500, seed=1, dtype=dtype, device=device).columns(0, 1500)
    assert (omega.shape, omega.dtype, omega.device.type) == ((5, 1500), dtype, device)
    torch.testing.assert_close(omega.double().norm(dim=0).cpu(), torch.full((1500,), math.sqrt(5)).double())
    second = (omega @ omega.mT / 1500).double().cpu()
    torch.testing.assert_close(second, torch.eye(5).double(), rtol=0, atol=5 * math.sqrt(2 / 1500))
    # E ω₁⁴ = 3 n / (n + 2) on the sphere, 3 for normal entries: five standard errors are 0.2.
    assert float(omega.double().pow(4).mean()) == pytest.approx(15 / 7, abs=0.1)


def test_spherical_columns_of_one_entry_are_signs():
    entries = Spherical(1, 50, seed=2, dtype=torch.float64).columns(0, 50)
    torch.testing.assert_close(entries.abs(), torch.ones_like(entries))
    assert bool((entries > 0).any())
    assert bool((entries < 0).any())


def test_column_dots(device):
    X, Y = torch.randn(2, N, 4, device=device, dtype=torch.float64)
    torch.testing.assert_close(column_dots(X, Y), torch.einsum("ij,ij->j", X, Y).cpu())


class TestRangeSketch:
    def test_factors(self, dtype, device):
        A, B = normal(M, N), normal(20, M)
        sketch, omega = sketch_of(A, B, dtype=dtype, device=device)
        Q, Z = dense(sketch.Q), dense(sketch.Z)
        A, B = A.to(Q), B.to(Q)
        assert Q.shape == (M, S)
        atol = rounding(dtype) * float(A.norm())
        torch.testing.assert_close((Q.mT @ Q).cpu(), torch.eye(S, dtype=dtype), rtol=0, atol=rounding(dtype))
        torch.testing.assert_close(Q @ sketch.R.to(Q), A @ omega, rtol=0, atol=atol * N)
        torch.testing.assert_close(Z, B @ Q, rtol=0, atol=atol)
        assert sketch.longest == pytest.approx(float((A @ omega).norm(dim=0).max()), rel=1e-5)

    @pytest.mark.parametrize("rank", [0, 1, 4])
    def test_low_rank(self, rank, dtype, device):
        A = normal(M, rank) @ normal(rank, N)
        sketch, omega = sketch_of(A, A.mT, dtype=dtype, device=device)
        assert sketch.Q.size == sketch.Z.size == rank
        product = A.to(omega) @ omega
        torch.testing.assert_close(
            dense(sketch.Q) @ sketch.R.to(omega), product, rtol=0, atol=rounding(dtype) * (1 + float(product.norm()))
        )
        assert not sketch.left_out().S.any()  # the others span the range without any one of them

    def test_one_and_two_left_out(self):
        """Against orthonormal bases of the range made afresh."""
        A = normal(M, N)
        sketch, omega = sketch_of(A, A.mT)
        out, Q, Y = sketch.left_out(), dense(sketch.Q), A @ omega
        for j in range(S):
            for i in range(S):
                others = [column for column in range(S) if column not in (i, j)]
                expected = torch.linalg.qr(Y[:, others])[0]
                s, v = out.S[:, j], out.sizes[i, j] * (out.S[:, i] - out.cosines[i, j] * out.S[:, j])
                left = Q @ (torch.eye(S).double() - torch.outer(s, s) - torch.outer(v, v)) @ Q.mT
                torch.testing.assert_close(left, expected @ expected.mT, rtol=0, atol=1e-9)

    def test_beside(self):
        A, B = torch.randn(2, M, M, dtype=torch.float64)
        sketch, _ = sketch_of(A, B)
        out, b = sketch.left_out(), torch.randn(S, S, dtype=torch.float64)
        found = out.beside(out.S.mT @ b)
        for i in range(S):
            for j in range(S):
                v = out.sizes[i, j] * (out.S[:, i] - out.cosines[i, j] * out.S[:, j])
                assert float(found[i, j]) == pytest.approx(float(v @ b[:, j]), abs=1e-10)

    def test_a_column_that_alone_holds_a_direction(self):
        """Of columns (1, 0), (1, 0), (0, 1) of A Ω the third alone is missed when it is left out."""
        A = torch.eye(2, dtype=torch.float64)

        class Fixed(Rademacher):
            def _columns(self, start, stop):
                return torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)[:, start:stop]

        sketch, _ = sketch_of(A, A, count=3, probes=Fixed)
        assert sketch.left_out().S.any(0).tolist() == [False, False, True]

    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
    def test_scale(self, scale, dtype, device):
        A = normal(M, M)
        plain, scaled = (sketch_of(A * size, A, dtype=dtype, device=device)[0] for size in (1.0, scale))
        for name in ("cosines", "sizes"):
            expected, found = (getattr(sketch.left_out(), name) for sketch in (plain, scaled))
            torch.testing.assert_close(found.abs(), expected.abs(), rtol=0, atol=1e3 * rounding(dtype))
