"""Jobs of two and four processes on this machine, in float64, beside one process."""

import attrs
import distributed_cases as cases
import pytest
import torch
from job_cases import found, ranks

import eigenspan
from eigenspan.linops.distributed import job

REQUIRED = 1e-6  # of the largest value; sums in another order differ by roundings, 1e-13 here


@pytest.fixture(scope="module")
def hessian():
    return cases.hessian(cases.batches())


@pytest.fixture(scope="module")
def expected(hessian):
    return cases.solved(cases.dense(hessian))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return found(cases.comparison, 2, tmp_path_factory.mktemp("two"))


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


def test_fingerprints_are_those_of_one_process_on_all_data(two, hessian):
    alone, matrix = cases.curvatures(cases.batches()), cases.dense(hessian).matrix
    function = eigenspan.Function(lambda X: matrix @ X, matrix.shape, matrix.dtype, structure=cases.SYMMETRIC)
    H = alone[0]
    expected = [A.fingerprint() for A in (*alone, H, H, H, 2 * H, H.T @ H, function)]
    assert len(set(expected)) == 7
    for rank in two:
        assert rank["fingerprints"] == expected


def test_fingerprints_of_other_data_differ(two):
    inputs, targets = cases.one_batch()
    for changed in ((inputs[1:], targets[1:]), (inputs, targets.roll(1))):
        assert cases.hessian(changed).fingerprint() not in two[0]["fingerprints"]


def test_a_start_is_spread_too(two, expected):
    for rank in two:
        torch.testing.assert_close(rank["started"], expected["lanczos"]["values"], rtol=0, atol=1e-9)


def test_singular_values_of_spread_rows(two):
    alone = [solver.solve(eigenspan.Dense(cases.rectangle())).singular_values for solver in cases.SVD_SOLVERS]
    torch.testing.assert_close(alone[0], torch.linalg.svdvals(cases.rectangle())[:4], rtol=1e-9, atol=0)
    for rank in two:
        torch.testing.assert_close(torch.stack(rank["singular"]), torch.stack(alone), rtol=REQUIRED, atol=0)


@pytest.mark.parametrize("place", [0, 1], ids=["in memory", "on disk"])
def test_masks_ask_for_rows_of_spread_eigenvectors(two, hessian, place):
    """Of vectors on disk no more is formed; both are those of the whole, to rounding."""
    scores = torch.arange(127.0).sin()
    mask = eigenspan.MaskSubspace.top_k(scores, 20).to(dtype=torch.float64)
    for rank in two:
        found = rank["rows of pairs"][place]
        whole = eigenspan.OrthonormalSubspace(found["vectors"])
        eigen = eigenspan.EigenSubspace(found["vectors"], torch.arange(3.0, 0.0, -1.0))
        torch.testing.assert_close(found["rows"], found["vectors"][cases.INDICES], rtol=0, atol=1e-15)
        assert float(found["overlap"]) == pytest.approx(float(eigenspan.overlap(mask, whole)), rel=1e-12)
        torch.testing.assert_close(found["curve"], eigenspan.overlap_curve(scores, eigen), rtol=1e-12, atol=0)
        assert found["formed"] == (place == 0)
        assert torch.equal(found["vectors"], two[0]["rows of pairs"][place]["vectors"])


def test_what_takes_whole_vectors_says_so(two):
    for rank in two:
        for pairs in rank["rows of pairs"]:
            chance, overlap, save, arpack, trace = pairs["refused"]
            for message in (chance, overlap):
                assert "has its rows spread over ranks: gather them" in message
            assert "spread over ranks, and a file takes whole ones" in save
            for message in (arpack, trace):
                assert "takes whole blocks" in message
                assert "ColumnParallel" in message


def test_ranks_that_do_not_go_together_are_refused(two):
    for number, rank in enumerate(two):
        shapes, points, reductions, batches, coefficients, numbers = rank["refused"]
        assert "differ in their shapes" in shapes
        assert "differ in their parameters" in points
        assert "reductions of the loss" in reductions
        assert "1 batches have no share for each of 2 ranks" in batches
        assert ("computed other coefficients" in coefficients) == (number == 1)
        assert "NaN or infinite entries" in numbers


def test_ranks_of_other_memory_and_speed_decide_alike(tmp_path):
    """By what the least of them has: the sizes of bases, and how often a plan multiplies."""
    largest = 2.0 - torch.arange(5, dtype=torch.float64) / 399
    R = cases.rectangle()
    for rank in found(cases.uneven, 2, tmp_path):
        assert rank["sizes"] == [55, 28, 55]  # 60 vectors beside a result of 5, and half as many of both sides
        for values in rank["values"]:
            torch.testing.assert_close(values, largest[: len(values)] ** 9)
        torch.testing.assert_close(rank["gram"], R @ R.mT)


def test_a_rank_that_dies_ends_the_others_with_an_error(tmp_path):
    codes, outputs = ranks(cases.dying, 2, tmp_path)
    assert codes[1] == 17
    assert codes[0] not in (0, 17, None)
    assert "Error" in outputs[0]
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_a_rank_that_is_late_ends_the_others_within_the_timeout(tmp_path):
    codes, outputs = ranks(cases.late, 2, tmp_path, timeout=10)
    assert codes == [1, 3]
    assert "imed out" in outputs[0]


@pytest.mark.slow
def test_four_ranks_hold_a_quarter_of_the_basis_each(tmp_path, expected):
    for rank in found(cases.quarters, 4, tmp_path):
        assert rank["bytes"] == rank["whole"] / 4
        require_same(rank["rows"], expected)
        for values in rank["few"]:
            torch.testing.assert_close(values, torch.tensor([3.0, -2.0], dtype=torch.float64))


@pytest.mark.slow
def test_a_mesh_shares_out_data_and_rows(tmp_path, expected):
    for rank in found(cases.both, 4, tmp_path, data=2, rows=2):
        require_same(rank, expected)


def test_a_process_may_have_one_job_after_another(tmp_path):
    assert [float(rank["total"]) for rank in found(cases.total, 2, tmp_path, timeout=30, jobs=3)] == [3.0, 3.0]


def test_a_job_of_one_rank_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with job() as mesh:
        numbers = torch.arange(1.0, 4.0, dtype=torch.float64)
        A = cases.RowSharded(eigenspan.Diagonal(numbers), mesh)
        assert torch.equal(cases.whole(A @ torch.ones(3, dtype=torch.float64)), numbers)


def test_tasks_of_slurm_alone_are_no_job(monkeypatch):
    """They would each be a job of one rank, and write the same files."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(RuntimeError, match=r"srun started 4 tasks.*let srun start torchrun"), job():
        pass


def test_a_file_takes_whole_vectors(monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    with job() as mesh:
        numbers = torch.arange(1.0, 41.0, dtype=torch.float64)
        spread = eigenspan.BlockLanczos(k=2).solve(cases.RowSharded(eigenspan.Diagonal(numbers), mesh))
        with pytest.raises(TypeError, match="has its eigenvectors spread over ranks"):
            spread.save(tmp_path / "pairs.npz")
        attrs.evolve(spread, eigenvectors=cases.whole(spread.eigenvectors)).save(tmp_path / "pairs.npz")
        loaded = eigenspan.EigenDecomposition.load(tmp_path / "pairs.npz")
        assert torch.equal(loaded.eigenvectors, cases.whole(spread.eigenvectors))


def test_angles_take_whole_vectors(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with job() as mesh:
        numbers = torch.arange(1.0, 41.0, dtype=torch.float64)
        spread = eigenspan.BlockLanczos(k=2).solve(cases.RowSharded(eigenspan.Diagonal(numbers), mesh))
        gathered = eigenspan.OrthonormalSubspace(cases.whole(spread.eigenvectors))
        axes = eigenspan.MaskSubspace.from_indices(torch.tensor([38, 39]), 40, torch.float64)
        for other in (gathered, axes):
            for pair in ((spread.subspace, other), (other, spread.subspace)):
                for function in (eigenspan.principal_angles, eigenspan.principal_vectors):
                    with pytest.raises(TypeError, match="has its rows spread over ranks: gather them"):
                        function(*pair)
        assert float(eigenspan.principal_angles(gathered, axes).radians.max()) < 1e-8


def test_a_mesh_of_other_sizes_than_the_job_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="as many ranks as their product, and the job has 1"), job(data=2):
        pass
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"), job("tpu"):
        pass
