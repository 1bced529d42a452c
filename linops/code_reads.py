"""What functions and classes of one's own read beside their arguments: methods, attributes and globals, by name."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import numpy
import torch
from torch import Tensor

from .compiled import as_written

_INSTALLED = ("site-packages", "dist-packages")


def is_known(value: Any) -> bool:
    """Whether a function or class is PyTorch's, which its name tells; one that is made on the fly it does not tell.

    A function that wraps another has the module of that, and globals of its own.
    """
    if "<locals>" in getattr(value, "__qualname__", ""):
        return False
    own = getattr(value, "__globals__", {}).get("__name__", "torch")
    return all((name or "").split(".")[0] in ("torch", "builtins") for name in (getattr(value, "__module__", ""), own))


def functions_in(value: Any) -> list[types.FunctionType]:
    """The functions that an entry of a class, or what is decorated, consists of."""
    value = as_written(value) if callable(value) else value
    if isinstance(value, property):
        found = [value.fget]
    elif isinstance(value, functools.cached_property):
        found = [value.func]
    elif isinstance(value, staticmethod | classmethod | types.MethodType):
        found = [value.__func__]
    else:
        found = [value]
    functions = [each for each in found if isinstance(each, types.FunctionType)]
    held = [content for each in functions for content in cells_of(each) if isinstance(content, types.FunctionType)]
    return [*functions, *held]


def cells_of(function: types.FunctionType) -> list[Any]:
    """What the closure of a function holds."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # noqa: PERF203 - nothing yet
            continue
    return found


def read_of_class(kind: type, first: str) -> tuple[list[tuple[str, Any]], set[str]]:
    """Entries of a class and its bases, but for PyTorch's, that a method reads by name, and those that they read.

    Returns:
        Names and entries, in the order in which they are come by; all names of attributes that are read.
    """
    found: list[tuple[str, Any]] = []
    names, todo = {first}, [first]
    while todo:
        name = todo.pop()
        for entry in (vars(owner)[name] for owner in kind.__mro__ if name in vars(owner) and not is_known(owner)):
            found.append((name, entry))
            for function in functions_in(entry):
                new = sorted(each for code in _codes(function.__code__) for each in code.co_names if each not in names)
                todo.extend(dict.fromkeys(new))
                names.update(new)
    return found, names


def written_by(entries: Iterable[tuple[str, Any]]) -> set[str]:
    """The attributes that entries of a class write themselves, such as counts, and what they keep of the last call."""
    return {
        str(step.argval)
        for _, entry in entries
        for function in functions_in(entry)
        for code in _codes(function.__code__)
        for step in dis.get_instructions(code)
        if step.opname == "STORE_ATTR"
    }


def read_of_globals(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The globals that a function reads, and those that functions among these read, with their names.

    Of a function its code and defaults. Those of installed packages are told by their names, which are in the code; so
    are objects that are neither numbers, tensors, functions nor containers.
    """
    found: list[tuple[str, Any]] = []
    seen, todo = {id(function)}, [function]
    while todo:
        for name, value in _globals_in(todo.pop()):
            functions = [each for each in functions_in(value) if not is_known(each) and not _is_installed(each)]
            if isinstance(value, type) and issubclass(value, torch.autograd.Function) and not is_known(value):
                functions = [f for entry in vars(value).values() for f in functions_in(entry)]
            if not functions and tells(value) and not callable(value):
                found.append((name, value))
            for each in functions:
                if id(each) not in seen:
                    seen.add(id(each))
                    todo.append(each)
                    rest = [content for content in cells_of(each) if not isinstance(content, types.FunctionType)]
                    found.append((name, (each.__code__, each.__defaults__, each.__kwdefaults__, rest)))
    return found


def tells(value: Any, depth: int = 0) -> bool:
    """Whether a value is data: numbers, tensors not computed from parameters, functions, containers of such."""
    if isinstance(value, Tensor):
        return not value.requires_grad and not isinstance(value, torch.nn.Parameter)
    if isinstance(value, torch.nn.Module) or depth > 4:
        return False
    if isinstance(value, Mapping):
        return all(tells(part, depth + 1) for item in value.items() for part in item)
    if isinstance(value, tuple | list | set | frozenset):
        return all(tells(part, depth + 1) for part in value)
    if attrs.has(type(value)) or hasattr(type(value), "__dataclass_fields__") or type(value) is types.SimpleNamespace:
        return True
    plain = (bool, int, float, complex, str, bytes, type(None), torch.dtype, numpy.ndarray, numpy.generic)
    return isinstance(value, plain) or callable(value)


def _globals_in(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function reads and does not write, and what it takes from modules among them."""
    if _is_installed(function):
        return
    steps = [step for code in _codes(function.__code__) for step in dis.get_instructions(code)]
    written = {step.argval for step in steps if step.opname == "STORE_GLOBAL"}
    read = dict.fromkeys(step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    names = dict.fromkeys(name for code in _codes(function.__code__) for name in code.co_names)
    for name in read:
        if name in written or name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif not _is_installed_name(value.__name__, getattr(value, "__file__", None)):
            yield from ((f"{name}.{each}", vars(value)[each]) for each in names if each in vars(value))


def _is_installed(function: types.FunctionType) -> bool:
    space = function.__globals__
    return _is_installed_name(str(space.get("__name__")), space.get("__file__"))


def _is_installed_name(name: str, file: str | None) -> bool:
    first = name.split(".")[0]
    known = first in ("torch", "builtins", __name__.split(".")[0]) or first in sys.stdlib_module_names - {"__main__"}
    return known or any(each in (file or "") for each in _INSTALLED)


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """A piece of code and those within it, of lambdas and comprehensions."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return [code, *(found for each in inner for found in _codes(each))]
