"""State dicts of networks: read, told apart, and loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..linops.fingerprint import digest

State: TypeAlias = "str | os.PathLike[str] | Mapping[str, Tensor]"
"""A state dict, or a file that ``torch.save(model.state_dict(), path)`` wrote."""


def read_state(path: Path, expected: str) -> dict[str, Tensor]:
    """The state dict in a file.

    Args:
        path: the file.
        expected: what it should hold, for messages.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no state dict.
    """
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in as many ways as its format has layers
            raise ValueError(f"{path} cannot be loaded ({type(error).__name__}): {expected}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds no state dict: {expected}")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict, but {', '.join(map(repr, [*state][:8]))}: {expected}")
    return dict(state)


def load_state(network: nn.Module, state: Mapping[str, Tensor], what: str) -> list[str]:
    """Puts a state into a network; returns the names of the buffers that it lacks, which stay those of the network.

    Raises:
        ValueError: parameters that are missing, something else that is left over, or another shape.
    """
    own, parameters = network.state_dict(), dict(network.named_parameters(remove_duplicate=False))
    lacking = sorted(own.keys() - state.keys() - parameters.keys())
    try:
        network.load_state_dict({name: own[name] for name in lacking} | dict(state))
    except RuntimeError as error:
        raise ValueError(f"{what} is of another network: {error}") from error
    return lacking


def digest_of(state: State) -> str:
    """Digits that tell a state from others: of a file, those of its bytes."""
    if isinstance(state, Mapping):
        return digest(dict(state))
    return hashlib.sha256(Path(state).read_bytes()).hexdigest()
