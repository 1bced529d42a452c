"""Models, losses and data whose derivatives are written in an unusual way: the matrix of a dense twin, or an error."""

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import eigenspan as es

CROSS_ENTROPY = nn.CrossEntropyLoss()
ENGINES = ("linearised", "retained")


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


class BranchingAtZero(torch.autograd.Function):
    """The double, whose derivative takes a short cut where no slope comes in."""

    @staticmethod
    def forward(ctx, X):
        return 2 * X

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope if slope.any() else torch.zeros_like(slope)


def with_function(function):
    model = cases.mlp()
    model[1] = nn.Sequential(nn.Tanh(), cases.Applied(function))
    return model


@pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_functions_that_are_once_differentiable_are_refused(operator, engine):
    """PyTorch's own double backward goes past them in silence where the path ends there."""
    A = operator(with_function(cases.Once.apply), CROSS_ENTROPY, cases.classes(), engine=engine)
    with pytest.raises(ValueError, match="once_differentiable"):
        A @ torch.ones(53, dtype=torch.float64)


@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize(
    "function", [lambda X: torch.logcumsumexp(X, 1), BranchingAtZero.apply], ids=["logarithms", "branch"]
)
def test_rules_that_are_linear_but_not_written_so(function, engine):
    """Derived where no slope comes in, they would give zeros or no number."""
    model = nn.Sequential(nn.Linear(6, 3), cases.Applied(function)).double()
    if function == BranchingAtZero.apply and engine == "linearised":
        pytest.skip("needs a linear program, which a branch on a value has not")
    expected = cases.dense_ggn(model, CROSS_ENTROPY, cases.classes())
    assert_close(es.GGN(model, CROSS_ENTROPY, cases.classes(), engine=engine).to_dense(), expected)
    J = es.Jacobian(model, cases.classes(), engine=engine).to_dense()
    assert_close(J.T @ J, es.GGN(model, half_squares, cases.classes()).to_dense())


def half_squares(output, target):
    return output.square().sum() / 2


class Checkpointed(nn.Module):
    """The MLP of the cases, whose hidden layer is computed anew in a reverse pass."""

    def __init__(self):
        super().__init__()
        self.net = cases.mlp()

    def forward(self, X):
        return self.net[2](checkpoint(self.net[:2], X, use_reentrant=False))


@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
def test_checkpointed_models_may_be_trained_on(operator, engine):
    """What is computed anew is computed at the point."""
    model = Checkpointed()
    expected = operator(cases.mlp(), CROSS_ENTROPY, cases.classes()).to_dense()
    before, kept = (operator(model, CROSS_ENTROPY, cases.classes(), engine=engine) for _ in range(2))
    assert_close(kept.to_dense(), expected)
    gradient = before.gradient()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert_close(before.to_dense(), expected)
    assert_close(kept.to_dense(), expected)
    assert_close(before.gradient(), gradient)


def test_rows_that_are_rescaled_in_place_are_refused():
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Flatten(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"module '0' .* rescales its rows in place"):
        es.Hessian(model, CROSS_ENTROPY, (torch.randint(5, (4, 2)), torch.randint(3, (4,))))


@pytest.mark.parametrize("engine", ENGINES)
def test_sparse_gradients_are_dense_within_products(engine):
    batch = torch.randint(5, (4, 2)), torch.randint(3, (4,))
    sparse, dense = (
        nn.Sequential(nn.Embedding(5, 3, sparse=each), nn.Flatten(), nn.Linear(6, 3)).double() for each in (True, False)
    )
    dense.load_state_dict(sparse.state_dict())
    H = es.Hessian(sparse, CROSS_ENTROPY, batch, engine=engine)
    assert_close(H.to_dense(), cases.dense_hessian(dense, CROSS_ENTROPY, batch))


class ComplexWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.pairs = nn.Parameter(torch.randn(6, 3, 2, dtype=torch.float64))

    def forward(self, X):
        return X @ torch.view_as_complex(self.pairs).abs()


@pytest.mark.parametrize("engine", [None, "retained"])
def test_views_of_parameters_as_other_types(engine):
    """Which take entries side by side, however the blocks lie in memory."""
    H = es.Hessian(ComplexWeight(), CROSS_ENTROPY, cases.classes(), engine=engine)
    expected = H @ torch.eye(36, dtype=torch.float64).mT.contiguous().mT
    assert_close(H @ torch.eye(36, dtype=torch.float64), expected)
    rows = torch.randn(36, 5, dtype=torch.float64)
    assert_close(H @ rows, expected @ rows)
    assert_close(H @ rows[:, 0], expected @ rows[:, 0])


class TestLossesThatHideHowTheyAreCut:
    """They have the same value and gradient at the point however the data are cut, and other curvature."""

    def balanced(self, output, target):
        shares = output.softmax(1).mean(0)
        return nn.functional.cross_entropy(output, target) + 9 * shares.square().sum()

    def model(self):
        model = nn.Linear(6, 3).double()
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    def test_uncut_by_default(self):
        batch = cases.classes(64)
        H = es.Hessian(self.model(), self.balanced, batch, memory_budget=2**20)
        assert H.plan().micro_batch_size is None
        assert_close(H.to_dense(), cases.dense_hessian(self.model(), self.balanced, batch))

    def test_refused_where_cutting_was_asked_for(self):
        with pytest.raises(ValueError, match="not that of its parts"):
            es.Hessian(self.model(), self.balanced, cases.classes(64), micro_batch_size=4)

    def test_small_terms_for_each_batch(self):
        """Whose share in the value is below what rounding was allowed to change."""
        X, y = cases.classes(512, dtype=torch.float32)

        def penalised(model, batch):
            fit = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
            return fit + 5e-3 * sum(parameter.square().sum() for parameter in model.parameters())

        objective = es.Objective(penalised, reduction="sum")
        H = es.Hessian(cases.mlp(dtype=torch.float32), objective, (X, y), memory_budget=2**22)
        assert H.plan().micro_batch_size is None


def test_a_sum_that_a_short_dtype_does_not_hold():
    model = nn.Linear(4, 50).half()
    batch = torch.randn(2000, 4).half(), torch.randn(2000, 50).half()
    found = es.Hessian(model, nn.MSELoss(), batch).loss()
    expected = nn.functional.mse_loss(model.float()(batch[0].float()), batch[1].float()).item()
    assert found == pytest.approx(expected, rel=1e-2)  # three digits


@pytest.mark.parametrize("layer", [nn.LayerNorm(3), nn.Softmax(1)], ids=["centred", "of sum one"])
def test_a_jacobian_of_outputs_that_cancel(layer):
    model = nn.Sequential(*cases.mlp(), layer).double()
    X, _ = cases.classes(8)
    whole = es.Jacobian(model, (X, None))
    assert_close(es.Jacobian(model, [(X[:5], None), (X[5:], None)]).to_dense(), whole.to_dense())
    assert_close(es.Jacobian(model, (X, None), micro_batch_size=3).to_dense(), whole.to_dense())


@pytest.mark.parametrize("engine", ["linearised", "retained", "forward"])
def test_a_first_batch_without_samples(engine):
    X, y = cases.classes(8)
    loss = nn.CrossEntropyLoss(reduction="sum")
    H = es.Hessian(cases.mlp(), loss, [(X[:0], y[:0]), (X, y)], engine=engine)
    assert_close(H.to_dense(), cases.dense_hessian(cases.mlp(), loss, (X, y)))


def test_gradients_of_functions_without_a_functional_form():
    """`torch.func` would refuse them."""
    model = with_function(cases.Cube.apply)
    output = CROSS_ENTROPY(model(cases.classes()[0]), cases.classes()[1])
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(output, list(model.parameters()))])
    assert_close(es.Hessian(model, CROSS_ENTROPY, cases.classes()).gradient(), expected)


class TestMonteCarloFisher:
    def test_outputs_of_one_number_a_sample_draw_by_themselves(self):
        class Squeezed(nn.Sequential):
            def forward(self, X):
                return super().forward(X)[:, 0]

        model = Squeezed(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        X, y = cases.classes(12)
        batches = [(X[:7], y[:7].double()), (X[7:], y[7:].double())]
        whole = es.MonteCarloFisher(model, nn.MSELoss(), (X, y.double()))
        assert_close(es.MonteCarloFisher(model, nn.MSELoss(), batches).to_dense(), whole.to_dense())

    def test_a_single_sample_of_as_many_inputs_as_classes_is_refused(self):
        with pytest.raises(ValueError, match="batch of one"):
            es.MonteCarloFisher(nn.Linear(3, 3), CROSS_ENTROPY, (torch.randn(3), torch.tensor(1)))


def test_copies_on_other_devices_are_refused():
    """PyTorch does not let a DataParallel compute with other parameters than its own."""
    wrapped = nn.DataParallel(nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"is a DataParallel, .*: give its .module"):
        es.Hessian(wrapped, nn.MSELoss(), (torch.ones(4, 3), torch.ones(4, 2)))
