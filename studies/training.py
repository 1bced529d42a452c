"""Training with checkpoints that hold the whole state, so that it goes on where it stopped, bit for bit."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..linops.curvature.guards import untouched_random_state
from ..solvers.streams import stream
from .problem import Batch, Problem, ProblemData, converted
from .states import listed, load_state
from .tensor_files import read_tensors, write_tensors

CHECKPOINT_FORMAT = "eigenspan checkpoint 1"
"""What the files of this version begin with."""


@attrs.frozen
class Checkpoint:
    """A network at one step of its training, on disk.

    Attributes:
        step: how many steps of SGD were taken.
        path: the file, which holds the whole state of the training.
        losses: the loss on each Hessian batch, by split, measured before the file was written.
    """

    step: int
    path: Path
    losses: dict[str, float]

    def restore(self, problem: Problem, data: ProblemData, *, device: torch.device | str) -> nn.Module:
        """The network at that step, buffers included, in evaluation mode and in the dtype it was trained in.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is damaged or of another problem, or the network does not reproduce the losses.

        Cost: a forward pass over the Hessian batches.
        """
        state = read_checkpoint(self.path)
        if state["of"]["problem"] != problem.name or state["step"] != self.step:
            raise ValueError(
                f"{self.path} is step {state['step']} of {state['of']['problem']!r}, not step {self.step} of "
                f"{problem.name!r}"
            )
        dtype: torch.dtype = getattr(torch, state["of"]["dtype"])
        with untouched_random_state(torch.device("cpu")):  # the initial values are drawn, and overwritten
            model = problem.model().to(device, dtype)
        lacking = load_state(model, state["model"], str(self.path))
        found = losses_of(problem, data, model)
        if lacking:
            raise ValueError(
                f"{self.path} lacks the buffers {listed(lacking)}: the network has the losses {found} with those of "
                f"a new one, but had {self.losses} when it was written; write all of model.state_dict() into the file, "
                "or remove it and train again"
            )
        self.require_losses(found, dtype)
        return model

    def require_losses(self, found: Mapping[str, float], dtype: torch.dtype) -> None:
        """The losses, by split, must be those that were measured before the file was written.

        Raises:
            ValueError: they are not, up to a thousand roundings of the dtype.

        Cost: none.
        """
        # Another device or another number of threads sums in another order; a wrong network is further off than that.
        tolerance = 1e3 * torch.finfo(dtype).eps
        if not found.keys() <= self.losses.keys() or any(
            not math.isclose(loss, self.losses[split], rel_tol=tolerance, abs_tol=tolerance)
            for split, loss in found.items()
        ):
            raise ValueError(
                f"the network in {self.path} has the losses {dict(found)}, but had {self.losses} when it was written: "
                "it is another network, or the data are other data, or the network or the loss draws random numbers; "
                "remove the file and train again"
            )


def train(
    problem: Problem,
    data: ProblemData,
    directory: str | os.PathLike[str],
    *,
    steps: int,
    record_every: int,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: bool = False,
) -> list[Checkpoint]:
    """The network of a problem at steps 0, record_every, 2 record_every, … and at the last step.

    The samples come in a fresh permutation every epoch, and those left over when it is cut into batches are dropped.
    The seed determines initialisation and order; PyTorch's global random state is left as it was. Checkpoints that are
    in the directory are not made again: what was interrupted, or is now to take more steps, goes on from the last one,
    with the result bit for bit that of training in one go (on the same machine and software).

    Args:
        problem: the network, and how it is trained.
        data: what it is trained on, and the batches to take losses of.
        directory: of the checkpoints; it is made if it is not there.
        steps: of training; 0 gives the initial network only.
        record_every: steps between checkpoints.
        seed: a non-negative integer.
        dtype: of parameters and inputs. The initial network is drawn in float32 and converted.
        device: where to train.
        progress: whether to show a bar.

    Raises:
        OSError: the directory cannot be written.
        ValueError: numbers out of range, a batch size larger than the training set where there are steps to take, a
            loss that is not finite, or checkpoints in the directory that are damaged or of another training.

    Source: arXiv 2504.14701, section 4.

    Cost: ``steps`` forward and backward passes over a batch.
    """
    for name, value, least in (("steps", steps, 0), ("record_every", record_every, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is at least {least}, got {value}")
    if steps > 0 and problem.batch_size > len(data.train[1]):
        raise ValueError(
            f"a batch of {problem.batch_size} is more than the {len(data.train[1])} training samples: take a "
            "smaller batch_size, or more samples"
        )
    device, directory = torch.device(device), Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        untouched_random_state(device),
        tqdm(total=steps, desc="training", unit="step", disable=not progress) as bar,
    ):
        run, checkpoints = _Run(problem, data, seed, dtype, device), []
        for step in sorted({*range(0, steps, record_every), steps}):
            path = directory / f"step-{step:06d}.pt"
            if path.exists():
                losses = run.load(path, step)
                bar.update(step - bar.n)
            else:
                while run.step < step:
                    run.advance()
                    bar.update()
                losses = run.save(path)
            checkpoints.append(Checkpoint(step, path, losses))
    return checkpoints


class _Run:
    """A training under way: the network, its optimiser and the number of steps taken."""

    def __init__(
        self, problem: Problem, data: ProblemData, seed: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.problem, self.data, self.seed, self.dtype, self.device = problem, data, seed, dtype, device
        _seed_random_state(int(stream(seed, "training").integers(2**63)), device)
        self.model = problem.model().to(device, dtype)
        self.loss = problem.loss_in(dtype, device).function
        self.optimizer = problem.optimizer(self.model.parameters())
        self.step = 0
        self.identity = {
            "problem": problem.name,
            "data": data.description,
            "batch_size": problem.batch_size,
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
        }

    @torch.enable_grad()
    def advance(self) -> None:
        """One step."""
        indices, (samples, labels) = self._batch(), self.data.train
        inputs, targets = _moved((samples[indices], labels[indices]), self.dtype, self.device)
        self.model.train()
        self.optimizer.zero_grad()
        torch.autograd.backward(self.loss(self.model(inputs), targets))
        self.optimizer.step()
        self.step += 1

    def _batch(self) -> Tensor:
        """The samples of the next step: a function of seed and step, so that a checkpoint need not hold their order."""
        size, count = self.problem.batch_size, len(self.data.train[1])
        epoch, position = divmod(self.step, count // size)
        return _permutation(self.seed, epoch, count)[position * size : (position + 1) * size]

    def save(self, path: Path) -> dict[str, float]:
        """Writes the whole state, which appears as a whole or not at all; returns the losses."""
        losses = losses_of(self.problem, self.data, self.model)
        if not all(math.isfinite(loss) for loss in losses.values()):
            if self.step == 0:
                raise ValueError(f"the losses are {losses} before any training: mend the network, the loss or the data")
            raise ValueError(f"the training has diverged: at step {self.step} the losses are {losses}")
        state = {
            "format": CHECKPOINT_FORMAT,
            "of": self.identity,
            "step": self.step,
            "losses": losses,
            "model": self.model.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "random": _random_state(self.device),
        }
        write_tensors(state, path)
        return losses

    def load(self, path: Path, step: int) -> dict[str, float]:
        """Goes to the state in a checkpoint, which must be that step of this training; returns the losses."""
        state = read_checkpoint(path)
        wanted, found = self.identity | {"step": step}, state["of"] | {"step": state["step"]}
        changed = [f"{name} {found.get(name)} -> {wanted[name]}" for name in wanted if found.get(name) != wanted[name]]
        if changed:
            raise ValueError(f"{path} is of another training ({', '.join(changed)}): use another directory")
        if lacking := load_state(self.model, state["model"], str(path)):
            raise ValueError(f"{path} lacks the buffers {listed(lacking)}: remove it, and it is made anew")
        self.optimizer.load_state_dict(state["optimiser"])
        _set_random_state(state["random"], self.device)
        self.step = step
        return dict(state["losses"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or no checkpoint of this version.
    """
    state = read_tensors(path, "remove it, and training goes on from the one before")
    if state.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"{path} is no checkpoint of this version of eigenspan: use another directory")
    return state


@torch.no_grad()
def losses_of(problem: Problem, data: ProblemData, model: nn.Module) -> dict[str, float]:
    """The loss on each Hessian batch, in evaluation mode, of which some samples are processed at once.

    As that of the Hessian it does not depend on how they are cut: class weights and ignored targets count.
    """
    parameter = next(model.parameters())
    loss = problem.loss_in(parameter.dtype, parameter.device)
    model.eval()
    losses = {}
    for split, (samples, labels) in data.hessian.items():
        total = weights = 0.0
        for indices in torch.split(torch.arange(len(labels)), problem.plan.micro_batch_size or len(labels)):
            inputs, targets = _moved((samples[indices], labels[indices]), parameter.dtype, parameter.device)
            output = model(inputs)
            weight = 1.0 if loss.reduction == "sum" else float(loss.weight(output, targets))
            if weight > 0:  # else there is nothing to take a mean of
                total, weights = total + weight * float(loss.function(output, targets)), weights + weight
        losses[split] = total if loss.reduction == "sum" else total / weights if weights > 0 else math.nan
    return losses


def _moved(batch: Batch, dtype: torch.dtype, device: torch.device) -> Batch:
    inputs, targets = batch
    return converted(inputs, dtype).to(device), converted(targets, dtype).to(device)


@functools.lru_cache(maxsize=1)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(stream(seed, "data order", epoch).permutation(count))


# -- PyTorch's global random state, which initialisation and layers such as dropout draw from --------------------------


def _seed_random_state(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
