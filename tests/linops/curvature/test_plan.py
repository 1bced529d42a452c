"""Plans of products: they change time and memory, never the operator, and what they keep is used and given back."""

import copy
import functools
import gc
import logging
import pickle
import re
import weakref

import curvature_cases as cases
import pytest
import torch
from torch import nn

import eigenspan as es
from eigenspan.linops.curvature import operator as operator_module
from eigenspan.linops.curvature import plan as plan_module
from eigenspan.linops.curvature import trial as trial_module
from eigenspan.linops.curvature.data import first_samples

SAMPLES = 24
ENGINES = ("linearised", "retained", "forward")
# Random ones tell two matrices apart as well as all of them.
COLUMNS = torch.randn(53, 5, generator=cases.generator(3), dtype=torch.float64)


class Watched(nn.Sequential):
    """The MLP of the cases, which notes how many samples each forward pass sees."""

    def __init__(self):
        super().__init__(*cases.mlp())
        self.seen = []

    def forward(self, X):
        self.seen.append(len(X))
        return super().forward(X)


def hessian(model=None, batch=None, operator=es.Hessian, **options):
    batch = cases.classes(SAMPLES) if batch is None else batch
    return operator(cases.mlp() if model is None else model, nn.CrossEntropyLoss(), batch, **options)


def least_budget(**options):
    """The bytes that a plan for one column needs at least, by its own reckoning: they keep nothing beside."""
    with pytest.raises(ValueError, match="memory_budget") as refusal:
        hessian(memory_budget=1, **options).plan()
    return int(re.search(r"about (\d+) bytes", str(refusal.value))[1])


@functools.cache
def matrix(operator):
    twin = cases.dense_hessian if operator is es.Hessian else cases.dense_ggn
    return twin(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(SAMPLES))


def assert_is_the_matrix(H, operator):
    """In float64, to rounding."""
    expected = matrix(operator)
    torch.testing.assert_close(H @ COLUMNS, expected @ COLUMNS, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(H @ torch.ones(53, dtype=torch.float64), expected.sum(1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
@pytest.mark.parametrize(
    ("micro_batch_size", "chunk_size"), [(None, None), (None, 4), (1, None), (7, 1), (7, 4), (SAMPLES, 1)]
)
def test_every_plan_is_of_the_same_matrix(operator, micro_batch_size, chunk_size):
    H = hessian(operator=operator, micro_batch_size=micro_batch_size, chunk_size=chunk_size)
    assert H.plan(5).kept
    assert_is_the_matrix(H, operator)


@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
@pytest.mark.parametrize(("micro_batch_size", "chunk_size"), [(None, None), (None, 4), (7, 4), (SAMPLES, None)])
def test_a_tight_budget_is_of_the_same_matrix(operator, micro_batch_size, chunk_size):
    """It holds a product with the smallest piece, and next to nothing more: that piece, if it is the only one."""
    options = {"operator": operator, "micro_batch_size": micro_batch_size, "chunk_size": chunk_size}
    H = hessian(memory_budget=int(1.02 * least_budget(**options)), **options)
    plan = H.plan(5)
    assert plan.kept == (micro_batch_size == SAMPLES and plan.engine != "forward")
    assert_is_the_matrix(H, operator)


@pytest.mark.parametrize("engine", ["linearised", "retained"])
def test_what_is_kept_spares_forward_passes_until_released(engine):
    model = Watched()
    H = hessian(model, chunk_size=1, micro_batch_size=8, engine=engine)
    v = torch.ones(53, dtype=torch.float64)
    first = H @ v
    model.seen.clear()
    assert torch.equal(H @ v, first)
    assert model.seen == []
    H.release()
    assert torch.equal(H @ v, first)
    assert model.seen == [8, 8, 8]


@pytest.mark.parametrize("engine", ["linearised", "retained"])
def test_without_memory_everything_is_built_for_each_product(engine):
    model = Watched()
    budget = int(1.02 * least_budget(engine=engine))
    H = hessian(model, chunk_size=1, engine=engine, memory_budget=budget)
    plan = H.plan()
    assert not plan.kept
    assert plan.kept_bytes > budget - least_budget(engine=engine)
    for _ in range(2):
        model.seen.clear()
        H @ torch.ones(53, 2, dtype=torch.float64)
        assert sum(model.seen) == SAMPLES
        assert max(model.seen) == plan.micro_batch_size < SAMPLES


@pytest.mark.parametrize(
    ("columns", "recording", "engine"), [(8, 0.0, "linearised"), (8, 1e3, "retained"), (1, 0.0, "retained")]
)
def test_programs_are_recorded_for_one_product_where_a_wide_block_pays_for_it(columns, recording, engine, monkeypatch):
    """By made-up times: a program is twice as fast as a graph, and is recorded at no cost, or at more than it gains."""
    seconds = {"linearised": 1e-6, "retained": 2e-6, "forward": 1.0}
    monkeypatch.setattr(trial_module.Trial, "seconds", lambda self, engine, size, columns: seconds[engine])
    monkeypatch.setattr(
        trial_module.Trial,
        "building_seconds",
        lambda self, engine, size, columns: recording if engine == "linearised" else 0.0,
    )
    budget = int(1.1 * max(least_budget(engine=each, chunk_size=1) for each in ("linearised", "retained")))
    H = hessian(memory_budget=budget, chunk_size=1)
    plan = H.plan(columns)
    assert (plan.engine, plan.kept) == (engine, False)
    assert_is_the_matrix(H, es.Hessian)


@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
def test_tf32_is_for_who_asks(operator, device):
    """Three digits on a GPU, every digit on a CPU; without it, those of float32 whatever PyTorch is set to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32 * 36, 10)).to(device)
    batch = torch.randn(16, 3, 8, 8, device=device), torch.arange(16, device=device) % 10
    v = torch.randn(sum(p.numel() for p in model.parameters()), device=device)
    plain, rounded = (operator(model, nn.CrossEntropyLoss(), batch, tf32=tf32) @ v for tf32 in (False, True))
    exact = operator(model.double(), nn.CrossEntropyLoss(), (batch[0].double(), batch[1])) @ v.double()
    assert float((plain - exact).norm()) < 1e-5 * float(exact.norm())  # some hundred roundings of float32
    assert float((rounded - exact).norm()) < 1e-2 * float(exact.norm())
    assert torch.equal(plain, rounded) == (device == "cpu")


def test_forward_mode_keeps_nothing_and_goes_through_the_data_for_each_column():
    model = Watched()
    H = hessian(model, engine="forward", micro_batch_size=8)
    plan = H.plan(3)
    assert (plan.engine, plan.kept, plan.kept_bytes, plan.chunk_size) == ("forward", False, 0, 1)
    model.seen.clear()
    H @ torch.ones(53, 3, dtype=torch.float64)
    assert sum(model.seen) == 3 * SAMPLES


class TestEngines:
    """Which engine is taken, and what becomes of models that one cannot do."""

    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
    def test_by_hand(self, operator, engine):
        """Reverse and forward mode differ by the order of sums only."""
        H = hessian(operator=operator, engine=engine)
        assert H.plan(4).engine == engine
        reference = hessian(operator=operator, engine="retained", chunk_size=1)
        torch.testing.assert_close(H @ COLUMNS, reference @ COLUMNS, rtol=1e-12, atol=1e-13)

    def test_unknown(self):
        with pytest.raises(ValueError, match="engine is None or one of 'linearised', 'retained', 'forward', got 'jvp'"):
            hessian(engine="jvp")

    def test_forward_mode_takes_columns_one_by_one(self):
        with pytest.raises(ValueError, match="chunk_size=4 cannot be had"):
            hessian(engine="forward", chunk_size=4)
        assert hessian(engine="forward", chunk_size=1).plan(4).chunk_size == 1

    def model_with(self, function):
        model = cases.mlp()
        model[1] = nn.Sequential(nn.Tanh(), cases.Applied(function.apply))
        return model

    @pytest.mark.parametrize(
        ("function", "engine", "reason"),
        [
            (cases.Cube, "forward", "jvp"),
            (cases.Reading, "forward", "jvp"),
            (cases.Reading, "linearised", "reads a number"),
        ],
    )
    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
    def test_one_that_cannot_do_the_model_says_why(self, operator, function, engine, reason):
        H = hessian(self.model_with(function), operator=operator, engine=engine)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"engine='{engine}' cannot do.*{reason}.*engine='retained' can"):
                H @ torch.ones(53, dtype=torch.float64)

    @pytest.mark.parametrize("function", [cases.Cube, cases.Reading])
    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
    def test_others_are_taken_by_default(self, operator, function):
        model = self.model_with(function)
        twin = cases.dense_hessian if operator is es.Hessian else cases.dense_ggn
        expected = twin(model, nn.CrossEntropyLoss(), cases.classes(SAMPLES))
        H = hessian(model, operator=operator)
        plan = H.plan(16)
        if function is cases.Reading:
            assert (plan.engine, plan.chunk_size) == ("retained", 1)
        torch.testing.assert_close(H @ COLUMNS, expected @ COLUMNS, rtol=1e-12, atol=1e-13)
        tight = hessian(model, operator=operator, memory_budget=least_budget(model=model, operator=operator))
        assert not tight.plan().kept
        torch.testing.assert_close(tight @ COLUMNS, expected @ COLUMNS, rtol=1e-12, atol=1e-13)

    def test_columns_at_once_that_cannot_be_had_are_an_error(self):
        H = hessian(self.model_with(cases.Reading), chunk_size=4)
        with pytest.raises(RuntimeError, match="chunk_size=1"):
            H.to_dense()


class ReadingOneBatch(nn.Module):
    """The MLP of the cases, which goes through a function that no program holds for batches of three."""

    def __init__(self):
        super().__init__()
        self.net = cases.mlp()

    def forward(self, X):
        hidden = self.net[:2](X)
        return self.net[2](cases.Reading.apply(hidden) if len(X) == 3 else hidden)


class TestBatchesThatTakeAnotherWay:
    """The trial is on the first of them, and cannot see it."""

    def data(self):
        X, y = cases.classes(11)
        return [(X[:8], y[:8]), (X[8:], y[8:])]

    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
    def test_they_go_by_their_graph(self, operator, caplog):
        H = hessian(ReadingOneBatch(), self.data(), operator, chunk_size=1)
        expected = hessian(cases.mlp(), cases.classes(11), operator, engine="retained")
        with caplog.at_level(logging.WARNING):
            assert H.plan(4).engine == "linearised"
            found = H @ COLUMNS
        torch.testing.assert_close(found, expected @ COLUMNS, rtol=1e-12, atol=1e-13)
        assert "reads a number" in caplog.text

    def test_an_engine_by_hand_is_not_replaced(self):
        H = hessian(ReadingOneBatch(), self.data(), engine="linearised", chunk_size=1)
        with pytest.raises(RuntimeError, match="reads a number"):
            H @ torch.ones(53, dtype=torch.float64)

    @pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
    def test_forward_mode_never_gives_another_matrix(self, operator):
        """A row of padding has no gradient, but a tangent, and the first batch has no padding."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(4, 2, padding_idx=0), nn.Flatten(), nn.Linear(4, 3)).double()
        batches = [(torch.tensor([[1, 2]]), torch.tensor([0])), (torch.tensor([[0, 3], [3, 0]]), torch.tensor([1, 2]))]
        expected = hessian(model, batches, operator, engine="retained", chunk_size=8).to_dense()
        found = hessian(model, batches, operator, engine="forward").to_dense()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


class TestReckoning:
    """What a plan says of memory is what is there, whatever else the data's tensors hold."""

    @pytest.mark.parametrize("micro_batch_size", [1, 8, None])
    def test_programs_take_what_the_plan_says(self, micro_batch_size):
        """To a fifth: it is measured on a part of the data."""
        X, y = cases.classes(SAMPLES)
        H = hessian(batch=(X, y), engine="linearised", micro_batch_size=micro_batch_size, chunk_size=1)
        H @ torch.ones(53, dtype=torch.float64)
        held = sum(program.kept_bytes((*H._leaves.values(), X, y)) for program in H._kept)
        assert H.plan().kept_bytes == pytest.approx(held, rel=0.2)

    @pytest.mark.parametrize("engine", ["linearised", "retained"])
    def test_the_rest_of_a_data_set_does_not_count(self, engine):
        """Batches that are slices of one tensor take as much as copies of them."""
        X, y = cases.classes(100)
        parts = [slice(start, start + 4) for start in range(0, 100, 4)]
        options = {"engine": engine, "micro_batch_size": 4, "chunk_size": 1}
        slices = hessian(batch=[(X[part], y[part]) for part in parts], **options).plan()
        copies = hessian(batch=[(X[part].clone(), y[part].clone()) for part in parts], **options).plan()
        assert slices.kept_bytes == copies.kept_bytes > 0

    @pytest.mark.parametrize(
        ("operator", "engine", "gradients"),
        [
            (es.Hessian, "linearised", 0),
            (es.Hessian, "retained", 20),
            (es.GGN, "linearised", 0),
            (es.GGN, "retained", 20),
        ],
    )
    def test_parameters_are_not_counted_for_each_piece(self, operator, engine, gradients):
        """Nor their transposes: beside gradients as large as a layer, all pieces keep less than half of it."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(500, 500), nn.Tanh(), nn.Linear(500, 3)).double()
        batch = torch.randn(20, 500, dtype=torch.float64), torch.randint(0, 3, (20,))
        plan = hessian(model, batch, operator, engine=engine, micro_batch_size=1, chunk_size=1).plan()
        layer = 500 * 500 * 8
        assert 0 < plan.kept_bytes < 1.05 * gradients * layer + 0.5 * layer


class TestFewProducts:
    """A trial must not cost more than the products that it is for."""

    @pytest.mark.parametrize(("columns", "products"), [(1, 1), (2, 2), (4, 1)])
    def test_nothing_is_timed_or_linearised(self, monkeypatch, columns, products):
        def never(*args, **keywords):
            raise AssertionError("timed or linearised")

        expected = matrix(es.Hessian)
        monkeypatch.setattr(plan_module.Trial, "seconds", never)
        monkeypatch.setattr(operator_module, "Linearised", never)
        H = hessian()
        assert H.plan(columns, products=products).engine != "linearised"
        X = torch.eye(53, columns, dtype=torch.float64)
        torch.testing.assert_close(H @ X, expected[:, :columns], rtol=1e-12, atol=1e-14)

    def test_more_of_them_start_a_trial(self):
        H = hessian()
        assert H.plan(1, products=1).engine == "retained"
        assert H.plan(16, products=100).engine == "linearised"

    def test_products_beyond_those_announced_start_a_trial(self):
        H = hessian()
        v = torch.ones(53, dtype=torch.float64)
        assert H.plan(1, products=2).engine == "retained"
        H @ v
        assert H.plan().engine == "retained"
        for _ in range(2):
            H @ v
        assert H.plan().engine == "linearised"

    def test_announcements_leave_what_is_planned_and_kept(self):
        H = hessian()
        H @ torch.ones(53, dtype=torch.float64)
        plan, kept = H.plan(), H._kept
        assert H.plan(products=1) == H.plan(products=100) == plan
        assert H._kept is kept

    @pytest.mark.parametrize("wrong", [{"columns": 0}, {"columns": 2.5}, {"products": 0}, {"products": True}])
    def test_numbers_that_are_none(self, wrong):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} is .*an integer >= 1"):
            hessian().plan(**wrong)

    def test_a_wider_block_than_announced_is_planned_anew(self):
        H = hessian()
        assert H.plan(1, products=1).engine == "retained"
        H @ torch.eye(53, dtype=torch.float64)
        assert H.plan().engine == "linearised"


def test_a_budget_that_is_too_small_says_what_would_do():
    with pytest.raises(ValueError, match=r"about (\d+) bytes") as refusal:
        hessian(memory_budget=100).plan()
    least = int(str(refusal.value).split("about ")[1].split()[0])
    H = hessian(memory_budget=least)
    assert H.plan().micro_batch_size == 1
    assert_is_the_matrix(H, es.Hessian)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("columns", [1, 3])
def test_inference_mode_changes_nothing(engine, columns):
    """Neither around the construction, nor around the first product, nor in what it is given."""
    X = torch.randn(53, columns, dtype=torch.float64)
    expected = hessian(engine=engine) @ X
    with torch.inference_mode():
        H = hessian(engine=engine)
        found = H @ (X * 1.0)
        gradient = H.gradient()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(H @ X, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, hessian(engine=engine).gradient(), rtol=1e-12, atol=1e-14)
    found.add_(1)  # an ordinary tensor
    J = es.Jacobian(cases.mlp(), cases.classes(SAMPLES), engine=engine)
    with torch.inference_mode():
        inside = J @ X
    torch.testing.assert_close(inside, J @ X, rtol=1e-12, atol=1e-14)
    rows = cases.dense_jacobian(cases.mlp(), cases.classes(SAMPLES)[0])
    torch.testing.assert_close(inside, rows @ X, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
def test_autocast_counts_as_of_where_the_operator_is_built(operator, engine):
    """Also for what is kept, and for blocks whose programs are recorded within."""
    model, batch = cases.mlp(dtype=torch.float32), cases.classes(SAMPLES, dtype=torch.float32)
    X = torch.randn(53, 4)
    H = hessian(model, batch, operator, engine=engine)
    expected = H @ X
    H.release()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(H @ X, expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close((H @ X[:, 0]), expected[:, 0], rtol=1e-5, atol=1e-6)


def test_copies_and_pickles_are_operators_of_their_own():
    H = hessian(operator=es.GGN)
    expected = H @ COLUMNS
    for twin in (pickle.loads(pickle.dumps(H)), copy.deepcopy(H)):
        torch.testing.assert_close(twin @ COLUMNS, expected, rtol=1e-12, atol=1e-14)


def test_the_trial_is_on_samples_that_weigh_something():
    """With ignored targets only, all would agree and cost nothing."""
    X, y = cases.classes(40)
    y[:25] = -100
    ignored = torch.full((4,), -100)
    expected = hessian(batch=(X[25:], y[25:]), engine="retained", chunk_size=5) @ COLUMNS
    H = hessian(batch=[(X[:4], ignored), (X, y)])
    few = first_samples(H._risk.typical_batch(4), 4)
    assert (few[1] != -100).any()
    torch.testing.assert_close(H @ COLUMNS, expected, rtol=1e-12, atol=1e-13)


def test_batches_larger_than_the_first_are_cut_like_it():
    model = Watched()
    X, y = cases.classes(SAMPLES)
    H = hessian(model, [(X[:4], y[:4]), (X[4:], y[4:])])
    assert H.plan().micro_batch_size == 4
    model.seen.clear()
    H @ torch.ones(53, dtype=torch.float64)
    assert max(model.seen) == 4
    assert_is_the_matrix(H, es.Hessian)


@pytest.mark.parametrize("engine", ["linearised", "retained"])
def test_constants_of_every_piece_are_counted(engine):
    """Each has a copy of the buffers."""
    model = nn.Sequential(cases.mlp(), nn.BatchNorm1d(3)).double().eval()
    model.register_buffer("table", torch.zeros(10_000, dtype=torch.float64))
    batch = cases.classes(SAMPLES)
    H = hessian(model, batch, engine=engine, micro_batch_size=1, chunk_size=1)
    H @ torch.ones(H.shape[0], dtype=torch.float64)
    if engine == "linearised":
        held = sum(program.kept_bytes((*H._leaves.values(), *batch)) for program in H._kept)
        assert H.plan().kept_bytes == pytest.approx(held, rel=0.2)
    else:
        assert H.plan().kept_bytes < SAMPLES * 80_000 * 1.5


def test_the_operator_stays_at_its_point():
    model = cases.mlp()
    H = hessian(model)
    v = torch.ones(53, dtype=torch.float64)
    before = H @ v
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(H @ v, before)
    H.release()
    assert torch.equal(H @ v, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_data_changed_before_the_first_product_or_its_release(engine):
    inputs, targets = cases.classes(SAMPLES)
    for data in ((inputs, targets), [(inputs[:20], targets[:20]), (inputs[20:], targets[20:])]):
        H = hessian(batch=data, engine=engine)
        inputs.mul_(2)
        with pytest.raises(RuntimeError, match="data were changed in place"):
            H @ torch.ones(53, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="data were changed in place"):
            H.gradient()


def test_a_model_may_write_to_its_inputs():
    batch = cases.classes(SAMPLES)
    expected = hessian(nn.Sequential(nn.ReLU(), *cases.mlp())) @ COLUMNS
    H = hessian(nn.Sequential(nn.ReLU(inplace=True), *cases.mlp()), batch)
    torch.testing.assert_close(H @ COLUMNS, expected, rtol=1e-12, atol=1e-13)
    H.release()
    torch.testing.assert_close(H @ COLUMNS, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ["linearised", "retained"])
@pytest.mark.parametrize("columns", [1, 4])
def test_data_changed_in_place_are_an_error_not_another_matrix(engine, columns):
    inputs, targets = cases.classes(SAMPLES)
    H = hessian(batch=(inputs, targets), engine=engine)
    X = torch.ones(53, columns, dtype=torch.float64)
    H @ X
    inputs.mul_(2)
    with pytest.raises(RuntimeError, match="changed after the operator was built"):
        H @ X


def test_a_loss_that_does_not_add_up_goes_uncut():
    """The logarithm of a sum over samples is no mean over them."""
    model = Watched()

    def contrastive(output, target):
        return torch.logsumexp(output.gather(1, target[:, None]).flatten(), 0)

    H = es.Hessian(model, contrastive, cases.classes(SAMPLES))
    assert H.plan().micro_batch_size is None
    model.seen.clear()
    H.release()
    H @ torch.ones(53, dtype=torch.float64)
    assert model.seen == [SAMPLES]


def test_targets_of_another_length_go_uncut_or_are_refused():
    model = cases.SequenceModel(nn.Identity()).double()

    def loss(output, target):
        return nn.functional.cross_entropy(output.transpose(1, 2).flatten(0, 1), target)

    tokens, targets = torch.randint(0, 11, (20, 5)), torch.randint(0, 11, (100,))
    whole = es.Hessian(model, loss, (tokens, targets))
    assert whole.plan().micro_batch_size is None
    batches = [(tokens[:8], targets[:40]), (tokens[8:], targets[40:])]
    v = torch.randn(whole.shape[0], 2, dtype=torch.float64)
    torch.testing.assert_close(es.Hessian(model, loss, batches) @ v, whole @ v, rtol=1e-10, atol=1e-13)
    with pytest.raises(ValueError, match="cannot be cut"):
        es.Hessian(model, loss, (tokens, targets), micro_batch_size=4)


def test_out_of_memory_halves_the_columns_at_once(monkeypatch, caplog):
    H, widths = hessian(chunk_size=8), []
    product = operator_module.summed_product

    def tight(shares, parameters, X, chunk_size):
        widths.append(chunk_size)
        if chunk_size > 2:
            raise torch.OutOfMemoryError("no memory left")
        return product(shares, parameters, X, chunk_size)

    expected = matrix(es.Hessian)
    monkeypatch.setattr(operator_module, "summed_product", tight)
    with caplog.at_level(logging.WARNING):
        found = H @ torch.eye(53, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert widths == [8, 4, 2]
    assert H.plan().chunk_size == 2
    assert "out of memory" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("operator", [es.Hessian, es.GGN, es.EmpiricalFisher])
def test_what_is_kept_goes_with_the_operator(operator, engine):
    H = hessian(operator=operator, engine=engine, chunk_size=1 if engine == "forward" else 3)
    H @ torch.ones(53, 3, dtype=torch.float64)
    leaf = weakref.ref(next(iter(H._leaves.values())))
    del H
    gc.collect()
    assert leaf() is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"engine": "retained", "micro_batch_size": 50, "chunk_size": 1, "kept": True},
            "retained: micro-batches of 50, columns one by one, graphs of 3 MiB in all, kept",
        ),
        (
            {"engine": "linearised", "micro_batch_size": None, "chunk_size": 8, "kept": True},
            "linearised: batches as they come, 8 columns at once, linear programs of 3 MiB in all, kept",
        ),
        (
            {"engine": "retained", "micro_batch_size": None, "chunk_size": 8, "kept": False, "reason": "no rule"},
            "retained: batches as they come, 8 columns at once, graphs of 3 MiB in all, built anew for each product "
            "(no linear program: no rule)",
        ),
        (
            {"engine": "forward", "micro_batch_size": 50, "chunk_size": 1, "kept": False},
            "forward: micro-batches of 50, columns one by one, nothing kept",
        ),
    ],
)
def test_a_plan_reads_as_a_sentence(fields, sentence):
    assert str(es.ProductPlan(kept_bytes=3 * 2**20, **fields)) == sentence
