"""The overlap of a network's large weights with its top Hessian eigenspace, along its training."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy
import scipy
import torch
import torch.distributed
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..linops import Hessian, ParameterSpace, magnitude
from ..linops.curvature.guards import untouched_random_state
from ..linops.distributed import DataParallel, share_of
from ..metrics import overlap_curve
from ..solvers import Arpack, BlockLanczos, DenseEigh, EigenDecomposition, EigenSolver, SketchedEigh
from .files import LOCK, locked, read_json, write_json
from .problems import Problem
from .records import FORMAT, record_of
from .tables import reached_k
from .tracking import EigenspaceTracker, Snapshot
from .training import Checkpoint, train

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SOLVERS: dict[str, Callable[[int, int], EigenSolver]] = {
    "block-lanczos": lambda k, seed: BlockLanczos(k=k, seed=seed),
    "sketched": lambda k, seed: SketchedEigh(outer=k, seed=seed),
    "sketched-two-pass": lambda k, seed: SketchedEigh(outer=k, two_pass=True, seed=seed),
    "arpack": lambda k, seed: Arpack(k=k, seed=seed),
    "dense": lambda k, seed: DenseEigh(k=k, seed=seed),
}
"""Solvers by the name of the ``--solver`` option: functions of k and the seed."""

_COLUMNS_AT_ONCE = 32

SPLITS = {"train": ("train",), "test": ("test",), "both": ("train", "test")}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@attrs.frozen(kw_only=True)
class StudyOptions:
    """What is measured: together with the problem it determines every number of a study.

    Attributes:
        k: eigenpairs, and the largest mask.
        steps: of training.
        solver: a name in `SOLVERS`.
        exact: whether to diagonalise each Hessian densely too, and compare.
        split: ``"train"``, ``"test"`` or ``"both"``: which data the Hessian is of.
        device: where to compute, such as ``"cpu"`` or ``"cuda"``.
        dtype: ``"float32"`` or ``"float64"``.
        seed: of initialisation, data order, solver and random masks.
        data_root: a folder with the full data; None for the embedded ones.

    Raises:
        ValueError: an option that is none of its choices, or a device that is not there.
    """

    k: int
    steps: int
    solver: str = "block-lanczos"
    exact: bool = False
    split: str = "train"
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    data_root: str | None = attrs.field(default=None, converter=attrs.converters.optional(str))

    def __attrs_post_init__(self) -> None:
        for name, choices in (("solver", SOLVERS), ("split", SPLITS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}")
        for name, least in (("k", 1), ("steps", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, got {getattr(self, name)}")
        try:
            torch.zeros(1, device=self.device).item()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {self.device!r} is not there: {str(error).splitlines()[0]}") from error


class OverlapStudy:
    """Trains a network, and at steps along the way compares its largest weights with its top Hessian eigenspace.

    A folder holds the study: ``study.json`` says what it is of, ``checkpoints/`` the training, ``eigenspaces/`` and
    ``records/`` one file a step and split, ``tracking/`` how the steps compare, ``results.json`` all numbers. Each file
    appears whole or not at all, so that a run that was interrupted goes on where it stopped and loses at most the
    record it was at; a run that was finished does nothing.

    Args:
        problem: the network, its data and its training.
        options: what to measure.
        directory: where the study lives; it is made if it is not there.
        mesh: the ranks of a job that share out the data of Hessians, if any; of these the first alone trains, writes
            and reports, into a folder that all can read.

    Raises:
        ValueError: a k that is larger than the number of trainable parameters, or a folder that holds another study.
        FileNotFoundError: data that are missing.
        OSError: a folder that cannot be written.
        RuntimeError: a folder that another process is using.

    Source: arXiv 2504.14701, section 4; the stratified chance level is our own.

    Cost: that of training, and of one solve a record.
    """

    def __init__(
        self, problem: Problem, options: StudyOptions, directory: Path | str, mesh: DeviceMesh | None = None
    ) -> None:
        self.problem, self.options, self.directory, self.mesh = problem, options, Path(directory), mesh
        size = self._parameters().size
        if options.k > size:
            raise ValueError(f"k is at most the number of trainable parameters, {size}; got {options.k}")
        root = options.data_root
        self.data = problem.load(None if root is None else Path(root))
        if self.leads:
            with self._claimed():
                pass  # a folder that is closed or of another study shows before any work

    @property
    def leads(self) -> bool:
        """Whether this process is the one that trains, writes and reports."""
        return self.mesh is None or self.mesh.get_local_rank() == 0

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
            ValueError: a training that diverges, or files in the folder that are damaged or of another study.
            OSError: the folder cannot be written.
        """
        if not self.leads:
            return self._follow()
        with self._claimed():
            return self._run(progress, on_record)

    def _follow(self) -> dict[str, Any]:
        """Multiplies this rank's share in every solve of the one that leads."""
        while (work := self._announced(None)) is not None:
            self._solved(*work, progress=False)
        return {}

    def _announced(self, work: tuple[Checkpoint, str] | None) -> tuple[Checkpoint, str] | None:
        """What the leading rank is to solve next, known to all; None if it has solved all."""
        if self.mesh is None:
            return work
        said = [work]
        torch.distributed.broadcast_object_list(said, group=self.mesh.get_group(), group_src=0)
        return said[0]

    def _run(self, progress: bool, on_record: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        checkpoints = train(
            self.problem,
            self.data,
            self.directory / "checkpoints",
            steps=self.options.steps,
            record_every=self.problem.record_every,
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
        write_json(results, self.directory / "results.json")
        return results

    def results(self) -> dict[str, Any]:
        """All records so far, with what they are of, as plain data."""
        shapes = self._parameters().shapes
        return {
            "study": self.problem.name,
            "title": self.problem.title,
            "description": self.data.description,
            "attribution": self.data.attribution,
            "options": attrs.asdict(self.options),
            "environment": self._environment(),
            "parameters": {"names": list(shapes), "sizes": [shape.numel() for shape in shapes.values()]},
            "table_k": reached_k(self.problem.table_k, self.options.k),
            "records": list(self._records()),
        }

    def _parameters(self) -> ParameterSpace:
        """The parameters that the Hessian is of, at values of no interest."""
        with untouched_random_state(torch.device("cpu")):
            return ParameterSpace(self.problem.model())

    def _environment(self) -> dict[str, str]:
        device = torch.device(self.options.device)
        return {
            "eigenspan": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": str(torch.get_num_threads()),
            **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        }

    # -- records ------------------------------------------------------------------------------------------------------

    def _record(self, checkpoint: Checkpoint, split: str, progress: bool) -> dict[str, Any]:
        path = self._path(checkpoint.step, split)
        if path.exists():
            return self._read_step(path)
        self._announced((checkpoint, split))
        record = {"step": checkpoint.step, "split": split, **self._measure(checkpoint, split, progress)}
        write_json({"of": self._identity(), **record}, path)
        return record

    def _records(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self.directory / "records").glob("*.json")):
            yield self._read_step(path)

    def _read_step(self, path: Path) -> dict[str, Any]:
        """A record, in the file of its own step and split: a copy under another name would count twice."""
        record = self._read_record(path)
        step, split = record.get("step"), record.get("split")
        if not isinstance(step, int) or path != self._path(step, str(split)):
            raise ValueError(f"{path} is not the record of its step, but of step {step}, {split} data: remove it")
        return record

    def _read_record(self, path: Path) -> dict[str, Any]:
        record = read_json(path)
        if record.pop("of", None) != self._identity():
            raise ValueError(f"{path} is not a record of this study: remove it, and it is measured anew")
        return record

    def _path(self, step: int, split: str) -> Path:
        """The file of the record at a step."""
        return self.directory / "records" / f"{step:08d}-{split}.json"

    def _eigenspace(self, step: int, split: str) -> Path:
        """The file of the eigenpairs at a step."""
        return self.directory / "eigenspaces" / f"{step:08d}-{split}.npz"

    def _tracking(self, checkpoints: Sequence[Checkpoint], split: str) -> dict[str, Any]:
        """The eigenspaces and masks of all steps beside one another: see `EigenspaceTracker.to_dict`."""
        path = self.directory / "tracking" / f"{split}.json"
        if path.exists():
            return self._read_record(path)
        tracker = EigenspaceTracker(SOLVERS[self.options.solver](self.options.k, self.options.seed))
        for checkpoint in checkpoints:
            eig = self._recorded_eigenpairs(checkpoint.step, split)
            H = self._hessian(checkpoint, self.data.hessian[split])
            tracker.add(Snapshot(checkpoint.step, eig, {"magnitude": magnitude(H.parameters)}, H.gradient()))
        found = tracker.to_dict(reached_k(self.problem.table_k, self.options.k))
        write_json({"of": self._identity(), **found}, path)
        return self._read_record(path)

    def _recorded_eigenpairs(self, step: int, split: str) -> EigenDecomposition:
        """The eigenpairs that the record at a step is of."""
        file, record = self._eigenspace(step, split), self._path(step, split)
        remedy = f"remove {record}, and both are made anew"
        try:
            eig = EigenDecomposition.load(file, self.options.device)
        except FileNotFoundError as error:
            raise ValueError(f"{file} is missing: {remedy}") from error
        except ValueError as error:
            raise ValueError(f"{error}: {remedy}") from error
        if eig.eigenvalues.tolist() != self._read_step(record)["eigenvalues"]:
            raise ValueError(f"{file} has other eigenvalues than the record of its step: {remedy}")
        return eig

    def _shared_hessian(self, checkpoint: Checkpoint, split: str) -> Hessian | DataParallel:
        """The Hessian, of which each rank has a share of the data."""
        data = self.data.hessian[split]
        if self.mesh is None:
            return self._hessian(checkpoint, data)
        return DataParallel(self._hessian(checkpoint, share_of(data, self.mesh)), self.mesh)

    def _hessian(self, checkpoint: Checkpoint, data: tuple[Tensor, Tensor]) -> Hessian:
        model = checkpoint.restore(self.problem, self.data, device=self.options.device)
        dtype = DTYPES[self.options.dtype]
        inputs, targets = data
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        # A plan that is given, not found by a timed trial: a study that is run again has the same numbers to the bit.
        return Hessian(
            model,
            self.problem.loss,
            (inputs, targets),
            engine="linearised",
            chunk_size=_COLUMNS_AT_ONCE,
            micro_batch_size=len(targets),
        )

    def _solved(
        self, checkpoint: Checkpoint, split: str, progress: bool
    ) -> tuple[Hessian | DataParallel, float, EigenDecomposition, EigenDecomposition | None]:
        """The Hessian, its loss and its leading pairs, and those of a dense one if they are asked for."""
        H = self._shared_hessian(checkpoint, split)
        eig = SOLVERS[self.options.solver](self.options.k, self.options.seed).solve(H, progress=progress)
        if len(eig.eigenvalues) < self.options.k:
            raise RuntimeError(f"{eig!r}: {eig.report.status.value}")
        return H, H.loss(), eig, DenseEigh(k=self.options.k).solve(H) if self.options.exact else None

    def _measure(self, checkpoint: Checkpoint, split: str, progress: bool) -> dict[str, Any]:
        H, loss, eig, exact = self._solved(checkpoint, split, progress)
        eig.save(self._eigenspace(checkpoint.step, split))
        record = {
            "loss": loss,
            **record_of(H, eig, reached_k(self.problem.table_k, self.options.k), self.options.seed),
            "report": eig.report.to_dict() | {"status_text": eig.report.status.value, "seconds": eig.report.seconds},
        }
        if exact is None:
            return record
        overlaps = overlap_curve(eig.subspace, exact.subspace)  # how much of the leading eigenspaces was found
        return record | {"exact": {"eigenvalues": exact.eigenvalues.tolist(), "subspace_overlap": overlaps.tolist()}}

    # -- the folder ---------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "study": self.problem.name,
            "eigenspan": __version__,
            "record format": FORMAT,
            **attrs.asdict(self.options),
        }

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        """Within it the folder is this study's, unless it holds another one, and no other process's."""
        with contextlib.ExitStack() as stack:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.directory))
                self._refuse_others()
                write_json(self._identity(), self.directory / "study.json")  # of an old study too: can it be written?
                for folder in ("records", "eigenspaces", "tracking"):
                    (self.directory / folder).mkdir(exist_ok=True)
            except OSError as error:
                raise OSError(
                    f"{self.directory} cannot be written ({error.strerror or error}): choose another folder"
                ) from error
            yield

    def _refuse_others(self) -> None:
        path = self.directory / "study.json"
        if path.exists():
            # Without the file nothing says what the folder is of: it cannot be made anew.
            found, wanted = read_json(path, "choose another folder"), self._identity()
            changed = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
            if changed:
                differences = ", ".join(f"{name} {found.get(name)} -> {wanted.get(name)}" for name in sorted(changed))
                raise ValueError(
                    f"{self.directory} holds another study ({differences}); results do not mix: "
                    "choose another folder, or run with the options it was made with"
                )
        elif any(file.name != LOCK and file.suffix != ".partial" for file in self.directory.iterdir()):
            raise ValueError(f"{self.directory} is not empty and holds no study: choose another folder")
