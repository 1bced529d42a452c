"""Sum, intersection, difference and complement of all pairs of kinds, against SciPy's null spaces and ranges."""

from __future__ import annotations

import numpy
import pytest
import scipy.linalg
import torch
from metric_contract import rotation, span
from subspace_contract import KINDS, dense

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace, Subspace

N = 12
# Roundings of bases of twelve rows, divided by sines and gaps of about a tenth.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def projector(A):
    """The dense twin, or the orthogonal projector onto the columns of an array."""
    basis = dense(A).numpy() if isinstance(A, Subspace) else A
    return basis @ basis.T


def same(A, expected):
    """Whether a subspace is that of an orthonormal array, or another subspace."""
    dtype = A.dtype
    identity = numpy.eye(A.dim)
    basis = dense(A).numpy()
    numpy.testing.assert_allclose(basis.T @ basis, identity, rtol=0, atol=TOLERANCE[dtype])
    numpy.testing.assert_allclose(projector(A), projector(expected), rtol=0, atol=TOLERANCE[dtype])


def sharing(common, left, right, dtype, device, seed=1):
    """Two subspaces with that many directions in common and that many others, at angles well apart from 0 and π/2."""
    whole = rotation(N, seed, device)
    shared, own, rest = whole[:, :common], whole[:, common : common + left], whole[:, common + left :]
    pairs = min(left, right)
    turned = torch.cat([0.8 * own[:, :pairs] + 0.6 * rest[:, :pairs], rest[:, pairs:right]], dim=1)
    A = torch.cat([shared, own], dim=1) @ rotation(common + left, seed + 1, device)
    B = torch.cat([shared, turned], dim=1) @ rotation(common + right, seed + 2, device)
    return span(A, dtype), span(B, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype, device):
    """As in single precision, to the rounding of the entries."""
    A, B = sharing(2, 3, 2, torch.float32, device)
    halves = A.to(dtype=dtype), B.to(dtype=dtype)
    whole = (A | B, A & B, A - B, A.complement())
    rough = (halves[0] | halves[1], halves[0] & halves[1], halves[0] - halves[1], halves[0].complement())
    for one, other in zip(whole, rough, strict=True):
        assert (other.dim, other.dtype) == (one.dim, dtype)
        numpy.testing.assert_allclose(
            projector(other.to(dtype=torch.float32)), projector(one), rtol=0, atol=20 * torch.finfo(dtype).eps
        )


class TestOfGeneralSubspaces:
    @pytest.mark.parametrize(("common", "left", "right"), [(2, 3, 3), (1, 0, 4), (3, 4, 1), (2, 2, 0), (3, 0, 0)])
    def test_sum_and_intersection_are_those_of_scipy(self, common, left, right, dtype, device):
        A, B = sharing(common, left, right, dtype, device)
        a, b = dense(A).numpy(), dense(B).numpy()
        for first, second in ((A, B), (B, A)):
            joint, meet = first | second, first & second
            assert (joint.dim, meet.dim) == (common + left + right, common)
            assert (joint.dtype, joint.device) == (meet.dtype, meet.device) == (dtype, A.device)
            same(joint, scipy.linalg.orth(numpy.hstack([a, b]), rcond=1e-3))
            outside = numpy.vstack([numpy.eye(N) - projector(A), numpy.eye(N) - projector(B)])
            same(meet, scipy.linalg.null_space(outside, rcond=1e-3))

    @pytest.mark.parametrize(("left", "right"), [(3, 3), (5, 2), (2, 5)])
    def test_difference_is_that_of_scipy(self, left, right, dtype, device):
        """What of A is orthogonal to B: one shared direction and the turned ones are not."""
        A, B = sharing(1, left, right, dtype, device)
        if left <= right:
            with pytest.raises(ValueError, match=f"{A} - {B} is empty at tol="):
                A - B
            A = A | (A | B).complement()
        outside = numpy.vstack([numpy.eye(N) - projector(A), projector(B)])
        expected = scipy.linalg.null_space(outside, rcond=1e-3)
        assert expected.shape[1] > 0
        same(A - B, expected)

    @pytest.mark.parametrize("k", [1, 5, N - 1])
    def test_complement(self, k, dtype, device):
        A = OrthonormalSubspace.random(N, k, seed=3, dtype=dtype, device=device)
        complement = A.complement()
        assert (complement.dim, complement.dtype, complement.device) == (N - k, dtype, A.device)
        same(complement, scipy.linalg.null_space(dense(A).numpy().T))
        same(complement.complement(), A)

    def test_laws(self, dtype, device):
        A, B = sharing(2, 3, 2, dtype, device)
        same(A & (A | B), A)
        same(A | (A & B), A)
        same((A | B).complement(), A.complement() & B.complement())
        same((A & B).complement(), A.complement() | B.complement())
        C = A | A.complement()
        assert C.dim == N
        same(C - A, A.complement())
        same(C - B, C & B.complement())

    def test_of_eigenspaces_is_a_plain_subspace(self, device):
        A = KINDS["eigen"](N, 4, 1, torch.float64, device)
        assert isinstance(A, EigenSubspace)
        for result in (A | A, A & A, A - A.leading(1), A.complement()):
            assert type(result) is OrthonormalSubspace
        same(A - A.leading(1), dense(A).numpy()[:, 1:])

    def test_operands_are_left_alone(self, device):
        A, B = sharing(2, 2, 2, torch.float64, device)
        before = A.vectors.clone(), B.vectors.clone()
        A | B, A & B, (A | B) - A, A.complement()
        assert torch.equal(A.vectors, before[0])
        assert torch.equal(B.vectors, before[1])


class TestAcrossKinds:
    @pytest.mark.parametrize("right", KINDS)
    @pytest.mark.parametrize("left", KINDS)
    def test_are_those_of_scipy(self, left, right, dtype, device):
        """At least k + l - n dimensions are shared, and at least k - l of the larger orthogonal to the smaller."""
        A, B = KINDS[left](N, 8, 1, dtype, device), KINDS[right](N, 7, 2, dtype, device)
        P, Q, identity = projector(A), projector(B), numpy.eye(N)
        for result, expected in (
            (A & B, scipy.linalg.null_space(numpy.vstack([identity - P, identity - Q]), rcond=1e-3)),
            (A - B, scipy.linalg.null_space(numpy.vstack([identity - P, Q]), rcond=1e-3)),
            (A | B, scipy.linalg.orth(P + Q, rcond=1e-3)),
        ):
            assert type(result) is (MaskSubspace if left == right == "mask" else OrthonormalSubspace)
            assert result.dim == expected.shape[1]
            same(result, expected)

    def test_a_mask_and_its_dense_twin_agree(self, dtype, device):
        A = MaskSubspace.random(N, 7, seed=1, dtype=dtype, device=device)
        B = MaskSubspace.random(N, 6, seed=2, dtype=dtype, device=device)
        twin = OrthonormalSubspace(B.basis.to_dense())
        for exact, numerical in ((A & B, A & twin), (A | B, A | twin), (A - B, A - twin), (B - A, twin - A)):
            assert isinstance(exact, MaskSubspace)
            assert type(numerical) is OrthonormalSubspace
            same(numerical, exact)
        assert isinstance(A.intersection(B, tol=0.1), MaskSubspace)

    def test_part_of_an_eigenspace_on_a_mask(self, device):
        """Eigenvectors of a block diagonal matrix: some live on the mask, the others off it."""
        vectors = torch.block_diag(*(rotation(n, n, torch.device("cpu")) for n in (5, 7)))[:, [0, 6, 1, 8]]
        A = EigenSubspace(vectors.to(device), torch.ones(4, dtype=torch.float64, device=device))
        mask = MaskSubspace.from_indices(torch.arange(5, device=device), N, torch.float64)
        same(A & mask, vectors[:, [0, 2]].numpy())
        same(A - mask, vectors[:, [1, 3]].numpy())


class TestTolerance:
    @pytest.mark.parametrize(("angle", "common"), [(1e-9, True), (1e-7, False), (1e-3, False)])
    def test_default_is_the_root_of_the_precision(self, angle, common, device):
        """Where cosines, 1 - 5e-19 and 1 - 5e-15, would call both common or both apart by the whims of rounding."""
        self.check(angle, common, torch.float64, device)

    @pytest.mark.parametrize(("angle", "common"), [(1e-5, True), (1e-3, False)])
    def test_default_of_single_precision(self, angle, common, device):
        self.check(angle, common, torch.float32, device)

    def check(self, angle, common, dtype, device, **tol):
        whole = rotation(N, 1, device)
        A = span(whole[:, :2], dtype)
        turned = (whole[:, 1] + angle * whole[:, 2])[:, None]
        B = OrthonormalSubspace.from_span(torch.cat([whole[:, :1], turned], dim=1).to(dtype))
        off = whole[:, 2:3] - angle * whole[:, 1:2]  # as far from orthogonal to A
        C = OrthonormalSubspace.from_span(off.to(dtype))
        assert A.intersection(B, **tol).dim == (2 if common else 1)
        assert A.sum(B, **tol).dim == (2 if common else 3)
        if common:
            assert C.difference(A, **tol).dim == 1
        else:
            with pytest.raises(ValueError, match="is empty at tol="):
                C.difference(A, **tol)

    @pytest.mark.parametrize(("tol", "common"), [(1e-2, True), (1e-4, False)])
    def test_can_be_named(self, tol, common, device):
        self.check(1e-3, common, torch.float64, device, tol=tol)

    def test_common_directions_are_bisectors(self, device):
        """Of two lines at an angle of 0.2 the line between them, whichever comes first."""
        x, y = torch.eye(3, dtype=torch.float64, device=device)[:, :2].unbind(1)
        c, s = numpy.cos(0.2), numpy.sin(0.2)
        A, B = span(x[:, None]), span((c * x + s * y)[:, None])
        expected = (numpy.cos(0.1) * x + numpy.sin(0.1) * y).cpu().numpy()[:, None]
        same(A.intersection(B, tol=0.3), expected)
        same(B.intersection(A, tol=0.3), expected)

    def test_a_new_direction_at_a_small_angle_is_orthogonal_to_the_others(self, device):
        """Of a residual of length 1e-7 a billionth is rounding, which a sum must not keep."""
        whole = rotation(N, 1, device)
        A = span(whole[:, :3])
        B = OrthonormalSubspace.from_span(whole[:, :3] + 1e-7 * whole[:, 3:6])
        basis = dense(A | B)
        assert basis.shape == (N, 6)
        torch.testing.assert_close(basis.mT @ basis, torch.eye(6).double(), rtol=0, atol=1e-14)

    def test_no_room_for_rounding(self, device):
        """At a tolerance of the precision some sines of 0 pass for new directions, more than the space has."""
        whole = OrthonormalSubspace.random(40, 39, seed=1, dtype=torch.float32, device=device)
        part = OrthonormalSubspace(whole.vectors @ OrthonormalSubspace.random(39, 20, device=device).vectors)
        assert whole.sum(part).dim == 39
        assert whole.sum(part, tol=torch.finfo(torch.float32).eps).dim <= 40

    @pytest.mark.parametrize("tol", [0.0, 1e-17, 0.71, float("nan")])
    def test_out_of_range(self, tol):
        A = OrthonormalSubspace.random(5, 2, dtype=torch.float64)
        for operate in (A.sum, A.intersection, A.difference):
            with pytest.raises(ValueError, match=r"tol is a sine from 2\.2e-16, .* to below √½"):
                operate(A, tol)


class TestBadOperands:
    def test_empty(self):
        A, B = OrthonormalSubspace.random(9, 2, seed=1), OrthonormalSubspace.random(9, 2, seed=2)
        with pytest.raises(ValueError, match=rf"{A} & {B} is empty at tol=3\.5e-04; a subspace has at least one"):
            A & B
        with pytest.raises(ValueError, match=f"{A} - {A} is empty"):
            A - A
        with pytest.raises(ValueError, match="is the whole space, so its complement is empty"):
            OrthonormalSubspace.random(4, 4).complement()

    def test_mismatches(self):
        A = OrthonormalSubspace.random(5, 2)
        for operate in (lambda B: A & B, lambda B: A | B, lambda B: A - B):
            with pytest.raises(ValueError, match="different dimension"):
                operate(MaskSubspace.random(6, 2))
            with pytest.raises(TypeError, match="differ in dtype"):
                operate(MaskSubspace.random(5, 2, dtype=torch.float64))
            with pytest.raises(TypeError, match="unsupported operand"):
                operate(A.vectors)
        with pytest.raises(TypeError, match="compared with another Subspace, got Tensor"):
            A.intersection(A.vectors)
