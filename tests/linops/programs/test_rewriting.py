"""Rules of rewriting: each shortens what it is for, leaves alone what only looks like it, and computes the same."""

import pytest
import torch

from eigenspan.linops.programs.emission import emitted
from eigenspan.linops.programs.rewriting import is_view, simplified
from eigenspan.linops.programs.tape import recorded

aten = torch.ops.aten
A = torch.arange(12.0, dtype=torch.float64).view(4, 3) - 5
SQUARE3 = torch.arange(9.0, dtype=torch.float64).view(3, 3) - 2
SQUARE = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
MASK = torch.tensor([True, False, True])


def shortened(function, *shapes, tolerance=1e-13):
    """The simplified program, after a check at random vectors; products and sums in one operation round once less."""
    program = recorded(function, *(torch.ones(shape, dtype=torch.float64) for shape in shapes))
    simple = simplified(program)
    vectors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    expected = list(function(*vectors))
    for each in (program, simple):
        torch.testing.assert_close(list(emitted(each)(*vectors)), expected, rtol=tolerance, atol=tolerance)
    assert len(simple.steps) <= len(program.steps)
    return simple


def operations(program):
    return [step.operation for step in program.steps]


def unused(v):
    (v * 2).sum()
    return [v * 3]


def repeated(v):
    return [v * 2, (v * 2).sum(0)]


def idle(v):
    return [(v * 2).view(3, 4).view(4, 3).clone()[:]]


def transposed_twice(v):
    return [(v * 2).t().transpose(1, 0)]


def sum_of_transposes(v):
    return [(v * 2).t() + (v * A).t()]


def sum_with_mm(v):
    return [v * 2 + A @ v[:3]]


def sum_with_mm_first(v):
    return [A @ v[:3] + v * 2]


def sum_with_bmm(v):
    return [v.expand(2, 4, 3) * 2 + torch.bmm(A.expand(2, 4, 3), v[:3].expand(2, 3, 3))]


def sum_with_mul(v):
    return [v.abs() + v.sin() * A]


def difference_with_mul(v):
    return [v.abs() - v.sin() * A]


def chain(v):
    return [(v.sin() * A + v.cos() * 3).t().t() + v.abs() * A]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (unused, [aten.mul.Tensor]),
        (repeated, [aten.mul.Tensor, aten.sum.dim_IntList]),
        (idle, [aten.mul.Tensor, aten.view.default, aten.view.default]),
        (transposed_twice, [aten.mul.Tensor]),
        (sum_of_transposes, [aten.mul.Tensor, aten.addcmul.default, aten.t.default]),
        (sum_with_mm, [aten.mul.Tensor, aten.slice.Tensor, aten.addmm.default]),
        (sum_with_mm_first, [aten.slice.Tensor, aten.mul.Tensor, aten.addmm.default]),
        (sum_with_mul, [aten.abs.default, aten.sin.default, aten.addcmul.default]),
        (difference_with_mul, [aten.abs.default, aten.sin.default, aten.addcmul.default]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_remains_of_a_program(function, expected):
    assert operations(shortened(function, (4, 3))) == expected


def test_sums_with_batched_products_are_one_operation():
    simple = operations(shortened(sum_with_bmm, (4, 3)))
    assert aten.baddbmm.default in simple
    assert aten.add.Tensor not in simple


def test_rules_follow_on_one_another():
    """The transpositions go only after which the sum can take in the products."""
    simple = operations(shortened(chain, (4, 3)))
    assert simple.count(aten.addcmul.default) == 2
    assert aten.add.Tensor not in simple
    assert aten.t.default not in simple


LEFT_ALONE = {
    "a product that is used again": lambda v: (lambda p: [v.abs() + p, p])(v.sin() * A),
    "a product used twice in the sum": lambda v: (lambda p: [p + p])(v.sin() * A),
    "a sum that broadcasts the other term": lambda v: [v.sum(0) + v.sin() * A],
    "a sum with a factor": lambda v: [torch.add(v.abs(), v.sin() * A, alpha=2)],
    "a difference with a factor": lambda v: [torch.sub(v.abs(), v.sin() * A, alpha=2)],
    "a product less something": lambda v: [v.sin() * A - v.abs()],
    "a product of matrices taken away": lambda v: [v.abs() - A @ v[:3]],
    "a product in another type": lambda v: [v.abs() + v.float() * 2.0],
    "a transposition that is used again": lambda v: (lambda p: [p + v.cos().t(), p])(v.sin().t()),
    "transpositions of other dimensions": lambda v: [
        v.expand(3, 4, 3).transpose(0, 1) + v.sin().t().unsqueeze(0).transpose(1, 2).transpose(0, 2).transpose(0, 1)
    ],
    "a transposition after another": lambda v: [v.expand(4, 4, 3).transpose(0, 1).transpose(1, 2) * 2],
    "a sum that broadcasts a product of matrices": lambda v: [v.abs() + (A[:1] @ v[:3]), v.abs() + (v[:1] @ SQUARE3)],
    "a sum that broadcasts products in batches": lambda v: [v.expand(2, 4, 3) * 2 + torch.bmm(A[None], v[None, :3])],
    "transpositions of shapes that broadcast": lambda v: [v.sin().t() + v[:, :3].sum(1, keepdim=True).t()],
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_lookalikes_are_left_alone(name):
    """`shortened` compares the values; a wrong rule would raise or compute something else."""
    simple = operations(shortened(LEFT_ALONE[name], (4, 3), tolerance=1e-12))
    assert not {aten.addcmul.default, aten.addmm.default, aten.baddbmm.default} & set(simple)


def test_expanded_terms_are_expanded_by_the_sum():
    simple = shortened(lambda v: [v[0].expand(4, 3) + v.sin() * A, v[:1].sin().expand(4, 3) + A @ v[:3]], (4, 3))
    assert aten.expand.default not in operations(simple)


def test_terms_wider_than_the_product_stay_expanded():
    """The sum would be as narrow as the product."""
    simple = shortened(lambda v: [v[:1].sin().expand(4, 3) + v[0].sin() * A[:1]], (4, 3))
    assert simple.outputs[0].shape == (4, 3)


@pytest.mark.parametrize("factor", [MASK, MASK.int(), A[0].float()], ids=["bool", "int", "float32"])
def test_factors_of_other_types_promote_as_before(factor):
    simple = shortened(lambda v, w: [v.abs() + w * factor, v.abs() - w * factor], (3,), (3,))
    assert [output.dtype for output in simple.outputs] == [torch.float64] * 2


def test_sums_of_transposes_promote_as_before():
    simple = shortened(lambda v: [v.float().t() + v.t()], (4, 3))
    assert simple.outputs[0].dtype == torch.float64


LOOK_ALIKE_VIEWS = {
    "conjugate": (lambda v: [(v.to(torch.complex128) * (1 + 2j)).conj() * (1 + 1j)], (3,)),
    "negated in place of conjugated": (lambda v: [(v * (1 + 2j)).conj().imag * 2], (3,)),
    "transposed square": (lambda v: [(v * 2).t() * SQUARE], (2, 2)),
    "flipped": (lambda v: [(v * 2).flip(0) * SQUARE], (2, 2)),
}


@pytest.mark.parametrize("name", LOOK_ALIKE_VIEWS)
def test_results_that_look_like_what_they_are_of_may_differ_from_it(name):
    function, shape = LOOK_ALIKE_VIEWS[name]
    shortened(function, shape)


def test_steps_that_differ_in_a_number_are_no_repetition():
    shortened(lambda v: [v * 2, v * 3, v.sum(0), v.sum(1), v[:2], v[2:]], (4, 4))


def test_outputs_may_be_inputs_or_one_another():
    simple = shortened(lambda v: [v.clone(), v, v * 2, (v * 2).clone()], (3,))
    assert operations(simple) == [aten.mul.Tensor]
    assert simple.outputs[0] is simple.outputs[1] is simple.inputs[0]


def test_steps_with_several_results_stay():
    simple = shortened(lambda v: [torch.cat(v.split(2)[::-1]), v.unbind()[0]], (4, 3))
    assert aten.split.Tensor in operations(simple)


def test_views_are_known():
    program = recorded(
        lambda v: [v.t(), torch.ops.aten._unsafe_view(v * 2, [3, 4]), v.split(2)[0], v.clone()],
        torch.ones(4, 3, dtype=torch.float64),
    )
    views = {step.operation: is_view(step) for step in program.steps}
    expected = {aten.t.default, aten._unsafe_view.default, aten.split.Tensor}
    assert {operation for operation, is_one in views.items() if is_one} == expected
