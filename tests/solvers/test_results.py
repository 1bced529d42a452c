"""Results: views, the operator of the pairs, files that are whole or not at all."""

from __future__ import annotations

import json
import zipfile

import attrs
import numpy
import pytest
import torch
from solver_cases import N, problem, quietly, zoo

from eigenspan.linops import EigenSubspace
from eigenspan.solvers import (
    BlockLanczos,
    DenseEigh,
    EigenDecomposition,
    EigenSolver,
    SketchedEigh,
    SolveReport,
    Status,
    Which,
)


@pytest.fixture
def truth(device):
    return problem(torch.tensor([-4.0, 3.0, 2.0, -1.0, 0.5] + [0.0] * 15, dtype=torch.float64), device=device)


@pytest.fixture
def result(truth):
    return DenseEigh(k=4).solve(truth.operator)


class TestEigenDecomposition:
    def test_subspace_keeps_vectors_and_eigenvalues(self, result):
        subspace = result.subspace
        assert isinstance(subspace, EigenSubspace)
        assert torch.equal(subspace.vectors, result.eigenvectors)
        assert torch.equal(subspace.eigenvalues, result.eigenvalues)

    def test_operator_is_the_sum_of_its_pairs(self, result):
        V, values = result.eigenvectors, result.eigenvalues
        expected = sum(value * torch.outer(v, v) for value, v in zip(values, V.mT, strict=True))
        torch.testing.assert_close(result.operator.to_dense(), expected, rtol=0, atol=1e-13)
        assert result.operator.is_symmetric
        assert not result.operator.is_psd

    def test_operator_of_all_pairs_is_the_operator(self, truth):
        whole = DenseEigh(k=20).solve(truth.operator).operator
        torch.testing.assert_close(whole.to_dense(), truth.operator.matrix, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("j", [1, 2, 4])
    def test_leading_is_a_view_of_the_first_pairs(self, result, j):
        first = result.leading(j)
        assert first.eigenvalues.tolist() == result.eigenvalues[:j].tolist()
        assert first.eigenvectors.data_ptr() == result.eigenvectors.data_ptr()
        assert first.eigenvectors.shape == (20, j)
        assert len(first.residual_norms) == j
        assert first.report is result.report

    @pytest.mark.parametrize("j", [0, 5, -1])
    def test_leading_out_of_range(self, result, j):
        with pytest.raises(ValueError, match=rf"1 <= j <= 4, got {j}"):
            result.leading(j)

    def test_converged_is_relative_to_the_largest_magnitude(self, result):
        marked = attrs.evolve(
            result, residual_norms=torch.tensor([0.0, 4e-3, 5e-3, float("nan")]).to(result.eigenvalues)
        )
        assert marked.converged(1.001e-3).tolist() == [True, True, False, False]
        assert marked.converged(1.0).tolist() == [True, True, True, False]

    def test_require_converged_returns_the_result_itself(self, result):
        assert result.require_converged() is result

    @pytest.mark.parametrize("status", Status)
    def test_require_converged_follows_the_status(self, result, status):
        changed = attrs.evolve(result, report=attrs.evolve(result.report, status=status))
        if status in (Status.CONVERGED, Status.COMPLETE):
            assert changed.require_converged() is changed
        else:
            with pytest.raises(RuntimeError, match=r"EigenDecomposition 4 of 20.*: .*(raise|judge)"):
                changed.require_converged()

    def test_repr(self, result):
        text = repr(result)
        assert text.startswith(
            f"<EigenDecomposition 4 of 20 float64 {result.eigenvalues.device}, λ -4 … -1, residuals up to"
        )
        assert text.endswith("complete>")
        unknown = attrs.evolve(result, residual_norms=torch.full_like(result.residual_norms, torch.nan))
        assert "residuals not measured, complete>" in repr(unknown)

    def test_without_any_pair(self, result, tmp_path):
        """As a solver that gave up returns it."""
        none = attrs.evolve(
            result,
            eigenvalues=result.eigenvalues[:0],
            eigenvectors=result.eigenvectors[:, :0],
            residual_norms=result.residual_norms[:0],
        )
        assert repr(none).startswith("<EigenDecomposition 0 of 20")
        assert none.converged(1.0).shape == (0,)
        none.save(tmp_path / "none.npz")
        for mmap in (False, True):
            assert EigenDecomposition.load(tmp_path / "none.npz", mmap=mmap).eigenvectors.shape == (20, 0)


class TestStatus:
    @pytest.mark.parametrize("status", Status)
    def test_says_what_to_do_unless_all_is_well(self, status):
        assert status.is_success == (status in (Status.CONVERGED, Status.COMPLETE))
        assert status.is_success or "raise" in status.value


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_round_trip_of_every_bit_and_parameter(self, tmp_path, dtype, device):
        solver = SketchedEigh(k=4, which=Which.LA, seed=2, test_matrix="gaussian", measure_residuals=False)
        result = solver.solve(zoo("positive", dtype, device).operator)
        result.save(str(tmp_path / "name without suffix"))
        loaded = EigenDecomposition.load(tmp_path / "name without suffix", device=device)
        for name in ("eigenvalues", "eigenvectors", "residual_norms"):
            before, after = getattr(result, name), getattr(loaded, name)
            assert before.dtype == after.dtype
            torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
        assert loaded.report == result.report
        assert loaded.report.solver == solver

    @pytest.mark.parametrize("by_columns", [False, True])
    def test_numbers_may_stay_in_the_file(self, result, tmp_path, by_columns):
        vectors = result.eigenvectors.contiguous()
        path, expected = tmp_path / "eig.npz", vectors.mT.contiguous().mT if by_columns else vectors
        attrs.evolve(result, eigenvectors=expected).save(path)
        before = path.read_bytes()
        mapped = EigenDecomposition.load(path, mmap=True)
        assert torch.equal(mapped.eigenvectors, expected)
        assert mapped.eigenvectors.stride() == expected.stride()
        assert torch.equal(mapped.rows([3, 0]), expected[[3, 0]])
        mapped.eigenvectors.zero_()
        assert path.read_bytes() == before
        assert zipfile.ZipFile(path).testzip() is None
        with pytest.raises(ValueError, match=r"mmap=True keeps numbers in the file, not on cuda"):
            EigenDecomposition.load(path, "cuda", mmap=True)

    def test_files_that_cannot_be_mapped_are_refused(self, result, tmp_path):
        found = {"eigenvalues": numpy.ones(3), "eigenvectors": numpy.eye(3), "residual_norms": numpy.ones(3)}
        for save, name in ((numpy.savez, "moved.npz"), (numpy.savez_compressed, "compressed.npz")):
            save(tmp_path / name, report=json.dumps(result.report.to_dict()), **found)
            assert torch.equal(EigenDecomposition.load(tmp_path / name).eigenvectors, torch.eye(3).double())
            with pytest.raises(ValueError, match="load it without mmap"):
                EigenDecomposition.load(tmp_path / name, mmap=True)

    def test_a_file_of_its_subspace_is_none_of_it(self, result, tmp_path):
        result.subspace.save(tmp_path / "subspace.npz")
        result.save(tmp_path / "pairs.npz")
        with pytest.raises(
            ValueError, match=r"it has vectors, .* and no eigenvectors, residual_norms, report: load it"
        ):
            EigenDecomposition.load(tmp_path / "subspace.npz")
        with pytest.raises(ValueError, match=r"it has eigenvalues, .* and no header: load it by the class of that"):
            EigenSubspace.load(tmp_path / "pairs.npz")

    def test_replaces_an_older_file_and_leaves_nothing_else(self, result, tmp_path):
        path = tmp_path / "eig.npz"
        path.write_text("older")
        result.save(path)
        assert [file.name for file in tmp_path.iterdir()] == ["eig.npz"]
        assert len(EigenDecomposition.load(path).eigenvalues) == 4

    def test_failure_leaves_the_older_file(self, result, tmp_path, monkeypatch):
        path = tmp_path / "eig.npz"
        result.save(path)
        older = path.read_bytes()

        def full(file, *_, **__):
            file.write(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr(numpy.lib.format, "write_array", full)
        with pytest.raises(OSError, match="no space left"):
            result.save(path)
        assert path.read_bytes() == older
        assert [file.name for file in tmp_path.iterdir()] == ["eig.npz"]

    def test_no_such_folder_or_file(self, result, tmp_path):
        with pytest.raises(FileNotFoundError):
            result.save(tmp_path / "missing" / "eig.npz")
        with pytest.raises(FileNotFoundError):
            EigenDecomposition.load(tmp_path / "missing.npz")

    def test_other_files_are_refused(self, tmp_path, result):
        texts, arrays, cut = (tmp_path / name for name in ("text", "arrays.npz", "cut.npz"))
        texts.write_text("eigenvalues")
        numpy.savez(arrays, eigenvalues=numpy.ones(3))
        result.save(cut)
        cut.write_bytes(cut.read_bytes()[:-200])
        for path in (texts, arrays, cut):
            with pytest.raises(ValueError, match=f"{path.name} holds no EigenDecomposition") as caught:
                EigenDecomposition.load(path)
            assert ("it is no NumPy archive" in str(caught.value)) == (path != arrays)
            assert "pickle" not in str(caught.value)  # nobody is told to load it by running its code

    def test_runs_no_code_from_the_file(self, tmp_path):
        path = tmp_path / "pickle.npz"
        numpy.savez(path, eigenvalues=numpy.array([print], dtype=object))
        with pytest.raises(ValueError, match="holds no EigenDecomposition"):
            EigenDecomposition.load(path)


class TestSolveReport:
    def test_dictionary_is_ready_for_json_and_back(self, result):
        entries = json.loads(json.dumps(result.report.to_dict()))
        assert entries["solver"] == {"class": "DenseEigh", "k": 4, "which": "LM", "seed": 0, "check_symmetry": True}
        assert entries["status"] == "COMPLETE"
        assert SolveReport.from_dict(entries) == result.report

    def test_solver_of_a_user_is_found_by_name(self, result):
        @attrs.frozen(kw_only=True)
        class MySolver(EigenSolver):
            depth: int = 3

            def _solve(self, A, start):
                raise NotImplementedError

        report = attrs.evolve(result.report, solver=MySolver(k=2, depth=5))
        assert SolveReport.from_dict(report.to_dict()) == report

    def test_solver_that_is_not_imported(self, result):
        entries = result.report.to_dict()
        entries["solver"] = {"class": "Unheard", "k": 2}
        with pytest.raises(ValueError, match="no solver is called 'Unheard'; import the module"):
            SolveReport.from_dict(entries)

    @pytest.mark.parametrize("missing", ["solver", "status"])
    def test_entries_of_something_else(self, result, missing):
        entries = result.report.to_dict()
        del entries[missing]
        with pytest.raises(ValueError, match="not the entries of a SolveReport"):
            SolveReport.from_dict(entries)

    def test_seconds_and_memory(self, device):
        report = quietly(BlockLanczos(k=3), zoo("positive", torch.float64, device).operator).report
        assert report.seconds == report.seconds_in_products + report.seconds_outside
        # The result alone takes n k numbers.
        assert report.peak_memory is None or report.peak_memory > 8 * N * 3
