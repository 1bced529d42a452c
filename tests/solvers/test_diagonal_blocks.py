"""Diagonal blocks solved for at once: as one by one, in the passes of the slowest."""

from __future__ import annotations

import threading

import pytest
import torch
from checkpoint_cases import Fragile, InterruptedSolveError
from torch import nn

import eigenspan as es
from eigenspan.linops import Counted, Dense, LinearOperator, MaskSubspace, OrthonormalSubspace, Structure
from eigenspan.solvers import solve_diagonal_blocks


def symmetric(n, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return Dense((matrix + matrix.mT).to(device, dtype), Structure.SYMMETRIC)


def masks(*sizes, device="cpu", dtype=torch.float64):
    labels = torch.repeat_interleave(torch.tensor(sizes)).to(device)
    return {f"block {label}": MaskSubspace(labels == label, dtype) for label in range(len(sizes))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_as_one_by_one(dtype, device):
    A, blocks = symmetric(90, dtype, device), masks(5, 60, 25, device=device, dtype=dtype)
    found = solve_diagonal_blocks(lambda n: es.BlockLanczos(k=min(6, n)), A, blocks)
    assert list(found) == list(blocks)
    for name, subspace in blocks.items():
        alone = es.BlockLanczos(k=min(6, subspace.dim)).solve(A.restricted(subspace))
        # Wider blocks are rounded in another order.
        tolerance = 100 * torch.finfo(dtype).eps * float(alone.eigenvalues.abs().max())
        torch.testing.assert_close(found[name].eigenvalues, alone.eigenvalues, rtol=0, atol=tolerance)
        assert found[name].report.products == alone.report.products
        assert found[name].report.status == alone.report.status


def test_subspaces_of_any_kind():
    A, S = symmetric(30), OrthonormalSubspace.random(30, 8, dtype=torch.float64)
    found = solve_diagonal_blocks(lambda n: es.DenseEigh(k=3), A, {"mask": masks(10, 20)["block 1"], "span": S})
    exact = torch.linalg.eigvalsh(S.vectors.mT @ A.to_dense() @ S.vectors)
    torch.testing.assert_close(found["span"].eigenvalues.abs(), exact.abs().sort(descending=True).values[:3])
    vectors = S.lift(found["span"].eigenvectors)
    residual = S.projector @ (A @ vectors) - vectors * found["span"].eigenvalues
    assert float(residual.abs().max()) < 1e-12


def test_factors_are_those_of_the_compressions():
    R = torch.randn(9, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = es.as_operator(R)
    subspace = MaskSubspace(torch.arange(60) < 20, torch.float64)
    found = solve_diagonal_blocks(lambda n: es.GramEigh(k=3), A.T @ A, {"block": subspace})["block"]
    alone = es.GramEigh(k=3).solve((A.T @ A).restricted(subspace))
    torch.testing.assert_close(found.eigenvalues, alone.eigenvalues)


def test_passes_are_those_of_the_slowest():
    A = Counted(symmetric(120))
    found = solve_diagonal_blocks(lambda n: es.BlockLanczos(k=4), A, masks(20, 70, 30))
    assert A.calls == max(each.report.passes for each in found.values())
    assert A.products == sum(each.report.products for each in found.values())


@pytest.mark.parametrize("size", [1, 3, 8, 500])
def test_columns_at_once(size, device):
    """However many are multiplied at once, those of one block in several groups or of several blocks in one."""
    widths = []

    class Watched(LinearOperator):
        def __init__(self):
            self.matrix = symmetric(90, device=device)
            super().__init__((90, 90), torch.float64, self.matrix.device, Structure.SYMMETRIC)

        def _matmat(self, X):
            widths.append(X.shape[1])
            return self.matrix @ X

    blocks = masks(5, 60, 25, device=device)
    found = solve_diagonal_blocks(lambda n: es.BlockLanczos(k=min(6, n)), Watched(), blocks, block_size=size)
    assert max(widths) <= size
    assert sum(widths) == sum(each.report.products for each in found.values())
    for name, subspace in blocks.items():
        exact = es.DenseEigh(k=min(6, subspace.dim)).solve(Watched().restricted(subspace))
        torch.testing.assert_close(found[name].eigenvalues, exact.eigenvalues, rtol=0, atol=1e-10)


def test_warnings_name_the_block_and_point_at_the_caller():
    solver = {200: es.BlockLanczos(k=4, max_products=12), 20: es.BlockLanczos(k=4)}
    with pytest.warns(es.ConvergenceWarning, match="block 'block 1': <EigenDecomposition") as caught:
        solve_diagonal_blocks(solver.get, symmetric(220), masks(20, 200))
    assert [warning.filename for warning in caught] == [__file__]


def test_one_thread_at_a_time_multiplies():
    threads = set()

    class Watched(LinearOperator):
        def __init__(self):
            self.matrix = symmetric(40)
            super().__init__((40, 40), torch.float64, torch.device("cpu"), Structure.SYMMETRIC)

        def _matmat(self, X):
            threads.add(threading.get_ident())
            return self.matrix @ X

    solve_diagonal_blocks(lambda n: es.BlockLanczos(k=3), Watched(), masks(10, 10, 20))
    assert threads == {threading.get_ident()}


def test_the_hessian_layer_by_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data = torch.randn(30, 5, dtype=torch.float64), torch.randint(0, 3, (30,))
    H = es.Hessian(model, nn.CrossEntropyLoss(), data)
    found = solve_diagonal_blocks(lambda n: es.BlockLanczos(k=min(4, n)), H, MaskSubspace.parts(H.parameters))
    assert list(found) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, eig in found.items():
        alone = es.Hessian(model, nn.CrossEntropyLoss(), data, parameters=name)
        exact = es.DenseEigh(k=min(4, alone.shape[0])).solve(alone)
        torch.testing.assert_close(eig.eigenvalues, exact.eigenvalues, rtol=0, atol=1e-10)


class TestBadInput:
    def test_kinds(self):
        A = symmetric(9)
        with pytest.raises(TypeError, match="expected a LinearOperator, got Tensor"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=1), A.to_dense(), masks(4, 5))
        with pytest.raises(ValueError, match="block_size is an integer >= 1, got 0"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=1), A, masks(4, 5), block_size=0)
        with pytest.raises(ValueError, match="no blocks"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=1), A, {})
        with pytest.raises(TypeError, match="block 'a' is a Subspace"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=1), A, {"a": torch.ones(9)})
        with pytest.raises(ValueError, match=r"block 'block 0', .* is no part of the space"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=1), A, masks(4, 4))

    def test_a_solver_that_refuses(self):
        with pytest.raises(ValueError, match=r"k=5 eigenpairs were asked of .*, which has 4"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=5), symmetric(24), masks(20, 4))

    def test_a_solver_that_is_none(self):
        with pytest.raises(TypeError, match="gives an EigenSolver, got int for block 'block 0'"):
            solve_diagonal_blocks(lambda n: 5, symmetric(24), masks(20, 4))

    def test_one_error_ends_all(self):
        A = Counted(symmetric(200))
        with pytest.raises(ValueError, match="has 4"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=10), A, masks(4, 196))
        assert A.products < 100

    def test_a_thread_that_does_not_start(self, monkeypatch):
        start, names = threading.Thread.start, []

        def failing(thread):
            names.append(thread.name)
            if len(names) > 2:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", failing)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=3), symmetric(60), masks(20, 20, 20))

    def test_a_product_that_fails(self):
        class Broken(LinearOperator):
            calls = 0

            def __init__(self):
                super().__init__((40, 40), torch.float64, torch.device("cpu"), Structure.SYMMETRIC)

            def _matmat(self, X):
                self.calls += 1
                if self.calls == 3:
                    raise OverflowError("out of something")
                return 2 * X

        with pytest.raises(OverflowError, match="out of something"):
            solve_diagonal_blocks(lambda n: es.BlockLanczos(k=3), Broken(), masks(10, 30))
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("diagonal block")]


@pytest.mark.parametrize("size", [None, 7])
def test_it_goes_on_from_a_checkpoint(size, tmp_path):
    """At every pass, whichever thread is first: the same bits, and no product twice."""
    A, blocks = symmetric(60), masks(10, 10, 20, 20)
    counted, options = Counted(A), {"block_size": size}
    expected = solve_diagonal_blocks(lambda n: es.BlockLanczos(k=3, block_size=2), counted, blocks, **options)
    measured = 0
    while True:
        fragile = Fragile(A, 2)
        try:
            found = solve_diagonal_blocks(
                lambda n: es.BlockLanczos(k=3, block_size=2), fragile, blocks, **options, checkpoint=tmp_path
            )
            break
        except InterruptedSolveError:
            pass
        finally:
            measured += fragile.products
    assert measured == counted.products
    for name, one in expected.items():
        assert torch.equal(found[name].eigenvectors, one.eigenvectors)
    with pytest.raises(ValueError, match=r"blocks do not mix: .*blocks\.block 1 is"):
        solve_diagonal_blocks(
            lambda n: es.BlockLanczos(k=3, block_size=2), A, masks(10, 20, 10, 20), **options, checkpoint=tmp_path
        )
