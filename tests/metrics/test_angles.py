"""Principal angles: known angles, both ends of the range, exactness for masks, tall blocks, bad input."""

from __future__ import annotations

import math

import numpy
import pytest
import scipy.linalg
import torch
from metric_contract import TOLERANCE, dense, pairs, planes, rotation, span

from eigenspan.linops import MaskSubspace, OrthonormalSubspace, tall_qr
from eigenspan.metrics import principal_angles, principal_vectors

RIGHT = math.pi / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_scipy(device, dtype):
    for A, B in pairs(device, dtype):
        angles = principal_angles(A, B)
        expected = scipy.linalg.subspace_angles(dense(A).cpu().numpy(), dense(B).cpu().numpy())[::-1]
        assert angles.dims == (A.dim, B.dim)
        assert len(angles) == min(A.dim, B.dim)
        assert angles.radians.dtype == torch.float64
        # Spaces of dimension 7 and 8 in R¹² share 3 directions; SciPy gives angles of 1e-8 there instead of 0.
        expected = numpy.where(expected < 1e-6, 0, expected)
        numpy.testing.assert_allclose(angles.radians.cpu(), expected, rtol=0, atol=TOLERANCE[dtype])


def test_ascending_and_on_the_unit_circle(device):
    for A, B in pairs(device, torch.float32):
        angles = principal_angles(A, B)
        assert bool((angles.sines.diff() >= 0).all())
        assert bool((angles.cosines.diff() <= 0).all())
        torch.testing.assert_close(angles.sines.square() + angles.cosines.square(), torch.ones_like(angles.sines))


@pytest.mark.parametrize("theta", [1e-12, 1e-9, 1e-5, 0.5, RIGHT - 1e-5])
def test_one_angle_to_relative_precision(device, theta):
    A, B = planes([theta], device)
    assert principal_angles(A, B).radians.item() == pytest.approx(theta, rel=1e-15)


@pytest.mark.parametrize("gap", [1e-12, 1e-9, 1e-5])
def test_cosine_near_a_right_angle_to_relative_precision(device, gap):
    identity = torch.eye(2, dtype=torch.float64, device=device)
    B = span(torch.tensor([[math.sin(gap)], [math.cos(gap)]], dtype=torch.float64, device=device))
    assert principal_angles(span(identity[:, :1]), B).cosines.item() == pytest.approx(gap, rel=1e-10)


def test_angles_of_both_kinds_at_once_in_rotated_bases(device):
    """The stored bases are rounded at eps = 2e-16, so 1e-9 is known to 1e-6 of itself; arccos gives 1e-8."""
    known = [1e-9, 2e-9, 0.3, RIGHT - 2e-9, RIGHT - 1e-9]
    A, B = planes(known, device)
    Q = rotation(10, 1, device)
    A = span(Q @ A.vectors @ rotation(5, 2, device))
    B = span(Q @ B.vectors @ rotation(5, 3, device))
    angles = principal_angles(A, B)
    numpy.testing.assert_allclose(angles.radians.cpu(), known, rtol=2e-6)
    numpy.testing.assert_allclose(angles.cosines[3:].cpu(), [2e-9, 1e-9], rtol=2e-6)


def test_small_angles_in_float32_are_not_squared_away(device):
    """sqrt(1 - cos²) in float32 sees no angle below 3e-4; the residual sees one of 1e-6."""
    theta = torch.tensor([1e-6, 0.4], dtype=torch.float64)
    A, B = planes(theta.tolist(), device)
    angles = principal_angles(A.to(dtype=torch.float32), B.to(dtype=torch.float32))
    numpy.testing.assert_allclose(angles.radians.cpu(), theta, rtol=1e-6)


def test_log_cosines_and_half_sines(device):
    known = torch.tensor([1e-9, 0.1, math.pi / 4, 1.2, RIGHT - 1e-6], dtype=torch.float64, device=device)
    angles = principal_angles(*planes(known.tolist(), device))
    torch.testing.assert_close(angles.half_sines, (known / 2).sin(), rtol=1e-14, atol=0)
    # log(cos x) from 1 - sin² for small x, by its series -x²/2 at 1e-9.
    expected = torch.cat([-known[:1].square() / 2, known[1:].cos().log()])
    torch.testing.assert_close(angles.log_cosines, expected, rtol=1e-9, atol=0)


def test_two_masks_are_exact(device):
    A = MaskSubspace.from_indices(torch.tensor([0, 2, 5, 7], device=device), 10)
    B = MaskSubspace.from_indices(torch.tensor([2, 3, 7], device=device), 10)
    for angles in (principal_angles(A, B), principal_angles(B, A)):
        assert angles.radians.tolist() == [0.0, 0.0, RIGHT]
        assert angles.padded().radians.tolist() == [0.0, 0.0, RIGHT, RIGHT]


def test_padding_is_idempotent(device):
    angles = principal_angles(MaskSubspace.random(9, 2).to(device=device), MaskSubspace.random(9, 6).to(device=device))
    assert len(angles.padded()) == 6
    assert len(angles.padded().padded()) == 6


def test_tall_blocks_are_factorised_in_pieces(monkeypatch, device):
    """No single QR of the whole: past 2³¹ numbers LAPACK cannot index it."""
    A = OrthonormalSubspace.random(5000, 4, seed=1).to(device=device)
    B = OrthonormalSubspace.random(5000, 3, seed=2).to(device=device)
    whole = principal_angles(A, B).radians
    sizes = []
    qr = torch.linalg.qr

    def recording_qr(matrix, mode):
        sizes.append(matrix.numel())
        return qr(matrix, mode=mode)

    monkeypatch.setattr(tall_qr, "_PIECE", 999)
    monkeypatch.setattr(torch.linalg, "qr", recording_qr)
    pieces = principal_angles(A, B).radians
    assert len(sizes) > 15
    assert max(sizes) <= 999 + 9
    torch.testing.assert_close(pieces, whole, rtol=1e-14, atol=0)


def test_repr_shows_the_range(device):
    assert (
        repr(principal_angles(*planes([0.25, 0.5], device))) == "<PrincipalAngles 2 of dims (2, 2): 0.25 ... 0.5 rad>"
    )


class TestPrincipalVectors:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_are_orthonormal_bases_of_parts_of_both_that_pair(self, device, dtype):
        for A, B in pairs(device, dtype):
            vectors, r = principal_vectors(A, B), min(A.dim, B.dim)
            U, V = vectors.left.double(), vectors.right.double()
            assert (vectors.left.dtype, vectors.left.device, U.shape) == (dtype, A.device, (A.ambient_dim, r))
            cosines, identity = vectors.angles.cosines, torch.eye(r, dtype=torch.float64, device=device)
            for actual, expected in (
                (U.mT @ U, identity),
                (V.mT @ V, identity),
                (U.mT @ V, cosines.diag()),
                (dense(A) @ (dense(A).mT @ U), U),
                (dense(B) @ (dense(B).mT @ V), V),
            ):
                torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[dtype])
            expected_angles = principal_angles(A, B)
            assert vectors.angles.dims == expected_angles.dims
            torch.testing.assert_close(vectors.angles.radians, expected_angles.radians, rtol=0, atol=TOLERANCE[dtype])
            assert bool((vectors.angles.sines.diff() >= 0).all())
            assert bool((vectors.angles.cosines.diff() <= 0).all())

    def test_known_vectors_at_both_ends_in_rotated_bases(self, device):
        """Apart by 1e-9 in angle, which neither cosines near 1 nor sines near 1 tell apart.

        Bases rounded at 2e-16 turn vectors whose angles are 1e-9 apart by up to 1e-6.
        """
        known = [1e-9, 2e-9, 0.3, RIGHT - 2e-9, RIGHT - 1e-9]
        A, B = planes(known, device)
        Q = rotation(10, 1, device)
        left, right = Q @ A.vectors, Q @ B.vectors
        vectors = principal_vectors(span(left @ rotation(5, 2, device)), span(right @ rotation(5, 3, device)))
        numpy.testing.assert_allclose(vectors.angles.radians.cpu(), known, rtol=2e-6)
        identity = torch.eye(5, dtype=torch.float64, device=device)
        for actual, expected in ((vectors.left, left), (vectors.right, right)):
            torch.testing.assert_close((actual.mT @ expected).abs(), identity, rtol=0, atol=5e-6)

    def test_clusters_at_the_angle_where_sines_take_over_from_cosines(self, device):
        """Angles of π/4 are taken from either; they stay ascending, and the vectors orthonormal."""
        for seed in range(50):
            A, B = planes([0.3] + 4 * [math.pi / 4] + [1.2], device)
            Q = rotation(12, seed, device)
            A, B = (span(Q @ S.vectors @ rotation(6, seed + 1, device), torch.float32) for S in (A, B))
            vectors = principal_vectors(A, B)
            assert bool((vectors.angles.sines.diff() >= 0).all())
            assert bool((vectors.angles.cosines.diff() <= 0).all())
            gram = vectors.left.double().mT @ vectors.right.double()
            torch.testing.assert_close(gram, vectors.angles.cosines.diag(), rtol=0, atol=TOLERANCE[torch.float32])

    def test_differences_of_tiny_angles_are_resolved(self, device):
        """uᵢ - vᵢ has length 2 sin(θ/2), to a rounding of the vectors."""
        known = [1e-12, 1e-9, 1e-5]
        A, B = planes(known, device)
        vectors = principal_vectors(A, B)
        lengths = torch.linalg.vector_norm(vectors.left - vectors.right, dim=0)
        numpy.testing.assert_allclose(lengths.cpu(), known, rtol=0, atol=5e-16)

    def test_two_masks_give_axes(self, device):
        A = MaskSubspace.from_indices(torch.tensor([0, 2, 5, 7], device=device), 10)
        B = MaskSubspace.from_indices(torch.tensor([2, 3, 7], device=device), 10)
        vectors = principal_vectors(A, B)
        identity = torch.eye(10, device=device)
        assert torch.equal(vectors.left, identity[:, [2, 7, 0]])
        assert torch.equal(vectors.right, identity[:, [2, 7, 3]])
        assert vectors.angles.radians.tolist() == [0.0, 0.0, RIGHT]
        assert torch.equal(principal_vectors(B, A).left, vectors.right)

    def test_repr(self, device):
        described = repr(principal_vectors(*planes([0.25, 0.5], device)))
        assert described == "<PrincipalVectors of <PrincipalAngles 2 of dims (2, 2): 0.25 ... 0.5 rad> in R^4>"

    def test_not_subspaces(self):
        with pytest.raises(TypeError, match="two subspaces, got Tensor"):
            principal_vectors(OrthonormalSubspace.random(9, 2), torch.eye(9)[:, :2])


class TestBadInput:
    def test_different_ambient_dimensions(self):
        with pytest.raises(ValueError, match="different dimension"):
            principal_angles(OrthonormalSubspace.random(9, 2), OrthonormalSubspace.random(8, 2))

    def test_different_dtypes(self):
        with pytest.raises(TypeError, match="differ in dtype"):
            principal_angles(OrthonormalSubspace.random(9, 2), MaskSubspace.random(9, 2, dtype=torch.float64))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_not_subspaces(self, reverse):
        A, B = OrthonormalSubspace.random(9, 2), torch.eye(9)[:, :2]
        with pytest.raises(TypeError, match=r"two subspaces, got Tensor.*OrthonormalSubspace\(Q\)"):
            principal_angles(*((B, A) if reverse else (A, B)))
