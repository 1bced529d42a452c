"""Which solver is chosen, and the two verbs on top of the choice."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy.sparse import csr_array
from solver_cases import quietly
from solver_contract import SolverContract
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, Diagonal
from eigenspan.solvers import Auto, BlockGolubKahan, BlockLanczos, DenseEigh, DenseSVD, GramEigh, choose, choose_svd
from eigenspan.solvers.basis import Basis


class TestAuto(SolverContract):
    """Of the zoo all operators are small."""

    uses_start = True

    def make(self, k, which="LM", seed=0, **parameters):
        return Auto(k=k, which=which, seed=seed, **parameters)

    def accuracy(self, dtype):
        """With a start it is BlockLanczos."""
        return {torch.float64: 1e-9, torch.float32: 1e-5}[dtype]

    def test_another_seed_another_sample(self):
        """Dense operators are diagonalised, the same whatever the seed; larger ones are not."""
        A = large(500)
        first, second = (Auto(k=3, seed=seed).solve(A).eigenvectors.abs() for seed in (0, 1))
        assert not torch.equal(first, second)


def large(n):
    return Diagonal(torch.logspace(0, -6, n, dtype=torch.float64))


@pytest.fixture
def ggn():
    """A GGN of 883 parameters with 60 rows in its factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 20), nn.Tanh(), nn.Linear(20, 3))
    return es.GGN(model, nn.CrossEntropyLoss(), (torch.randn(20, 40), torch.randint(3, (20,))))


class TestChoice:
    def test_small_or_many_pairs(self):
        assert choose(large(300), 2) == DenseEigh(k=2)
        assert choose(large(301), 2) == BlockLanczos(k=2)
        assert choose(large(3000), 1001) == DenseEigh(k=1001)
        assert choose(large(3000), 999) == BlockLanczos(k=999)

    def test_few_rows_of_a_factor(self, ggn):
        assert isinstance(choose(ggn, 6), GramEigh)
        assert choose(ggn, 5) == BlockLanczos(k=5)
        assert isinstance(choose(3.0 * ggn, 6), GramEigh)
        needed = 4 * 8 * 60**2 + 2 * 4 * 883 * 6
        assert isinstance(choose(ggn, 6, memory_budget=needed), GramEigh)
        assert isinstance(choose(ggn, 6, memory_budget=needed - 1), BlockLanczos)

    def test_a_sum_has_a_factor_and_a_hessian_has_none(self, ggn):
        assert isinstance(choose(ggn + ggn, 20), GramEigh)
        model = nn.Sequential(nn.Linear(40, 20), nn.Tanh(), nn.Linear(20, 3))
        hessian = es.Hessian(model, nn.CrossEntropyLoss(), (torch.randn(20, 40), torch.randint(3, (20,))))
        assert choose(hessian, 20) == BlockLanczos(k=20)

    def test_a_start_is_used(self, ggn):
        assert choose(ggn, 20, start=True) == BlockLanczos(k=20)
        assert choose(large(100), 2, start=True) == BlockLanczos(k=2)

    def test_what_the_memory_holds(self):
        A = large(1000)
        vectors = 8 * 1000
        assert choose(A, 20, memory_budget=520 * vectors) == BlockLanczos(k=20)
        assert choose(A, 20, memory_budget=519 * vectors) == BlockLanczos(k=20, max_basis=499)
        assert choose(A, 20, memory_budget=120 * vectors, max_products=100) == BlockLanczos(k=20, max_products=100)
        assert choose(A, 20, memory_budget=60 * vectors) == BlockLanczos(k=20, max_basis=40)
        with pytest.raises(
            ValueError, match=r"hold 39 vectors .* needs 40: allow 480000, ask for fewer pairs, or .*storage='disk'"
        ):
            choose(A, 20, memory_budget=59 * vectors)
        assert choose(A, 500, memory_budget=10 * 1000 * vectors) == DenseEigh(k=500)
        assert choose(A, 400, memory_budget=3999 * vectors) == BlockLanczos(k=400)

    def test_the_basis_keeps_to_the_memory(self, monkeypatch):
        """Of a spectrum without gaps, for which all products are spent."""
        sizes = []
        append = Basis.append
        monkeypatch.setattr(Basis, "append", lambda self, block: (append(self, block), sizes.append(self.size))[0])
        A = Diagonal(torch.linspace(1, 2, 3000, dtype=torch.float64))
        quietly(choose(A, 6, memory_budget=8 * 3000 * 60, max_products=400), A)
        assert max(sizes) <= 54

    def test_a_storage_takes_what_the_memory_does_not_hold(self):
        A, vectors = large(1000), 8 * 1000
        assert choose(A, 20, memory_budget=60 * vectors, storage="disk") == BlockLanczos(k=20, storage="disk")
        assert choose(A, 20, memory_budget=60 * vectors, storage="device").max_basis == 40
        assert Auto(k=20, memory_budget=60 * vectors, storage="disk").plan(A).disk > 0
        assert choose_svd(Dense(torch.randn(400, 700)), 30, memory_budget=4, storage="disk").max_basis is None

    def test_parameters_go_on(self):
        options = {"which": "SA", "tol": 1e-4, "seed": 7, "max_products": 50, "check_symmetry": False}
        assert choose(large(1000), 4, **options) == BlockLanczos(k=4, **options)
        options = {"tol": 1e-4, "seed": 7, "max_products": 50, "check_adjoint": False}
        assert choose_svd(large(1000), 4, **options) == BlockGolubKahan(k=4, **options)

    def test_of_singular_triplets(self):
        A = Dense(torch.randn(400, 700))
        assert choose_svd(A, 3) == BlockGolubKahan(k=3)
        assert choose_svd(A, 134) == DenseSVD(k=134)
        assert choose_svd(Dense(torch.randn(300, 700)), 3) == DenseSVD(k=3)
        assert choose_svd(A, 30, memory_budget=4 * 1100 * 100).max_basis == 70
        assert choose_svd(A, 30, memory_budget=4 * 1100 * 430).max_basis is None
        with pytest.raises(ValueError, match="hold 10 vectors of both sides"):
            choose_svd(A, 30, memory_budget=4 * 1100 * 40)


class TestVerbs:
    def test_eigsh_beside_scipy(self, device):
        A = large(500)
        result = es.eigsh(Diagonal(A.diagonal.to(device)), k=5)
        numpy.testing.assert_allclose(result.eigenvalues.cpu(), A.diagonal[:5], rtol=1e-8)
        assert result.report.solver == BlockLanczos(k=5)
        assert "Chosen: BlockLanczos(k=5" in str(Auto(k=5).solve(A).report)

    def test_eigsh_of_few_rows_is_exact(self, ggn):
        result = es.eigsh(ggn, k=40)
        exact = DenseEigh(k=40).solve(ggn)
        torch.testing.assert_close(result.eigenvalues, exact.eigenvalues, rtol=0, atol=1e-6)
        assert isinstance(result.report.solver, GramEigh)
        assert "Chosen: GramEigh" in Auto(k=40).solve(ggn).report.notes[0]

    def test_eigsh_from_a_start(self):
        leading, tail = torch.linspace(3, 2, 5), torch.linspace(-0.5, 0.5, 1995)
        A = Diagonal(torch.cat([leading, tail]).double())
        first = es.eigsh(A, k=5)
        again = es.eigsh(A, k=5, start=first.subspace)
        assert again.report.products < first.report.products

    def test_eigsh_within_a_budget(self):
        A = large(2000)
        result = es.eigsh(A, k=10, memory_budget=8 * 2000 * 40, tol=1e-6)
        torch.testing.assert_close(result.eigenvalues, A.diagonal[:10], rtol=1e-6, atol=0)
        assert result.report.solver.max_basis == 30

    def test_verbs_with_a_storage(self):
        A = large(1000)
        found = es.eigsh(A, 4, memory_budget=60 * 8000, storage="disk")
        assert torch.equal(found.eigenvalues, es.BlockLanczos(k=4).solve(A).eigenvalues)
        B = Dense(torch.randn(400, 700))
        assert torch.equal(es.svds(B, 2, storage="disk").singular_values, es.svds(B, 2).singular_values)

    def test_svds_beside_numpy(self, device):
        matrix = torch.randn(400, 350, dtype=torch.float64).to(device)
        result = es.svds(matrix, k=4)
        expected = torch.linalg.svdvals(matrix)[:4]
        torch.testing.assert_close(result.singular_values, expected, rtol=1e-8, atol=0)

    def test_not_symmetric(self):
        with pytest.raises(ValueError, match="nothing says that"):
            es.eigsh(torch.randn(5, 5))

    @pytest.mark.parametrize("convert", [lambda M: M, lambda M: M.numpy(), lambda M: csr_array(M.numpy())])
    def test_matrices_whose_entries_are_symmetric(self, convert):
        M = torch.randn(400, 400, dtype=torch.float64)
        M = M + M.mT
        found = es.eigsh(convert(M), k=3).eigenvalues.abs()
        torch.testing.assert_close(found, torch.linalg.eigvalsh(M).abs().sort(descending=True).values[:3])

    def test_more_than_there_are(self):
        with pytest.raises(ValueError, match="choose k <= 5"):
            quietly(Auto(k=6), large(5))
