"""The Jacobian against torch.func.jacrev and reverse mode row by row, in the order of the data."""

import dataclasses

import curvature_cases as cases
import pytest
import torch
from operator_contract import Case, OperatorContract
from torch import nn
from torch.func import functional_call, jacrev
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

import eigenspan as es
from eigenspan.linops import Structure

# float64: two ways to sum a few dozen products of numbers of order one.
TOLERANCE = {"rtol": 1e-11, "atol": 1e-13}
SAMPLES = 11
ENGINES = ("linearised", "retained", "forward")
# Random ones tell two matrices apart as well as all of them.
COLUMNS = torch.randn(53, 4, generator=cases.generator(7), dtype=torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def jacrev_rows(model, *inputs):
    """The rows (samples × entries, n) by torch.func.jacrev."""
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    parts = jacrev(lambda theta: functional_call(model, theta, inputs))(named)
    sizes = [tensor.numel() for tensor in named.values()]
    return torch.cat([part.reshape(-1, size) for part, size in zip(parts.values(), sizes, strict=True)], dim=1)


def small_mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 3)).double()


class TestContract(OperatorContract):
    """Of an MLP of 23 parameters at 4 samples with 3 outputs each."""

    def make(self, dtype, device):
        X, y = cases.classes(4)
        twin = jacrev_rows(small_mlp(), X)
        operator = es.Jacobian(
            small_mlp().to(device, dtype), (X.to(device, dtype), y), chunk_size=2, micro_batch_size=3
        )
        return Case(operator, twin.to(device))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("micro_batch_size", [None, 1, 4])
def test_rows_follow_the_data(engine, micro_batch_size):
    """However they are cut, with columns one by one or at once."""
    X, y = cases.classes(SAMPLES)
    expected = jacrev_rows(cases.mlp(), X)
    u = torch.randn(len(expected), 4, generator=cases.generator(4), dtype=torch.float64)
    for sizes in ([SAMPLES], [2, 9]):
        data = list(zip(X.split(sizes), y.split(sizes), strict=True))
        J = es.Jacobian(cases.mlp(), data, engine=engine, micro_batch_size=micro_batch_size)
        assert J.shape == (3 * SAMPLES, 53)
        assert J.plan().engine == engine
        assert_close(J @ COLUMNS, expected @ COLUMNS)
        assert_close(J @ expected[0], expected @ expected[0])
        assert_close(J.T @ u, expected.mT @ u)
        assert_close(J.T @ u[:, 0], expected.mT @ u[:, 0])


@pytest.mark.parametrize("engine", [None, "retained"])
@pytest.mark.parametrize("name", cases.tiny_zoo())
def test_layers_that_need_care(name, engine):
    """Attention, recurrence, tied and unused parameters: sequences give (symbols, positions) entries a sample."""
    model, batch = cases.tiny_zoo()[name]
    expected = cases.dense_jacobian(model, batch[0])
    J = es.Jacobian(model, batch, engine=engine, micro_batch_size=2, chunk_size=3)
    X = torch.randn(J.shape[1], 3, generator=cases.generator(3), dtype=torch.float64)
    Y = torch.randn(J.shape[0], 3, generator=cases.generator(4), dtype=torch.float64)
    assert_close(J @ X, expected @ X)
    assert_close(J.T @ Y, expected.mT @ Y)


@dataclasses.dataclass
class Both:
    left: torch.Tensor
    right: torch.Tensor
    name: str = "both"


class Several(nn.Module):
    """Two outputs, of 3 and of (2, 3) entries a sample, and a third that depends on no parameter."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = cases.mlp(), kind

    def forward(self, X):
        left = self.net(X)
        right = torch.stack([self.net(-X), left**2], dim=1)
        if self.kind == "joined":
            return torch.cat([left, right.flatten(1)], dim=1)
        if self.kind == "dict":
            return {"inputs": X, "left": left, "right": right}
        return (left, X, right) if self.kind == "tuple" else Both(left, right)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["tuple", "dict", "data class"])
def test_several_outputs_stand_beside_one_another_for_each_sample(kind, engine):
    X, y = cases.classes(SAMPLES)
    expected = jacrev_rows(Several("joined"), X)
    J = es.Jacobian(Several(kind), (X, y), engine=engine, micro_batch_size=4)
    Y = torch.randn(len(expected), 4, generator=cases.generator(4), dtype=torch.float64)
    assert_close(J @ COLUMNS, expected @ COLUMNS)
    assert_close(J.T @ Y, expected.mT @ Y)


def test_one_output_a_sample():
    """(N,) as well as (N, 1)."""
    X, y = cases.classes(SAMPLES)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)).double()
    expected = jacrev_rows(model, X)
    for width in (1, 3):
        J = es.Jacobian(model, (X, y), chunk_size=width, micro_batch_size=4)
        assert_close(J.to_dense(), expected)
        assert_close(J.T.to_dense(), expected.mT)


def test_inputs_need_no_target():
    X, _ = cases.classes(SAMPLES)
    J, model = es.Jacobian(small_mlp(), X), small_mlp()
    assert_close(J.to_dense(), jacrev_rows(model, X))
    assert J.fingerprint() == es.Jacobian(small_mlp(), (X, None)).fingerprint()


def test_a_selection_of_parameters_is_one_of_columns():
    X, y = cases.classes(SAMPLES)
    J = es.Jacobian(cases.mlp(), (X, y), parameters="2.*")
    full = es.Jacobian(cases.mlp(), (X, y))
    assert_close(J.to_dense(), full.to_dense()[:, full.parameters.indices("2.*")])


@pytest.mark.parametrize("engine", ENGINES)
def test_its_gram_operator_is_the_ggn_of_half_squares(engine):
    """For the sum over samples and entries, whatever the targets."""
    X, y = cases.classes(SAMPLES)
    target = nn.functional.one_hot(y, 3).double()

    def half_squares(output, target):
        return (output - target).square().sum() / 2

    G = es.GGN(cases.mlp(), es.Loss(half_squares, reduction="sum", convex=True), (X, target), engine=engine)
    J = es.Jacobian(cases.mlp(), (X, target), engine=engine)
    gram = J.T @ J
    assert gram.structure == Structure.PSD
    assert_close(gram @ COLUMNS, G @ COLUMNS)


def shuffled_loaders():
    dataset = TensorDataset(*cases.classes(SAMPLES))
    return {
        "shuffle": DataLoader(dataset, batch_size=4, shuffle=True),
        "sampler": DataLoader(dataset, batch_size=4, sampler=SubsetRandomSampler(range(SAMPLES))),
        "batch sampler": DataLoader(dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 4, False)),
    }


@pytest.mark.parametrize("name", shuffled_loaders())
def test_a_shuffled_loader_is_refused(name):
    """Nobody could say which row is of which sample."""
    with pytest.raises(ValueError, match="shuffle"):
        es.Jacobian(cases.mlp(), shuffled_loaders()[name])


def test_a_loader_in_order_is_taken():
    X, y = cases.classes(SAMPLES)
    J = es.Jacobian(cases.mlp(), DataLoader(TensorDataset(X, y), batch_size=4))
    assert_close(J.to_dense(), jacrev_rows(cases.mlp(), X))


class Pooled(nn.Module):
    """What gives one output for all samples, or one for each of their entries."""

    def __init__(self, function):
        super().__init__()
        self.net, self.function = cases.mlp(), function

    def forward(self, X):
        return self.function(self.net(X))


@pytest.mark.parametrize(
    "function",
    [lambda output: output.mean(0), lambda output: output.flatten(), lambda output: (output, output.sum())],
    ids=["mean", "flattened", "sum beside"],
)
def test_outputs_without_the_dimension_of_samples_are_refused(function):
    with pytest.raises(ValueError, match="first dimension is that of the samples"):
        es.Jacobian(Pooled(function), cases.classes(SAMPLES))


def test_a_model_without_an_output_that_depends_is_refused():
    with pytest.raises((TypeError, ValueError), match="depend"):
        es.Jacobian(Pooled(torch.Tensor.detach), cases.classes(SAMPLES))


class TestPoint:
    """It stays at its point, and what it keeps is given back and built anew."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_training_on_does_not_change_it(self, engine):
        model, batch = cases.mlp(), cases.classes(SAMPLES)
        J = es.Jacobian(model, batch, engine=engine)
        v, u = torch.ones(53, dtype=torch.float64), torch.ones(3 * SAMPLES, dtype=torch.float64)
        before = J @ v, J.T @ u
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        for _ in range(2):
            assert torch.equal(J @ v, before[0])
            assert torch.equal(J.T @ u, before[1])
            J.release()

    @pytest.mark.parametrize("engine", ["linearised", "retained"])
    def test_kept_pieces_spare_forward_passes(self, engine):
        seen = []
        model, batch = cases.mlp(), cases.classes(SAMPLES)
        model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        J = es.Jacobian(model, batch, engine=engine, micro_batch_size=4)
        v, u = torch.ones(53, dtype=torch.float64), torch.ones(3 * SAMPLES, dtype=torch.float64)
        J @ v
        seen.clear()
        J @ v, J.T @ u
        assert seen == []
        J.release()
        J.T @ u
        assert seen == [4, 4, 3]

    @pytest.mark.parametrize("engine", ["linearised", "retained"])
    @pytest.mark.parametrize("columns", [1, 3])
    def test_data_changed_in_place_are_an_error_not_another_matrix(self, engine, columns):
        X, y = cases.classes(SAMPLES)
        J = es.Jacobian(cases.mlp(), (X, y), engine=engine)
        V = torch.ones(53, columns, dtype=torch.float64)
        U = torch.ones(3 * SAMPLES, columns, dtype=torch.float64)
        J @ V, J.T @ U
        X.mul_(2)
        for product in (lambda: J @ V, lambda: J.T @ U):
            with pytest.raises(RuntimeError, match=r"inplace|in place|changed"):
                product()

    def test_a_tight_budget_keeps_nothing_and_is_the_same_matrix(self):
        batch = cases.classes(24)
        with pytest.raises(ValueError, match=r"about \d+ bytes") as refusal:
            es.Jacobian(cases.mlp(), batch, memory_budget=1).plan()
        least = int(str(refusal.value).split("about ")[1].split()[0])
        J = es.Jacobian(cases.mlp(), batch, memory_budget=least)
        assert not J.plan().kept
        assert_close(J @ torch.eye(53, 5, dtype=torch.float64), jacrev_rows(cases.mlp(), batch[0])[:, :5])
