"""Eigenspaces along a training: the same comparisons as by hand, and warm starts that change no result."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from study_cases import small_data, small_model
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, Structure
from eigenspan.studies.tracking import EigenspaceTracker

LOSS = nn.CrossEntropyLoss()


def training(steps=4, every=1, rate=0.3):
    """Hessians on training and test data, and the GGN, along a training."""
    torch.manual_seed(0)
    model, data = small_model().double(), small_data()
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    inputs, targets = data.train[0].double(), data.train[1]
    batches = {name: (x.double(), y) for name, (x, y) in data.hessian.items()}
    for step in range(steps):
        train, test = (es.Hessian(model, LOSS, batches[name]) for name in ("train", "test"))
        yield step * every, train, {"test": test, "ggn": es.GGN(model, LOSS, batches["train"])}
        for _ in range(every):
            optimiser.zero_grad()
            LOSS(model(inputs), targets).backward()
            optimiser.step()


@pytest.fixture(scope="module")
def tracked():
    tracker, operators = EigenspaceTracker(es.DenseEigh(k=6)), []
    for step, H, others in training():
        tracker.record(step, H, others=others, layers=es.MaskSubspace.parts(H.parameters))
        operators.append((H, others))
    return tracker, operators


@pytest.mark.parametrize("k", [1, 4, 6])
def test_matrices_are_overlaps_of_each_step_with_each(tracked, k):
    tracker, operators = tracked
    spaces = [es.DenseEigh(k=6).solve(H).subspace.leading(k) for H, _ in operators]
    masks = [es.MaskSubspace.top_k(es.magnitude(H.parameters), k) for H, _ in operators]
    for found, rows, columns in (
        (tracker.eigenspaces(k), spaces, spaces),
        (tracker.masks("magnitude", k), masks, masks),
        (tracker.masks_with_eigenspaces("magnitude", k), masks, spaces),
    ):
        for i, A in enumerate(rows):
            for j, B in enumerate(columns):
                assert float(found[i, j]) == pytest.approx(es.overlap(A, B), abs=1e-10)


@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_layers_are_solved_for_as_well(tracked, name):
    tracker, operators = tracked
    parts = [es.MaskSubspace.parts(H.parameters)[name] for H, _ in operators]
    size = min(6, parts[0].dim)
    exact = [
        es.DenseEigh(k=size).solve(H.restricted(part)).subspace.leading(2)
        for (H, _), part in zip(operators, parts, strict=True)
    ]
    for i, A in enumerate(exact):
        for j, B in enumerate(exact):
            assert float(tracker.layers(name, 2)[i, j]) == pytest.approx(es.overlap(A, B), abs=1e-10)


def test_gradient_shares_are_projections(tracked):
    tracker, operators = tracked
    shares = tracker.gradient_shares()
    for row, (H, _) in zip(shares, operators, strict=True):
        V, g = es.DenseEigh(k=6).solve(H).eigenvectors, H.gradient()
        for k in range(1, 7):
            assert float(row[k - 1]) == pytest.approx(float((V[:, :k].mT @ g).norm() ** 2 / g.norm() ** 2), abs=1e-10)


@pytest.mark.parametrize("name", ["test", "ggn"])
def test_other_operators_are_compared_step_by_step(tracked, name):
    tracker, operators = tracked
    found = tracker.with_others(name)
    for row, (H, others) in zip(found, operators, strict=True):
        A, B = (es.DenseEigh(k=6).solve(each).subspace for each in (H, others[name]))
        torch.testing.assert_close(row, es.overlap_curve(A, B), rtol=0, atol=1e-10)


def test_plain_data_are_the_same_numbers(tracked, tmp_path):
    tracker, _ = tracked
    tracker.save(tmp_path / "tracking.json", [2, 6])
    found = json.loads((tmp_path / "tracking.json").read_text())
    assert found["steps"] == [0, 1, 2, 3] == tracker.steps
    assert found["by_k"]["2"]["eigenspaces"] == tracker.eigenspaces(2).tolist()
    assert found["by_k"]["6"]["masks_with_eigenspaces"]["magnitude"] == (
        tracker.masks_with_eigenspaces("magnitude", 6).tolist()
    )
    assert found["others"]["ggn"] == tracker.with_others("ggn").tolist()
    assert found["gradient_shares"] == tracker.gradient_shares().tolist()


def slow_turn(steps, angle):
    """Symmetric matrices whose eigenvectors turn a little at every step."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64))[0]
    skew = torch.randn(200, 200, generator=generator, dtype=torch.float64)
    turn = torch.linalg.matrix_exp(angle * (skew - skew.mT) / 200**0.5)
    values = torch.cat([torch.linspace(20, 10, 8), torch.linspace(5, 0, 192)]).double()
    for _ in range(steps):
        yield Dense((Q * values) @ Q.mT, Structure.SYMMETRIC)
        Q = turn @ Q


class TestWarmStarts:
    def test_give_the_cold_results_for_fewer_products(self):
        cold, warm = (EigenspaceTracker(es.BlockLanczos(k=8), warm_start=start) for start in (False, True))
        for step, A in enumerate(slow_turn(6, 1e-3)):
            for tracker in (cold, warm):
                tracker.record(step, A)
        products = [[each.eig.report.products for each in tracker.snapshots] for tracker in (cold, warm)]
        assert products[0][:2] == products[1][:2]  # what is known of one eigenspace does not say how fast it turns
        assert all(few < many for few, many in zip(products[1][2:], products[0][2:], strict=True))
        torch.testing.assert_close(warm.eigenspaces(8), cold.eigenspaces(8), rtol=0, atol=1e-8)

    @pytest.mark.parametrize(
        ("solver", "angle"),
        [
            pytest.param(es.BlockLanczos(k=8), 1.0, id="it turns fast"),
            pytest.param(es.BlockLanczos(k=40), 1e-3, id="many pairs"),
            pytest.param(es.DenseEigh(k=8), 1e-3, id="a solver that takes none"),
        ],
    )
    def test_are_left_out_where_they_do_not_pay(self, solver, angle):
        cold, warm = (EigenspaceTracker(solver, warm_start=start) for start in (False, True))
        for step, A in enumerate(slow_turn(4, angle)):
            for tracker in (cold, warm):
                tracker.record(step, A)
        for one, other in zip(cold.snapshots, warm.snapshots, strict=True):
            assert torch.equal(one.eig.eigenvectors, other.eig.eigenvectors)

    def test_of_other_operators_come_from_their_own_past(self):
        tracker = EigenspaceTracker(es.BlockLanczos(k=8))
        cold = EigenspaceTracker(es.BlockLanczos(k=8), warm_start=False)
        for step, A in enumerate(slow_turn(4, 1e-3)):
            for each in (tracker, cold):
                each.record(step, A, others={"minus": -A})
        last, without = (each.snapshots[-1].others["minus"] for each in (tracker, cold))
        assert last.report.products < without.report.products
        torch.testing.assert_close(last.eigenvalues, without.eigenvalues, rtol=1e-10, atol=0)


class TestBadInput:
    def test_solvers(self):
        with pytest.raises(TypeError, match="takes an EigenSolver, got str"):
            EigenspaceTracker("lanczos")

    def test_steps_and_sizes(self):
        tracker, A = EigenspaceTracker(es.DenseEigh(k=2)), Dense(torch.eye(4), Structure.SYMMETRIC)
        with pytest.raises(ValueError, match="nothing was recorded yet"):
            tracker.to_dict([1])
        tracker.record(3, A)
        with pytest.raises(ValueError, match="step 3 does not come after 3"):
            tracker.record(3, A)
        with pytest.raises(ValueError, match="another dimension than the records before, 4"):
            tracker.record(4, Dense(torch.eye(5), Structure.SYMMETRIC))
        for name, given in (("odd", {"scores": {"odd": torch.ones(3)}}), ("gradient", {"gradient": torch.ones(3)})):
            with pytest.raises(ValueError, match=rf"{name} has shape \(3,\)"):
                EigenspaceTracker(es.DenseEigh(k=2)).record(4, A, **given)
        with pytest.raises(ValueError, match=r"leading\(j\) takes an integer 1 <= j <= 2, got 3"):
            tracker.eigenspaces(3)

    def test_what_was_not_recorded(self):
        tracker, A = EigenspaceTracker(es.DenseEigh(k=2)), Dense(torch.eye(4), Structure.SYMMETRIC)
        for ask in (lambda: tracker.eigenspaces(1), lambda: tracker.masks("one", 1), tracker.gradient_shares):
            with pytest.raises(ValueError, match="nothing was recorded yet"):
                ask()
        tracker.record(0, A, scores={"one": torch.arange(4.0)})
        with pytest.raises(ValueError, match="step 0 has no scores 'two'; it has one"):
            tracker.masks("two", 1)
        with pytest.raises(ValueError, match="step 0 has no operator 'ggn'; it has none"):
            tracker.with_others("ggn")
        with pytest.raises(ValueError, match="step 0 has no gradient"):
            tracker.gradient_shares()

    def test_records_that_differ(self):
        tracker, A = EigenspaceTracker(es.DenseEigh(k=2)), Dense(torch.eye(4), Structure.SYMMETRIC)
        tracker.record(0, A, scores={"one": torch.arange(4.0)})
        with pytest.raises(ValueError, match="all records hold the same: the first one"):
            tracker.record(1, A, scores={"two": torch.arange(4.0)})
        with pytest.raises(ValueError, match="one holds NaN at step 1"):
            tracker.record(1, A, scores={"one": torch.full((4,), torch.nan)})
        other = Dense(torch.eye(5), Structure.SYMMETRIC)
        with pytest.raises(ValueError, match=r"'b', .* is not comparable with"):
            EigenspaceTracker(es.DenseEigh(k=2)).record(0, A, others={"b": other})
        with pytest.raises(TypeError, match="integer"):
            tracker.record(1.5, A, scores={"one": torch.arange(4.0)})

    def test_a_zero_gradient_has_no_direction(self, tmp_path):
        tracker, A = EigenspaceTracker(es.DenseEigh(k=2)), Dense(torch.eye(4), Structure.SYMMETRIC)
        tracker.record(numpy.int64(1), A, gradient=torch.zeros(4))
        assert bool(tracker.gradient_shares().isnan().all())
        tracker.save(tmp_path / "tracking.json", [1])
        assert json.loads((tmp_path / "tracking.json").read_text())["gradient_shares"] == [[None, None]]
