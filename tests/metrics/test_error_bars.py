"""Error bars: intervals that hold the overlap with the true subspace, and standard errors over data."""

from __future__ import annotations

import math

import pytest
import torch
from metric_contract import eigenspace

import eigenspan as es
from eigenspan.linops import Dense, EigenSubspace, MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import overlap, overlap_curve, overlap_curve_interval, overlap_interval, overlap_jackknife


def turned(B, sines, seed):
    """A subspace whose principal angles to B have these sines."""
    n, k = B.ambient_dim, B.dim
    generator = torch.Generator().manual_seed(seed)
    count = min(k, n - k)
    sines = sines[:count]
    inside = torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0]
    outside = torch.randn(n, count, generator=generator, dtype=torch.float64)
    outside = torch.linalg.qr(outside - B.vectors @ (B.vectors.mT @ outside))[0]
    vectors = B.vectors @ inside
    vectors[:, :count] = vectors[:, :count] * (1 - sines.square()).sqrt() + outside * sines
    return OrthonormalSubspace(vectors)


class TestOverlapInterval:
    @pytest.mark.parametrize("seed", range(200))
    def test_holds_the_true_overlap(self, seed):
        """Of 200 random pairs at known angles, from next to nothing to right ones, and masks from few to nearly all."""
        generator = torch.Generator().manual_seed(seed)
        n, k, m = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((10, 40), (1, 8), (1, 10)))
        B = OrthonormalSubspace.random(n, k, seed=seed, dtype=torch.float64)
        sines = 10 ** (-4 * torch.rand(k, generator=generator, dtype=torch.float64))
        true = turned(B, sines, seed)
        norm = es.chordal(B, true)
        A = MaskSubspace.random(n, m, seed=seed, dtype=torch.float64)
        low, high = overlap_interval(A, B, norm)
        assert low - 1e-12 <= overlap(A, true) <= high + 1e-12
        assert 0 <= low <= overlap(A, B) <= high <= 1

    def test_is_reached(self):
        """A line in a plane, turned towards an axis: the largest overlap is (√x + s)² to first order."""
        line = OrthonormalSubspace(torch.tensor([[0.6], [0.8], [0.0]], dtype=torch.float64))
        axis, angle = MaskSubspace.from_indices(torch.tensor([0]), 3, torch.float64), 1e-5
        cosine = 0.6 * math.cos(angle) + 0.8 * math.sin(angle)
        # (√x + s)² takes 0.8 sin θ for sin θ.
        _, high = overlap_interval(axis, line, math.sin(angle))
        assert cosine**2 <= high <= cosine**2 + 2 * 0.6 * 0.2 * angle + angle**2

    @pytest.mark.parametrize("scores", [True, False])
    def test_curves(self, scores, device):
        B = eigenspace(30, 6, 1, torch.float64, device)
        A = (
            torch.rand(30, generator=torch.Generator().manual_seed(0)).to(device)
            if scores
            else eigenspace(30, 6, 2, torch.float64, device)
        )
        norms = torch.linspace(0, 0.5, 6, dtype=torch.float64, device=device)
        low, high = overlap_curve_interval(A, B, norms)
        for k in range(1, 7):
            left = MaskSubspace.top_k(A, k).to(dtype=torch.float64) if scores else A.leading(k)
            ends = overlap_interval(left, B.leading(k), float(norms[k - 1]))
            assert (float(low[k - 1]), float(high[k - 1])) == pytest.approx(ends, rel=1e-12, abs=1e-14)

    def test_of_a_certificate(self):
        """Eigenpairs that are off on purpose: the interval of their certificate holds the exact overlaps."""
        values = torch.cat([torch.arange(20.0, 10, -1), torch.linspace(1, 0, 50)]).double()
        Q = OrthonormalSubspace.random(60, 60, seed=1, dtype=torch.float64).vectors
        matrix = (Q * values) @ Q.mT
        exact = EigenSubspace(Q[:, :10], values[:10])
        result = es.BlockLanczos(k=10, tol=1e-3, seed=3).solve(Dense(matrix, es.Structure.SYMMETRIC))
        certificate = es.certify(result, Dense(matrix, es.Structure.SYMMETRIC))
        scores = torch.rand(60, generator=torch.Generator().manual_seed(0)).double()
        low, high = overlap_curve_interval(scores, result.subspace, certificate.sine_norms)
        curve = overlap_curve(scores, exact)
        assert bool(((low <= curve) & (curve <= high)).all())
        assert float((high - low).max()) < 0.5

    def test_bad_input(self):
        A, B = MaskSubspace.random(9, 2), eigenspace(9, 3, 1, torch.float32, "cpu")
        for norm in (-1.0, math.nan):
            with pytest.raises(ValueError, match="a number >= 0, got"):
                overlap_interval(A, B, norm)
        for few in (torch.zeros(2), [0.1, 0.1, 0.1]):
            with pytest.raises(ValueError, match="expected a tensor of 3 bounds of sines"):
                overlap_curve_interval(torch.arange(9.0), B, few)
        with pytest.raises(ValueError, match="numbers >= 0, got some that are not"):
            overlap_curve_interval(torch.arange(9.0), B, torch.tensor([0.1, math.nan, 0.2]))

    def test_a_space_and_itself(self):
        """Bases are orthonormal to rounding only, the interval is in order for all that."""
        for length, expected in ((1 + 1e-6, 1.0), (1 - 1e-6, (1 - 1e-6) ** 4)):
            B = OrthonormalSubspace(OrthonormalSubspace.random(50, 3, seed=1).vectors * length)
            low, high = overlap_interval(B, B, 0.0)
            assert low <= high <= 1
            assert (low, high) == pytest.approx((expected, expected), abs=3e-7)


class TestJackknife:
    n, K, groups, size = 40, 16, 20, 30

    def _parts(self, seed, groups=None, decay=1):
        """Second moments of normal samples whose coordinates have scales that fall off."""
        generator = torch.Generator().manual_seed(seed)
        scales = torch.logspace(0, -decay, self.n, dtype=torch.float64)
        mixing = OrthonormalSubspace.random(self.n, self.n, seed=1, dtype=torch.float64).vectors
        count = groups or self.groups
        samples = torch.randn(count, self.size, self.n, generator=generator, dtype=torch.float64) * scales @ mixing
        return [Dense(each.mT @ each / self.size, es.Structure.PSD) for each in samples]

    def _eigenspace(self, matrix, K=None):
        values, vectors = torch.linalg.eigh(matrix)
        K = K or self.K
        return EigenSubspace(vectors.flip(1)[:, :K].contiguous(), values.flip(0)[:K])

    def test_agrees_with_fresh_data(self):
        """The standard error beside the deviation over 300 data sets, whose own error is 4 %. That of a jackknife of 20
        parts is 16 % in each data set, and 3 % over 30; it is too large where the overlap is near 0, its least value.
        """
        scores = torch.rand(self.n, generator=torch.Generator().manual_seed(0)).double()
        curves = []
        for seed in range(300):
            mean = torch.stack([part.to_dense() for part in self._parts(seed, decay=2)]).mean(0)
            curves.append(overlap_curve(scores, self._eigenspace(mean)))
        deviation = torch.stack(curves).std(0)
        errors = []
        for seed in range(30):
            parts = self._parts(seed, decay=2)
            B = self._eigenspace(torch.stack([part.to_dense() for part in parts]).mean(0))
            errors.append(overlap_jackknife(scores, B, parts).standard_error)
        ratio = torch.stack(errors).square().mean(0).sqrt()[:8] / deviation[:8]
        assert bool(((ratio > 0.85) & (ratio < 1.5)).all()), ratio

    def test_is_that_of_dense_eigenspaces(self):
        """One step of subspace iteration from twice the eigenvectors is as good as a decomposition of what is left."""
        scores = torch.rand(self.n, generator=torch.Generator().manual_seed(0)).double()
        parts = self._parts(1)
        dense = torch.stack([part.to_dense() for part in parts])
        B = self._eigenspace(dense.mean(0), self.n)
        found = overlap_jackknife(scores, B, parts)
        left = torch.stack(
            [
                overlap_curve(scores, self._eigenspace((dense.sum(0) - each) / (len(parts) - 1), self.n))
                for each in dense
            ]
        )
        expected = ((len(parts) - 1) * (left - left.mean(0)).square().mean(0)).sqrt()
        torch.testing.assert_close(found.standard_error, expected, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.bias, (len(parts) - 1) * (left.mean(0) - found.overlap), rtol=1e-8, atol=1e-10)
        few = overlap_jackknife(scores, self._eigenspace(dense.mean(0), 16), parts)
        torch.testing.assert_close(few.standard_error[:8], expected[:8], rtol=0.15, atol=0)

    def test_parts_of_different_weight(self):
        parts = self._parts(2, 4)
        weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        mean = sum(float(weight) * part.to_dense() for weight, part in zip(weights, parts, strict=True))
        found = overlap_jackknife(torch.arange(self.n).double(), self._eigenspace(mean), parts, weights)
        assert bool((found.standard_error > 0).all())
        with pytest.raises(ValueError, match="is not the operator whose eigenspace was given"):
            overlap_jackknife(torch.arange(self.n).double(), self._eigenspace(mean), parts)

    def test_of_a_network(self):
        """Hessians on batches, whose mean is the Hessian on all."""
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
        x, y = torch.randn(60, 5, dtype=torch.float64), torch.randint(0, 3, (60,))
        loss = torch.nn.CrossEntropyLoss()
        H = es.Hessian(model, loss, (x, y))
        eig = es.DenseEigh(k=10).solve(H)
        parts = [es.Hessian(model, loss, batch) for batch in zip(x.split(10), y.split(10), strict=True)]
        found = overlap_jackknife(es.magnitude(H.parameters), eig.subspace, parts)
        low, high = found.interval()
        assert bool((low < found.overlap).all() and (found.overlap < high).all())
        assert "over 6 parts of the data" in repr(found)

    def test_parts_without_which_eigenvectors_vanish(self):
        blocks = [torch.zeros(12, 12, dtype=torch.float64) for _ in range(3)]
        for number, block in enumerate(blocks):
            block.diagonal()[4 * number : 4 * number + 4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
        B = self._eigenspace(torch.stack(blocks).mean(0), 12)
        with pytest.raises(ValueError, match=r"8 of 12 eigenvectors are left .* B\.leading\(8\)"):
            overlap_jackknife(torch.arange(12).double(), B, [Dense(block, es.Structure.SYMMETRIC) for block in blocks])

    def test_bad_input(self):
        parts = self._parts(3, 3)
        B = self._eigenspace(torch.stack([part.to_dense() for part in parts]).mean(0))
        scores = torch.arange(self.n).double()
        with pytest.raises(ValueError, match="at least two parts, got 1"):
            overlap_jackknife(scores, B, parts[:1])
        for weights in (torch.ones(3), torch.tensor([0.5, 0.5]), torch.tensor([-0.5, 0.5, 1.0])):
            with pytest.raises(ValueError, match="3 positive weights of sum 1"):
                overlap_jackknife(scores, B, parts, weights)
        with pytest.raises(ValueError, match="between 0 and 1"):
            overlap_jackknife(scores, B, parts).interval(95)


def test_parts_are_a_list_of_operators_of_any_kind():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    eigenspace = EigenSubspace(torch.eye(4, dtype=torch.float64)[:, :2], matrix.diagonal()[:2])
    scores = torch.arange(4.0)
    expected = overlap_jackknife(scores, eigenspace, [Dense(matrix)] * 2)
    found = overlap_jackknife(scores, eigenspace, [matrix.numpy()] * 2)
    torch.testing.assert_close(found.standard_error, expected.standard_error)
    with pytest.raises(TypeError, match="a list of operators, got generator"):
        overlap_jackknife(scores, eigenspace, (part for part in [matrix] * 2))
