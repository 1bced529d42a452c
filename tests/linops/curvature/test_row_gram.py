"""Inner products of rows of factors: by inputs and slopes of linear layers, or explicit, within a memory budget."""

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import eigenspan as es
from eigenspan.linops import Dense, Function
from eigenspan.linops.row_gram import row_products

CROSS_ENTROPY = nn.CrossEntropyLoss()
# float64: two ways to sum a few hundred products of numbers of order one.
UNTIMED = {"engine": "retained", "chunk_size": 8}
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def assert_row_gram(A, layers=None, budgets=(None,)):
    """B Bᵀ against rows from products, and the rows kept against them; ``layers`` are those with no explicit rows."""
    B = A.factor() if hasattr(A, "gradient") else A
    identity = torch.eye(B.shape[0], dtype=B.dtype, device=B.device)
    few = 2 * B.shape[0] < B.shape[1]  # rows take far fewer products than columns
    rows = (B.T @ identity).mT if few else B.to_dense()
    for budget in budgets:
        B.release()
        gram = B.row_gram(budget)
        assert (gram.dtype, gram.shape) == (torch.float64, (len(rows), len(rows)))
        assert_close(gram, rows.double() @ rows.double().mT)
        kept = B._rows_at_hand
        if budget is None:
            assert_close(B.to_dense(), rows)
            assert_close(B.T @ identity, rows.mT)
        if layers is not None and kept is not None:
            assert len(kept._layers) == layers


class Positions(nn.Module):
    """A transformer-like model of width 9, of logits (samples, symbols, positions): layer norms, embeddings, linear."""

    def __init__(self, symbols=5, width=9, tokens=3):
        super().__init__()
        torch.manual_seed(0)
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Parameter(torch.randn(tokens, width))
        self.norm, self.attend = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.up, self.down = nn.Linear(width, 10), nn.Linear(10, width, bias=False)
        self.head = nn.Linear(width, symbols)
        self.double()

    def forward(self, tokens):
        X = self.symbols(tokens) + self.places[: tokens.shape[1]]
        query, key, value = self.attend(self.norm(X)).chunk(3, -1)
        X = X + functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        X = X + self.down(functional.gelu(self.up(X)))
        return self.head(X).transpose(1, 2)


def tokens(samples=4, length=3):
    return (torch.randint(0, 5, (samples, length), generator=cases.generator(s)) for s in (1, 2))


@pytest.mark.parametrize("kind", [es.GGN, es.EmpiricalFisher, es.MonteCarloFisher])
def test_positions_of_a_sequence(kind):
    """Three of them, whose square is at most the columns of all weights."""
    assert_row_gram(kind(Positions(), CROSS_ENTROPY, tuple(tokens()), **UNTIMED), layers=4)


def test_positions_of_a_jacobian():
    J = es.Jacobian(Positions(), tuple(tokens()), **UNTIMED)
    rows = cases.dense_jacobian(Positions(), next(tokens())).view(4, 15, -1).flatten(0, 1)
    assert_close(J.row_gram(), rows @ rows.mT)
    assert len(J._rows_at_hand._layers) == 4


def test_many_positions_have_explicit_rows():
    """Where inner products of positions would take more than those of gradients."""
    batch = tuple(tokens(length=4))
    assert_row_gram(es.GGN(Positions(tokens=4), CROSS_ENTROPY, batch, **UNTIMED), layers=0)


def test_sequences_of_several_lengths():
    """Samples of fewer rows and positions than others."""
    data = [tuple(tokens(2, 2)), tuple(tokens(3, 3)), tuple(tokens(1, 1))]
    assert_row_gram(es.GGN(Positions(), CROSS_ENTROPY, data, **UNTIMED), layers=4)
    assert_row_gram(es.EmpiricalFisher(Positions(), CROSS_ENTROPY, data, **UNTIMED), layers=4)


class Shared(nn.Module):
    """One weight in two layers, with biases of their own."""

    def __init__(self, otherwise):
        super().__init__()
        self.net, self.bias, self.otherwise = cases.mlp(), nn.Parameter(torch.ones(5, dtype=torch.float64)), otherwise

    def forward(self, X):
        hidden = torch.tanh(functional.linear(X.flip(1), self.net[0].weight, self.bias))
        output = self.net(X) + self.net[2](hidden)
        return output + (X[:, :5] @ self.net[0].weight)[:, :3] if self.otherwise else output


def test_weights_of_several_layers():
    """Both of the weights are used twice, which is as good as at two positions."""
    assert_row_gram(es.GGN(Shared(otherwise=False), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=2)


def test_weights_that_are_used_otherwise_too():
    assert_row_gram(es.GGN(Shared(otherwise=True), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=1)


def test_weights_that_are_used_otherwise_in_a_later_sample_only():
    class Late(Shared):
        def forward(self, X):
            self.otherwise = bool((X[:, 0] > 9).any())
            return super().forward(X)

    X, y = cases.classes()
    X[7, 0] = 10.0
    data = [(X[i : i + 1], y[i : i + 1]) for i in range(len(X))]
    assert_row_gram(es.GGN(Late(False), CROSS_ENTROPY, data, **UNTIMED), layers=1)


class Hooked(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net = cases.mlp()
        change(self.net)

    def forward(self, X):
        return self.net(X)


CHANGES = {
    "weight norm": (lambda net: parametrizations.weight_norm(net[0]), 1),  # whose weight is no parameter
    "hook on outputs": (lambda net: net[0].register_forward_hook(lambda module, args, output: 2 * output.sin()), 2),
    "hook on inputs": (lambda net: net[2].register_forward_pre_hook(lambda module, args: (args[0] ** 2,)), 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_parametrised_and_hooked_layers(name):
    change, layers = CHANGES[name]
    assert_row_gram(es.GGN(Hooked(change), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=layers)


def test_layers_whose_outputs_change_in_place():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), cases.Applied(lambda X: X.mul_(2)))
    assert_row_gram(es.GGN(model.double(), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=2)


def test_layers_that_are_computed_anew_in_the_reverse_pass():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cases.mlp()

        def forward(self, X):
            return self.net[2](checkpoint(self.net[:2], X, use_reentrant=False))

    assert_row_gram(es.GGN(Checkpointed(), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=2)


def test_layers_within_a_vectorised_function():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cases.mlp()

        def forward(self, X):
            return torch.func.vmap(self.net)(X)

    assert_row_gram(es.GGN(Mapped(), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=0)


def test_a_function_that_cannot_be_vectorised():
    model = cases.mlp()
    model[1] = nn.Sequential(nn.Tanh(), cases.Applied(cases.Reading.apply))
    assert_row_gram(es.GGN(model, CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=2)


def test_autocast_is_that_of_the_operator():
    """Layers that compute in a shorter dtype have explicit rows, as autograd gives them."""
    batch = cases.classes(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        B = es.EmpiricalFisher(cases.mlp(dtype=torch.float32), CROSS_ENTROPY, batch).factor()
    gram = B.row_gram()
    assert not B._rows_at_hand._layers
    rows = es.EmpiricalFisher(cases.mlp(), CROSS_ENTROPY, cases.classes()).factor().to_dense()
    torch.testing.assert_close(gram, rows @ rows.mT, rtol=0.05, atol=0.05 * float(gram.max()))


def test_samples_that_the_model_mixes():
    """A batch that cannot be cut is one sample of many positions."""

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()

        def forward(self, X):
            output = self.net(X - X.mean(0) ** 2)
            return output * output.mean()

    X, y = cases.classes(2)
    assert_row_gram(es.Jacobian(Centred(), (X, y)), layers=2)


def test_one_output_a_sample():
    X, _ = cases.classes()
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)).double()
    assert_row_gram(es.GGN(model, nn.MSELoss(), (X, X[:, 0])), layers=2)


def test_a_parameter_without_dimensions():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = cases.mlp(), nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, X):
            return self.scale * self.net(X)

    assert_row_gram(es.GGN(Scaled(), CROSS_ENTROPY, cases.classes(), **UNTIMED), layers=2, budgets=(None, 2000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_are_taken_in_double_precision(dtype, device):
    """Of rows as they are rounded: float32 holds seven digits of each, and loses none in sums of 8,000 products."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8000, 2), nn.Tanh(), nn.Linear(2, 3)).to(device, dtype)
    X = torch.rand(4, 8000, generator=cases.generator(), dtype=torch.float64).to(device, dtype)
    B = es.EmpiricalFisher(model, CROSS_ENTROPY, (X, torch.arange(4, device=device) % 3)).factor()
    gram = B.row_gram()
    assert len(B._rows_at_hand._layers) == 2
    rows = B.T @ torch.eye(4, dtype=dtype, device=device)
    expected = rows.double().mT @ rows.double()
    # δ aᵀ is rounded once more than δ and a: a random walk of 16,000 steps, far below one rounding.
    limit = 0.2 * torch.finfo(dtype).eps * float(expected.max()) if dtype == torch.float32 else 1e-12
    assert float((gram - expected).abs().max()) < limit


class TestMemoryBudget:
    def test_any_budget_gives_the_same(self):
        """Of 16 rows of 8 bytes, with 177 columns: all at once, in several groups, and a column at a time."""
        model, batch = cases.tiny_zoo()["convolution"]
        for A in (
            es.GGN(model, CROSS_ENTROPY, batch, **UNTIMED),
            es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(4), **UNTIMED),
        ):
            assert_row_gram(A, budgets=(None, 100_000, 3000, 1000, 300))

    def test_positions_and_selections(self):
        A = es.GGN(Positions(), CROSS_ENTROPY, tuple(tokens(2)), parameters=["up", "attend", "symbols"])
        assert_row_gram(A, budgets=(None, 60_000, 20_000))

    def test_layers_need_no_room_for_their_gradients(self):
        """A matrix of 90,000 entries for 12 rows, within a budget that does not hold one row: one pass over samples."""
        seen = []
        model = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3)).double()
        model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        X = torch.randn(4, 300, generator=cases.generator(), dtype=torch.float64)
        B = es.GGN(model, CROSS_ENTROPY, (X, torch.arange(4) % 3), **UNTIMED).factor()
        seen.clear()
        gram = B.row_gram(300_000)
        assert seen.count(1) == 4 + 1  # the first one tells how much room they take
        assert B._rows_at_hand is not None
        B.release()
        rows = (B.T @ torch.eye(12, dtype=torch.float64)).mT
        assert_close(gram, rows @ rows.mT)

    def test_rows_that_fit_are_kept_until_they_are_released(self):
        seen = []
        model = cases.mlp()
        model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
        B = es.GGN(model, CROSS_ENTROPY, cases.classes(4), **UNTIMED).factor()
        B.row_gram()
        seen.clear()
        B @ torch.ones(53, dtype=torch.float64), B.T @ torch.ones(12, dtype=torch.float64)
        assert seen == []
        B.release()
        B.T @ torch.ones(12, dtype=torch.float64)
        assert seen
        B.row_gram(1000)
        seen.clear()
        B.release()
        B.T @ torch.ones(12, dtype=torch.float64)
        assert seen

    def test_less_than_a_column(self):
        B = es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(4), **UNTIMED).factor()
        with pytest.raises(ValueError, match=r"do not hold a column of 12 rows: allow at least 121"):
            B.row_gram(119)
        assert_close(B.row_gram(121), B.to_dense() @ B.to_dense().mT)

    @pytest.mark.parametrize("budget", [0, -1, 1.5, True])
    def test_no_budget(self, budget):
        B = es.GGN(cases.mlp(), CROSS_ENTROPY, cases.classes(4), **UNTIMED).factor()
        for operator in (B, Dense(torch.ones(3, 4))):
            with pytest.raises(ValueError, match="memory_budget is None or an integer >= 1"):
                operator.row_gram(budget)


def test_the_model_is_not_touched():
    model, batch = Positions(), tuple(tokens())
    B = es.GGN(model, CROSS_ENTROPY, batch, **UNTIMED).factor()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    originals = [id(parameter) for parameter in model.parameters()]
    random = torch.get_rng_state()
    with torch.no_grad():
        B.row_gram()
    with torch.inference_mode():
        B.row_gram()
    assert torch.equal(torch.get_rng_state(), random)
    assert [id(parameter) for parameter in model.parameters()] == originals
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_is_of_the_point():
    model, batch = cases.mlp(), cases.classes()
    B = es.GGN(model, CROSS_ENTROPY, batch, **UNTIMED).factor()
    expected = B.row_gram()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert_close(B.row_gram(), expected)


class TestOfAnyOperator:
    """By products with the identity."""

    def rectangle(self, dtype=torch.float64, device="cpu"):
        return torch.randn(7, 30, generator=cases.generator(), dtype=torch.float64).to(device, dtype)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_a_matrix(self, dtype, device):
        M = self.rectangle(dtype, device)
        expected = M.double() @ M.double().mT
        for A in (Dense(M), Dense(M.mT.contiguous()).T, Dense(M[:3]).T @ Dense(M[:3]) @ Dense(M).T):
            rows = A.to_dense().double()
            found = A.row_gram()
            assert found.dtype == torch.float64
            # Rows of products are rounded in their own dtype.
            rounding = 1e-12 if dtype == torch.float64 or isinstance(A, Dense) else 1e-6
            torch.testing.assert_close(found, rows @ rows.mT, rtol=0, atol=rounding * float(rows.norm() ** 2))
        assert_close((2.0 * Dense(M)).row_gram(), 4 * expected)

    def test_blocks_that_the_budget_holds(self):
        """Each row costs a product with the transpose, once for all it is multiplied with where it is not kept."""
        M = self.rectangle()
        for rows, widths in ((7, [7]), (6, [3, 3, 1, 3, 1, 1]), (2, [1] * 28)):
            seen = []

            def rmatmat(Y, seen=seen):
                seen.append(Y.shape[1])
                return M.mT @ Y

            A = Function(lambda X: M @ X, M.shape, M.dtype, rmatmat=rmatmat)
            assert_close(A.row_gram(rows * 30 * 8), M @ M.mT)
            assert sorted(seen) == sorted(widths)
        with pytest.raises(ValueError, match="do not hold two rows"):
            A.row_gram(30 * 8)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
    def test_small_ones(self, shape):
        assert torch.equal(Dense(torch.ones(shape)).row_gram(), torch.full(shape[:1] * 2, shape[1] * 1.0).double())

    def test_many_rows(self):
        """Where only half of the products are computed."""
        X = torch.randn(700, 9, generator=cases.generator(), dtype=torch.float64)
        assert_close(row_products(X, X), X @ X.mT)
        assert_close(row_products(X[:5], X), X[:5] @ X.mT)
