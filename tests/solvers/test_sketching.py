"""Sizes of sketches from a memory budget against brute force, and the error bound that they minimise."""

from __future__ import annotations

import math

import pytest
import torch

from eigenspan.linops import Dense, Diagonal, Structure
from eigenspan.solvers import SketchedEigh
from eigenspan.solvers.core_sketching import error_bound
from eigenspan.solvers.sketched_svd import SketchedSVD

KINDS = {
    "symmetric": (SketchedEigh, {}),
    "published": (SketchedEigh, {"basis": "first"}),
    "least-squares": (SketchedSVD, {}),
    "two-sided": (SketchedSVD, {"core": "two-sided"}),
}


def bound(k, outer, inner):
    """The factor of theorem 5.1, from its two parts; infinite outside its conditions."""
    if outer <= k + 1 or inner < 2 * outer + 1:
        return math.inf
    return (1 + outer / (inner - outer - 1)) * (1 + 2 * k / (outer - k - 1))


def stored(name, shape, outer, inner, itemsize):
    """Bytes of what the docstrings say is kept; small matrices are float64."""
    m, n = shape
    return {
        "symmetric": itemsize * n * inner,
        "published": itemsize * n * outer + 8 * inner * (inner - outer),
        "least-squares": itemsize * (m + n) * inner,
        "two-sided": itemsize * (m + n) * outer + 8 * inner**2,
    }[name]


def operator(shape, dtype):
    matrix = torch.ones(shape, dtype=dtype)
    return Dense(matrix, Structure.SYMMETRIC if shape[0] == shape[1] else Structure.NONE)


class TestSizesWithinMemory:
    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("k", [1, 5])
    def test_no_other_sizes_that_fit_have_a_smaller_bound(self, name, dtype, k):
        kind, options = KINDS[name]
        shape = (61, 61) if kind is SketchedEigh else (90, 61)
        feasible = 0
        for budget in (*range(2_000, 80_000, 3_500), 10**7):
            fitting = [
                (outer, inner)
                for outer in range(1, 62)
                for inner in range(outer, 62)
                if stored(name, shape, outer, inner, dtype.itemsize) <= budget and bound(k, outer, inner) < math.inf
            ]
            if not fitting:
                with pytest.raises(ValueError, match=f"memory_budget={budget} bytes hold no sketch for k={k}"):
                    kind.within(budget, shape, k=k, dtype=dtype, **options)
                continue
            solver = kind.within(budget, shape, k=k, dtype=dtype, seed=3, **options)
            assert (solver.outer, solver.inner) in fitting
            assert bound(k, solver.outer, solver.inner) == pytest.approx(min(bound(k, *sizes) for sizes in fitting))
            assert (solver.k, solver.seed) == (k, 3)
            arrays = solver.measure(operator(shape, dtype)).arrays.values()
            assert sum(array.nbytes for array in arrays) <= budget
            feasible += 1
        assert feasible > 5

    @pytest.mark.parametrize("name", KINDS)
    def test_says_what_the_smallest_sketch_takes(self, name):
        kind, options = KINDS[name]
        need = stored(name, (50, 50), 5, 11, 4)
        with pytest.raises(ValueError, match=rf"smallest, outer=5, inner=11, takes {need} bytes"):
            kind.within(need - 1, (50, 50), k=3, **options)
        assert kind.within(need, (50, 50), k=3, **options).inner == 11

    def test_says_that_the_operator_is_too_small(self):
        with pytest.raises(
            ValueError, match=r"of a 40x10 operator: the smallest, outer=5, inner=11, exceeds min\(m, n\)"
        ):
            SketchedSVD.within(10**9, (40, 10), k=3)

    @pytest.mark.parametrize("size", ["outer", "inner"])
    def test_chooses_the_sizes_itself(self, size):
        with pytest.raises(ValueError, match="chooses outer and inner: leave them out"):
            SketchedEigh.within(10**6, (50, 50), k=3, **{size: 20})

    def test_two_passes(self):
        with pytest.raises(ValueError, match="two passes"):
            SketchedEigh.within(10**6, (50, 50), k=3, two_pass=True)


class TestErrorBound:
    @pytest.mark.parametrize(("k", "outer", "inner"), [(1, 3, 7), (5, 20, 41), (40, 80, 400)])
    def test_is_the_formula_of_the_theorem(self, k, outer, inner):
        assert error_bound(k, outer, inner) == pytest.approx(bound(k, outer, inner), rel=1e-14)

    @pytest.mark.parametrize("decay", [0.5, 2.0])
    def test_holds_on_average(self, decay):
        """Over 30 seeds, of Q C Pᵀ as it is: all outer triplets."""
        sigma = torch.arange(1, 61, dtype=torch.float64) ** -decay
        squares = []
        for seed in range(30):
            solver = SketchedSVD(
                outer=12, inner=25, core="two-sided", test_matrix="gaussian", seed=seed, measure_residuals=False
            )
            found = solver.solve(Diagonal(sigma)).operator.to_dense()
            squares.append(float((found - sigma.diag()).square().sum()))
        mean = sum(squares) / len(squares)
        least = min(error_bound(k, 12, 25) * float(sigma[k:].square().sum()) for k in range(1, 11))
        # The theorem loses little: within a factor of three.
        assert least / 3 < mean < least
