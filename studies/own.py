"""A problem of one's own: any network, loss and data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from operator import index
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..linops import Loss, Objective
from ..linops.curvature.guards import untouched_random_state
from ..linops.curvature.loss import as_loss, loss_in
from ..linops.fingerprint import digest
from ..solvers.parameters import require_integer
from .images import Samples
from .options import StudyOptions
from .overlap_study import OverlapStudy
from .problem import DataRequest, HessianPlan, Problem, ProblemData, converted
from .states import State
from .tables import table_for
from .wrapped import copied

_Value = TypeVar("_Value")
_Optimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

_BY_TRIAL = HessianPlan(engine=None)


def own_problem(
    model: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor] | Loss,
    hessian: Mapping[str, tuple[Samples, Tensor]],
    *,
    train: tuple[Samples, Tensor] | None = None,
    checkpoints: Mapping[int, State] | Sequence[State] | None = None,
    losses: Mapping[int, float] | Sequence[float] | None = None,
    name: str = "own",
    title: str = "",
    description: str = "data of one's own",
    optimizer: _Optimizer = lambda p: torch.optim.SGD(p, lr=0.1),
    batch_size: int = 128,
    steps: int = 1000,
    record_every: int = 500,
    k: int = 20,
    plan: HessianPlan = _BY_TRIAL,
) -> Problem:
    """A problem for `OverlapStudy`, and for ``eigenspan study my_module:problem``.

    Args:
        model: makes the network, randomly initialised from PyTorch's global random state; what it makes is copied. For
            one that is trained already, ``lambda: network``, and no data to train on.
        loss: of (output, targets), a mean over samples unless a `Loss` says over what.
        hessian: the batch whose loss is decomposed, (inputs, targets), as ``{"train": batch}``, ``{"test": batch}`` or
            both, which comparisons take.
        train: inputs and targets to train on, one row a sample, on the CPU; needed for steps. Inputs that are no tensor
            give those of an index tensor, ``inputs[indices]``.
        checkpoints: states of the network, in the place of training: state dicts, or files with one, by step, or in a
            sequence, whose steps are 0, 1, 2, …. All parameters and buffers must be in them, and nothing else. A study
            of so many steps takes those up to there.
        losses: of the first Hessian batch at these steps, as far as they are known; a state with another one, to three
            digits, is refused.
        name: what to call it by.
        title: for reports; by default the name.
        description: of the data, in words.
        optimizer: of parameters.
        batch_size: of training.
        steps: of training, and ``record_every`` so many a record, unless a study says otherwise; for given checkpoints
            the last of theirs.
        record_every: see ``steps``.
        k: eigenpairs, likewise.
        plan: how products are computed; by default as a trial chooses, so that another run may round otherwise.

    Raises:
        TypeError: a factory that makes no network or no optimizer, batches that are no pairs of tensors, an
            `Objective`, or steps that are no integers.
        ValueError: no Hessian batch, or one of another name; a network without values or shapes; inputs and targets of
            different lengths; a loss that is no scalar; numbers out of range; checkpoints and data to train on, no
            checkpoint, one of a negative step, or a loss of none.
        FileNotFoundError: a checkpoint that is missing.

    Cost: the loss of two samples.
    """
    _require_numbers(batch_size=batch_size, steps=steps, record_every=record_every, k=k)
    batch_size, steps, record_every, k = map(index, (batch_size, steps, record_every, k))  # of NumPy's, too
    if not callable(optimizer):
        raise TypeError(f"optimizer is a function of parameters, as torch.optim.Adam; got a {type(optimizer).__name__}")
    if not isinstance(hessian, Mapping):
        raise TypeError(f'hessian names its batches, as {{"train": (inputs, targets)}}; got a {type(hessian).__name__}')
    if not hessian or not hessian.keys() <= {"train", "test"}:
        raise ValueError(f"hessian has the batches 'train', 'test' or both, got {sorted(hessian)}")
    for what, batch in {"train": train, **{f"hessian[{split!r}]": batch for split, batch in hessian.items()}}.items():
        if batch is not None:
            _require_batch(what, batch)
    network = _network(model)
    _require_loss(network, loss, next(iter(hessian.values())))
    given, known = _by_step(checkpoints), _by_step(losses) or {}
    _require_checkpoints(given, known, train is not None)
    steps_given = [] if given is None else [sorted(given)]
    trained_by = None if train is None else optimizer
    description = f"{description} (SHA-256 {_digest(network, trained_by, hessian, train, loss, *steps_given)})"
    nothing = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    def own(request: DataRequest) -> ProblemData:
        lacking = [split for split in request.splits if split not in hessian]
        if lacking:
            raise ValueError(
                f"{name} has no {lacking[0]} batch to decompose, which comparisons take as well: give "
                f"hessian={{{lacking[0]!r}: (inputs, targets), …}}, or leave out comparisons by compare=False"
            )
        if request.training and train is None and given is None:
            raise ValueError(
                f"{name} has nothing to train on: give train=(inputs, targets) or checkpoints=, or take 0 steps"
            )
        batches = {split: hessian[split] for split in request.splits}
        return ProblemData(nothing if train is None else train, batches, description)

    return Problem(
        name=name,
        title=title or name,
        model=lambda: copied(model()),
        loss=loss,
        sources={"own": own},
        optimizer=optimizer,
        batch_size=batch_size,
        steps=max(given) if given is not None else steps if train is not None else 0,
        record_every=record_every,
        k=k,
        table_k=table_for(k),
        split=next(iter(hessian)),
        plan=plan,
        compare=len(hessian) == 2,
        checkpoints=given,
        losses=known,
    )


def study_checkpoints(
    model: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor] | Loss,
    batch: tuple[Samples, Tensor],
    checkpoints: Mapping[int, State] | Sequence[State],
    directory: str | os.PathLike[str],
    *,
    k: int = 20,
    losses: Mapping[int, float] | Sequence[float] | None = None,
    progress: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """The study of a list of checkpoints on one batch: `OverlapStudy` of an `own_problem`, without comparisons.

    Args:
        model: makes the network.
        loss: of (output, targets), a mean over samples unless a `Loss` says over what.
        batch: whose loss is decomposed, inputs and targets.
        checkpoints: states of the network, see `own_problem`.
        directory: where the study lives; the same call goes on after an interruption.
        k: eigenpairs.
        losses: of the batch at these steps, as far as they are known, see `own_problem`.
        progress: whether to show bars for records and solves.
        options: see `StudyOptions`, but for steps, split and compare.

    Returns:
        The results, see `OverlapStudy.run`; `write_report` makes a report of them.

    Raises:
        TypeError: as `own_problem`.
        ValueError: as `own_problem`; a state of another network or with another loss than is known of it; options that
            are fixed here.
        OSError: a file that cannot be read, or the directory cannot be written.

    Cost: a solve for each checkpoint, and its bytes on disk once more.
    """
    problem = own_problem(
        model, loss, {"train": batch}, checkpoints=checkpoints, losses=losses, k=k, name="checkpoints"
    )
    for name in ("steps", "split", "compare"):
        if name in options:
            raise ValueError(
                f"of given checkpoints and one batch, {name} is {getattr(problem, name)!r}: leave it out, or give "
                "own_problem(…, checkpoints=…) and StudyOptions to OverlapStudy"
            )
    return OverlapStudy(problem, StudyOptions.of(problem, **options), directory).run(progress=progress)


def _by_step(values: Mapping[int, _Value] | Sequence[_Value] | None) -> dict[int, _Value] | None:
    """Values by step; those of a sequence by their places."""
    if values is None:
        return None
    if isinstance(values, (str, os.PathLike)):  # a string is a sequence, of its letters
        raise TypeError(f"checkpoints are a list of files, or a mapping by step; got one path, {str(values)!r}")
    steps = values.items() if isinstance(values, Mapping) else enumerate(values)
    found: dict[int, _Value] = {}
    for step, value in steps:
        if not hasattr(step, "__index__"):
            one = ", as of a state dict: give [state], or {step: state}" if isinstance(value, Tensor) else ""
            raise TypeError(f"steps are integers, such as {{100: 'step-100.pt'}}; got the key {step!r}{one}")
        found[index(step)] = value
    return found


def _require_checkpoints(checkpoints: Mapping[int, State] | None, losses: Mapping[int, float], trained: bool) -> None:
    if checkpoints is None:
        if losses:
            raise ValueError("losses are those of given checkpoints: give checkpoints= as well")
        return
    if trained:
        raise ValueError("checkpoints come in the place of training: leave out train=, or checkpoints=")
    if not checkpoints or min(checkpoints) < 0:
        raise ValueError(f"checkpoints are one or more, of steps from 0 on; got the steps {sorted(checkpoints)}")
    unknown = sorted(losses.keys() - checkpoints.keys())
    if unknown:
        raise ValueError(f"losses are those of the steps {sorted(checkpoints)}, got one of step {unknown[0]}")
    for step, state in checkpoints.items():
        if not isinstance(state, Mapping | str | os.PathLike):
            raise TypeError(
                f"the checkpoint of step {step} is a state dict, such as model.state_dict(), or a file with one; got "
                f"{type(state).__name__}"
            )
        if isinstance(state, Mapping) and any(getattr(value, "is_meta", False) for value in state.values()):
            raise ValueError(f"the checkpoint of step {step} is on the meta device, without values: load it first")
        if not isinstance(state, Mapping) and not Path(state).is_file():
            raise FileNotFoundError(f"the checkpoint of step {step}, {state}, is missing")


def _digest(network: nn.Module, optimizer: _Optimizer | None, *parts: object) -> str:
    """What tells network, training, data and loss from others, so that a folder does not go on with those."""
    training = None if optimizer is None else _settings(optimizer(network.parameters()))
    return digest([digest(network), training, *parts])[:16]


def _settings(optimizer: torch.optim.Optimizer) -> list[object]:
    """What an optimiser does, and with how many parameters."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is a function that makes a torch.optim.Optimizer of parameters, made {optimizer!r}")
    options = signature(optimizer.step).parameters.values()
    if any(each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in options):
        raise TypeError(
            f"{type(optimizer).__name__} evaluates the loss several times a step, and is given a gradient here: choose "
            "an optimiser whose step takes no closure, such as torch.optim.SGD"
        )
    groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
    return [type(optimizer).__qualname__, groups]


def _require_batch(what: str, batch: tuple[Samples, Tensor]) -> None:
    if not isinstance(batch, tuple) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        found = type(batch).__name__
        if isinstance(batch, tuple):
            found += f" of {', '.join(type(part).__name__ for part in batch)}"
        raise TypeError(
            f"{what} is a pair of inputs and targets, (inputs, targets), and these a tensor, one row a sample; got a "
            f"{found}"
        )
    if isinstance(batch[0], Mapping | list | tuple | numpy.ndarray):
        raise TypeError(
            f"the inputs of {what} are one tensor, a row a sample, and got a {type(batch[0]).__name__}: make it one, "
            "which the network takes apart, or let a CurvatureRecorder decompose the loss of such a batch"
        )
    if len(batch[0]) != len(batch[1]) or len(batch[1]) == 0:
        raise ValueError(f"{what} has {len(batch[0])} inputs and {len(batch[1])} targets: one or more of each, paired")


def _network(model: Callable[[], nn.Module]) -> nn.Module:
    """A copy of the network that ``model`` makes, the same in every process, in evaluation mode; it has all values."""
    if isinstance(model, nn.Module):
        raise TypeError(
            f"model is a function that makes a torch.nn.Module, and got one itself, {type(model).__name__}(…): give "
            "the class, or lambda: network"
        )
    with untouched_random_state(torch.device("cpu")):
        torch.default_generator.manual_seed(0)
        network = model()
    if not isinstance(network, nn.Module):
        raise TypeError(f"model is a function that makes a torch.nn.Module, and made {type(network)}")
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError("the network is on the meta device, without values: let model make it on another one")
    if any(map(is_lazy, network.parameters())):
        raise ValueError("the network has parameters without shapes, of lazy modules: let model run it once")
    return copied(network).eval()


def _require_loss(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | Loss, batch: tuple[Samples, Tensor]
) -> None:
    if isinstance(loss, Objective):
        raise TypeError("a problem has a loss of (output, targets), got an Objective: a CurvatureRecorder takes those")
    first = torch.arange(min(2, len(batch[1])))  # of one sample a model may leave out the dimension
    dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    inputs, targets = (converted(part[first].cpu(), dtype) for part in batch)
    function = as_loss(loss_in(loss, dtype, "cpu")).function
    with untouched_random_state(torch.device("cpu")), torch.no_grad():
        found = function(network.to("cpu")(inputs), targets)
    if not isinstance(found, Tensor) or found.ndim != 0:
        raise ValueError(f"the loss of a batch is a scalar tensor, got {found}: reduce it by a mean")


def _require_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        require_integer(name, value, least=0 if name == "steps" else 1)
