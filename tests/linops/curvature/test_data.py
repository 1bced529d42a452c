"""Data sets in the forms that people have, and how often they are read."""

import collections
import functools

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import eigenspan as es
from eigenspan.linops.curvature import data as data_module

SAMPLES = 12


class Counted(Dataset):
    """The samples of the cases, which notes how often one is read."""

    def __init__(self):
        self.X, self.y = cases.classes(SAMPLES)
        self.read = 0

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.read += 1
        return self.X[index], self.y[index]


class Encoding(collections.UserDict):
    """A mapping that is no dict, as tokenizers give."""


class ModelOutput(collections.OrderedDict):
    """A mapping whose entries are attributes too, as the models of transformers return."""

    def __getattr__(self, name):
        return self[name]


class Classifier(nn.Module):
    """It takes keyword arguments, one of them the target, and returns its own loss."""

    def __init__(self):
        super().__init__()
        self.net = cases.mlp()

    def forward(self, values, labels=None):
        logits = self.net(values)
        if labels is None:
            return ModelOutput(logits=logits)
        return ModelOutput(loss=functional.cross_entropy(logits, labels), logits=logits)


@functools.cache
def expected(operator=es.Hessian):
    return operator(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(SAMPLES)).to_dense()


def assert_close(found, wanted):
    """In float64, over two orders of summation."""
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


class TestReading:
    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
    @pytest.mark.parametrize("engine", ["linearised", "retained", "forward"])
    def test_no_sample_is_decoded_after_the_checks_at_the_point(self, operator, engine):
        samples = Counted()
        data, chunk_size = DataLoader(samples, batch_size=5), 1 if engine == "forward" else 4
        A = operator(cases.mlp(), nn.CrossEntropyLoss(), data, engine=engine, chunk_size=chunk_size)
        built, X = samples.read, torch.randn(53, 4, generator=cases.generator(3), dtype=torch.float64)
        assert_close(A @ X, expected(operator) @ X)
        A.release()
        assert_close(A @ X, expected(operator) @ X)
        assert samples.read == built < 3 * SAMPLES  # the checks compare two passes

    @pytest.mark.parametrize("engine", ["retained", "forward"])
    def test_what_no_memory_holds_is_read_again(self, engine, monkeypatch):
        monkeypatch.setattr(data_module, "free_memory", lambda device: 0)
        samples = Counted()
        loader = DataLoader(samples, batch_size=5)
        A = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), loader, engine=engine, chunk_size=1, micro_batch_size=5)
        vector = torch.ones(53, dtype=torch.float64)
        assert_close(A @ vector, expected().sum(1))
        A.release()
        before = samples.read
        assert_close(A @ vector, expected().sum(1))
        assert samples.read == before + SAMPLES

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_what_a_gpu_does_not_hold_waits_in_pinned_memory(self, monkeypatch):
        free = {"cuda": 0, "cpu": 2**30}
        monkeypatch.setattr(data_module, "free_memory", lambda device: free[device.type])
        samples, moved = Counted(), []
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: moved.append(tensor) or tensor)
        loader = DataLoader(samples, batch_size=5)
        A = es.Hessian(cases.mlp().cuda(), nn.CrossEntropyLoss(), loader)
        built = samples.read
        assert len(moved) == 6
        assert_close(A.to_dense().cpu(), expected())
        assert samples.read == built


class TestForms:
    @pytest.mark.parametrize("options", [{}, {"micro_batch_size": 5}])
    def test_encodings_are_keyword_arguments_of_a_model_that_returns_its_loss(self, options):
        X, y = cases.classes(SAMPLES)
        objective = es.Objective(lambda model, batch: model(**batch).loss)
        for data in (
            Encoding(values=X, labels=y),
            [Encoding(values=X[:7], labels=y[:7]), {"values": X[7:], "labels": y[7:]}],
        ):
            assert_close(es.Hessian(Classifier(), objective, data, **options).to_dense(), expected())

    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
    def test_a_loss_of_one_entry_of_what_the_model_returns(self, operator):
        X, y = cases.classes(SAMPLES)
        criterion = nn.CrossEntropyLoss()

        def loss(output, target):
            return criterion(output["logits"], target)

        A = operator(Classifier(), loss, (Encoding(values=X), y), micro_batch_size=5)
        assert_close(A.to_dense(), expected(operator))
