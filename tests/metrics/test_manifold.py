"""Logarithm, exponential, geodesics and means: the identities that define them, at angles of every size."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from metric_contract import dense, rotation, span

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import geodesic, geodesic_point, grassmann_exp, grassmann_log, karcher_mean, principal_angles

RIGHT = math.pi / 2
# Roundings of bases of ten rows, 6e-8 and 1e-16, through a handful of products.
TOLERANCE = {torch.float64: 2e-14, torch.float32: 2e-6}

ANGLES = {
    "tiny": [1e-8, 2e-8, 5e-8],
    "moderate": [0.2, 0.7, 1.1],
    "equal": [0.6, 0.6, 0.6],
    "near right": [RIGHT - 1e-6, RIGHT - 1e-8, RIGHT - 1e-10],
    "of every size": [0.0, 1e-9, 1e-4, 0.5, RIGHT - 1e-9],
    "one of ninety degrees": [0.3, RIGHT],
}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(params=ANGLES.values(), ids=ANGLES.keys())
def angles(request):
    return request.param


def pair(angles, dtype, device, turn=True):
    """Two subspaces of R²ᵏ⁺¹ at known angles, in bases that do not pair."""
    k = len(angles)
    theta = torch.tensor(angles, dtype=torch.float64, device=device)
    whole = rotation(2 * k + 1, 1, device)
    A = whole[:, :k]
    B = whole[:, :k] * theta.cos() + whole[:, k : 2 * k] * theta.sin()
    if turn:
        A, B = A @ rotation(k, 2, device), B @ rotation(k, 3, device)
    return span(A, dtype), span(B, dtype)


class TestLogarithmAndExponential:
    def test_exponential_undoes_the_logarithm(self, angles, dtype, device):
        A, B = pair(angles, dtype, device)
        end = grassmann_exp(A, grassmann_log(A, B))
        assert type(end) is OrthonormalSubspace
        assert (end.dtype, end.device, end.dim) == (dtype, A.device, A.dim)
        assert geodesic(end, B) < TOLERANCE[dtype]
        gram = dense(end).mT @ dense(end)
        assert float((gram - torch.eye(A.dim, device=device)).abs().max()) < TOLERANCE[dtype]

    def test_logarithm_is_horizontal_and_as_long_as_the_path(self, angles, dtype, device):
        A, B = pair(angles, dtype, device)
        H = grassmann_log(A, B)
        assert (H.shape, H.dtype, H.device) == (A.basis.shape, dtype, A.device)
        expected = math.sqrt(sum(angle**2 for angle in angles))
        assert float(H.double().norm()) == pytest.approx(expected, abs=TOLERANCE[dtype])
        assert float(H.double().norm()) == pytest.approx(geodesic(A, B), abs=TOLERANCE[dtype])
        # Orthogonal to the rounding of its own length, and of nothing larger.
        assert float((dense(A).mT @ H.double()).norm()) <= TOLERANCE[dtype] * float(H.double().norm())

    def test_logarithm_undoes_the_exponential(self, dtype, device):
        """Within the injectivity radius π/2."""
        A = OrthonormalSubspace.random(9, 3, seed=1, dtype=dtype, device=device)
        X = torch.randn(9, 3, dtype=dtype).to(device)
        X -= A.lift(A.coordinates(X))
        for length in (1e-8, 1e-3, 0.5, 1.5):
            H = X * (length / torch.linalg.matrix_norm(X, 2))
            assert float((grassmann_log(A, grassmann_exp(A, H)) - H).norm()) < TOLERANCE[dtype]

    def test_exponential_is_that_of_matrices(self, device):
        """The dense twin: A ↦ exp(H Aᵀ - A Hᵀ) A, a rotation of the whole space."""
        A, B = pair([0.2, 0.9, 1.3], torch.float64, device)
        H = grassmann_log(A, B)
        for t in (0.3, 1.0, 4.0):
            skew = t * (H @ A.vectors.mT - A.vectors @ H.mT)
            expected = torch.from_numpy(scipy.linalg.expm(skew.cpu().numpy())).to(device) @ A.vectors
            torch.testing.assert_close(grassmann_exp(A, t * H).vectors, expected, rtol=0, atol=1e-13)

    def test_logarithm_is_the_textbook_formula(self, device):
        """Edelman et al.: U arctan(Σ) Vᵀ of (I - AAᵀ) B (AᵀB)⁻¹, which holds away from right angles."""
        A, B = pair([0.2, 0.7, 1.1], torch.float64, device)
        gram = A.vectors.mT @ B.vectors
        U, sigma, Vh = torch.linalg.svd(torch.linalg.solve(gram, A.residual(B).to_dense(), left=False), False)
        torch.testing.assert_close(grassmann_log(A, B), (U * sigma.atan()) @ Vh, rtol=0, atol=1e-14)

    def test_small_angles_keep_their_digits(self, device):
        """The tangent of an angle of 1e-12 in axes that need no rounding, to the last digit."""
        identity = torch.eye(2, dtype=torch.float64, device=device)
        B = span(torch.tensor([[1.0], [1e-12]], dtype=torch.float64, device=device))
        assert grassmann_log(span(identity[:, :1]), B).flatten().tolist() == pytest.approx([0, 1e-12], rel=1e-15)

    def test_basis_stays_orthonormal_where_the_tangent_is_nearly_horizontal(self, dtype, device):
        """Half the digits are asked of the tangent, all of the basis that comes out."""
        A, B = pair([0.2, 0.7, 1.1], dtype, device)
        slip = torch.finfo(dtype).eps ** 0.5 / 2
        end = dense(grassmann_exp(A, grassmann_log(A, B) + slip * A.vectors / 3**0.5))
        torch.testing.assert_close(end.mT @ end, torch.eye(3).double().to(device), rtol=0, atol=TOLERANCE[dtype])

    def test_masks_and_eigenspaces(self, dtype, device):
        mask = MaskSubspace.random(9, 3, seed=1, dtype=dtype, device=device)
        other = MaskSubspace.random(9, 3, seed=2, dtype=dtype, device=device)
        eigen = EigenSubspace(
            OrthonormalSubspace.random(9, 3, seed=3, dtype=dtype, device=device).vectors,
            torch.ones(3, dtype=dtype, device=device),
        )
        for A, B in ((mask, other), (mask, eigen), (eigen, mask), (eigen, eigen)):
            assert geodesic(grassmann_exp(A, grassmann_log(A, B)), B) < TOLERANCE[dtype]

    @pytest.mark.parametrize("angles", [ANGLES["tiny"], ANGLES["moderate"], ANGLES["equal"]])
    def test_rotation_of_the_whole_space_rotates_the_tangent(self, angles, dtype, device):
        """Near right angles rounding decides the direction: it moves the tangent by 1/cos θ times as much."""
        A, B = pair(angles, dtype, device)
        Q = rotation(A.ambient_dim, 7, device)
        C, D = (span(Q @ dense(S), dtype) for S in (A, B))
        expected = Q @ grassmann_log(A, B).double()
        torch.testing.assert_close(grassmann_log(C, D).double(), expected, rtol=0, atol=5 * TOLERANCE[dtype])

    def test_change_of_basis(self, dtype, device):
        """That of A turns the tangent along, that of B leaves it."""
        A, B = pair([0.2, 0.7, 1.1], dtype, device)
        T = rotation(3, 8, device)
        H = grassmann_log(A, B).double()
        turned = grassmann_log(span(dense(A) @ T, dtype), span(dense(B) @ rotation(3, 9, device), dtype))
        torch.testing.assert_close(turned.double(), H @ T, rtol=0, atol=5 * TOLERANCE[dtype])

    def test_bad_input(self):
        A = OrthonormalSubspace.random(9, 3)
        H = grassmann_log(A, OrthonormalSubspace.random(9, 3, seed=1))
        with pytest.raises(ValueError, match=r"3 of 9 .* and <.* 2 of 9 .* differ in dimension"):
            grassmann_log(A, OrthonormalSubspace.random(9, 2))
        with pytest.raises(ValueError, match="spaces of different dimension"):
            grassmann_log(A, OrthonormalSubspace.random(8, 3))
        with pytest.raises(TypeError, match="two subspaces, got Tensor"):
            grassmann_log(A, A.vectors)
        with pytest.raises(ValueError, match=r"finite \(9, 3\) matrix, got shape \(9, 2\)"):
            grassmann_exp(A, H[:, :2])
        with pytest.raises(ValueError, match="finite"):
            grassmann_exp(A, H / 0)
        with pytest.raises(TypeError, match="float64"):
            grassmann_exp(A, H.double())
        with pytest.raises(ValueError, match=r"not orthogonal .*complement_projector @ tangent"):
            grassmann_exp(A, H + 1e-2 * A.vectors)


class TestGeodesicPoint:
    def test_ends_and_constant_speed(self, angles, dtype, device):
        A, B = pair(angles, dtype, device)
        whole = geodesic(A, B)
        points = {t: geodesic_point(A, B, t) for t in (0.0, 0.25, 0.5, 1.0)}
        assert geodesic(points[0.0], A) < TOLERANCE[dtype]
        torch.testing.assert_close(points[0.0].vectors, A.vectors, rtol=0, atol=TOLERANCE[dtype])
        assert geodesic(points[1.0], B) < TOLERANCE[dtype]
        for s, start in points.items():
            for t, end in points.items():
                assert geodesic(start, end) == pytest.approx(abs(t - s) * whole, abs=2 * TOLERANCE[dtype])

    def test_principal_angles_grow_in_proportion(self, dtype, device):
        known = [0.2, 0.7, 1.1]
        A, B = pair(known, dtype, device)
        radians = principal_angles(A, geodesic_point(A, B, 0.5)).radians.tolist()
        assert radians == pytest.approx([angle / 2 for angle in known], abs=TOLERANCE[dtype])

    def test_goes_on_beyond_and_before(self, device):
        A, B = pair([0.1, 0.3], torch.float64, device)
        assert geodesic(geodesic_point(A, B, -1.0), B) == pytest.approx(2 * geodesic(A, B), abs=1e-13)
        assert geodesic(geodesic_point(A, B, 2.0), B) == pytest.approx(geodesic(A, B), abs=1e-13)

    def test_the_same_backwards(self, dtype, device):
        A, B = pair([0.2, 0.7, 1.1], dtype, device)
        assert geodesic(geodesic_point(A, B, 0.3), geodesic_point(B, A, 0.7)) < 5 * TOLERANCE[dtype]


class TestKarcherMean:
    def test_of_two_is_the_point_between(self, dtype, device):
        A, B = pair([0.1, 0.4, 0.9], dtype, device)
        tolerance = 200 * 3**0.5 * torch.finfo(dtype).eps  # the gradient at which it stops, and rounding
        assert geodesic(karcher_mean([A, B]), geodesic_point(A, B, 0.5)) < tolerance
        assert geodesic(karcher_mean([A, B], weights=[3, 1]), geodesic_point(A, B, 0.25)) < tolerance
        assert geodesic(karcher_mean([A, B], weights=torch.tensor([0, 5])), B) < tolerance

    def test_of_lines_in_the_plane_is_the_mean_of_their_angles(self, device):
        theta = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64, device=device)
        lines = [span(torch.stack([t.cos(), t.sin()])[:, None]) for t in theta]
        x, y = karcher_mean(lines).vectors.flatten().tolist()
        assert math.atan(y / x) == pytest.approx(float(theta.mean()), abs=1e-13)

    def test_is_a_minimum_and_does_not_depend_on_the_order(self, dtype, device):
        """No step from it comes nearer; the balls of radius 0.5 around a centre hold them all."""
        centre = OrthonormalSubspace.random(10, 3, seed=1, dtype=dtype, device=device)
        others = [OrthonormalSubspace.random(10, 3, seed=s, dtype=dtype, device=device) for s in range(2, 7)]
        near = [geodesic_point(centre, B, 0.5 / geodesic(centre, B)) for B in others]
        mean = karcher_mean(near)
        assert geodesic(mean, karcher_mean(near[::-1])) < 2000 * torch.finfo(dtype).eps

        def cost(X):
            return sum(geodesic(X, A) ** 2 for A in near)

        least = cost(mean)
        assert least < cost(centre)
        for B in others:
            assert cost(geodesic_point(mean, B, 0.05)) > least

    def test_of_one_or_of_equals(self, device):
        A = MaskSubspace.random(9, 3, seed=1, dtype=torch.float64, device=device)
        same = span(dense(A) @ rotation(3, 1, device))
        assert geodesic(karcher_mean([A]), A) < 1e-14
        assert geodesic(karcher_mean([A, same, A]), A) < 1e-14

    def test_without_convergence_says_what_to_do(self):
        A, B = pair([0.1, 0.4], torch.float64, "cpu")
        with pytest.raises(RuntimeError, match=r"gradient of .* after 1 steps.*raise max_steps or tol.*π/4"):
            karcher_mean([A, B], max_steps=1)
        assert geodesic(karcher_mean([A, B], max_steps=1, tol=1.0), A) < 1e-14

    @pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
    def test_weights_that_do_not_fit(self, weights):
        A = OrthonormalSubspace.random(5, 2)
        with pytest.raises(ValueError, match="2 subspaces have as many finite weights >= 0"):
            karcher_mean([A, A], weights)

    def test_bad_subspaces(self):
        A = OrthonormalSubspace.random(5, 2)
        with pytest.raises(ValueError, match="mean of no subspaces"):
            karcher_mean([])
        with pytest.raises(TypeError, match="got Tensor"):
            karcher_mean([A.vectors])
        with pytest.raises(ValueError, match="differ in dimension"):
            karcher_mean([A, OrthonormalSubspace.random(5, 3)])


def test_arguments_of_other_kinds():
    A = OrthonormalSubspace.random(6, 2)
    with pytest.raises(TypeError, match=r"a tangent at .* is a tensor, got ndarray; convert it"):
        grassmann_exp(A, torch.zeros(6, 2).numpy())
    with pytest.raises(ValueError, match="a time is a finite number, got nan"):
        geodesic_point(A, A, math.nan)
    for subspaces in (A, iter([A])):
        with pytest.raises(TypeError, match="that of a list of subspaces, got"):
            karcher_mean(subspaces)
