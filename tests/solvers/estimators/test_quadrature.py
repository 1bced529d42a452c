"""Lanczos runs and their quadratures against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from solver_cases import joined, line, problem, rounding
from torch import Tensor
from tqdm import tqdm

from eigenspan.linops import Dense, Function, Structure
from eigenspan.solvers.estimators.quadrature import JacobiMatrix, lanczos_runs
from eigenspan.solvers.watched import Watched

N, M = 40, 25


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def starts(count=4, n=N):
    return torch.randn(n, count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def runs(operator, steps, vectors=None, symmetric=True):
    vectors = starts(n=operator.shape[1]) if vectors is None else vectors
    with tqdm(disable=True) as bar, torch.no_grad():
        return lanczos_runs(Watched(operator, bar), vectors.to(operator.device, operator.dtype), steps, symmetric)


def measure(matrix: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The spectral measure of q: all eigenvalues, and weights that make up 1."""
    values, vectors = torch.linalg.eigh(matrix)
    return values, (vectors.mT @ (q / q.norm())).square()


def matrix_of(run: JacobiMatrix) -> Tensor:
    off = run.couplings[:-1].diag(1)
    return run.diagonal.diag() + off + off.mT


def test_gauss_quadratures_are_exact_to_their_degree(dtype, device):
    A = problem(line(-1, 1.5, N), dtype, device)
    for run, q in zip(runs(A.operator, 6), starts().mT, strict=True):
        nodes, weights = run.rule()
        values, masses = measure(A.matrix, q)
        assert not run.is_closed
        for degree in range(12):
            expected = float((masses * values**degree).sum())
            assert float((weights * nodes**degree).sum()) == pytest.approx(
                expected, abs=rounding(dtype), rel=rounding(dtype)
            )
        assert abs(float((weights * nodes**12).sum() - (masses * values**12).sum())) > rounding(dtype)


def test_bidiagonalisation_is_that_of_the_rectangle(dtype, device):
    """Even moments of the quadratures are those of AᵀA; there are no odd ones."""
    A = Dense(torch.randn(M, N, dtype=torch.float64).to(device, dtype))
    gram = A.matrix.double().mT.cpu() @ A.matrix.double().cpu()
    for run, q in zip(runs(A, 7, symmetric=False), starts().mT, strict=True):
        values, masses = measure(gram, q)
        assert torch.equal(run.diagonal, torch.zeros(7, dtype=torch.float64))
        for order in (7, 8):
            nodes, weights = run.rule(order)
            for degree in range(order):
                expected, unit = float((masses * values**degree).sum()), float(values.max()) ** degree
                found = float((weights * nodes ** (2 * degree)).sum())
                assert found == pytest.approx(expected, abs=rounding(dtype) * unit)
            torch.testing.assert_close(nodes, -nodes.flip(0), rtol=0, atol=1e-10)


def test_vectors_do_not_depend_on_those_beside_them(dtype, device):
    A = problem(joined([1.0, 0.5, 0.5], [0.0] * (N - 3)), dtype, device).operator
    vectors = starts(3)
    vectors[:, 1] = A.matrix.double().cpu()[:, 0]  # lies in the range of A: its run closes earlier
    together = runs(A, 5, vectors)
    alone = [runs(A, 5, vectors[:, j : j + 1])[0] for j in range(3)]
    for first, second in zip(together, alone, strict=True):
        assert first.is_closed == second.is_closed
        torch.testing.assert_close(first.diagonal, second.diagonal, rtol=0, atol=rounding(dtype))
    assert [len(run.diagonal) for run in together] == [3, 2, 3]


def test_closes_after_as_many_steps_as_there_are_distinct_eigenvalues(dtype, device):
    A = problem(joined([2.0] * 15, [-1.0] * 10, [0.5] * (N - 25)), dtype, device)
    for run, q in zip(runs(A.operator, 30), starts().mT, strict=True):
        nodes, weights = run.rule()
        assert run.is_closed
        torch.testing.assert_close(nodes, torch.tensor([-1.0, 0.5, 2.0]).double(), rtol=0, atol=rounding(dtype))
        _, masses = measure(A.matrix, q)
        expected = torch.stack([masses[:10].sum(), masses[10:25].sum(), masses[25:].sum()])
        torch.testing.assert_close(weights, expected, rtol=0, atol=rounding(dtype))


def test_no_ghosts(device):
    """All steps to the last find every eigenvalue once, also where an outer one has long converged."""
    values = joined([1e6], line(-1, 1, N - 1))
    for run in runs(problem(values, device=device).operator, 3 * N):
        assert len(run.diagonal) <= N
        torch.testing.assert_close(run.rule()[0], values.sort().values, rtol=0, atol=1e-8)


def test_products_are_one_block_for_a_step():
    widths = []
    A = problem(line(-1, 1.5, N)).operator

    def product(X):
        widths.append(X.shape[1])
        return A.matrix @ X

    runs(Function(product, (N, N), A.dtype, structure=Structure.SYMMETRIC), 5)
    assert widths == [4] * 5
    widths.clear()
    runs(Function(product, (N, N), A.dtype, rmatmat=product), 5, symmetric=False)
    assert widths == [4] * 5


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero(symmetric, dtype, device):
    A = problem(torch.zeros(N), dtype, device).operator
    for run in runs(A, 5, symmetric=symmetric):
        assert run.is_closed
        nodes, weights = run.rule()
        assert (nodes.tolist(), weights.tolist()) == ([0.0], [1.0])


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scale(scale, symmetric, dtype, device):
    A = problem(line(-1, 1.5, N), dtype, device).operator
    scaled = Dense(A.matrix * scale, Structure.SYMMETRIC)
    for expected, found in zip(runs(A, 9, symmetric=symmetric), runs(scaled, 9, symmetric=symmetric), strict=True):
        atol = rounding(dtype) * scale
        torch.testing.assert_close(found.couplings, expected.couplings * scale, rtol=0, atol=atol)
        torch.testing.assert_close(found.diagonal, expected.diagonal * scale, rtol=0, atol=atol)


def test_symmetry_claimed_in_error(dtype):
    matrix = problem(line(-1, 1.5, N), dtype).operator.matrix
    wrong = Dense(matrix + 0.01 * torch.ones_like(matrix).triu(1), Structure.SYMMETRIC)
    with pytest.raises(ValueError, match=r"<Dense .* says that it is symmetric, but uᵀ A v and vᵀ A u of Lanczos vec"):
        runs(wrong, 5)


def test_transpose_of_another_matrix(dtype):
    A, B = torch.randn(2, M, N, dtype=dtype)
    wrong = Function(A.__matmul__, (M, N), dtype, rmatmat=B.mT.__matmul__)
    with pytest.raises(ValueError, match=r"has a transposed product, but uᵀ A v and vᵀ Aᵀ u .* correct its transpose"):
        runs(wrong, 5, symmetric=False)


# -- bounds of the measure --------------------------------------------------------------------------------------------


def cumulative(values: Tensor, masses: Tensor, x: Tensor) -> Tensor:
    return torch.stack([masses[values < point].sum() for point in x])


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_bounds_of_the_measure_are_certain(steps, dtype, device):
    """At points inside and outside of the spectrum, in its gaps and at the very nodes."""
    A = problem(joined(line(-1, -0.5, 15), line(0.5, 1.5, N - 15)), dtype, device)
    for run, q in zip(runs(A.operator, steps), starts().mT, strict=True):
        values, masses = measure(A.matrix, q)
        nodes = run.rule()[0]
        x = torch.cat([torch.linspace(-2.03, 2.51, 60, dtype=torch.float64), nodes, nodes + 1e-12, nodes - 1e-12])
        low, high = run.cumulative_bounds(x, 0.0)
        truth = cumulative(values, masses, x)
        assert bool((low <= truth + rounding(dtype)).all())
        assert bool((truth <= high + rounding(dtype)).all())
        assert bool((high - low <= 1 + rounding(dtype)).all())


def test_bounds_are_the_best(device):
    """They differ by 1 / Σ pᵢ(x)², by the recurrence of the orthonormal polynomials."""
    A = problem(line(-1, 1.5, N), device=device)
    (run,) = runs(A.operator, 7, starts(1))
    x = torch.linspace(-1.1, 1.6, 23, dtype=torch.float64)
    before, now, total = torch.zeros_like(x), torch.ones_like(x), torch.ones_like(x)
    couplings = joined([0.0], run.couplings)
    for k in range(7):
        before, now = now, ((x - run.diagonal[k]) * now - couplings[k] * before) / couplings[k + 1]
        total += now.square()
    low, high = run.cumulative_bounds(x, 0.0)
    torch.testing.assert_close(high - low, 1 / total, rtol=1e-4, atol=1e-6)


def test_bounds_meet_in_gaps_and_far_away():
    A = problem(joined(line(-1, -0.9, 15), line(0.9, 1.0, N - 15)))
    (run,) = runs(A.operator, 12, starts(1))
    values, masses = measure(A.matrix, starts(1)[:, 0])
    x = torch.tensor([-50.0, -1.5, 0.0, 1.5, 50.0]).double()
    low, high = run.cumulative_bounds(x, 0.0)
    torch.testing.assert_close(low, cumulative(values, masses, x), rtol=0, atol=1e-6)
    torch.testing.assert_close(high, low, rtol=0, atol=1e-6)


def test_bounds_leave_open_on_which_side_an_eigenvalue_at_the_point_is():
    A = problem(joined([2.0] * 15, [-1.0] * 10, [0.5] * (N - 25)))
    (run,) = runs(A.operator, 5, starts(1))
    _, masses = measure(A.matrix, starts(1)[:, 0])
    low, high = run.cumulative_bounds(torch.tensor([0.5, 0.4999, 0.5001]).double(), 1e-14)
    below, through = float(masses[:10].sum()), float(masses[:25].sum())
    assert low.tolist() == pytest.approx([below, below, through], abs=1e-12)
    assert high.tolist() == pytest.approx([through, below, through], abs=1e-12)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_bounds_at_any_scale(scale):
    A = problem(line(-1, 1.5, N))
    (run,), (scaled,) = (runs(operator, 6, starts(1)) for operator in (A.operator, Dense(A.matrix * scale)))
    x = line(-1.2, 1.7, 11)
    for expected, found in zip(run.cumulative_bounds(x, 0.0), scaled.cumulative_bounds(x * scale, 0.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
