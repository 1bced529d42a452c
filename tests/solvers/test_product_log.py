"""Solves that are interrupted, wherever, and run again give what undisturbed ones do, to the last bit."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import re
import signal
import time
from unittest import mock

import attrs
import pytest
import torch
from checkpoint_cases import Fragile, InterruptedSolveError, lanczos, rectangular, solve
from file_cases import shared_folder, small_files, unprivileged
from solver_cases import quietly, zoo
from template_contract import tensors
from worker_cases import dense, hessian

import eigenspan as es
from eigenspan.linops import Counted, Dense, Function, Structure
from eigenspan.solvers import BlockStore, EigenDecomposition, measure_columns
from eigenspan.solvers.product_log import ProductLog

posix = pytest.mark.skipif(os.name != "posix", reason="signals and permissions are those of POSIX")

ROUNDED = es.Storage("host", dtype="bfloat16")
EIGENSOLVERS = [
    es.BlockLanczos(k=6),
    es.BlockLanczos(k=3, block_size=2, max_basis=14),
    es.Lanczos(k=4),
    es.SubspaceIteration(k=4, max_products=1000),
    es.SketchedEigh(k=6, block_size=7),
    es.SketchedEigh(k=6, outer=10, inner=30, basis="first", block_size=7),
    es.SketchedEigh(k=6, two_pass=True, block_size=7),
    es.Nystrom(k=6, block_size=7),
    es.DenseEigh(k=6),
    es.Arpack(k=4),
    es.Lobpcg(k=4),
    es.Lobpcg(k=4, library="torch"),
    es.Auto(k=6),
]
SVD_SOLVERS = [
    es.BlockGolubKahan(k=4),
    es.BlockGolubKahan(k=3, block_size=2, max_basis=12),
    es.SketchedSVD(k=4, block_size=7),
    es.DenseSVD(k=4),
    es.Propack(k=3),
    es.ArpackSVD(k=3),
]


def blocks(folder):
    return sorted(folder.rglob("*.safetensors"))


def states(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in blocks(folder)}


def check_same_bits(found, expected):
    for name, tensor in tensors(expected).items():
        assert torch.equal(getattr(found, name).nan_to_num(), tensor.nan_to_num()), name
    assert found.report.solver == expected.report.solver
    for count in ("products", "passes", "check_products", "status"):
        assert getattr(found.report, count) == getattr(expected.report, count)


def check_interrupted(solver, A, folder):
    """Interrupted at random products until it is done, no product is made twice, and the bits are the same."""
    rng = random.Random(str(solver))
    counted = Counted(A)
    expected, measured = quietly(solver, counted), 0
    for _ in range(100):
        fragile = Fragile(A, 1 + rng.randrange(counted.calls))
        try:
            found = quietly(solver, fragile, checkpoint=folder)
            break
        except InterruptedSolveError:
            pass
        finally:
            measured += fragile.products
    check_same_bits(found, expected)
    assert measured == counted.products
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    again = Counted(A)
    check_same_bits(quietly(solver, again, checkpoint=folder), expected)
    assert again.products == 0


@pytest.mark.parametrize("solver", EIGENSOLVERS, ids=lambda solver: type(solver).__name__)
def test_every_eigensolver(solver, tmp_path, device):
    A = Dense(zoo("positive", torch.float64, device).operator.matrix, Structure.PSD)
    check_interrupted(solver, A, tmp_path)


@pytest.mark.parametrize("name", ["indefinite", "repeated", "clustered", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_zoo_of_spectra(name, dtype, tmp_path, device):
    check_interrupted(es.BlockLanczos(k=6), zoo(name, dtype, device).operator, tmp_path)


@pytest.mark.parametrize("solver", SVD_SOLVERS, ids=lambda solver: type(solver).__name__)
def test_every_singular_value_solver(solver, tmp_path, device):
    check_interrupted(solver, Dense(rectangular().matrix.to(device)), tmp_path)


def test_the_gram_matrix_and_products_of_a_factor(tmp_path):
    B = Dense(rectangular().matrix[:12])
    whole, expected = Counted(B), es.GramEigh(k=6).solve(B.T @ B)
    es.GramEigh(k=6).solve(whole.T @ whole)
    measured = 0
    for allowed in (2, 1, 1, None):  # after the test of symmetry, the Gram matrix, the vectors
        fragile = Fragile(B, allowed)
        try:
            found = es.GramEigh(k=6).solve(fragile.T @ fragile, checkpoint=tmp_path)
        except InterruptedSolveError:
            assert allowed is not None
        measured += fragile.products
    check_same_bits(found, expected)
    assert measured == whole.products
    again = Counted(B)
    es.GramEigh(k=6).solve(again.T @ again, checkpoint=tmp_path)
    assert again.products == 0


def test_a_hessian(tmp_path):
    check_interrupted(es.BlockLanczos(k=4, block_size=2), hessian(), tmp_path)


def test_the_choice_of_a_solver_holds(tmp_path, monkeypatch):
    A = dense()
    with pytest.raises(InterruptedSolveError):
        es.Auto(k=3).solve(Fragile(A, 1), checkpoint=tmp_path)
    monkeypatch.setattr("eigenspan.solvers.auto.allowance", lambda *_: 30 * 60 * 8)  # less memory is free
    found = es.Auto(k=3).solve(A, checkpoint=tmp_path)
    assert "Chosen: DenseEigh" in found.report.notes[0]
    assert "Chosen: BlockLanczos" in es.Auto(k=3).solve(A).report.notes[0]


@pytest.mark.parametrize(
    "layout",
    [
        lambda Y: Y.contiguous(),
        lambda Y: Y.mT.contiguous().mT,
        lambda Y: torch.cat([Y, Y])[::2].clone(memory_format=torch.preserve_format) * 0 + Y,
        lambda Y: torch.stack([Y, Y], dim=2)[:, :, 0],
    ],
    ids=["rows", "columns", "like", "strided"],
)
def test_images_come_back_as_they_lay_in_memory(layout, tmp_path):
    A = dense()
    images = [layout(A.matrix @ X) for X in (torch.eye(60, 3).double(), torch.ones(60, 1).double())]
    for run in range(2):
        log = ProductLog(tmp_path, {"of": "a test"}, A)
        for X, image in zip((torch.eye(60, 3).double(), torch.ones(60, 1).double()), images, strict=True):
            kept = log.read("images", X)
            assert (kept is None) == (run == 0)
            given = log.write("images", X, image, 0.5) if kept is None else kept.image
            assert torch.equal(given, image)
            assert given.data_ptr() != image.data_ptr()
            if image.is_contiguous() or image.mT.is_contiguous():
                assert given.stride() == image.stride()
            else:
                assert given.mT.is_contiguous()


class TestKilled:
    @pytest.fixture
    def process(self):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["eigenspan", "checkpoint_cases"])
        return lambda *arguments: context.Process(target=solve, args=arguments)

    @posix
    @pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
    def test_at_any_time(self, kills, process, tmp_path):
        """Between blocks, inside them, and while they are written, which takes about as long as a product here."""
        rng, folder, result = random.Random(kills), tmp_path / "folder", tmp_path / "result.npz"
        seconds, killed, known = 0.003, 0, {}
        while killed < kills:
            worker = process(folder, result, seconds)
            worker.start()
            deadline = time.monotonic() + 60
            while len(states(folder) if folder.exists() else {}) <= len(known) and worker.exitcode is None:
                assert time.monotonic() < deadline  # it has come beyond what was there
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
            worker.kill()
            worker.join()
            killed += worker.exitcode == -signal.SIGKILL
            found = states(folder)
            assert {name: found[name] for name in known} == known  # nothing is written twice
            if worker.exitcode == 0:
                for path in rng.sample(blocks(folder), len(found) // 2):  # so that there is something to do
                    path.unlink()
                result.unlink()
            known = states(folder)
        worker = process(folder, result, seconds)
        worker.start()
        worker.join(60)
        assert worker.exitcode == 0
        assert {name: states(folder)[name] for name in known} == known
        expected = lanczos().solve(dense())
        check_same_bits(EigenDecomposition.load(result), expected)
        # The symmetry test and all steps of the method, and nothing that lies about.
        assert len(blocks(folder)) == expected.report.passes
        assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}

    @posix
    def test_a_process_that_is_at_work_keeps_others_out(self, process, tmp_path):
        worker = process(tmp_path / "folder", tmp_path / "result.npz", 0.5)
        worker.start()
        while not list(tmp_path.glob("folder/*.safetensors")):  # it multiplies, and takes half a second for a block
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match="another process is using the checkpoint"):
            lanczos().solve(dense(), checkpoint=tmp_path / "folder")
        assert BlockStore.open(tmp_path / "folder").progress().at_work == 1
        worker.kill()
        worker.join()
        check_same_bits(lanczos().solve(dense(), checkpoint=tmp_path / "folder"), lanczos().solve(dense()))


@pytest.fixture(scope="module")
def expected():
    return lanczos().solve(dense())


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        with pytest.raises(InterruptedSolveError):
            lanczos().solve(Fragile(dense(), 8), checkpoint=tmp_path)
        return tmp_path

    def check_only_that_is_measured_again(self, folder, path, expected):
        before, counted = states(folder), Counted(dense())
        found = lanczos().solve(counted, checkpoint=folder)
        check_same_bits(found, expected)
        assert counted.products == expected.report.products - 8 * 2 + 2
        assert states(folder)[path.name] != before.pop(path.name, None)
        assert {name: states(folder)[name] for name in before} == before

    @pytest.mark.parametrize(
        ("what", "place"),
        [
            *((what, 3) for what in ("half", "empty", "number", "header", "another's", "gone")),
            *((what, place) for what in ("number", "another's", "gone") for place in (0, 7)),
        ],
    )
    def test_of_a_block(self, folder, what, place, expected, caplog):
        path = blocks(folder)[place]
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[-100] ^= 4
        changes = {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "number": bytes(flipped),
            "header": whole.replace(b'"strides": "', b'"strides": "1', 1),
            "another's": blocks(folder)[place - 1].read_bytes(),
        }
        assert whole not in changes.values()
        path.unlink() if what == "gone" else path.write_bytes(changes[what])
        self.check_only_that_is_measured_again(folder, path, expected)
        assert what == "gone" or re.search(r"columns \d+-\d+ of images (are|count as) missing", caplog.text)

    def test_of_the_state(self, folder, expected, caplog):
        path = folder / "state.json"
        path.write_text(path.read_text().replace("0", "1", 1))
        counted = Counted(dense())
        check_same_bits(lanczos().solve(counted, checkpoint=folder), expected)
        assert "state.json is damaged" in caplog.text
        assert counted.products == expected.report.products - 16

    def test_of_the_manifest(self, folder):
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
        with pytest.raises(ValueError, match=r"damaged .*checksum.* remove it"):
            lanczos().solve(dense(), checkpoint=folder)
        path.unlink()
        found = lanczos().solve(dense(), checkpoint=folder)
        check_same_bits(found, lanczos().solve(dense()))
        assert "16 of the products were measured by earlier runs" in found.report.notes[-1]

    def test_a_disk_that_is_full(self, tmp_path):
        """From a size of files on, as the system lets it be tested: blocks of 20 columns do not fit, pairs do."""
        matrix = torch.randn(400, 400, dtype=torch.float64)
        A, solver = Dense(matrix + matrix.mT, Structure.SYMMETRIC), es.BlockLanczos(k=5, block_size=20)
        expected = solver.solve(A)
        with (
            small_files(30_000),
            pytest.warns(RuntimeWarning, match=r"cannot be written .*\. The solve goes on") as seen,
        ):
            found = solver.solve(A, checkpoint=tmp_path)
        assert len(seen) == 1
        check_same_bits(found, expected)
        assert f"{found.report.products - 2} of the products could not be written" in found.report.notes[-1]
        assert len(blocks(tmp_path)) == 1
        check_same_bits(solver.solve(A, checkpoint=tmp_path), expected)
        assert len(blocks(tmp_path)) == expected.report.passes
        with small_files(10), pytest.raises(OSError, match="cannot be written"):
            solver.solve(A, checkpoint=tmp_path / "new")

    @posix
    def test_a_folder_that_cannot_be_written(self):
        expected = lanczos().solve(dense())
        with shared_folder() as folder:
            folder.chmod(0o777)
            with unprivileged(), pytest.raises(InterruptedSolveError):  # the folder is another's, who closes it
                lanczos().solve(Fragile(dense(), 3), checkpoint=folder)
            folder.chmod(0o555)
            with unprivileged(), pytest.raises(PermissionError, match=r"cannot be written \(Permission denied\)"):
                lanczos().solve(dense(), checkpoint=folder)
            folder.chmod(0o777)
            found = lanczos().solve(dense(), checkpoint=folder)
            check_same_bits(found, expected)
            assert "6 of the products were measured by earlier runs" in found.report.notes[-1]


@pytest.mark.parametrize("solver", [lanczos, es.Auto], ids=["lanczos", "auto"])
def test_a_solve_goes_on_with_its_basis_elsewhere(solver, tmp_path):
    A = Dense(torch.randn(400, 400, generator=torch.Generator().manual_seed(0)).double(), Structure.NONE)
    A = A.T @ A
    expected = solver(k=5).solve(A)
    with pytest.raises(InterruptedSolveError):
        solver(k=5).solve(Fragile(A, 6), checkpoint=tmp_path)
    counted = Counted(A)
    found = solver(k=5, storage="disk").solve(counted, checkpoint=tmp_path)
    assert found.eigenvalues.equal(expected.eigenvalues)
    assert found.eigenvectors.equal(expected.eigenvectors)
    assert not isinstance(found._eigenvectors, torch.Tensor)  # as a basis on disk has it
    assert counted.products < found.report.products == expected.report.products
    with pytest.raises(ValueError, match=r"solve\.storage is None there and bfloat16 here"):
        solver(k=5, storage=es.Storage("disk", dtype="bfloat16")).solve(A, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("solver", "few", "lost"),
    [
        (es.BlockLanczos(k=5, block_size=4), 23, 3),  # blocks of 4, the last of 3, which is measured again, wider
        (es.BlockLanczos(k=5, block_size=4, storage=ROUNDED), 23, 3 + 5),  # and k products for Ritz pairs
        (es.SubspaceIteration(k=5, block_size=15, tol=1e-4), 33, 0),
        (es.BlockGolubKahan(k=5, block_size=4), 28, 2 + 2),
        (es.Auto(k=5), 23, 3),
    ],
    ids=["lanczos", "rounded", "iteration", "golub-kahan", "auto"],
)
def test_a_solve_that_ran_out_of_products_goes_on_with_more(solver, few, lost, tmp_path):
    A = Dense(torch.randn(400, 400, generator=torch.Generator().manual_seed(0)).double(), Structure.NONE)
    A = A.T @ A
    short = quietly(attrs.evolve(solver, max_products=few), A, checkpoint=tmp_path)
    assert short.report.status.is_failure or short.report.status is es.Status.ROUNDED
    more = attrs.evolve(solver, max_products=1000)
    with mock.patch.object(ProductLog, "read", side_effect=InterruptedSolveError), pytest.raises(InterruptedSolveError):
        more.solve(A, checkpoint=tmp_path)  # before it has come so far
    counted = Counted(A)
    found, expected = more.solve(counted, checkpoint=tmp_path), more.solve(A)
    for name, tensor in tensors(expected).items():
        assert torch.equal(getattr(found, name), tensor), name
    assert counted.products == expected.report.products - short.report.products + lost
    assert (lost == 0) == ("of no use" not in " ".join(found.report.notes))


def test_fewer_products_than_there_are_are_refused(tmp_path):
    A = Dense(torch.diag(torch.arange(1.0, 201.0, dtype=torch.float64)), Structure.SYMMETRIC)
    quietly(lanczos(max_products=50), A, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="has 52 products, and 12 are asked for at most: raise max_products"):
        lanczos(max_products=10).solve(A, checkpoint=tmp_path)


class TestRefused:
    @pytest.mark.parametrize(
        ("solver", "A", "options", "difference"),
        [
            (lanczos(seed=1), dense(), {}, "mix: solve.seed is 0 there and 1 here; choose"),
            (lanczos(k=4), dense(), {}, "mix: solve.k is 5 there and 4 here; choose"),
            (es.Lanczos(k=5), dense(), {}, "solve.class is BlockLanczos there and Lanczos here"),
            (lanczos(), dense(seed=1), {}, r"operator is \w{32} there and \w{32} here"),
            (lanczos(), Dense(dense().matrix.float(), Structure.SYMMETRIC), {}, "dtype is torch.float64 there"),
            (lanczos(), dense(), {"start": torch.ones(60, 1).double()}, r"start is None there and \w{64} here"),
        ],
        ids=["seed", "k", "solver", "operator", "dtype", "start"],
    )
    def test_something_else(self, solver, A, options, difference, tmp_path):
        lanczos().solve(dense(), checkpoint=tmp_path)
        before = states(tmp_path)
        with pytest.raises(ValueError, match=f"blocks of something else, and blocks do not .*{difference}"):
            solver.solve(A, checkpoint=tmp_path, **options)
        assert states(tmp_path) == before

    def test_blocks_of_workers(self, tmp_path):
        sketch = es.SketchedEigh(k=5)
        measure_columns(sketch, dense(), tmp_path)
        with pytest.raises(ValueError, match="blocks of something else"):
            sketch.solve(dense(), checkpoint=tmp_path)

    def test_what_solve_refuses_writes_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="which has 60"):
            es.BlockLanczos(k=61).solve(dense(), checkpoint=tmp_path / "new")
        assert not (tmp_path / "new").exists()


@attrs.frozen(kw_only=True)
class Drifting(es.BlockLanczos):
    """A solver with random numbers that no seed fixes."""

    def _solve(self, A, start):
        return super()._solve(A, torch.randn(A.shape[1], 1, dtype=A.dtype, device=A.device))


class TestReplaysThatDiffer:
    def test_by_the_solver(self, tmp_path):
        Drifting(k=3).solve(dense(), checkpoint=tmp_path)
        before = states(tmp_path)
        with pytest.raises(
            RuntimeError, match=r"column 2 and the next .* other vectors .*deterministic.* To begin anew"
        ):
            Drifting(k=3).solve(dense(), checkpoint=tmp_path)
        assert states(tmp_path) == before

    def test_by_what_rounds_otherwise(self, tmp_path, monkeypatch):
        Drifting(k=3).solve(dense(), checkpoint=tmp_path)
        threads = torch.get_num_threads()
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
        with pytest.raises(RuntimeError, match=rf"by threads {threads} then and {threads + 1} now: run it as then"):
            Drifting(k=3).solve(dense(), checkpoint=tmp_path)

    @pytest.mark.parametrize("width", [1, 3, 5])
    def test_by_the_width_of_a_block(self, width, tmp_path):
        A, X = dense(), torch.eye(60).double()
        log = ProductLog(tmp_path, {}, A)
        for start in (0, 2, 4):
            log.read("images", X[:, start : start + 2])
            log.write("images", X[:, start : start + 2], A.matrix[:, start : start + 2], 0.0)
        if width == 3:  # over the end of one that is gone
            blocks(tmp_path)[0].unlink()
        log = ProductLog(tmp_path, {}, A)
        with pytest.raises(RuntimeError, match="column 0 and the next"):
            log.read("images", X[:, :width])


def test_nothing_is_kept_of_products_that_are_refused(tmp_path):
    """So that the mended operator, of the same fingerprint, goes on."""
    A = dense()

    class Broken(Counted):
        def _counted(self, product, X):
            return super()._counted(product, X) * (torch.nan if self.calls == 4 else 1.0)

    with pytest.raises(ValueError, match="NaN or infinite"):
        lanczos().solve(Broken(A), checkpoint=tmp_path)
    assert len(blocks(tmp_path)) == 3
    check_same_bits(lanczos().solve(A, checkpoint=tmp_path), lanczos().solve(A))


def test_bars_begin_at_what_is_done(tmp_path, capsys):
    solver = es.SketchedEigh(k=5, outer=10, inner=40, block_size=8)
    with pytest.raises(InterruptedSolveError):
        solver.solve(Fragile(dense(), 4), checkpoint=tmp_path)
    capsys.readouterr()
    solver.solve(dense(), checkpoint=tmp_path, progress=True)
    shown = [int(number) for number in re.findall(r"(\d+)/47", capsys.readouterr().err)]
    assert (shown[0], shown[-1]) == (26, 47)
    assert shown == sorted(shown)


def test_what_is_kept_beside_the_products(tmp_path):
    with pytest.raises(InterruptedSolveError):
        lanczos().solve(Fragile(dense(), 12), checkpoint=tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())["state"]
    assert state["total"] is None
    assert state["most"] == 62
    assert re.fullmatch(r"\d of 5 pairs converged", state["note"])
    assert not state.get("finished")
    seconds = sum(BlockStore.open(tmp_path).blocks("images").values())
    found = lanczos().solve(dense(), checkpoint=tmp_path)
    assert found.report.seconds_in_products > seconds  # those of the run before count
    assert found.report.seconds_outside > 0
    state = json.loads((tmp_path / "state.json").read_text())["state"]
    assert (state["finished"], state["total"]) == (True, found.report.products)


def test_verbs(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    A, J = dense(), rectangular()
    for run in range(2):
        found = es.eigsh(A, 3, checkpoint=tmp_path / "eigsh"), es.svds(J, 3, checkpoint=tmp_path / "svds")
        assert all(any("earlier runs" in note for note in one.report.notes) == (run == 1) for one in found)
    check_same_bits(found[0], es.eigsh(A, 3))
    check_same_bits(found[1], es.svds(J, 3))
    assert not caplog.text


def test_an_operator_of_which_only_products_are_known(tmp_path):
    A = dense()
    F = Function(lambda X: A.matrix @ X, A.shape, A.dtype, structure=Structure.SYMMETRIC)
    expected = lanczos().solve(F)
    for _ in range(2):
        check_same_bits(lanczos().solve(F, checkpoint=tmp_path), expected)
