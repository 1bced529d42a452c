"""Factors of Gauss-Newton and Fisher matrices: BᵀB is the matrix, and B Bᵀ is what the layers tell of it."""

from __future__ import annotations

import pytest
import torch
from curvature_cases import SequenceModel, classes, dense_ggn, generator, mlp
from torch import nn

import eigenspan as es

F64 = torch.float64


class Positions(nn.Module):
    """A linear layer over positions, few or many beside its inputs, a norm, and logits per sample."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, X):
        return self.head(torch.tanh(self.norm(self.inner(X))).mean(1))


class Tied(nn.Module):
    """A weight in two layers, and one as an embedding and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, X):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(X)))))


def images(samples=7):
    return torch.randn(samples, 2, 6, 6, generator=generator(3), dtype=F64), torch.arange(samples) % 3


def sequences(samples, positions):
    X = torch.randn(samples, positions, 4, generator=generator(4), dtype=F64)
    return X, torch.arange(samples) % 3


def case(name):
    torch.manual_seed(0)
    if name == "mlp":
        return mlp(), classes()
    if name == "conv":
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 3))
        return model.to(F64), images()
    if name == "tied":
        return Tied().to(F64), classes()
    if name == "few positions":
        return Positions(5).to(F64), sequences(6, 2)
    if name == "many positions":
        return Positions(5).to(F64), sequences(6, 9)
    tokens = torch.randint(0, 11, (4, 6), generator=generator(5))
    return SequenceModel(nn.Linear(8, 8)).to(F64), (tokens[:, :5], tokens[:, 1:])


CASES = ("mlp", "conv", "tied", "few positions", "many positions", "sequence")


@pytest.mark.parametrize("name", CASES)
def test_of_a_ggn(name, device):
    model, (inputs, targets) = case(name)
    loss = nn.CrossEntropyLoss()
    A = es.GGN(model.to(device), loss, (inputs.to(device), targets.to(device)))
    B = A.factor()
    expected = dense_ggn(model, loss, (inputs.to(device), targets.to(device)))
    dense = B.to_dense()
    torch.testing.assert_close(dense.mT @ dense, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(B.T.to_dense(), dense.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(B.row_gram(), dense @ dense.mT, rtol=0, atol=1e-13)
    # Products with the rows that are kept from then on.
    torch.testing.assert_close(B.to_dense(), dense, rtol=0, atol=1e-14)
    torch.testing.assert_close(B.T.to_dense(), dense.mT, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_does_not_depend_on_batches_or_memory(name):
    model, (inputs, targets) = case(name)
    batches = [(inputs[:1], targets[:1]), (inputs[1:3], targets[1:3]), (inputs[3:], targets[3:])]
    whole = es.GGN(model, nn.CrossEntropyLoss(), (inputs, targets)).factor().row_gram()
    n = sum(parameter.numel() for parameter in model.parameters())
    for budget in (None, 8 * n * 7):
        cut = es.GGN(model, nn.CrossEntropyLoss(), batches).factor().row_gram(budget)
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("parameters", ["0.*", "2.*", "*.bias"])
def test_of_selected_parameters(parameters):
    model, batch = case("mlp")
    B = es.GGN(model, nn.CrossEntropyLoss(), batch, parameters=parameters).factor()
    dense = B.to_dense()
    assert dense.shape[1] < 53
    torch.testing.assert_close(B.row_gram(), dense @ dense.mT, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=F64)),
        nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
    ],
    ids=["weights", "ignored and smoothed", "sum"],
)
def test_of_losses(loss):
    model, batch = case("mlp")
    dense = es.GGN(model, loss, batch).factor().to_dense()
    torch.testing.assert_close(dense.mT @ dense, dense_ggn(model, loss, batch), rtol=0, atol=1e-13)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss(), nn.HuberLoss()], ids=lambda loss: str(loss))
def test_of_regression(loss):
    model, (inputs, _) = case("mlp")
    targets = torch.rand(len(inputs), 3, generator=generator(6), dtype=F64)
    dense = es.GGN(model, loss, (inputs, targets)).factor().to_dense()
    expected = dense_ggn(model, loss, (inputs, targets))
    torch.testing.assert_close(dense.mT @ dense, expected, rtol=0, atol=1e-13)


def test_of_an_empirical_fisher():
    """A row for each sample."""
    model, (inputs, targets) = case("mlp")
    A = es.EmpiricalFisher(model, nn.CrossEntropyLoss(), (inputs, targets))
    B = A.factor()
    assert B.shape == (11, 53)
    dense = B.to_dense()
    torch.testing.assert_close(dense.mT @ dense, A.to_dense(), rtol=0, atol=1e-14)
    torch.testing.assert_close(B.row_gram(), dense @ dense.mT, rtol=0, atol=1e-14)


def test_of_a_monte_carlo_fisher():
    """A row for each draw."""
    model, (inputs, targets) = case("mlp")
    A = es.MonteCarloFisher(model, nn.CrossEntropyLoss(), (inputs, targets), draws=3)
    B = A.factor()
    assert B.shape == (33, 53)
    dense = B.to_dense()
    torch.testing.assert_close(dense.mT @ dense, A.to_dense(), rtol=0, atol=1e-14)
    torch.testing.assert_close(B.row_gram(), dense @ dense.mT, rtol=0, atol=1e-14)


def test_the_model_is_not_touched():
    model, batch = case("conv")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    es.GGN(model, nn.CrossEntropyLoss(), batch).factor().row_gram()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_hessian_has_none():
    model, batch = case("mlp")
    with pytest.raises(TypeError, match="no factor B with A = Bᵀ B is known of <Hessian"):
        es.Hessian(model, nn.CrossEntropyLoss(), batch).factor()


class TestAlgebra:
    def test_of_products_sums_and_multiples(self):
        X, Y = (es.as_operator(torch.randn(rows, 6, dtype=F64)) for rows in (4, 3))
        for A in (X.T @ X, X.T @ X + Y.T @ Y, 2.5 * (X.T @ X)):
            B = A.factor()
            torch.testing.assert_close((B.T @ B).to_dense(), A.to_dense(), rtol=0, atol=1e-13)
            torch.testing.assert_close(B.row_gram(), (B @ B.T).to_dense(), rtol=0, atol=1e-13)

    @pytest.mark.parametrize("rows", [2, 3, 5, 100])
    def test_row_gram_within_a_budget(self, rows):
        X = es.as_operator(torch.randn(7, 6, dtype=F64))
        torch.testing.assert_close(X.row_gram(8 * 6 * rows), (X @ X.T).to_dense(), rtol=0, atol=1e-13)
        with pytest.raises(ValueError, match="do not hold two rows"):
            X.row_gram(8 * 6)
