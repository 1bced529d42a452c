"""Certificates against dense truths: intervals, angles, and the premise they rest on."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from certificate_cases import (
    F64,
    TiltedEigh,
    TiltedSVD,
    all_match,
    check_by_the_premise,
    check_scree,
    dense,
    matching,
    others,
    true_sines,
)
from solver_cases import SPECTRA, N, problem, quietly, zoo

import eigenspan as es
from eigenspan.linops import Dense, Structure
from eigenspan.solvers import BlockLanczos, DenseEigh, SketchedEigh, Which
from eigenspan.solvers.certificates import certify

SOLVERS = {
    "converged": lambda k, which: BlockLanczos(k=k, which=which),
    "unconverged": lambda k, which: BlockLanczos(k=k, which=which, max_products=k + 4),
    "sketched": lambda k, which: SketchedEigh(k=k, which=which),
    "tilted": lambda k, which: TiltedEigh(k=k, which=which, noise=1e-3),
}


def diagonal(*entries, device, dtype=F64):
    return es.Diagonal(torch.tensor(entries, dtype=dtype, device=device))


def changed(result, change):
    """The result with every tensor changed."""
    return attrs.evolve(result, **{name: change(tensor) for name, tensor in result._tensors().items()})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("name", SPECTRA)
def test_zoo(name, method, which, dtype, device):
    """At a confidence at which none of these cases should fail."""
    truth = zoo(name, dtype, device)
    result = quietly(SOLVERS[method](6, which), truth.operator)
    values = dense(truth, which)[0]
    certain, shown = certify(result), certify(result, truth.operator, confidence=1 - 1e-6)
    for certificate in (certain, shown):
        assert matching(certificate.intervals, values) is not None
        assert bool((certificate.radii >= result.residual_norms.double().cpu()).all())
    # With the least bound that is true of the others. The size of the operator is not known where values are small.
    bound = float(Which(which).key(others(certain.intervals, values)).max())
    told = certify(result, beyond=-bound if which == "SA" else bound)
    check_by_the_premise(told, result, truth, which, rounding=10 * torch.finfo(dtype).eps * truth.norm)
    # All eigenvalues ahead of the bound by test vectors are of those that match the values (Mendelsohn & Dulmage).
    limit = -shown.beyond if which == "SA" else shown.beyond
    assert all_match(values[Which(which).key(values) > limit], shown.intervals)
    check_by_the_premise(shown, result, truth, which)
    check_scree(shown.scree, result, truth.matrix)


class TestClosedForms:
    """A = diag(1, 0) and a vector at an angle t to the first axis: θ = cos² t, residual norm sin t cos t."""

    T = 0.1
    THETA, NORM = math.cos(T) ** 2, math.sin(T) * math.cos(T)

    def result(self, device, sign=1, which="LM"):
        numbers = {
            "eigenvalues": [sign * self.THETA],
            "eigenvectors": [[math.cos(self.T)], [math.sin(self.T)]],
            "residual_norms": [self.NORM],
        }
        exact = DenseEigh(k=1, which=which).solve(diagonal(1, 0, device=device))
        return attrs.evolve(exact, **{name: torch.tensor(n, dtype=F64, device=device) for name, n in numbers.items()})

    @pytest.mark.parametrize(("sign", "which"), [(1, "LM"), (1, "LA"), (-1, "LM"), (-1, "SA")])
    def test_the_bound_of_kato_and_temple_is_attained(self, sign, which, device):
        """With the other eigenvalue known to be 0 the far end is the eigenvalue, the near end θ."""
        certificate = certify(self.result(device, sign, which), beyond=0.0)
        near, far = sorted(certificate.sharp_intervals[0].tolist(), key=abs)
        assert (near, far) == (pytest.approx(sign * self.THETA, abs=1e-14), pytest.approx(sign, abs=1e-14))
        assert float(certificate.radii[0]) == pytest.approx(self.NORM)

    def test_sine_is_residual_over_gap(self, device):
        certificate = certify(self.result(device), beyond=0.0)
        assert float(certificate.sines[0]) == pytest.approx(math.tan(self.T))
        assert float(certificate.overlaps[0]) == pytest.approx(1 - math.tan(self.T) ** 2)
        assert certificate.leading == 1

    def test_nothing_is_known_of_a_value_within_the_bound(self, device):
        certificate = certify(self.result(device), beyond=0.95)
        assert certificate.leading == 0
        assert torch.equal(certificate.sharp_intervals, certificate.intervals)
        assert (certificate.sines.tolist(), certificate.overlaps.tolist()) == ([1], [0])


class TestSharpness:
    @pytest.mark.parametrize(("which", "beyond"), [("LM", 6.0), ("LA", 0.1), ("SA", -0.1)])
    def test_error_of_the_order_of_the_squared_residual(self, which, beyond, device):
        truth = problem(torch.tensor([9.0, -8, 7, -6, 5, -4] + [0.1, -0.1] * 10, dtype=F64), device=device)
        result = TiltedEigh(k=3, which=which, noise=1e-4).solve(truth.operator)
        certificate = certify(result, beyond=beyond)
        assert certificate.leading == 3
        # Gaps are at least one, but for the residuals.
        norms = 1.01 * result.residual_norms.cpu()
        assert bool((certificate.sharp_radii <= norms.square() + 1e-13).all())
        assert bool((certificate.sine_norms <= norms.norm()).all())

    def test_test_vectors_show_a_gap(self, device):
        truth = problem(torch.tensor([9.0, -8, 7] + [0.1, -0.1] * 10, dtype=F64), device=device)
        result = TiltedEigh(k=3, noise=1e-4).solve(truth.operator)
        certificate = certify(result, truth.operator)
        assert certificate.leading == 3
        assert bool((certificate.sharp_radii <= result.residual_norms.cpu().square() + 1e-13).all())

    def test_values_of_a_sketch_are_not_taken_for_rayleigh_quotients(self, device):
        sketch = SketchedEigh(k=4, outer=5).solve(zoo("rank deficient", F64, device).operator)
        certificate = certify(sketch, beyond=1.0)
        assert torch.equal(certificate.sharp_intervals, certificate.intervals)
        assert certificate.leading > 0


class TestPremise:
    def test_without_anything_it_is_assumed_that_nothing_leads(self, device):
        certificate = certify(DenseEigh(k=3).solve(diagonal(5, -4, 3, 2, device=device)))
        assert (certificate.probability, certificate.scree) == (None, None)
        assert certificate.beyond == pytest.approx(3)
        assert certificate.leads.tolist() == [True, True, False]

    def test_the_last_one_found_may_lead_by_its_radius(self, device):
        result = TiltedEigh(k=3, noise=1e-2).solve(zoo("slow decay", F64, device).operator)
        certificate = certify(result)
        assert certificate.beyond == pytest.approx(float((certificate.values + certificate.radii).min()))

    def test_finds_out_what_a_solver_missed(self, device):
        """The result holds the second pair, not the first: it is not shown to lead."""
        A = diagonal(3, 5, 0.1, 0.1, device=device)
        result = changed(DenseEigh(k=2).solve(A), lambda tensor: tensor[..., 1:])
        assert result.eigenvalues.tolist() == [3]
        assert certify(result).probability is None
        for seed in range(20):
            certificate = certify(result, A, confidence=0.999, seed=seed)
            assert certificate.beyond >= 5
            assert certificate.leading == 0

    @pytest.mark.parametrize(("which", "infinite"), [("LM", -math.inf), ("LA", -math.inf), ("SA", math.inf)])
    def test_whole_spectrum_leaves_nothing_beyond(self, which, infinite, device):
        truth = problem(torch.tensor([3.0, 1.0, -2.0], dtype=F64), device=device)
        result = DenseEigh(k=3, which=which).solve(truth.operator)
        for certificate in (certify(result), certify(result, truth.operator)):
            assert (certificate.beyond, certificate.probability) == (infinite, 1)
            assert certificate.leads.tolist() == [True] * 3
            assert bool((certificate.sines < 1e-12).all())
            assert float(certificate.sines[2]) == 0
            assert "certain, as there is no other eigenvalue: the first 3 of 3 lead" in str(certificate)

    def test_bounds_beyond_are_those_of_which(self, device):
        A = diagonal(4, 3, -3.5, -9, device=device)
        for which, beyond in (("LA", 3.0), ("SA", -3.5), ("LM", 4.0)):
            certificate = certify(DenseEigh(k=1, which=which).solve(A), beyond=beyond)
            assert (certificate.beyond, certificate.leading) == (beyond, 1)
        assert certify(DenseEigh(k=1, which="SA").solve(A), beyond=-9.0).leading == 0


class TestRepeated:
    def test_no_gap_gives_no_information_but_all_copies_together_do(self, device):
        result = DenseEigh(k=14).solve(zoo("repeated", F64, device).operator)
        certificate = certify(result)
        assert certificate.leads.tolist() == [j == 12 for j in range(1, 15)]
        assert float(certificate.sines[11]) < 1e-12
        assert certificate.sine_norms[:11].square().tolist() == pytest.approx(range(1, 12))
        assert certificate.overlaps[:11].tolist() == pytest.approx([0] * 11, abs=1e-15)

    def test_opposite_values_tie_by_magnitude(self, device):
        A = diagonal(2, -2, 1, device=device)
        assert certify(DenseEigh(k=2).solve(A), beyond=1.0).leads.tolist() == [False, True]

    @pytest.mark.parametrize("name", ["zero", "identity"])
    @pytest.mark.parametrize("k", [1, 4, N])
    def test_nothing_is_nan(self, name, k, device):
        truth = zoo(name, torch.float32, device)
        result = DenseEigh(k=k).solve(truth.operator)
        for certificate in (certify(result), certify(result, truth.operator)):
            for field in ("intervals", "sharp_intervals", "sine_norms", "sines", "overlaps"):
                assert bool(getattr(certificate, field).isfinite().all()), field
            assert certificate.leads.tolist() == [j == N for j in range(1, k + 1)]

    def test_one_by_one(self, device):
        A = Dense(torch.tensor([[2.0]], device=device), Structure.SYMMETRIC)
        certificate = certify(DenseEigh(k=1).solve(A), A, test_vectors=1)
        assert certificate.leading == 1
        assert certificate.intervals[0, 0] <= 2 <= certificate.intervals[0, 1]


class TestRounding:
    EPS = torch.finfo(torch.float32).eps

    def test_a_residual_of_zero_does_not_certify_below_rounding(self, device):
        truth = zoo("positive", torch.float32, device)
        result = DenseEigh(k=4).solve(truth.operator)
        claimed = attrs.evolve(result, residual_norms=torch.zeros_like(result.residual_norms))
        for certificate in (certify(claimed), certify(claimed, beyond=0.0)):
            assert bool(((certificate.radii >= 10 * self.EPS) & (certificate.radii < 30 * self.EPS)).all())
            assert bool((certificate.sharp_radii >= 10 * self.EPS).all())
            assert bool((certificate.sines >= 10 * self.EPS).all())

    def test_vectors_that_are_not_quite_orthonormal_count(self, device):
        result = DenseEigh(k=2).solve(diagonal(3, 2, 1, device=device, dtype=torch.float32))
        V = result.eigenvectors.clone()
        V[:, 1] += 1e-4 * V[:, 0]
        assert float(certify(attrs.evolve(result, eigenvectors=V)).radii.min()) > 1e-4

    def test_size_of_the_operator_counts_where_the_values_do_not_show_it(self, device):
        """By LA the pairs are small beside ‖A‖ = 1e6: only products tell."""
        A = diagonal(1, 0.5, 0.25, -1e6, device=device, dtype=torch.float32)
        result = DenseEigh(k=2, which="LA").solve(A)
        assert float(certify(result, A).radii.min()) > 1e6 * self.EPS > float(certify(result).radii.max())

    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
    def test_scale_only_scales(self, scale, device):
        truth = zoo("slow decay", torch.float32, device)
        one = TiltedEigh(k=3, noise=1e-3).solve(truth.operator)
        other = attrs.evolve(one, eigenvalues=scale * one.eigenvalues, residual_norms=scale * one.residual_norms)
        larger = Dense(scale * truth.operator.matrix, Structure.SYMMETRIC)
        for A, B in ((None, None), (truth.operator, larger)):
            expected, scaled = certify(one, A), certify(other, B)
            torch.testing.assert_close(scaled.intervals / scale, expected.intervals)
            torch.testing.assert_close(scaled.sharp_intervals / scale, expected.sharp_intervals)
            torch.testing.assert_close(scaled.sine_norms, expected.sine_norms, rtol=1e-5, atol=0)
            assert scaled.beyond / scale == pytest.approx(expected.beyond, rel=1e-5)
        torch.testing.assert_close(scaled.scree.upper, expected.scree.upper, rtol=1e-5, atol=0)


class TestSingularValues:
    """m x n matrices with triplets of tilted spaces."""

    def case(self, shape, dtype=F64, device="cpu", noise=1e-3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        least = min(shape)
        U, V = (torch.linalg.qr(torch.randn(size, least, generator=generator, dtype=F64))[0] for size in shape)
        sizes = torch.cat([torch.tensor([9.0, 6, 4, 2.5, 2]), 0.1 * torch.rand(least - 5, generator=generator)])
        A = Dense(((U * sizes) @ V.mT).to(device, dtype))
        return TiltedSVD(k=5, noise=noise, seed=seed).solve(A), A, A.matrix.double().cpu()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("noise", [1e-6, 1e-3, 3e-2])
    @pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20), (30, 5), (5, 5)])
    def test_intervals_angles_and_scree(self, shape, noise, dtype, device):
        result, A, matrix = self.case(shape, dtype, device, noise)
        U, sizes, Vt = torch.linalg.svd(matrix)
        rest = float(sizes[5]) if len(sizes) > 5 else 0.0
        told, shown = certify(result, beyond=rest), certify(result, A, confidence=1 - 1e-6)
        for certificate in (certify(result), told, shown):
            for intervals in (certificate.intervals, certificate.sharp_intervals):
                assert matching(intervals, sizes) is not None
                assert bool((intervals >= 0).all())
            for j in range(1, 6):
                for X, V in ((U, result.left_vectors), (Vt.mT, result.right_vectors)):
                    sines = true_sines(X[:, :j], V[:, :j])
                    assert float(sines[0]) <= certificate.sines[j - 1]
                    assert float(sines.norm()) <= certificate.sine_norms[j - 1]
        assert told.leading == 5
        assert noise > 1e-3 or (shown.leading >= 4 and bool((told.sharp_radii < 0.2 * told.radii + 1e-5).all()))
        assert shown.beyond >= rest * (1 - 1e-6)
        check_scree(shown.scree, result, matrix)

    def test_any_orthonormal_vectors_and_any_values_match_one_to_one(self):
        generator = torch.Generator().manual_seed(4)
        for trial in range(60):
            exact, _, matrix = self.case((9, 6), noise=10 ** (1 - trial % 4), seed=trial)
            values = (exact.singular_values + 0.3 * torch.randn(5, generator=generator, dtype=F64)).abs()
            U, V = exact.left_vectors, exact.right_vectors
            right, left = (matrix @ V - U * values).norm(dim=0), (matrix.mT @ U - V * values).norm(dim=0)
            result = attrs.evolve(exact, singular_values=values, residual_norms=torch.hypot(right, left) / 2**0.5)
            intervals = certify(result).intervals
            assert bool((intervals >= 0).all())
            assert matching(intervals, torch.linalg.svdvals(matrix)) is not None

    def test_one_side_may_bear_all_of_the_residual(self):
        """If A v = σ u exactly, Aᵀ u is off by √2 times the residual norm."""
        off = 1e-3
        result = self.case((9, 6), noise=0.0)[0]
        moved = attrs.evolve(result, residual_norms=torch.full((5,), off, dtype=F64))
        assert bool((certify(moved).radii >= 2**0.5 * off).all())

    def test_whole_spectrum_leaves_nothing_above_zero(self, device):
        result, A, _ = self.case((5, 8), F64, device, noise=0.0)
        certificate = certify(result)
        assert (certificate.beyond, certificate.probability, certificate.leading) == (0, 1, 5)
        assert "certain, as there is no other singular value above 0: the first 5 of 5 lead" in str(certificate)
        assert certify(result, A).scree.error < 1e-12
