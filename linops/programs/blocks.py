"""Linear programs for blocks of vectors: every computed tensor gets the columns as a new first dimension."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .decompositions import aten
from .emission import emitted
from .program import LinearisationError, LinearProgram, Step, Value, mapped
from .tape import Tape


def for_columns(program: LinearProgram, columns: int) -> LinearProgram:
    """The program that does for ``columns`` vectors at once what ``program`` does for one.

    Raises:
        LinearisationError, RuntimeError: an operation that cannot be vectorised, or whose rule computes something else.

    Cost: about one run for that many columns, and one for a single column.
    """
    generator = torch.Generator().manual_seed(0)
    examples = [
        torch.randn(columns, *value.shape, generator=generator).to(value.device, value.dtype)
        for value in program.inputs
    ]
    tape = Tape(examples)
    with torch.no_grad():
        with tape:
            outputs = _run(program, examples, tape)
        _require_same(
            [output[0] for output in outputs], emitted(program)(*(example[0] for example in examples)), program
        )
    return tape.program(outputs)


def _require_same(found: Sequence[Tensor], expected: Sequence[Tensor], program: LinearProgram) -> None:
    """The first column of a block must be what it is alone, to half of the digits of the shortest dtype on the way."""
    dtypes = {value.dtype for step in program.steps for value in step.results if value is not None}
    rounding = max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)
    alike = all(
        (one.shape, one.dtype) == (other.shape, other.dtype) for one, other in zip(found, expected, strict=True)
    )
    difference = sum(float((one - other).abs().square().sum()) for one, other in zip(found, expected, strict=True))
    size = sum(float(other.abs().square().sum()) for other in expected)
    if not alike or not difference <= rounding * size:  # NaN is no agreement
        raise LinearisationError("the rule of an operation for blocks computes something else than for one column")


def _run(program: LinearProgram, vectors: list[Tensor], tape: Tape) -> list[Tensor]:
    columns = vectors[0].shape[0]
    tensors: dict[Value, Tensor] = dict(zip(program.inputs, vectors, strict=True))
    last: dict[Any, Step | None] = {value: step for step in program.steps for value in step.values()}
    last.update((output, None) for output in program.outputs if isinstance(output, Value))
    for step in program.steps:
        before = len(tape.steps)
        results = _RULES.get(step.operation, _vectorised)(step, tensors)
        if _copies_constants(step, tape.steps[before:]):
            results = _column_by_column(step, tensors)
        named = zip(step.results, results, strict=True)
        tensors.update((value, result) for value, result in named if value is not None)
        for value in step.values():
            if last[value] is step:
                del tensors[value]
    return [
        tensors[output] if isinstance(output, Value) else output.expand(columns, *output.shape)
        for output in program.outputs
    ]


def _vectorised(step: Step, tensors: dict[Value, Tensor]) -> tuple[Any, ...]:
    """By PyTorch's rule; column by column where there is none."""
    if step.operation not in _WITHOUT_RULE:
        try:
            return _by_rule(step, tensors)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # some operation within has no rule
            pass
    return _column_by_column(step, tensors)


def _copies_constants(step: Step, made: Sequence[Step]) -> bool:
    """Whether a rule repeats a large constant for each column, which takes the memory and the time to read it."""
    known = {leaf.untyped_storage().data_ptr() for leaf in step.constants()}
    size = max((leaf.untyped_storage().nbytes() for leaf in step.constants()), default=0)
    return any(
        leaf.untyped_storage().data_ptr() not in known and leaf.untyped_storage().nbytes() > max(size, _LARGE)
        for each in made
        for leaf in each.constants()
    )


def _column_by_column(step: Step, tensors: dict[Value, Tensor]) -> tuple[Any, ...]:
    values = step.values()
    rows = []
    for column in range(len(tensors[values[0]])):
        given: dict[Any, Any] = {value: tensors[value][column] for value in values}
        arguments, keywords = step.substituted(functools.partial(_replaced, given))
        found = step.operation(*arguments, **keywords)
        rows.append(found if step.several else (found,))
    parts = zip(*rows, strict=True)
    return tuple(None if value is None else torch.stack(part) for value, part in zip(step.results, parts, strict=True))


def _replaced(given: dict[Any, Any], leaf: Any) -> Any:
    return given[leaf] if isinstance(leaf, Value) else leaf


def _by_rule(step: Step, tensors: dict[Value, Tensor]) -> tuple[Any, ...]:
    values = step.values()

    def one(*columns: Tensor) -> tuple[Tensor, ...]:
        given: dict[Any, Any] = dict(zip(values, columns, strict=True))
        arguments, keywords = step.substituted(functools.partial(_replaced, given))
        found = step.operation(*arguments, **keywords)
        return tuple(part for part in (found if step.several else (found,)) if part is not None)

    results = iter(torch.func.vmap(one)(*(tensors[value] for value in values)))
    return tuple(None if value is None else next(results) for value in step.results)


def _matrix_product(step: Step, tensors: dict[Value, Tensor]) -> tuple[Tensor]:
    *addends, left, right = _given(step, tensors)
    matrix = any(isinstance(factor, Value) for factor in step.arguments[-2:])
    if step.keywords or not matrix or not all(isinstance(leaf, Value) for leaf in step.arguments[:-2]):
        return _vectorised(step, tensors)
    if not addends:
        return (_product(left, right, None),)
    columns, *shape = addends[0].shape  # each column's is broadcast
    return (_product(left, right, addends[0].reshape(columns, *(1,) * (2 - len(shape)), *shape)),)


def _product(A: Tensor, B: Tensor, addend: Tensor | None) -> Tensor:
    """A B (+ addend), where at least one factor is a stack, by a single product of matrices where memory allows.

    Vectorisation would copy the stack into the order that such a product needs; a batch of small products does not.
    """
    if A.ndim == 3 and B.ndim == 2 and A.is_contiguous():
        rows, shape = A.reshape(A.shape[0] * A.shape[1], A.shape[2]), (*A.shape[:2], B.shape[1])
        if addend is None or addend.shape != shape:
            flat = torch.mm(rows, B).view(shape)
            return flat if addend is None else flat + addend
        return torch.addmm(addend.reshape(rows.shape[0], B.shape[1]), rows, B).view(shape)
    columns = (A if A.ndim == 3 else B).shape[0]
    A, B = (factor if factor.ndim == 3 else factor.expand(columns, *factor.shape) for factor in (A, B))
    return torch.bmm(A, B) if addend is None else torch.baddbmm(addend, A, B)


def _transposition(step: Step, tensors: dict[Value, Tensor]) -> tuple[Tensor]:
    (matrices,) = _given(step, tensors)
    return (matrices.mT if matrices.ndim == 3 else matrices,)


def _reshaping(step: Step, tensors: dict[Value, Tensor]) -> tuple[Tensor]:
    """Of stacks that lie in memory in another order than a single tensor would."""
    stack = tensors[step.arguments[0]]
    return (stack.reshape(stack.shape[0], *step.result.shape),)


def _given(step: Step, tensors: dict[Value, Tensor]) -> tuple[Any, ...]:
    given: tuple[Any, ...] = mapped(functools.partial(_replaced, tensors), step.arguments)
    return given


_LARGE = 2**18  # bytes: what is larger is not copied for each column
_RULES: dict[Any, Callable[[Step, dict[Value, Tensor]], tuple[Any, ...]]] = {
    aten.mm.default: _matrix_product,
    aten.addmm.default: _matrix_product,
    aten.t.default: _transposition,
    aten.view.default: _reshaping,
    aten._unsafe_view.default: _reshaping,
}
# PyTorch's rule for the first computes something else; for the others it has none, and says so on the error stream.
_WITHOUT_RULE = {
    *(aten._cdist_backward.default, aten._trilinear.default, aten.zero.default, aten.take.default, aten.put.default),
    *(aten.masked_scatter.default, aten.masked_scatter_backward.default, aten.unfold_backward.default),
    *(aten._upsample_nearest_exact2d.default, aten._upsample_nearest_exact2d_backward.default),
    *(aten.rrelu_with_noise_backward.default,),
}
