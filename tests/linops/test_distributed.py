"""Jobs of two and four processes on this machine, in float64, beside one process."""

import multiprocessing
import multiprocessing.forkserver
import os
import socket
import sys
from unittest import mock

import distributed_cases as cases
import pytest
import torch

import eigenspan

REQUIRED = 1e-6  # of the largest value; sums in another order differ by roundings, 1e-13 here


def ranks(case, count, folder, timeout=120):
    """The exit codes and outputs of a job's processes, which are ended after ten minutes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK_TIMEOUT": timeout}
    context = multiprocessing.get_context("forkserver")  # imports once for all ranks
    context.set_forkserver_preload(["distributed_cases", "torch.distributed.tensor"])
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # else it skips what it does not find
        multiprocessing.forkserver.ensure_running()
    processes = []
    for rank in range(count):
        own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        processes.append(context.Process(target=cases.main, args=(case, folder, own)))
        processes[-1].start()
    for process in processes:
        process.join(600)
        process.kill()  # of one that has ended nothing is left to kill
    return [process.exitcode for process in processes], [(folder / f"{rank}.log").read_text() for rank in range(count)]


def found(case, count, folder):
    """What each rank of a job that ended well has written."""
    codes, outputs = ranks(case, count, folder)
    assert codes == [0] * count, "\n".join(outputs)
    return [torch.load(folder / f"{case}-{rank}.pt", weights_only=True) for rank in range(count)]


@pytest.fixture(scope="module")
def hessian():
    return cases.hessian(cases.batches())


@pytest.fixture(scope="module")
def expected(hessian):
    return cases.solved(cases.dense(hessian))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return found("comparison", 2, tmp_path_factory.mktemp("two"))


def require_same(results, expected):
    for name, result in results.items():
        alone = expected[name]
        size = float(alone["values"].abs().max())
        assert float((result["values"] - alone["values"]).abs().max()) <= REQUIRED * size, name
        assert float((result["residuals"] - alone["residuals"]).abs().max()) <= REQUIRED * size, name
        projectors = [vectors @ vectors.mT for vectors in (result["vectors"], alone["vectors"])]
        assert float(torch.linalg.matrix_norm(projectors[0] - projectors[1], 2)) <= REQUIRED, name
        assert result["products"] == alone["products"], name


@pytest.mark.parametrize("way", ["rows", "columns", "data"])
def test_two_ranks_find_what_one_process_finds(two, expected, way):
    for rank in two:
        assert len(rank[way]) >= 3
        require_same(rank[way], expected)


def test_all_ranks_have_the_same_bits(two):
    for way in ("rows", "columns", "data"):
        for name, result in two[0][way].items():
            for key in ("values", "vectors", "residuals"):
                assert torch.equal(result[key], two[1][way][name][key]), (way, name, key)


def test_products_losses_and_gradients_are_those_of_all_data(two, hessian):
    whole = hessian.to_dense()
    for rank in two:
        assert rank["loss"] == pytest.approx(hessian.loss(), rel=1e-12)
        torch.testing.assert_close(rank["gradient"], hessian.gradient(), rtol=1e-10, atol=1e-13)
        for matrix in rank["dense"]:
            torch.testing.assert_close(matrix, whole, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(rank["block"], whole[:, :5], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(rank["vector"], whole[:, 0], rtol=1e-10, atol=1e-13)


def test_a_start_is_spread_too(two, expected):
    for rank in two:
        torch.testing.assert_close(rank["started"], expected["lanczos"]["values"], rtol=0, atol=1e-9)


def test_singular_values_of_spread_rows(two):
    alone = [solver.solve(eigenspan.Dense(cases.rectangle())).singular_values for solver in cases.SVD_SOLVERS]
    torch.testing.assert_close(alone[0], torch.linalg.svdvals(cases.rectangle())[:4], rtol=1e-9, atol=0)
    for rank in two:
        torch.testing.assert_close(torch.stack(rank["singular"]), torch.stack(alone), rtol=REQUIRED, atol=0)


def test_ranks_that_do_not_go_together_are_refused(two):
    for number, rank in enumerate(two):
        shapes, points, batches, coefficients, numbers = rank["refused"]
        assert "differ in their shapes" in shapes
        assert "differ in their parameters" in points
        assert "1 batches have no share for each of 2 ranks" in batches
        assert ("computed other coefficients" in coefficients) == (number == 1)
        assert "NaN or infinite entries" in numbers


def test_a_rank_that_dies_ends_the_others_with_an_error(tmp_path):
    codes, outputs = ranks("dying", 2, tmp_path)
    assert codes[1] == 17
    assert codes[0] not in (0, 17, None)
    assert "Error" in outputs[0]
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_a_rank_that_is_late_ends_the_others_within_the_timeout(tmp_path):
    codes, outputs = ranks("late", 2, tmp_path, timeout=10)
    assert codes == [1, 3]
    assert "imed out" in outputs[0]


@pytest.mark.slow
def test_four_ranks_hold_a_quarter_of_the_basis_each(tmp_path, expected):
    for rank in found("quarters", 4, tmp_path):
        assert rank["bytes"] == rank["whole"] / 4
        require_same(rank["rows"], expected)


@pytest.mark.slow
def test_a_mesh_shares_out_data_and_rows(tmp_path, expected):
    for rank in found("both", 4, tmp_path):
        require_same(rank, expected)


def test_a_job_of_one_rank_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with cases.job() as mesh:
        numbers = torch.arange(1.0, 4.0, dtype=torch.float64)
        A = cases.RowSharded(eigenspan.Diagonal(numbers), mesh)
        assert torch.equal(cases.whole(A @ torch.ones(3, dtype=torch.float64)), numbers)


def test_a_mesh_of_other_sizes_than_the_job_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="as many ranks as their product, and the job has 1"), cases.job(data=2):
        pass
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"), cases.job("tpu"):
        pass
