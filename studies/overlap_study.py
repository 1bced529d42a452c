"""The overlap of a network's large weights with its top Hessian eigenspace, along its training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
import torch.distributed
from tqdm import tqdm

from ..linops import Hessian, MaskSubspace, ParameterSpace, magnitude
from ..linops.curvature.guards import untouched_random_state
from ..linops.files import read_json
from ..linops.fingerprint import digest
from ..metrics import overlap_curve
from .checkpoints import checkpoints_of
from .comparisons import comparison
from .folder import StudyFolder
from .options import DTYPES, SPLITS, StudyOptions
from .problem import Problem
from .problems import find_problem
from .records import record_of
from .repeat_command import repeat_command
from .results import results_of, write_results
from .solves import StepSolver, StepSolves
from .tracking import EigenspaceTracker, Snapshot
from .training import Checkpoint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def described(directory: str | os.PathLike[str]) -> tuple[Problem, StudyOptions]:
    """What the study of a folder is of.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: its description is damaged, or of a study or version that is not known here.
    """
    path = Path(directory) / "study.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{directory} holds no study, as there is no {path.name}: a study is resumed from its own folder; a "
            "solve with a checkpoint, or workers on a sketch, go on when the same call or command is run again"
        )
    entries = read_json(path, "run the study again by its name and options, in another folder")
    try:
        problem = find_problem(entries["study"])
        options = StudyOptions(**{field.name: entries[field.name] for field in attrs.fields(StudyOptions)})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} describes no study that is known here ({error!r})") from error
    return problem, options


class OverlapStudy:
    """Trains a network, and at steps along the way compares its largest weights with its top Hessian eigenspace.

    A folder holds the study: ``study.json`` says what it is of, ``checkpoints/`` the training, ``eigenspaces/`` and
    ``records/`` one file a step and split, ``tracking/`` how the steps compare, ``results.json`` all numbers, and
    ``decoded/`` the images of the Hessian, if it is of such, ``unfinished/`` the products of the record that it is at.
    Each file appears whole or not at all, so that a run that was interrupted goes on where it stopped, and a solve from
    its last product; a run that was finished does nothing.

    Args:
        problem: the network, its data and its training.
        options: what to measure.
        directory: where the study lives; it is made if it is not there.
        mesh: the ranks of a job that share out the data of Hessians, if any; of these the first alone trains, writes
            and reports, into a folder that all can read.

    Raises:
        ValueError: a k that is larger than the number of trainable parameters, or a folder that holds another study.
        FileNotFoundError: data or weights that are missing.
        OSError: a folder that cannot be written.
        RuntimeError: a folder that another process is using.

    Source: arXiv 2504.14701, section 4; the stratified chance level is our own.

    Cost: that of training, and of one solve a record.
    """

    def __init__(
        self, problem: Problem, options: StudyOptions, directory: str | os.PathLike[str], mesh: DeviceMesh | None = None
    ) -> None:
        self.problem = problem if options.weights is None else problem.with_weights(Path(options.weights))
        request = problem.resolved(options.data_request())
        # As they are resolved: what a default stands for is part of what the folder holds.
        self.options = attrs.evolve(
            options, data=request.source, hessian_samples=request.hessian_samples, image_size=request.image_size
        )
        self.directory, self.mesh = Path(directory), mesh
        size = self._parameters().size
        if options.k > size:
            raise ValueError(f"k is at most the number of trainable parameters, {size}; got {options.k}")
        self.problem.recorded(self.options.steps)  # refuses steps that no given checkpoint is of
        self.data = problem.load(request)
        of = {"study": problem.name, "initial values": self.problem.weights, **attrs.asdict(self.options)}
        self.folder = StudyFolder(self.directory, of)
        if self.leads:
            with self.folder.claimed():
                pass  # a folder that is closed or of another study shows before any work

    @property
    def leads(self) -> bool:
        """Whether this process is the one that trains, writes and reports."""
        return self.mesh is None or self.mesh.get_local_rank() == 0

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> OverlapStudy:
        """The study that a folder was begun with.

        Args:
            directory: of a study.

        Raises:
            FileNotFoundError: the folder holds none.
            ValueError: its description is damaged, or of a study or version that is not known here.

        Cost: to load the data.
        """
        problem, options = described(directory)
        return cls(problem, options, directory)

    def run(
        self, *, progress: bool = False, on_record: Callable[[dict[str, Any]], None] = lambda record: None
    ) -> dict[str, Any]:
        """Trains and measures what is not there yet, and writes ``results.json``.

        Args:
            progress: whether to show bars for training, records and solves.
            on_record: called with each record as it is ready, old ones too.

        Returns:
            The results: see `results`; empty on ranks that do not lead.

        Raises:
            RuntimeError: another process is using the folder, or a solver found fewer than k pairs.
            ValueError: a training that diverges, damaged images, or files in the folder that are damaged or of
                another study.
            OSError: the folder cannot be written.

        Cost: what is not there yet of the training and of the solves.
        """
        if not self.leads:
            return self._follow()
        with self.folder.claimed():
            return self._run(progress, on_record)

    def _follow(self) -> dict[str, Any]:
        """Multiplies this rank's share in every solve of the one that leads."""
        while (work := self._announced(None)) is not None:
            self.data = self.data.kept(self.directory / "decoded")  # the leading rank has decoded them by now
            self._solves(*work, progress=False)
        return {}

    def _announced(self, work: tuple[Checkpoint, str] | None) -> tuple[Checkpoint, str] | None:
        """What the leading rank is to solve next, known to all; None if it has solved all."""
        if self.mesh is None:
            return work
        said = [work]
        torch.distributed.broadcast_object_list(said, group=self.mesh.get_group(), group_src=0)
        return said[0]

    def _solves(self, checkpoint: Checkpoint, split: str, progress: bool) -> StepSolves:
        solver = StepSolver(self.problem, self.options, self.data, self.mesh)
        return solver.solve(checkpoint, split, self.folder.unfinished(checkpoint.step, split), progress)

    def _run(self, progress: bool, on_record: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        self.data = self.data.kept(self.directory / "decoded", progress=progress)
        checkpoints = checkpoints_of(
            self.problem,
            self.data,
            self.directory / "checkpoints",
            steps=self.options.steps,
            seed=self.options.seed,
            dtype=DTYPES[self.options.dtype],
            device=self.options.device,
            progress=progress,
        )
        pairs = [(checkpoint, split) for checkpoint in checkpoints for split in SPLITS[self.options.split]]
        with tqdm(pairs, desc="records", unit="record", disable=not progress) as bar:
            for checkpoint, split in bar:
                on_record(self._record(checkpoint, split, progress))
        self._announced(None)
        tracking = {split: self._tracking(checkpoints, split) for split in SPLITS[self.options.split]}
        results = {**self.results(), "tracking": tracking}
        write_results(results, self.directory)
        return results

    def results(self) -> dict[str, Any]:
        """All records so far, with what they are of, as plain data.

        Cost: the files of all records, read, and those of given checkpoints unless `run` has read them.
        """
        title, warning, origin = self.problem.title, self.data.warning, self.problem.weights
        if self.problem.checkpoints is not None:
            states = {step: self.problem.digest_at(step) for step in self.problem.recorded(self.options.steps)}
            origin = f"states with the SHA-256 {digest(states)[:16]}"
        return results_of(
            self.folder.records(),
            study=self.problem.name,
            title=f"{title} ({warning})" if warning else title,
            description=f"{self.data.description}; {origin}" if origin else self.data.description,
            warning=warning,
            attribution=self.data.attribution,
            command=repeat_command(self.problem, self.options),
            options=attrs.asdict(self.options),
            shapes=self._parameters().shapes,
            table_k=self.problem.dimensions(self.options.k),
            device=self.options.device,
        )

    def _parameters(self) -> ParameterSpace:
        """The parameters that the Hessian is of, at values of no interest."""
        with untouched_random_state(torch.device("cpu")):
            return ParameterSpace(self.problem.model())

    def _record(self, checkpoint: Checkpoint, split: str, progress: bool) -> dict[str, Any]:
        found = self.folder.record(checkpoint.step, split)
        if found is None:
            self._announced((checkpoint, split))
            found = {"step": checkpoint.step, "split": split, **self._measure(checkpoint, split, progress)}
            self.folder.write_record(found)
        return found

    def _measure(self, checkpoint: Checkpoint, split: str, progress: bool) -> dict[str, Any]:
        began = time.perf_counter()
        found = self._solves(checkpoint, split, progress)
        eig = found.eig
        _ = eig.eigenvectors  # formed once, where the solver keeps them: the file and all metrics read their rows
        self.folder.write_eigenpairs(checkpoint.step, split, eig, found.layers)
        record = {
            "loss": found.loss,
            **record_of(found.H, eig, self.problem.dimensions(self.options.k), self.options.seed),
        }
        if found.others:
            record["comparison"] = comparison(eig, found.others)
        if found.exact is not None:  # how much of its leading eigenspaces was found
            overlaps = overlap_curve(eig.subspace, found.exact.subspace).tolist()
            record["exact"] = {"eigenvalues": found.exact.eigenvalues.tolist(), "subspace_overlap": overlaps}
        return record | {"seconds": time.perf_counter() - began}

    def _tracking(self, checkpoints: Sequence[Checkpoint], split: str) -> dict[str, Any]:
        """The eigenspaces and masks of all steps beside one another: see `EigenspaceTracker.to_dict`."""
        found = self.folder.tracking(split)
        if found is not None:
            return found
        tracker, device = EigenspaceTracker(self.options.eigensolver()), self.options.device
        for checkpoint in checkpoints:
            step = checkpoint.step
            eig = self.folder.eigenpairs(step, split, device)
            model = checkpoint.restore(self.problem, self.data, device=device)
            H = StepSolver(self.problem, self.options, self.data).operator(Hessian, model, split)
            parts = MaskSubspace.parts(H.parameters) if self.options.compare else {}
            layers = self.folder.layers(step, split, parts, device)
            scores = {"magnitude": magnitude(H.parameters)}
            tracker.add(Snapshot(step, eig, scores, H.gradient(), layers=layers))
        return self.folder.write_tracking(tracker.to_dict(self.problem.dimensions(self.options.k)), split)
