"""The study: its numbers against the dense Hessian, what it keeps, what it refuses to mix, and how it goes on."""

import contextlib
import functools
import json
import os
import re
import shutil

import attrs
import numpy
import pytest
import scipy
import torch
from job_cases import found as found_by_ranks
from job_cases import ranks
from study_cases import SMALL, UNTIMED, options, run, shared, small_data, small_model
from torch import nn

import eigenspan as es
from eigenspan.linops.distributed import job
from eigenspan.solvers import EigenDecomposition
from eigenspan.solvers.basis import Basis
from eigenspan.studies.lock import LOCK
from eigenspan.studies.options import SOLVERS
from eigenspan.studies.overlap_study import OverlapStudy


def test_records_are_those_of_the_dense_hessian(tmp_path, device, finished):
    """Every number again from the reloaded model by dense algebra; float64, to the solver's own tolerance."""
    results = finished(tmp_path, split="both", device=device)
    assert [(record["step"], record["split"]) for record in results["records"]] == [
        (step, split) for step in (0, 2, 4) for split in ("test", "train")
    ]
    model = small_model().double()
    for record in results["records"]:
        (path,) = (tmp_path / "checkpoints").glob(f"*{record['step']:06d}*")
        state = torch.load(path, map_location="cpu", weights_only=True)
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
        squares = vectors[:, order].square()
        layers = torch.stack([part.sum(dim=0) for part in squares.split([12, 3, 9, 3])])
        energy = record["layer_energy"]
        assert torch.tensor(energy["eigenvectors"]).sub(layers).abs().max() < 1e-6
        assert torch.tensor(energy["eigenspaces"])[:, 0].sub(layers[:, :2].mean(dim=1)).abs().max() < 1e-6
        assert record["participation_ratio"] == pytest.approx((1 / squares.square().sum(dim=0)).tolist(), rel=1e-5)
        assert record["mask_ties"] is None


def test_intervals_and_p_values_are_those_of_random_masks(tmp_path, finished):
    """Of all 27 masks of one parameter, whose overlaps are the squares of the entries of the first eigenvector."""
    (record,) = finished(tmp_path, steps=0)["records"]
    (state,) = (tmp_path / "checkpoints").glob("*000000*")
    model = small_model().double()
    model.load_state_dict(torch.load(state, weights_only=True)["model"])
    inputs, targets = small_data().hessian["train"]
    H = es.Hessian(model, SMALL.loss, (inputs.double(), targets))
    squares = es.DenseEigh(k=1).solve(H).eigenvectors[:, 0].square()
    chance, observed = record["chance_uniform"], record["overlap"][0]
    above, below = (float(part.double().mean()) for part in (squares >= observed - 1e-9, squares <= observed + 1e-9))
    # Of 999 draws the share beyond a value is off by 0.05 in one of a thousand studies, at most.
    assert chance["p_value"][0] == pytest.approx(min(1, 2 * min(above, below)), abs=0.1)
    low, high = (float((squares < end - 1e-9).double().mean()) for end in (chance["low"][0], chance["high"][0]))
    assert low <= 0.025
    assert high >= 1 - 2 / 27
    stratified = record["chance_stratified"]
    ends = zip(*(stratified[name] for name in ("low", "mean", "high")), strict=True)
    assert all(low <= mean <= high for low, mean, high in ends)


def test_the_error_of_the_overlap_holds_the_exact_one(tmp_path):
    """Of eigenvectors in single precision: the interval is of their error, and holds the overlap in double."""
    (record,) = run(tmp_path / "found", steps=0, dtype="float32", compare=False)["records"]
    (exact,) = run(tmp_path / "exact", steps=0, solver="dense", compare=False)["records"]
    ends = zip(record["overlap_error"]["low"], record["overlap_error"]["high"], exact["overlap"], strict=True)
    shown = [(low, overlap, high) for low, high, overlap in ends if low is not None]
    assert len(shown) >= 3
    assert all(low <= overlap <= high for low, overlap, high in shown)
    assert all(0 < high - low < 1e-2 for low, _, high in shown)


def test_residuals_that_were_not_measured_bound_no_error(tmp_path, monkeypatch):
    solvers = {"sketched": lambda k, seed: es.SketchedEigh(outer=k, measure_residuals=False, seed=seed)}
    monkeypatch.setattr("eigenspan.studies.options.SOLVERS", solvers)
    (record,) = run(tmp_path, steps=0, solver="sketched")["records"]
    assert record["overlap_error"] == {"low": [None] * 6, "high": [None] * 6}


def test_ties_are_recorded(tmp_path):
    def model():
        network = small_model()
        with torch.no_grad():
            network[0].weight[:, 0] = 3.0
            network[0].weight[0, 1:] = -3.0
        return network

    (record,) = OverlapStudy(attrs.evolve(SMALL, model=model), options(k=4, steps=0), tmp_path).run()["records"]
    assert record["mask_ties"] == {"threshold": 3.0, "tied": 6, "selected": 4, "strata": 1}


def test_a_folder_of_records_with_other_keys_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("eigenspan.studies.folder.FORMAT", 1)
    run(tmp_path, steps=0, compare=False)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"another study \(record format 1 -> \d+\)"):
        run(tmp_path, steps=0, compare=False)
    study = json.loads((tmp_path / "study.json").read_text())
    study.pop("record format")  # as of folders before there was such a number
    (tmp_path / "study.json").write_text(json.dumps(study))
    with pytest.raises(ValueError, match=r"another study \(record format None -> \d+\)"):
        run(tmp_path, steps=0, compare=False)


@pytest.mark.parametrize("solver", ["block-lanczos", "sketched", "sketched-two-pass", "arpack", "dense"])
def test_every_solver(tmp_path, solver, device):
    results = run(tmp_path, solver=solver, steps=0, exact=True, k=5, device=device, compare=False)
    (record,) = results["records"]
    assert record["k_max"] == 5
    assert len(record["exact"]["eigenvalues"]) == 5
    least = 0.3 if solver.startswith("sketched") else 1 - 1e-8
    assert min(record["exact"]["subspace_overlap"]) >= least


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_every_eigenpair(tmp_path, solver, device):
    """With k = n the subspace is the whole space, and each overlap at k = n is 1."""
    (record,) = run(tmp_path, solver=solver, steps=0, exact=True, k=27, device=device, compare=False)["records"]
    assert len(record["eigenvalues"]) == 27
    assert record["overlap"][-1] == pytest.approx(1)
    assert record["exact"]["subspace_overlap"][-1] == pytest.approx(1)
    # A sketch of all n dimensions is exact as well; its least-squares solves lose digits to their condition.
    assert record["eigenvalues"] == pytest.approx(record["exact"]["eigenvalues"], rel=1e-6, abs=1e-8)


@pytest.mark.filterwarnings("ignore::eigenspan.solvers.ConvergenceWarning")
def test_a_solver_that_finds_fewer_pairs_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    solvers = {"arpack": lambda k, seed: es.Arpack(k=k, seed=seed, ncv=k + 1, maxiter=1)}
    monkeypatch.setattr("eigenspan.studies.options.SOLVERS", solvers)
    with pytest.raises(RuntimeError, match=r"EigenDecomposition \d of 27 .*not converged .*raise maxiter"):
        run(tmp_path, solver="arpack")
    assert not list((tmp_path / "records").iterdir())


def test_results_say_what_computed_them(tmp_path, device, finished):
    environment = finished(tmp_path, steps=0, device=device)["environment"]
    assert (environment["numpy"], environment["scipy"]) == (numpy.__version__, scipy.__version__)
    assert environment.get("gpu") == (torch.cuda.get_device_name(device) if device == "cuda" else None)


def test_results_are_strict_json(tmp_path, device, finished):
    results = finished(tmp_path, device=device)
    text = (tmp_path / "results.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == json.loads(json.dumps(results))


def test_a_finished_study_is_not_run_again(tmp_path, monkeypatch, device, finished):
    first = finished(tmp_path, device=device)
    monkeypatch.setattr(OverlapStudy, "_measure", lambda *_: pytest.fail("measured again"))
    assert run(tmp_path, device=device) == first


def test_an_interrupted_study_goes_on_with_the_same_result(tmp_path, monkeypatch, device, finished):
    whole = finished(tmp_path / "whole", device=device)
    measure, count = OverlapStudy._measure, []

    def interrupted(*arguments):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(None)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OverlapStudy, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", device=device)
    assert len(list((tmp_path / "cut" / "records").iterdir())) == 2
    resumed = run(tmp_path / "cut", device=device)
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
def test_changed_options_do_not_mix(tmp_path, change, finished):
    finished(tmp_path)
    (name,) = change
    with pytest.raises(ValueError, match=rf"another study \({name} .* -> {change[name]}\)"):
        run(tmp_path, **change)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds no study"):
        OverlapStudy(SMALL, options(), tmp_path)


def test_what_an_interruption_left_is_not_foreign(tmp_path):
    (tmp_path / "study.jsonab12.partial").write_text("{")
    assert len(run(tmp_path, compare=False)["records"]) == 3


def test_a_folder_in_use_is_refused(tmp_path):
    study, refused = OverlapStudy(SMALL, options(), tmp_path), []

    def again(record):
        assert (tmp_path / LOCK).exists()
        for attempt in (lambda: OverlapStudy(SMALL, options(), tmp_path), study.run):
            with pytest.raises(RuntimeError, match=rf"another run is using this folder \(process {os.getpid()} on"):
                attempt()
            refused.append(record)

    study.run(on_record=again)
    assert len(refused) == 6
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_became_another_study_is_refused(tmp_path):
    early = OverlapStudy(SMALL, options(), tmp_path)
    (tmp_path / "study.json").unlink()
    for folder in ("records", "eigenspaces", "tracking"):
        (tmp_path / folder).rmdir()
    run(tmp_path, seed=1, steps=0, compare=False)
    with pytest.raises(ValueError, match="another study"):
        early.run()


def test_steps_are_compared_with_one_another(tmp_path, finished):
    results = finished(tmp_path, split="both")
    assert list(results["tracking"]) == ["train", "test"]
    for split, tracking in results["tracking"].items():
        assert tracking["steps"] == [0, 2, 4]
        records = {record["step"]: record for record in results["records"] if record["split"] == split}
        for k, found in ((2, tracking["by_k"]["2"]), (6, tracking["by_k"]["6"])):
            for place, step in enumerate(tracking["steps"]):
                diagonal = found["masks_with_eigenspaces"]["magnitude"][place][place]
                assert diagonal == pytest.approx(records[step]["overlap"][k - 1], abs=1e-12)
                assert found["eigenspaces"][place][place] == pytest.approx(1)


def test_a_missing_eigenspace_says_what_to_do(tmp_path, finished):
    finished(tmp_path)
    (tmp_path / "eigenspaces" / "00000002-train.npz").unlink()
    (tmp_path / "tracking" / "train.json").unlink()
    with pytest.raises(ValueError, match=r"is missing: remove .*00000002-train.json, and both are made anew"):
        run(tmp_path)
    (tmp_path / "records" / "00000002-train.json").unlink()
    run(tmp_path)


def test_a_foreign_or_damaged_record_is_refused(tmp_path, finished):
    finished(tmp_path)
    path = sorted((tmp_path / "records").iterdir())[0]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"of": {"study": "other"}}))
    with pytest.raises(ValueError, match="not a record of this study"):
        run(tmp_path)
    path.write_text(json.dumps(record)[:100])
    with pytest.raises(ValueError, match="damaged"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["00000002-train", "00000004-test", "00000004-train (copy)"])
def test_a_record_under_another_name_is_refused(tmp_path, name, finished):
    """It would stand in the results twice."""
    finished(tmp_path)
    records = tmp_path / "records"
    shutil.copy(records / "00000004-train.json", records / f"{name}.json")
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.json is not the record of its step, but of step 4"):
        run(tmp_path)
    (records / f"{name}.json").unlink()
    assert [record["step"] for record in run(tmp_path)["records"]] == [0, 2, 4]


@pytest.mark.parametrize(
    ("damage", "words"), [("copied", "has other eigenvalues"), ("emptied", "cannot be loaded"), ("flipped", "checksum")]
)
def test_an_eigenspace_of_another_step_or_none_says_what_to_do(tmp_path, damage, words, finished):
    results = finished(tmp_path)
    last, middle = (tmp_path / "eigenspaces" / f"0000000{step}-train.npz" for step in (4, 2))
    flipped = bytearray(middle.read_bytes())
    flipped[flipped.index(EigenDecomposition.load(middle).residual_norms.numpy().tobytes())] ^= 1
    middle.write_bytes({"copied": last.read_bytes(), "emptied": b"", "flipped": bytes(flipped)}[damage])
    (tmp_path / "tracking" / "train.json").unlink()
    with pytest.raises(ValueError, match=rf"{words}.*: remove .*00000002-train.json, and both are made anew"):
        run(tmp_path)
    (tmp_path / "records" / "00000002-train.json").unlink()
    assert run(tmp_path)["tracking"] == results["tracking"]


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_folder_that_does_not_say_what_it_holds_is_refused(tmp_path, content, finished):
    """Without the file it would be refused as well, so that to remove it is no way out."""
    finished(tmp_path, steps=0)
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(ValueError, match=r"study.json is damaged \(.*\): choose another folder$") as raised:
        run(tmp_path, steps=0)
    assert "remove" not in str(raised.value)


def test_a_folder_of_data_may_be_a_path(tmp_path):
    run(tmp_path, steps=0, data_root=tmp_path, compare=False)
    assert json.loads((tmp_path / "study.json").read_text())["data_root"] == str(tmp_path)


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


def test_a_k_that_does_not_fit_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="number of trainable parameters, 27"):
        OverlapStudy(SMALL, options(k=28), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_was_closed_is_refused_before_any_work(tmp_path, monkeypatch, finished):
    finished(tmp_path)

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", closed)
    with pytest.raises(OSError, match=r"cannot be written \(Permission denied\)"):
        OverlapStudy(SMALL, options(), tmp_path)


def test_a_study_interrupted_at_its_very_start_goes_on(tmp_path):
    """The folder is this study's from the first file on."""
    OverlapStudy(SMALL, options(compare=False), tmp_path)
    (tmp_path / "records").rmdir()
    assert len(run(tmp_path, compare=False)["records"]) == 3


def test_table_k_ends_at_the_largest_k(tmp_path, finished):
    assert finished(tmp_path / "six", steps=0)["table_k"] == [2, 6]
    assert run(tmp_path / "five", steps=0, k=5, compare=False)["table_k"] == [2, 5]
    assert run(tmp_path / "one", steps=0, k=1, compare=False)["table_k"] == [1]


def test_batch_norm_buffers_are_part_of_a_checkpoint(tmp_path, device):
    """A model reloaded without its running statistics would have another loss, and be refused."""
    problem = attrs.evolve(SMALL, model=lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)))
    results = OverlapStudy(problem, options(device=device, compare=False), tmp_path).run()
    assert len(results["records"]) == 3


def test_parameters_that_are_not_trained_have_no_part(tmp_path):
    """Names and sizes are those of the tensors that the Hessian is of, and so is the largest k."""

    def half_frozen():
        model = small_model()
        model[0].requires_grad_(False)
        return model

    problem = attrs.evolve(SMALL, model=half_frozen)
    results = OverlapStudy(problem, options(steps=0), tmp_path / "six").run()
    assert results["parameters"] == {"names": ["2.weight", "2.bias"], "sizes": [9, 3]}
    assert len(results["records"][0]["mask_counts"]) == 2
    with pytest.raises(ValueError, match="trainable parameters, 12; got 13"):
        OverlapStudy(problem, options(k=13), tmp_path / "thirteen")


@pytest.mark.parametrize("in_a_job", [False, True], ids=["alone", "a job"])
@pytest.mark.parametrize(("passes", "solves"), [(9, 2), (-1, 3)], ids=["the other data", "layers"])
def test_a_solve_within_a_record_goes_on_from_its_products(passes, solves, in_a_job, tmp_path, monkeypatch):
    """Interrupted in a later solve of the first record; no product with a Hessian is made again."""
    products, stop = [], None
    matmat = es.Hessian._matmat

    def counted(self, X):
        if stop is not None and len(products) == stop:
            raise KeyboardInterrupt
        result = matmat(self, X)
        products.append(X.shape[1])
        return result

    monkeypatch.setattr(es.Hessian, "_matmat", counted)
    monkeypatch.delenv("RANK", raising=False)
    whole, widths = run(tmp_path / "whole", steps=0), products[:]
    products.clear()
    stop = passes % len(widths)  # from the end, if negative
    with pytest.raises(KeyboardInterrupt), job() if in_a_job else contextlib.nullcontext() as mesh:
        OverlapStudy(SMALL, options(steps=0), tmp_path / "found", mesh).run()
    unfinished = tmp_path / "found" / "unfinished" / "00000000-train"
    done = [es.BlockStore.open(folder).progress().done for folder in unfinished.iterdir() if folder.name != "ggn"]
    assert len(done) == solves
    assert sum(done) == sum(products)
    stop = None
    found = run(tmp_path / "found", steps=0)
    assert products == widths
    assert not unfinished.exists()
    for record, expected in zip(found["records"], whole["records"], strict=True):
        assert {**record, **UNTIMED} == {**expected, **UNTIMED}


@pytest.mark.slow
def test_a_study_of_two_ranks_of_which_one_dies_goes_on_with_three(tmp_path, monkeypatch):
    widths, matmat = [], es.Hessian._matmat
    monkeypatch.setattr(es.Hessian, "_matmat", lambda self, X: widths.append(X.shape[1]) or matmat(self, X))
    whole, folder = run(tmp_path / "whole", steps=0), tmp_path / "shared"
    codes, outputs = ranks(functools.partial(shared, directory=folder, stop=9), 2, tmp_path)
    assert codes[1] == 17
    assert codes[0] not in (0, 17, None), outputs[0]
    unfinished = folder / "unfinished" / "00000000-train"
    done = [es.BlockStore.open(path).progress().done for path in unfinished.iterdir() if path.name != "ggn"]
    assert sum(done) == sum(widths[:9])
    for products in found_by_ranks(functools.partial(shared, directory=folder), 3, tmp_path):
        assert sum(products) == sum(widths) - sum(done)
    (expected,) = whole["records"]
    (record,) = json.loads((folder / "results.json").read_text(encoding="utf-8"))["records"]
    size = abs(expected["eigenvalues"][0])
    assert record["eigenvalues"] == pytest.approx(expected["eigenvalues"], abs=1e-6 * size)  # sums in another order
    assert not unfinished.exists()


def test_eigenvectors_on_disk_are_formed_once_and_read_from_there(tmp_path, monkeypatch):
    """Each combination of the basis reads all of it, 2.5 k vectors; the numbers are those of memory to rounding."""
    expected = run(tmp_path / "device", steps=0, compare=False)
    for combined in ("combined_rows", "rows"):
        monkeypatch.setattr(Basis, combined, lambda *_: pytest.fail("rows are combined again"))
    found = run(tmp_path / "disk", steps=0, compare=False, storage="disk")
    for name in ("eigenvalues", "overlap", "participation_ratio"):
        assert found["records"][0][name] == pytest.approx(expected["records"][0][name], rel=1e-9)


def test_a_study_asks_for_the_room_of_what_its_solver_may_keep(monkeypatch):
    """For ResNet-18 and 1,500 pairs 3 k vectors, what a store has to spare, and those found: not 10 k."""
    n, k = 11_689_512, 1500
    asked = []
    monkeypatch.setattr(es.Storage, "require_room", lambda self, need: asked.append(need))
    solver = options(k=k, storage="disk").eigensolver()
    solver._require_suitable(es.Identity(n, torch.float32, "cpu"))
    assert asked == [4 * n * (3 * k + 256 + k)]
    assert solver._budget(es.Identity(n, torch.float32, "cpu")) == 10 * k  # as many products as in memory
    assert options(k=k).eigensolver() == es.BlockLanczos(k=k)
