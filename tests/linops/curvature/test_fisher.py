"""Fisher matrices against outer products of single samples' gradients, and against the mean of their draws."""

import dataclasses
import functools

import curvature_cases as cases
import pytest
import torch
from operator_contract import Case, OperatorContract
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import eigenspan as es
from eigenspan.linops import Structure

# float64: two ways to sum a few hundred products of numbers of order one.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
SAMPLES = 11
WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
# Random ones tell two matrices apart as well as all of them.
COLUMNS = torch.randn(53, 4, generator=cases.generator(7), dtype=torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def data(ignored=()):
    X, y = cases.classes(SAMPLES)
    return X, y.index_fill(0, torch.tensor(ignored, dtype=torch.int64), -100)


def targets_of(name, y):
    """As the loss wants them: classes, or numbers for each of three outputs."""
    return y if name == "cross-entropy" else functional.one_hot(y, 3).double()


ALL = torch.ones(SAMPLES, dtype=torch.float64)


class TestEmpiricalFisher(OperatorContract):
    """Of cross-entropy with class weights, where one sample is ignored."""

    def make(self, dtype, device):
        X, y = data([4])
        loss = nn.CrossEntropyLoss(WEIGHT)
        twin = cases.reference_fisher(self.model(), loss, (X, y), WEIGHT[y.clamp(min=0)] * (y >= 0))
        batch = X.to(device, dtype), y.to(device)
        single = nn.CrossEntropyLoss(WEIGHT.to(device, dtype))
        operator = es.EmpiricalFisher(self.model().to(device, dtype), single, batch, chunk_size=2)
        return Case(operator, twin.to(device), Structure.PSD)

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 3)).double()

    @pytest.mark.parametrize(
        ("weight", "ignored", "label_smoothing"),
        [
            (None, (), 0.0),
            (None, (0, 1, 2, 10), 0.2),
            (WEIGHT, (), 0.2),
            (WEIGHT, (0,), 0.0),
            (WEIGHT, (0, 1, 2, 10), 0.2),
        ],
    )
    def test_samples_weigh_what_their_classes_do(self, weight, ignored, label_smoothing):
        X, y = data(ignored)
        loss = nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing)
        weights = (ALL if weight is None else weight[y.clamp(min=0)]) * (y >= 0)
        expected = cases.reference_fisher(cases.mlp(), loss, (X, y), weights)
        for sizes, options in (
            ([SAMPLES], {}),
            ([3, 8], {"engine": "retained", "chunk_size": 3}),
            ([1, 4, 6], {"engine": "linearised", "chunk_size": 1, "micro_batch_size": 2}),
        ):
            batches = list(zip(X.split(sizes), y.split(sizes), strict=True))
            F = es.EmpiricalFisher(cases.mlp(), loss, batches, **options)
            assert_close(F @ COLUMNS, expected @ COLUMNS)

    @pytest.mark.parametrize(
        "loss",
        [
            nn.CrossEntropyLoss(reduction="sum"),
            nn.CrossEntropyLoss(WEIGHT, reduction="sum", label_smoothing=0.1),
            nn.MSELoss(reduction="sum"),
            nn.BCEWithLogitsLoss(reduction="sum"),
        ],
    )
    def test_sums_are_not_divided(self, loss):
        X, y = data([2] if isinstance(loss, nn.CrossEntropyLoss) else [])
        target = targets_of("cross-entropy" if isinstance(loss, nn.CrossEntropyLoss) else "other", y)
        expected = cases.reference_fisher(cases.mlp(), loss, (X, target))
        for options in ({}, {"micro_batch_size": 4, "engine": "retained", "chunk_size": 3}):
            F = es.EmpiricalFisher(cases.mlp(), loss, (X, target), **options)
            assert_close(F @ COLUMNS, expected @ COLUMNS)

    @pytest.mark.parametrize(
        "loss",
        [
            nn.MSELoss(),
            nn.BCEWithLogitsLoss(),
            nn.HuberLoss(),
            lambda output, target: (output.softmax(1) - target).square().sum(1).mean(),
            es.Loss(lambda output, target: (output - target).square().sum(), reduction="sum"),
        ],
        ids=["squares", "bce", "huber", "Brier score", "a sum"],
    )
    def test_any_loss(self, loss):
        X, y = data()
        target = targets_of("other", y)
        function, weights = (loss.function, None) if isinstance(loss, es.Loss) else (loss, ALL)
        expected = cases.reference_fisher(cases.mlp(), function, (X, target), weights)
        assert_close(es.EmpiricalFisher(cases.mlp(), loss, (X, target)) @ COLUMNS, expected @ COLUMNS)

    def test_a_loss_that_branches_on_values(self):
        """It is no map of a block of samples, and each sample goes by itself."""

        def loss(output, target):
            total = functional.cross_entropy(output, target)
            return 2 * total if float(output.detach().sum()) > 0 else total

        X, y = data()
        expected = cases.reference_fisher(cases.mlp(), loss, (X, y), ALL)
        F = es.EmpiricalFisher(cases.mlp(), loss, [(X[i : i + 1], y[i : i + 1]) for i in range(SAMPLES)])
        assert_close(F @ COLUMNS, expected @ COLUMNS)

    @pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
    def test_a_sequence_is_one_sample(self, label_smoothing):
        """Its gradient is that of the mean over its positions, and it weighs as many as are not ignored."""
        model, (tokens, targets) = cases.tiny_zoo()["tied"]
        targets = targets.clone()
        targets[0, :2] = -100
        targets[3] = -100
        loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        weights = (targets >= 0).sum(1).double()
        expected = cases.reference_fisher(model, loss, (tokens, targets), weights)
        for options in (
            {},
            {"micro_batch_size": 1, "engine": "retained", "chunk_size": 8},
            {"micro_batch_size": 2, "engine": "linearised", "chunk_size": 8},
        ):
            F = es.EmpiricalFisher(model, loss, (tokens, targets), **options)
            assert_close(F.to_dense(), expected)

    def test_outputs_without_the_dimension_of_samples_are_refused(self):
        """With positions flattened into samples, nobody could say whose gradient is whose."""
        X, y = torch.randn(8, 5, 2, generator=cases.generator(), dtype=torch.float64), torch.arange(40) % 3
        model = nn.Sequential(nn.Linear(2, 3), nn.Flatten(0, 1)).double()
        with pytest.raises(ValueError, match="sample"):
            es.EmpiricalFisher(model, nn.CrossEntropyLoss(), (X, y)).to_dense()

    def test_weights_of_a_loss_that_says_them(self):
        """A mean over what the targets' first entries say."""

        def weighted(output, target):
            values = (output - target).square().sum(1)
            return (values * target[:, 0]).sum() / target[:, 0].sum()

        X, y = data()
        target = targets_of("other", y) + 0.5
        loss = es.Loss(weighted, weight=lambda output, target: float(target[:, 0].sum()))
        expected = cases.reference_fisher(cases.mlp(), weighted, (X, target), target[:, 0])
        for options in ({}, {"micro_batch_size": 2, "engine": "retained", "chunk_size": 3}):
            F = es.EmpiricalFisher(cases.mlp(), loss, (X, target), **options)
            assert_close(F @ COLUMNS, expected @ COLUMNS)

    def test_it_is_not_the_outer_product_of_means(self):
        """As one gets who sums within a batch before squaring."""
        X, y = data()
        F = es.EmpiricalFisher(cases.mlp(), nn.CrossEntropyLoss(), (X, y))
        g = F.gradient()
        assert float((F.to_dense() - torch.outer(g, g)).norm() / F.to_dense().norm()) > 0.1

    def test_one_sample_without_the_first_dimension_is_refused(self):
        X, y = data()
        F = es.EmpiricalFisher(cases.mlp(), nn.CrossEntropyLoss(), (X[0], y[0]))
        with pytest.raises(ValueError, match="index of the first dimension"):
            F.to_dense()

    def test_data_classes_are_cut_into_samples(self):
        """With ignored targets, only the samples that weigh are taken from the output."""

        @dataclasses.dataclass
        class Output:
            logits: torch.Tensor

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = cases.mlp()

            def forward(self, X):
                return Output(self.net(X))

        X, y = cases.classes(12)
        y[:3] = -100
        entropy = nn.CrossEntropyLoss()
        loss = es.Loss(lambda output, y: entropy(output.logits, y), weight=lambda output, y: float((y >= 0).sum()))
        found = es.EmpiricalFisher(Model(), loss, (X, y)) @ COLUMNS
        assert_close(found, es.EmpiricalFisher(cases.mlp(), entropy, (X, y)) @ COLUMNS)

    def test_an_objective_is_refused(self):
        with pytest.raises(TypeError, match=r"EmpiricalFisher needs a loss.*not an Objective"):
            es.EmpiricalFisher(cases.mlp(), es.Objective(lambda model, batch: model(batch[0]).sum()), data())


def monte_carlo(loss=None, batch=None, model=None, **options):
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return es.MonteCarloFisher(cases.mlp() if model is None else model, loss, batch or data(), **options)


LIKELIHOODS = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "squares": nn.MSELoss(),
    "bce": nn.BCEWithLogitsLoss(),
}


class TestMonteCarloFisher:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_its_mean_over_draws_is_the_ggn(self, name):
        """At 200 and 1600 draws vᵀ F v lies within five standard errors of vᵀ G v, as measured over 12 seeds of one."""
        X, y = data()
        loss, batch = LIKELIHOODS[name], (X, targets_of(name, y))
        v = torch.randn(53, generator=cases.generator(5), dtype=torch.float64)
        exact = float(v @ (es.GGN(cases.mlp(), loss, batch) @ v))
        single = [monte_carlo(loss, batch, seed=seed, engine="forward") @ v @ v for seed in range(12)]
        deviation = float(torch.stack(single).std())
        assert deviation > 0.01 * exact
        for draws in (200, 1600):
            found = float(v @ (monte_carlo(loss, batch, draws=draws, engine="forward") @ v))
            assert abs(found - exact) < 5 * deviation / draws**0.5

    @pytest.mark.slow
    def test_class_weights_and_ignored_targets_scale_the_samples(self):
        """Within five standard errors of the GGN, for the sum and the mean; an ignored sample has no share."""
        X, y = data([1, 5])
        v = torch.randn(53, generator=cases.generator(5), dtype=torch.float64)
        for reduction in ("mean", "sum"):
            loss = nn.CrossEntropyLoss(WEIGHT, reduction=reduction)
            exact = float(v @ (es.GGN(cases.mlp(), loss, (X, y)) @ v))
            single = [monte_carlo(loss, (X, y), seed=s, engine="forward") @ v @ v for s in range(12)]
            found = float(v @ (monte_carlo(loss, (X, y), draws=2500, engine="forward") @ v))
            assert abs(found - exact) < 5 * float(torch.stack(single).std()) / 2500**0.5

    def test_one_draw_is_an_outer_product_for_each_sample(self):
        """Jᵀ r rᵀ J with r = p - e_c for some class c: exactly one of the three for each sample, and rank one."""
        X, y = data()
        for i in range(4):
            batch = X[i : i + 1], y[i : i + 1]
            F = monte_carlo(batch=batch, engine="retained", chunk_size=53).to_dense()
            J = cases.dense_jacobian(cases.mlp(), batch[0])
            p = cases.mlp()(batch[0])[0].detach().softmax(0)
            slopes = [J.mT @ (p - e) for e in torch.eye(3, dtype=torch.float64)]
            fits = [torch.allclose(F, torch.outer(g, g), rtol=1e-10, atol=1e-12) for g in slopes]
            assert fits.count(True) == 1

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_its_rank_is_at_most_draws_times_samples(self, name):
        X, y = data()
        batch = X[:4], targets_of(name, y)[:4]
        for draws in (1, 3):
            F = monte_carlo(LIKELIHOODS[name], batch, draws=draws, engine="retained", chunk_size=53)
            eigenvalues = torch.linalg.eigvalsh(F.to_dense())
            positive = int((eigenvalues > 1e-12 * eigenvalues.max()).sum())
            assert 1 < positive <= 4 * draws
            assert float(eigenvalues.min()) > -1e-12 * float(eigenvalues.max())

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_a_seed_is_a_matrix(self, name):
        X, y = data()
        loss, batch, model = LIKELIHOODS[name], (X, targets_of(name, y)), cases.mlp()
        v = torch.ones(53, dtype=torch.float64)
        state = torch.get_rng_state()
        first = monte_carlo(loss, batch, model, seed=3) @ v
        assert torch.equal(torch.get_rng_state(), state), "the draws moved the user's random stream"
        torch.manual_seed(17)
        assert_close(monte_carlo(loss, batch, seed=3) @ v, first)
        for other in (0, 4):
            assert float((monte_carlo(loss, batch, seed=other) @ v - first).norm() / first.norm()) > 1e-3

    @pytest.mark.parametrize(("name", "draws"), [("cross-entropy", 1), *((name, 3) for name in LIKELIHOODS)])
    def test_draws_belong_to_samples(self, name, draws):
        """Not to batches, their order, or micro-batches."""
        X, y = data()
        loss, target = LIKELIHOODS[name], targets_of(name, y)
        expected = monte_carlo(loss, (X, target), draws=draws, chunk_size=1) @ COLUMNS
        order = torch.randperm(SAMPLES, generator=cases.generator())
        ways = [
            ((X[order], target[order]), {"engine": "linearised", "chunk_size": 4}),
            ((X, target), {"engine": "retained", "micro_batch_size": 2, "chunk_size": 3}),
            ([(X[:1], target[:1]), (X[1:], target[1:])], {"engine": "forward"}),
            (DataLoader(TensorDataset(X, target), batch_size=4, shuffle=True), {"engine": "retained", "chunk_size": 4}),
        ]
        for batches, options in ways:
            assert_close(monte_carlo(loss, batches, draws=draws, **options) @ COLUMNS, expected)

    def test_it_is_one_matrix_before_and_after_release(self):
        F = monte_carlo(micro_batch_size=4)
        v = torch.ones(53, dtype=torch.float64)
        first = F @ v
        F.release()
        assert torch.equal(F @ v, first)

    def test_samples_draw_by_themselves(self):
        """Forty that are predicted alike meet all three classes."""
        X = torch.randn(40, 2, generator=cases.generator(), dtype=torch.float64)
        model = nn.Linear(2, 3).double()
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        F = monte_carlo(batch=(X, torch.zeros(40, dtype=torch.int64)), model=model, parameters="*bias").to_dense()
        slopes = 1 / 3 - torch.eye(3, dtype=torch.float64)
        outer = torch.stack([torch.outer(r, r).flatten() for r in slopes], dim=1)
        shares = torch.linalg.lstsq(outer, F.flatten()[:, None]).solution[:, 0]
        assert_close(outer @ shares, F.flatten())
        assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
        assert float(shares.min()) > 0.1

    @pytest.mark.parametrize("flat", [False, True])
    def test_outputs_that_are_not_of_samples_are_refused(self, flat):
        """A sample without its dimension, and sequences whose positions the model takes for samples."""
        X, y = data()
        batch, model = ((X[0], y[0]), cases.mlp())
        if flat:
            batch, model = (X[:8].view(4, 2, 6), y[:8]), nn.Sequential(cases.mlp(), nn.Flatten(0, 1))
        with pytest.raises(ValueError, match="index of the first dimension"):
            monte_carlo(batch=batch, model=model).to_dense()

    @pytest.mark.slow
    def test_sequences(self):
        """Positions draw by themselves: for each sequence a sum over positions, within five standard errors."""
        model, (tokens, targets) = cases.tiny_zoo()["tied"]
        v = torch.randn(22, generator=cases.generator(5), dtype=torch.float64)
        loss = nn.CrossEntropyLoss()
        exact = float(v @ (es.GGN(model, loss, (tokens, targets)) @ v))
        build = functools.partial(monte_carlo, loss, (tokens, targets), model, engine="retained")
        single = torch.stack([build(seed=seed) @ v @ v for seed in range(12)])
        found = float(v @ (build(draws=2500) @ v))
        assert abs(found - exact) < 5 * float(single.std()) / 2500**0.5

    @pytest.mark.parametrize("loss", [nn.HuberLoss(), lambda output, target: (output - target).square().mean()])
    def test_a_loss_without_a_likelihood_is_refused(self, loss):
        X, y = data()
        with pytest.raises(TypeError, match="draws targets from the likelihood"):
            monte_carlo(loss, (X, targets_of("other", y))).to_dense()

    def test_an_objective_is_refused(self):
        with pytest.raises(TypeError, match=r"MonteCarloFisher needs a loss.*not an Objective"):
            monte_carlo(es.Objective(lambda model, batch: model(batch[0]).sum()))

    @pytest.mark.parametrize("name", ["draws", "seed"])
    @pytest.mark.parametrize("value", [-1, 1.5, True, None])
    def test_numbers_of_draws_and_seeds(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is an integer >= "):
            monte_carlo(**{name: value})

    def test_no_draw_is_refused(self):
        with pytest.raises(ValueError, match="draws is an integer >= 1, got 0"):
            monte_carlo(draws=0)

    def test_it_is_psd_and_says_so(self):
        F = monte_carlo(draws=2)
        assert F.structure == Structure.PSD
        M = F.to_dense()
        assert_close(M, M.mT)
        assert torch.linalg.eigvalsh(M).min() > -1e-12
