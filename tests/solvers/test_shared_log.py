"""Solves of jobs that are interrupted go on, on the same number of ranks with the same bits, and on another number."""

import functools
import shutil

import attrs
import pytest
import shared_log_cases as cases
import torch
from job_cases import found, ranks

from eigenspan.solvers import BlockStore, krylov

ROUNDING = 1e-6  # of the largest value; sums in another order differ by roundings, 1e-13 here
ANYWHERE = [name for name in cases.SOLVERS if name != "two passes"]  # whose second pass depends on the ranks
FROM_ONE = [name for name in cases.SOLVERS if name not in cases.SPREAD or name == "sketch"]


@pytest.fixture(scope="module")
def alone():
    return {name: cases.solve(name) for name in cases.SOLVERS}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Folders of solves that two ranks have begun, and what became of these ranks."""
    folder = tmp_path_factory.mktemp("begun")
    codes, outputs = ranks(functools.partial(cases.interrupted, folder=folder), 2, folder)
    return folder, codes, outputs


@pytest.fixture(scope="module")
def begun(job):
    return job[0]


def copied(begun, folder):
    return shutil.copytree(begun, folder, ignore=shutil.ignore_patterns("*.log"))


def kept(folder):
    """Columns that need not be multiplied again."""
    return {**torch.load(folder / "made.pt", weights_only=True), "data": 2 + 3 * 3}


def require_same(result, expected):
    size = float(expected["values"].abs().max())
    assert float((result["values"] - expected["values"]).abs().max()) <= ROUNDING * size


def require_resumed(result, expected, before):
    """Nothing that was there is multiplied again, and all that was not is."""
    require_same(result, expected)
    assert before > 0
    assert result["products"] == expected["products"] - before


def test_a_rank_that_dies_leaves_the_finished_blocks(job):
    folder, codes, outputs = job
    assert codes[1] == 17
    assert codes[0] not in (0, 17, None)
    assert "Error" in outputs[0]
    store = BlockStore.open(folder / "data")
    assert store.progress().done == kept(folder)["data"]  # the test of symmetry, and three blocks
    assert store.progress().at_work == 0


@pytest.fixture(scope="module")
def three(begun, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    copied(begun, folder / "begun")
    return found(functools.partial(cases.resumed, folder=folder / "begun"), 3, folder)


@pytest.mark.parametrize("name", ANYWHERE)
def test_three_ranks_go_on_where_two_stopped(name, three, begun, alone):
    for rank in three:
        require_resumed(rank[name], alone[name], kept(begun)[name])
        assert torch.equal(rank[name]["vectors"], three[0][name]["vectors"])


def test_two_passes_go_on_from_the_first(three, begun, alone):
    first = 2 + 15  # the test of symmetry, and all of the range
    assert kept(begun)["two passes"] > first
    for rank in three:
        require_resumed(rank["two passes"], alone["two passes"], first)


@pytest.mark.parametrize("name", ANYWHERE)
def test_one_process_goes_on_where_two_ranks_stopped(name, begun, alone, tmp_path):
    copied(begun / name, tmp_path / name)
    require_resumed(cases.solve(name, checkpoint=tmp_path / name), alone[name], kept(begun)[name])


def test_vectors_that_are_not_its_own_to_rounding_are_left(begun, alone, tmp_path, monkeypatch):
    orthonormalise = krylov.orthonormalise

    def turned(*args, **options):
        step = orthonormalise(*args, **options)
        return attrs.evolve(step, Q=-step.Q, R=-step.R)

    copied(begun / "rows", tmp_path / "rows")
    monkeypatch.setattr(krylov, "orthonormalise", turned)
    result = cases.solve("rows", checkpoint=tmp_path / "rows")
    require_same(result, alone["rows"])
    symmetry_and_first = 2 + 3
    assert result["products"] == alone["rows"]["products"] - symmetry_and_first
    assert f"{kept(begun)['rows'] - symmetry_and_first} that were kept are of vectors" in " ".join(result["notes"])
    again = cases.solve("rows", checkpoint=tmp_path / "rows")
    assert again["products"] == 0
    assert torch.equal(again["vectors"], result["vectors"])


def test_a_block_whose_vectors_are_damaged_is_measured_again(begun, alone, tmp_path):
    copied(begun / "rows", tmp_path / "rows")
    path = altered(block(tmp_path / "rows" / "vectors"))
    require_resumed(cases.solve("rows", checkpoint=tmp_path / "rows"), alone["rows"], kept(begun)["rows"] - width(path))


def test_vectors_that_are_cut_or_of_another_run_are_not_made_use_of(begun, alone, tmp_path):
    copied(begun / "rows", tmp_path / "rows")
    cut, other = sorted((tmp_path / "rows" / "vectors").glob("*.safetensors"))[2:4]
    cut.write_bytes(cut.read_bytes()[:-100])
    store = BlockStore.open(tmp_path / "rows" / "vectors")
    columns = range(*(int(end) for end in other.name.split(".")[1].split("-")))
    store.write("images", columns.start, -store.read("images", columns))
    before = kept(begun)["rows"] - width(cut) - width(other)
    require_resumed(cases.solve("rows", checkpoint=tmp_path / "rows"), alone["rows"], before)


def block(folder):
    return sorted(folder.glob("*.safetensors"))[2]


def altered(path):
    numbers = bytearray(path.read_bytes())
    numbers[-100] ^= 4
    path.write_bytes(numbers)
    return path


def width(path):
    start, stop = path.name.split(".")[1].split("-")
    return int(stop) - int(start)


@pytest.fixture(scope="module")
def two(begun, tmp_path_factory):
    """Two ranks again, on what two ranks have begun, on damaged blocks, and on what one process has begun."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "file").touch()
    cases.interrupted(None, folder / "one")
    copied(folder / "one", folder / "untouched")
    copied(begun, folder / "same")
    for name in ("data", "rows"):
        copied(begun / name, folder / "damaged" / name)
        altered(block(folder / "damaged" / name))
    return folder, found(functools.partial(cases.repeated, folder=folder), 2, folder)


def require_same_bits(result, expected):
    assert torch.equal(result["values"], expected["values"])
    assert torch.equal(result["vectors"], expected["vectors"])


@pytest.mark.parametrize("name", cases.SOLVERS)
def test_as_many_ranks_go_on_with_the_same_bits(name, two, begun):
    for rank in two[1]:
        require_same_bits(rank["resumed"][name], rank["undisturbed"][name])
        require_resumed(rank["resumed"][name], rank["undisturbed"][name], kept(begun)[name])


@pytest.mark.parametrize("name", ["data", "rows"])
def test_all_ranks_measure_a_damaged_block_again(name, two, begun):
    for rank in two[1]:
        require_same_bits(rank["damaged"][name], rank["undisturbed"][name])
        lost = width(block(two[0] / "damaged" / name))
        require_resumed(rank["damaged"][name], rank["undisturbed"][name], kept(begun)[name] - lost)


@pytest.mark.parametrize("name", FROM_ONE)
def test_two_ranks_go_on_where_one_process_stopped(name, two, alone):
    folder, results = two
    for rank in results:
        require_resumed(rank["from one process"][name], alone[name], kept(folder / "untouched")[name])


def test_a_solve_that_is_done_multiplies_nothing(two):
    for rank in two[1]:
        assert rank["finished"]["products"] == 0
        require_same_bits(rank["finished"], rank["undisturbed"]["data"])
        assert any("were measured by earlier runs" in note for note in rank["finished"]["notes"])


def test_all_ranks_refuse_alike(two):
    for rank in two[1]:
        other, unwritable, in_use = rank["refused"]
        assert "blocks of something else" in other
        assert "cannot be written" in unwritable
        assert "another process is using the checkpoint" in in_use


@pytest.mark.parametrize("name", [name for name in cases.SOLVERS if name not in FROM_ONE])
def test_spread_rows_do_not_go_on_where_nothing_was_spread(name, two):
    for rank in two[1]:
        assert "rows 1 then and 2 now" in rank["from one process"][name]


def test_a_full_disk_leaves_no_rank_waiting(two):
    for rank in two[1]:
        finished, said = rank["full"]
        require_same_bits(finished, rank["undisturbed"]["columns"])
        assert any("of the products could not be written" in note for note in finished["notes"])
        assert "No space left on device. The solve goes on" in said


@pytest.mark.slow
def test_a_mesh_of_data_and_rows(tmp_path):
    for rank in found(functools.partial(cases.both, folder=tmp_path), 4, tmp_path, data=2, rows=2):
        for name in ("rows", "sketch"):
            assert rank[name]["same"]
            first, then, whole = rank[name]["products"]
            assert min(first, then) > 0
            assert first + then == whole
