"""The problem mnist16: the network, its data and its training, as published."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eigenspan.studies import mnist16
from eigenspan.studies.data import Digits, embedded_digits
from eigenspan.studies.problem import DataRequest, balanced
from eigenspan.studies.problems import PROBLEMS, find_problem


@pytest.fixture(scope="module")
def data():
    return find_problem("mnist16").load(DataRequest())


def test_the_network_has_the_published_size():
    model = find_problem("mnist16").model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_030
    assert [layer.out_features for layer in model if isinstance(layer, nn.Linear)] == [20, 20, 20, 20, 20, 10]
    assert sum(isinstance(layer, nn.Tanh) for layer in model) == 5
    assert model(torch.zeros(3, 256)).shape == (3, 10)


def test_the_training_is_the_published_one():
    problem = find_problem("mnist16")
    (group,) = problem.optimizer(problem.model().parameters()).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.3, 0, 0, False)
    assert (problem.batch_size, problem.steps, problem.record_every, problem.k) == (500, 1000, 100, 355)
    outputs, targets = torch.zeros(4, 10), torch.tensor([1, 2, 3, 4])
    assert float(problem.loss(outputs, targets)) == pytest.approx(torch.tensor(10.0).log().item())


def test_the_hessian_batches_hold_50_of_each_class(data):
    assert set(data.hessian) == {"train", "test"}
    for inputs, targets in data.hessian.values():
        assert inputs.shape == (500, 256)
        assert targets.bincount().tolist() == [50] * 10


def test_the_batches_come_from_their_own_splits(data):
    digits = embedded_digits()
    images = {"train": digits.train_images, "test": digits.test_images}
    for split, (inputs, targets) in data.hessian.items():
        labels = digits.train_labels if split == "train" else digits.test_labels
        for label in range(10):
            first = images[split][labels == label][:50].flatten(1).float() / 255
            assert torch.equal(inputs[targets == label], first)
    known = {row.numpy().tobytes() for row in data.hessian["test"][0]}
    assert not known & {row.numpy().tobytes() for row in data.train[0]}


def test_inputs_are_pixels_between_0_and_1(data):
    inputs, targets = data.train
    assert inputs.shape == (10_000, 256)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
    assert "10,000" in data.description


def test_of_the_full_set_50_000_are_trained_on(tmp_path, monkeypatch):
    """100 steps of 500 are an epoch; the test batch comes from all test digits."""
    labels = torch.arange(60_000) % 10
    digits = Digits(
        train_images=torch.zeros(60_000, 16, 16, dtype=torch.uint8),
        train_labels=labels,
        test_images=torch.full((10_000, 16, 16), 255, dtype=torch.uint8),
        test_labels=labels[:10_000],
    )
    monkeypatch.setattr(mnist16, "full_digits", lambda root: digits if root == tmp_path else None)
    data = find_problem("mnist16").load(DataRequest(root=tmp_path))
    assert len(data.train[0]) == len(data.train[1]) == 50_000
    assert float(data.hessian["test"][0].min()) == 1.0
    assert float(data.hessian["train"][0].max()) == 0.0
    assert "50,000" in data.description


def test_balanced_takes_the_first_of_each_class():
    targets = torch.tensor([7, 4, 4, 7, 4, 9, 9])
    assert balanced(targets, 3).tolist() == [0, 1, 5]
    assert balanced(targets, 5).tolist() == [0, 1, 2, 3, 5]  # the lower classes have one more
    assert balanced(targets, 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="at least 3 samples of class 7, got 2"):
        balanced(targets, 8)


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("mnist16", {"source": "fake"}, "the data of mnist16 are one of embedded, folder; got 'fake'"),
        ("mnist16", {"source": "folder"}, "needs --data-root, the folder that holds MNIST/raw"),
        ("mnist16", {"source": "embedded", "root": Path("x")}, "no use for --data-root x"),
        ("mnist16", {"hessian_samples": 0}, "at least 1"),
        ("mnist16", {"image_size": 64}, "--data fake"),
        ("imagenet-resnet18", {}, r"needs --data-root, a folder with train/CLASS.* or --data fake"),
        ("imagenet-resnet18", {"source": "fake", "image_size": 8}, "at least 32; got 8"),
        ("imagenet-resnet18", {"source": "folder", "root": Path("x"), "image_size": 64}, "--data fake"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(name, request_, message):
    with pytest.raises(ValueError, match=message):
        find_problem(name).load(DataRequest(**request_))


def test_the_number_of_hessian_samples_may_be_chosen():
    data = find_problem("mnist16").load(DataRequest(hessian_samples=23))
    assert [targets.bincount().tolist() for _, targets in data.hessian.values()] == [[3] * 3 + [2] * 7] * 2


def test_find_problem():
    assert all(find_problem(name) is problem and problem.name == name for name, problem in PROBLEMS.items())
    with pytest.raises(ValueError, match=r"no study 'mnist61'.* mnist16"):
        find_problem("mnist61")
