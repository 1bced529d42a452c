"""Training: where it records, that it goes on bit for bit, and that nothing false is taken for a checkpoint of it."""

import math
import random
import zipfile

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from eigenspan.studies import training
from eigenspan.studies.problem import DataRequest, Problem, ProblemData
from eigenspan.studies.problems import find_problem
from eigenspan.studies.training import Checkpoint, train


def noisy_model():
    """Has all that a checkpoint must hold: parameters, buffers that change, and layers that draw random numbers."""
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 3))


def small_data(samples=33):
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(53, 4, generator=generator), torch.randint(0, 3, (53,), generator=generator)
    hessian = {"train": (inputs[:10], targets[:10]), "test": (inputs[40:], targets[40:])}
    return ProblemData(train=(inputs[:samples], targets[:samples]), hessian=hessian, description="random points")


SMALL = Problem(
    name="small",
    title="A small training",
    model=noisy_model,
    loss=nn.CrossEntropyLoss(),
    sources={"embedded": lambda request: small_data()},
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    batch_size=8,
    steps=10,
    record_every=3,
    k=4,
    table_k=(2, 4),
)
DATA = small_data()
PLAIN = attrs.evolve(SMALL, model=lambda: nn.Linear(4, 3))


def run(directory, problem=SMALL, data=DATA, **changes):
    settings = {"steps": 10, "record_every": 3, "seed": 0, "dtype": torch.float32, "device": "cpu", **changes}
    return train(problem, data, directory, **settings)


def state(checkpoint):
    return torch.load(checkpoint.path, map_location="cpu", weights_only=True)


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key in tree for leaf in leaves(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


def assert_same_states(ours, theirs):
    """Bit for bit, in everything that the files hold."""
    for left, right in zip(ours, theirs, strict=True):
        assert (left.step, left.losses) == (right.step, right.losses)
        pairs = list(zip(leaves(state(left)), leaves(state(right)), strict=True))
        assert len(pairs) > 20
        for a, b in pairs:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# -- what is recorded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "record_every", "expected"),
    [(0, 3, [0]), (6, 3, [0, 3, 6]), (7, 3, [0, 3, 6, 7]), (2, 3, [0, 2]), (2, 1, [0, 1, 2])],
)
def test_records_are_at_the_steps_asked_for(tmp_path, steps, record_every, expected):
    checkpoints = run(tmp_path / "new" / "folder", steps=steps, record_every=record_every)
    assert [checkpoint.step for checkpoint in checkpoints] == expected
    assert [state(checkpoint)["step"] for checkpoint in checkpoints] == expected
    files = {checkpoint.path.name for checkpoint in checkpoints}
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == files
    assert len(files) == len(expected)


def test_training_is_plain_sgd_over_permutations(tmp_path, device):
    """The same steps by hand: 4 batches of 8 from 33 samples an epoch, the last sample of the order dropped.

    Float64, and the same operations: 1e-12 allows for another order of sums.
    """
    dtype = torch.float64
    first, *_, last = run(tmp_path, PLAIN, dtype=dtype, device=device)
    model = first.restore(PLAIN, DATA, device="cpu")
    optimiser = PLAIN.optimizer(model.parameters())
    seen = []
    for step in range(10):
        epoch, position = divmod(step, 4)
        chosen = training._permutation(0, epoch, 33)[8 * position : 8 * position + 8]
        seen.append(chosen)
        optimiser.zero_grad()
        PLAIN.loss(model(DATA.train[0][chosen].to(dtype)), DATA.train[1][chosen]).backward()
        optimiser.step()
    trained = last.restore(PLAIN, DATA, device="cpu")
    for ours, theirs in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    epochs = [torch.cat(seen[start : start + 4]) for start in (0, 4)]
    assert all(len(epoch.unique()) == 32 for epoch in epochs)
    assert not torch.equal(*epochs)


def test_losses_are_those_of_the_hessian_batches_in_evaluation_mode(tmp_path):
    for checkpoint in run(tmp_path):
        model = noisy_model()
        model.load_state_dict(state(checkpoint)["model"])
        model.eval()
        for split, (inputs, targets) in DATA.hessian.items():
            # Closed form of the mean cross-entropy; float32 sums of ten terms.
            logits = model(inputs).detach().double()
            loss = (logits.logsumexp(1) - logits[torch.arange(len(targets)), targets]).mean()
            assert checkpoint.losses[split] == pytest.approx(float(loss), rel=1e-5)


def test_the_seed_sets_initialisation_and_order(tmp_path):
    assert_same_states(run(tmp_path / "a"), run(tmp_path / "b"))
    other = run(tmp_path / "c", seed=1)
    assert other[0].losses != run(tmp_path / "a")[0].losses
    assert not torch.equal(training._permutation(0, 0, 33), training._permutation(1, 0, 33))


def test_float64_starts_from_the_same_network(tmp_path):
    single, double = (run(tmp_path / str(dtype), steps=0, dtype=dtype)[0] for dtype in (torch.float32, torch.float64))
    pairs = list(zip(state(single)["model"].values(), state(double)["model"].values(), strict=True))
    assert all(torch.equal(a.double(), b.double()) for a, b in pairs)
    model = double.restore(SMALL, DATA, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_the_published_problem_learns(tmp_path):
    problem = find_problem("mnist16")
    data = problem.load(DataRequest())
    first, _, last = run(tmp_path, problem, data, steps=120, record_every=100)
    assert first.losses["train"] == pytest.approx(math.log(10), abs=0.05)  # ten classes, no knowledge yet
    assert last.losses["train"] < 1.9
    assert not last.restore(problem, data, device="cpu").training


# -- what is left alone -----------------------------------------------------------------------------------------------


def test_global_random_states_are_untouched(tmp_path, device):
    def draws():
        return torch.rand(3).tolist(), torch.rand(3, device=device).tolist(), np.random.rand(3), random.random()  # noqa: NPY002

    def seed():
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002
        random.seed(7)

    seed()
    expected = draws()
    seed()
    *_, last = run(tmp_path, device=device)
    last.restore(SMALL, DATA, device=device)
    for ours, theirs in zip(draws(), expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_it_trains_under_no_grad_and_shows_a_bar_only_if_asked(tmp_path, capsys):
    with torch.no_grad():
        silent = run(tmp_path / "a")
    assert capsys.readouterr().err == ""
    assert_same_states(silent, run(tmp_path / "b", progress=True))
    assert "10/10" in capsys.readouterr().err


# -- going on ---------------------------------------------------------------------------------------------------------


def cut_after(monkeypatch, count):
    """Makes training stop, as by Ctrl-C, after so many steps."""
    advance, taken = training._Run.advance, []

    def interrupted(self):
        if len(taken) == count:
            raise KeyboardInterrupt
        taken.append(None)
        advance(self)

    monkeypatch.setattr(training._Run, "advance", interrupted)


@pytest.mark.parametrize("count", [0, 2, 3, 5, 9])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path, monkeypatch, device, count):
    whole = run(tmp_path / "whole", device=device)
    with monkeypatch.context() as patch:
        cut_after(patch, count)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", device=device)
    assert len(list((tmp_path / "cut").iterdir())) == count // 3 + 1
    assert_same_states(run(tmp_path / "cut", device=device), whole)


def test_an_interrupted_write_leaves_no_checkpoint(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    save = torch.save

    def interrupted(content, path):
        save(content, path)
        if content["step"] == 3:
            path.write_bytes(path.read_bytes()[:500])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step-000000.pt"]
    assert_same_states(run(tmp_path / "cut"), whole)


def test_more_steps_go_on_and_records_do_not_matter(tmp_path):
    """Fewer or more checkpoints on the way lead to the same end; a missing one in the middle is made again."""
    whole = run(tmp_path / "whole")
    run(tmp_path / "longer", steps=6)
    assert_same_states(run(tmp_path / "longer"), whole)
    assert_same_states(run(tmp_path / "ends", record_every=100), [whole[0], whole[-1]])
    whole[1].path.unlink()
    assert_same_states(run(tmp_path / "whole"), run(tmp_path / "longer"))


def test_a_complete_training_is_not_run_again(tmp_path, monkeypatch):
    first = run(tmp_path)
    times = [checkpoint.path.stat().st_mtime_ns for checkpoint in first]
    cut_after(monkeypatch, 0)
    assert run(tmp_path) == first
    assert run(tmp_path, steps=6) == first[:3]
    assert [checkpoint.path.stat().st_mtime_ns for checkpoint in first] == times


# -- restoring --------------------------------------------------------------------------------------------------------


def test_restore_gives_the_network_in_evaluation_mode(tmp_path, device):
    for checkpoint in run(tmp_path, device=device):
        model = checkpoint.restore(SMALL, DATA, device=device)
        assert not any(module.training for module in model.modules())
        assert {parameter.device.type for parameter in model.parameters()} == {device}
        assert int(model[1].num_batches_tracked) == checkpoint.step
        saved = state(checkpoint)["model"]
        assert all(torch.equal(tensor.cpu(), saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["0.weight", "4.bias", "1.running_mean"])
def test_restore_detects_a_changed_parameter_or_buffer(tmp_path, name):
    last = run(tmp_path)[-1]
    content = state(last)
    content["model"][name].view(-1)[0] += 0.1
    torch.save(content, last.path)
    with pytest.raises(ValueError, match="another network"):
        last.restore(SMALL, DATA, device="cpu")


def test_restore_detects_other_losses_data_problems_and_steps(tmp_path):
    first, *_, last = run(tmp_path)
    wrong = attrs.evolve(last, losses=last.losses | {"test": last.losses["test"] * 1.001})
    for checkpoint, problem, data, message in (
        (wrong, SMALL, DATA, "another network, or the data"),
        (attrs.evolve(last, losses={"train": last.losses["train"]}), SMALL, DATA, "another network, or the data"),
        (last, SMALL, attrs.evolve(DATA, hessian={**DATA.hessian, "test": DATA.train}), "another network, or the data"),
        (last, attrs.evolve(SMALL, name="other"), DATA, "'small', not step 10 of 'other'"),
        (Checkpoint(10, first.path, first.losses), SMALL, DATA, "step 0 of 'small', not step 10"),
        (last, attrs.evolve(SMALL, model=lambda: nn.Sequential(nn.Linear(4, 3))), DATA, "of another network"),
    ):
        with pytest.raises(ValueError, match=message):
            checkpoint.restore(problem, data, device="cpu")


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    """Empty, of another kind, or truncated: neither training nor restoring takes it."""
    checkpoint = run(tmp_path)[1]
    whole = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    for action in (lambda: run(tmp_path), lambda: checkpoint.restore(SMALL, DATA, device="cpu")):
        with pytest.raises(ValueError, match=r"step-000003\.pt is damaged or of another kind .* remove it"):
            action()
    checkpoint.path.unlink()
    assert run(tmp_path)[1] == checkpoint


@pytest.mark.parametrize("part", ["data.pkl", "data/0"])
def test_a_flipped_bit_is_a_damaged_checkpoint(tmp_path, part):
    """The last bit of a weight changes no loss by much, and a letter of the name of a field leaves a valid pickle."""
    checkpoint = run(tmp_path)[1]
    content = bytearray(checkpoint.path.read_bytes())
    with zipfile.ZipFile(checkpoint.path) as archive:
        (stored,) = [archive.read(name) for name in archive.namelist() if name.endswith(f"/{part}")]
    place = content.index(stored) + (stored.index(b"optimiser") if part == "data.pkl" else 0)
    content[place] ^= 1
    checkpoint.path.write_bytes(content)
    for action in (lambda: run(tmp_path), lambda: checkpoint.restore(SMALL, DATA, device="cpu")):
        with pytest.raises(ValueError, match=r"step-000003\.pt is damaged or of another kind .* remove it"):
            action()


def test_checkpoints_without_checksums_are_read(tmp_path):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        checkpoints = run(tmp_path)
    finally:
        torch.serialization.set_crc32_options(computed)
    assert run(tmp_path) == checkpoints


@pytest.mark.parametrize("content", [{"model": {}}, torch.zeros(2), [1]])
def test_a_foreign_file_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "step-000000.pt")
    with pytest.raises(ValueError, match=r"no checkpoint of this version|expected a dict: remove it"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed 0 -> 1"),
        ({"dtype": torch.float64}, "dtype float32 -> float64"),
        ({"problem": attrs.evolve(SMALL, name="other")}, "problem small -> other"),
        ({"problem": attrs.evolve(SMALL, batch_size=4)}, "batch_size 8 -> 4"),
        ({"data": attrs.evolve(DATA, description="other points")}, "data random points -> other points"),
    ],
)
def test_checkpoints_of_another_training_are_refused(tmp_path, changes, message):
    run(tmp_path)
    with pytest.raises(ValueError, match=rf"another training \({message}\)"):
        run(tmp_path, **changes)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    checkpoints = run(tmp_path)
    checkpoints[1].path.replace(checkpoints[2].path)
    checkpoints[1].path.write_bytes(checkpoints[2].path.read_bytes())
    with pytest.raises(ValueError, match=r"step 3 -> 6"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps is at least 0"),
        ({"record_every": 0}, "record_every is at least 1"),
        ({"seed": -1}, "seed is at least 0"),
        ({"data": small_data(samples=7)}, "a batch of 8 is more than the 7 training samples"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_a_divergence_is_reported(tmp_path):
    problem = attrs.evolve(PLAIN, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=math.inf))
    with pytest.raises(ValueError, match="diverged: at step 3"):
        run(tmp_path, problem)


def test_a_directory_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file" / "checkpoints")
