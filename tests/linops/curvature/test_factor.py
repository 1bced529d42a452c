"""Factors of GGN and Fisher matrices: BᵀB is the matrix, and B a root of the loss's Hessian times the Jacobian."""

import curvature_cases as cases
import pytest
import torch
from operator_contract import Case, OperatorContract
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import eigenspan as es
from eigenspan.linops import Dense, Diagonal, Structure

# float64: two ways to sum a few hundred products of numbers of order one.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
SAMPLES = 11
CROSS_ENTROPY = nn.CrossEntropyLoss()
WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
ENGINES = ("linearised", "retained", "forward")
UNTIMED = {"engine": "retained", "chunk_size": 8}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def entropy_rows(model, X):
    """√(1/N) (diag √p - √p pᵀ) J, sample after sample, for the mean cross-entropy."""
    p = model(X).detach().softmax(1)
    J = cases.dense_jacobian(model, X).view(*p.shape, -1)
    roots = torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None]
    return (roots @ J).flatten(0, 1) / len(X) ** 0.5


class TestContract(OperatorContract):
    """Of the GGN of an MLP of 23 parameters at 4 samples with 3 outputs each."""

    def make(self, dtype, device):
        X, y = cases.classes(4)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 3)).double()
        twin = entropy_rows(model, X)
        batch = X.to(device, dtype), y.to(device)
        G = es.GGN(model.to(device, dtype), CROSS_ENTROPY, batch, chunk_size=2, micro_batch_size=3)
        return Case(G.factor(), twin.to(device))


class TestContractWithRowsAtHand(TestContract):
    """The same, once its rows have been found."""

    def make(self, dtype, device):
        case = super().make(dtype, device)
        case.operator.row_gram()
        return case


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_follow_the_data_however_they_are_cut(engine):
    X, y = cases.classes(SAMPLES)
    expected = entropy_rows(cases.mlp(), X)
    for sizes, micro_batch_size in (([SAMPLES], None), ([2, 9], None), ([1, 4, 6], 2)):
        data = list(zip(X.split(sizes), y.split(sizes), strict=True))
        B = es.GGN(cases.mlp(), CROSS_ENTROPY, data, engine=engine, micro_batch_size=micro_batch_size).factor()
        V = torch.randn(53, 4, generator=cases.generator(7), dtype=torch.float64)
        Y = torch.randn(3 * SAMPLES, 4, generator=cases.generator(8), dtype=torch.float64)
        assert B.shape == (3 * SAMPLES, 53)
        assert B.plan().engine == engine
        assert_close(B @ V, expected @ V)
        assert_close(B.T @ Y, expected.mT @ Y)
        assert_close(B.row_gram(), expected @ expected.mT)


LOSSES = {
    "cross-entropy": CROSS_ENTROPY,
    "class weights": nn.CrossEntropyLoss(WEIGHT),
    "smoothed": nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "squares": nn.MSELoss(),
    "sum of squares": nn.MSELoss(reduction="sum"),
    "bce": nn.BCEWithLogitsLoss(),
    "bce with weights": nn.BCEWithLogitsLoss(WEIGHT, pos_weight=3 * WEIGHT),
    "huber": nn.HuberLoss(),
    "log-softmax": es.Loss(lambda output, target: nn.functional.nll_loss(output.log_softmax(1), target), convex=True),
    "norms": es.Loss(lambda output, target: (output.square().sum(1) + 1).sqrt().mean(), convex=True),
    "flat": es.Loss(lambda output, target: output.sum(1).mean(), convex=True),
}


def data_for(loss, ignored=()):
    X, y = cases.classes(SAMPLES)
    y[list(ignored)] = -100
    if isinstance(loss, nn.CrossEntropyLoss | es.Loss):
        return X, y
    return X, nn.functional.one_hot(y, 3).double()


@pytest.mark.parametrize("name", LOSSES)
def test_its_square_is_the_ggn(name):
    """In closed form, or from the Hessian of each sample by autograd."""
    loss = LOSSES[name]
    X, target = data_for(loss)
    expected = cases.reference_ggn(cases.mlp(), getattr(loss, "function", loss), (X, target))
    for sizes, micro_batch_size in (([SAMPLES], None), ([1, 4, 6], 2)):
        data = list(zip(X.split(sizes), target.split(sizes), strict=True))
        G = es.GGN(cases.mlp(), loss, data, micro_batch_size=micro_batch_size, **UNTIMED)
        B = G.factor()
        rows = B.to_dense()
        assert_close(rows.mT @ rows, expected)
        assert_close(B.row_gram(), rows @ rows.mT)
        assert (B.T @ B).structure == Structure.PSD


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_ignored_targets_give_rows_of_zeros(weight):
    loss = nn.CrossEntropyLoss(weight)
    X, y = data_for(loss, [1, 5, 6])
    expected = cases.reference_ggn(cases.mlp(), loss, (X, y))
    for sizes in ([SAMPLES], [6, 5], [1, 1, 9]):
        data = list(zip(X.split(sizes), y.split(sizes), strict=True))
        B = es.GGN(cases.mlp(), loss, data, **UNTIMED).factor()
        rows = B.to_dense()
        assert_close(rows.mT @ rows, expected)
        assert_close(B.row_gram(), rows @ rows.mT)
        assert float(rows.view(SAMPLES, 3, -1)[[1, 5, 6]].abs().max()) == 0


@pytest.mark.parametrize("name", cases.tiny_zoo())
@pytest.mark.parametrize("kind", [es.GGN, es.EmpiricalFisher, es.MonteCarloFisher])
def test_layers_that_need_care(name, kind):
    """Attention, recurrence, tied and unused parameters, rows of padding; uneven batches."""
    model, (X, y) = cases.tiny_zoo()[name]
    A = kind(model, CROSS_ENTROPY, [(X[:1], y[:1]), (X[1:], y[1:])], micro_batch_size=3, **UNTIMED)
    B = A.factor()
    rows = B.to_dense()
    # Random columns tell two matrices apart as well as all of them.
    V = torch.randn(A.shape[1], 8, generator=cases.generator(7), dtype=torch.float64)
    Y = torch.randn(len(rows), 8, generator=cases.generator(8), dtype=torch.float64)
    assert_close(rows.mT @ (rows @ V), A @ V)
    assert_close(B.T @ Y, rows.mT @ Y)
    assert_close(B.row_gram(), rows @ rows.mT)


@pytest.mark.parametrize("name", ["transformer", "convolution"])
def test_its_square_is_the_reference_of_single_gradients(name):
    model, (X, y) = cases.tiny_zoo()[name]
    weights = torch.ones(len(X), dtype=torch.float64)
    rows = es.EmpiricalFisher(model, CROSS_ENTROPY, (X, y), **UNTIMED).factor().to_dense()
    assert len(rows) == len(X)
    assert_close(rows.mT @ rows, cases.reference_fisher(model, CROSS_ENTROPY, (X, y), weights))


@pytest.mark.parametrize("ignored", [[], [0, 5, 6]])
def test_rows_of_a_fisher_matrix_are_gradients(ignored):
    """√w_i ∇ℓ_iᵀ of the samples that weigh something, up to a sign."""
    loss = nn.CrossEntropyLoss(WEIGHT)
    X, y = data_for(loss, ignored)
    kept = [i for i in range(SAMPLES) if i not in ignored]
    weights = WEIGHT[y[kept]] / WEIGHT[y[kept]].sum()
    gradients = [
        cases.rows_of([loss(model(X[i : i + 1]), y[i : i + 1])], list(model.parameters()))[0]
        for model in [cases.mlp()]
        for i in kept
    ]
    for sizes in ([SAMPLES], [6, 5]):
        data = list(zip(X.split(sizes), y.split(sizes), strict=True))
        B = es.EmpiricalFisher(cases.mlp(), loss, data, **UNTIMED).factor()
        assert_close(B.to_dense(), weights.sqrt()[:, None] * torch.stack(gradients))
        assert_close(B.row_gram(), B.to_dense() @ B.to_dense().mT)


@pytest.mark.parametrize("name", ["cross-entropy", "squares", "bce"])
@pytest.mark.parametrize("draws", [1, 3])
def test_a_monte_carlo_fisher_has_a_row_for_each_draw(name, draws):
    X, target = data_for(LOSSES[name])
    F = es.MonteCarloFisher(cases.mlp(), LOSSES[name], (X, target), draws=draws, **UNTIMED)
    B = F.factor()
    assert B.shape == (SAMPLES * draws, 53)
    rows = B.to_dense()
    assert_close(rows.mT @ rows, F.to_dense())
    # A row belongs to its sample alone.
    cut = (
        es.MonteCarloFisher(cases.mlp(), LOSSES[name], (X[:4], target[:4]), draws=draws, **UNTIMED).factor().to_dense()
    )
    assert_close(cut, rows[: 4 * draws] * (SAMPLES / 4) ** 0.5)


def test_outputs_may_be_several_tensors():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cases.mlp()

        def forward(self, X):
            return self.net(X), torch.stack([self.net(-X), self.net(2 * X)], 1)

    def loss(output, target):
        return (output[0].square().sum(1) + (output[1].square().sum((1, 2)) + 1).sqrt()).mean()

    G = es.GGN(Twice(), es.Loss(loss, convex=True), cases.classes(SAMPLES), **UNTIMED)
    B = G.factor()
    assert B.shape == (9 * SAMPLES, 53)
    rows = B.to_dense()
    assert_close(rows.mT @ rows, G.to_dense())
    assert_close(B.row_gram(), rows @ rows.mT)


def test_a_selection_of_parameters_is_one_of_columns():
    full = es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(SAMPLES), **UNTIMED).factor()
    for pattern in ("2.*", "*.bias", "0.weight"):
        part = es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(SAMPLES), parameters=pattern, **UNTIMED).factor()
        expected = full.to_dense()[:, full.parameters.indices(pattern)]
        assert_close(part.to_dense(), expected)
        assert_close(part.row_gram(), expected @ expected.mT)


class TestWhereThereIsNone:
    def test_operators_that_are_no_products(self):
        for A in (Dense(torch.eye(3), Structure.PSD), Diagonal(torch.ones(3)), -(Dense(torch.eye(3)).T @ _two())):
            with pytest.raises(TypeError, match=r"no factor B .* is known of <"):
                A.factor()

    def test_a_hessian(self):
        with pytest.raises(TypeError, match=r"no factor B .* <Hessian"):
            es.Hessian(cases.mlp(), CROSS_ENTROPY, cases.classes()).factor()

    def test_a_loss_that_is_not_known_to_be_convex(self):
        G = es.GGN(cases.mlp(), lambda output, target: output.square().mean(), cases.classes())
        with pytest.raises(TypeError, match=r"not known to be convex.*convex=True"):
            G.factor()

    def test_a_loss_that_is_not_convex_although_it_says_so(self):
        G = es.GGN(cases.mlp(), es.Loss(lambda output, target: output.cos().mean(), convex=True), cases.classes())
        with pytest.raises(TypeError, match="below zero"):
            G.factor()

    def test_a_loss_that_couples_samples(self):
        def loss(output, target):
            return output.square().mean() + output.mean(0).square().sum()

        G = es.GGN(cases.mlp(), es.Loss(loss, convex=True), cases.classes())
        with pytest.raises(TypeError, match="couples the outputs of different samples"):
            G.factor()

    def test_outputs_without_the_dimension_of_samples(self):
        X, y = torch.randn(8, 5, 2, generator=cases.generator(), dtype=torch.float64), torch.arange(40) % 3
        G = es.GGN(nn.Sequential(nn.Linear(2, 3), nn.Flatten(0, 1)).double(), CROSS_ENTROPY, (X, y))
        with pytest.raises(ValueError, match="first dimension is that of the samples"):
            G.factor()

    def test_samples_that_weigh_less_than_nothing(self):
        X, y = cases.classes(SAMPLES)
        loss = nn.CrossEntropyLoss(torch.tensor([1.0, 1.0, -0.1], dtype=torch.float64), reduction="sum")
        with pytest.raises(TypeError, match="not known to be convex"):
            es.GGN(cases.mlp(), loss, (X, y)).factor()

    def test_data_that_are_shuffled_and_not_kept(self, monkeypatch):
        loader = DataLoader(TensorDataset(*cases.classes(SAMPLES)), batch_size=4, shuffle=True)
        G = es.GGN(cases.mlp(), CROSS_ENTROPY, loader)
        B = G.factor()  # in the order in which memory holds them
        assert_close(B.row_gram(), B.to_dense() @ B.to_dense().mT)
        monkeypatch.setattr("eigenspan.linops.curvature.data.free_memory", lambda device: 0)
        with pytest.raises(ValueError, match="shuffles anew"):
            es.GGN(cases.mlp(), CROSS_ENTROPY, loader).factor()


def _two():
    return Dense(2 * torch.eye(3))


class TestAlgebra:
    """Factors of what is built of operators that have one."""

    @pytest.fixture
    def B(self):  # noqa: N802
        return Dense(torch.randn(4, 6, generator=cases.generator(), dtype=torch.float64))

    @pytest.fixture
    def C(self):  # noqa: N802
        return Dense(torch.randn(6, 5, generator=cases.generator(1), dtype=torch.float64))

    def test_all_of_it(self, B, C):
        mask = es.MaskSubspace.random(6, 3, seed=1, dtype=torch.float64)
        for A in (
            B.T @ B,
            C.T @ B.T @ B @ C,
            C.T @ (B.T @ B) @ C,
            (B.T @ B).congruence(C),
            3.0 * (B.T @ B),
            (B.T @ B) / 7,
            0 * (B.T @ B),
            B.T @ B + 2 * (C @ C.T),
            B @ B.T,
            (B.T @ B).masked(mask),
            (B.T @ B).restricted(mask),
            (B.T @ B).deflated(mask),
        ):
            F, expected = A.factor(), A.to_dense()
            assert_close((F.T @ F).to_dense(), expected)
            assert_close(F.row_gram(), F.to_dense() @ F.to_dense().mT)

    def test_a_factor_is_the_one_that_was_given(self, B):
        assert (B.T @ B).factor() is B

    def test_of_curvature(self):
        G = es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(4), **UNTIMED)
        F = es.EmpiricalFisher(cases.mlp(), CROSS_ENTROPY, cases.classes(4), **UNTIMED)
        A = (0.5 * G + F).masked(es.MaskSubspace.random(53, 20, dtype=torch.float64))
        B = A.factor()
        assert B.shape == (16, 53)
        rows = B.to_dense()
        assert_close(rows.mT @ rows, A.to_dense())
        assert_close(B.row_gram(), rows @ rows.mT)

    def test_negative_multiples_have_none(self, B):
        with pytest.raises(TypeError, match="no factor B"):
            (-2 * (B.T @ B)).factor()


class TestPoint:
    @pytest.mark.parametrize("found", [False, True])
    def test_training_on_does_not_change_it(self, found):
        model, batch = cases.mlp(), cases.classes(SAMPLES)
        G = es.GGN(model, CROSS_ENTROPY, batch, **UNTIMED)
        B = G.factor()
        if found:
            B.row_gram()
        before = B.to_dense()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        assert_close(B.to_dense(), before)
        B.release()
        assert_close(B.to_dense(), before)
        assert_close(B.row_gram(), before @ before.mT)
        assert_close(G.factor().to_dense(), before)

    def test_it_shares_the_point_and_not_what_is_kept(self):
        G = es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(SAMPLES))
        B = G.factor()
        v = torch.ones(53, dtype=torch.float64)
        image = G @ v
        assert_close(B.T @ (B @ v), image)
        assert_close(G @ v, image)
        assert B.parameters is G.parameters
