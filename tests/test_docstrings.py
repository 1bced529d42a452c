"""What the docstrings of public names promise to say: what a thing is, what goes in, what goes wrong, what it costs."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

import eigenspan
from eigenspan import EigenSolver, SVDSolver, studies
from eigenspan.linops import distributed
from eigenspan.solvers import estimators

SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Warns|Source|Cost):", re.MULTILINE)
ENTRY = re.compile(r"^    ([\w, ]+):", re.MULTILINE)
SHAPE = re.compile(r"\([\w…]+(?: [-+/*·] \w+)*, ?[^)]*\)|\bscalar|\bany shape|\bsame shape")
YEAR = re.compile(r"\b(?:19|20)\d\d[;,)]")


def public() -> dict[str, Any]:
    """Public classes and functions, by the names under which they are imported."""
    found = {}
    for module in (eigenspan, studies, distributed):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                found[name] = thing
    return found


def shown_classes(cls: type) -> list[type]:
    """A class and its private bases, whose members the reference shows as its own, but not those of a public base."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("eigenspan")]
    public_bases = [base for base in own[1:] if base in NAMES.values()]
    return [base for base in own if base is cls or not any(issubclass(one, base) for one in public_bases)]


def members(owner: str, cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class."""
    for base in reversed(shown_classes(cls)):
        for name, member in vars(base).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not name.startswith("_") and inspect.isfunction(function):
                yield f"{owner}.{name}", member if isinstance(member, property) else function


NAMES = public()
MEMBERS = {name: member for owner, cls in NAMES.items() if inspect.isclass(cls) for name, member in members(owner, cls)}
ALL = NAMES | MEMBERS
CALLABLE = {name: thing for name, thing in ALL.items() if inspect.isclass(thing) or inspect.isroutine(thing)}


def text_of(thing: Any) -> str:
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return inspect.cleandoc(own or "")


def sections(text: str) -> dict[str, str]:
    head, *rest = SECTIONS.split(text)
    return {"": head} | dict(zip(rest[::2], rest[1::2], strict=True))


def entries(text: str) -> set[str]:
    found = sections(text)
    lines = found.get("Args", "") + found.get("Attributes", "")
    return {name for names in ENTRY.findall(lines) for name in names.split(", ")}


def elsewhere(text: str, *words: str) -> list[str]:
    """The docstrings of names in sentences with one of the words, as in "Arguments and errors as for `overlap`"."""
    sentences = re.split(r"\.\s", text)
    names = [
        name
        for sentence in sentences
        if any(word in sentence.lower() for word in words)
        for name in re.findall(r"`(\w+)`", sentence)
    ]
    return [text_of(NAMES[name]) for name in names if name in NAMES]


def record(thing: Any) -> bool:
    """Whether it is a class of named values that computes nothing when it is made."""
    if not inspect.isclass(thing):
        return False
    solver = issubclass(thing, EigenSolver | SVDSolver)
    return issubclass(thing, enum.Enum | Warning) or (attrs.has(thing) and not solver)


def python_s(name: str) -> bool:
    """Whether it is of an enumeration or a warning, whose constructors are Python's own."""
    owner = NAMES.get(name.partition(".")[0])
    return inspect.isclass(owner) and issubclass(owner, enum.Enum | Warning)


def raised(function: Any) -> set[str]:
    """The exceptions that the code of a function raises by name, not those of what it calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    found = {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    return found - {"AssertionError"}


@pytest.mark.parametrize("name", ALL)
def test_it_begins_with_what_it_is_in_a_sentence(name):
    summary = text_of(ALL[name]).partition("\n\n")[0]
    assert summary.endswith((".", ":")), f"{name}: {summary!r}"
    assert len(summary.splitlines()) <= 2


@pytest.mark.parametrize("name", [name for name in CALLABLE if not python_s(name)])
def test_every_parameter_is_named(name):
    text = text_of(CALLABLE[name])
    told = {one for part in [text, *elsewhere(text, "argument")] for one in entries(part)}
    for parameter in inspect.signature(CALLABLE[name]).parameters.values():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.name not in {"self", "cls", *told} and not variadic:
            assert re.search(rf"(?<!\w){parameter.name}(?!\w)", text), f"{name} does not say what {parameter} is"


@pytest.mark.parametrize("name", [name for name in CALLABLE if not python_s(name)])
def test_shapes_of_tensors_are_told(name):
    annotations = [str(one.annotation) for one in inspect.signature(CALLABLE[name]).parameters.values()]
    if any(re.search(r"\bTensor\b", re.sub(r"\[.*\]", "", annotation)) for annotation in annotations):
        text = text_of(CALLABLE[name])
        assert any(SHAPE.search(part) for part in [text, *elsewhere(text, "argument")]), f"{name} tells no shape"


@pytest.mark.parametrize("name", CALLABLE)
def test_what_it_raises_is_told(name):
    thing = CALLABLE[name]
    code = [thing]
    if inspect.isclass(thing):
        makers = (vars(thing).get(maker) for maker in ("__init__", "__attrs_post_init__"))
        code = [
            maker for maker in makers if inspect.isfunction(maker) and "attrs generated" not in inspect.getfile(maker)
        ]
    text = text_of(thing)
    told = " ".join(sections(part).get("Raises", "") for part in [text, *elsewhere(text, "error", "raises")])
    for function in code:
        for error in raised(function) if inspect.isfunction(function) else ():
            assert re.search(rf"\b{error}\b", told), f"{name} raises {error} and does not say when"


COSTLY = [
    name
    for name, thing in CALLABLE.items()
    if not (record(thing) or inspect.isabstract(thing) or python_s(name))
    if not name.endswith((".to_dict", ".from_dict"))
]


@pytest.mark.parametrize("name", COSTLY)
def test_what_it_costs_is_told(name):
    text = text_of(CALLABLE[name])
    assert re.search(r"(?:^|\. )Cost: \S", text, re.MULTILINE), f"{name} does not say what it costs"
    assert text.endswith(".")


def private_names() -> set[str]:
    """Classes and functions of the package's modules that nobody is meant to import."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("eigenspan")]
    own = {
        name
        for module in modules
        for name, thing in vars(module).items()
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module.__name__
    }
    shown = {part for name in ALL for part in name.split(".")}
    arguments = {name for thing in CALLABLE.values() for name in entries(text_of(thing))}
    return own - shown - arguments


@pytest.mark.parametrize("name", ALL)
def test_it_names_nothing_that_no_page_explains(name):
    """In backticks, which lead to the reference."""
    private = private_names()
    assert "Lattice" in private
    assert set(re.findall(r"(?<!`)`(\w+)[\w.]*`(?!`)", text_of(ALL[name]))) & private == set()


METHODS = {
    name for name, thing in NAMES.items() if inspect.isclass(thing) and issubclass(thing, EigenSolver | SVDSolver)
}
METHODS |= {name for name in estimators.__all__ if inspect.isfunction(getattr(estimators, name))}
PUBLISHED = sorted(METHODS - {"EigenSolver", "SVDSolver"} | {name for name in ALL if YEAR.search(text_of(ALL[name]))})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_source_is_named(name):
    """Of each method to solve or to estimate, and wherever a year shows that there is one."""
    assert re.search(r"^Source: \S", text_of(ALL[name]), re.MULTILINE), f"{name} names no source"


def test_the_checks_find_what_is_missing():
    def careless(A, depth):
        """Of A"""
        raise ValueError

    def careful(A, depth):
        """Of A, see `overlap` for arguments.

        Args:
            depth, width: two of them.
        """
        raise ValueError("no")

    assert not text_of(careless).endswith(".")
    assert entries(text_of(careful)) == {"depth", "width"}
    assert elsewhere(text_of(careful), "argument") == [text_of(eigenspan.overlap)]
    assert raised(careful) == {"ValueError"}
    assert not SHAPE.search("a tensor of numbers")
    assert SHAPE.search("(n,) the scores")
    assert SHAPE.search("an (n, k) block")
