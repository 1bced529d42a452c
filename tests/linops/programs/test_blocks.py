"""Programs for blocks do for each column what the program for one vector does."""

import math

import pytest
import torch

from eigenspan.linops.programs import blocks
from eigenspan.linops.programs.blocks import for_columns
from eigenspan.linops.programs.emission import emitted
from eigenspan.linops.programs.program import LinearisationError
from eigenspan.linops.programs.rewriting import simplified
from eigenspan.linops.programs.tape import recorded

COLUMNS = 3
A = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
INDEX = torch.tensor([0, 2, 2])


def assert_each_column(function, *shapes, columns=COLUMNS):
    """Against the function, column by column, to the rounding of short sums; the block simplified and as it is."""
    program = recorded(function, *(torch.ones(shape, dtype=torch.float64) for shape in shapes))
    blocks = [torch.randn(columns, *shape, dtype=torch.float64) for shape in shapes]
    expected = [torch.stack(outputs) for outputs in zip(*map(function, *blocks), strict=True)]
    for wide in (for_columns(program, columns), simplified(for_columns(simplified(program), columns))):
        torch.testing.assert_close(list(emitted(wide)(*blocks)), expected, rtol=1e-12, atol=1e-13)


PRODUCTS = {
    "constant right": lambda v, w: [v @ A],
    "constant left": lambda v, w: [A @ v],
    "constant left of a transposition": lambda v, w: [A @ v.t()],
    "constant right of a transposition": lambda v, w: [v.t() @ A],
    "both computed": lambda v, w: [v @ w],  # bilinear, as no product of a graph is; the rule is there
    "vector": lambda v, w: [A @ v[0], v[:, 1] @ A],
    "chain": lambda v, w: [A @ (A @ v @ A).t() @ A],
    "with a sum": lambda v, w: [w + v @ A, w + A @ v, w + A @ v.t(), w + v.t() @ A],
    "with a sum and factors": lambda v, w: [torch.addmm(w, v, A, alpha=2, beta=3)],
    "with a constant matrix of zeros": lambda v, w: [torch.addmm(torch.zeros(4, 4, dtype=v.dtype), v, A)],
    "with a row": lambda v, w: [torch.addmm(w[0], v, A)],
    "with a matrix of one row": lambda v, w: [torch.addmm(w[:1], v, A), torch.addmm(w[:1], A, v.t())],
    "with a matrix of one column": lambda v, w: [torch.addmm(w[:, :1], v, A)],
    "in batches": lambda v, w: [torch.bmm(v.view(1, 4, 4), A.view(1, 4, 4)), v.view(2, 2, 4) @ A],
    "with a sum in batches": lambda v, w: [torch.baddbmm(w.view(1, 4, 4), v.view(1, 4, 4), A.view(1, 4, 4))],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_matrices(name):
    assert_each_column(PRODUCTS[name], (4, 4), (4, 4))


@pytest.mark.parametrize(("shape", "left", "right"), [((0, 3), (2, 0), (3, 2)), ((2, 3), (0, 2), (3, 0))])
def test_products_of_empty_matrices(shape, left, right):
    left, right = torch.ones(left, dtype=torch.float64), torch.ones(right, dtype=torch.float64)
    assert_each_column(lambda v: [left @ v, v @ right], shape)


OTHERS = {
    "elementwise": lambda v: [v * A - v / 3, -v + A[0] * v.sum(0)],
    "transpositions": lambda v: [v.t() + v, v.view(2, 8).t(), v[0].t()],
    "views of transpositions": lambda v: [v.t().reshape(16) * 2, (A @ v.t()).t().contiguous().view(2, 8)],
    "views of products": lambda v: [(A @ v).view(8, 2), (v.t() @ A).view(2, 2, 4), (A @ v.t()).mul(2).view(16)],
    "reductions": lambda v: [v.sum(), v.mean(1), v.cumsum(0)],
    "lists": lambda v: [*v.split([1, 3]), torch.cat(v.unbind()[::-1])],
    "indices": lambda v: [v[INDEX], v.flip(0), v.roll(1, 1), v.gather(0, INDEX[None, :].expand(2, 3))],
    "sums into places": lambda v: [v.new_zeros(5, 4).index_add(0, torch.tensor([4, 0, 0, 1]), v)],
    "conditions": lambda v: [torch.where(A > 0, v, 0.0), v.masked_fill(A > 0, 0.0)],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations(name):
    assert_each_column(OTHERS[name], (4, 4))


def test_diagonals_of_gradients():
    """The gradient of a trace writes into zeros, one diagonal for each column."""
    matrix = torch.eye(3, dtype=torch.float64, requires_grad=True)
    trace = matrix.trace()
    assert_each_column(lambda v: torch.autograd.grad(trace, matrix, v[0], retain_graph=True), (1,))


def test_distances():
    """PyTorch's own vectorisation of this gradient computes something else."""
    points = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    distances = torch.cdist(points, points.detach() + 1)
    assert_each_column(lambda v: torch.autograd.grad(distances, points, v, retain_graph=True), (5, 5))


COPIED_BY_PYTORCH = {
    "products in batches": ((16, 64, 64), lambda v, large: [torch.bmm(large, v)]),
    "gradients of layer normalisation": (
        (128, 512),
        lambda v, large: torch.ops.aten.native_layer_norm_backward(
            *(v, large, [512], large.mean(1, keepdim=True), large.std(1, keepdim=True), None, None),
            [True, False, False],
        )[:1],
    ),
}


@pytest.mark.parametrize("name", COPIED_BY_PYTORCH)
def test_large_constants_are_not_copied_for_each_column(name):
    shape, function = COPIED_BY_PYTORCH[name]
    large = torch.randn(shape, dtype=torch.float64)
    assert_each_column(lambda v: function(v, large), shape)
    program = recorded(lambda v: function(v, large), torch.ones(shape, dtype=torch.float64))
    program = simplified(for_columns(program, COLUMNS))
    assert all(constant.untyped_storage().nbytes() <= large.nbytes for constant in program.constants())


@pytest.mark.parametrize("wrong", [lambda x: x * math.nan, lambda x: x[:, :1], lambda x: x.double(), lambda x: x * 1.1])
def test_a_rule_that_computes_something_else_is_refused(wrong, monkeypatch):
    program = recorded(lambda v: [v.sin()], torch.ones(4))
    monkeypatch.setitem(
        blocks._RULES,
        torch.ops.aten.sin.default,
        lambda step, tensors: (wrong(torch.sin(next(iter(tensors.values())))),),
    )
    with pytest.raises(LinearisationError, match="something else"):
        for_columns(program, COLUMNS)


def test_a_value_may_be_an_output_and_go_on():
    assert_each_column(lambda v: (lambda x: [x, x * 3, v, x])(v * 2), (4,))


def test_outputs_without_vectors_are_as_wide_as_the_others():
    assert_each_column(lambda v, unused: [torch.zeros(2, dtype=torch.float64), v * 2], (3,), (2,))


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_every_width(columns):
    """Also that of the matrices, which could be mistaken for it."""
    assert_each_column(lambda v, w: [A @ v + w, v @ A, v.t()], (4, 4), (4, 4), columns=columns)
    assert_each_column(lambda v: [A @ v, v.sum(0)], (4, columns), columns=columns)


def test_constant_matrices_are_not_copied_for_each_column():
    """A left factor of a stack is applied by one product of matrices where the stack allows, else by expansion."""
    program = for_columns(recorded(lambda v: [v @ A, A @ v], torch.ones(4, 4, dtype=torch.float64)), COLUMNS)
    assert all(constant.untyped_storage().nbytes() <= A.nbytes for constant in program.constants())
