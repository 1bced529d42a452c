"""Studies of checkpoints that somebody else's training left: loaded whole, checked, and decomposed like one's own."""

import json
import sys

import pytest
import torch
from study_cases import small_data
from torch import nn
from typer.testing import CliRunner

import eigenspan as es
from eigenspan.studies import OverlapStudy, StudyOptions, cli, own_problem, study_checkpoints
from eigenspan.studies import problem as problem_module
from eigenspan.studies.planning import plan_study

DATA = small_data()
BATCH = DATA.hessian["train"]
LOSS = nn.CrossEntropyLoss()


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3))


def loss_of(model):
    return float(LOSS(model.eval()(BATCH[0]), BATCH[1]).detach())


@pytest.fixture(scope="module")
def training():
    """States and losses of an own training at the steps 0, 3 and 6."""
    torch.manual_seed(5)
    model, states, losses = network(), {}, {}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs, targets = DATA.train
    for step in range(7):
        if step % 3 == 0:
            states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            losses[step] = loss_of(model)
        optimiser.zero_grad()
        LOSS(model.train()(inputs), targets).backward()
        optimiser.step()
    return states, losses


def study(directory, checkpoints, **changes):
    return study_checkpoints(network, LOSS, BATCH, checkpoints, directory, **{"k": 4, **changes})


def saved(directory, states):
    files = {step: directory / f"{step}.pt" for step in states}
    for step, file in files.items():
        torch.save(states[step], file)
    return files


@pytest.mark.parametrize("form", ["states", "files"])
def test_records_are_those_of_the_dense_hessian_of_each_state(tmp_path, training, form):
    """In float32, to 1e-5 of the largest eigenvalue."""
    states, losses = training
    given = states if form == "states" else saved(tmp_path, states)
    results = study(tmp_path / "study", given, losses=losses)
    assert [record["step"] for record in results["records"]] == [0, 3, 6]
    assert results["tracking"]["train"]["steps"] == [0, 3, 6]
    for record in results["records"]:
        model = network()
        model.load_state_dict(states[record["step"]])
        values = torch.linalg.eigvalsh(es.Hessian(model.eval(), LOSS, BATCH).to_dense())
        expected = values[values.abs().argsort(descending=True)][:4].tolist()
        assert record["eigenvalues"] == pytest.approx(expected, abs=1e-5 * abs(expected[0]))
        assert record["loss"] == pytest.approx(losses[record["step"]], rel=1e-6)


def test_a_list_has_the_steps_0_1_2(tmp_path, training):
    states, losses = training
    results = study(tmp_path / "study", list(states.values()), losses=list(losses.values()))
    assert [record["step"] for record in results["records"]] == [0, 1, 2]
    assert [record["loss"] for record in results["records"]] == pytest.approx(list(losses.values()), rel=1e-6)


def test_a_finished_study_is_not_run_again(tmp_path, training, monkeypatch):
    states, _ = training
    first = study(tmp_path / "study", states)
    monkeypatch.setattr(OverlapStudy, "_measure", lambda *_: pytest.fail("measured again"))
    assert study(tmp_path / "study", states) == first


def test_results_tell_states_from_others(tmp_path, training):
    """So that two studies of other states of the same steps are not taken for one and its rounding."""
    states, _ = training
    same, again, other = (
        study(tmp_path / name, {0: given})["description"]
        for name, given in (("same", states[0]), ("again", dict(states[0])), ("other", states[3]))
    )
    assert same == again != other


def test_other_states_in_the_folder_are_refused(tmp_path, training):
    states, _ = training
    study(tmp_path / "study", states)
    with pytest.raises(ValueError, match=r"step-000003.pt was made from another state: use another directory"):
        study(tmp_path / "study", {**states, 3: states[0]})
    with pytest.raises(ValueError, match=r"made from another data"):  # which steps there are is part of it
        study(tmp_path / "study", {0: states[0], 6: states[6]})


def test_fewer_steps_take_the_states_up_to_there(tmp_path, training):
    states, _ = training
    problem = own_problem(network, LOSS, {"test": BATCH}, checkpoints=states, k=3)
    options = StudyOptions(k=3, steps=4, split="test", compare=False)
    results = OverlapStudy(problem, options, tmp_path / "study").run()
    assert [record["step"] for record in results["records"]] == [0, 3]
    plan = plan_study(problem, StudyOptions(k=3, steps=6, split="test", compare=False))
    assert plan.records == 3


def test_each_state_that_has_a_record_is_hashed_once(tmp_path, training, monkeypatch):
    """Files of checkpoints may have gigabytes each, and those beyond the last step are not read at all."""
    files, hashed = saved(tmp_path, training[0]), []
    digest_of = problem_module.digest_of
    monkeypatch.setattr(problem_module, "digest_of", lambda state: hashed.append(state) or digest_of(state))
    problem = own_problem(network, LOSS, {"test": BATCH}, checkpoints=files, k=3)
    OverlapStudy(problem, StudyOptions(k=3, steps=4, split="test", compare=False), tmp_path / "study").run()
    assert hashed == [files[0], files[3]]


def test_a_file_without_its_buffers_is_refused_with_what_is_missing_and_both_losses(tmp_path, training):
    states, losses = training
    bare = {name: tensor for name, tensor in states[6].items() if "running" not in name}
    model = network()
    model.load_state_dict(bare, strict=False)
    with pytest.raises(ValueError, match=r"lacks the buffers 1.running_mean, 1.running_var: ") as raised:
        study(tmp_path / "study", saved(tmp_path, {0: states[0], 6: bare}), losses={6: losses[6]})
    assert str(tmp_path / "6.pt") in str(raised.value)
    assert f"was given the loss {losses[6]:.6g}" in str(raised.value)
    assert f"{loss_of(model):.4f}" in str(raised.value)
    assert not list((tmp_path / "study" / "records").iterdir())


def test_of_many_buffers_that_a_file_lacks_some_are_named_and_counts_of_batches_are_not_missed(tmp_path):
    def deep():
        return nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(5)), nn.Linear(4, 3))

    model = deep()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert study_checkpoints(deep, LOSS, BATCH, [state], tmp_path / "study", k=2, losses=[loss_of(model)])
    bare = {name: tensor for name, tensor in state.items() if "running" not in name}
    message = r"lacks the buffers 0.running_mean, .* 2.running_var and 4 more: with.* and was given the loss 1"
    with pytest.raises(ValueError, match=message):
        study_checkpoints(deep, LOSS, BATCH, [bare], tmp_path / "other", k=2, losses=[1.0])


def test_a_state_with_another_loss_is_refused_with_both(tmp_path, training):
    states, losses = training
    changed = {**states[3], "1.running_var": 4 * states[3]["1.running_var"]}
    model = network()
    model.load_state_dict(changed)
    found = rf"step 3 has the loss {loss_of(model):.6g} on train data, and {losses[3]:.6g} was given"
    with pytest.raises(ValueError, match=found):
        study(tmp_path / "study", {**states, 3: changed}, losses=losses)
    assert study(tmp_path / "other", states, losses={step: round(loss, 4) for step, loss in losses.items()})


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda state: {**state, "head.weight": torch.zeros(2)}, "is of another network"),
        (lambda state: {name: tensor for name, tensor in state.items() if name != "3.bias"}, "is of another network"),
        (lambda state: {**state, "3.bias": torch.full((3,), torch.nan)}, "has the losses .*nan.*leave it out"),
    ],
)
def test_states_that_do_not_fit_are_refused(tmp_path, training, state, words):
    with pytest.raises(ValueError, match=words):
        study(tmp_path / "study", [state(training[0][0])])


def test_a_tied_parameter_may_have_one_of_its_names_alone(tmp_path):
    """As in files of safetensors, which hold each tensor once."""

    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    model = tied()
    state = model.state_dict()
    del state["2.weight"]
    results = study_checkpoints(tied, LOSS, BATCH, [state], tmp_path / "study", k=2, losses=[loss_of(model)])
    assert results["parameters"]["names"] == ["0.weight", "0.bias", "2.bias"]
    with pytest.raises(ValueError, match="is of another network"):
        study_checkpoints(tied, LOSS, BATCH, [{"2.bias": state["2.bias"]}], tmp_path / "other", k=2)


def test_a_shared_module_may_have_one_of_its_names_alone(tmp_path):
    """Its buffers too."""

    def shared():
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
        return model.append(model[1])

    model = shared()
    model.train()(BATCH[0])
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("3.")}
    assert study_checkpoints(shared, LOSS, BATCH, [state], tmp_path / "study", k=2, losses=[loss_of(model)])


@pytest.mark.parametrize("name", ["0.weight", "0.running_mean", "0.num_batches_tracked"])
def test_a_tied_tensor_has_one_value(tmp_path, name):
    """PyTorch would take the last of several."""

    def tied():
        norm = nn.BatchNorm1d(4)
        return nn.Sequential(norm, nn.Tanh(), norm, nn.Linear(4, 3))

    state = tied().state_dict()
    other = name.replace("0.", "2.")
    with pytest.raises(ValueError, match=rf"has other values of {other} than of {name}, .* one tensor for both"):
        study_checkpoints(tied, LOSS, BATCH, [{**state, other: state[other] + 1}], tmp_path / "study", k=2)
    assert study_checkpoints(tied, LOSS, BATCH, [{**state, other: state[other].clone()}], tmp_path / "study", k=2)


def test_names_of_compiled_parts_are_those_of_the_network(tmp_path, training):
    """Of the state, of the network, or of both; in part, and in all of it."""
    states, losses = training
    compiled = [
        {name.replace("3.", "3._orig_mod."): tensor for name, tensor in states[3].items()},
        {f"_orig_mod.{name}": tensor for name, tensor in states[3].items()},
    ]
    for number, given in enumerate((*compiled, states[3])):
        for made in (network, in_part):
            results = study_checkpoints(
                made, LOSS, BATCH, {3: given}, tmp_path / f"{made.__name__}-{number}", k=2, losses={3: losses[3]}
            )
            assert results["parameters"]["names"] == [name for name, _ in network().named_parameters()]


def in_part():
    model = network()
    model[3] = torch.compile(model[3], backend="eager")
    return model


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_entries_of_another_kind_are_not_cast(tmp_path, training, dtype):
    """PyTorch would cut off decimals and imaginary parts in loading them."""
    state = {**training[0][0], "3.bias": training[0][0]["3.bias"].to(dtype)}
    match = rf"has 3.bias in {dtype}, and the network has it in torch.float32: convert it on purpose"
    with pytest.raises(ValueError, match=match):
        study(tmp_path / "study", [state])
    torch.save(state, tmp_path / "weights.pt")
    problem = own_problem(network, LOSS, {"train": BATCH})
    with pytest.raises(ValueError, match=match):
        problem.with_weights(tmp_path / "weights.pt")
    halved = {name: value.half() if value.is_floating_point() else value for name, value in training[0][0].items()}
    assert study(tmp_path / "half", [halved])  # real numbers of another precision are what they are


def test_what_is_on_the_meta_device_has_no_values(tmp_path):
    with torch.device("meta"):
        empty = network()
    with pytest.raises(ValueError, match="the checkpoint of step 0 is on the meta device"):
        study(tmp_path, [empty.state_dict()])
    with pytest.raises(ValueError, match="the network is on the meta device"):
        own_problem(lambda: empty, LOSS, {"train": BATCH})
    with pytest.raises(TypeError, match=r"parameters have values, but 0.weight is on the meta device"):
        es.Hessian(empty.eval(), LOSS, BATCH)


@pytest.mark.parametrize("prefix", ["module.", "net."])
@pytest.mark.parametrize("extra", [{}, {"loss.weight": torch.ones(3)}], ids=["alone", "among others"])
def test_names_behind_those_of_a_wrapper_come_with_code_that_mends_them(tmp_path, training, prefix, extra):
    states, _ = training
    state = {**{prefix + name: tensor for name, tensor in states[3].items()}, **extra}
    file = tmp_path / "wrapped.pt"
    torch.save(state, file)
    for given in (state, file):
        with pytest.raises(ValueError, match=f"has '{prefix}' before the names of the network") as raised:
            study(tmp_path / "study", [given])
    mended = eval("{" + str(raised.value).split(": take {")[1], {"state": state})
    assert mended.keys() == states[3].keys()
    assert all(torch.equal(mended[name], tensor) for name, tensor in states[3].items())


def test_keys_that_are_no_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="step 0 is no state dict: its keys are names of tensors, and one is 7"):
        study(tmp_path, [{7: torch.zeros(2)}])


def test_a_state_within_a_dict_is_pointed_at(tmp_path, training):
    state = {"epoch": torch.tensor(3), "model": training[0][0]}
    with pytest.raises(ValueError, match=r"step 0 is no state dict, .*take the one in it, such as state\['model'"):
        study(tmp_path / "study", [state])


def test_of_safetensors_it_is_said_who_reads_them(tmp_path, training):
    save_file = pytest.importorskip("safetensors.torch", reason="safetensors are not installed").save_file
    save_file(training[0][0], path := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors cannot be loaded .*by safetensors.torch.load_file; "):
        study(tmp_path / "study", [path])


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "cannot be loaded"), ({"epoch": 3, "state_dict": {}}, "but 'epoch', 'state_dict': ")]
)
def test_files_that_hold_no_state_dict_are_refused(tmp_path, content, found):
    path = tmp_path / "model.ckpt"
    torch.save(content, path) if content else path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"model.ckpt .*{found}.*expected a state dict, .*of another file give the dict"
    ):
        study(tmp_path / "study", [path])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"checkpoints": []}, ValueError, r"one or more, of steps from 0 on; got the steps \[\]"),
        ({"checkpoints": {-1: {}}}, ValueError, r"got the steps \[-1\]"),
        ({"checkpoints": {"0.weight": torch.zeros(2)}}, TypeError, r"'0.weight', as of a state dict: give \[state\]"),
        ({"checkpoints": {"0": "last.pt"}}, TypeError, "steps are integers, .*; got the key '0'$"),
        ({"checkpoints": [{}], "losses": {"0": 0.3}}, TypeError, "steps are integers, .*; got the key '0'$"),
        ({"checkpoints": [{}], "k": 5.0}, TypeError, "k is an integer, got 5.0"),
        ({"checkpoints": [network()]}, TypeError, "step 0 is a state dict, .* got Sequential"),
        ({"checkpoints": [None]}, TypeError, "got NoneType"),
        ({"checkpoints": "last.pt"}, TypeError, "a list of files, or a mapping by step; got one path, 'last.pt'"),
        ({"checkpoints": ["missing.pt"]}, FileNotFoundError, "the checkpoint of step 0, missing.pt, is missing"),
        (
            {"checkpoints": [{}], "losses": {1: 0.3}},
            ValueError,
            r"losses are those of the steps \[0\], got one of step 1",
        ),
        ({"losses": [0.3]}, ValueError, "losses are those of given checkpoints"),
        ({"checkpoints": [{}], "train": DATA.train}, ValueError, "in the place of training"),
    ],
)
def test_what_are_no_checkpoints_is_refused_at_once(changes, error, message):
    with pytest.raises(error, match=message):
        own_problem(network, LOSS, {"train": BATCH}, **changes)


def test_options_that_do_not_go_with_them_are_refused(tmp_path, training):
    states, _ = training
    problem = own_problem(network, LOSS, {"train": BATCH}, checkpoints={3: states[3], 6: states[6]})
    with pytest.raises(ValueError, match=r"checkpoints of the steps \[3, 6\], all beyond 2"):
        OverlapStudy(problem, StudyOptions(k=2, steps=2, compare=False), tmp_path / "study")
    (path,) = saved(tmp_path, {0: states[0]}).values()
    with pytest.raises(ValueError, match="leave out the weights of"):
        OverlapStudy(problem, StudyOptions(k=2, steps=0, weights=path, compare=False), tmp_path / "study")
    with pytest.raises(ValueError, match="split is 'train': leave it out"):
        study_checkpoints(network, LOSS, BATCH, {0: states[0]}, tmp_path / "study", k=2, split="test")


def test_the_command_takes_a_module_with_checkpoints(tmp_path, training, undrawn, monkeypatch):
    states, _ = training
    saved(tmp_path, states)
    torch.save(BATCH, tmp_path / "batch.pt")
    (tmp_path / "left.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from eigenspan.studies import own_problem\n"
        "network = lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3))\n"
        "files = {step: f'{step}.pt' for step in (0, 3, 6)}\n"
        "batch = {'train': torch.load('batch.pt')}\n"
        "problem = own_problem(network, nn.CrossEntropyLoss(), batch, checkpoints=files, k=4)\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        result = CliRunner().invoke(cli.app, ["study", "left:problem"])
        assert result.exit_code == 0, result.output
        results = json.loads((tmp_path / "runs" / "left-problem" / "results.json").read_text())
        assert [record["step"] for record in results["records"]] == [0, 3, 6]
        assert CliRunner().invoke(cli.app, ["resume", "runs/left-problem"]).exit_code == 0
    finally:
        sys.modules.pop("left", None)
