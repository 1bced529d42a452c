"""Recording: every operation that depends on given vectors is noted, and becomes a step of a linear program."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from .decompositions import aten, decomposition, is_elementwise_backward
from .program import LinearisationError, LinearProgram, Step, Value, leaves, mapped


def recorded(function: Callable[..., Sequence[Tensor]], *vectors: Tensor) -> LinearProgram:
    """The program of ``function`` at ``vectors``, on which it must depend linearly.

    What does not depend on the vectors, a forward pass among it, runs now and leaves its results as constants.

    Raises:
        LinearisationError: an operation that writes into memory which is read under another name, or one that is not
            linear because an output does not vanish with the vectors.

    Cost: one evaluation, and about 20 microseconds an operation.
    """
    tape = Tape(vectors)
    with tape:
        outputs = function(*vectors)
    return tape.program(outputs)


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, it notes every operation that depends on the given vectors."""

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._values = WeakIdKeyDictionary()  # tensor -> (its Value, the number of writes before)
        self._zeros = WeakIdKeyDictionary()
        self._written = WeakIdKeyDictionary()  # storage -> the number of its last write
        self._computed = WeakIdKeyDictionary()  # storages of constants that what depends on the vectors was written to
        self._kept = WeakIdKeyDictionary()  # storages of constants that steps read
        self._writes = 0
        self._derived: dict[tuple[Any, ...], tuple[Any, Tensor]] = {}
        self._memory = _Memory()
        self._inputs = tuple(self._named(vector) for vector in vectors)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled; that PyTorch makes sure of it takes seconds at the first operation."""
        return False

    @property
    def live_bytes(self) -> int:
        """The memory of the tensors that were made since then and are alive."""
        return self._memory.live

    @property
    def course(self) -> list[int]:
        """What that was after each tensor that was made."""
        return self._memory.course

    def program(self, outputs: Sequence[Tensor]) -> LinearProgram:
        """What was noted, as the program of these outputs."""
        found = tuple(self._value_of(output, "the function's output") for output in outputs)
        for output in found:
            if isinstance(output, Tensor) and bool(output.any()):
                raise LinearisationError("an output does not vanish with the vectors, so the function is not linear")
        constants: dict[int, Tensor] = {}

        def free(leaf: Any) -> Any:
            """A constant without the graph that it came from, which would live as long."""
            attached = isinstance(leaf, Tensor) and leaf.requires_grad
            return constants.setdefault(id(leaf), leaf.detach()) if attached else leaf

        steps = []
        for step in self.steps:
            arguments, keywords = step.substituted(free)
            steps.append(attrs.evolve(step, arguments=arguments, keywords=keywords))
        return LinearProgram(self._inputs, tuple(steps), tuple(map(free, found)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        arguments, keywords = mapped(lambda leaf: self._value_of(leaf, func), (tuple(args), kwargs))
        if not any(isinstance(leaf, Value) for leaf in leaves((arguments, keywords))):
            if func._schema.is_mutable and self._inputs:
                target = _written_argument(func, args)
                if target.untyped_storage() in self._kept:
                    raise LinearisationError(f"{func} writes to a constant that was read before")
                self._mark_written(target)
            return self._memory.counted(func(*args, **kwargs), (args, kwargs))
        if func in _ALIASES:
            result = func(*args, **kwargs)
            self._values[result] = self._values[args[0]]
            return result
        if func in _MADE_LIKE:
            result = self._memory.counted(func(*args, **kwargs), (args, kwargs))
            if func in _ZEROS:
                self._zeros[result] = True
            return result
        simpler = self._simpler(func, args, kwargs, arguments)
        if simpler is not None:
            return simpler
        if func._schema.is_mutable:
            return self._in_place(func, args, kwargs)
        if func is aten.as_strided.default:
            raise LinearisationError(f"{func} depends on how its argument lies in memory")
        if func in _READERS:
            raise LinearisationError(f"{func} reads a number from what depends on the vectors")
        result = self._memory.counted(func(*args, **kwargs), (args, kwargs))
        several = isinstance(result, tuple | list)
        results = tuple(
            self._named(part) if isinstance(part, Tensor) else None for part in (result if several else (result,))
        )
        if any(results):  # not a question about shapes
            self._read((arguments, keywords))
            self.steps.append(Step(func, arguments, keywords, results, several))
        return result

    def _read(self, arguments: Any) -> None:
        for leaf in leaves(arguments):
            if isinstance(leaf, Tensor):
                self._kept[leaf.untyped_storage()] = True

    def _simpler(self, func: Any, args: Any, kwargs: Any, arguments: Any) -> Any:
        """The result by operations that cost less or can be vectorised; None where there is no such way."""
        if func is aten.add.Tensor and not kwargs:
            left, right = args
            for term, other in ((left, right), (right, left)):
                if self._is_zero(other) and (other.shape, other.dtype) == (term.shape, term.dtype):
                    with self:
                        return aten.alias(term)
        computed = [isinstance(argument, Value) for argument in arguments]
        if is_elementwise_backward(func) and computed[0] and not any(computed[1:]):
            slope = self._slope(func, args, kwargs)
            with self:
                return args[0] * slope
        found = None if kwargs else decomposition(func, args, computed)
        if found is not None:
            with self, torch.autocast(args[0].device.type, enabled=False):  # the operation has its dtypes already
                return found(*args)
        return None

    def _is_zero(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf in self._zeros and leaf.untyped_storage() not in self._written

    def _slope(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """What an elementwise backward operation multiplies by, computed once for the same arguments."""
        key = (func, *(id(part) if isinstance(part, Tensor) else part for part in args[1:]), *kwargs.items())
        if key not in self._derived:
            slope = self._memory.counted(func(torch.ones_like(args[0]), *args[1:], **kwargs), (args, kwargs))
            self._derived[key] = args[1:], slope  # with the arguments, so that their ids stay theirs
            self._read(args[1:])
        return self._derived[key][1]

    def _in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Notes the operation's counterpart that returns a new tensor, which then stands for the one written to."""
        target = _written_argument(func, args)
        name = func._schema.name.split("::")[1].removesuffix("_")
        pure = getattr(getattr(aten, name, None), func._overloadname, None)
        if pure is None or pure._schema.is_mutable or target is not args[0]:
            raise LinearisationError(f"{func} writes in place, and has no counterpart that does not")
        first = target
        if target not in self._values:
            if target.untyped_storage() in self._kept:
                raise LinearisationError(f"{func} writes to a constant that was read before")
            first = target.clone()  # a step keeps what it was before
        with self:
            stand_in = pure(first, *args[1:], **kwargs).to(target.dtype)
        func(*args, **kwargs)
        value = self._value_of(stand_in, func)
        self._mark_written(target)
        self._computed[target.untyped_storage()] = True
        self._values[target] = value, self._writes
        return target

    def _mark_written(self, target: Tensor) -> None:
        self._writes += 1
        self._written[target.untyped_storage()] = self._writes

    def _named(self, tensor: Tensor) -> Value:
        value = Value.like(tensor)
        self._values[tensor] = value, self._writes
        return value

    def _value_of(self, leaf: Any, reader: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        value, seen = self._values.get(leaf, (leaf, None))  # type: ignore[no-untyped-call]
        if len(self._written) and leaf.untyped_storage() in self._written:
            written = self._written[leaf.untyped_storage()]
            # Constants may be written to by themselves; what is computed must be read under the name it was written to.
            named = seen is not None and seen >= written
            if not named and (seen is not None or leaf.untyped_storage() in self._computed):
                raise LinearisationError(f"{reader} reads memory that was written to under another name")
        return value


class _Memory:
    """The bytes of storages that were made and are alive."""

    def __init__(self) -> None:
        self.live = 0
        self.course: list[int] = []
        self._watched: dict[int, Any] = {}

    def counted(self, result: Any, arguments: Any) -> Any:
        """The result of an operation, whose memory is counted unless it is that of an argument."""
        given = {id(tensor.untyped_storage()) for tensor in leaves(arguments) if _has_storage(tensor)}
        for tensor in leaves(result):
            if _has_storage(tensor):
                storage = tensor.untyped_storage()
                key, size = id(storage), storage.nbytes()
                if key not in self._watched and key not in given:
                    self._watched[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))  # type: ignore[misc]
                    self.live += size
                    self.course.append(self.live)
        return result

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        self._watched.pop(key, None)


def _has_storage(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


def _written_argument(func: Any, args: Any) -> Tensor:
    for argument, given in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, Tensor):
            return given
    raise LinearisationError(f"{func} writes to an argument given by keyword")


_ALIASES = {aten.alias.default, aten.detach.default, aten.lift_fresh.default}
_READERS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default}
_ZEROS = {aten.zeros_like.default, aten.new_zeros.default, aten._new_zeros_with_same_feature_meta.default}
_MADE_LIKE = {
    *_ZEROS,
    *(aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default),
}
