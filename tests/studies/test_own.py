"""Problems of one's own: in Python, and by the name of a module on the command line."""

import functools
import json
import sys

import numpy
import pytest
import torch
from study_cases import small_data, small_model
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

import eigenspan as es
from eigenspan.studies import HessianPlan, OverlapStudy, Problem, StudyOptions, cli, own_problem, report
from eigenspan.studies.problems import find_problem

DATA = small_data()
LOSS = nn.CrossEntropyLoss()
MODULE = """
import torch
from torch import nn
from eigenspan.studies import own_problem

generator = torch.Generator().manual_seed(0)
inputs, targets = torch.randn(40, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator)
network = lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
problem = own_problem(network, nn.CrossEntropyLoss(), {"train": (inputs, targets)}, k=4)
make = lambda: problem
other = 3
"""


def own(**changes):
    arguments = {"hessian": DATA.hessian, "train": DATA.train, "batch_size": 10, "steps": 2, "record_every": 2, "k": 4}
    return own_problem(small_model, LOSS, **{**arguments, **changes})


def test_a_study_of_it(tmp_path):
    problem = own(title="Points")
    results = OverlapStudy(problem, StudyOptions(k=4, steps=2, dtype="float64"), tmp_path / "study").run()
    assert [record["step"] for record in results["records"]] == [0, 2]
    assert results["title"] == "Points"
    assert results["table_k"] == [1, 2, 4]
    assert "comparison" in results["records"][0]
    again = OverlapStudy(problem, StudyOptions(k=4, steps=2, dtype="float64"), tmp_path / "study").run()
    assert again["records"] == results["records"]


def test_more_pairs_than_it_has_by_itself_are_in_the_tables(tmp_path):
    results = OverlapStudy(own(k=2), StudyOptions(k=4, steps=0, compare=False), tmp_path / "study").run()
    assert results["table_k"] == [1, 2, 4]
    assert len(results["records"][0]["layer_energy"]["eigenspaces"][0]) == 3
    assert own(k=4).dimensions(3) == [1, 2, 3]


def test_eigenvalues_are_those_of_the_dense_hessian(tmp_path):
    """Of a network that is trained already, in float64: to the tolerance of the solver, 1e-9 of the largest."""
    torch.manual_seed(5)
    network = small_model().double()
    problem = own_problem(lambda: network, LOSS, {"test": DATA.hessian["test"]}, k=5)
    options = StudyOptions(k=5, steps=0, dtype="float64", split="test", compare=False)
    (record,) = OverlapStudy(problem, options, tmp_path / "study").run()["records"]
    inputs, targets = DATA.hessian["test"]
    names = [name for name, _ in network.named_parameters()]
    shapes = [parameter.shape for parameter in network.parameters()]

    def loss(vector):
        parts = [
            part.view(shape) for part, shape in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)
        ]
        return LOSS(torch.func.functional_call(network, dict(zip(names, parts, strict=True)), inputs.double()), targets)

    point = nn.utils.parameters_to_vector(network.parameters()).detach()
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point))
    expected = values[values.abs().argsort(descending=True)][:5]
    torch.testing.assert_close(torch.tensor(record["eigenvalues"], dtype=torch.float64), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"optimizer": torch.optim.SGD(small_model().parameters(), 0.1)}, TypeError, "function of param.* got a SGD"),
        ({"hessian": DATA.train}, TypeError, r'hessian names its batches, as \{"train": .*; got a tuple'),
        ({"hessian": {}}, ValueError, r"hessian has the batches 'train', 'test' or both, got \[\]"),
        ({"hessian": {"validation": DATA.train}}, ValueError, r"got \['validation'\]"),
        ({"hessian": {"train": DATA.train[0]}}, TypeError, r"hessian\['train'\] is a pair of inputs and targets"),
        ({"train": (DATA.train[0][:3], DATA.train[1])}, ValueError, "train has 3 inputs and 40 targets"),
        ({"train": (DATA.train[0], DATA.train[1].numpy())}, TypeError, "got a tuple of Tensor, ndarray"),
        ({"train": ({"points": DATA.train[0]}, DATA.train[1])}, TypeError, "inputs of train are.* got a dict"),
        ({"batch_size": 0}, ValueError, "batch_size is at least 1, got 0"),
        ({"record_every": 0}, ValueError, "record_every is at least 1, got 0"),
        ({"steps": -1}, ValueError, "steps is at least 0, got -1"),
        ({"k": 0}, ValueError, "k is at least 1, got 0"),
    ],
)
def test_data_that_are_none_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        own(**changes)


def test_factories_and_losses_that_are_none_are_refused():
    with pytest.raises(TypeError, match=r"makes a torch.nn.Module, and made <class 'int'>"):
        own_problem(lambda: 3, LOSS, DATA.hessian)
    with pytest.raises(TypeError, match=r"got one itself, Sequential\(…\): give the class, or lambda: network"):
        own_problem(small_model(), LOSS, DATA.hessian)
    with pytest.raises(ValueError, match="the loss of a batch is a scalar tensor"):
        own_problem(small_model, lambda output, target: output, DATA.hessian)
    with pytest.raises(ValueError, match="reduction='none' and gives no scalar"):
        own_problem(small_model, nn.CrossEntropyLoss(reduction="none"), DATA.hessian)
    with pytest.raises(TypeError, match=r"optimizer is a function that makes a torch.optim.Optimizer .*, made None"):
        own(optimizer=lambda parameters: None)
    with pytest.raises(TypeError, match="LBFGS evaluates the loss several times a step"):
        own(optimizer=torch.optim.LBFGS)
    with pytest.raises(ValueError, match="parameters without shapes, of lazy modules: let model run it once"):
        own_problem(lambda: nn.LazyLinear(3), LOSS, DATA.hessian)
    with pytest.raises(TypeError, match="got an Objective: a CurvatureRecorder takes those"):
        own_problem(small_model, es.Objective(lambda model, batch: model(batch[0]).mean()), DATA.hessian)


def study(directory, *arguments, options=None, **changes):
    """The last record of one of 2 steps, with the eigenvalues of the dense Hessian beside those found."""
    arguments = arguments or (small_model, LOSS)
    given = {"hessian": DATA.hessian, "train": DATA.train, "batch_size": 10, "record_every": 2, "k": 3}
    chosen = {"k": 3, "steps": 2, "dtype": "float64", "exact": True, "compare": False, **(options or {})}
    problem = own_problem(*arguments, **{**given, **changes})
    results = OverlapStudy(problem, StudyOptions(**chosen), directory / "study").run()
    record = results["records"][-1]
    # Float64, to the tolerance of the solver.
    assert record["eigenvalues"] == pytest.approx(record["exact"]["eigenvalues"], abs=1e-8)
    return record


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
WEIGHTED = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS)


@pytest.mark.parametrize(
    "loss",
    [
        WEIGHTED,
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS.half()),  # which the network, in float32 to begin with, is not
        functools.partial(nn.functional.cross_entropy, weight=CLASS_WEIGHTS),
        es.Loss(WEIGHTED, lambda output, target: float(CLASS_WEIGHTS[target].sum())),
        nn.CrossEntropyLoss(ignore_index=0),
        nn.CrossEntropyLoss(reduction="sum"),
        es.Loss(lambda output, target: nn.functional.cross_entropy(output, target, reduction="sum"), reduction="sum"),
    ],
)
def test_a_loss_is_that_of_the_whole_batch_in_whichever_parts_and_dtype(tmp_path, loss):
    """Class weights are float32, and the study is in float64; the parts have other class weights each."""

    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=1e-3)

    plan = HessianPlan(micro_batch_size=7)
    record = study(tmp_path, small_model, loss, plan=plan, optimizer=optimizer)
    whole = study(tmp_path / "whole", small_model, loss, optimizer=optimizer)
    assert record["loss"] == pytest.approx(whole["loss"], rel=1e-12)
    assert record["eigenvalues"] == pytest.approx(whole["eigenvalues"], abs=1e-8)


def test_integers_of_numpy_are_integers(tmp_path):
    chosen = {name: numpy.int64(value) for name, value in {"k": 3, "steps": 2, "seed": 0}.items()}
    assert study(tmp_path, options=chosen)["eigenvalues"] == study(tmp_path / "own")["eigenvalues"]


def rectified():
    """Of the same parameters, and another function of them."""
    network = small_model()
    network[1] = nn.ReLU()
    return network


def test_a_folder_does_not_go_on_with_another_network_or_optimiser(tmp_path):
    found = study(tmp_path)
    faster = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0)}
    for model, changes in ((rectified, {}), (small_model, faster)):
        with pytest.raises(ValueError, match="is of another training"):
            study(tmp_path, model, LOSS, **changes)
    same = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1)}  # as by default
    assert study(tmp_path, lambda: small_model().eval(), LOSS, **same) == found


class Squeezed(nn.Linear):
    """Its output has no dimension of samples for one sample."""

    def forward(self, inputs):
        return super().forward(inputs).squeeze()


class Slashed(nn.Module):
    """A tensor with a slash in its name, and one without entries."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"points/3": small_model()})
        self.nothing = nn.Parameter(torch.empty(0))

    def forward(self, inputs):
        return self.parts["points/3"](inputs)


def pruned():
    network = small_model()
    prune.l1_unstructured(network[0], "weight", 0.5)
    return network


def test_networks_that_are_seldom(tmp_path):
    labels = (DATA.train[1] > 0).double()
    study(
        tmp_path / "squeezed",
        lambda: Squeezed(4, 1),
        nn.BCEWithLogitsLoss(),
        train=(DATA.train[0], labels),
        hessian={"train": (DATA.train[0], labels)},
    )
    study(tmp_path / "slashed", Slashed, LOSS, options={"compare": True})
    study(tmp_path / "pruned", pruned, LOSS)
    network = pruned()
    study(tmp_path / "given", lambda: network, LOSS)


def test_a_random_network_says_so(tmp_path):
    class Noisy(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs + torch.randn_like(inputs))

    with pytest.raises(ValueError, match="or the network or the loss draws random numbers"):
        study(tmp_path, lambda: Noisy(4, 3), LOSS)


def test_a_loss_that_is_no_number_from_the_beginning_is_no_divergence(tmp_path):
    ignored = torch.full_like(DATA.train[1], -100)
    with pytest.raises(ValueError, match=r"the losses are \{'train': nan\} before any training"):
        study(tmp_path, hessian={"train": (DATA.train[0], ignored)})


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (own(train=None), {"steps": 2}, "nothing to train on: give train="),
        (own(hessian={"train": DATA.hessian["train"]}), {"steps": 0}, "no test batch to decompose.*compare=False"),
    ],
)
def test_studies_that_it_has_no_data_for_are_refused(problem, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        OverlapStudy(problem, StudyOptions(k=2, **options), tmp_path / "study")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The folder of a module, that the command is run in."""
    (tmp_path / "points.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "save_figures", lambda results, directory: [])
    yield tmp_path
    sys.modules.pop("points", None)


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["points:problem", "points:make"])
def test_the_command_takes_a_module_of_this_folder(module, name):
    result = run("study", name)
    assert result.exit_code == 0, result.output
    folder = module / "runs" / name.replace(":", "-")
    found = json.loads((folder / "results.json").read_text())
    assert found["study"] == name
    assert len(found["records"][0]["eigenvalues"]) == 4
    assert run("resume", folder).exit_code == 0


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing:problem", "No module named 'missing', neither in this folder, "),
        ("points:missing", "points has no 'missing'"),
        ("points:", "problem of my_module.py in this folder is my_module:problem"),
        ("./points.py:problem", "problem of my_module.py in this folder is my_module:problem"),
        ("points.py:problem", "problem of my_module.py in this folder is my_module:problem"),
        ("points:other", "expected a Problem, as eigenspan.studies.own_problem makes"),
    ],
)
def test_what_is_no_problem_is_an_error_of_one_line(name, message):
    result = run("study", name)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("own_problem(nothing=1)", "the module points ends with TypeError: own_problem() got an unexpected keyword"),
        ("import no_such_module", "the module points ends with ModuleNotFoundError: No module named 'no_such_module'"),
        ("from torch import nothing", "the module points ends with ImportError: cannot import name 'nothing'"),
    ],
)
def test_a_module_that_fails_is_not_taken_for_one_that_is_missing(module, line, message):
    (module / "points.py").write_text(f"{MODULE}\n{line}\n")
    result = run("study", "points:problem")
    assert result.exit_code == 2
    output = " ".join(result.output.split())
    assert message in output
    assert "eigenspan --traceback before the command shows where" in output
    assert "MODULE:NAME" not in output


def test_a_study_of_a_module_goes_on_only_where_that_is(module, monkeypatch):
    assert run("study", "points:problem").exit_code == 0
    monkeypatch.chdir(module / "runs")
    sys.modules.pop("points")
    result = run("resume", "points-problem")
    assert result.exit_code == 2
    assert "call the command where points is" in " ".join(result.output.split())


def test_a_class_that_is_none_is_an_error_of_one_line(module):
    (module / "points.py").write_text(MODULE.replace("network =", "targets[30] = 7\nnetwork ="))
    result = run("study", "points:problem")
    assert result.exit_code == 1
    assert "eigenspan: Target 7 is out of bounds." in " ".join(result.output.split())


def test_its_name_is_how_it_is_found(module):
    assert isinstance(find_problem("points:problem"), Problem)
    assert find_problem("points:problem").name == "points:problem"


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]), ignore_index=1, label_smoothing=0.2),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda output, target: nn.functional.cross_entropy(output, target, label_smoothing=0.1),
    ],
    ids=["weights", "sum", "function"],
)
def test_the_loss_is_that_of_the_whole_batch_however_it_is_cut(tmp_path, loss):
    """Parts weigh by their classes, not by their samples; float32, to a few roundings of sums of twenty."""
    torch.manual_seed(2)
    network = small_model()
    plan = HessianPlan(micro_batch_size=7)
    problem = own_problem(lambda: network, loss, {"train": DATA.hessian["train"]}, k=2, plan=plan)
    results = OverlapStudy(problem, StudyOptions(k=2, steps=0, compare=False), tmp_path / "study").run()
    inputs, targets = DATA.hessian["train"]
    assert results["records"][0]["loss"] == pytest.approx(float(loss(network(inputs), targets).detach()), rel=1e-5)
