"""The options of a study, and the choices that some of them have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch

from ..solvers import Arpack, BlockLanczos, DenseEigh, EigenSolver, SketchedEigh, Storage
from ..solvers.parameters import as_int, int_or_none, require_integer
from ..solvers.storage import DEVICE
from .problem import DataRequest, Problem


def _block_lanczos(k: int, storage: str | None = None, **options: Any) -> BlockLanczos:
    """With a storage of its own it restarts before it keeps more than 3 k vectors, of which 2.5 k are needed as a rule.

    A disk must have room for all that may come, and by itself the solver may keep 10 k.
    """
    if storage is None:
        return BlockLanczos(k=k, **options)
    most = BlockLanczos(k=k)._most_vectors  # as many products as without
    return BlockLanczos(k=k, storage=storage, max_basis=max(500, 3 * k), max_products=most, **options)


SOLVERS: dict[str, Callable[..., EigenSolver]] = {
    "block-lanczos": _block_lanczos,
    "sketched": lambda k, **options: SketchedEigh(outer=k, **options),
    "sketched-two-pass": lambda k, **options: SketchedEigh(outer=k, two_pass=True, **options),
    "arpack": Arpack,
    "dense": DenseEigh,
}
"""Solvers by the name of the ``--solver`` option: functions of k and the seed, by name."""
STORING = ("block-lanczos", "sketched-two-pass")
"""Those of them that take another storage than the memory of the device."""

SPLITS = {"train": ("train",), "test": ("test",), "both": ("train", "test")}
SPLIT_NAMES = {"train": "training", "test": "test"}
"""Splits in words."""
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def own_choices(problem: Problem, weights: object, solver: object) -> dict[str, Any]:
    """The options that a problem chooses where they are left out, with or without given weights, by that solver."""
    return {
        "k": problem.k,
        "steps": problem.steps if weights is None else 0,
        "split": problem.split,
        "compare": problem.compare,
        "storage": problem.storage if solver in STORING else DEVICE.kind,
    }


def require_device(device: str) -> None:
    """That it can be computed there.

    Raises:
        ValueError: it cannot.
    """
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is not there: {str(error).splitlines()[0]}") from error


def _path(path: str | os.PathLike[str] | None) -> str | None:
    """A path that is the same wherever a study goes on."""
    return None if path is None else str(Path(path).resolve())


def _name(value: object) -> object:
    """The name of a dtype or a device that PyTorch has an object for; all else as it is."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | torch.device) else value


@attrs.frozen(kw_only=True)
class StudyOptions:
    """What is measured: together with the problem it determines every number of a study.

    Attributes:
        k: eigenpairs, and the largest mask.
        steps: of training.
        solver: a name in `SOLVERS`.
        exact: whether to diagonalise each Hessian densely too, and compare.
        split: ``"train"``, ``"test"`` or ``"both"``: which data the Hessian is of.
        device: where to compute, such as ``"cpu"`` or ``"cuda"``; a `torch.device` becomes its name.
        dtype: ``"float32"`` or ``"float64"``; a `torch.dtype` becomes its name.
        compare: whether to compare each eigenspace with that of the GGN and of the Hessian on the other data, and the
            steps layer by layer too, which takes some three times the products.
        storage: where the solver keeps its basis: ``"device"``, as solvers do by themselves, ``"host"``, ``"disk"``, in
            the folder of temporary files, or ``"auto"``, the first with room.
        seed: of initialisation, data order, solver and random masks.
        data: where they come from, a name in `Problem.sources`; None for what the problem and ``data_root`` say.
        data_root: a folder with the full data.
        hessian_samples: how many samples the Hessian is of; None for the problem's.
        image_size: pixels a side of generated images; None for the problem's.
        weights: a file with the state dict of a trained network to begin with; None for random values.

    Raises:
        TypeError: numbers that are no integers.
        ValueError: an option that is none of its choices, a device that is not there, or steps from given weights.
    """

    k: int = attrs.field(converter=as_int)
    steps: int = attrs.field(converter=as_int)
    solver: str = "block-lanczos"
    exact: bool = False
    split: str = "train"
    device: str = attrs.field(default="cpu", converter=_name)
    dtype: str = attrs.field(default="float32", converter=_name)
    compare: bool = True
    storage: str = DEVICE.kind
    seed: int = attrs.field(default=0, converter=as_int)
    data: str | None = None
    data_root: str | None = attrs.field(default=None, converter=_path)
    hessian_samples: int | None = attrs.field(default=None, converter=int_or_none)
    image_size: int | None = attrs.field(default=None, converter=int_or_none)
    weights: str | None = attrs.field(default=None, converter=_path)

    @classmethod
    def of(cls, problem: Problem, **given: Any) -> StudyOptions:
        """The options of a study of a problem, as the command line has them.

        Args:
            problem: the problem, whose own choices take the place of k, steps, split, compare and storage that are not
                given, or None.
            **given: options by name.

        Raises:
            TypeError: as `StudyOptions`.
            ValueError: as `StudyOptions`.

        Cost: none.
        """
        choices = own_choices(problem, given.get("weights"), given.get("solver", attrs.fields(cls).solver.default))
        return cls(**{**given, **{name: own for name, own in choices.items() if given.get(name) is None}})

    def __attrs_post_init__(self) -> None:
        for name, choices in (("solver", SOLVERS), ("split", SPLITS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}")
        for name, least in (("k", 1), ("steps", 0), ("seed", 0)):
            require_integer(name, getattr(self, name), least)
        Storage(self.storage)  # refuses a kind that is none
        if self.storage != DEVICE.kind and self.solver not in STORING:
            raise ValueError(f"a storage is for {' and '.join(STORING)}; got solver {self.solver!r}")
        if self.weights is not None and self.steps > 0:
            raise ValueError(f"weights are those of a trained network, which takes 0 steps; got {self.steps}")
        require_device(self.device)

    def eigensolver(self, most: int | None = None) -> EigenSolver:
        """The solver for k pairs, or for ``most`` of them.

        Cost: none.
        """
        k = self.k if most is None else min(most, self.k)
        storage = {} if self.storage == DEVICE.kind else {"storage": self.storage}
        return SOLVERS[self.solver](k=k, seed=self.seed, **storage)

    def data_request(self) -> DataRequest:
        """The data that a study with these options needs; comparisons take those of both splits.

        Cost: none.
        """
        return DataRequest(
            source=self.data,
            root=None if self.data_root is None else Path(self.data_root),
            hessian_samples=self.hessian_samples,
            image_size=self.image_size,
            seed=self.seed,
            splits=SPLITS["both" if self.compare else self.split],
            training=self.steps > 0,
        )
