"""The callback for Lightning: the steps it records, and a training that goes on as if it were not there."""

import copy
import json
import logging
import types

import curvature_cases as cases
import pytest
import torch
from study_cases import small_data
from torch import nn

import eigenspan as es

lightning = pytest.importorskip("lightning", reason="lightning is not installed: pip install 'eigenspan[lightning]'")

from eigenspan.studies.lightning import CurvatureCallback  # noqa: E402 - needs it

DATA = small_data()
LOSS = nn.CrossEntropyLoss()
# Of Lightning itself: the loader has one worker as the machine has two cores, and PyTorch's names that it still uses.
pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Module(lightning.LightningModule):
    """With all that differs between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.3), nn.Linear(3, 3))
        self.modes = []

    def forward(self, inputs):
        return self.layers(inputs)

    def training_step(self, batch, batch_idx):
        self.modes.append(self.training)
        inputs, targets = batch
        return LOSS(self(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


def fit(directory, callbacks, module=None, epochs=2, checkpoint=None, **options):
    """Eight steps of ten samples each, from the same seed."""
    torch.manual_seed(7)
    module = Module() if module is None else module
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*DATA.train), batch_size=10, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        **options,
    )
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module, trainer


def recorded(directory):
    return json.loads((directory / "results.json").read_text())["records"]


@pytest.mark.parametrize(
    ("schedule", "steps"), [({"every": 3}, [0, 3, 6]), ({"steps": [8, 1]}, [1, 8])], ids=["every", "steps"]
)
def test_it_records_at_these_steps(tmp_path, schedule, steps):
    fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", k=4, **schedule)])
    assert [record["step"] for record in recorded(tmp_path / "curvature")] == steps
    assert (tmp_path / "curvature" / "report.html").exists()


def test_the_last_record_is_of_the_network_that_was_trained(tmp_path):
    """Beside the dense Hessian in float32, to 1e-5 of the largest eigenvalue."""
    module, _ = fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", steps=[8], k=4)])
    (record,) = recorded(tmp_path / "curvature")
    values = torch.linalg.eigvalsh(es.Hessian(copy.deepcopy(module).eval(), LOSS, DATA.train).to_dense())
    expected = values[values.abs().argsort(descending=True)][:4].tolist()
    assert record["eigenvalues"] == pytest.approx(expected, abs=1e-5 * abs(expected[0]))
    inputs, targets = DATA.train
    assert record["loss"] == pytest.approx(float(LOSS(module.eval()(inputs), targets).detach()), rel=1e-6)


def test_the_training_is_bit_for_bit_the_same(tmp_path):
    plain, _ = fit(tmp_path, [])
    module, _ = fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=1, k=4)])
    assert len(recorded(tmp_path / "curvature")) == 9
    assert module.modes == [True] * 8
    for (name, ours), theirs in zip(module.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_accumulated_batches_are_one_step(tmp_path):
    callback = CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=1, k=2)
    fit(tmp_path, [callback], accumulate_grad_batches=2)
    assert [record["step"] for record in recorded(tmp_path / "curvature")] == [0, 1, 2, 3, 4]


def test_a_training_that_is_resumed_goes_on(tmp_path):
    def callback():
        return CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=2, k=2)

    _, trainer = fit(tmp_path, [callback()], epochs=1)
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    first = recorded(tmp_path / "curvature")
    fit(tmp_path, [callback()], checkpoint=tmp_path / "trained.ckpt")
    records = recorded(tmp_path / "curvature")
    assert [record["step"] for record in records] == [0, 2, 4, 6, 8]
    assert [record["eigenvalues"] for record in records[:2]] == [record["eigenvalues"] for record in first[:2]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_recorded_before_a_training_failed_has_a_report(tmp_path, error):
    class Fails(Module):
        def training_step(self, batch, batch_idx):
            if self.global_step == 5:
                raise error
            return super().training_step(batch, batch_idx)

    with pytest.raises((error, SystemExit)):  # Lightning leaves by the latter when it is interrupted
        fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=2, k=2)], Fails())
    assert [record["step"] for record in recorded(tmp_path / "curvature")] == [0, 2, 4]
    assert (tmp_path / "curvature" / "report.html").exists()


def test_a_module_without_a_second_derivative_trains_to_the_end(tmp_path, caplog):
    squared = Module()
    squared.layers[2] = cases.Applied(cases.Once.apply)
    module, trainer = fit(
        tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=1, k=2)], squared
    )
    assert trainer.global_step == len(module.modes) == 8
    warned = [entry for entry in caplog.records if entry.name == "eigenspan" and entry.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert "is not recorded: at step 0" in warned[0].message
    assert not (tmp_path / "curvature" / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "at least 1; got 0"),
        ({"steps": [1], "data": []}, "no data"),
        ({"every": 1, "k": 0}, "at least 1"),
    ],
)
def test_wrong_schedules_data_and_options_are_refused_at_once(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        CurvatureCallback(LOSS, **{"data": DATA.train, "directory": tmp_path / "curvature", **changes})


def test_what_does_not_go_with_the_module_ends_the_fit_before_its_first_step(tmp_path):
    module = Module()
    with pytest.raises(ValueError, match="number of parameters, 33; got 40"):
        fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=1, k=40)], module)
    assert module.modes == []


def test_another_training_in_the_folder_ends_the_fit_before_its_first_step(tmp_path):
    fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path, every=8, k=2)])
    module = Module()
    with pytest.raises(ValueError, match="holds another study"):
        fit(tmp_path, [CurvatureCallback(LOSS, DATA.train, tmp_path, every=8, k=2)], module)
    assert module.modes == []


def test_only_the_first_rank_records(tmp_path):
    callback, module = CurvatureCallback(LOSS, DATA.train, tmp_path / "curvature", every=1, k=2), Module()
    other = types.SimpleNamespace(is_global_zero=False, model=module, global_step=0)
    callback.on_train_start(other, module)
    callback.on_train_batch_end(other, module, None, None, 0)
    callback.on_train_end(other, module)
    assert not (tmp_path / "curvature").exists()
