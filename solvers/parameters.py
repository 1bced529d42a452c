"""What parameters of solvers and estimators may be: converters and validators for attrs, and defaults of a dtype."""

from __future__ import annotations

from typing import Any

import attrs
import numpy
import torch

from ..linops import LinearOperator
from ..linops.basic import is_integer
from .watched import Watched


def as_int(value: int) -> int:
    """An attrs converter: an int of any integer, such as NumPy's; all else as it is, for a validator to refuse."""
    return int(value) if is_integer(value) else value


def int_or_none(value: int | None) -> int | None:
    """`as_int` of what may be None."""
    return None if value is None else as_int(value)


def positive_integer(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: an int of at least 1; None where that is the default."""
    if value is None and attribute.default is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} is a positive integer, an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{attribute.name} is at least 1, got {value}")


def tolerance(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: a number between 0 and 1, or None."""
    if value is None:
        return
    if not isinstance(value, int | float | numpy.floating):
        raise TypeError(f"{attribute.name} is a number between 0 and 1, or None for the default, got {value!r}")
    if not 0 < value < 1:
        raise ValueError(
            f"{attribute.name} is a number between 0 and 1, relative to the largest value, or None for the default; "
            f"got {value!r}"
        )


_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}


def tolerance_for(A: LinearOperator, tol: float | None) -> float:
    """``tol``, or the default of the dtype of A: 1e-5 in float32, 1e-9 in float64.

    Raises:
        ValueError: a tol below ten roundings of the dtype.
    """
    rounding = torch.finfo(A.dtype).eps
    if tol is None:
        return _TOLERANCES[A.dtype]
    if tol < 10 * rounding:
        operator = A.A if isinstance(A, Watched) else A
        raise ValueError(f"tol={tol} is below the rounding errors of {operator}: choose at least {10 * rounding:.1e}")
    return tol


def seed_number(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: an int of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} is a non-negative integer, got {value!r}")


def require_integer(name: str, value: Any, least: int = 1) -> None:
    """Refuse a ``value`` that is no integer of at least that size.

    Raises:
        TypeError: no integer.
        ValueError: a smaller one.
    """
    if not is_integer(value):
        raise TypeError(f"{name} is an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} is at least {least}, got {value}")
