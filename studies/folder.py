"""The folder of a study: what it is of, and one file for each record and its eigenpairs."""

from __future__ import annotations

import contextlib
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import torch
from torch import Tensor

from .. import __version__
from ..linops.files import read_json, write_json
from ..solvers import EigenDecomposition
from .lock import LOCK, locked
from .records import FORMAT
from .tensor_files import read_tensors, require_checksums, write_tensors


@attrs.frozen
class StudyFolder:
    """Files by step and split, which belong to one study. Each appears whole or not at all.

    ``study.json`` says what the folder is of, ``eigenspaces/`` and ``records/`` have one file a step and split,
    ``tracking/`` one a split, ``results.json`` has all numbers.

    Attributes:
        directory: where it is; it is made when it is claimed.
        of: what determines the numbers of the study, as plain data; a folder with another one is refused.
    """

    directory: Path
    of: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What the folder is of, and what wrote it."""
        return {"eigenspan": __version__, "record format": FORMAT, **self.of}

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Within it the folder is this study's, unless it holds another one, and no other process's.

        Raises:
            ValueError: the folder holds another study, or something else.
            OSError: it cannot be written.
            RuntimeError: another process is using it.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.directory))
                self._refuse_others()
                write_json(self.identity, self.directory / "study.json")  # of an old study too: can it be written?
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
            found, wanted = read_json(path, "choose another folder"), self.identity
            changed = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
            if changed:
                differences = ", ".join(f"{name} {found.get(name)} -> {wanted.get(name)}" for name in sorted(changed))
                raise ValueError(
                    f"{self.directory} holds another study ({differences}); results do not mix: "
                    "choose another folder, or run with the options it was made with"
                )
        elif any(file.name != LOCK and file.suffix != ".partial" for file in self.directory.iterdir()):
            raise ValueError(f"{self.directory} is not empty and holds no study: choose another folder")

    # -- records ------------------------------------------------------------------------------------------------------

    def write_record(self, record: dict[str, Any]) -> None:
        """Keeps a record, with its step and split; what is unfinished of it goes."""
        step, split = record["step"], record["split"]
        write_json({"of": self.identity, **record}, self._record(step, split))
        shutil.rmtree(self.unfinished(step, split), ignore_errors=True)

    def record(self, step: int, split: str) -> dict[str, Any] | None:
        """The record of a step and split; None if there is none yet."""
        path = self._record(step, split)
        return self._read_step(path) if path.exists() else None

    def records(self) -> Iterator[dict[str, Any]]:
        """All that there are, by step."""
        for path in sorted((self.directory / "records").glob("*.json")):
            yield self._read_step(path)

    def _read_step(self, path: Path) -> dict[str, Any]:
        """A record, in the file of its own step and split: a copy under another name would count twice."""
        record = self._read(path)
        step, split = record.get("step"), record.get("split")
        if not isinstance(step, int) or path != self._record(step, str(split)):
            raise ValueError(f"{path} is not the record of its step, but of step {step}, {split} data: remove it")
        return record

    def _read(self, path: Path) -> dict[str, Any]:
        record = read_json(path)
        if record.pop("of", None) != self.identity:
            raise ValueError(f"{path} is not a record of this study: remove it, and it is measured anew")
        return record

    def write_tracking(self, found: dict[str, Any], split: str) -> dict[str, Any]:
        """Keeps how the steps of a split compare, and gives what will be read of it."""
        write_json({"of": self.identity, **found}, self._tracking(split))
        return self._read(self._tracking(split))

    def tracking(self, split: str) -> dict[str, Any] | None:
        """How the steps of a split compare; None if that is not there yet."""
        path = self._tracking(split)
        return self._read(path) if path.exists() else None

    # -- eigenpairs ---------------------------------------------------------------------------------------------------

    def write_eigenpairs(
        self, step: int, split: str, eig: EigenDecomposition, layers: Mapping[str, EigenDecomposition] | None = None
    ) -> None:
        """Keeps the eigenpairs that a record is of, and those of single tensors by name."""
        eig.save(self._eigenspace(step, split))
        for name, layer in (layers or {}).items():
            self._layers(step, split).mkdir(exist_ok=True)
            layer.save(self._layer(step, split, name))

    def eigenpairs(self, step: int, split: str, device: str = "cpu") -> EigenDecomposition:
        """The eigenpairs that the record of a step is of; on a CPU their vectors stay in the file.

        Raises:
            ValueError: a file that is missing, damaged or of another record.
        """
        file = self._eigenspace(step, split)
        eig, record = self._loaded(file, step, split, device), self.record(step, split)
        if record is None or eig.eigenvalues.tolist() != record["eigenvalues"]:
            raise ValueError(f"{file} has other eigenvalues than the record of its step: {self._remedy(step, split)}")
        return eig

    def layers(self, step: int, split: str, names: Iterable[str], device: str = "cpu") -> dict[str, EigenDecomposition]:
        """The eigenpairs of single tensors that were kept with the record of a step.

        Raises:
            ValueError: a file that is missing or damaged.
        """
        return {name: self._loaded(self._layer(step, split, name), step, split, device) for name in names}

    def write_point(self, step: int, split: str, **tensors: Tensor) -> None:
        """Keeps what else a comparison of steps takes, for a record whose network is not kept."""
        write_tensors({name: tensor.cpu() for name, tensor in tensors.items()}, self._point(step, split))

    def point(self, step: int, split: str) -> dict[str, Tensor]:
        """The tensors that `write_point` kept, by name.

        Raises:
            ValueError: a file that is missing or damaged.
        """
        path, remedy = self._point(step, split), self._remedy(step, split)
        try:
            return read_tensors(path, remedy)
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing: {remedy}") from error

    def _loaded(self, file: Path, step: int, split: str, device: str) -> EigenDecomposition:
        remedy = self._remedy(step, split)
        try:
            require_checksums(file)  # which mapped numbers are not read by
            return EigenDecomposition.load(file, device, mmap=torch.device(device).type == "cpu")
        except FileNotFoundError as error:
            raise ValueError(f"{file} is missing: {remedy}") from error
        except (ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file} cannot be loaded ({error}): {remedy}") from error

    def _remedy(self, step: int, split: str) -> str:
        return f"remove {self._record(step, split)}, and both are made anew"

    # -- paths --------------------------------------------------------------------------------------------------------

    def _record(self, step: int, split: str) -> Path:
        return self.directory / "records" / f"{step:08d}-{split}.json"

    def _eigenspace(self, step: int, split: str) -> Path:
        return self.directory / "eigenspaces" / f"{step:08d}-{split}.npz"

    def _point(self, step: int, split: str) -> Path:
        return self.directory / "eigenspaces" / f"{step:08d}-{split}-point.pt"

    def _layers(self, step: int, split: str) -> Path:
        return self.directory / "eigenspaces" / f"{step:08d}-{split}-layers"

    def _layer(self, step: int, split: str, name: str) -> Path:
        return self._layers(step, split) / f"{quote(name, safe='')}.npz"  # a tensor may have a slash in its name

    def _tracking(self, split: str) -> Path:
        return self.directory / "tracking" / f"{split}.json"

    def unfinished(self, step: int, split: str) -> Path:
        """The folder of the products of a record that is not there yet."""
        return self.directory / "unfinished" / f"{step:08d}-{split}"
