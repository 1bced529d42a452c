"""The GGN against its definition, and where it must equal the Hessian."""

import curvature_cases as cases
import pytest
import torch
from torch import nn

import eigenspan as es

# float64: two ways to sum a few hundred products of numbers of order one.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.MSELoss(),
        nn.BCEWithLogitsLoss(),
        nn.HuberLoss(),
    ],
)
def test_definition(loss, device):
    model, (X, y) = cases.mlp(device), cases.classes(device=device)
    target = y if isinstance(loss, nn.CrossEntropyLoss) else nn.functional.one_hot(y, 3).double()
    G = es.GGN(model, loss, (X, target))
    torch.testing.assert_close(G.to_dense(), cases.dense_ggn(model, loss, (X, target)), **TOLERANCE)
    assert G.is_psd
    assert torch.linalg.eigvalsh(G.to_dense()).min() > -1e-12


def test_it_is_the_hessian_of_a_linear_model(device):
    X, y = cases.classes(device=device)
    model = nn.Linear(6, 3).to(device, torch.float64)
    ggn, hessian = (kind(model, nn.CrossEntropyLoss(), (X, y)).to_dense() for kind in (es.GGN, es.Hessian))
    torch.testing.assert_close(ggn, hessian, **TOLERANCE)


def test_it_is_not_the_hessian_of_a_network():
    data = cases.classes()
    ggn, hessian = (kind(cases.mlp(), nn.CrossEntropyLoss(), data).to_dense() for kind in (es.GGN, es.Hessian))
    assert (ggn - hessian).norm() > 0.1 * hessian.norm()


def test_definiteness_is_claimed_only_where_it_is_known():
    def concave(output, target):
        return -output.square().mean()

    data = cases.classes()
    G = es.GGN(cases.mlp(), concave, data)
    assert G.is_symmetric
    assert not G.is_psd
    assert torch.linalg.eigvalsh(G.to_dense()).min() < -1e-3
    assert es.GGN(cases.mlp(), es.Loss(lambda output, target: output.square().mean(), convex=True), data).is_psd


def test_outputs_may_be_tuples():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cases.mlp()

        def forward(self, X):
            return self.net(X), self.net(-X)

    class Joined(Twice):
        def forward(self, X):
            return torch.stack(super().forward(X))

    def loss(output, target):
        return nn.functional.cross_entropy(output[0] - output[1], target)

    data = cases.classes()
    expected = cases.dense_ggn(Joined(), loss, data)
    torch.testing.assert_close(es.GGN(Twice(), loss, data).to_dense(), expected, **TOLERANCE)


def test_an_objective_is_refused():
    with pytest.raises(TypeError, match="Objective"):
        es.GGN(cases.mlp(), es.Objective(lambda model, batch: model(batch[0]).sum()), cases.classes())
