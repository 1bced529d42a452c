"""What holds for every scalar that compares two subspaces through their principal angles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace, Subspace

N = 12

# The rounding of an orthonormal basis, a few eps, times what a dozen angles add up to.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5}


def rotation(n: int, seed: int, device: torch.device) -> Tensor:
    """An orthogonal (n, n) matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0].to(device)


def dense(subspace: Subspace) -> Tensor:
    """The basis as an (n, k) float64 matrix."""
    return subspace.basis.to_dense().double()


def span(matrix: Tensor, dtype: torch.dtype = torch.float64) -> OrthonormalSubspace:
    """The subspace of an orthonormal (n, k) matrix."""
    return OrthonormalSubspace(matrix.to(dtype))


def planes(angles: list[float], device: torch.device) -> tuple[OrthonormalSubspace, OrthonormalSubspace]:
    """Two k-dimensional subspaces of R²ᵏ at the k given principal angles, no two vectors of which need rounding."""
    theta = torch.tensor(angles, dtype=torch.float64, device=device)
    identity = torch.eye(len(angles), dtype=torch.float64, device=device)
    A = torch.cat([identity, torch.zeros_like(identity)])
    B = torch.cat([theta.cos().diag(), theta.sin().diag()])
    return span(A), span(B)


def pairs(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Subspace, Subspace]]:
    """Two bases, a mask and a basis, a basis and a mask, two masks; of equal and of different dimension."""
    for dims in ((3, 3), (2, 5), (5, 2), (1, 4), (7, 8), (N, 3)):
        bases = [OrthonormalSubspace.random(N, d, seed=d + 20 * i, dtype=dtype) for i, d in enumerate(dims)]
        masks = [MaskSubspace.random(N, d, seed=d + 40 * i, dtype=dtype) for i, d in enumerate(dims)]
        for A in (bases[0], masks[0]):
            for B in (bases[1], masks[1]):
                yield A.to(device=device), B.to(device=device)


def eigenspace(n: int, k: int, seed: int, dtype: torch.dtype, device: torch.device | str) -> EigenSubspace:
    """Random orthonormal eigenvectors."""
    vectors = OrthonormalSubspace.random(n, k, seed=seed, dtype=dtype, device=device).vectors
    return EigenSubspace(vectors, torch.arange(k, 0, -1, dtype=dtype, device=device))


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that an operation made while it was active."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


class MetricContract:
    """Inherit and define `evaluate` and `closed_form`.

    Attributes:
        at_equality: the value of f(A, A).
    """

    at_equality = 0.0

    def evaluate(self, A: Subspace, B: Subspace) -> float:
        raise NotImplementedError

    def closed_form(self, angles: list[float], dims: tuple[int, int]) -> float:
        """The value at min(dims) angles, by the textbook formula in plain arithmetic."""
        raise NotImplementedError

    def extreme(self, dims: tuple[int, int]) -> float:
        """The value for orthogonal subspaces."""
        return self.closed_form([math.pi / 2] * min(dims), dims)

    @pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        return request.param

    def test_gives_a_python_float(self, device, dtype):
        for A, B in pairs(device, dtype):
            assert type(self.evaluate(A, B)) is float

    def test_agrees_with_scipy_and_the_textbook_formula(self, device, dtype):
        for A, B in pairs(device, dtype):
            angles = scipy.linalg.subspace_angles(dense(A).cpu().numpy(), dense(B).cpu().numpy()).tolist()
            expected = self.closed_form(angles, (A.dim, B.dim))
            # scipy's own angles carry an absolute error of eps, which Martin's logarithm amplifies near π/2.
            tolerance = 100 * TOLERANCE[dtype]
            if math.isfinite(expected) and expected < 5:
                assert self.evaluate(A, B) == pytest.approx(expected, rel=tolerance, abs=tolerance)

    def test_symmetry(self, device, dtype):
        for A, B in pairs(device, dtype):
            assert self.evaluate(A, B) == pytest.approx(self.evaluate(B, A), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])

    def test_identity(self, device, dtype):
        for A, _ in pairs(device, dtype):
            same = span(dense(A) @ rotation(A.dim, 1, device), dtype)
            assert self.evaluate(A, A) == pytest.approx(self.at_equality, abs=TOLERANCE[dtype])
            assert self.evaluate(A, same) == pytest.approx(self.at_equality, abs=TOLERANCE[dtype])

    def test_different_subspaces_differ(self, device):
        A, B = planes([0.0, 1e-3], device)
        # Squares of cosines see an angle of 1e-3 as 1e-6.
        assert abs(self.evaluate(A, B) - self.at_equality) > 1e-7

    def test_range(self, device, dtype):
        for A, B in pairs(device, dtype):
            low, high = sorted((self.at_equality, self.extreme((A.dim, B.dim))))
            value = self.evaluate(A, B)
            assert low - TOLERANCE[dtype] <= value <= high + TOLERANCE[dtype]

    def test_right_angles_reach_the_extreme(self, device, dtype):
        for dims in ((2, 2), (1, 4), (5, 3)):
            A = MaskSubspace.from_indices(torch.arange(dims[0], device=device), N, dtype)
            B = MaskSubspace.from_indices(torch.arange(dims[0], sum(dims), device=device), N, dtype)
            assert self.evaluate(A, B) == pytest.approx(self.extreme(dims), rel=1e-15)

    def test_invariance_under_change_of_basis(self, device, dtype):
        for A, B in pairs(device, dtype):
            C = span(dense(A) @ rotation(A.dim, 2, device), dtype)
            D = span(dense(B) @ rotation(B.dim, 3, device), dtype)
            self._assert_equal(self.evaluate(A, B), self.evaluate(C, D), dtype)

    def test_invariance_under_a_common_orthogonal_map(self, device, dtype):
        Q = rotation(N, 4, device)
        for A, B in pairs(device, dtype):
            self._assert_equal(
                self.evaluate(A, B), self.evaluate(span(Q @ dense(A), dtype), span(Q @ dense(B), dtype)), dtype
            )

    def _assert_equal(self, expected: float, actual: float, dtype: torch.dtype) -> None:
        if math.isinf(expected):
            # A cosine that is 0 exactly becomes one of rounding size.
            assert actual > (4 if dtype == torch.float32 else 8)
        else:
            tolerance = 100 * TOLERANCE[dtype]
            assert actual == pytest.approx(expected, rel=tolerance, abs=tolerance)

    @pytest.mark.parametrize("theta", [0.0, 1e-9, 1e-4, math.pi / 6, math.pi / 4, 1.0, math.pi / 2 - 1e-4])
    def test_lines_in_the_plane(self, device, theta):
        A, B = planes([theta], device)
        assert self.evaluate(A, B) == pytest.approx(self.closed_form([theta], (1, 1)), rel=1e-7, abs=1e-15)

    @pytest.mark.parametrize("angles", [[0.3, 1.2], [0.0, 0.7], [1e-9, 1.5], [0.5, 0.5], [0.0, 0.0]])
    def test_planes_in_four_dimensions(self, device, angles):
        A, B = planes(angles, device)
        Q = rotation(4, 5, device)
        expected = self.closed_form(angles, (2, 2))
        assert self.evaluate(A, B) == pytest.approx(expected, rel=1e-13, abs=1e-13)
        assert self.evaluate(span(Q @ A.vectors), span(Q @ B.vectors)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


class TriangleContract(MetricContract):
    """A true metric, over subspaces of all dimensions."""

    def test_triangle_inequality(self, device):
        generator = numpy.random.default_rng(0)
        for trial in range(60):
            A, B, C = (self._corner(generator, trial, device) for _ in range(3))
            assert self.evaluate(A, C) <= self.evaluate(A, B) + self.evaluate(B, C) + 1e-13

    @staticmethod
    def _corner(generator: numpy.random.Generator, trial: int, device: torch.device) -> Subspace:
        """A subspace of 1 to 4 of 6 dimensions: equal dimensions in every other trial, close ones in every third."""
        dims = 3 if trial % 2 else int(generator.integers(1, 5))
        matrix = generator.standard_normal((6, dims))
        if trial % 3 == 0:
            matrix = numpy.eye(6, dims) + 0.1 * matrix
        return OrthonormalSubspace.from_span(torch.from_numpy(matrix).to(device))
