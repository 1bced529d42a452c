"""Programs as functions: what they write over, when they let go, and what they take."""

import pytest
import torch

from eigenspan.linops.programs.emission import _Writer, emitted, kept_bytes, working_bytes
from eigenspan.linops.programs.rewriting import simplified
from eigenspan.linops.programs.tape import recorded

WEIGHTS = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
MATRIX = torch.arange(9.0, dtype=torch.float64).view(3, 3) - 4


def program_of(function, *shapes):
    return simplified(recorded(function, *(torch.ones(shape, dtype=torch.float64) for shape in shapes or [(3,)])))


def source(program):
    """The lines, with operations by their own names."""
    writer = _Writer(program)
    text = writer.source
    for name in sorted(writer.scope, key=lambda name: -len(name)):
        text = text.replace(name, getattr(writer.scope[name], "__name__", repr(writer.scope[name])))
    return text


ALIASES = {
    "an input": lambda v: [v + WEIGHTS * v, v * 2],
    "an input through a view": lambda v: [v.view(3, 1) * 2, v.view(1, 3) + v],
    "an input given back": lambda v: [v, v * 2],
    "a view of an input given back": lambda v: [v[1:], v * WEIGHTS],
    "a term that is needed later": lambda v: (lambda x: [x * WEIGHTS, x.sin()])(v * 2),
    "a term whose view is needed later": lambda v: (lambda x, y: [x * WEIGHTS, y * 2])(
        *(lambda x: (x, x.view(3, 1)))(v * 2)
    ),
    "a term whose part is given back": lambda v: (lambda x: [x[1:], x * WEIGHTS])(v * 2),
    "a term and its own view": lambda v: (lambda x: [x.sum(0, keepdim=True).expand(3) * x, x.flip(0)])(v * 2),
    "a square and its transpose": lambda v: (lambda x: [x + x.t(), x - x.t()])((v * 2)[:, None] * MATRIX),
    "a matrix less its transpose": lambda v: (lambda x: [x - x.t()])((v * 2)[:, None] * MATRIX),
    "a product with its own factor": lambda v: (lambda x: [torch.addmm(x, x, MATRIX)])((v * 2)[:, None] * MATRIX),
    "a term twice": lambda v: (lambda x: [x + x, x.sin()])(v * 2),
    "a term twice at last": lambda v: (lambda x: [x - x * 0.5 + x])(v * 2),
    "an expanded term": lambda v: [(v * 2).expand(2, 3) + MATRIX[:2]],
    "parts of one tensor": lambda v: (lambda parts: [parts[0] * 2, parts[1] + parts[2]])((v * 2).split(1)),
    "parts of an input, as gates of recurrent cells": lambda v: [torch.unsafe_split(v, 1)[1] * WEIGHTS[:1], v * 2],
    "parts of a term that is needed later": lambda v: (lambda x: [torch.unsafe_split(x, 1)[0] * 3, x.sin()])(v * 2),
    "a smaller term": lambda v: [(v * 2) + (v[:, None] * MATRIX), (v * 3)[None] * MATRIX],
    "a term of another type": lambda v: [(v.float() * 2) + v * WEIGHTS, v * WEIGHTS + v.float() * 2],
    "constants": lambda v: [WEIGHTS * v + WEIGHTS * v.flip(0), torch.zeros(2, dtype=v.dtype)],
}


@pytest.mark.parametrize("name", ALIASES)
@pytest.mark.parametrize("overlapping", [False, True])
def test_nothing_is_written_over_that_is_needed(name, overlapping):
    """Run twice, on vectors of which each entry, or none, has memory of its own."""
    function = ALIASES[name]
    program = program_of(function)
    base = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)
    vector = base[1].expand(3) if overlapping else base
    untouched, constants = base.clone(), [constant.clone() for constant in program.constants()]
    expected = [output.clone() for output in function(vector)]
    run = emitted(program)
    for _ in range(2):
        torch.testing.assert_close([output.clone() for output in run(vector)], expected, rtol=1e-13, atol=1e-14)
        assert torch.equal(base, untouched)
        assert all(torch.equal(now, then) for now, then in zip(program.constants(), constants, strict=True))


def test_vectors_may_lie_in_memory_in_any_order():
    """Recorded at contiguous ones."""
    weights = torch.randn(2, 3, dtype=torch.float64)

    def function(v):
        return [(v * weights).reshape(6), v.t() @ weights, v.sum(1)]

    program = program_of(function, (2, 3))
    vector = torch.randn(3, 2, dtype=torch.float64).t()
    torch.testing.assert_close(list(emitted(program)(vector)), list(function(vector)), rtol=1e-13, atol=1e-14)


def test_the_views_of_a_vector_itself_need_no_order():
    program = program_of(lambda v: [v.view(6) * 2], (2, 3))
    vector = torch.randn(3, 2, dtype=torch.float64).t()
    assert torch.equal(emitted(program)(vector)[0], vector.reshape(6) * 2)


@pytest.mark.parametrize(
    ("function", "method"),
    [
        (lambda v: [v.sin() * WEIGHTS], "mul_"),
        (lambda v: [WEIGHTS * v.sin()], "mul_"),
        (lambda v: [v.sin() / WEIGHTS], "div_"),
        (lambda v: [v.sin() + v.cos()], "add_"),
        (lambda v: [v.sin() - v], "sub_"),
        (lambda v: [v.sin() + v * WEIGHTS], "addcmul_"),
        (lambda v: [v.sin().expand(3, 3) * 1.0 + MATRIX @ v.expand(3, 3)], "addmm_"),
    ],
)
def test_a_term_that_goes_is_written_over(function, method):
    assert f"= {method}(" in source(program_of(function))


@pytest.mark.parametrize(
    ("function", "over"),
    [
        (lambda v: [v.sin().view(2, 3) + v.cos().view(2, 3)], True),
        (lambda v: (lambda x: [x.view(2, 3).mul(3.0), x.cos()])(v.sin()), False),  # the whole is read later
        (lambda v: [v.view(2, 3) * 3.0], False),  # the vector itself
        (lambda v: [v.sin()[:3] * 3.0], False),
        (lambda v: [v.sin()[:1].expand(6) * 3.0], False),
        (lambda v: [v.sin().view(2, 3).t() * 3.0], False),
        (lambda v: [(lambda x: x.view(2, 3) * x.view(3, 2).t())(v.sin())], False),  # under another name in the step
    ],
)
def test_whole_views_of_what_goes_are_written_over(function, over):
    program = program_of(function, (6,))
    assert ("= mul_(" in source(program) or "= add_(" in source(program)) == over
    v = torch.randn(6, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(list(emitted(program)(v)), list(function(v)), rtol=1e-14, atol=1e-15)


def test_a_divisor_is_not_written_over():
    assert "div_" not in source(program_of(lambda v: [WEIGHTS / v.sin(), v - v.sin()]))


def test_tensors_go_after_their_last_use():
    lines = source(program_of(lambda v: [v.sin().cos().flip(0)])).splitlines()
    assert [line.split(" =")[0].strip() for line in lines] == [
        "def run(v0):",
        *("x1", "x2", "del x1", "x3", "del x2", "return x3,"),
    ]


def test_programs_that_differ_in_constants_share_their_code():
    first, second = (
        emitted(program_of(lambda v, weights=weights: [v * weights + 0.5 * v])) for weights in (WEIGHTS, 2 * WEIGHTS)
    )
    assert first.func is second.func
    v = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(second(v)[0], v * (2 * WEIGHTS + 0.5), rtol=1e-15, atol=0)


def test_programs_that_differ_in_a_number_do_not():
    first, second = (emitted(program_of(lambda v, factor=factor: [v * factor])) for factor in (0.5, 0.25))
    assert first.func is not second.func


def test_arguments_of_every_kind_are_spelled():
    """Numbers that Python cannot read back, types, lists, None, and keywords among them."""

    def function(v):
        infinite = v.masked_fill(WEIGHTS > 0, float("-inf")).exp()
        return [infinite, v.to(torch.float32), v.sum([0, 1], keepdim=True), v[None, :, [0, 1]], v.expand(2, 3, 3)]

    program = program_of(function, (3, 3))
    vector = torch.randn(3, 3, dtype=torch.float64)
    assert all(map(torch.equal, emitted(program)(vector), function(vector)))


def test_what_a_run_takes():
    """Two vectors of 80 bytes at a time, the given one aside: sin and cos, cos and flip, flip and the short sum."""

    def function(v):
        x = v.sin()
        y = x.cos()
        window = y.view(2, 5)
        return [window.flip(0).sum(0)]

    program = program_of(function, (10,))
    assert [str(step.operation) for step in program.steps] == [
        *("aten.sin.default", "aten.cos.default", "aten.view.default", "aten.flip.default", "aten.sum.dim_IntList"),
    ]
    assert max(working_bytes(program)) == 160


def test_what_outputs_take_is_kept_to_the_end():
    assert max(working_bytes(program_of(lambda v: [v.sin(), v.cos(), v.exp()], (10,)))) == 240
    assert max(working_bytes(program_of(lambda v: [v.view(2, 5), v], (10,)))) == 0


def test_constants_count_once_by_their_memory():
    big = torch.ones(100, dtype=torch.float64)
    programs = [
        recorded(lambda v: [v * big[:50], v + v * big[50:]], torch.ones(50, dtype=torch.float64)),
        recorded(lambda v: [v * big[:3] * WEIGHTS], torch.ones(3, dtype=torch.float64)),
    ]
    assert kept_bytes(programs) == big.nbytes + WEIGHTS.nbytes
    assert kept_bytes(programs, [big.view(10, 10)]) == WEIGHTS.nbytes
