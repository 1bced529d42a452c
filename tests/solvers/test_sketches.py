"""Random test matrices: isotropic, reproducible column by column, and fast cosine transforms that are ones."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch

from eigenspan.solvers import SSRFT, Gaussian, Rademacher
from eigenspan.solvers.cosine import cosine_transform, inverse_cosine_transform
from eigenspan.solvers.sketches import SparseSign

KINDS = pytest.mark.parametrize("kind", [Gaussian, Rademacher, SparseSign, SSRFT])


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def eps(dtype):
    return 100 * torch.finfo(dtype).eps


@KINDS
class TestEverySketch:
    @pytest.mark.parametrize("n", [1, 2, 30, 31])
    def test_products_are_those_of_its_columns(self, kind, n, dtype, device):
        """Also when the columns are drawn in several blocks, and for the transpose."""
        s = n if kind is SSRFT else n + 70
        omega = kind(n, s, seed=1, dtype=dtype, device=device)
        dense = omega.columns(0, s)
        assert (dense.shape, dense.dtype, dense.device) == ((n, s), dtype, omega.device)
        assert dense.mT.is_contiguous()
        torch.testing.assert_close(omega.to_dense(), dense, rtol=0, atol=eps(dtype) * n)
        X = torch.randn(s, 3, dtype=dtype).to(device)
        Y = torch.randn(n, 3, dtype=dtype).to(device)
        torch.testing.assert_close(omega @ X, dense @ X, rtol=eps(dtype), atol=eps(dtype) * s)
        torch.testing.assert_close(omega.T @ Y, dense.mT @ Y, rtol=eps(dtype), atol=eps(dtype) * s)
        assert (omega @ X[:, :0]).shape == (n, 0)

    def test_columns_do_not_depend_on_their_number_or_on_the_block(self, kind, dtype, device):
        """A transform of several columns at once may round differently from that of one."""
        whole = kind(50, 40, seed=2, dtype=dtype, device=device).columns(0, 40)
        few = kind(50, 7, seed=2, dtype=dtype, device=device)
        pieces = torch.cat([few.columns(start, start + 1) for start in range(7)], dim=1)
        for part in (few.columns(0, 7), pieces):
            torch.testing.assert_close(part, whole[:, :7], rtol=0, atol=eps(dtype))

    def test_seeds_and_purposes_are_independent(self, kind):
        n = 2000
        variants = [{"seed": 0}, {"seed": 1}, {"seed": 0, "purpose": "verification"}, {"seed": 0, "purpose": "start"}]
        blocks = torch.cat([kind(n, 4, dtype=torch.float64, **options).columns(0, 4) for options in variants], dim=1)
        cosines = blocks.mT @ blocks / n - torch.eye(16, dtype=torch.float64)
        # Entries of Ωᵀ Ω / n vary by √(1/n), the diagonal of a Gaussian by √(2/n): five standard deviations.
        assert float(cosines.abs().max()) < 5 * math.sqrt(2 / n)

    def test_isotropy(self, kind):
        """E[ω ωᵀ] = I, from 500 independent samples of the first and of the last column."""
        n, s, samples = 6, 4, 500
        draws = torch.stack([kind(n, s, seed=seed, dtype=torch.float64).columns(0, s) for seed in range(samples)])
        for column in (0, s - 1):
            Omega = draws[:, :, column].mT
            # The square of an entry varies by √2 for a normal number and by √(n - 1) for the one of n that is not zero.
            bound = 5 * math.sqrt((n - 1 if kind is SparseSign else 3) / samples)
            second = Omega @ Omega.mT / samples
            torch.testing.assert_close(second, torch.eye(n, dtype=torch.float64), rtol=0, atol=bound)
            assert float(Omega.mean(dim=1).abs().max()) < bound

    def test_does_not_touch_the_global_generator(self, kind):
        before = torch.get_rng_state()
        kind(20, 5).columns(0, 5)
        assert torch.equal(torch.get_rng_state(), before)

    def test_entries_are_those_of_single_precision(self, kind):
        """Draws are made once and rounded, so that dtypes share a sample."""
        single, double = (kind(40, 5, dtype=dtype).columns(0, 5) for dtype in (torch.float32, torch.float64))
        torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 6), (3, 2)])
    def test_columns_out_of_range(self, kind, start, stop):
        with pytest.raises(ValueError, match=f"has columns 0 to 5, not {start} to {stop}"):
            kind(9, 5).columns(start, stop)


def test_gaussian_moments():
    entries = Gaussian(5000, 20, dtype=torch.float64).columns(0, 20).flatten()
    # Standard errors of the first four moments of 100,000 normal numbers, times five.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float((entries**power).mean()) == pytest.approx(moment, abs=5 * math.sqrt(variance / 1e5))


def test_rademacher_entries_are_signs(dtype):
    entries = Rademacher(5000, 20, dtype=dtype).columns(0, 20)
    assert set(entries.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(entries.mean())) < 5 / math.sqrt(1e5)


class TestSparseSign:
    @pytest.mark.parametrize(("n", "group"), [(1, 1), (3, 3), (8, 8), (61, 8), (800, 8)])
    def test_a_group_has_one_entry_in_each_row_and_as_many_in_each_column(self, n, group, dtype, device):
        omega = SparseSign(n, 3 * group, seed=1, dtype=dtype, device=device).columns(0, 3 * group).cpu()
        for start in range(0, 3 * group, group):
            entries = omega[:, start : start + group] != 0
            assert entries.sum(dim=1).tolist() == [1] * n
            assert set(entries.sum(dim=0).tolist()) <= {n // group, -(-n // group)}
        for column in omega.mT.double():
            magnitudes = column[column != 0].abs()
            assert float(magnitudes.max() - magnitudes.min()) == 0
            assert float(column.norm()) == pytest.approx(math.sqrt(n), rel=eps(dtype))

    def test_groups_and_signs_are_independent(self):
        omega = SparseSign(8000, 16, dtype=torch.float64).columns(0, 16)
        assert abs(float(omega.sign().sum())) < 5 * math.sqrt(2 * 8000)
        # Of 1000 entries of a column an eighth meets those of another group: 125, with a variance of 1000 · 7 / 64.
        shared = (omega[:, :8] != 0).double().mT @ (omega[:, 8:] != 0).double()
        assert float((shared - 125).abs().max()) < 5 * math.sqrt(1000 * 7 / 64)

    def test_preserves_the_norm_of_a_coordinate_axis(self):
        """Every group meets every coordinate: the norm of a row of Ω is that of isotropy, where others vary."""
        omega = SparseSign(800, 80, dtype=torch.float64).columns(0, 80)
        torch.testing.assert_close(omega.square().sum(dim=1), torch.full((800,), 80.0, dtype=torch.float64))


class TestSSRFT:
    @pytest.mark.parametrize(("n", "s"), [(1, 1), (2, 2), (64, 20), (101, 101)])
    def test_columns_are_orthogonal_of_norm_root_n(self, n, s, dtype, device):
        omega = SSRFT(n, s, dtype=dtype, device=device).columns(0, s)
        torch.testing.assert_close(
            omega.mT @ omega / n, torch.eye(s, dtype=dtype, device=omega.device), rtol=0, atol=eps(dtype)
        )

    def test_spreads_a_coordinate_axis_over_all_columns(self):
        """No entry of a mixed vector stands out: √(2 log) of the number of them, and some."""
        omega = SSRFT(1000, 200, dtype=torch.float64).columns(0, 200)
        assert float(omega.abs().max()) < 5.5

    def test_many_vectors_at_once_are_those_one_by_one(self, dtype, device):
        """They are transformed in blocks."""
        omega = SSRFT(30, 20, dtype=dtype, device=device)
        for operator in (omega, omega.T):
            X = torch.randn(operator.shape[1], 150, dtype=dtype).to(device)
            torch.testing.assert_close(operator @ X, operator.to_dense() @ X, rtol=eps(dtype), atol=eps(dtype) * 30)

    def test_more_columns_than_rows(self):
        with pytest.raises(ValueError, match="so s <= n; got n=4, s=5"):
            SSRFT(4, 5)


class TestCosineTransform:
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 101, 256])
    def test_is_that_of_scipy(self, n, dtype, device):
        X = torch.randn(n, 3, dtype=dtype)
        for ours, theirs in ((cosine_transform, scipy.fft.dct), (inverse_cosine_transform, scipy.fft.idct)):
            expected = torch.from_numpy(theirs(X.double().numpy(), axis=0, norm="ortho"))
            torch.testing.assert_close(ours(X.to(device)).double().cpu(), expected, rtol=0, atol=eps(dtype))

    @pytest.mark.parametrize("n", [1, 2, 9, 10])
    def test_inverse_is_the_transpose(self, n):
        F = cosine_transform(torch.eye(n, dtype=torch.float64))
        torch.testing.assert_close(F @ F.mT, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-14)
        torch.testing.assert_close(
            inverse_cosine_transform(torch.eye(n, dtype=torch.float64)), F.mT, rtol=0, atol=1e-14
        )

    def test_leaves_its_argument(self):
        X = torch.randn(10, 2)
        kept = X.clone()
        for transform in (cosine_transform, inverse_cosine_transform):
            transform(X)
        assert torch.equal(X, kept)
