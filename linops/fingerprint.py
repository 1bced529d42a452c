"""Fingerprints: a few digits that tell one operator from another, wherever and in whatever pieces it is computed."""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import numpy
import torch
from torch import Tensor, nn

from .code_reads import cells_of, functions_in, is_known, read_of_class, read_of_globals, tells, written_by
from .compiled import as_named, as_written

if TYPE_CHECKING:
    from .operator import LinearOperator

_DIGITS = 32
_PROBES = 3
_DEPTH = 8  # of nested objects; what lies deeper is told by its class alone
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size, enum.Enum, range, slice)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def fingerprint(A: LinearOperator) -> str:
    """See `LinearOperator.fingerprint`."""
    return digest(A)[:_DIGITS]


def digest(value: Any) -> str:
    """What tells a value from others, as 64 hexadecimal digits: see `feed`."""
    total = hashlib.sha256()
    feed(total, value)
    return total.hexdigest()


def probed(A: LinearOperator) -> tuple[str, ...]:
    """Sizes and correlations of products of an operator of which no more is known, to three and two digits.

    ‖A x‖ / ‖x‖ and yᵀ A x / (‖y‖ ‖A x‖ / √m) for fixed normal x and y, of the order of one. Products that differ in
    rounding alone differ here by about their relative error, which rarely moves one across a border of rounding.

    Cost: three products.
    """
    m, n = A.shape
    if m == 0 or n == 0:
        return ()
    draw = numpy.random.default_rng(20250417).standard_normal
    X, Y = (torch.from_numpy(draw((_PROBES, size))).mT for size in (n, m))
    images = (A @ X.to(A.device, A.dtype)).double().cpu()
    sizes = images.norm(dim=0) / X.norm(dim=0)
    correlations = (images.mT @ Y) / (images.norm(dim=0)[:, None] * Y.norm(dim=0)).clamp(min=1e-300) * m**0.5
    rounded = [f"{size:.2e}" for size in sizes.tolist()]
    return (*rounded, *(f"{round(number, 2) + 0.0:.2f}" for number in correlations.flatten().tolist()))  # no -0.00


@attrs.frozen
class DataDigest:
    """A digest of samples; that of disjoint sets together is the sum of theirs.

    Attributes:
        count: how many samples.
        total: the sum of their SHA-256 digests, modulo 2^256.
        shared: the digests of tensors that are not of samples, each value once.
    """

    count: int
    total: int
    shared: frozenset[str]

    def __add__(self, other: DataDigest) -> DataDigest:
        total = (self.total + other.total) % (1 << 256)
        return DataDigest(self.count + other.count, total, self.shared | other.shared)


def data_digest(batches: Iterable[Any], ordered: bool) -> DataDigest:
    """A digest of samples, however they are cut into batches and, unless it is ``ordered``, in whichever order.

    Tensors count as not of samples where they lack a first dimension of them.

    Cost: one pass over the data, and a digest for each sample.
    """
    from .curvature.data import length, map_tensors
    from .curvature.loss import tensors_of

    total, count, shared = 0, 0, set()
    for batch in batches:
        samples = length(batch)
        by_sample = [t for t in tensors_of(batch) if t.ndim > 0 and len(t) == samples]
        form = hashlib.sha256()
        feed(form, map_tensors(lambda t: t.new_empty((0, *t.shape[1:])), batch))
        shared.add(digest([t for t in tensors_of(batch) if not (t.ndim > 0 and len(t) == samples)]))
        rows = [_bytes(t).reshape(samples, -1) for t in by_sample if t.numel() > 0]
        for i in range(samples):
            sample = form.copy()
            for row in rows:
                sample.update(row[i])
            if ordered:
                sample.update(str(count).encode())
            total += int.from_bytes(sample.digest(), "little")
            count += 1
    return DataDigest(count, total % (1 << 256), frozenset(shared))


def module_content(module: nn.Module, training: Mapping[nn.Module, bool]) -> list[Any]:
    """What a module computes but for parameters and buffers: classes, attributes, methods, hooks, modes.

    Attributes of one's own that ``forward`` reads, or its methods, count whatever they are called, unless these write
    them.
    """
    content = []
    for name, part in as_named(module.named_modules()).items():
        kind = type(part)
        entries, read = read_of_class(kind, "forward")
        own = vars(part).keys() - vars(nn.Module()).keys() - written_by(entries)
        values = {
            key: value.__func__ if isinstance(value, types.MethodType) and value.__self__ is part else value
            for key, value in vars(part).items()
            if key in own
            and ((key in read and tells(value)) or (not key.startswith("_") and (_is_plain(value) or callable(value))))
        }
        hooks = [_hook_content(hook) for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())]
        content += [(name, kind.__qualname__, training.get(part, part.training)), values, *sum(entries, ()), *hooks]
    return content


def _hook_content(hook: Any) -> Any:
    """What a hook does, without what it collects."""
    if not isinstance(hook, types.FunctionType):
        plain = {name: value for name, value in getattr(hook, "__dict__", {}).items() if _is_plain(value)}
        return type(hook).__qualname__, getattr(hook, "__func__", None), read_of_class(type(hook), "__call__")[0], plain
    return hook.__code__, hook.__defaults__, [value for value in cells_of(hook) if _is_plain(value)]


def feed(total: _Hash, value: Any, depth: int = 0) -> None:
    """Add what ``value`` is to a digest: the same for what is equal, in whichever process."""
    from .operator import LinearOperator

    def entries(kind: str, *values: Any) -> None:
        total.update(f"{kind} {len(values)}:".encode())
        for entry in values:
            feed(total, entry, depth + 1)

    if callable(value):
        value = as_written(value)
    kind = type(value).__qualname__
    if depth > _DEPTH:
        total.update(kind.encode())
    elif isinstance(value, _PLAIN):
        text = f"{kind} {value!r}".encode()
        total.update(f"{len(text)}:".encode() + text)
    elif isinstance(value, Tensor):
        entries("tensor", str(value.dtype), tuple(value.shape))
        total.update(_bytes(value))
    elif isinstance(value, numpy.ndarray | numpy.generic):
        entries("array", str(value.dtype), value.shape, value.tobytes())
    elif isinstance(value, LinearOperator):
        _feed_operator(entries, value)
    elif isinstance(value, nn.Module):
        entries("module", module_content(value, {}), as_named(value.state_dict().items()))
    elif isinstance(value, functools.partial):
        entries("partial", value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        entries("method", value.__func__, value.__self__)
    elif isinstance(value, types.BuiltinMethodType) and isinstance(value.__self__, Tensor | numpy.ndarray):
        entries("method", value.__name__, value.__self__)
    elif isinstance(value, types.FunctionType) and not is_known(value):
        own = (value.__code__, value.__defaults__, value.__kwdefaults__)
        entries("function", *own, cells_of(value), *(part for each in read_of_globals(value) for part in each))
    elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
        entries(kind, *functions_in(value))
    elif isinstance(value, types.CodeType):
        entries("code", digest(value.co_code), digest(value.co_consts), digest(value.co_names))
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        entries("name", value.__qualname__)
    elif isinstance(value, Mapping):
        entries("mapping", *(part for item in value.items() for part in item))
    elif isinstance(value, tuple | list | deque):
        entries("sequence", *value)
    elif isinstance(value, AbstractSet):
        entries("set", *sorted(value, key=repr))
    elif attrs.has(type(value)):
        entries(kind, *(getattr(value, field.name) for field in attrs.fields(type(value))))
    else:
        entries(kind, *(entry for _, entry in read_of_class(type(value), "__call__")[0]), _attributes(value))


def _attributes(value: Any) -> dict[str, Any]:
    """Those of an object, in slots or not."""
    slots = [name for owner in type(value).__mro__ for name in _names(vars(owner).get("__slots__", ()))]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _names(slots: Any) -> list[str]:
    names = [slots] if isinstance(slots, str) else slots
    return sorted(name for name in names if name not in ("__dict__", "__weakref__"))


def _feed_operator(entries: Any, A: LinearOperator) -> None:
    """An operator by what it is made of if that is known, else by products."""
    from . import basic, block, coordinate, distributed, operator

    parts: dict[type, tuple[str, ...]] = {
        operator.Adjoint: ("A",),
        operator.Scaled: ("A", "scalar"),
        operator.Sum: ("A", "B"),
        operator.Product: ("A", "B"),
        operator.Congruence: ("A", "B"),
        basic.Dense: ("matrix",),
        basic.Diagonal: ("diagonal",),
        basic.Identity: (),
        block.BlockDiagonal: ("blocks",),
        block.Stacked: ("blocks",),
        block.Kronecker: ("A", "B"),
        coordinate.Embedding: ("indices",),
        coordinate.PartialPermutation: ("rows", "columns"),
    }
    while isinstance(A, basic.Counted | basic.Declared | distributed.ColumnParallel):  # the same matrix
        A = A.A
    kind = type(A.A if isinstance(A, distributed.DataParallel) else A)  # of all data, the one of a share
    if type(A) in parts:
        content: Any = [_part(getattr(A, name)) for name in parts[type(A)]]
    else:
        content = A._content()
    if content is None:
        content = probed(A)
    entries("operator", kind.__qualname__, A.shape, A.dtype, content)


def _part(value: Any) -> Any:
    """A part of an operator: operators by digests of their own, as sums and products may be nested at any depth."""
    from .operator import LinearOperator

    if isinstance(value, tuple):
        return [_part(part) for part in value]
    return digest(value) if isinstance(value, LinearOperator) else value


def _bytes(tensor: Tensor) -> Any:
    """The numbers of a tensor as NumPy bytes, row after row."""
    if tensor.numel() == 0:
        return numpy.zeros(0, dtype="uint8")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, _PLAIN)
