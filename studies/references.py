"""What a command names by MODULE:NAME."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def named(reference: str) -> Any:
    """What a module has by a name, called if it is a function; modules of this folder come first, from now on.

    Raises:
        ValueError: no module, or nothing in it, of that name; a module or function that fails.
    """
    module, _, name = reference.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # one of types for ./module
        raise ValueError(f"MODULE:NAME names what a module has, and {reference!r} does not: {error}") from error
    except Exception as error:
        raise _failed(f"the module {module}", error) from error
    try:
        return found() if callable(found) else found
    except Exception as error:
        raise _failed(f"{reference}()", error) from error


def _failed(what: str, error: Exception) -> ValueError:
    return ValueError(
        f"{what} ends with {type(error).__name__}: {error}; eigenspan --traceback before the command shows where"
    )
