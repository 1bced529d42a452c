"""Rules that make a linear program shorter without changing what it computes."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from .decompositions import aten
from .program import LinearProgram, Step, Value, leaves

_ROUNDS = 4


def simplified(program: LinearProgram) -> LinearProgram:
    """The program without dead, repeated and idle steps, with sums taken into the products that they follow.

    Cost: some milliseconds for a thousand steps.
    """
    for _ in range(_ROUNDS):
        shorter = _Rewriting(_without_dead_steps(program)).program
        if len(shorter.steps) == len(program.steps):
            return shorter
        program = shorter
    return program


def is_view(step: Step) -> bool:
    """Whether the result shares the memory of the first argument."""
    returns = step.operation._schema.returns
    return step.operation in _UNMARKED_VIEWS or any(each.alias_info is not None for each in returns)


def _without_dead_steps(program: LinearProgram) -> LinearProgram:
    live = {output for output in program.outputs if isinstance(output, Value)}
    kept: list[Step] = []
    for step in reversed(program.steps):
        if any(value in live for value in step.results if value is not None):
            kept.append(step)
            live.update(step.values())
    return attrs.evolve(program, steps=tuple(reversed(kept)))


class _Rewriting:
    """One pass over a program: each step as it is, as other steps, or as the name of a value that is there already."""

    def __init__(self, program: LinearProgram) -> None:
        self.made: dict[Value, Step] = {}
        self._place: dict[Value, int] = {}
        self._renamed: dict[Value, Value] = {}
        self._seen: dict[Any, Value] = {}
        self._steps: list[Step] = []
        self.uses = collections.Counter(value for step in program.steps for value in step.values())
        self.uses.update(output for output in program.outputs if isinstance(output, Value))
        for step in program.steps:
            arguments, keywords = step.substituted(self._current)
            self._add(attrs.evolve(step, arguments=arguments, keywords=keywords))
        outputs = tuple(self._current(output) for output in program.outputs)
        self.program = _without_dead_steps(LinearProgram(program.inputs, tuple(self._steps), outputs))

    def _current(self, leaf: Any) -> Any:
        return self._renamed.get(leaf, leaf) if isinstance(leaf, Value) else leaf

    def _add(self, step: Step) -> None:
        if step.several:
            self._append(step)
            return
        for rule in _RULES:
            found = rule(self, step)
            if isinstance(found, Value):
                self._renamed[step.result] = found
                self.uses[found] += self.uses[step.result]
                return
            if found:
                for each in found:
                    self._append(each)
                return
        key = _key(step)
        if key in self._seen:
            self._renamed[step.result] = self._seen[key]
            self.uses[self._seen[key]] += self.uses[step.result]
            return
        self._seen[key] = step.result
        self._append(step)

    def _append(self, step: Step) -> None:
        for value in step.results:
            if value is not None:
                self.made[value], self._place[value] = step, len(self._steps)
        self._steps.append(step)

    def maker(self, value: Any, *operations: Any) -> Step | None:
        """The step that makes a value, if it is one of the operations and the value has no other use."""
        step = self.made.get(value) if isinstance(value, Value) else None
        return step if step is not None and step.operation in operations and self.uses[value] == 1 else None

    def latest_first(self, pairs: list[tuple[Value, Value]]) -> list[tuple[Value, Value]]:
        """Pairs of terms by when the first of them is made: what comes later can take in what came before."""
        return sorted(pairs, key=lambda pair: -self._place.get(pair[0], -1))


def _key(step: Step) -> Any:
    """Equal for steps that compute the same."""
    parts = [
        (type(leaf), id(leaf) if isinstance(leaf, Tensor | Value) else leaf)
        for leaf in leaves((step.arguments, step.keywords))
    ]
    return step.operation, tuple(step.keywords), tuple(parts), step.result.shape


Found = Value | list[Step] | None


def _idle(rewriting: _Rewriting, step: Step) -> Found:
    """A view or a copy that looks like what it is of."""
    if step.operation in _OTHER_VIEWS or (not is_view(step) and step.operation not in _COPIES):
        return None
    origin, result = step.arguments[0], step.result
    if not isinstance(origin, Value) or origin.dtype.is_complex:  # it may be a conjugate that is not computed yet
        return None
    same = (origin.shape, origin.dtype, origin.device) == (result.shape, result.dtype, result.device)
    return origin if same and _strides(origin) == _strides(result) else None


def _strides(value: Value) -> list[int]:
    """Those that matter."""
    return [stride for stride, size in zip(value.strides, value.shape, strict=True) if size > 1]


def _transposed_twice(rewriting: _Rewriting, step: Step) -> Found:
    swap = _swapped(step)
    inner = rewriting.made.get(step.arguments[0]) if swap and isinstance(step.arguments[0], Value) else None
    if inner is None or inner.several or _swapped(inner) != swap:
        return None
    origin: Value = inner.arguments[0]
    return origin


def _swapped(step: Step) -> tuple[int, ...] | None:
    """The two dimensions that a transposition swaps."""
    if step.operation is aten.t.default and len(step.result.shape) == 2:
        return 0, 1
    if step.operation is aten.transpose.int:
        size = len(step.result.shape)
        return tuple(sorted(dim % size for dim in step.arguments[1:]))
    return None


def _sum_of_transposes(rewriting: _Rewriting, step: Step) -> Found:
    """Aᵀ + Bᵀ = (A + B)ᵀ."""
    if step.operation is not aten.add.Tensor or step.keywords:
        return None
    makers = [rewriting.maker(term, aten.t.default, aten.transpose.int) for term in step.arguments]
    left, right = makers
    if left is None or right is None or left is right or _swapped(left) != _swapped(right):
        return None
    first, second = left.arguments[0], right.arguments[0]
    if first.shape != second.shape:
        return None
    total = attrs.evolve(first, dtype=step.result.dtype)
    rewriting.uses[total] = 1
    return [
        Step(aten.add.Tensor, (first, second), {}, (total,)),
        Step(left.operation, (total, *left.arguments[1:]), {}, step.results),
    ]


def _sum_with_product(rewriting: _Rewriting, step: Step) -> Found:
    """A + B C in one operation, and A ± B ∘ C."""
    plus, minus = step.operation is aten.add.Tensor, step.operation is aten.sub.Tensor
    if not (plus or minus) or step.keywords or not all(isinstance(term, Value) for term in step.arguments):
        return None
    left, right = step.arguments
    pairs = [pair for pair in ([(left, right), (right, left)] if plus else [(right, left)]) if pair[0] is not pair[1]]
    for product, other in rewriting.latest_first(pairs):
        maker = rewriting.maker(product, *_WITH_SUM)
        if maker is None or maker.keywords or other.shape != step.result.shape or product.dtype != other.dtype:
            continue
        if maker.operation is not aten.mul.Tensor and product.shape != step.result.shape:
            continue
        if not all(isinstance(factor, Value | Tensor) for factor in maker.arguments):
            continue
        if minus and maker.operation is not aten.mul.Tensor:
            continue
        return [
            Step(_WITH_SUM[maker.operation], (other, *maker.arguments), {"value": -1} if minus else {}, step.results)
        ]
    return None


def _sum_without_dimensions(rewriting: _Rewriting, step: Step) -> Found:
    """A sum that keeps its dimensions, and a view that drops them."""
    maker = rewriting.maker(step.arguments[0], aten.sum.dim_IntList) if step.operation is aten.view.default else None
    if (
        maker is None
        or not maker.arguments[0].shape
        or len(maker.arguments) != 3
        or not maker.arguments[2]
        or maker.keywords
    ):
        return None
    origin, dims, _ = maker.arguments
    summed = {dim % len(origin.shape) for dim in dims or range(len(origin.shape))}
    if [size for dim, size in enumerate(origin.shape) if dim not in summed] != list(step.result.shape):
        return None
    return [Step(aten.sum.dim_IntList, (origin, dims), {}, step.results)]


def _broadcast_addend(rewriting: _Rewriting, step: Step) -> Found:
    """A + B C for an A that is expanded beforehand: the product expands it itself."""
    if step.operation not in _WITH_SUM.values() or not isinstance(step.arguments[0], Value):
        return None
    addend, *factors = step.arguments
    expanded = rewriting.made.get(addend)
    if expanded is None or expanded.operation is not aten.expand.default or expanded.keywords:
        return None
    origin = expanded.arguments[0]
    reshaped = rewriting.made.get(origin)
    if reshaped is not None and reshaped.operation is aten.view.default:
        before = reshaped.arguments[0]
        if isinstance(before, Value) and (1,) * (len(origin.shape) - len(before.shape)) + before.shape == origin.shape:
            origin = before
    if step.operation is aten.addcmul.default:  # the product of matrices has a shape of its own
        shapes = [term.shape for term in (origin, *factors)]
        if torch.broadcast_shapes(*shapes) != step.result.shape:  # type: ignore[no-untyped-call]
            return None
    return [attrs.evolve(step, arguments=(origin, *factors))]


_WITH_SUM = {
    aten.mm.default: aten.addmm.default,
    aten.bmm.default: aten.baddbmm.default,
    aten.mul.Tensor: aten.addcmul.default,
}
# Views that their schemas do not tell of.
_UNMARKED_VIEWS = {aten._unsafe_view.default, aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default}
# They may look like what they are of and still read other entries, or the same ones in another way.
_OTHER_VIEWS = {aten._conj.default, aten._neg_view.default, aten.as_strided.default}
_COPIES = {aten.clone.default, aten._to_copy.default}
_RULES: tuple[Callable[[_Rewriting, Step], Found], ...] = (
    _idle,
    _transposed_twice,
    _sum_of_transposes,
    _sum_with_product,
    _sum_without_dimensions,
    _broadcast_addend,
)
