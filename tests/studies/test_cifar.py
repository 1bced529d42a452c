"""The problems on CIFAR: published networks and settings, and data in the files that torchvision reads."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import datasets
from torchvision.transforms import functional

from eigenspan.studies.problem import DataRequest
from eigenspan.studies.problems import find_problem

CLASSES = {"cifar10-3c3d": 10, "cifar100-allcnnc": 100}
FIRST = {"cifar10-3c3d": {"train": (40, 1), "test": (60, 6)}, "cifar100-allcnnc": {"train": (300, 7), "test": (200, 8)}}
SCALES = {
    "cifar10-3c3d": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100-allcnnc": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def pixels(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Small data sets in the files of the published ones, classes by turns."""
    root = tmp_path_factory.mktemp("cifar")
    ten, hundred = root / "cifar-10-batches-py", root / "cifar-100-python"
    files = {ten / f"data_batch_{i}": (40, i, "labels", 10) for i in range(1, 6)}
    files |= {ten / "test_batch": (60, 6, "labels", 10)}
    files |= {
        hundred / name: (count, seed, "fine_labels", 100) for name, count, seed in (("train", 300, 7), ("test", 200, 8))
    }
    for folder in (ten, hundred):
        folder.mkdir()
    for path, (count, seed, labels, classes) in files.items():
        entries = {"data": pixels(count, seed), labels: (np.arange(count) % classes).tolist()}
        path.write_bytes(pickle.dumps(entries, protocol=2))
    (ten / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}, protocol=2))
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}, protocol=2))
    return root


@pytest.fixture
def any_checksum(monkeypatch):
    """torchvision knows the checksums of the published files, which small ones do not have."""
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5=None: True)


@pytest.mark.parametrize(
    ("name", "parameters", "rate", "batch", "samples"),
    [("cifar10-3c3d", 895_210, 0.0226, 128, 500), ("cifar100-allcnnc", 1_387_108, 0.1658, 256, 1000)],
)
def test_the_settings_are_the_published_ones(name, parameters, rate, batch, samples):
    problem = find_problem(name)
    model = problem.model()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    (group,) = problem.optimizer(model.parameters()).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (rate, 0, 0)
    assert (problem.batch_size, problem.hessian_samples, problem.k) == (batch, samples, 1000)
    assert (problem.steps, problem.record_every) == (8000, 2000)
    model.eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, CLASSES[name])


def test_the_layers_are_those_of_the_published_networks():
    three = find_problem("cifar10-3c3d").model()
    sizes = [layer(torch.zeros(1, 3, 32, 32)).shape[1:] for layer in (three[:3], three[:6], three[:9])]
    assert sizes == [(64, 14, 14), (96, 6, 6), (128, 3, 3)]
    assert [layer.out_features for layer in three if isinstance(layer, nn.Linear)] == [512, 256, 10]
    convolutions = [layer for layer in find_problem("cifar100-allcnnc").model() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [96] * 3 + [192] * 5 + [100]
    assert [layer.kernel_size[0] for layer in convolutions] == [3] * 7 + [1] * 2
    assert [layer.stride[0] for layer in convolutions] == [1, 1, 2, 1, 1, 2, 1, 1, 1]


@pytest.mark.usefixtures("any_checksum")
@pytest.mark.parametrize("name", CLASSES)
def test_the_hessian_is_of_the_first_images_of_each_class(name, root):
    problem, classes = find_problem(name), CLASSES[name]
    data = problem.load(DataRequest(root=root, hessian_samples=classes + 3))
    for split in ("train", "test"):
        inputs, targets = data.hessian[split]
        assert targets.tolist() == [*range(classes), 0, 1, 2]
        image = torch.from_numpy(pixels(*FIRST[name][split])[2].reshape(3, 32, 32))
        torch.testing.assert_close(inputs[2], functional.normalize(image.float() / 255, *SCALES[name]))
    assert len(data.train[0]) == len(data.train[1]) == {"cifar10-3c3d": 200, "cifar100-allcnnc": 300}[name]
    assert data.train[0][torch.tensor([5, 7])].shape == (2, 3, 32, 32)
    assert "kriz" in data.attribution
    with pytest.raises(ValueError, match=r"at least \d+ samples of class 0"):
        problem.load(DataRequest(root=root, hessian_samples=classes * 30))


@pytest.mark.parametrize("name", CLASSES)
def test_other_files_are_refused(name, root, tmp_path):
    """An empty folder, and one whose files have other checksums than the published ones."""
    for folder in (tmp_path, root):
        with pytest.raises(FileNotFoundError, match=r"does not hold CIFAR-1.* expected .*cifar-1.* --download"):
            find_problem(name).load(DataRequest(root=folder))


@pytest.mark.usefixtures("any_checksum")
def test_test_images_are_enough_for_a_hessian_on_them(root, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in ("test_batch", "batches.meta"):
        (tmp_path / "cifar-10-batches-py" / name).symlink_to(root / "cifar-10-batches-py" / name)
    request = DataRequest(root=tmp_path, hessian_samples=10, splits=("test",), training=False)
    data = find_problem("cifar10-3c3d").load(request)
    assert list(data.hessian) == ["test"]
    assert len(data.train[1]) == 0


@pytest.mark.parametrize("name", CLASSES)
def test_fake_images_say_what_they_are(name):
    problem = find_problem(name)
    data = problem.load(DataRequest(source="fake"))
    inputs, targets = data.hessian["test"]
    assert (len(inputs), inputs[torch.tensor([0])].shape) == (problem.hessian_samples, (1, 3, 32, 32))
    assert targets.bincount().tolist() == [problem.hessian_samples // CLASSES[name]] * CLASSES[name]
    assert data.warning == f"generated images, not CIFAR-{CLASSES[name]}"
    with pytest.raises(ValueError, match="takes images of one size"):
        problem.load(DataRequest(source="fake", image_size=64))


def test_download_puts_the_files_where_they_are_looked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, **options: asked.append((root, options)))
    find_problem("cifar10-3c3d").fetch(tmp_path)
    assert asked == [(str(tmp_path), {"train": train, "download": True}) for train in (True, False)]
