"""Every engine, width and cut of the data gives the same products, for each kind of layer and loss.

The references are dense float64 matrices by reverse mode alone, row by row, through unfused kernels.
"""

import copy
import functools
import itertools
import os
import pathlib
import shutil
import sysconfig

import curvature_cases as cases
import pytest
import torch
from torch import nn

import eigenspan as es

OPERATORS = {"Hessian": es.Hessian, "GGN": es.GGN, "EmpiricalFisher": es.EmpiricalFisher}
# Each engine on batches that are cut, with a block wider than the chunk where it takes blocks; one of them on a whole.
WAYS = [
    ("linearised", 1, "whole", None),
    ("linearised", 3, "uneven", 2),
    ("retained", 1, "uneven", 2),
    ("forward", 1, "uneven", 2),
]
SIZES = {"whole": [5], "uneven": [1, 4]}
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.7], dtype=torch.float64)


def cross_entropy(classes, dtype=torch.float64, **options):
    """All that cross-entropy can do to a batch; one class is ignored altogether."""
    return nn.CrossEntropyLoss(WEIGHT[:classes].to(dtype), ignore_index=1, label_smoothing=0.1, **options)


def loss_of(name, classes, dtype=torch.float64):
    """A loss by name, for targets of that many classes."""
    reduction = "sum" if name.endswith("sum") else "mean"
    if name.startswith("cross-entropy"):
        return cross_entropy(classes, dtype, reduction=reduction)
    return {"mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss}[name.split()[0]](reduction=reduction)


@functools.cache
def zoo():
    return cases.tiny_zoo()


def problem(name, loss_name):
    """Model, loss and batch; the targets as the loss wants them."""
    model, (inputs, labels) = zoo()[name]
    classes = 5 if labels.ndim > 1 else 3
    targets = labels
    if not loss_name.startswith("cross-entropy"):
        targets = nn.functional.one_hot(labels, classes).double()
        targets = targets.transpose(1, 2) if labels.ndim > 1 else targets
    return model, loss_of(loss_name, classes), (inputs, targets)


def sample_weights(loss, targets):
    """What each sample weighs in the risk: its class weights that are not ignored, or the same for all."""
    if loss.reduction == "sum":
        return None
    if not isinstance(loss, nn.CrossEntropyLoss):
        return torch.ones(len(targets), dtype=torch.float64)
    own = loss.weight.double()[targets] * (targets != loss.ignore_index)
    return own.reshape(len(targets), -1).sum(1)


@functools.cache
def reference(operator, name, loss_name):
    model, loss, batch = problem(name, loss_name)
    if operator == "EmpiricalFisher":
        return cases.reference_fisher(model, loss, batch, sample_weights(loss, batch[1]))
    return {"Hessian": cases.reference_hessian, "GGN": cases.reference_ggn}[operator](model, loss, batch)


@functools.cache
def block(n, chunk_size=3):
    """Five columns, which in chunks of three leave a narrower one; one by one, two are as good as any number."""
    columns = torch.randn(n, 5, generator=cases.generator(3), dtype=torch.float64)
    return columns[:, :2] if chunk_size == 1 else columns


def built(operator, name, loss_name, cut, dtype=torch.float64, **options):
    model, _, batch = problem(name, loss_name)
    loss = loss_of(loss_name, 5 if zoo()[name][1][1].ndim > 1 else 3, dtype)
    batch = cases.converted(batch, dtype)
    if dtype != torch.float64:
        model = copy.deepcopy(model).to(dtype)
    data = batch
    if cut != "whole":
        data = list(zip(*(part.split(SIZES[cut]) for part in batch), strict=True))
    return OPERATORS[operator](model, loss, data, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo())
@pytest.mark.parametrize("operator", OPERATORS)
class TestLayers:
    """Cross-entropy with class weights, an ignored class and smoothed labels; float64 to rounding."""

    @pytest.mark.parametrize(("engine", "chunk_size", "cut", "micro_batch_size"), WAYS)
    def test_float64(self, operator, name, engine, chunk_size, cut, micro_batch_size):
        options = {"engine": engine, "chunk_size": chunk_size, "micro_batch_size": micro_batch_size}
        A = built(operator, name, "cross-entropy", cut, **options)
        X, M = block(A.shape[0], chunk_size), reference(operator, name, "cross-entropy")
        torch.testing.assert_close(A @ X, M @ X, rtol=1e-10, atol=1e-12 * float(M.abs().max()))
        torch.testing.assert_close(A @ X[:, 0], M @ X[:, 0], rtol=1e-10, atol=1e-12 * float(M.abs().max()))

    @pytest.mark.parametrize(("engine", "chunk_size"), [("linearised", 3), ("retained", 1), ("forward", 1)])
    def test_float32(self, operator, name, engine, chunk_size):
        """A few hundred products of numbers of order one: 2e-5 of the largest entry."""
        options = {"engine": engine, "chunk_size": chunk_size, "micro_batch_size": 2}
        A = built(operator, name, "cross-entropy", "uneven", torch.float32, **options)
        X, M = block(A.shape[0], chunk_size), reference(operator, name, "cross-entropy")
        expected = M @ X.float().double()
        found = (A @ X.float()).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("loss_name", ["cross-entropy sum", "mse", "mse sum", "bce", "bce sum"])
@pytest.mark.parametrize(
    ("name", "engine", "chunk_size"),
    [("mlp", "linearised", 3), ("tied", "linearised", 3), ("tied", "retained", 1), ("tied", "forward", 1)],
)
def test_losses(operator, name, loss_name, engine, chunk_size):
    """Sums and means over samples, positions and elements; float64 to rounding."""
    A = built(operator, name, loss_name, "uneven", engine=engine, chunk_size=chunk_size, micro_batch_size=2)
    X, M = block(A.shape[0], chunk_size), reference(operator, name, loss_name)
    torch.testing.assert_close(A @ X, M @ X, rtol=1e-10, atol=1e-12 * float(M.abs().max()))


@pytest.mark.parametrize("name", zoo())
def test_references_are_of_something(name):
    """They are not zero, not one another, and small enough to be cheap."""
    found = [reference(operator, name, "cross-entropy") for operator in OPERATORS]
    assert all(len(M) < 150 and float(M.abs().max()) > 1e-3 for M in found)
    for first, second in itertools.combinations(found, 2):
        assert float((first - second).abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(
    not (
        shutil.which(os.environ.get("CXX", "g++")) and pathlib.Path(sysconfig.get_path("include"), "Python.h").exists()
    ),
    reason="needs a C++ compiler and the headers of Python",
)
def test_compiled_programs_compute_the_same():
    """Several micro-batches, the last one smaller, by columns one by one and in blocks."""
    batch, V = cases.classes(10), block(53)
    options = {"engine": "linearised", "micro_batch_size": 4, "chunk_size": 3, "compile": True}
    H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), batch, **options)
    expected = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), batch, engine="retained", chunk_size=1).to_dense()
    torch.testing.assert_close(H @ V, expected @ V, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(H @ V[:, 0], expected @ V[:, 0], rtol=1e-10, atol=1e-12)
