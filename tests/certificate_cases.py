"""Results of known accuracy, and what their certificates are measured by: dense truths and matchings."""

from __future__ import annotations

import attrs
import pytest
import scipy.sparse
import scipy.sparse.csgraph
import torch
from solver_cases import Problem
from torch import Tensor

from eigenspan.solvers import EigenDecomposition, EigenPairs, EigenSolver, SingularTriplets, Status, SVDSolver, Which
from eigenspan.solvers.certificates import Certificate
from eigenspan.solvers.scree import Scree

F64 = torch.float64


def tilted(vectors: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(vectors + noise * torch.randn(vectors.shape, generator=generator, dtype=F64))[0]


@attrs.frozen(kw_only=True)
class TiltedEigh(EigenSolver):
    """Rayleigh-Ritz pairs of a leading eigenspace that is tilted at random."""

    noise: float = 1e-2

    def _solve(self, A, start):
        matrix = A.A.to_dense().double().cpu()
        values, vectors = torch.linalg.eigh(matrix)
        generator = torch.Generator().manual_seed(self.seed)
        V = tilted(vectors[:, self.which.order(values)[: self.k]], self.noise, generator)
        values, S = torch.linalg.eigh(V.mT @ matrix @ V)
        return EigenPairs(values, (V @ S).to(A.device, A.dtype), Status.CONVERGED)


@attrs.frozen(kw_only=True)
class TiltedSVD(SVDSolver):
    """Triplets of leading singular spaces that are tilted at random, by an SVD of Uᵀ A V."""

    noise: float = 1e-2

    def _solve(self, A, start):
        matrix = A.A.to_dense().double().cpu()
        U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
        generator = torch.Generator().manual_seed(self.seed)
        U, V = tilted(U[:, : self.k], self.noise, generator), tilted(Vt.mT[:, : self.k], self.noise, generator)
        S, values, Tt = torch.linalg.svd(U.mT @ matrix @ V)
        left, right = (X.to(A.device, A.dtype) for X in (U @ S, V @ Tt.mT))
        return SingularTriplets(left, values, right, Status.CONVERGED)


def matching(intervals: Tensor, points: Tensor) -> list[int] | None:
    """The number of a point in every interval, each taken once, by the greedy choice; None if there are none such."""
    ascending, taken = sorted((value, number) for number, value in enumerate(points.tolist())), {}
    for row in torch.argsort(intervals[:, 1]).tolist():
        low, high = intervals[row].tolist()
        free = [number for value, number in ascending if low <= value <= high and number not in taken.values()]
        if not free:
            return None
        taken[row] = free[0]
    return [taken[row] for row in range(len(intervals))]


def others(intervals: Tensor, points: Tensor) -> Tensor:
    """The points that a matching leaves."""
    matched = matching(intervals, points)
    assert matched is not None
    return points[[i for i in range(len(points)) if i not in matched]]


def all_match(points: Tensor, intervals: Tensor) -> bool:
    """Whether every point stands in an interval of its own."""
    graph = (intervals[:, 0] <= points[:, None]) & (points[:, None] <= intervals[:, 1])
    if len(points) == 0:
        return True
    columns = scipy.sparse.csgraph.maximum_bipartite_matching(scipy.sparse.csr_matrix(graph.numpy()), "column")
    return bool((columns >= 0).all())


def dense(truth: Problem, which: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the matrix as rounded, leading first."""
    values, vectors = torch.linalg.eigh(truth.matrix)
    order = Which(which).order(values)
    return values[order], vectors[:, order]


def true_sines(X: Tensor, V: Tensor) -> Tensor:
    """Sines of the angles of two subspaces of equal dimension, descending, in double precision."""
    V = torch.linalg.qr(V.double().cpu())[0]
    return torch.linalg.svdvals(V - X @ (X.mT @ V))


def check_by_the_premise(
    certificate: Certificate, result: EigenDecomposition, truth: Problem, which: str, rounding: float = 0.0
) -> None:
    """What rests on a premise that is true: sharp intervals, pairs that lead, angles and overlaps."""
    values, X = dense(truth, which)
    margin = torch.tensor([-rounding, rounding], dtype=F64)
    assert matching(certificate.sharp_intervals + margin, values) is not None
    assert bool((certificate.sharp_radii <= certificate.radii).all())
    keys = Which(which).key(values)
    bounds = zip(certificate.leads, certificate.sine_norms, certificate.sines, certificate.overlaps, strict=True)
    for j, (leads, norm, sine, overlap) in enumerate(bounds, 1):
        if not leads:
            assert (float(norm), float(sine)) == (pytest.approx(j**0.5), 1)
            assert float(overlap) == pytest.approx(0, abs=1e-15)
            continue
        assert j == len(values) or keys[j - 1] > keys[j]
        sines = true_sines(X[:, :j], result.eigenvectors[:, :j])
        assert float(sines.norm()) <= norm <= j**0.5 * 1.0001
        assert float(sines[0]) <= sine <= 1
        assert 0 <= overlap <= 1 - float(sines.square().sum()) / j + 1e-15


def check_scree(curve: Scree, result, matrix: Tensor) -> None:
    """The true error in its interval, and the best and the actual error of every rank between the curves."""
    norm, sizes = float(matrix.norm()), torch.linalg.svdvals(matrix)
    low, high = curve.interval
    assert low <= float((matrix - result.operator.to_dense().double().cpu()).norm()) <= high
    k = len(result.residual_norms)
    assert curve.lower.shape == curve.upper.shape == (k + 1,)
    for r in range(k + 1):
        approximation = result.leading(r).operator.to_dense().double().cpu() if r > 0 else torch.zeros_like(matrix)
        best, own = float(sizes[r:].norm()), float((matrix - approximation).norm())
        unit = 1e-14 * norm  # of the dense truths
        assert float(curve.lower[r]) * norm <= best + unit
        assert norm == 0 or own <= float(curve.upper[r]) * norm + unit
