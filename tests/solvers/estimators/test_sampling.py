"""When estimators stop."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import t

from eigenspan.linops import Dense, Function, Identity
from eigenspan.solvers.estimators.estimates import EstimateStatus, Sample
from eigenspan.solvers.estimators.sampling import Sampler, Sampling, operand


class Fixed(Sampler):
    """Values of error / √count about a mean, without drawing anything."""

    def __init__(self, mean=1.0, error=1.0, bias=0.0, cost=1, enough=None):
        self.mean, self.error, self.bias, self.cost, self.enough = mean, error, bias, cost, enough
        self.counts: list[int] = []

    def draw(self, count):
        self.counts.append(count)
        mean, error, bias = (torch.tensor(x).double() for x in (self.mean, self.error, self.bias))
        return Sample(value=mean, standard_error=error / count**0.5, freedom=count - 1, size=mean, bias=bias)


def run(sampler, **options):
    options = {"max_products": 1000, "confidence": 0.95, "seed": 0, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eigenspan.solvers.estimators.sampling.warn_unless_reached", lambda *_, **__: None)
        return Sampling(**options).run(Identity(3, torch.float64), lambda _: sampler, "test")


def test_without_a_tolerance_one_look_at_all_samples():
    sampler = Fixed(cost=3)
    result = run(sampler)
    assert sampler.counts == [333]
    assert result.status is EstimateStatus.SAMPLED
    assert float(result.margin) == pytest.approx(t.ppf(0.975, 332) / 333**0.5)


@pytest.mark.parametrize(("cost", "first"), [(1, 20), (2, 10), (3, 10), (15, 10)])
def test_looks_at_growing_numbers_of_samples(cost, first):
    sampler = Fixed(error=1e9, cost=cost)
    result = run(sampler, tol=0.1)
    last = 1000 // cost
    assert sampler.counts[0] == first
    assert sampler.counts[-1] == last
    steps = [after / before for before, after in itertools.pairwise(sampler.counts)]
    assert steps[:-1] == pytest.approx([1.5] * (len(steps) - 1), rel=0.05)
    assert 1 < steps[-1] <= 1.55
    assert result.status is EstimateStatus.OUT_OF_PRODUCTS
    # The doubt is shared among all looks that were planned.
    expected = t.ppf(1 - 0.025 / len(sampler.counts), last - 1) * 1e9 / last**0.5
    assert float(result.margin) == pytest.approx(expected)


def test_stops_at_the_first_look_that_meets_the_tolerance():
    sampler, planned = Fixed(error=0.3), Fixed(error=1e9)
    run(planned, tol=0.1)
    result = run(sampler, tol=0.1)
    quantiles = {k: t.ppf(1 - 0.025 / len(planned.counts), k - 1) for k in planned.counts}
    meets = [k for k in planned.counts if quantiles[k] * 0.3 / k**0.5 <= 0.1]
    assert sampler.counts[-1] == meets[0]
    assert 1 < len(sampler.counts) < len(planned.counts)
    assert result.status is EstimateStatus.REACHED
    assert result.samples == meets[0]


def test_bias_above_the_tolerance_asks_for_steps():
    assert run(Fixed(bias=0.2, error=0.0), tol=0.1).status is EstimateStatus.OUT_OF_STEPS
    assert run(Fixed(bias=0.05, error=0.0), tol=0.1).status is EstimateStatus.REACHED
    assert run(Fixed(bias=0.05, error=1e3), tol=0.1).status is EstimateStatus.OUT_OF_PRODUCTS


def test_no_more_samples_than_are_enough():
    sampler = Fixed(enough=7)
    run(sampler)
    run(sampler, tol=0.1)
    assert sampler.counts == [7, 7]


def test_zero_within_zero():
    assert run(Fixed(mean=0.0, error=0.0), tol=0.1).status is EstimateStatus.REACHED


def test_too_few_products():
    with pytest.raises(
        ValueError, match=r"two samples of 3 products each of <Identity .*max_products=5: choose at le.* 6"
    ):
        run(Fixed(cost=3), max_products=5)
    assert run(Fixed(cost=3), max_products=6).samples == 2


def test_a_transform_of_the_estimate_is_what_is_compared():
    import attrs

    sampling = Sampling(tol=0.1, max_products=1000, confidence=0.95, seed=0)
    result = sampling.run(
        Identity(3, torch.float64),
        lambda _: Fixed(error=1e3),
        "test",
        then=lambda estimate: attrs.evolve(estimate, margin=torch.zeros(()).double()),
    )
    assert result.status is EstimateStatus.REACHED
    assert result.samples == 20


def test_gradients_are_not_tracked():
    class Tracking(Fixed):
        def draw(self, count):
            assert not torch.is_grad_enabled()
            return super().draw(count)

    with torch.enable_grad():
        run(Tracking())
        assert torch.is_grad_enabled()


def test_a_transpose_is_looked_for_without_a_product():
    calls = []

    def product(X):
        calls.append(X.shape)
        return X

    operand(Function(product, (4, 4), torch.float64, rmatmat=product), "test", transpose=True)
    assert calls in ([], [(4, 0)])
    with pytest.raises(NotImplementedError, match="no transposed product"):
        operand(Function(product, (4, 4), torch.float64), "test", transpose=True)
    assert operand(Dense(torch.ones(2, 3)), "test").shape == (2, 3)
