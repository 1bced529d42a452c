"""What a command names by MODULE:NAME."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def named(reference: str) -> Any:
    """What a module has by a name, called if it is a function; modules of this folder come first, from now on.

    Raises:
        ValueError: no module, or nothing in it, of that name; a module or function that fails.
    """
    module, _, name = reference.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    if not name or not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        raise ValueError(
            f"MODULE:NAME names what a module has, and {reference!r} does not: problem of my_module.py in this folder "
            "is my_module:problem"
        )
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _with_parents(module):
            raise ValueError(
                f"MODULE:NAME names what a module has, and {reference!r} does not: {error}, neither in this folder, "
                f"{Path.cwd()}, nor installed; call the command where {module.partition('.')[0]} is"
            ) from error
        raise _failed(f"the module {module}", error) from error
    if not hasattr(loaded, name):
        raise ValueError(f"MODULE:NAME names what a module has, and {reference!r} does not: {module} has no {name!r}")
    found = getattr(loaded, name)
    try:
        return found() if callable(found) else found
    except Exception as error:
        raise _failed(f"{reference}()", error) from error


def _with_parents(module: str) -> list[str]:
    """The names of a module and of the packages that it is in."""
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _failed(what: str, error: Exception) -> ValueError:
    return ValueError(
        f"{what} ends with {type(error).__name__}: {error}; eigenspan --traceback before the command shows where"
    )
