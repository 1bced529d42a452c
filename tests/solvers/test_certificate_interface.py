"""Certificates as they are asked for: products, refusals, texts."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from certificate_cases import F64, TiltedEigh, TiltedSVD
from solver_cases import N, zoo

import eigenspan as es
from eigenspan.linops import Counted, Dense, Function, Structure
from eigenspan.solvers import BlockLanczos, DenseEigh, Gaussian, SingularValueDecomposition, SketchedEigh
from eigenspan.solvers.certificates import certify
from eigenspan.solvers.scree import scree


class TestProducts:
    @pytest.mark.parametrize("s", [1, 10])
    def test_one_block_of_test_vectors_or_none(self, s, device):
        counted = Counted(zoo("indefinite", F64, device).operator)
        result = BlockLanczos(k=4).solve(counted)
        for run in (certify, scree):
            before = counted.products, counted.calls
            run(result, counted, test_vectors=s)
            assert (counted.products - before[0], counted.calls - before[1]) == (s, 1)
        after = counted.calls
        certify(result)
        certify(result, beyond=1.0)
        assert counted.calls == after

    def test_vectors_share_nothing_with_those_of_a_solver_of_the_same_seed(self, device):
        A = zoo("indefinite", F64, device).operator
        blocks = []

        def matmat(X):
            blocks.append(X.cpu().clone())
            return A.matrix @ X

        recorded = Function(matmat, A.shape, A.dtype, A.device, structure=Structure.SYMMETRIC)
        result = SketchedEigh(k=5, test_matrix="gaussian", seed=3).solve(recorded)
        drawn = torch.cat([*blocks, Gaussian(N, 20, seed=3, purpose="start", dtype=F64).columns(0, 20)], dim=1)
        blocks.clear()
        assert certify(result, recorded, seed=3).scree.error == scree(result, A, seed=3).error
        (tests,) = blocks
        cosines = (tests / tests.norm(dim=0)).mT @ (drawn / drawn.norm(dim=0))
        # Independent directions in R⁶⁰ have cosines of about 1/√60 = 0.13.
        assert float(cosines.abs().max()) < 0.6


class TestRefusals:
    @pytest.fixture
    def truth(self, device):
        return zoo("indefinite", F64, device)

    @pytest.fixture
    def result(self, truth):
        return BlockLanczos(k=4).solve(truth.operator)

    def test_residuals_that_were_not_measured(self, truth):
        result = SketchedEigh(k=4, measure_residuals=False).solve(truth.operator)
        for A in (None, truth.operator):
            with pytest.raises(ValueError, match=r"4 of 4 were not measured; solve with measure_residuals=True"):
                certify(result, A)

    def test_no_pairs(self, result):
        none = attrs.evolve(result, **{name: tensor[..., :0] for name, tensor in result._tensors().items()})
        with pytest.raises(ValueError, match=r"EigenDecomposition 0 of 60.* holds nothing to certify"):
            certify(none)

    def test_another_operator(self, result, device):
        with pytest.raises(ValueError, match=r"A is not the operator that was solved.*: that of pair \d is .*e-\d\d"):
            certify(result, zoo("slow decay", F64, device).operator)

    @pytest.mark.parametrize("solver", [TiltedEigh(k=4), TiltedSVD(k=4)], ids=lambda solver: type(solver).__name__)
    def test_residual_norms_that_are_too_small(self, solver, truth):
        result = solver.solve(truth.operator)
        certify(result, truth.operator)
        with pytest.raises(ValueError, match="residual norms are wrong: that of pair"):
            certify(attrs.evolve(result, residual_norms=1e-3 * result.residual_norms), truth.operator)

    def test_inexact_products_are_not_taken_for_another_operator(self, truth, device):
        """As of a network in single precision: products with errors of 1e-5."""
        generator = torch.Generator().manual_seed(0)

        def matmat(X):
            noise = torch.randn(X.shape, generator=generator).to(X) * X.norm(dim=0) / N**0.5
            return A.matrix @ X + 1e-5 * noise

        A = zoo("indefinite", torch.float32, device).operator
        result = BlockLanczos(k=4, tol=1e-3).solve(A)
        assert certify(result, Function(matmat, A.shape, A.dtype, device, structure=Structure.SYMMETRIC)).scree

    def test_both_kinds_of_bounds(self, result, truth):
        with pytest.raises(ValueError, match="not both"):
            certify(result, truth.operator, beyond=1.0)

    @pytest.mark.parametrize("beyond", [-1.0, math.nan, math.inf])
    def test_no_bound(self, result, beyond):
        with pytest.raises(ValueError, match=f"beyond is a finite bound, of a size not below zero; got {beyond!r}"):
            certify(result, beyond=beyond)

    @pytest.mark.parametrize("run", [certify, scree])
    def test_parameters(self, run, result, truth):
        for confidence in (0, 1, 1.5, math.nan):
            with pytest.raises(ValueError, match=f"probability between 0 and 1, got {confidence}"):
                run(result, truth.operator, confidence=confidence)
        for s in (0, -1, 2.5, True):
            with pytest.raises(ValueError, match=f"test_vectors is an integer >= 1, got {s}"):
                run(result, truth.operator, test_vectors=s)

    @pytest.mark.parametrize("run", [certify, scree])
    def test_operators(self, run, result, truth, device):
        with pytest.raises(ValueError, match="60x60 operator cannot be certified by <Diagonal 3x3"):
            run(result, es.Diagonal(torch.ones(3, dtype=F64, device=device)))
        with pytest.raises(TypeError, match=r"in torch.float64 on .* is certified by an operator of that dtype"):
            run(result, es.Diagonal(torch.ones(N, device=device)))
        broken = Function(lambda X: X * math.nan, (N, N), F64, device, structure=Structure.SYMMETRIC)
        with pytest.raises(ValueError, match="NaN or infinite"):
            run(result, broken)
        with pytest.raises(TypeError, match="expected an EigenDecomposition or SingularValueDecomposition, got Tensor"):
            run(result.eigenvectors, truth.operator)


class TestText:
    def test_says_what_each_number_rests_on(self, device):
        A = es.Diagonal(torch.tensor([5.0, -4.0, 3.0] + [0.1] * 9, dtype=F64, device=device))
        result = DenseEigh(k=3).solve(A)
        assumed, shown = certify(result), certify(result, A, confidence=0.95)
        assert str(assumed).startswith("certain: 3 eigenvalues or singular values match these one to one")
        assert "assuming that there is no other eigenvalue of |λ| above 3: the first 2 of 3 lead" in str(assumed)
        assert "with probability 0.95 there is no other eigenvalue of |λ| above" in str(shown)
        assert repr(shown.scree) in str(shown)
        assert str(assumed).splitlines()[-1].split()[-2:] == ["-", "-"]  # of three vectors no angle is told
        assert repr(assumed).startswith("<Certificate of 3 values within ")
        assert repr(assumed).endswith(
            "assuming that there is no other eigenvalue of |λ| above 3: the first 2 of 3 lead>"
        )

    @pytest.mark.parametrize(("which", "words"), [("LA", "eigenvalue above"), ("SA", "eigenvalue below")])
    def test_names_the_side(self, which, words, device):
        result = DenseEigh(k=2, which=which).solve(zoo("indefinite", F64, device).operator)
        assert certify(result).premise == f"there is no other {words} {float(result.eigenvalues[-1]):.5g}"

    def test_table_of_many_pairs_is_cut(self, device):
        text = str(certify(DenseEigh(k=25).solve(zoo("positive", F64, device).operator)))
        assert "and 15 more" in text
        assert len(text.splitlines()) == 4 + 10 + 1


def test_small_tensors_in_double_precision_on_the_cpu(device):
    truth = zoo("positive", torch.float32, device)
    certificate = certify(DenseEigh(k=3).solve(truth.operator), truth.operator)
    small = [getattr(certificate, name) for name in ("values", "intervals", "sharp_intervals", "sine_norms")]
    for tensor in (*small, certificate.scree.lower, certificate.scree.upper):
        assert (tensor.dtype, tensor.device.type) == (F64, "cpu")


def test_of_a_matrix_and_of_a_result_that_was_saved(tmp_path):
    A = Dense(torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=F64)))
    TiltedSVD(k=2).solve(A).save(tmp_path / "svd")
    loaded = SingularValueDecomposition.load(tmp_path / "svd")
    assert certify(loaded, A.matrix.numpy(), test_vectors=3).scree.error > 0
