"""What our docstrings need to be read by Griffe: attrs, sections of our own, entries that share a line, and links."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
from typing import Any

import attrs
import griffe

import eigenspan
from eigenspan import studies
from eigenspan.linops import distributed

ADDRESSES = {
    name: f"{module.__name__}.{name}" for module in (distributed, studies, eigenspan) for name in module.__all__
}

_OWN = re.compile(r"^(Source|Cost): ", re.MULTILINE)
_ARGUMENTS = re.compile(r"^Args:\n(?:(?: +.*)?\n?)*", re.MULTILINE)
_SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
_PAGE = re.compile(r"``docs/([\w/-]+\.md)``")
_NAME = re.compile(r"(?<![`\w])`([A-Za-z_]\w*)(?:\.\w+)*`(?!`)")


def _path(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def private_bases(cls: type) -> list[type]:
    """The bases in the package that are on no page, but for those of a base that is on one."""
    own = [base for base in cls.__mro__[1:] if base.__module__.startswith("eigenspan")]
    shown = [base for base in own if base.__name__ in ADDRESSES]
    return [base for base in own if not any(issubclass(one, base) for one in shown)]


def bases_shown(cls: type, pkg: griffe.Module) -> list[Any]:
    """The bases of a class as they are written, and in the place of one in the package that is on no page its own."""
    found: dict[str, Any] = {}
    written_bases = pkg[_path(cls).partition(".")[2]].bases
    for base, written in zip(cls.__bases__, written_bases, strict=False):  # `object` is not written
        private = base.__module__.startswith("eigenspan") and base.__name__ not in ADDRESSES
        for one in bases_shown(base, pkg) if private else [written]:
            found.setdefault(str(one), one)
    return [one for name, one in found.items() if name not in ("ABC", "abc.ABC")]


def _apart(match: re.Match[str]) -> str:
    """``k, tol: see …`` as one entry for each name."""
    indent, names, text = match.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def _link(match: re.Match[str]) -> str:
    return f"[{match[0]}][{ADDRESSES[match[1]]}]" if match[1] in ADDRESSES else match[0]


def linked(text: str) -> str:
    """Markdown in which public names in backticks, and their members, lead to the reference."""
    return _NAME.sub(_link, text)


def rewritten(text: str) -> str:
    """A docstring in which Source and Cost have titles, each argument its entry, and public names and pages links."""
    text = _ARGUMENTS.sub(lambda arguments: _SHARED.sub(_apart, arguments[0]), text)
    text = _OWN.sub(r'<span class="doc-section-title">\1:</span> ', text)
    return linked(_PAGE.sub(r"[\1](../\1)", text))


class Docstrings(griffe.Extension):
    """Rewrites docstrings, and gives attrs classes the constructors that they have."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for every class with its members."""
        if "__init__" in cls.members or not any("attrs." in str(decorator.value) for decorator in cls.decorators):
            return
        fields = attrs.fields(getattr(importlib.import_module(cls.module.path), cls.name))
        own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        parameters = [_parameter(field, cls) for field in sorted(fields, key=lambda field: field.kw_only) if field.init]
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(own, *parameters)))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called once: functions come before modules of their name, and private bases give way to what they give."""
        for name, address in ADDRESSES.items():
            thing = getattr(importlib.import_module(address.rpartition(".")[0]), name)
            if inspect.isfunction(thing) and address != _path(thing):
                pkg.set_member(address.partition(".")[2], griffe.Alias(name, target=_path(thing)))
            if inspect.isclass(thing):
                pkg[_path(thing).partition(".")[2]].bases = bases_shown(thing, pkg)
            for base in private_bases(thing) if inspect.isclass(thing) else ():
                members = pkg[_path(thing).partition(".")[2]].members
                for inherited, member in pkg[_path(base).partition(".")[2]].members.items():
                    makes = inherited == "__init__" and not attrs.has(thing)  # whose constructor `on_class` gives
                    if (makes or not inherited.startswith("_")) and inherited not in members:
                        pkg.set_member(f"{_path(thing).partition('.')[2]}.{inherited}", copy.copy(member))

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Called for every function: those that are made distances are called with subspaces."""
        if any(str(decorator.value) == "GrassmannDistance" for decorator in func.decorators):
            call = func.parent.members["GrassmannDistance"].members["__call__"]
            func.parameters = griffe.Parameters(*list(call.parameters)[1:])
            func.returns = call.returns


def _parameter(field: Any, cls: griffe.Class) -> griffe.Parameter:
    annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "Any")
    default = None
    if field.default is not attrs.NOTHING:
        chosen = isinstance(field.default, attrs.Factory) or callable(field.default)  # no text to read
        default = "..." if chosen else str(field.default) if hasattr(field.default, "name") else repr(field.default)
    return griffe.Parameter(
        field.alias,
        annotation=griffe.get_annotation(ast.parse(annotation, mode="eval").body, parent=cls),
        kind=griffe.ParameterKind.keyword_only if field.kw_only else griffe.ParameterKind.positional_or_keyword,
        default=default,
    )
