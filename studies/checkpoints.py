"""The checkpoints of a study: those of its training, or states that somebody else's training left."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from ..linops.curvature.guards import untouched_random_state
from .problem import Problem, ProblemData
from .states import State, listed, load_state, read_state
from .tensor_files import write_tensors
from .training import CHECKPOINT_FORMAT, Checkpoint, losses_of, read_checkpoint, train

_CLOSE = 1e-3
"""Relative: losses from logs have few digits, and other machines sum in another order."""


def checkpoints_of(
    problem: Problem,
    data: ProblemData,
    directory: str | os.PathLike[str],
    *,
    steps: int,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: bool = False,
) -> list[Checkpoint]:
    """The network of a problem at all recorded steps: trained, see `train`, or as it is given.

    Given states are loaded with nothing missing and written into the directory with their losses. Those that are there
    are not made again.

    Raises:
        OSError: a file that cannot be read, or the directory cannot be written.
        ValueError: as `train`; a state of another network, or whose loss is not finite or not the one that is known of
            it; or a checkpoint in the directory that is of another state.

    Cost: that of `train`; for given states a forward pass over the Hessian batches, and their bytes on disk.
    """
    if problem.checkpoints is None:
        return train(
            problem,
            data,
            directory,
            steps=steps,
            record_every=problem.record_every,
            seed=seed,
            dtype=dtype,
            device=device,
            progress=progress,
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for step in tqdm(problem.recorded(steps), desc="checkpoints", unit="checkpoint", disable=not progress):
        path = directory / f"step-{step:06d}.pt"
        identity = {
            "problem": problem.name,
            "data": data.description,
            "dtype": str(dtype).removeprefix("torch."),
            "state": problem.digest_at(step),
        }
        losses = _known(path, identity) if path.exists() else _written(path, problem, data, step, identity, device)
        found.append(Checkpoint(step, path, losses))
    return found


def _known(path: Path, identity: dict[str, str]) -> dict[str, float]:
    state = read_checkpoint(path)
    changed = [name for name, value in identity.items() if state["of"].get(name) != value]
    if changed:
        raise ValueError(f"{path} was made from another {' and '.join(changed)}: use another directory")
    return dict(state["losses"])


def _written(
    path: Path, problem: Problem, data: ProblemData, step: int, identity: dict[str, str], device: torch.device | str
) -> dict[str, float]:
    """Writes a given state as a checkpoint; returns its losses."""
    assert problem.checkpoints is not None
    with untouched_random_state(torch.device("cpu")):  # the initial values are drawn, and overwritten
        network = problem.model().to(device, getattr(torch, identity["dtype"]))
    state, what = _state(problem.checkpoints[step], step)
    lacking, losses = load_state(network, state, what), losses_of(problem, data, network)
    found, known = losses.get(problem.split), problem.losses.get(step)
    if lacking:
        given = "" if known is None else f", and was given the loss {known:.6g}"
        raise ValueError(
            f"{what} lacks the buffers {listed(lacking)}: with those of a new network it has the losses {losses}"
            f"{given}; give all of model.state_dict()"
        )
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise ValueError(f"{what} has the losses {losses}: leave it out")
    if known is not None and found is not None and not math.isclose(known, found, rel_tol=_CLOSE, abs_tol=_CLOSE**2):
        raise ValueError(
            f"{what} has the loss {found:.6g} on {problem.split} data, and {known:.6g} was given: it is another state, "
            "or the network, the loss or the data are others than it was measured with"
        )
    contents = {"format": CHECKPOINT_FORMAT, "of": identity, "step": step, "losses": losses}
    write_tensors({**contents, "model": network.state_dict()}, path)
    return losses


def _state(given: State, step: int) -> tuple[Mapping[str, torch.Tensor], str]:
    """A state dict, and what to call it in messages."""
    if isinstance(given, Mapping):
        return given, f"the given state of step {step}"
    expected = (
        "expected a state dict, as torch.save(model.state_dict(), path) writes; of another file give the dict in it, "
        'such as torch.load(path)["state_dict"]'
    )
    return read_state(Path(given), expected), str(given)
