"""Parameters of solvers and estimators: what they may be."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

import eigenspan as es
from eigenspan.solvers.report import SolveReport

A = es.Diagonal(torch.arange(1.0, 41.0, dtype=torch.float64))
SOLVES = {
    "k and seed": lambda whole: es.BlockLanczos(k=whole(3), seed=whole(1), max_products=whole(60)).solve(A),
    "outer": lambda whole: es.SketchedEigh(outer=whole(30), k=whole(3)).solve(A),
    "sketch_size": lambda whole: es.Nystrom(k=whole(3), sketch_size=whole(20)).solve(A),
    "passes": lambda whole: es.SubspaceIteration(k=whole(3), passes=whole(9), block_size=whole(8)).solve(A),
    "triplets": lambda whole: es.BlockGolubKahan(k=whole(3), block_size=whole(2)).solve(A),
    "ncv": lambda whole: es.Arpack(k=whole(3), ncv=whole(20), maxiter=whole(500)).solve(A),
}
ESTIMATES = {
    "trace": lambda whole: es.trace(A, max_products=whole(30), seed=whole(2)).value,
    "density": lambda whole: es.spectral_density(A, vectors=whole(2), steps=whole(5)).moment(whole(2)).value,
}


@pytest.mark.parametrize("solve", SOLVES.values(), ids=SOLVES)
@pytest.mark.filterwarnings("ignore::eigenspan.ConvergenceWarning")
def test_integers_of_numpy_are_integers_and_reports_can_be_written(solve):
    found, wanted = solve(numpy.int64), solve(int)
    assert torch.equal(found._leading_values, wanted._leading_values)
    assert found.report.solver == wanted.report.solver
    assert SolveReport.from_dict(json.loads(json.dumps(found.report.to_dict()))) == found.report


@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
def test_estimators_take_them_too(estimate):
    assert torch.equal(estimate(numpy.int64), estimate(int))


@pytest.mark.parametrize("value", [True, numpy.bool_(True), 3.0, numpy.float64(3), "3", None])
def test_what_is_none_is_refused(value):
    with pytest.raises(TypeError, match="k is a positive integer, an int, got"):
        es.BlockLanczos(k=value)
    with pytest.raises(ValueError, match="seed is a non-negative integer, got"):
        es.BlockLanczos(k=3, seed=value)


@pytest.mark.parametrize(("kind", "what"), [(es.BlockLanczos, "eigenpairs"), (es.BlockGolubKahan, "singular triplets")])
def test_of_nothing_there_is_nothing_to_decompose(kind, what):
    nothing = es.Dense(torch.zeros(0, 0), es.Structure.SYMMETRIC)
    with pytest.raises(ValueError, match=f"k=1 {what} were asked of .*, which has 0; there is nothing to decompose"):
        kind(k=1).solve(nothing)
