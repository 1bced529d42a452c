"""Matrices in a folder: what is there, what is missing, what is refused, whoever writes."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import pytest
import torch
from file_cases import shared_folder, small_files, unprivileged

from eigenspan.solvers import BlockStore, StoredMatrix

FIXED = {"fixed": StoredMatrix(5, torch.float64, columns=10, width=4)}
GROWING = {"basis": StoredMatrix(5, torch.float32), "images": StoredMatrix(5, torch.bfloat16)}


@pytest.fixture
def fixed(tmp_path):
    return BlockStore(tmp_path, {"of": "a test"}, FIXED)


@pytest.fixture
def growing(tmp_path):
    return BlockStore(tmp_path, {"of": "a test"}, GROWING)


def test_missing_columns_are_cut_where_blocks_begin(fixed):
    assert fixed.missing("fixed") == [range(0, 4), range(4, 8), range(8, 10)]
    whole = torch.randn(5, 10, dtype=torch.float64)
    for start, stop, missing in ((4, 8, [range(0, 4), range(8, 10)]), (8, 10, [range(0, 4)]), (0, 4, [])):
        fixed.write("fixed", start, whole[:, start:stop], seconds=0.5)
        assert fixed.missing("fixed") == missing
    assert fixed.blocks("fixed") == {range(0, 4): 0.5, range(4, 8): 0.5, range(8, 10): 0.5}
    assert torch.equal(fixed.matrix("fixed"), whole)
    assert fixed.matrix("fixed").mT.is_contiguous()
    assert torch.equal(fixed.read("fixed", range(8, 10)), whole[:, 8:])


def test_a_matrix_grows_by_blocks_of_any_width(growing, tmp_path):
    assert growing.matrix("basis").shape == (5, 0)
    first, second = torch.randn(5, 3), torch.randn(5, 1)
    growing.write("basis", 0, first)
    growing.write("basis", 3, second)
    growing.write("images", 0, first.bfloat16())
    again = BlockStore.open(tmp_path)
    assert torch.equal(again.matrix("basis"), torch.cat([first, second], 1))
    assert torch.equal(again.matrix("images"), first.bfloat16())
    assert again.matrices == GROWING
    growing.write("basis", 6, second)
    assert again.missing("basis") == [range(4, 6)]
    with pytest.raises(ValueError, match="lacks columns 4-5"):
        again.matrix("basis")
    growing.discard("basis", 3)
    assert list(again.blocks("basis")) == [range(0, 3)]
    growing.write("basis", 0, -first)  # the same columns anew
    assert torch.equal(again.matrix("basis"), -first)


@pytest.mark.parametrize(
    ("start", "width", "message"),
    [
        (0, 3, "blocks of 4"),
        (2, 4, "blocks of 4"),
        (0, 8, "blocks of 4"),
        (8, 4, "columns 0 to 10"),
        (-4, 4, "0 to 10"),
    ],
)
def test_blocks_out_of_place(fixed, start, width, message):
    with pytest.raises(ValueError, match=message):
        fixed.write("fixed", start, torch.zeros(5, width, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        fixed.claim("fixed", range(start, start + width))
    assert not fixed.blocks("fixed")


def test_blocks_of_another_kind(fixed):
    with pytest.raises(TypeError, match=r"is torch.float64, got a block of torch.float32"):
        fixed.write("fixed", 0, torch.zeros(5, 4))
    with pytest.raises(ValueError, match="has 5 rows"):
        fixed.write("fixed", 0, torch.zeros(6, 4, dtype=torch.float64))


def test_overlapping_blocks(tmp_path):
    store = BlockStore(tmp_path, {}, GROWING)
    store.write("basis", 0, torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"has a block range\(0, 4\) already"):
        store.write("basis", 3, torch.zeros(5, 2))


@pytest.mark.parametrize("name", ["", "a.b", "../a", "1a", "a/b"])
def test_names_that_files_cannot_have(tmp_path, name):
    with pytest.raises(ValueError, match="names of matrices"):
        BlockStore(tmp_path / "new", {}, {name: StoredMatrix(5, torch.float32)})
    assert not (tmp_path / "new").exists()


def test_something_else(fixed, tmp_path):
    assert BlockStore(tmp_path, {"of": "a test"}, FIXED).identity == fixed.identity
    for identity, matrices, message in (
        ({"of": "another"}, FIXED, "of is a test there and another here"),
        ({}, FIXED, "of is a test there and None here"),
        ({"of": "a test", "seed": 1}, FIXED, "seed is None there and 1 here"),
        ({"of": "a test"}, GROWING, "matrices.fixed is .* there and None here"),
    ):
        with pytest.raises(ValueError, match=message):
            BlockStore(tmp_path, identity, matrices)


def test_claims(fixed, tmp_path):
    other = BlockStore.open(tmp_path)
    with fixed.claim("fixed", range(0, 4)):
        assert other.claim("fixed", range(0, 4)) is None
        with other.claim("fixed", range(4, 8)):
            assert fixed.progress().at_work == 2
    assert fixed.progress().at_work == 0
    partial = tmp_path / "fixed.00000000-00000004.safetensorsabc.partial"  # of a worker that died while it wrote
    partial.write_text("half")
    with other.claim("fixed", range(0, 4)):
        assert not partial.exists()
        other.write("fixed", 0, torch.zeros(5, 4, dtype=torch.float64))
    assert fixed.claim("fixed", range(0, 4)) is None  # it is done


def test_expected_time(tmp_path):
    store = BlockStore(tmp_path, {}, FIXED)
    assert store.progress().seconds_left is None
    store.write("fixed", 0, torch.zeros(5, 4, dtype=torch.float64), seconds=8.0)
    progress = store.progress()
    assert (progress.done, progress.total, progress.seconds_per_column) == (4, 10, 2.0)
    assert progress.seconds_left == 12.0
    with store.claim("fixed", range(4, 8)), store.claim("fixed", range(8, 10)):
        assert store.progress().seconds_left == 6.0
    growing = BlockStore(tmp_path / "growing", {}, GROWING)
    growing.write("basis", 0, torch.zeros(5, 3), seconds=1.5)
    assert (growing.progress().done, growing.progress().total, growing.progress().seconds_left) == (3, None, None)


def test_a_state_of_plain_data(growing, tmp_path):
    assert growing.read_state() is None
    for state in ({"restarts": 3}, {"alpha": [0.1, 1 / 3, 1e-300], "beta": (), "done": True, "numbers": {10: 1, 9: 2}}):
        growing.write_state(state)
    assert BlockStore.open(tmp_path).read_state() == {
        "alpha": [0.1, 1 / 3, 1e-300],
        "beta": [],
        "done": True,
        "numbers": {"10": 1, "9": 2},
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        growing.write_state({"value": float("nan")})
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        growing.read_state()
    BlockStore(tmp_path / "other", {"of": "another"}, {}).write_state({})
    shutil.copy(tmp_path / "other" / "state.json", path)
    with pytest.raises(ValueError, match="belongs to something else"):
        growing.read_state()


def test_of_many_that_begin_at_once_one_kind_wins(tmp_path):
    outcomes = []

    def begin(identity):
        try:
            outcomes.append(BlockStore(tmp_path, {"seed": identity}, FIXED).identity["seed"])
        except ValueError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=begin, args=(i % 2,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = BlockStore.open(tmp_path).identity["seed"]
    assert outcomes.count(winner) == 8
    assert sum("blocks of something else" in str(outcome) for outcome in outcomes) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_files_that_are_not_ones_own_are_passed_over(fixed, tmp_path):
    for name in ("fixed.x.safetensors", "fixed.1-2-3.safetensors", "notes.txt", "fixed.00000000-00000004.damaged"):
        (tmp_path / name).write_text("hello")
    assert not fixed.blocks("fixed")
    assert fixed.progress().at_work == 0


@pytest.fixture
def shared():
    with shared_folder() as folder:
        yield folder


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_folder_that_cannot_be_written(shared):
    store = BlockStore(shared, {}, FIXED)
    block = torch.ones(5, 4, dtype=torch.float64)
    store.write("fixed", 0, block)
    shared.chmod(0o555)
    with unprivileged():
        store = BlockStore(shared, {}, FIXED)  # to look at is allowed
        assert torch.equal(store.read("fixed", range(0, 4)), block)
        assert store.progress().done == 4
        for attempt in (
            lambda: store.write("fixed", 4, block),
            lambda: store.claim("fixed", range(4, 8)),
            lambda: store.discard("fixed"),
            lambda: store.write_state({}),
            lambda: BlockStore(shared / "new", {}, FIXED),
        ):
            with pytest.raises(PermissionError, match=r"cannot be written \(Permission denied\): what is finished"):
                attempt()
    shared.chmod(0o755)
    assert torch.equal(BlockStore.open(shared).read("fixed", range(0, 4)), block)


@pytest.mark.skipif(os.name != "posix", reason="limits are those of POSIX")
def test_a_file_that_does_not_fit(tmp_path):
    """The system refuses to write more than so many bytes to a file, as it does when a disk is full."""
    store = BlockStore(tmp_path, {}, {"large": StoredMatrix(50_000, torch.float64)})
    with (
        small_files(100_000),
        pytest.raises(OSError, match=r"cannot be written .*: what is finished stays there; make room") as caught,
    ):
        store.write("large", 0, torch.ones(50_000, 1, dtype=torch.float64))
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    store.write("large", 0, torch.ones(50_000, 1, dtype=torch.float64))
    assert store.matrix("large").shape == (50_000, 1)
