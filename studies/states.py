"""State dicts of networks: read, told apart, and loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..linops.compiled import as_named
from ..linops.fingerprint import digest

State: TypeAlias = "str | os.PathLike[str] | Mapping[str, Tensor]"
"""A state dict, or a file that ``torch.save(model.state_dict(), path)`` wrote."""

_LISTED = 6  # names in a message


def read_state(path: Path, expected: str) -> dict[str, Tensor]:
    """The state dict in a file.

    Args:
        path: the file.
        expected: what it should hold, for messages.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no state dict.
    """
    try:
        with path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror or error}): {expected}") from error
    except Exception as error:  # a damaged file fails in as many ways as its format has layers
        loader = "read safetensors by safetensors.torch.load_file; " if path.suffix == ".safetensors" else ""
        raise ValueError(f"{path} cannot be loaded ({type(error).__name__}): {loader}{expected}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds no state dict: {expected}")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict, but {', '.join(map(repr, [*state][:8]))}: {expected}")
    return dict(state)


def load_state(network: nn.Module, state: Mapping[str, Tensor], what: str) -> list[str]:
    """Puts a state into a network; returns the names of the buffers that it lacks, which stay those of the network.

    Counts of batches that batch normalisation keeps are not among them: old files lack these, and no evaluation reads
    them.

    Raises:
        ValueError: parameters that are missing, something else that is left over, another shape, entries that are
            integers or complex where the network has real numbers, several values of a tensor that the network has
            once, under several names, and the like.
    """
    parameters = as_named(network.named_parameters(remove_duplicate=False))
    buffers = as_named(network.named_buffers(remove_duplicate=False))
    own, names = as_named(network.state_dict().items()), as_named((name, name) for name in network.state_dict())
    unnamed = [name for name in state if not isinstance(name, str)]
    if unnamed:
        raise ValueError(f"{what} is no state dict: its keys are names of tensors, and one is {unnamed[0]!r}")
    state = as_named(state.items())
    _require_kinds(state, own, what)
    state = _with_tied({**parameters, **buffers}, own.keys(), state, what)
    lacking = sorted(own.keys() - state.keys() - parameters.keys())
    try:
        given = {name: own[name] for name in lacking} | state
        network.load_state_dict({names.get(name, name): value for name, value in given.items()})
    except RuntimeError as error:
        raise ValueError(f"{what} {_misfit(state, parameters, error)}") from error
    return [name for name in lacking if not name.endswith("num_batches_tracked")]


def listed(names: Sequence[str]) -> str:
    """The first of many names, for messages."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _with_tied(
    tensors: Mapping[str, Tensor], own: Collection[str], state: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """The state with every name of a tied tensor, of which files of safetensors keep one.

    Args:
        tensors: the network's parameters and buffers, by each of their names.
        own: the names in a state of the network, which lacks buffers that are not persistent.
        state: that is to be loaded.
        what: what to call it in messages.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if name in own:
            names.setdefault(id(tensor), []).append(name)
    found = dict(state)
    for group in names.values():
        given = [name for name in group if name in state]
        for name in given[1:]:  # of several PyTorch would take the last without a word
            if not _is_same(state[given[0]], state[name]):
                raise ValueError(
                    f"{what} has other values of {name} than of {given[0]}, and the network has one tensor for both: "
                    "give the network that the state is of, or leave out one of them"
                )
        found |= {name: state[kept] for kept in given[:1] for name in group}
    return found


def _is_same(one: object, other: object) -> bool:
    """Whether two entries of a state have the same values; of what are no tensors PyTorch says what is wrong."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return True
    return one.shape == other.shape and bool(torch.isclose(one, other.to(one), 0, 0, equal_nan=True).all())


def _require_kinds(state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    """PyTorch would cast integers and complex numbers to real ones without a word."""
    for name, wanted in own.items():
        value = state.get(name, wanted)
        if not isinstance(value, Tensor):
            continue  # of which PyTorch says what is wrong
        if (value.is_floating_point(), value.is_complex()) != (wanted.is_floating_point(), wanted.is_complex()):
            raise ValueError(
                f"{what} has {name} in {value.dtype}, and the network has it in {wanted.dtype}: convert it on purpose, "
                "as by a factor or .real, if that is meant"
            )


def _misfit(state: Mapping[str, object], wanted: Iterable[str], error: RuntimeError) -> str:
    """Why a state does not fit a network, and what to do where that can be told.

    Args:
        state: that was refused.
        wanted: names of the parameters of the network.
        error: PyTorch's.
    """
    nested = next((name for name, value in state.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        return f"is no state dict, but holds other dicts: take the one in it, such as state[{nested!r}]"
    first, *others = wanted
    prefixes = (name.removesuffix(first) for name in state if name.endswith(f".{first}"))
    prefix = next((prefix for prefix in prefixes if all(prefix + name in state for name in others)), None)
    if prefix is not None:
        only = "" if all(name.startswith(prefix) for name in state) else f" if name.startswith({prefix!r})"
        return (
            f"has {prefix!r} before the names of the network, as wrappers leave it there: take "
            f"{{name.removeprefix({prefix!r}): value for name, value in state.items(){only}}}"
        )
    return f"is of another network: {error}"


def digest_of(state: State) -> str:
    """Digits that tell a state from others: of a file, those of its bytes."""
    if isinstance(state, Mapping):
        return digest(dict(state))
    return hashlib.sha256(Path(state).read_bytes()).hexdigest()
