"""Records of a training that is somebody else's: their numbers, what they leave alone, and when there are none."""

import copy
import json
import logging
import math
import random

import curvature_cases as cases
import numpy
import pytest
import torch
from study_cases import small_data
from torch import nn
from torch.nn.utils import prune

import eigenspan as es
from eigenspan.solvers import planning
from eigenspan.studies.recorder import CurvatureRecorder
from eigenspan.studies.report import write_report
from eigenspan.studies.results import read_results
from eigenspan.studies.run_comparison import write_comparison

LOSS = nn.CrossEntropyLoss()
DATA = small_data()
BATCH = (DATA.train[0].double(), DATA.train[1])


def network(seed=1):
    """One with everything that differs between training and evaluation."""
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.3), nn.Linear(3, 3)]
    nn.init.normal_(layers[1].weight, 1.0, 0.1)  # ones would be ties among the largest
    return nn.Sequential(*layers).double()


def recorder(directory, **changes):
    return CurvatureRecorder(changes.pop("loss", LOSS), changes.pop("data", BATCH), directory, **{"k": 4, **changes})


def train(model, steps, at=lambda step: None, first=0):
    """SGD on all of the data; calls ``at`` with each step, 0 among them unless the training is resumed."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    inputs, targets = BATCH
    at(first)
    for step in range(first + 1, steps + 1):
        optimiser.zero_grad()
        LOSS(model(inputs), targets).backward()
        optimiser.step()
        at(step)
    return model


def records_in(directory):
    return [json.loads(path.read_text()) for path in sorted((directory / "records").iterdir())]


def test_records_are_those_of_the_dense_hessian_at_their_step(tmp_path):
    """In float64, to the solver's own tolerance of 1e-9 and its square."""
    one, copies = recorder(tmp_path), {}

    def at(step):
        if step % 2 == 0:
            copies[step] = copy.deepcopy(model).eval()
            assert one.record(model, step)["step"] == step

    model = network()
    train(model, 4, at)
    assert [record["step"] for record in records_in(tmp_path)] == [0, 2, 4]
    for record in records_in(tmp_path):
        twin = copies[record["step"]]
        point = nn.utils.parameters_to_vector(twin.parameters()).detach()
        names, shapes = zip(*((name, each.shape) for name, each in twin.named_parameters()), strict=True)

        def loss(vector, twin=twin, names=names, shapes=shapes):
            parts = vector.split([shape.numel() for shape in shapes])
            named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
            return LOSS(torch.func.functional_call(twin, named, BATCH[0]), BATCH[1])

        values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(loss, point))
        order = values.abs().argsort(descending=True)[:4]
        largest = point.abs().argsort(descending=True)
        overlap = [float(vectors[largest[:k]][:, order[:k]].square().sum()) / k for k in range(1, 5)]
        assert record["eigenvalues"] == pytest.approx(values[order].tolist(), abs=1e-9)
        assert record["overlap"] == pytest.approx(overlap, abs=1e-6)
        assert record["loss"] == pytest.approx(float(loss(point)), rel=1e-12)
        assert record["report"]["status"] in ("CONVERGED", "COMPLETE")


@pytest.mark.usefixtures("undrawn")
def test_the_training_is_bit_for_bit_the_same(tmp_path):
    """Dropout draws the same masks, and momentum, running statistics and gradients are what they would be."""
    plain = train(network(), 6)
    one = recorder(tmp_path)
    model = network()
    recorded = train(model, 6, lambda step: one.record(model, step))
    one.finish()
    for (name, ours), theirs in zip(recorded.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(recorded.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert len(records_in(tmp_path)) == 7


def test_each_module_keeps_its_mode_and_the_generators_their_state(tmp_path):
    model = network()
    model[1].eval()  # one that is frozen while the rest trains
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    data = torch.utils.data.DataLoader(list(zip(*BATCH, strict=True)), batch_size=10, shuffle=False)
    assert recorder(tmp_path, data=data).record(model, 0) is not None
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compiled"])
def test_a_wrapped_network_is_the_one_within(tmp_path, wrap):
    model = network()
    expected = recorder(tmp_path / "plain").record(model, 0)
    found = recorder(tmp_path / "wrapped").record(wrap(model), 0)
    assert found["eigenvalues"] == pytest.approx(expected["eigenvalues"], rel=1e-9)


def test_selected_parameters_alone(tmp_path):
    record = recorder(tmp_path, parameters="4").record(network(), 0)
    assert len(record["mask_counts"]) == 2
    H = es.Hessian(network().eval(), LOSS, BATCH, parameters="4")
    values = torch.linalg.eigvalsh(H.to_dense())
    expected = values[values.abs().argsort(descending=True)][:4]
    assert record["eigenvalues"] == pytest.approx(expected.tolist(), abs=1e-9)


def test_within_autocast_numbers_are_those_without(tmp_path):
    """To the rounding of float32, since a trial may choose another engine; in bfloat16 two digits would be left."""
    model = network().float()
    one = recorder(tmp_path, data=(BATCH[0].float(), BATCH[1]))
    with torch.autocast("cpu", torch.bfloat16):
        cast = one.record(model, 0)
    expected = one.record(model, 0)["eigenvalues"]
    assert cast["eigenvalues"] == pytest.approx(expected, abs=1e-5 * abs(expected[0]))


@pytest.mark.usefixtures("undrawn")
def test_all_records_are_of_the_parameters_that_were_trained_at_the_beginning(tmp_path):
    one, model = recorder(tmp_path), network()
    model[0].requires_grad_(False)
    first = one.record(model, 0)
    model[0].requires_grad_(True)
    model[4].requires_grad_(False)
    model.append(nn.Linear(3, 3).double())
    nn.init.eye_(model[5].weight)
    nn.init.zeros_(model[5].bias)
    second = one.record(model, 1)
    assert second["eigenvalues"] == pytest.approx(first["eigenvalues"], rel=1e-9)  # the solver's own tolerance
    assert one.finish() is not None
    assert len(read_results(tmp_path)["records"]) == 2


def test_parameters_of_another_shape_than_at_the_beginning_have_no_record(tmp_path, caplog):
    one, model = recorder(tmp_path), network()
    one.record(model, 0)
    model[4] = nn.Linear(3, 5).double()
    assert one.record(model, 1) is None
    assert "other shapes at the beginning" in caplog.text
    assert one.finish() is not None


class Drawing(torch.utils.data.Dataset):
    """Samples whose reading takes random numbers of Python and NumPy."""

    def __len__(self):
        return len(BATCH[1])

    def __getitem__(self, index):
        drawn()
        return BATCH[0][index], BATCH[1][index]


def drawn():
    return random.random(), numpy.random.random()  # noqa: NPY002 - the state that data sets share with a training


def test_random_numbers_of_python_and_numpy_are_as_they_were(tmp_path):
    states = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    expected = drawn()
    random.setstate(states[0])
    numpy.random.set_state(states[1])  # noqa: NPY002
    one = recorder(tmp_path, data=torch.utils.data.DataLoader(Drawing(), batch_size=16))
    assert one.record(network(), 0) is not None
    assert drawn() == expected


def test_results_make_a_report_and_compare_the_steps(tmp_path):
    one, model = recorder(tmp_path, k=6), network()
    train(model, 2, lambda step: one.record(model, step))
    report = one.finish()
    assert report == tmp_path / "report.html"
    assert "through-training" in {path.stem for path in (tmp_path / "figures").iterdir()}
    results = json.loads((tmp_path / "results.json").read_text())
    assert [record["step"] for record in results["records"]] == [0, 1, 2]
    assert sum(results["parameters"]["sizes"]) == 33
    tracking = results["tracking"]["train"]
    assert tracking["steps"] == [0, 1, 2]
    for place, record in enumerate(results["records"]):
        found = tracking["by_k"]["5"]["masks_with_eigenspaces"]["magnitude"][place][place]
        assert found == pytest.approx(record["overlap"][4], abs=1e-12)
        assert tracking["by_k"]["5"]["eigenspaces"][place][place] == pytest.approx(1)
    H = es.Hessian(copy.deepcopy(model).eval(), LOSS, BATCH)
    g, eig = H.gradient(), es.DenseEigh(k=6).solve(H)
    share = (eig.eigenvectors.mT @ g).square().sum() / g.square().sum()
    assert tracking["gradient_shares"][-1][-1] == pytest.approx(float(share), abs=1e-6)
    assert write_report(results, tmp_path) == report


@pytest.mark.usefixtures("undrawn")
def test_its_folders_are_reported_again_and_compared(tmp_path):
    for seed in (1, 2):
        model = network(seed)
        one = recorder(tmp_path / f"seed-{seed}", k=6)
        train(model, 1, lambda step, one=one, model=model: one.record(model, step))
        one.finish()
    folders = [tmp_path / f"seed-{seed}" for seed in (1, 2)]
    (folders[0] / "report.html").unlink()
    assert write_report(read_results(folders[0]), folders[0]).exists()
    text = write_comparison(folders, tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "seed-1" in text
    assert "seed-2" in text


# -- the budget -------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Each block that planning times takes so many seconds a column, and its own algebra none."""
    each = {"seconds": 1000.0}  # beside which those that pass do not count

    def timed(function, X, device):
        function(X)
        return each["seconds"] * X.shape[-1]

    monkeypatch.setattr(planning, "_timed", timed)
    monkeypatch.setattr(planning, "_tall_rate", lambda A, work: math.inf)
    monkeypatch.setattr(planning, "_core_rate", lambda A, work: math.inf)
    return each


@pytest.mark.parametrize("whole", [numpy.int64, torch.tensor], ids=["NumPy", "PyTorch"])
def test_steps_of_any_kind_of_integer_are_recorded(tmp_path, whole):
    one, model = recorder(tmp_path), network()
    for step in (0, 3):
        assert one.record(model, whole(step)) is not None
    assert [record["step"] for record in records_in(tmp_path)] == [0, 3]
    with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
        one.record(model, "3")


def test_no_more_products_than_fit(tmp_path, slow):
    """Of 1000 seconds each in 12,000 less what planning takes, two are for the test of symmetry."""
    record = recorder(tmp_path, seconds=12_000).record(network(), 0)
    assert 6 <= record["report"]["products"] <= 12
    assert record["report"]["solver"]["max_products"] <= 10
    assert record["report"]["status"] == "OUT_OF_PRODUCTS"
    assert max(record["residual_norms"]) > 1e-3 * abs(record["eigenvalues"][0])
    slow["seconds"] = 1e-6
    record = recorder(tmp_path / "fast", seconds=12_000).record(network(), 0)
    assert record["report"]["solver"]["max_products"] is None
    assert record["report"]["status"] in ("CONVERGED", "COMPLETE")


def test_where_too_few_fit_there_is_no_record_until_more_do(tmp_path, slow, caplog):
    one, model = recorder(tmp_path, k=6, seconds=5000), network()
    assert one.record(model, 0) is None
    assert one.record(model, 1) is None
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    assert "products of 1e+03 s fit into what is left of 5000 s, of which timing one took " in caplog.text
    assert ", and k=6 pairs take as many at least" in caplog.text
    assert "Error" not in caplog.text
    slow["seconds"] = 0.001
    assert one.record(model, 2) is not None
    assert [record["step"] for record in records_in(tmp_path)] == [2]


def test_one_that_takes_longer_to_time_is_tried_once_more(tmp_path, caplog, monkeypatch):
    """A machine may be busy the first time."""
    one, model, tries = recorder(tmp_path, seconds=1e-9), network(), []
    affordable = one._affordable
    monkeypatch.setattr(one, "_affordable", lambda *arguments: tries.append(arguments) or affordable(*arguments))
    assert [one.record(model, step) for step in range(3)] == [None, None, None]
    assert len(tries) == 2
    assert len(caplog.records) == 1
    assert "later steps are tried" in caplog.text
    assert one.finish() is None
    again = recorder(tmp_path / "again", seconds=1e-9)
    assert again.record(model, 0) is None
    again.seconds = 60.0
    assert again.record(model, 1) is not None


# -- what cannot be recorded ------------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_derived_twice_trains_to_the_end(tmp_path, caplog):
    def model():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 3), cases.Applied(cases.Once.apply), nn.Linear(3, 3)).double()

    plain = train(model(), 5)
    one, recorded, tries = recorder(tmp_path), model(), []
    train(recorded, 5, lambda step: tries.append(one.record(recorded, step)))
    assert tries == [None] * 6
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), recorded.parameters(), strict=True))
    (entry,) = caplog.records
    assert (entry.name, entry.levelno) == ("eigenspan", logging.WARNING)
    assert "the curvature of this model is not recorded: at step 0" in entry.message
    assert one.finish() is None
    assert not list((tmp_path / "records").iterdir())


@pytest.mark.usefixtures("undrawn")
def test_a_step_that_fails_after_others_is_left_out(tmp_path, caplog):
    one, model = recorder(tmp_path), network()
    assert one.record(model, 0) is not None
    good = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model[4].weight.fill_(math.nan)
    modes = [module.training for module in model.modules()]
    assert [one.record(model, step) for step in (1, 2)] == [None, None]
    assert [module.training for module in model.modules()] == modes
    model.load_state_dict(good)
    assert one.record(model, 3) is not None
    (entry,) = caplog.records
    assert "no record at step 1, ValueError" in entry.message
    assert "later steps are tried" in entry.message
    assert one.finish() is not None


def test_an_interruption_is_none_of_these(tmp_path, monkeypatch):
    one, model = recorder(tmp_path), network()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.record(model, 0)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_recorded_by_a_copy_in_float32(tmp_path, caplog, dtype):
    """As of the network of the same numbers in float32, to its rounding; the training keeps its own."""
    model, data = network().to(dtype), (BATCH[0].to(dtype), BATCH[1])
    before, weights = copy.deepcopy(model.state_dict()), torch.tensor([1.0, 2.0, 3.0])
    half, whole = nn.CrossEntropyLoss(weight=weights.to(dtype)), nn.CrossEntropyLoss(weight=weights)
    found = recorder(tmp_path / "half", loss=half, data=data).record(model, 0)
    wide = copy.deepcopy(model).float(), (data[0].float(), data[1])
    expected = recorder(tmp_path / "float", loss=whole, data=wide[1]).record(wide[0], 0)
    assert found["mask_counts"] == expected["mask_counts"]
    for name in ("eigenvalues", "overlap", "loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
    (entry,) = caplog.records
    assert f"the parameters are {str(dtype)[6:]}" in entry.message
    assert "of a copy of the network in float32" in entry.message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_half_precision_of_a_pruned_network(tmp_path):
    """It holds weights that a forward pass has computed, with their graph, which PyTorch does not copy."""
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.5)
    model = model.bfloat16()
    data = (BATCH[0].bfloat16(), BATCH[1])
    LOSS(model(data[0]), data[1]).backward()
    assert not model[0].weight.is_leaf
    found = recorder(tmp_path / "half", data=data).record(model, 0)
    exact = network().bfloat16().float()
    exact.load_state_dict(
        {name.removesuffix("_orig"): x for name, x in model.state_dict().items() if "mask" not in name}
    )
    prune.custom_from_mask(exact[0], "weight", model[0].weight_mask.float())
    expected = recorder(tmp_path / "float", data=(data[0].float(), data[1])).record(exact, 0)
    assert found["eigenvalues"] == pytest.approx(expected["eigenvalues"], rel=1e-4, abs=1e-5)  # as above


def test_parameters_of_several_dtypes(tmp_path, caplog):
    model = network()
    model[4].float()
    one = recorder(tmp_path)
    assert one.record(model, 0) is None
    assert "share dtype and device" in caplog.text
    assert one.record(model, 1) is None
    assert len(caplog.records) == 1


def test_parameters_without_shapes(tmp_path, caplog):
    model = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.Linear(3, 3))
    lazy = recorder(tmp_path)
    lazy.begin(model)
    assert lazy.record(model, 0) is None
    assert "have no shapes before a first forward pass" in caplog.text


def test_parameters_that_are_spread_over_ranks(tmp_path, caplog):
    class FullyShardedDataParallel(nn.Sequential):
        pass

    assert recorder(tmp_path).record(FullyShardedDataParallel(network()), 0) is None
    assert "spread over ranks" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path, caplog, monkeypatch):
    one = recorder(tmp_path)
    one.record(network(), 0)

    def missing(*_):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr("eigenspan.studies.report.write_report", missing)
    assert one.finish() is None
    assert 'matplotlib is missing: pip install "eigenspan[studies]"' in caplog.text
    assert json.loads((tmp_path / "results.json").read_text())["records"]
    for name in ("00000000-train.npz", "00000000-train-point.pt"):
        (tmp_path / "eigenspaces" / name).write_bytes(b"")
        caplog.clear()
        assert one.finish() is None
        assert "no report of the curvature records" in caplog.text
        assert name in caplog.text
        assert "00000000-train.json, and both are made anew" in caplog.text


# -- bad input, and trainings that are resumed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": []}, ValueError, "no data to decompose"),
        ({"data": iter([BATCH])}, TypeError, "only once"),
        ({"k": 0}, ValueError, "k is at least 1"),
        ({"seconds": 0}, ValueError, "more than 0; got 0"),
        ({"seconds": "60"}, ValueError, "more than 0; got '60'"),
        ({"seconds": math.nan}, ValueError, "more than 0; got nan"),
        ({"seed": -1}, ValueError, "seed is a non-negative integer"),
        ({"split": "validation"}, ValueError, "split is one of train, test"),
    ],
)
def test_values_out_of_range_are_refused_at_once(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        recorder(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 34}, "number of parameters, 33; got 34"),
        ({"parameters": "head"}, "matches no parameter"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_when_it_begins(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recorder(tmp_path / "new", **changes).begin(network())
    assert not (tmp_path / "new").exists()


def test_a_folder_of_another_training_is_refused(tmp_path):
    recorder(tmp_path).begin(network())
    recorder(tmp_path).begin(network())  # the same, from its beginning
    for changes in ({"k": 3}, {"seed": 1}, {"data": (BATCH[0][:20], BATCH[1][:20])}, {"parameters": "4"}):
        with pytest.raises(ValueError, match="holds another study"):
            recorder(tmp_path, **changes).begin(network())
    with pytest.raises(ValueError, match=r"another study \(initial values \w+ -> \w+\)"):
        recorder(tmp_path).begin(network(seed=2))


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds no study"):
        recorder(tmp_path).record(network(), 0)


@pytest.mark.usefixtures("undrawn")
def test_a_training_that_is_resumed_goes_on_in_its_folder(tmp_path):
    """Of records past its last step none counts, as those are of a training that was given up."""
    one, model, states = recorder(tmp_path), network(), {}

    def at(step):
        states[step] = copy.deepcopy(model.state_dict())
        one.record(model, step)

    train(model, 4, at)
    again, resumed = recorder(tmp_path), network(seed=3)
    resumed.load_state_dict(states[2])
    again.begin(resumed, 2)
    assert again.record(resumed, 2)["eigenvalues"] == pytest.approx(records_in(tmp_path)[2]["eigenvalues"], rel=1e-9)
    with torch.no_grad():
        resumed[4].weight.mul_(1.5)
    third = again.record(resumed, 3)
    again.finish()
    results = json.loads((tmp_path / "results.json").read_text())
    assert [record["step"] for record in results["records"]] == [0, 1, 2, 3]
    assert results["records"][3]["eigenvalues"] == third["eigenvalues"]


def test_a_resumed_training_may_begin_a_folder(tmp_path):
    one = recorder(tmp_path)
    one.begin(network(), 5)
    assert one.record(network(), 5) is not None


def test_a_training_resumed_for_steps_without_a_record_has_a_report_of_those_before(tmp_path):
    recorder(tmp_path).record(network(), 0)
    again = recorder(tmp_path)
    again.begin(network(), 3)
    assert again.finish() == tmp_path / "report.html"
    assert [record["step"] for record in json.loads((tmp_path / "results.json").read_text())["records"]] == [0]
