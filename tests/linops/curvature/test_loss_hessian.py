"""Closed forms of the losses' Hessians against autograd's by the output, and where there is none."""

import functools

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional

import eigenspan as es
from eigenspan.linops.curvature.loss_hessian import loss_hessian, output_curvature
from eigenspan.linops.curvature.risk import Risk

WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
# float64, sums of a few dozen numbers below one.
TOLERANCE = {"rtol": 1e-11, "atol": 1e-13}


class Output(nn.Module):
    """A model whose parameter is its output: the risk of a loss at any point."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, X):
        return self.value * X.new_ones(())


def risk_at(value, loss, target):
    return Risk(Output(value), loss, [(value.new_zeros(len(target) if target.ndim else 1), target)])


def assert_closed_form(loss, value, target):
    """For all columns of the Hessian, one by one and all at once."""
    product = loss_hessian(risk_at(value, loss, target), value, target)
    expected = torch.autograd.functional.hessian(lambda output: loss(output, target), value)
    n = value.numel()
    eye = torch.eye(n, dtype=value.dtype).view(n, *value.shape)
    expected = expected.reshape(n, n)
    torch.testing.assert_close(torch.stack([product(u) for u in eye]).view(n, n), expected, **TOLERANCE)
    torch.testing.assert_close(torch.func.vmap(product)(eye).view(n, n), expected, **TOLERANCE)
    assert float(expected.abs().max()) > 1e-3


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=cases.generator(seed), dtype=torch.float64)


def labels(*shape, ignored=0):
    target = torch.randint(0, 3, shape, generator=cases.generator(2))
    target.view(-1)[:ignored] = -100
    return target


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 3, 2), ()], ids=str)
class TestCrossEntropy:
    """Outputs of samples, sequences, images, and of one sample without the first dimension."""

    def output(self, shape):
        return normal(*shape[:1], 3, *shape[1:])

    @pytest.mark.parametrize("ignored", [0, 1, 3])
    def test_classes(self, shape, weight, label_smoothing, reduction, ignored):
        ignored = ignored if shape else 0
        loss = nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing, reduction=reduction)
        assert_closed_form(loss, self.output(shape), labels(*shape, ignored=ignored))

    def test_another_ignored_class(self, shape, weight, label_smoothing, reduction):
        loss = nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=label_smoothing, reduction=reduction)
        target = labels(*shape) if shape else torch.tensor(2)
        assert_closed_form(loss, self.output(shape), target)

    def test_probabilities(self, shape, weight, label_smoothing, reduction):
        loss = nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing, reduction=reduction)
        output = self.output(shape)
        target = normal(*output.shape, seed=3).softmax(1 if output.ndim > 1 else 0)
        assert_closed_form(loss, output, target)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 2)], ids=str)
class TestElementwise:
    def test_squares(self, shape, reduction):
        assert_closed_form(nn.MSELoss(reduction=reduction), normal(*shape), normal(*shape, seed=3))

    @pytest.mark.parametrize("weight", [False, True])
    @pytest.mark.parametrize("pos_weight", [False, True])
    def test_bce_with_soft_targets(self, shape, reduction, weight, pos_weight):
        """The weights are broadcast from the last dimension."""
        scale = 1 + torch.arange(shape[-1], dtype=torch.float64)
        loss = nn.BCEWithLogitsLoss(
            scale if weight else None, pos_weight=1 / scale if pos_weight else None, reduction=reduction
        )
        assert_closed_form(loss, normal(*shape), torch.rand(shape, dtype=torch.float64))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(WEIGHT), nn.CrossEntropyLoss(reduction="sum")])
def test_batches_have_their_shares_in_the_risk(loss):
    """Not those of the batch alone: class weights of all data divide, and ignored batches have no share."""
    output, target = normal(6, 3), labels(6, ignored=2)
    total = torch.autograd.functional.hessian(lambda output: loss(output, target), output)
    model, X = nn.Linear(2, 3).double(), normal(6, 2)
    risk = Risk(model, loss, [(X[i : i + 1], target[i : i + 1]) for i in range(6)])
    U = normal(6, 3, seed=4)
    for i in range(6):
        product = loss_hessian(risk, output[i : i + 1], target[i : i + 1])
        expected = torch.einsum("cd,d->c", total[i, :, i], U[i])
        torch.testing.assert_close(product(U[i : i + 1])[0], expected, **TOLERANCE)


def test_functions_and_partials_are_known_as_the_modules_are():
    output, target = normal(4, 3), labels(4)
    assert_closed_form(functional.cross_entropy, output, target)
    assert_closed_form(functools.partial(functional.cross_entropy, weight=WEIGHT, label_smoothing=0.1), output, target)


class Squares(nn.MSELoss):
    """A subclass, which may compute anything."""


@pytest.mark.parametrize(
    ("loss", "output", "target"),
    [
        (nn.L1Loss(), normal(4, 3), normal(4, 3, seed=3)),
        (nn.HuberLoss(), normal(4, 3), normal(4, 3, seed=3)),
        (nn.NLLLoss(), normal(4, 3), labels(4)),
        (Squares(), normal(4, 3), normal(4, 3, seed=3)),
        (lambda output, target: (output - target).square().mean(), normal(4, 3), normal(4, 3, seed=3)),
        (es.Loss(nn.MSELoss(reduction="none"), reduction="sum"), normal(4, 3), normal(4, 3, seed=3)),
    ],
)
def test_what_is_not_known_has_no_closed_form(loss, output, target):
    known = risk_at(output, nn.MSELoss(), output)
    known.loss = es.Loss(loss) if not isinstance(loss, es.Loss) else loss
    assert loss_hessian(known, output, target) is None
    assert output_curvature(known, output, target) is None


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ((normal(4, 3), normal(4, 3)), normal(4, 3)),
        (normal(4, 3), (normal(4, 3),)),
        (normal(4, 3), normal(3)),
    ],
    ids=["two outputs", "a tuple of targets", "broadcast targets"],
)
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss()])
def test_outputs_and_targets_that_do_not_match_have_no_closed_form(loss, output, target):
    risk = risk_at(normal(4, 3), loss, torch.rand(4, 3, dtype=torch.float64))
    assert loss_hessian(risk, output, target) is None


def test_no_matrix_over_classes_is_formed():
    """With 50,000 symbols it would take 20 GB for each of six positions: the closed form keeps vectors."""
    output, target = normal(2, 50_000, 3), torch.randint(0, 50_000, (2, 3), generator=cases.generator(2))
    product = loss_hessian(risk_at(output, nn.CrossEntropyLoss(), target), output, target)
    u = normal(2, 50_000, 3, seed=3)
    p = output.softmax(1)
    expected = (p * u - p * (p * u).sum(1, keepdim=True)) / 6
    torch.testing.assert_close(product(u), expected, rtol=1e-10, atol=1e-18)


def test_the_ggn_of_a_large_vocabulary():
    """A linear model over 50,000 symbols, against the formula: x² (diag(p) - p pᵀ), the mean over samples."""
    torch.manual_seed(0)
    model = nn.Linear(1, 50_000, bias=False).double()
    X, target = normal(2, 1), torch.randint(0, 50_000, (2,))
    G = es.GGN(model, nn.CrossEntropyLoss(), (X, target), micro_batch_size=1)
    v = normal(50_000, seed=3)
    p = model(X).detach().softmax(1)
    expected = (X**2 * (p * v - p * (p @ v)[:, None])).mean(0)
    torch.testing.assert_close(G @ v, expected, rtol=1e-10, atol=1e-18)
