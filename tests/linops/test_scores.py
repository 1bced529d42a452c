"""Scores of parameters against closed forms and autograd."""

from __future__ import annotations

import copy

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.func import functional_call

import eigenspan as es
from eigenspan.linops import MaskSubspace, ParameterSpace

DTYPES = [torch.float64, torch.float32]
# Sums of tens of terms of order one, in either dtype.
RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=RTOL[actual.dtype], atol=0.01 * RTOL[actual.dtype])


@pytest.fixture
def operator():
    model = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -4.0, 0.0], [2.0, -0.5, 3.0]]))
        model.bias.copy_(torch.tensor([-6.0, 0.25]))
    X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    return es.Hessian(model, nn.MSELoss(), (X, torch.zeros(2, 2, dtype=torch.float64)))


def test_magnitude(operator):
    scores = es.magnitude(operator.parameters)
    assert scores.tolist() == [1.0, 4.0, 0.0, 2.0, 0.5, 3.0, 6.0, 0.25]
    assert MaskSubspace.top_k(scores, 3).indices.tolist() == [1, 5, 6]


def test_absolute_gradient(operator):
    """Of mean((W x + b)²): 2/4 Σ (W x + b) (x, 1), by hand."""
    W, b = operator.parameters.values[:6].reshape(2, 3), operator.parameters.values[6:]
    X = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    output = X @ W.mT + b
    expected = torch.cat([(output.mT @ X / 2).flatten(), output.sum(0) / 2]).abs()
    assert_close(es.absolute_gradient(operator), expected)


@pytest.mark.parametrize("kind", [es.Hessian, es.GGN, es.EmpiricalFisher])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_connection_sensitivity_is_the_derivative_by_a_factor(kind, dtype, device):
    """As SNIP defines it: |∂L(c ⊙ θ)/∂c| at c = 1, by autograd."""
    model, (X, y) = cases.mlp(device, dtype), cases.classes(device=device, dtype=dtype)
    switches = {name: torch.ones_like(p, requires_grad=True) for name, p in model.named_parameters()}
    switched = {name: p.detach() * switches[name] for name, p in model.named_parameters()}
    loss = nn.functional.cross_entropy(functional_call(model, switched, (X,)), y)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(switches.values()))]).abs()
    scores = es.connection_sensitivity(kind(model, nn.CrossEntropyLoss(), (X, y), micro_batch_size=4))
    assert_close(scores, expected)


class TestSaliency:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_is_the_rise_of_a_quadratic_loss_from_its_minimum(self, dtype, device):
        """For least squares the second-order expansion is exact: the loss with each parameter at zero in turn."""
        X = torch.randn(40, 5, generator=cases.generator(1), dtype=torch.float64).to(device, dtype)
        y = torch.randn(40, 1, generator=cases.generator(2), dtype=torch.float64).to(device, dtype)
        model = nn.Linear(5, 1, bias=False, device=device, dtype=dtype)
        with torch.no_grad():
            model.weight.copy_(torch.linalg.lstsq(X, y).solution.mT)
        H, loss = es.Hessian(model, nn.MSELoss(), (X, y)), nn.MSELoss()
        rises = []
        for i in range(5):
            damaged = copy.deepcopy(model)
            with torch.no_grad():
                damaged.weight[0, i] = 0
                rises.append(float(loss(damaged(X), y) - loss(model(X), y)))
        scores = es.saliency(H.parameters, H.to_dense().diagonal())
        # Differences of losses of order one are rounded to its precision.
        torch.testing.assert_close(scores.tolist(), rises, rtol=1e-3, atol=100 * torch.finfo(dtype).eps)

    def test_negative_curvature_stays_negative(self, operator):
        diagonal = torch.tensor([-2.0, 1.0, 0.0, 3.0, -1.0, 1.0, 0.5, 4.0], dtype=torch.float64)
        scores = es.saliency(operator.parameters, diagonal)
        assert scores.tolist() == [-1.0, 8.0, 0.0, 6.0, -0.125, 4.5, 9.0, 0.125]
        assert es.ranking(scores, 8)[-1] == 0

    def test_takes_an_estimate_of_the_diagonal(self, operator):
        """XDiag is exact for a matrix of full range: 2 n + 20 products."""
        estimate = es.diagonal(operator, max_products=36)
        exact = es.saliency(operator.parameters, operator.to_dense().diagonal())
        torch.testing.assert_close(es.saliency(operator.parameters, estimate.value), exact, rtol=1e-6, atol=1e-8)

    def test_bad_diagonals(self, operator):
        with pytest.raises(ValueError, match=r"has a diagonal of shape \(8,\), got \(8, 8\)"):
            es.saliency(operator.parameters, operator.to_dense())
        with pytest.raises(TypeError, match=r"torch.float32 .*convert it with diagonal.to"):
            es.saliency(operator.parameters, torch.ones(8))
        with pytest.raises(TypeError, match=r"got Estimate; an Estimate has its \.value"):
            es.saliency(operator.parameters, es.diagonal(operator, max_products=4))


class TestMovement:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_is_the_distance_from_a_point_that_was_kept(self, dtype, device):
        model = cases.mlp(device, dtype)
        start, initial = ParameterSpace(model), copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-0.5)
        scores = es.movement(ParameterSpace(model), start)
        assert torch.equal(scores, torch.cat([1.5 * p.detach().flatten().abs() for p in initial.parameters()]))
        assert torch.equal(es.movement(start, ParameterSpace(model)), scores)
        assert not es.movement(start, start).any()

    def test_spaces_that_do_not_match(self):
        model = cases.mlp()
        space = ParameterSpace(model)
        with pytest.raises(ValueError, match=r"are of different tensors \(0.bias, 0.weight\); select the same"):
            es.movement(space, ParameterSpace(model, "2"))
        wider = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        with pytest.raises(ValueError, match=r"different tensors \(0.weight\)"):
            es.movement(space, ParameterSpace(wider))
        with pytest.raises(TypeError, match="differ in dtype or device"):
            es.movement(space, ParameterSpace(cases.mlp(dtype=torch.float32)))
        with pytest.raises(TypeError, match=r"movement takes the parameters .* got OrderedDict"):
            es.movement(space, model.state_dict())


class TestRandomScores:
    def test_are_a_ranking_without_ties(self, operator):
        first, again, other = (es.random_scores(operator.parameters, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.shape == (8,)
        assert first.dtype == torch.float64
        assert sorted(first.tolist()) == list(range(8))

    def test_top_k_is_a_random_mask(self, operator):
        """Counts over 2000 seeds within five standard deviations of the binomial."""
        counts = sum(
            MaskSubspace.top_k(es.random_scores(operator.parameters, seed), 2).mask.double() for seed in range(2000)
        )
        error = 5 * (2000 * 0.25 * 0.75) ** 0.5
        torch.testing.assert_close(counts, torch.full((8,), 500.0).double(), rtol=0, atol=error)


def test_no_mask_overlaps_a_subspace_more_than_that_of_its_leverage():
    """Of all 126 masks of four out of nine axes."""
    subspace = es.OrthonormalSubspace.random(9, 3, dtype=torch.float64)
    best = es.overlap(MaskSubspace.top_k(subspace.leverage(), 4), subspace)
    choices = torch.combinations(torch.arange(9), 4)
    overlaps = [es.overlap(MaskSubspace.from_indices(chosen, 9, torch.float64), subspace) for chosen in choices]
    assert len(overlaps) == 126
    assert best == pytest.approx(max(overlaps), rel=1e-12)


@pytest.mark.parametrize("score", [es.magnitude, es.random_scores, lambda model: es.saliency(model, torch.ones(3))])
def test_scores_of_a_point_take_no_model(score):
    with pytest.raises(TypeError, match=r"takes the parameters of an operator, H.parameters, got Linear"):
        score(nn.Linear(1, 2))


@pytest.mark.parametrize("score", [es.absolute_gradient, es.connection_sensitivity])
def test_scores_of_a_loss_take_no_other_operator(score):
    with pytest.raises(TypeError, match=r"takes an operator that has a loss, .* got Identity"):
        score(es.Identity(3))
