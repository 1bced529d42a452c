"""Linear programs as Python functions, and the memory that they take."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .decompositions import aten
from .program import LinearProgram, Step, Value
from .rewriting import is_view

Tensors = tuple[Tensor, ...]


def emitted(program: LinearProgram, compiled: bool = False) -> Callable[..., Tensors]:
    """The program as a function of its vectors, which it does not change.

    Each tensor goes as soon as nothing more is computed from it, and sums and products are written over a term that
    goes with them. Programs that differ in their constants only, as those of equally large micro-batches do, share
    their code.

    Args:
        program: what to compute.
        compiled: whether ``torch.compile`` translates it, at the first call.

    Cost: some milliseconds for a thousand steps.
    """
    writer = _Writer(program)
    return functools.partial(_translated(writer.source, tuple(writer.scope.items()), compiled), *writer.constants)


@functools.lru_cache(maxsize=64)
def _translated(source: str, scope: tuple[tuple[str, Any], ...], compiled: bool) -> Callable[..., Tensors]:
    names = dict(scope)
    exec(compile(source, "<linear program>", "exec"), names)
    run: Callable[..., Tensors] = names["run"]
    if not compiled:
        return run
    # Models run uncompiled while programs are recorded, and with them their first products.
    translated: Callable[..., Tensors] = torch.compiler.set_stance("default")(torch.compile(run, dynamic=False))
    return translated


class _Writer:
    """The source of a program.

    Attributes:
        source: of a function ``run`` of the constants and the vectors.
        scope: names in the source to operations and other things that Python cannot spell out.
        constants: the tensors to give first.
    """

    def __init__(self, program: LinearProgram) -> None:
        self.scope: dict[str, Any] = {}
        self.constants: list[Tensor] = []
        self._spelled: dict[int, str] = {}
        self._names = {value: f"v{number}" for number, value in enumerate(program.inputs)}
        lifetimes = _Lifetimes(program)
        lines = [line for place, step in enumerate(program.steps) for line in self._lines(place, step, lifetimes)]
        lines.append("return " + "".join(f"{self._spelling(output)}, " for output in program.outputs))
        names = [f"c{number}" for number in range(len(self.constants))]
        names += [self._names[value] for value in program.inputs]
        self.source = f"def run({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in lines)

    def _lines(self, place: int, step: Step, lifetimes: _Lifetimes) -> Iterator[str]:
        for value in step.results:
            if value is not None:
                self._names[value] = f"x{len(self._names)}"
        targets = ", ".join("_" if value is None else self._names[value] for value in step.results)
        direct = _DIRECT.get(step.operation, step.operation)
        operation, leaves = lifetimes.overwriting(place) or (direct, step.arguments)
        arguments = [self._spelling(leaf) for leaf in leaves]
        arguments += [f"{key}={self._spelling(leaf)}" for key, leaf in step.keywords.items()]
        yield f"{targets}{',' if step.several else ''} = {self._named(operation)}({', '.join(arguments)})"
        if lifetimes.dead_after(place):
            yield "del " + ", ".join(self._names[value] for value in lifetimes.dead_after(place))

    def _spelling(self, leaf: Any) -> str:
        if isinstance(leaf, Value):
            return self._names[leaf]
        if isinstance(leaf, tuple | list):
            return "[" + ", ".join(map(self._spelling, leaf)) + "]"
        return repr(leaf) if leaf is None or isinstance(leaf, bool | int) else self._named(leaf)

    def _named(self, thing: Any) -> str:
        if id(thing) not in self._spelled:
            if isinstance(thing, Tensor):
                self._spelled[id(thing)] = f"c{len(self.constants)}"
                self.constants.append(thing)
            else:
                self._spelled[id(thing)] = f"g{len(self.scope)}"
                self.scope[f"g{len(self.scope)}"] = thing
        return self._spelled[id(thing)]


def kept_bytes(programs: Iterable[LinearProgram], shared: Iterable[Tensor] = ()) -> int:
    """What the constants of the programs take together, beside the tensors in ``shared``."""
    counted = {tensor.untyped_storage().data_ptr() for tensor in shared}
    total = 0
    for tensor in itertools.chain.from_iterable(program.constants() for program in programs):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def working_bytes(program: LinearProgram) -> list[int]:
    """What the tensors of a run take at each step, inputs aside."""
    lifetimes = _Lifetimes(program)
    live, course = 0, []
    for place, step in enumerate(program.steps):
        live += sum(value.nbytes for value in step.results if value is not None and lifetimes.owner[value] is value)
        course.append(live)
        live -= sum(value.nbytes for value in lifetimes.freed_after[place])
    return course


class _Lifetimes:
    """When the values of a program are needed for the last time, and which of them share memory."""

    def __init__(self, program: LinearProgram) -> None:
        self._steps = program.steps
        self.owner: dict[Value, Value] = {value: value for value in program.inputs}
        self._last: dict[Value, int] = {}  # need of the value
        self._end: dict[Value, int] = {}  # need of what an owner holds, under any name
        for place, step in enumerate(program.steps):
            origin = step.arguments[0] if is_view(step) else None
            for value in step.results:
                if value is not None:
                    self.owner[value] = self.owner[origin] if isinstance(origin, Value) else value
            for value in (*step.values(), *step.results):
                if value is not None:
                    self._last[value] = self._end[self.owner[value]] = place
        outputs = (output for output in program.outputs if isinstance(output, Value))
        for value in (*program.inputs, *outputs):
            self._last[value] = self._end[self.owner[value]] = len(program.steps)
        self._dead: list[list[Value]] = [[] for _ in program.steps]
        self.freed_after: list[list[Value]] = [[] for _ in program.steps]
        for lasting, ending in ((self._last, self._dead), (self._end, self.freed_after)):
            for value, place in lasting.items():
                if place < len(program.steps):
                    ending[place].append(value)

    def dead_after(self, place: int) -> list[Value]:
        """The values that no step after this one needs."""
        return self._dead[place]

    def overwriting(self, place: int) -> tuple[Callable[..., Any], list[Any]] | None:
        """The step in place, with its arguments, if it may be written over its first term, or over its second."""
        step = self._steps[place]
        if step.operation not in _OVERWRITING:
            return None
        orders = [list(step.arguments)]
        if step.operation in _COMMUTING and not step.keywords:
            orders.append(list(reversed(step.arguments)))
        for arguments in orders:
            term = arguments[0]
            if not isinstance(term, Value) or (term.shape, term.dtype) != (step.result.shape, step.result.dtype):
                continue
            owner = self.owner[term]
            whole = owner is term or (owner.nbytes == term.nbytes and _is_dense(term))
            shared = any(isinstance(other, Value) and self.owner[other] is owner for other in arguments[1:])
            if whole and self._end[owner] == place and not shared:
                return _OVERWRITING[step.operation], arguments
        return None


def _is_dense(value: Value) -> bool:
    """Whether no two entries share memory, and they follow one another by rows."""
    expected, strides = 1, []
    for size in reversed(value.shape):
        strides.append(expected)
        expected *= size
    return all(
        size == 1 or given == wanted
        for size, given, wanted in zip(value.shape, value.strides, reversed(strides), strict=True)
    )


# PyTorch's own functions are called in half the time of the operations that they stand for.
_DIRECT: dict[Any, Callable[..., Any]] = {
    aten.mm.default: torch.mm,
    aten.addmm.default: torch.addmm,
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.baddbmm,
    aten.mul.Tensor: torch.mul,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.addcmul.default: torch.addcmul,
    aten.sum.dim_IntList: torch.sum,
    aten.t.default: torch.t,
    aten.transpose.int: torch.transpose,
    aten.permute.default: torch.permute,
    aten.expand.default: Tensor.expand,
    # Fusion may change strides, where a view would no longer do.
    aten.view.default: torch.reshape,
    aten._unsafe_view.default: torch.reshape,
}
_OVERWRITING: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: Tensor.add_,
    aten.sub.Tensor: Tensor.sub_,
    aten.mul.Tensor: Tensor.mul_,
    aten.mul.Scalar: Tensor.mul_,
    aten.div.Tensor: Tensor.div_,
    aten.div.Scalar: Tensor.div_,
    aten.addcmul.default: Tensor.addcmul_,
    aten.addmm.default: Tensor.addmm_,
    aten.baddbmm.default: Tensor.baddbmm_,
}
_COMMUTING = {aten.add.Tensor, aten.mul.Tensor}
