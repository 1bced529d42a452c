"""Batch normalisation by running statistics: the same function, value and derivatives, by other operations."""

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import eigenspan as es
from eigenspan.linops.curvature.normalisation import AffineNormalisation

CROSS_ENTROPY = nn.CrossEntropyLoss()


def normalisation(kind, channels, **options):
    norm = kind(channels, **options)
    for number, tensor in enumerate((norm.running_mean, norm.running_var, norm.weight, norm.bias)):
        if tensor is not None:
            generator = torch.Generator().manual_seed(number)
            tensor.data = 0.5 + torch.rand(channels, generator=generator)
    return norm


def classifier(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).double().eval()


def batch_of(model, *shape):
    X, y = torch.randn(4, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        model(X)  # lazy layers take their sizes
    return X, y


CONVOLUTIONS = {
    "1d": (nn.Conv1d(2, 3, 2), nn.BatchNorm1d, {}, (2, 9)),
    "2d": (nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d, {}, (2, 5, 5)),
    "3d": (nn.Conv3d(1, 2, 2), nn.BatchNorm3d, {}, (1, 4, 4, 4)),
    "stride, dilation and padding": (nn.Conv2d(2, 3, 2, 2, 1, 2), nn.BatchNorm2d, {"eps": 0.1}, (2, 6, 6)),
    "padded with its border": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), nn.BatchNorm2d, {}, (2, 4, 4)),
    "same size": (nn.Conv2d(2, 3, 3, padding="same"), nn.BatchNorm2d, {}, (2, 4, 4)),
    "groups": (nn.Conv2d(4, 4, 2, groups=2), nn.BatchNorm2d, {}, (4, 4, 4)),
    "no scale": (nn.Conv2d(2, 3, 2), nn.BatchNorm2d, {"affine": False}, (2, 4, 4)),
    "filters larger than the image": (nn.Conv2d(2, 30, 3), nn.BatchNorm2d, {}, (2, 3, 3)),
}


@pytest.mark.parametrize("engine", ["linearised", "retained", "forward"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_after_convolutions(name, engine):
    """Against double backward of the model as it is, up to the rounding of float64."""
    convolution, kind, options, shape = CONVOLUTIONS[name]
    norm = normalisation(kind, convolution.out_channels, **options)
    model = classifier(convolution, norm, nn.Tanh(), normalisation(kind, convolution.out_channels), nn.GELU())
    batch = batch_of(model, *shape)
    n = sum(parameter.numel() for parameter in model.parameters())
    V = torch.randn(n, 3, dtype=torch.float64)
    H = es.Hessian(model, CROSS_ENTROPY, batch, engine=engine, chunk_size=1 if engine == "forward" else 3)
    torch.testing.assert_close(H @ V, cases.products_of_hessian(model, CROSS_ENTROPY, batch, V), rtol=1e-10, atol=1e-12)


class Seen(TorchFunctionMode):
    """Notes the functions that are called."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


def taken_in(function, *tensors):
    """Whether the normalisation within was made a convolution; its value and gradients are compared in any case."""
    expected = function(*tensors)
    with Seen() as seen, AffineNormalisation():
        found = function(*tensors)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if expected.requires_grad:
        gradients = (torch.autograd.grad(image.sin().sum(), wanted, allow_unused=True) for image in (found, expected))
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert functional.batch_norm not in seen.functions or not torch.is_grad_enabled()
    return seen.functions.count(functional.conv2d) == 2


MEAN, VAR = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 0.3]).double()


def tensors(filters=True, scale=True):
    """Image, filters and scale."""
    generator = torch.Generator().manual_seed(0)
    shapes = {(3, 1, 5, 5): False, (2, 1, 2, 2): filters, (2,): scale}
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(wanted)
        for shape, wanted in shapes.items()
    ]


def after(change):
    def function(X, W, s):
        return functional.batch_norm(change(functional.conv2d(X, W)), MEAN, VAR, s)

    return function


def hooked(Z):
    Z.register_hook(lambda slope: 2 * slope)
    return Z


def written_past_autograd(Z):
    Z.data.mul_(2)
    return Z


def used_elsewhere(X, W, s):
    Z = functional.conv2d(X, W)
    return functional.batch_norm(Z, MEAN, VAR, s) + Z.exp()


def without_graph_at_first(X, W, s):
    with torch.no_grad():
        Z = functional.conv2d(X, W)
    return functional.batch_norm(Z, MEAN, VAR, s)


def detached_filters(X, W, s):
    return functional.batch_norm(functional.conv2d(X, W.detach()), MEAN, VAR, s)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (after(lambda Z: Z), True),
        (used_elsewhere, True),
        (after(lambda Z: Z.mul_(2)), False),
        (after(lambda Z: Z.detach()), False),
        (after(lambda Z: Z.detach_()), False),
        (after(hooked), False),
        (after(written_past_autograd), False),
        (after(torch.tanh), False),
        (without_graph_at_first, False),
        (detached_filters, False),
    ],
)
def test_a_convolution_takes_in_what_follows_it_at_once(function, expected):
    assert taken_in(function, *tensors()) == expected


@pytest.mark.parametrize(("filters", "scale", "expected"), [(True, False, True), (False, True, False)])
def test_filters_that_are_no_parameters_stay_as_they_are(filters, scale, expected):
    assert taken_in(after(lambda Z: Z), *tensors(filters, scale)) == expected


def test_an_input_written_since_is_refused_as_it_is_without():
    """Another convolution of what the input has become would be another function."""
    X, W, s = tensors()
    with AffineNormalisation():
        Z = functional.conv2d(X, W)
        X.relu_()
        image = functional.batch_norm(Z, MEAN, VAR, s)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        image.sum().backward()


def test_without_gradients_nothing_changes():
    with torch.no_grad():
        assert not taken_in(after(lambda Z: Z), *tensors())


def test_programs_pass_over_images_less_often():
    """No normalisation, and as many products and sums of images as the activation has, and the sum with its tangent."""
    norm = normalisation(nn.BatchNorm2d, 2)
    model = classifier(nn.Conv2d(1, 2, 3), norm, nn.ReLU())
    batch = batch_of(model, 1, 16, 16)
    H = es.Hessian(model, CROSS_ENTROPY, batch, engine="linearised", chunk_size=1)
    H @ torch.ones(H.shape[0], dtype=torch.float64)
    (share,) = H._kept
    steps = [step for step in share._program.steps if getattr(step.results[0], "shape", None) == (4, 2, 14, 14)]
    made = [str(step.operation) for step in steps]
    assert made.count("aten.mul.Tensor") == 2  # by the mask, there and back
    assert not any("norm" in str(step.operation) for step in share._program.steps)


def test_a_checkpoint_between_the_two():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.rest = nn.Conv2d(1, 2, 2), nn.Sequential(*head)

        def forward(self, X):
            return checkpoint(self.rest, self.convolution(X), use_reentrant=False)

    torch.manual_seed(0)
    head = [normalisation(nn.BatchNorm2d, 2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)]
    model = Split().double().eval()
    batch = batch_of(model, 1, 5, 5)
    H = es.Hessian(model, CROSS_ENTROPY, batch, engine="retained").to_dense()
    plain = nn.Sequential(model.convolution, model.rest).eval()
    torch.testing.assert_close(H, cases.dense_hessian(plain, CROSS_ENTROPY, batch), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["linearised", "retained"])
@pytest.mark.parametrize("columns", [1, 3])
def test_models_in_channels_last_are_computed_so(engine, columns):
    # Not every PyTorch vectorises the reverse pass through the derivative of maxima in that format.
    pooling = nn.AvgPool2d if (engine, columns) == ("retained", 3) else nn.MaxPool2d
    model = classifier(
        *(nn.Conv2d(3, 4, 3, padding=1), normalisation(nn.BatchNorm2d, 4), nn.ReLU(), pooling(2)),
        *(nn.Conv2d(4, 5, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1)),
    )
    batch = batch_of(model, 3, 8, 8)
    V = torch.randn(sum(parameter.numel() for parameter in model.parameters()), columns, dtype=torch.float64)
    expected = cases.products_of_hessian(model, CROSS_ENTROPY, batch, V)
    H = es.Hessian(model.to(memory_format=torch.channels_last), CROSS_ENTROPY, batch, engine=engine, chunk_size=columns)
    torch.testing.assert_close(H @ V, expected, rtol=1e-10, atol=1e-12)


def test_images_of_channels_last_programs_have_them_last():
    """Most, in float32, which oneDNN and cuDNN do in that format; those made of vectors alone come as vectors do."""
    model = classifier(nn.Conv2d(3, 4, 3, padding=1), normalisation(nn.BatchNorm2d, 4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    batch = batch_of(model, 3, 8, 8)
    model, (X, y) = model.float().to(memory_format=torch.channels_last), batch
    H = es.Hessian(model, CROSS_ENTROPY, (X.float().to(memory_format=torch.channels_last), y), engine="linearised")
    H @ torch.ones(H.shape[0])
    (share,) = H._kept
    made = [step.results[0] for step in share._program.steps]
    images = [value for value in made if value is not None and value.shape == (4, 4, 8, 8)]
    assert sum(image.strides[1] == 1 for image in images) > len(images) / 2 > 2
