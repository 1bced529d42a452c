"""Curvature recorded during a training that is somebody else's: within seconds, and without touching it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..linops import Hessian, ParameterSpace, magnitude
from ..linops.compiled import as_named
from ..linops.curvature.data import Batches
from ..linops.curvature.guards import training_flags, untouched_random_numbers
from ..linops.curvature.loss import loss_in
from ..linops.files import read_json
from ..linops.fingerprint import data_digest, digest
from ..linops.parameters import Selection
from ..solvers import BlockLanczos, ConvergenceWarning
from .folder import StudyFolder
from .options import SPLITS
from .records import record_of
from .results import results_of, write_results
from .tables import table_for
from .tracking import EigenspaceTracker, Snapshot
from .wrapped import Widened, is_narrow, is_sharded, uncast, unwrapped, widened

_log = logging.getLogger("eigenspan")
_DIGITS = 16  # of digests


class CurvatureRecorder:
    """Records the top Hessian eigenspace of a network in training beside its largest weights, in a folder of a study.

    A record holds what one of `OverlapStudy` does, without its comparisons. It is of the network in evaluation mode:
    without dropout, with batch normalisation by running statistics, and in the dtype of its parameters where autocast
    or accelerate casts; where these are in half precision, such as bfloat16, of a copy in float32. The training goes on
    as if there had been none: modes, gradients, buffers and random numbers are as they were.

    What cannot be recorded never ends the training: the reason is logged, as a warning of the logger ``eigenspan``,
    once. If there was no record before, it is taken for one of the model, and no more are tried.

    Args:
        loss: of (output, target), or an `Objective`, see `Hessian`.
        data: a batch or a re-iterable of batches, see `Hessian`.
        directory: where the records go. A training that is resumed goes on in the same; a new one needs a new one.
        k: eigenpairs.
        parameters: which to select, see `ParameterSpace`: the adapters of a large model, or some of its layers. All
            records are of those that this selects at the beginning, whatever is frozen or added later.
        seconds: that a record may take, about. A product is timed first, and as many as fit are allowed: a record that
            ends early says so by its status and residual norms. Where fewer fit than k there is none.
        seed: of the solver and of random masks.
        split: ``"train"`` or ``"test"``: which data they are, for reports.
        name: of the study.

    Raises:
        ValueError: no data, or numbers out of range.
        TypeError: data that can be gone through only once.

    Cost: that of ``seconds`` a record, n (k + 2) numbers on disk, and a pass over the data to begin with; the memory of
    a copy of a network in half precision.
    """

    def __init__(
        self,
        loss: Any,
        data: Any,
        directory: str | os.PathLike[str],
        *,
        k: int = 20,
        parameters: Selection = None,
        seconds: float = 60.0,
        seed: int = 0,
        split: str = "train",
        name: str = "training",
    ) -> None:
        if not isinstance(seconds, int | float) or not seconds > 0:
            raise ValueError(f"seconds, which a record may take, are more than 0; got {seconds!r}")
        if split not in SPLITS["both"]:
            raise ValueError(f"split is one of {', '.join(SPLITS['both'])}; got {split!r}")
        self.solver = BlockLanczos(k=k, seed=seed)
        self.loss, self.data, self.parameters = loss, data, parameters
        self.directory, self.seconds, self.split, self.name = Path(directory), float(seconds), split, name
        with untouched_random_numbers(torch.device("cpu"), data):
            found = data_digest(Batches(data, None, torch.device("cpu")), ordered=False)
        if found.count == 0:
            raise ValueError("there are no data to decompose the loss of: give a batch, or an iterable of batches")
        self._data = digest(found)[:_DIGITS]
        self._folder: StudyFolder | None = None
        self._shapes: dict[str, torch.Size] = {}
        self._device = torch.device("cpu")
        self._afterwards = 0.0  # seconds that the last record took once it was solved
        self._reached = 0  # the step that it is known to have come to
        self._recorded = self._widens = False
        self._overdue = 0  # records in a row of which timing alone took all of the time
        self._ended = self._told = False

    def begin(self, model: nn.Module, step: int = 0) -> None:
        """Claims the folder for a training that begins at a step.

        Args:
            model: the network.
            step: 0 for a new training, another for one that is resumed.

        Raises:
            ValueError: a k that is larger than the number of parameters, a selection that matches nothing, or a folder
                that holds another study, such as a training from other initial values.
            TypeError: selected parameters of several dtypes or devices, or a step that is no integer.
            OSError: a folder that cannot be written.
            RuntimeError: a folder that another process is using.

        Cost: a digest of all parameters.
        """
        model, step = unwrapped(model), index(step)
        if is_sharded(model):
            self._give_up("its parameters are spread over ranks, and a record takes them whole")
            return
        if any(map(is_lazy, model.parameters())):
            self._give_up("its parameters have no shapes before a first forward pass, as lazy modules: run one before")
            return
        try:
            space = ParameterSpace(model, self.parameters)
        except TypeError as error:
            if self.parameters is not None:
                raise
            self._give_up(str(error))
            return
        self._widens = is_narrow(space.dtype)
        if self._widens:
            dtype = str(space.dtype).removeprefix("torch.")
            _log.warning(
                "the parameters are %s, in which second derivatives have no digits left: records are those of a copy "
                "of the network in float32",
                dtype,
            )
        if self.solver.k > space.size:
            raise ValueError(f"k is at most the number of parameters, {space.size}; got {self.solver.k}")
        self._shapes, self._device = dict(space.shapes), space.device
        folder = StudyFolder(self.directory, self._identity(model, step))
        with folder.claimed():
            pass  # one of another study shows before any work
        self._folder, self._reached = folder, step

    def record(self, model: nn.Module, step: int) -> dict[str, Any] | None:
        """Records the network at a step, in the place of an earlier record of it.

        Args:
            model: the network, as it is in training; of one in `DistributedDataParallel` the first rank's.
            step: how many steps of the optimiser were taken.

        Returns:
            The record, as a study writes it; None if there is none, for a reason that is logged.

        Raises:
            ValueError, TypeError, OSError, RuntimeError: as `begin`, if that was not called.

        Cost: ``seconds``, about.
        """
        step = index(step)  # such as NumPy's, which JSON does not take
        if self._folder is None and not self._ended:
            self.begin(model, step)
        if self._folder is None or self._ended:
            return None
        model = unwrapped(model)
        try:
            with self._undisturbed(model):
                found = self._measure(widened(model) if self._widens else model, step, self._folder)
        except Exception as error:  # whatever it is, a training that may have taken days is worth more than a record
            kind = "" if isinstance(error, TimeoutError) else f"{type(error).__name__}: "
            reason = f"at step {step}, {kind}{error}"
            # The first record tells whether the model can be decomposed at all; later ones fail for what is of a step.
            # A machine may be busy once, but no training is to time products for hours.
            if not self._recorded and (not isinstance(error, TimeoutError) or self._overdue > 1):
                self._give_up(reason)
            else:
                self._tell(f"no record {reason}; later steps are tried")
            return None
        self._reached, self._recorded = step, True
        return found

    def finish(self) -> Path | None:
        """Writes ``results.json`` of all records up to the last step, those before it was resumed too, and a report.

        Returns:
            The report; None if there is none, for a reason that is logged.

        Cost: that of comparing all eigenspaces with one another, and some seconds for the figures.
        """
        if self._folder is None:
            return None
        try:
            with self._folder.claimed():
                # What lies beyond is of an earlier training, which went further before this one was resumed.
                there = self._folder.records()
                records = [each for each in there if each["split"] == self.split and each["step"] <= self._reached]
                if not records:
                    return None
                results = self._results(self._folder, records)
                write_results(results, self.directory)
                return self._report(results)
        except Exception as error:  # as above: what comes after the training, such as saving the model, is worth more
            _log.warning("no report of the curvature records in %s: %s", self.directory, error)
            return None

    # -- a record -----------------------------------------------------------------------------------------------------

    def _measure(self, model: nn.Module, step: int, folder: StudyFolder) -> dict[str, Any]:
        began = time.perf_counter()
        loss, data = self.loss, self.data
        if self._widens:
            loss, data = loss_in(loss, torch.float32, self._device), Widened(data)
        H = Hessian(model, loss, data, parameters=list(self._shapes))
        if H.parameters.shapes != self._shapes:
            raise ValueError(f"the parameters had other shapes at the beginning, {H.parameters.shapes} now")
        solver = self._affordable(H, began)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the record says how the solve ended
            eig = solver.solve(H)
        if len(eig.eigenvalues) < solver.k:
            raise RuntimeError(f"{eig!r}: {eig.report.ending}")
        solved = time.perf_counter()
        numbers = record_of(H, eig, table_for(solver.k), solver.seed)
        record = {
            "step": step,
            "split": self.split,
            "loss": H.loss(),
            **numbers,
            "seconds": time.perf_counter() - began,
        }
        with folder.claimed():
            folder.write_eigenpairs(step, self.split, eig)
            folder.write_point(step, self.split, magnitude=magnitude(H.parameters), gradient=H.gradient())
            folder.write_record(record)
        self._afterwards = time.perf_counter() - solved
        _log.info("curvature of step %d in %.1f s: %r", step, time.perf_counter() - began, eig)
        return record

    def _affordable(self, H: Hessian, began: float) -> BlockLanczos:
        """The solver with as many products as fit into what is left of the time since ``began``."""
        plan = self.solver.plan(H)
        spent = time.perf_counter() - began
        left = self.seconds - spent - self._afterwards
        products = int(left * plan.products / plan.seconds) - 2  # the test of symmetry
        if products < self.solver.k:
            text = (
                f"{max(0, products)} products of {plan.seconds / plan.products:.2g} s fit into what is left of "
                f"{self.seconds:g} s, of which timing one took {spent:.2g}, and k={self.solver.k} pairs take as many "
                "at least: give more seconds, fewer data or a smaller k"
            )
            self._overdue = 0 if left > 0 else self._overdue + 1
            raise TimeoutError(text)
        return (
            self.solver if products >= self.solver._most_vectors else attrs.evolve(self.solver, max_products=products)
        )

    @contextlib.contextmanager
    def _undisturbed(self, model: nn.Module) -> Iterator[None]:
        """Within it, the network is in evaluation mode; afterwards all is as it was."""
        with (
            training_flags(dict.fromkeys(model.modules(), False)),
            untouched_random_numbers(self._device, self.data),
            uncast(model),
            torch.autocast(self._device.type, enabled=False),
        ):
            yield

    def _give_up(self, reason: str) -> None:
        self._ended = True
        self._tell(f"the curvature of this model is not recorded: {reason}")

    def _tell(self, text: str) -> None:
        _log.log(logging.DEBUG if self._told else logging.WARNING, "%s", text)
        self._told = True

    # -- the folder ---------------------------------------------------------------------------------------------------

    def _identity(self, model: nn.Module, step: int) -> dict[str, Any]:
        """What tells this training from others; one that is resumed has the initial values of the folder."""
        path = self.directory / "study.json"
        if step == 0:
            values = [as_named(model.named_parameters()), as_named(model.named_buffers())]
            initial: str | None = digest(values)[:_DIGITS]
        else:
            initial = read_json(path, "choose another folder").get("initial values") if path.exists() else None
        return {
            "study": self.name,
            "initial values": initial,
            "data": self._data,
            "parameters": digest(self._shapes)[:_DIGITS],
            "split": self.split,
            "k": self.solver.k,
            "seed": self.solver.seed,
        }

    def _results(self, folder: StudyFolder, records: list[dict[str, Any]]) -> dict[str, Any]:
        table = table_for(self.solver.k)
        tracker = EigenspaceTracker(self.solver)
        for record in records:
            step = record["step"]
            point = folder.point(step, self.split)
            eig = folder.eigenpairs(step, self.split)
            tracker.add(Snapshot(step, eig, {"magnitude": point["magnitude"]}, point["gradient"]))
        tracking = folder.write_tracking(tracker.to_dict(table), self.split)
        results = results_of(
            records,
            study=self.name,
            title=f"{self.name}, as it was trained",
            description=f"data with the digest {self._data}",
            warning="",
            attribution="",
            command=None,  # no command trains it again
            options={"k": self.solver.k, "seconds": self.seconds, "seed": self.solver.seed, "split": self.split},
            shapes=self._shapes,
            table_k=table,
            device=self._device,
        )
        return {**results, "tracking": {self.split: tracking}}

    def _report(self, results: dict[str, Any]) -> Path | None:
        try:
            from .report import write_report

            return write_report(results, self.directory)
        except ModuleNotFoundError as error:
            _log.warning(
                '%s has results.json and no report, as %s is missing: pip install "eigenspan[studies]"',
                self.directory,
                error.name,
            )
            return None
