"""The problem imagenet-resnet18: the published settings, its folder, and the study on a network of few parameters."""

import json
import re

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from eigenspan.studies import cli, images, problems, report
from eigenspan.studies.imagenet import IMAGENET_RESNET18
from eigenspan.studies.problem import DataRequest, HessianPlan
from eigenspan.studies.solves import StepSolver
from eigenspan.studies.training import train

FAKE = {"source": "fake", "hessian_samples": 5, "image_size": 32, "training": False}


def small_network():
    """With BatchNorm and as many classes, and 4,081 parameters instead of eleven millions."""
    return nn.Sequential(
        *(nn.Conv2d(3, 3, 3, stride=2, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000)),
    )


SMALL = attrs.evolve(
    IMAGENET_RESNET18,
    model=small_network,
    batch_size=20,
    table_k=(2, 3),
    plan=HessianPlan(engine="retained", micro_batch_size=2, chunk_size=1),
)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The layout of ImageNet with one small image for each class and split."""
    folder = tmp_path_factory.mktemp("imagenet")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for split, suffix in (("train", "png"), ("val", "JPEG")):
        for rank in range(1000):
            directory = folder / split / f"n{rank:08d}"
            directory.mkdir(parents=True)
            Image.fromarray(np.roll(pixels, rank, axis=0)).save(directory / f"image.{suffix}")
    return folder


@pytest.fixture
def study(monkeypatch, tmp_path):
    """Runs the command on the small network, without figures."""
    monkeypatch.setitem(problems.PROBLEMS, "imagenet-resnet18", SMALL)
    monkeypatch.setattr(report, "save_figures", lambda results, directory: [])
    out = tmp_path / "out"

    def run(*options, k=3):
        arguments = ["study", "imagenet-resnet18", "--out", out, "--k", k, "--hessian-samples", 5, *options]
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        result.results = json.loads((out / "results.json").read_text()) if result.exit_code == 0 else None
        return result

    run.out = out
    return run


def test_the_settings_are_the_published_ones():
    problem = IMAGENET_RESNET18
    with torch.device("meta"):
        parameters = list(problem.model().parameters())
    assert sum(parameter.numel() for parameter in parameters) == 11_689_512
    (group,) = problem.optimizer(parameters).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0, 0)
    assert (problem.batch_size, problem.k, problem.hessian_samples, problem.split) == (150, 1500, 5000, "test")


def test_buffers_of_the_real_network_are_in_the_checkpoint_and_checked(tmp_path):
    problem, data = IMAGENET_RESNET18, IMAGENET_RESNET18.load(DataRequest(**FAKE)).kept(tmp_path)
    settings = {"steps": 0, "record_every": 1, "seed": 0, "dtype": torch.float32, "device": "cpu"}
    (checkpoint,) = train(problem, data, tmp_path, **settings)
    assert not checkpoint.restore(problem, data, device="cpu").training
    state = torch.load(checkpoint.path, weights_only=True)
    state["model"]["bn1.running_var"] *= 1.1
    torch.save(state, checkpoint.path)
    losses = rf"the losses \{{'train': [\d.]+, 'test': [\d.]+\}}.*, but had \{{'train': {checkpoint.losses['train']}"
    with pytest.raises(ValueError, match=losses):
        checkpoint.restore(problem, data, device="cpu")
    buffers = {name for name, _ in problem.model().named_buffers()}
    state["model"] = {name: values for name, values in state["model"].items() if name not in buffers}
    torch.save(state, checkpoint.path)
    with pytest.raises(ValueError, match=rf"lacks the buffers bn1.running_mean, .* and 34 more.*{losses}"):
        checkpoint.restore(problem, data, device="cpu")
    with pytest.raises(ValueError, match="lacks the buffers bn1"):
        train(problem, data, tmp_path, **settings)


def test_fake_data_are_seeded_and_say_what_they_are():
    one, two, other = (IMAGENET_RESNET18.load(DataRequest(**FAKE, seed=seed)) for seed in (0, 0, 1))
    indices = torch.arange(5)
    images_of = [data.hessian["test"][0][indices] for data in (one, two, other)]
    assert images_of[0].shape == (5, 3, 32, 32)
    assert torch.equal(images_of[0], images_of[1])
    assert not torch.equal(images_of[0], images_of[2])
    assert not torch.equal(images_of[0], one.hessian["train"][0][indices])
    assert "No ImageNet images" in one.description
    assert IMAGENET_RESNET18.load(DataRequest(source="fake")).hessian["test"][0].size == 224


def test_the_hessian_is_of_the_first_images_of_each_class_by_torchvisions_preprocessing(root):
    from torchvision.transforms import functional

    data = IMAGENET_RESNET18.load(DataRequest(root=root, hessian_samples=3, splits=("test",)))
    inputs, targets = data.hessian["test"]
    assert targets.tolist() == [0, 1, 2]
    assert [path.parent.name for path in inputs.paths] == ["n00000000", "n00000001", "n00000002"]
    assert len(data.train[0]) == len(data.train[1]) == 1000
    # The steps by name: to 256 pixels, the middle 224, to [0, 1], and the means and deviations of ImageNet.
    with Image.open(root / "val" / "n00000001" / "image.JPEG") as image:
        cropped = functional.center_crop(functional.resize(image.convert("RGB"), 256), 224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 255 - mean) / std
    torch.testing.assert_close(inputs[torch.tensor([1])][0], expected)
    with pytest.raises(ValueError, match="at least 2 samples of class 0, got 1"):
        IMAGENET_RESNET18.load(DataRequest(root=root, hessian_samples=1001))


def test_training_data_are_needed_only_for_training(tmp_path, root):
    (tmp_path / "val").symlink_to(root / "val")
    request = DataRequest(root=tmp_path, hessian_samples=3, splits=("test",), training=False)
    assert list(IMAGENET_RESNET18.load(request).hessian) == ["test"]
    with pytest.raises(FileNotFoundError, match=r"train is no folder: expected .* 1,000 classes"):
        IMAGENET_RESNET18.load(attrs.evolve(request, training=True))
    (tmp_path / "train").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    for path in (root / "train").iterdir():
        (tmp_path / "other" / path.name.replace("n00000999", "n1")).symlink_to(path)
    with pytest.raises(ValueError, match=r"other classes than one another: n00000999, n1"):
        IMAGENET_RESNET18.load(attrs.evolve(request, training=True))


def test_a_study_on_a_folder_decodes_once(study, root, monkeypatch):
    options = ("--data-root", root, "--steps", 0, "--no-compare", "--solver", "sketched")
    first = study(*options, k=1)
    assert first.exit_code == 0, first.output
    assert first.results["options"]["data"] == "folder"
    assert first.results["title"] == "ResNet-18 for ImageNet"
    assert "image-net.org" in first.results["attribution"]
    assert np.load(study.out / "decoded" / "test.npy").shape == (5, 3, 224, 224)
    monkeypatch.setattr(images.ImageFiles, "__getitem__", lambda *_: pytest.fail("decoded again"))
    (study.out / "records" / "00000000-test.json").unlink()
    again = study(*options, k=1)
    assert again.results["records"][0]["eigenvalues"] == first.results["records"][0]["eigenvalues"]


def test_a_study_on_fake_data_trains_and_does_not_mix_with_a_real_one(study, root):
    options = ("--data", "fake", "--image-size", 32)
    result = study(*options, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert [record["step"] for record in result.results["records"]] == [0, 1]
    assert result.results["title"] == "ResNet-18 for ImageNet (generated images, not ImageNet)"
    page = (study.out / "report.html").read_text(encoding="utf-8")
    assert page.count("No ImageNet images") >= 2
    assert "generated images, not ImageNet" in page
    refused = study("--data-root", root, "--steps", 1)
    assert refused.exit_code == 2
    assert "data fake -> folder" in refused.output
    assert study(*options, "--steps", 1, "--split", "train").exit_code == 2
    # Defaults are written out: to give them changes nothing.
    assert study(*options, "--steps", 1, "--split", "test").exit_code == 0


def test_micro_batches_do_not_change_the_hessian(study, monkeypatch):
    """Of five images at once and by twos; eigenvalues agree to the solver's residuals, losses to float64 rounding."""
    options = ("--data", "fake", "--image-size", 32, "--steps", 0, "--dtype", "float64")
    parts = study(*options).results["records"][0]
    for path in sorted(study.out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    at_once = attrs.evolve(SMALL, plan=HessianPlan(engine="retained"))
    monkeypatch.setitem(problems.PROBLEMS, "imagenet-resnet18", at_once)
    whole = study(*options).results["records"][0]
    assert parts["eigenvalues"] == pytest.approx(whole["eigenvalues"], rel=1e-8)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-12)


def test_a_changed_running_statistic_is_refused_with_both_losses(study):
    options = ("--data", "fake", "--image-size", 32, "--steps", 0)
    noted = study(*options).results["records"][0]["loss"]
    (path,) = (study.out / "checkpoints").iterdir()
    state = torch.load(path, weights_only=True)
    state["model"]["1.running_var"] *= 4
    torch.save(state, path)
    (study.out / "records" / "00000000-test.json").unlink()
    result = study(*options)
    assert result.exit_code == 1
    found, before = re.search(r"losses \{'test': ([\d.]+)\}, but had \{'test': ([\d.]+)\}", result.output).groups()
    assert float(before) == pytest.approx(noted, rel=1e-5)  # float32
    assert float(found) != pytest.approx(noted, rel=1e3 * torch.finfo(torch.float32).eps)  # what restoring allows


def test_a_hessian_of_another_loss_than_the_checkpoint_is_refused(study, monkeypatch):
    operator = StepSolver.operator

    def changed(self, kind, model, split):
        model[1].running_var *= 4
        return operator(self, kind, model, split)

    monkeypatch.setattr(StepSolver, "operator", changed)
    result = study("--data", "fake", "--image-size", 32, "--steps", 0)
    assert result.exit_code == 1
    assert re.search(r"losses \{'test': [\d.]+\}, but had \{'test': [\d.]+\}", result.output)
    assert not list((study.out / "records").iterdir())
    assert not (study.out / "unfinished").exists()  # no product was made


def test_a_study_begins_with_given_weights(study, tmp_path):
    torch.manual_seed(7)
    network = small_network()
    network[1].running_mean.uniform_()
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    options = ("--data", "fake", "--image-size", 32, "--weights", tmp_path / "trained.pth")
    result = study(*options)
    assert result.exit_code == 0, result.output
    (record,) = result.results["records"]
    inputs, targets = IMAGENET_RESNET18.load(DataRequest(**FAKE)).hessian["test"]
    loss = nn.functional.cross_entropy(network.eval()(inputs[torch.arange(5)]), targets)
    assert record["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert "pre-trained" in result.results["title"]
    assert "weights of trained.pth, SHA-256 " in result.results["description"]
    torch.save(small_network().state_dict(), tmp_path / "trained.pth")  # another one under the same name
    refused = study(*options)
    assert refused.exit_code == 2
    assert "initial values weights of trained.pth" in refused.output


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (None, (), "No such file"),
        (b"garbage", (), "cannot be loaded"),
        ([1, 2], (), "holds no state dict"),
        ({"weight": torch.zeros(2)}, (), "of another network"),
        ({f"module.{name}": one for name, one in small_network().state_dict().items()}, (), "has 'module.' before"),
        ({}, ("--steps", 1), "takes 0 steps; got 1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(study, tmp_path, content, options, words):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    result = study("--data", "fake", "--image-size", 32, "--weights", path, *options)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert not study.out.exists()
