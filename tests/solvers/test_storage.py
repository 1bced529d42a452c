"""Bases on the host and on disk: the same numbers as in the memory of the operator, and none without room."""

from __future__ import annotations

import os
import warnings
import weakref

import pytest
import torch

from eigenspan import (
    BlockGolubKahan,
    BlockLanczos,
    ConvergenceWarning,
    Counted,
    Dense,
    SketchedEigh,
    Storage,
    Structure,
    SubspaceIteration,
)
from eigenspan.solvers import basis as basis_module
from eigenspan.solvers import storage as storage_module
from eigenspan.solvers.basis import Basis
from eigenspan.solvers.report import solver_from_dict, solver_to_dict

N = 1100  # rows: three chunks of two tiles, and one that is neither a chunk nor a tile
CHUNK = 512
KINDS = ["device", "host", "disk"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(basis_module, "CHUNK", CHUNK)
    monkeypatch.setattr("eigenspan.solvers.tall._ROWS", CHUNK)  # which it is in earnest, so that sums are the same
    monkeypatch.setattr(basis_module, "_SMALL", 0)
    monkeypatch.setattr(basis_module, "_ROWS", CHUNK // 4)  # which divides it in earnest as well


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def grown(storage, blocks):
    basis = Basis(N, blocks[0].dtype, blocks[0].device, storage)
    for block in blocks:
        basis.append(block)
    return basis


def exercised(basis, dtype, device):
    """What every method gives."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(N, 3, generator=generator, dtype=dtype).to(device)
    C = torch.randn(basis.size, 4, generator=generator, dtype=torch.float64)
    indices = torch.tensor([0, CHUNK, N - 1, 5, CHUNK - 1], device=device)
    found = [basis.coefficients(X), basis.coefficients(X, 20), basis.combine(C), basis.combine(C[:9], 20)]
    found.append(basis.rows(indices, 30))
    rows, eps = basis.combined_rows(500, 1050, C), torch.finfo(dtype).eps
    torch.testing.assert_close(
        rows, basis.combine(C)[500:1050], rtol=0, atol=100 * eps
    )  # of tiles that begin elsewhere
    basis.replace(C)
    basis.append(X)
    return [*found, basis.combine(torch.eye(7, dtype=torch.float64))]


def test_numbers_are_those_of_the_device_wherever_they_are_kept(kind, dtype, device, tmp_path):
    """To the last bit on a CPU: the same products of the same tiles, summed in the same order."""
    blocks = [torch.randn(N, width, dtype=dtype).to(device) for width in (5, 16, 17, 1)]
    storage = Storage(kind, tmp_path if kind == "disk" else None)
    expected = exercised(grown(storage_module.DEVICE, blocks), dtype, device)
    found = exercised(grown(storage, blocks), dtype, device)
    atol = 0.0 if device == "cpu" else 1e3 * torch.finfo(dtype).eps
    for one, other in zip(found, expected, strict=True):
        assert one.device == other.device
        torch.testing.assert_close(one, other, rtol=0, atol=atol)
    assert list(tmp_path.iterdir()) == []  # files have no name


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_a_narrower_dtype_rounds_what_is_kept_and_nothing_else(kind, stored, device):
    """The basis is that of rounded columns: with these the results agree to the arithmetic, float64."""
    blocks = [torch.randn(N, width, dtype=torch.float64).to(device) for width in (5, 16, 17, 1)]
    narrow = getattr(torch, stored)
    rounded = [block.to(narrow).double() for block in blocks]
    basis = grown(Storage(kind, dtype=narrow), blocks)
    assert basis.rounding == torch.finfo(narrow).eps / 2
    expected = exercised(grown(storage_module.DEVICE, rounded), torch.float64, device)
    found = exercised(basis, torch.float64, device)
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(found[-1], expected[-1], rtol=basis.rounding, atol=0)  # replaced, and so rounded again


def test_a_disk_without_room_is_refused_before_any_product(monkeypatch, tmp_path):
    """With the bytes it takes and those that are free."""
    usage = type(storage_module.shutil.disk_usage(tmp_path))(10**6, 10**6 - 4321, 4321)
    monkeypatch.setattr(storage_module.shutil, "disk_usage", lambda _: usage)
    solver = BlockLanczos(k=5, max_basis=40, storage=Storage("disk", tmp_path))
    with pytest.raises(OSError, match=r"needs 24,400 bytes .*, whose disk has 4,321 free"):
        solver.solve(_untouched(50))  # 40 vectors, 16 of a store and 5 formed, of 50 numbers of 8 bytes


@pytest.mark.parametrize(
    ("solver", "dtype"),
    [
        (BlockLanczos(k=20, max_basis=90, max_products=300, storage="disk"), torch.float64),
        (BlockLanczos(k=20, max_basis=90, max_products=300, storage=Storage("disk", dtype="bfloat16")), torch.float32),
        (SketchedEigh(k=20, outer=60, two_pass=True, storage="disk"), torch.float64),
        (SubspaceIteration(k=20, passes=3, storage="disk"), torch.float64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_asked_for_is_what_a_solve_takes_at_most(solver, dtype, monkeypatch):
    """And not much more: of a spectrum so flat that the basis grows until it restarts, with the vectors formed."""
    asked, files = [], []
    mapped, require = Storage._mapped, Storage.require_room

    def kept(self, count, dtype):
        found = mapped(self, count, dtype)
        files.append((weakref.ref(found.untyped_storage()), found.nbytes))
        held.append(sum(size for file, size in files if file() is not None))
        return found

    held = []
    monkeypatch.setattr(Storage, "_mapped", kept)
    monkeypatch.setattr(Storage, "require_room", lambda self, need: asked.append(need) or require(self, need))
    A = torch.randn(1500, 1500, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = solver.solve(Dense(A + A.mT, Structure.SYMMETRIC))
    assert found.eigenvectors.shape == (1500, 20)
    assert max(held) <= asked[0] <= 1.25 * max(held)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="no folder that even root cannot write")
def test_a_directory_that_cannot_be_written_is_refused_before_any_product():
    with pytest.raises(OSError, match=r"needs 24,400 bytes in /proc, which cannot be written"):
        BlockLanczos(k=5, max_basis=40, storage=Storage("disk", "/proc")).solve(_untouched(50))


@pytest.mark.parametrize(("directory", "remedy"), [(None, "set TMPDIR to another"), (".", "name another directory")])
def test_the_remedy_is_one_of_how_the_directory_was_named(monkeypatch, directory, remedy):
    """Commands take no directory: theirs is the folder of temporary files."""
    usage = type(storage_module.shutil.disk_usage("/"))(10**6, 10**6 - 4321, 4321)
    monkeypatch.setattr(storage_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=rf"4,321 free: {remedy}"):
        Storage("disk", directory).require_room(24_400)


def test_a_folder_of_temporary_files_that_cannot_be_written_is_not_passed_over(monkeypatch, tmp_path):
    """Python would take another, which may have less room, or be held in memory."""
    monkeypatch.setattr("tempfile.tempdir", None)  # as in a new process, which has not asked for it
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"missing, which cannot be written .*: set TMPDIR to another directory"):
        BlockLanczos(k=2, storage="disk").solve(_untouched(50))
    (tmp_path / "missing").mkdir()
    assert Storage("disk").numbers(3, torch.float32, torch.device("cpu")).shape == (3,)


def test_a_file_takes_its_room_at_once(tmp_path):
    """No holes: a process that writes into one when the disk is full ends without an error."""
    free = os.statvfs(tmp_path).f_bfree
    kept = Storage("disk", tmp_path).numbers(1 << 23, torch.float32, torch.device("cpu"))
    block = os.statvfs(tmp_path).f_frsize
    assert (free - os.statvfs(tmp_path).f_bfree) * block > 0.5 * kept.numel() * 4  # others write meanwhile


@pytest.mark.parametrize("kind", ["device", "host", "disk"])
def test_a_rank_without_rows_keeps_nothing(kind, tmp_path):
    directory = tmp_path / "missing" if kind == "disk" else None
    kept = Storage(kind, directory).numbers(0, torch.float32, torch.device("cpu"))
    assert (kept.shape, kept.dtype) == ((0,), torch.float32)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="files take their room as they are written")
def test_a_disk_that_fills_meanwhile_is_named(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage_module.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=f"needs 400 bytes in {tmp_path}: .*No space left on device"):
        Storage("disk", tmp_path).numbers(100, torch.float32, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_the_first_that_has_room(monkeypatch):
    A = Dense(torch.eye(10))
    prepared = Storage("auto").prepared(A, 1000, 10)
    assert prepared.kind == "device"
    monkeypatch.setattr("eigenspan.linops.memory.free_memory", lambda _: 4 * 40_000 - 1)
    assert Storage("auto").prepared(A, 1000, 10).kind == "disk"
    assert Storage("auto", dtype="bfloat16").prepared(A, 1000, 10).kind == "device"


@pytest.mark.parametrize("solver", [BlockLanczos, BlockGolubKahan])
@pytest.mark.parametrize(("quarter", "kind"), [(0, "device"), (-1, "disk")])
def test_auto_goes_by_what_is_expected_as_plans_do(solver, quarter, kind, monkeypatch):
    """Of up to 500 vectors that may come to be kept, with k=5, some 60 are expected."""
    A, one = _untouched(2000), solver(k=5, storage="auto")
    expected = one._workload(A).basis * (2000 if solver is BlockLanczos else 4000) * 8
    monkeypatch.setattr("eigenspan.linops.memory.free_memory", lambda _: 4 * (expected + quarter))
    assert one._stored(A, 2000 if solver is BlockLanczos else 4000).kind == kind
    assert one.plan(Dense(torch.eye(2000, dtype=torch.float64), Structure.SYMMETRIC)).storage.kind == kind


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"kind": "tape"}, ValueError, r"one of auto, device, host, disk, got 'tape'; .* directory=\.\.\.\)$"),
        ({"kind": "host", "directory": "."}, ValueError, "directory='.' is one for kind='disk', got kind='host'"),
        ({"dtype": "float16"}, ValueError, "one of bfloat16, float32, float64, got 'float16'$"),
    ],
)
def test_what_is_no_storage_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        Storage(**options)


def test_a_solver_is_given_a_storage_or_its_name(tmp_path):
    assert BlockLanczos(k=1, storage="disk").storage == Storage("disk")
    solver = BlockLanczos(k=1, storage=Storage("disk", tmp_path, torch.bfloat16))
    assert solver_from_dict(solver_to_dict(solver)) == solver
    with pytest.raises(TypeError, match="storage is a Storage"):
        BlockLanczos(k=1, storage=3)
    with pytest.raises(ValueError, match=r"no digits to store in torch\.float64"):
        BlockLanczos(k=1, storage=Storage(dtype="float64")).solve(_untouched(20, torch.float32))


def _untouched(n, dtype=torch.float64):
    """An operator that must not be multiplied."""

    class Untouched(Dense):
        def _matmat(self, X):
            raise AssertionError

    return Untouched(torch.eye(n, dtype=dtype), Structure.SYMMETRIC)


def test_bases_of_both_sides_are_refused_before_any_product():
    counted = Counted(Dense(torch.randn(40, 30, dtype=torch.float64)))
    with pytest.raises(ValueError, match="bases of both sides are not rounded"):
        BlockGolubKahan(k=2, storage=Storage("disk", dtype="float32")).solve(counted)
    assert counted.products == 0
