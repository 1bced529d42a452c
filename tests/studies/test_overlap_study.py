"""The study: its numbers against the dense Hessian, what it keeps, what it refuses to mix, and how it goes on."""

import json
import os

import attrs
import pytest
import torch
from study_cases import SMALL, options, run, small_data, small_model
from torch import nn

import eigenspan as es
from eigenspan.studies.overlap_study import OverlapStudy


def test_records_are_those_of_the_dense_hessian(tmp_path):
    """Every number again from the reloaded model by dense algebra; float64, to the solver's own tolerance."""
    results = run(tmp_path, split="both")
    assert [(record["step"], record["split"]) for record in results["records"]] == [
        (step, split) for step in (0, 2, 4) for split in ("test", "train")
    ]
    model = small_model().double()
    for record in results["records"]:
        (path,) = (tmp_path / "checkpoints").glob(f"*{record['step']:06d}*")
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        inputs, targets = small_data().hessian[record["split"]]
        H = es.Hessian(model, SMALL.loss, (inputs.double(), targets))
        values, vectors = torch.linalg.eigh(H.to_dense())
        order = values.abs().argsort(descending=True)[:6]
        largest = torch.cat([parameter.flatten() for parameter in model.parameters()]).abs().argsort(descending=True)
        overlap = [float(vectors[largest[:k]][:, order[:k]].square().sum()) / k for k in range(1, 7)]
        assert record["loss"] == pytest.approx(float(SMALL.loss(model(inputs.double()), targets).detach()), rel=1e-12)
        assert record["eigenvalues"] == pytest.approx(values[order].tolist(), rel=1e-8, abs=1e-10)
        assert record["overlap"] == pytest.approx(overlap, rel=1e-6)
        assert record["chance_uniform"]["mean"] == pytest.approx([k / 27 for k in range(1, 7)], rel=1e-9)
        assert sum(record["mask_counts"]) == 6
        assert len(record["chance_stratified"]["std"]) == len(record["residual_norms"]) == 6


@pytest.mark.parametrize("solver", ["block-lanczos", "sketched", "sketched-two-pass", "arpack", "dense"])
def test_every_solver(tmp_path, solver):
    results = run(tmp_path, solver=solver, steps=0, exact=True, k=5)
    (record,) = results["records"]
    assert record["k_max"] == 5
    assert len(record["exact"]["eigenvalues"]) == 5
    least = 0.3 if solver.startswith("sketched") else 1 - 1e-8
    assert min(record["exact"]["subspace_overlap"]) >= least


def test_results_are_strict_json(tmp_path):
    results = run(tmp_path)
    text = (tmp_path / "results.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == json.loads(json.dumps(results))


def test_a_finished_study_is_not_run_again(tmp_path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.setattr(OverlapStudy, "_measure", lambda *_: pytest.fail("measured again"))
    assert run(tmp_path) == first


def test_an_interrupted_study_goes_on_with_the_same_result(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    measure, count = OverlapStudy._measure, []

    def interrupted(*arguments):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(None)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OverlapStudy, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert len(list((tmp_path / "cut" / "records").iterdir())) == 2
    resumed = run(tmp_path / "cut")
    for ours, theirs in zip(resumed["records"], whole["records"], strict=True):
        for key in ("step", "loss", "overlap", "eigenvalues"):
            assert ours[key] == theirs[key]


@pytest.mark.parametrize(
    "change",
    [
        {"k": 5},
        {"steps": 2},
        {"solver": "dense"},
        {"seed": 1},
        {"dtype": "float32"},
        {"split": "test"},
        {"exact": True},
    ],
)
def test_changed_options_do_not_mix(tmp_path, change):
    run(tmp_path, steps=4)
    (name,) = change
    with pytest.raises(ValueError, match=rf"another study \({name} .* -> {change[name]}\)"):
        run(tmp_path, **change)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds no study"):
        OverlapStudy(SMALL, options(), tmp_path)


def test_a_foreign_or_damaged_record_is_refused(tmp_path):
    run(tmp_path)
    path = sorted((tmp_path / "records").iterdir())[0]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"of": {"study": "other"}}))
    with pytest.raises(ValueError, match="not a record of this study"):
        run(tmp_path)
    path.write_text(json.dumps(record)[:100])
    with pytest.raises(ValueError, match="damaged"):
        run(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file.* cannot be written .*another folder"):
        OverlapStudy(SMALL, options(), tmp_path / "file" / "study")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k is at least 1"),
        ({"steps": -1}, "steps is at least 0"),
        ({"solver": "magic"}, "solver is one of"),
        ({"split": "half"}, "split is one of"),
        ({"dtype": "int8"}, "dtype is one of"),
        ({"device": "nowhere"}, "device 'nowhere'"),
        ({"device": "meta"}, "device 'meta'"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 28}, "number of parameters, 27"),
        ({"k": 14, "solver": "sketched"}, "k <= 13"),
        ({"k": 27, "solver": "arpack"}, "dense"),
    ],
)
def test_a_k_that_does_not_fit_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        OverlapStudy(SMALL, options(**changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_was_closed_is_refused_before_any_work(tmp_path, monkeypatch):
    run(tmp_path)

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", closed)
    with pytest.raises(OSError, match=r"cannot be written \(Permission denied\)"):
        OverlapStudy(SMALL, options(), tmp_path)


def test_a_study_interrupted_at_its_very_start_goes_on(tmp_path):
    """The folder is this study's from the first file on."""
    OverlapStudy(SMALL, options(), tmp_path)
    (tmp_path / "records").rmdir()
    assert len(run(tmp_path)["records"]) == 3


def test_table_k_ends_at_the_largest_k(tmp_path):
    assert run(tmp_path / "six", steps=0)["table_k"] == [2, 6]
    assert run(tmp_path / "five", steps=0, k=5)["table_k"] == [2, 5]
    assert run(tmp_path / "one", steps=0, k=1)["table_k"] == [1]


def test_every_eigenpair(tmp_path):
    (record,) = run(tmp_path, k=27, steps=0)["records"]
    assert record["overlap"][-1] == pytest.approx(1)


def test_batch_norm_buffers_are_part_of_a_checkpoint(tmp_path):
    """A model reloaded without its running statistics would have another loss, and be refused."""
    problem = attrs.evolve(SMALL, model=lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)))
    results = OverlapStudy(problem, options(), tmp_path).run()
    assert len(results["records"]) == 3
