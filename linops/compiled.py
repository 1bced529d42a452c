"""What ``torch.compile`` was given: found again, and run as it is written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch

T = TypeVar("T")


def as_written(thing: T) -> T:
    """The module, whose parameters are the same, or function that ``torch.compile`` wraps; all else as it is."""
    written: Any = getattr(thing, "_orig_mod", getattr(thing, "_torchdynamo_orig_callable", thing))
    # The compiler calls PyTorch's own functions through one that it makes for each.
    if getattr(written, "__globals__", {}).get("__name__") == "torch._dynamo.external_utils":
        written = written.__wrapped__
    return cast("T", written)


def as_named(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Tensors or modules by their names in a network as it is written, where parts of it are compiled."""
    return {".".join(part for part in name.split(".") if part != "_orig_mod"): thing for name, thing in named}


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Within it, what is compiled runs as it is written: compiled code has one derivative, in reverse mode."""
    # Importing the compiler takes seconds; where nobody has, nothing is compiled. What it traces it may not be told.
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
