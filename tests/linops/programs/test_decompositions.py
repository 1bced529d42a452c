"""Operations recorded as others compute what those that they replace compute."""

import itertools

import pytest
import torch
from torch import nn

from eigenspan.linops.programs.decompositions import decomposition, is_elementwise_backward
from eigenspan.linops.programs.emission import emitted
from eigenspan.linops.programs.tape import recorded

aten = torch.ops.aten
CONVOLUTION = [True] + 10 * [False]  # only the slope is computed


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def geometry(stride=(1, 1), padding=(0, 0), dilation=(1, 1), transposed=False, groups=1):
    return [list(stride), list(padding), list(dilation), transposed, [0, 0], groups]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "options"),
    [
        ((3, 3), (2, 2), {}),
        ((2, 5), (1, 3), {}),
        ((2, 3), (2, 3), {}),
        ((4, 5), (3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
        ((3, 3), (3, 3), {"stride": (2, 2), "padding": (1, 1)}),
        ((1, 1), (3, 3), {"padding": (1, 1)}),
        ((5, 4), (2, 2), {"stride": (3, 2)}),  # the last row and column are left out
    ],
)
def test_gradients_of_convolutions(batch, bias, inputs, size, window, options):
    image, weight = random(batch, 2, *size), random(3, 2, *window)
    convolved = geometry(**options)
    slope = torch.randn_like(aten.convolution(image, weight, None, *convolved))
    arguments = (slope, image, weight, [3] if bias else [0], *convolved, [inputs, True, bias])
    replaced = decomposition(aten.convolution_backward.default, arguments, CONVOLUTION)
    assert replaced is not None
    found, expected = replaced(*arguments), aten.convolution_backward(*arguments)
    for ours, theirs, wanted in zip(found, expected, arguments[-1], strict=True):
        assert (ours is not None) == wanted
        if wanted:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)  # sums over at most 3 x 9 products


@pytest.mark.parametrize(
    ("size", "window", "options", "wanted"),
    [
        ((6, 6), (2, 2), {}, [True, True, True]),
        ((2, 2), (1, 1), {}, [True, True, True]),
        ((3, 3), (2, 2), {"groups": 2}, [True, True, True]),
        ((3, 3), (2, 2), {}, [True, False, True]),
        ((1, 1), (2, 2), {"transposed": True}, [True, True, True]),
    ],
    ids=["large image", "window of one", "groups", "no gradient by the weight", "transposed"],
)
def test_convolutions_left_as_they_are(size, window, options, wanted):
    groups = options.get("groups", 1)
    image, weight = random(2, 4, *size), random(4, 4 // groups, *window)
    convolved = geometry(**options)
    slope = torch.randn_like(aten.convolution(image, weight, None, *convolved))
    arguments = (slope, image, weight, [4], *convolved, wanted)
    assert decomposition(aten.convolution_backward.default, arguments, CONVOLUTION) is None


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (torch.softmax, aten._softmax_backward_data.default),
        (torch.log_softmax, aten._log_softmax_backward_data.default),
    ],
)
def test_gradients_of_softmax(function, operation, dim):
    slope, output = random(3, 4), function(random(3, 4), dim)
    arguments = slope, output, dim, torch.float64
    replaced = decomposition(operation, arguments, [True, False, False, False])
    torch.testing.assert_close(replaced(*arguments), operation(*arguments), rtol=1e-12, atol=1e-14)
    assert replaced(slope, output, dim, torch.float32).dtype == torch.float32
    assert decomposition(operation, arguments, [True, True, False, False]) is None


ACTIVATIONS = {
    **{name: getattr(nn, name)() for name in ("Tanh", "Sigmoid", "ReLU", "GELU", "SiLU", "ELU", "CELU", "SELU")},
    **{name: getattr(nn, name)() for name in ("Softplus", "Hardtanh", "ReLU6", "LeakyReLU", "Hardsigmoid")},
    **{name: getattr(nn, name)() for name in ("Hardswish", "Mish", "LogSigmoid")},
    "GELU by tanh": nn.GELU(approximate="tanh"),
    "Softplus with a threshold": nn.Softplus(beta=2.0, threshold=1.0),
    "ELU in place": nn.Sequential(nn.Identity(), nn.ELU(alpha=0.5, inplace=True)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_activations_are_one_product(name):
    """At points on both sides of every kink."""
    point = torch.linspace(-4, 4, 13, dtype=torch.float64).requires_grad_()
    output = ACTIVATIONS[name](point * 1.0)

    def pullback(slope):
        return torch.autograd.grad(output, point, slope, retain_graph=True)

    program = recorded(pullback, torch.ones(13, dtype=torch.float64))
    assert {step.operation for step in program.steps} == {aten.mul.Tensor}
    slope = random(13)
    torch.testing.assert_close(emitted(program)(slope), pullback(slope), rtol=1e-14, atol=1e-15)


def test_slopes_that_depend_on_vectors_are_no_constants():
    """The derivative of tanh' by its output: the same operation, with a computed second argument."""
    point = random(5).requires_grad_()
    seed = random(5).requires_grad_()
    (slope,) = torch.autograd.grad(torch.tanh(point), point, seed, create_graph=True)

    def pullback(u):
        return torch.autograd.grad(slope, (point, seed), u, retain_graph=True)

    program = recorded(pullback, torch.ones(5, dtype=torch.float64))
    u = random(5)
    torch.testing.assert_close(emitted(program)(u), pullback(u), rtol=1e-13, atol=1e-14)


def test_only_products_with_the_slope_are_elementwise():
    operations = [aten.tanh_backward.default, aten._softmax_backward_data.default, aten.mul.Tensor]
    assert list(map(is_elementwise_backward, operations)) == [True, False, False]


def test_all_gradients_of_a_convolution_come_from_one_program():
    """Of a padded image that is small enough for the product of matrices."""
    for batch, window in itertools.product((1, 2), ((2, 2), (1, 3))):
        layer = nn.Conv2d(2, 3, window, padding=1).double()
        image = random(batch, 2, 2, 1).requires_grad_()
        output = layer(image)
        assert output.shape[2:].numel() <= 8

        def pullback(u, output=output, image=image, layer=layer):
            return torch.autograd.grad(output, (image, *layer.parameters()), u, retain_graph=True)

        program = recorded(pullback, torch.ones_like(output, requires_grad=False))
        u = torch.randn_like(output)
        torch.testing.assert_close(emitted(program)(u), pullback(u), rtol=1e-12, atol=1e-13)


class TestDisguisedConvolutions:
    """What the double backward of a convolution calls a convolution, filters being as large as images."""

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize(
        ("size", "window", "options"),
        [
            ((8, 8), (3, 3), {"padding": (1, 1)}),
            ((9, 7), (3, 2), {"stride": (2, 1), "padding": (1, 0)}),
            ((9, 8), (2, 3), {"dilation": (1, 2)}),
            ((9, 9), (3, 3), {"stride": (2, 2), "padding": (1, 1), "dilation": (2, 1)}),
            ((20, 20), (3, 3), {"stride": (3, 3)}),  # the last rows are left out, and seen by the double backward
            ((6, 6), (1, 1), {"stride": (2, 2)}),
        ],
    )
    def test_are_gradients_of_another(self, batch, size, window, options):
        stride, padding, dilation, *_ = convolved = geometry(**options)
        image, weight = random(batch, 2, *size), random(3, 2, *window)
        slope = torch.randn_like(aten.convolution(image, weight, None, *convolved))
        swapped = [dilation, padding, stride]
        by_weight = (image.transpose(0, 1), slope.transpose(0, 1), None, *swapped, False, [0, 0], 1)
        by_input = (weight.transpose(0, 1), slope.transpose(0, 1), None, *swapped, True, [0, 0], 1)
        for arguments in (by_weight, by_input):
            replaced = decomposition(aten.convolution.default, arguments, [True, True])
            expected = aten.convolution.default(*arguments)
            assert replaced is not None
            torch.testing.assert_close(replaced(*arguments), expected, rtol=1e-12, atol=1e-12)  # some hundred products

    def test_others_are_left(self):
        image, weight = random(2, 4, 8, 8), random(4, 4, 3, 3)
        for filters, bias, options in (
            (weight, None, {}),
            (weight, random(4), {}),
            (random(4, 2, 3, 3), None, {"groups": 2}),
            (weight, None, {"transposed": True}),
        ):
            arguments = (image, filters, bias, *geometry(**options))
            assert decomposition(aten.convolution.default, arguments, [True, False, False]) is None
