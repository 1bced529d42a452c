"""Recording: a program is of the function, not of the vectors it was recorded at, or there is an error."""

import gc
import weakref

import pytest
import torch
from torch import nn

from eigenspan.linops.programs.emission import emitted
from eigenspan.linops.programs.program import LinearisationError
from eigenspan.linops.programs.rewriting import simplified
from eigenspan.linops.programs.tape import Tape, recorded

INDEX = torch.tensor([0, 2, 2])
WEIGHTS = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
ANOTHER = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)  # where programs are compared with functions


def at_ones(function, *shapes):
    return recorded(function, *(torch.ones(shape, dtype=torch.float64) for shape in shapes or [(3,)]))


def assert_computes(program, function, *vectors):
    """To the rounding of a few sums in float64; twice, as a first run must not spoil the second."""
    expected = [output.clone() for output in function(*(vector.clone() for vector in vectors))]
    for _ in range(2):
        torch.testing.assert_close(list(emitted(program)(*vectors)), expected, rtol=1e-12, atol=1e-14)


def views_and_parts(v):
    x = v.view(3, 1) * WEIGHTS
    first, rest = x.split([1, 2])
    return [x.t(), first.expand(2, 3), torch.stack(rest.unbind(1)), x.diagonal().flip(0)]


def written_over(v):
    x = v * 2
    x.add_(v, alpha=3).mul_(WEIGHTS).add_(x)
    x.index_put_((INDEX,), v.clone(), accumulate=True)
    return [x, x[1:]]


def written_to_the_input(v):
    v.mul_(2)
    return [v * 3, v]


def summed_into_zeros(v):
    return [torch.zeros(4, dtype=v.dtype).index_add_(0, INDEX, v), torch.zeros(3, dtype=v.dtype).add_(v)]


def summed_into_like_zeros(v):
    return [v.new_zeros(4).index_put_((INDEX,), v, accumulate=True)]


def copied_into_zeros(v):
    return [v * 3 + torch.zeros_like(v).copy_(v * 2)]


def copied_into_empty(v):
    return [torch.empty_like(v).copy_(v * 2) + v]


def filled_with_constants(v):
    return [v * torch.zeros_like(v).fill_(2.0)]


def constants_written_before_they_are_read(v):
    constant = WEIGHTS.clone()
    return [v * constant.zero_().add_(WEIGHTS)]


def written_in_another_type(v):
    x = (v * 2).float()
    x.add_(v)
    return [x, x * 0.1]


def given_back(v):
    x = v * 2
    return [x, x, v, v]


EXACT = [
    *(views_and_parts, written_over, written_to_the_input, summed_into_zeros, summed_into_like_zeros),
    *(copied_into_zeros, copied_into_empty, filled_with_constants),
    *(constants_written_before_they_are_read, written_in_another_type, given_back),
]


@pytest.mark.parametrize("function", EXACT, ids=lambda function: function.__name__)
def test_the_program_computes_the_function_at_other_vectors(function):
    assert_computes(at_ones(function), function, ANOTHER)


def written_through_a_view(v):
    x = v * 2
    x[0].mul_(3)
    return [x]


def read_through_an_older_view(v):
    x = v * 2
    rest = x[1:]
    x.mul_(3)
    return [rest * 1]


def written_through_an_alias(v):
    x = v * 2
    x.detach().mul_(3)
    return [x]


def zeros_written_through_a_view(v):
    zeros = torch.zeros_like(v)
    zeros[0] = v[1]
    return [v * 3 + zeros * 2]


def zeros_written_through_a_view_and_added(v):
    zeros = torch.zeros_like(v)
    zeros[0] = v[1]
    return [v * 3 + zeros]


def constants_written_through_a_view(v):
    constant = torch.zeros(3, dtype=v.dtype)
    constant[:2].copy_(v[1:])
    return [constant * WEIGHTS + v]


def constants_written_after_they_are_read(v):
    constant = WEIGHTS.clone()
    before = v * constant
    constant.mul_(2)
    return [before + v * constant]


def activations_written_after_they_are_read(v):
    image = torch.tanh(WEIGHTS)
    before = torch.ops.aten.tanh_backward(v, image)
    image.mul_(0.5)
    return [before + torch.ops.aten.tanh_backward(v, image)]


def a_sum_with_zeros_written_over(v):
    x = v * 2
    y = x + torch.zeros_like(x)
    y.mul_(3)
    return [x, y]


@pytest.mark.parametrize(
    "function",
    [
        *(written_through_a_view, read_through_an_older_view, written_through_an_alias),
        *(zeros_written_through_a_view, zeros_written_through_a_view_and_added, constants_written_through_a_view),
        *(constants_written_after_they_are_read, activations_written_after_they_are_read),
        a_sum_with_zeros_written_over,
    ],
    ids=lambda function: function.__name__,
)
def test_memory_under_several_names_is_followed_or_refused(function):
    """Either will do; a program of something else will not."""
    try:
        program = at_ones(function)
    except LinearisationError as refusal:
        assert "written" in str(refusal) or "writes" in str(refusal)  # noqa: PT017, refusing is one of two ways
        return
    assert_computes(program, function, ANOTHER)


def window_by_strides(v):
    return [v.as_strided((2,), (2,), 0) * 3]


def shifted_window_by_strides(v):
    return [(v * 2)[1:].as_strided((2,), (1,), 0)]


@pytest.mark.parametrize("function", [window_by_strides, shifted_window_by_strides])
def test_windows_given_by_strides_are_right_or_refused(function):
    """Vectors are contiguous while recorded, and may be anything later, like values that rewriting computes anew."""
    try:
        program = simplified(at_ones(function))
    except LinearisationError as refusal:
        assert "aten.as_strided" in str(refusal)  # noqa: PT017, refusing is one of two ways
        return
    spread = torch.stack([ANOTHER, ANOTHER], 1)[:, 0]
    torch.testing.assert_close(list(emitted(program)(spread)), function(ANOTHER), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: [v * v.sum().item()], r"aten\._local_scalar_dense\.default reads a number"),
        (lambda v: [v if v.sum() > 0 else -v], r"aten\._local_scalar_dense\.default reads a number"),
        (lambda v: [torch.ones(2)], "does not vanish"),
        (written_through_a_view, "the function's output reads memory that was written to under another name"),
        (read_through_an_older_view, r"aten\.mul\.Tensor reads memory that was written to under another name"),
        (lambda v: [torch.mul(v, 2, out=torch.empty_like(v))], r"aten\.mul\.out writes"),
    ],
    ids=["number", "branch", "constant", "output", "operation", "out="],
)
def test_what_cannot_be_recorded_is_named(function, message):
    with pytest.raises(LinearisationError, match=message):
        at_ones(function)


def test_what_does_not_depend_on_the_vectors_runs_once():
    """The forward pass that a product recomputes is among it."""
    seen = []

    def function(v):
        seen.append(torch.linalg.inv(torch.diag(WEIGHTS)))
        return [seen[-1] @ v]

    program = at_ones(function)
    assert len(program.steps) == 1
    assert any(constant is seen[0] for constant in program.constants())
    torch.testing.assert_close(emitted(program)(ANOTHER)[0], ANOTHER / WEIGHTS, rtol=1e-12, atol=0)
    assert len(seen) == 1


def test_outputs_without_vectors_are_zeros():
    program = at_ones(lambda v, unused: [v * 2, torch.zeros(2)], (3,), (4,))
    found = emitted(program)(ANOTHER, torch.ones(4))
    assert torch.equal(found[0], 2 * ANOTHER)
    assert torch.equal(found[1], torch.zeros(2))


def test_empty_tensors_are_tensors():
    def function(v, w):
        return [v * 2, w @ torch.ones(0, 3, dtype=v.dtype), v[:0]]

    program = at_ones(function, (0,), (2, 0))
    assert_computes(program, function, torch.ones(0, dtype=torch.float64), torch.ones(2, 0, dtype=torch.float64))


def test_zeros_added_in_another_type_still_promote():
    program = at_ones(lambda v: [v * 2 + torch.zeros_like(v, dtype=torch.complex128)])
    assert emitted(program)(ANOTHER)[0].dtype == torch.complex128


def test_zeros_added_make_no_step():
    """Reverse passes add many."""
    assert len(at_ones(lambda v: [v * 2 + torch.zeros_like(v)]).steps) == 1


def test_programs_of_a_pullback_are_its_transposed_jacobian():
    weight = torch.randn(4, 3, dtype=torch.float64)
    point = torch.randn(3, dtype=torch.float64, requires_grad=True)
    image = torch.tanh(weight @ point)

    def pullback(u):
        return torch.autograd.grad(image, point, u, retain_graph=True)

    program = at_ones(pullback, (4,))
    u = torch.randn(4, dtype=torch.float64)
    expected = weight.T @ ((1 - image.detach() ** 2) * u)
    torch.testing.assert_close(emitted(program)(u)[0], expected, rtol=1e-12, atol=1e-14)


def test_slopes_of_activations_are_computed_once():
    """Two pullbacks through the same node share what they multiply by."""
    point = torch.randn(3, dtype=torch.float64, requires_grad=True)
    image = nn.functional.gelu(point)

    def twice(u):
        return [torch.autograd.grad(image, point, scale * u, retain_graph=True)[0] for scale in (1.0, 2.0)]

    constants = [constant for constant in at_ones(twice).constants() if constant.ndim]
    assert len(constants) == 2
    assert constants[0] is constants[1]


def test_constants_go_with_the_program():
    big = torch.ones(3, dtype=torch.float64)
    watched = weakref.ref(big)

    def function(v, constant=big):
        return [v * constant]

    program = at_ones(function)
    run = emitted(program)
    run(ANOTHER)
    del big, function
    assert watched() is not None
    del program, run
    gc.collect()
    assert watched() is None


def test_the_peak_is_of_what_is_alive():
    """Two of three tensors of 800 bytes at a time, views and dead ones aside."""
    v = torch.ones(100, dtype=torch.float64)
    with Tape([v]) as tape:
        x = v * 2
        y = x.view(10, 10) * 3
        del x
        y = y * 4
    assert max(tape.course) == 1600


def test_constants_do_not_keep_the_graph_that_they_come_from():
    """It holds what no step reads."""
    W = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    hidden = torch.tanh(W @ WEIGHTS)
    program = at_ones(lambda v: torch.autograd.grad(hidden, W, v * hidden, retain_graph=True))
    constants = list(program.constants())
    assert any(constant.shape == hidden.shape for constant in constants)
    assert not any(constant.requires_grad for constant in constants)
