"""The Hessian against closed forms, against double reverse-mode autograd, and under every way to cut the data."""

import functools

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import eigenspan as es

# float64 throughout: two ways to sum at most a few hundred products of numbers of order one.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
# Random ones tell two matrices apart as well as all of them.
COLUMNS = torch.randn(53, 9, generator=cases.generator(7), dtype=torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


class TestClosedForms:
    def test_linear_regression_is_the_normal_matrix(self, device):
        X, y = cases.classes(device=device)
        model = nn.Linear(6, 1).to(device, torch.float64)
        H = es.Hessian(model, nn.MSELoss(), (X, y.double()[:, None]))
        X1 = torch.cat([X, torch.ones_like(X[:, :1])], dim=1)
        assert_close(H.to_dense(), 2 * X1.mT @ X1 / len(X))

    def test_logistic_regression(self, device):
        X, y = cases.classes(device=device)
        model = nn.Linear(6, 1, bias=False).to(device, torch.float64)
        H = es.Hessian(model, nn.BCEWithLogitsLoss(), (X, (y > 0).double()[:, None]))
        p = torch.sigmoid(X @ model.weight.detach().mT)
        assert_close(H.to_dense(), (X * p * (1 - p)).mT @ X / len(X))

    def test_softmax_regression(self, device):
        X, y = cases.classes(device=device)
        model = nn.Linear(6, 3, bias=False).to(device, torch.float64)
        H = es.Hessian(model, nn.CrossEntropyLoss(), (X, y))
        P = (X @ model.weight.detach().mT).softmax(dim=1)
        S = torch.diag_embed(P) - P[:, :, None] * P[:, None, :]
        # The weight is flattened by rows: entry ((c, i), (d, j)) is the mean of S_cd x_i x_j.
        assert_close(H.to_dense(), torch.einsum("bcd,bi,bj->cidj", S, X, X).reshape(18, 18) / len(X))

    def test_quadratic_objective(self, device):
        A = torch.randn(6, 6, generator=cases.generator(), dtype=torch.float64).to(device)
        model = nn.Linear(6, 1, bias=False).to(device, torch.float64)

        def objective(model, batch):
            return (model.weight @ batch @ model.weight.mT).sum() / 2

        H = es.Hessian(model, es.Objective(lambda model, batch: objective(model, batch[0])), (A,))
        assert_close(H.to_dense(), (A + A.mT) / 2)


LOSSES = {
    "mean": (nn.CrossEntropyLoss(), None),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), None),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)), None),
    "ignored targets": (nn.CrossEntropyLoss(), [0, 1, 2, 7]),
    "all of it": (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), label_smoothing=0.1),
        [0, 1, 2, 7],
    ),
    "own mean": (lambda output, target: functional.cross_entropy(output, target), None),
}


@functools.cache
def twin(name, operator):
    """Loss, inputs, targets, and the matrix."""
    loss, ignored = LOSSES[name]
    X, y = cases.classes()
    if ignored:
        y = y.index_fill(0, torch.tensor(ignored), -100)
    dense = cases.dense_hessian if operator is es.Hessian else cases.dense_ggn
    return loss, X, y, dense(cases.mlp(), loss, (X, y))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
class TestCutting:
    """One operator however the data are cut: the first cut leaves a batch of ignored targets alone."""

    @pytest.mark.parametrize(
        ("sizes", "options"),
        [
            ([1, 4, 6], {}),
            ([11], {"chunk_size": 1, "engine": "retained"}),
            ([3, 8], {"micro_batch_size": 1, "engine": "retained"}),
            ([1, 4, 6], {"chunk_size": 7, "micro_batch_size": 2, "engine": "retained"}),
        ],
    )
    def test_batches_do_not_matter(self, name, operator, sizes, options):
        loss, X, y, expected = twin(name, operator)
        model, data = cases.mlp(), list(zip(X.split(sizes), y.split(sizes), strict=True))
        A = operator(model, loss, data, **options)
        assert_close(A @ COLUMNS, expected @ COLUMNS)
        assert A.loss() == pytest.approx(loss(model(X), y).item(), rel=1e-12)

    def test_shuffled_loader(self, name, operator):
        loss, X, y, expected = twin(name, operator)
        model, loader = cases.mlp(), DataLoader(TensorDataset(X, y), batch_size=4, shuffle=True)
        state = torch.get_rng_state()
        A = operator(model, loss, loader, engine="retained", chunk_size=7)
        assert_close(A @ COLUMNS, expected @ COLUMNS)
        assert torch.equal(torch.get_rng_state(), state), "a pass over the loader moved the user's random stream"


def test_elementwise_means_over_uneven_lengths():
    """A mean over elements weighs a batch of long sequences more than one of short ones."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1).double()
    long, short = torch.randn(3, 5, 2).double(), torch.randn(3, 2, 2).double()
    H = es.Hessian(model, nn.MSELoss(), [(long, long[..., :1]), (short, short[..., :1])])
    X = torch.cat([long.reshape(-1, 2), short.reshape(-1, 2)])
    assert_close(H.to_dense(), cases.dense_hessian(model, nn.MSELoss(), (X, X[:, :1])))


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), nn.BCEWithLogitsLoss()])
def test_elementwise_losses(loss):
    model, (X, y) = cases.mlp(), cases.classes()
    target = functional.one_hot(y, 3).double()
    H = es.Hessian(model, loss, (X, target), micro_batch_size=4)
    assert_close(H @ COLUMNS, cases.dense_hessian(model, loss, (X, target)) @ COLUMNS)


@pytest.mark.parametrize(("engine", "chunk_size"), [("retained", 1), (None, 3)])
@pytest.mark.parametrize("name", cases.model_zoo())
def test_layers_that_need_care(name, engine, chunk_size):
    """Attention, recurrence, pooling and normalisation, against double backward through unfused kernels."""
    model, batch = cases.model_zoo()[name]
    H = es.Hessian(model, nn.CrossEntropyLoss(), batch, engine=engine, chunk_size=chunk_size)
    V = torch.randn(H.shape[0], 4, generator=cases.generator(), dtype=torch.float64)
    assert_close(H @ V, cases.products_of_hessian(model, nn.CrossEntropyLoss(), batch, V))


def test_float32_agrees_with_float64(device):
    """Single precision: products of a few hundred terms of order one, so 1e-5 of the largest entry."""
    exact = es.Hessian(cases.mlp(device), nn.CrossEntropyLoss(), cases.classes(device=device)).to_dense()
    data = cases.classes(device=device, dtype=torch.float32)
    single = es.Hessian(cases.mlp(device, torch.float32), nn.CrossEntropyLoss(), data).to_dense()
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_columns_of_any_strides():
    H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(), engine="retained", chunk_size=2)
    X = torch.randn(5, 53, dtype=torch.float64).mT
    expected = H.to_dense() @ X
    for block in (X, X.contiguous(), X.repeat_interleave(2, dim=1)[:, ::2]):
        kept = block.clone()
        assert_close(H @ block, expected)
        assert torch.equal(block, kept)
    assert (H @ X[:, :0]).shape == (53, 0)
    assert_close(X.mT @ H, expected.mT)


class TestPoint:
    """An operator is of a point: it neither moves with the model nor moves it."""

    def test_training_on_does_not_change_it(self):
        model, batch = cases.mlp(), cases.classes()
        H = es.Hessian(model, nn.CrossEntropyLoss(), batch)
        before = H.to_dense()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        assert_close(H.to_dense(), before)
        assert_close(
            es.Hessian(model, nn.CrossEntropyLoss(), batch, parameters="2.*").parameters.values,
            H.parameters.values[35:] + 1,
        )

    def test_frozen_parameters_and_buffers_are_of_the_point(self):
        model, batch = cases.model_zoo()["batch-norm"]
        H = es.Hessian(model, nn.CrossEntropyLoss(), batch, parameters="0.*")
        before = H.to_dense()
        with torch.no_grad():
            model[1].running_var.mul_(3)
            model[1].weight.mul_(3)
        model.train()
        assert_close(H.to_dense(), before)
        assert model.training
        assert model[1].training

    def test_the_model_is_untouched(self):
        model, batch = cases.model_zoo()["batch-norm"]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        stream = torch.get_rng_state()
        H = es.Hessian(model, nn.CrossEntropyLoss(), batch)
        H @ torch.ones(H.shape[0], dtype=torch.float64)
        H.gradient()
        assert torch.equal(torch.get_rng_state(), stream)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters())
        assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())

    def test_gradient(self, device):
        model, batch = cases.mlp(device), cases.classes(device=device)
        H = es.Hessian(model, nn.CrossEntropyLoss(), batch, micro_batch_size=3)
        gradients = torch.autograd.grad(nn.CrossEntropyLoss()(model(batch[0]), batch[1]), list(model.parameters()))
        expected = torch.cat([gradient.flatten() for gradient in gradients])
        assert_close(H.gradient(), expected)
        assert_close(es.absolute_gradient(H), expected.abs())


class TestSelection:
    def test_a_selection_is_a_principal_submatrix(self):
        model, batch = cases.mlp(), cases.classes()
        full = es.Hessian(model, nn.CrossEntropyLoss(), batch)
        for selection, pattern in [("2", "2.*"), (model[2], "2.*"), ([model[0].bias, "2.bias"], "*.bias")]:
            part = es.Hessian(model, nn.CrossEntropyLoss(), batch, parameters=selection)
            where = full.parameters.indices(pattern)
            assert_close(part.to_dense(), full.to_dense()[where][:, where])

    def test_unused_parameters_give_zero_rows(self):
        model, batch = cases.mlp(), cases.classes()
        model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
        H = es.Hessian(model, nn.CrossEntropyLoss(), batch).to_dense()
        unused = es.ParameterSpace(model).indices("unused")
        assert not H[unused].any()
        assert not H[:, unused].any()

    def test_tied_weights_count_once(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False)).double()
        model[2].weight = model[0].weight
        batch = torch.randn(5, 4).double(), torch.randint(0, 4, (5,))
        H = es.Hessian(model, nn.CrossEntropyLoss(), batch)
        W = model[0].weight.detach()

        def function(w):
            w = w.view(4, 4)
            return functional.cross_entropy(torch.tanh(batch[0] @ w.mT) @ w.mT, batch[1])

        assert_close(H.to_dense(), torch.autograd.functional.hessian(function, W.flatten()))


class TestInputs:
    def test_tuples_are_positional_and_mappings_keyword_arguments(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = cases.mlp()

            def forward(self, left, right):
                return self.net(left - right)

        X, y = cases.classes()
        expected = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), (X, y)).to_dense()
        zero = torch.zeros_like(X)
        for inputs in [(X, zero), {"right": zero, "left": X}]:
            H = es.Hessian(Two(), nn.CrossEntropyLoss(), (inputs, y), micro_batch_size=4)
            assert_close(H.to_dense(), expected)

    def test_objective_over_mappings(self):
        X, y = cases.classes()
        objective = es.Objective(lambda model, batch: functional.cross_entropy(model(batch["x"]), batch["y"]))
        expected = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), (X, y)).to_dense()
        for options in [{}, {"micro_batch_size": 4}]:
            assert_close(es.Hessian(cases.mlp(), objective, {"x": X, "y": y}, **options).to_dense(), expected)


def test_repr_and_sizes():
    H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes())
    assert repr(H) == "<Hessian 53x53 float64 cpu symmetric>"
    for size in (0, -1, 2.5):
        for name in ("chunk_size", "micro_batch_size", "memory_budget"):
            with pytest.raises(ValueError, match=name):
                es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(), **{name: size})
