"""Sketches measured by several processes, some of which die, give what one process gives, to the last bit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import socket
import time

import pytest
import torch
from worker_cases import BLOCK, COLUMNS, dense, hessian, slow, solver, work, work_on_hessian

from eigenspan.linops import Counted, Dense, Structure
from eigenspan.solvers import (
    BlockLanczos,
    BlockStore,
    Nystrom,
    SketchedEigh,
    SketchedSVD,
    decompose_folder,
    measure_columns,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")


@pytest.fixture(scope="module")
def process():
    """Makes processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eigenspan", "worker_cases"])
    return lambda target, *arguments: context.Process(target=target, args=arguments)


def check_same_bits(found, expected):
    for name in ("eigenvalues", "eigenvectors"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def blocks(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    "sketch",
    [
        solver(),
        solver(basis="first", block_size=7),
        SketchedSVD(k=6, outer=12, inner=27, block_size=5, core="two-sided"),
        SketchedSVD(k=6, outer=12, block_size=5),
        Nystrom(k=6, sketch_size=19, block_size=64),
    ],
    ids=["leading", "first", "two-sided", "least-squares", "nystrom"],
)
def test_of_one_process_it_is_what_solve_finds(sketch, tmp_path, device):
    matrix = dense().matrix.to(device)
    A = Dense(matrix @ matrix, Structure.PSD)
    total = sum(sketch._parts(A.shape).values())
    third = measure_columns(sketch, A, tmp_path / "new" / "folder", range(0, total // 3))
    assert total // 3 <= third <= total
    assert measure_columns(sketch, A, tmp_path / "new" / "folder") == total - third
    assert measure_columns(sketch, A, tmp_path / "new" / "folder") == 0
    found, expected = decompose_folder(tmp_path / "new" / "folder", device=device), sketch.solve(A)
    for name in type(found)._tensor_names():
        if name != "residual_norms":
            assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.report.solver == sketch


@posix
@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_workers_that_are_killed_at_any_time(kills, process, tmp_path):
    rng, seconds = random.Random(kills), 0.03 if kills < 10 else 0.15
    workers = [process(work, tmp_path, seconds) for _ in range(3)]
    for worker in workers:
        worker.start()
    killed = 0
    while killed < kills and not blocks(tmp_path):  # from when they have begun
        time.sleep(0.01)
    while killed < kills:
        time.sleep(rng.uniform(0, 2 * seconds))
        victim = rng.randrange(3)
        if workers[victim].exitcode is None:
            workers[victim].kill()
            workers[victim].join()
            killed += workers[victim].exitcode == -signal.SIGKILL
        workers[victim] = process(work, tmp_path, seconds)
        workers[victim].start()
        if len(blocks(tmp_path)) > 6:  # so that there is always something to do
            for path in rng.sample(blocks(tmp_path), 2):
                path.unlink(missing_ok=True)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = BlockStore.open(tmp_path)
    assert store.progress().done == COLUMNS
    assert store.progress().at_work == 0
    check_same_bits(decompose_folder(tmp_path), solver().solve(dense()))
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}  # nothing is left lying about


@posix
def test_a_worker_that_was_suspended_does_no_harm(process, tmp_path):
    sleeper = process(work, tmp_path, 0.2, 0.5)
    sleeper.start()
    while not list(tmp_path.glob("range.*.claim")):
        time.sleep(0.01)
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        measured = measure_columns(solver(), slow(0.0), tmp_path, lapse=0.5)
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(60)
    assert sleeper.exitcode == 0
    assert measured >= COLUMNS - 2 * BLOCK
    check_same_bits(decompose_folder(tmp_path), solver().solve(dense()))


@posix
def test_workers_on_a_hessian(process, tmp_path):
    workers = [process(work_on_hessian, tmp_path) for _ in range(2)]
    for worker in workers:
        worker.start()
    measure_columns(solver(), hessian(), tmp_path)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    check_same_bits(decompose_folder(tmp_path), solver().solve(hessian()))


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        measure_columns(solver(), dense(), tmp_path)
        return tmp_path

    def check_only_that_is_measured_again(self, folder, path):
        counted = Counted(dense())
        before = {other.name: other.stat().st_mtime_ns for other in blocks(folder) if other != path}
        assert measure_columns(solver(), counted, folder) == BLOCK
        assert counted.products == BLOCK
        assert {other.name: other.stat().st_mtime_ns for other in blocks(folder) if other != path} == before
        check_same_bits(decompose_folder(folder), solver().solve(dense()))

    @pytest.mark.parametrize("what", ["half", "empty", "header", "another's"])
    def test_that_a_worker_sees(self, folder, what, caplog):
        path = blocks(folder)[3]
        whole = path.read_bytes()
        contents = {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "header": whole.replace(b'"12"', b'"13"', 1),
            "another's": blocks(folder)[4].read_bytes(),
        }
        path.write_bytes(contents[what])
        assert BlockStore.open(folder).missing("range") == [range(12, 16)]
        self.check_only_that_is_measured_again(folder, path)
        assert "columns 12-15 of range count as missing" in caplog.text

    def test_of_a_number(self, folder, caplog):
        path = blocks(folder)[3]
        whole = bytearray(path.read_bytes())
        whole[-100] ^= 4
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=r"lacks columns 12-15, or they are damaged"):
            decompose_folder(folder)
        assert "columns 12-15 of range are missing now" in caplog.text
        assert path.with_suffix(".damaged").read_bytes() == whole
        self.check_only_that_is_measured_again(folder, path)

    def test_of_the_manifest(self, folder):
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
        for attempt in (lambda: measure_columns(solver(seed=1), dense(), folder), lambda: decompose_folder(folder)):
            with pytest.raises(ValueError, match=r"damaged .*checksum.* remove it"):
                attempt()
        manifest.unlink()
        assert measure_columns(solver(), dense(), folder) == 0  # blocks know what they belong to
        check_same_bits(decompose_folder(folder), solver().solve(dense()))

    def test_blocks_of_another_measurement_are_not_taken_for_ones_own(self, folder):
        (folder / "manifest.json").unlink()
        assert measure_columns(solver(seed=1), dense(), folder) == COLUMNS
        check_same_bits(decompose_folder(folder), solver(seed=1).solve(dense()))


class TestRefused:
    @pytest.mark.parametrize(
        ("sketch", "A", "difference"),
        [
            (solver(seed=1), dense(), "mix: solver.seed is 0 there and 1 here; choose"),
            (solver(test_matrix="gaussian"), dense(), "solver.test_matrix is"),
            (solver(block_size=8), dense(), "solver.block_size is"),
            (solver(), dense(seed=1), r"operator is \w{32} there and \w{32} here"),
            (solver(), Dense(dense().matrix.float(), dense().structure), "dtype is torch.float64 there"),
        ],
    )
    def test_another_solver_or_operator(self, sketch, A, difference, tmp_path):
        measure_columns(solver(), dense(), tmp_path, range(0, 4))
        with pytest.raises(ValueError, match=f"blocks of something else, and blocks do not .*{difference}"):
            measure_columns(sketch, A, tmp_path)
        assert len(blocks(tmp_path)) == 1

    def test_before_anything_is_written(self, tmp_path):
        folder = tmp_path / "folder"
        with pytest.raises(TypeError, match="columns are known in advance of a sketch"):
            measure_columns(BlockLanczos(k=3), dense(), folder)
        with pytest.raises(ValueError, match="two passes"):
            measure_columns(SketchedEigh(k=3, two_pass=True), dense(), folder)
        with pytest.raises(ValueError, match=r"has columns range\(0, 40\)"):
            measure_columns(solver(), dense(), folder, range(30, 50))
        assert not folder.exists()
        with pytest.raises(FileNotFoundError, match="holds no blocks"):
            decompose_folder(folder)

    def test_what_is_no_sketch(self, tmp_path):
        BlockStore(tmp_path, {"solver": {"class": "BlockLanczos", "k": 3}}, {})
        with pytest.raises(ValueError, match="which does not sketch"):
            decompose_folder(tmp_path)
        BlockStore(tmp_path / "other", {"basis of": "something"}, {})
        with pytest.raises(ValueError, match="not those of a sketch"):
            decompose_folder(tmp_path / "other")

    def test_too_few_columns(self, tmp_path):
        measure_columns(solver(), dense(), tmp_path, range(2, 6))
        with pytest.raises(ValueError, match=r"lacks columns 8-11, 12-15, .*36-39"):
            decompose_folder(tmp_path)


def test_a_name_for_the_operator(tmp_path):
    measure_columns(solver(), slow(0.0), tmp_path, range(0, 4), fingerprint="mine")
    assert measure_columns(solver(), dense(), tmp_path, fingerprint="mine") == COLUMNS - 4
    check_same_bits(decompose_folder(tmp_path), solver().solve(dense()))


def test_the_same_products_serve_another_solver(tmp_path):
    measure_columns(solver(), dense(), tmp_path)
    other = solver(k=9, core="two-sided")
    check_same_bits(decompose_folder(tmp_path, other), other.solve(dense()))
    with pytest.raises(ValueError, match="seed is 0 and 1"):
        decompose_folder(tmp_path, solver(seed=1))


def test_blocks_that_others_hold_are_left_to_them(tmp_path):
    measure_columns(solver(), dense(), tmp_path, range(0, 4))
    with BlockStore.open(tmp_path).claim("range", range(8, 12)):
        assert measure_columns(solver(), dense(), tmp_path, wait=False) == COLUMNS - 2 * BLOCK
        assert BlockStore.open(tmp_path).progress().at_work == 1
    assert measure_columns(solver(), dense(), tmp_path, wait=False) == BLOCK


@posix
def test_the_claim_of_one_that_died_with_its_block_written_does_not_stay(process, tmp_path):
    worker = process(work, tmp_path, 0.0)
    worker.start()
    worker.join()
    left, held = tmp_path / "range.4-8.claim", tmp_path / "range.8-12.claim"
    left.write_text(f"{worker.pid} {socket.gethostname()}")
    held.write_text(f"{os.getpid()} {socket.gethostname()}")
    assert measure_columns(solver(), slow(0.0), tmp_path) == 0
    assert not left.exists()
    assert held.exists()


def test_an_error_gives_back_the_claim(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    broken = dense()
    broken.matrix[3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure_columns(solver(), broken, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert not caplog.text
