"""What a study runs on: a network, its data, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import attrs
import torch
from torch import Tensor, nn

from ..linops import GGN, Hessian, Loss
from ..linops.curvature.guards import untouched_random_state
from ..linops.curvature.loss import as_loss, loss_in
from .images import Images, Samples, decoded_once
from .states import State, digest_of, listed, load_state, read_state
from .tables import reached_k

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, one row a sample."""
Operator = TypeVar("Operator", Hessian, GGN)
_MOST_RECORDS = 100_000


@attrs.frozen(kw_only=True)
class DataRequest:
    """Which data of a problem are wanted; None stands for what the problem has by itself, see `Problem.resolved`.

    Attributes:
        source: a name in `Problem.sources`.
        root: the folder with the full data.
        hessian_samples: how many samples each Hessian batch has.
        image_size: pixels a side of generated images.
        seed: of generated images.
        splits: which Hessian batches are wanted.
        training: whether training data are.
    """

    source: str | None = None
    root: Path | None = None
    hessian_samples: int | None = None
    image_size: int | None = None
    seed: int = 0
    splits: tuple[str, ...] = ("train", "test")
    training: bool = True


@attrs.frozen
class ProblemData:
    """The data of a problem, on the CPU: inputs float32, targets int64.

    Attributes:
        train: what SGD sees; inputs that are no tensor are made anew for each step.
        hessian: the batch whose loss is decomposed, for each split wanted, of ``"train"`` and ``"test"``.
        description: of the data, in words.
        attribution: whose data they are, and under which licence.
        warning: what must be known of them wherever results are shown, for the title of every figure.
    """

    train: tuple[Samples, Tensor]
    hessian: Mapping[str, tuple[Samples, Tensor]]
    description: str
    attribution: str = ""
    warning: str = ""

    def kept(self, directory: Path, *, progress: bool = False) -> ProblemData:
        """The same data with all Hessian batches as tensors: images are decoded once into files in the directory.

        Args:
            directory: where the files are, or are to be.
            progress: whether to show a bar that counts images.

        Raises:
            OSError: the directory cannot be written, or images cannot be read.
            ValueError: damaged images, or files in the directory that are damaged or of other images.

        Cost: the first time every image is decoded, later the files are read once; none for tensors.
        """
        batches = {}
        for split, (inputs, targets) in self.hessian.items():
            if isinstance(inputs, Images):
                inputs = decoded_once(inputs, directory / split, progress=progress)
            batches[split] = inputs, targets
        return attrs.evolve(self, hessian=batches)


@attrs.frozen(kw_only=True)
class HessianPlan:
    """How Hessian products are computed: given, not found by a timed trial, so that numbers are the same to the bit.

    Attributes:
        engine: see `CurvatureOperator`; None leaves it, and what else is not given, to a trial.
        micro_batch_size: the most samples to process at once, in losses too; None for all.
        chunk_size: columns to multiply at once.
        memory_budget: bytes that products may take; None for a quarter of what is free.
    """

    engine: str | None = "linearised"
    micro_batch_size: int | None = None
    chunk_size: int = 32
    memory_budget: int | None = None


@attrs.frozen(kw_only=True)
class Problem:
    """A training problem: everything but the seed, the dtype and the device.

    Attributes:
        name: what to call it by.
        title: for reports.
        model: makes the network, randomly initialised from PyTorch's global random state, in training mode.
        loss: of (output, targets), with its weight, see `Loss`.
        sources: where data may come from, by name, as functions of a resolved request. ``"folder"`` is that of
            ``--data-root``, ``"fake"`` makes images up. The first one is the default.
        layout: which files a folder has, in words.
        fetch: puts them into a folder from the network; None where they are not public, or come with the library.
        optimizer: of parameters.
        batch_size: of SGD.
        steps: of training.
        record_every: so many steps, a checkpoint.
        k: the dimension of the largest eigenspace and mask.
        table_k: the dimensions to print, see `dimensions`.
        split: which data the Hessian is of.
        hessian_samples: in each Hessian batch; None where that cannot be chosen.
        image_size: pixels a side of generated images; None where there are none.
        plan: of Hessian products.
        compare: whether eigenspaces are compared with others unless the user says; see `StudyOptions`.
        storage: where a basis is kept unless the user says, likewise.
        weights: the file that the network's values come from, in words; empty for random ones.
        checkpoints: states of the network by step, in the place of training; None where it is trained.
        losses: what is known of their losses on the data of ``split``, by step.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor] | Loss
    sources: Mapping[str, Callable[[DataRequest], ProblemData]]
    layout: str = ""
    fetch: Callable[[Path], None] | None = None
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    steps: int
    record_every: int
    k: int
    table_k: tuple[int, ...]
    split: str = "train"
    hessian_samples: int | None = None
    image_size: int | None = None
    plan: HessianPlan = HessianPlan()
    compare: bool = True
    storage: str = "device"
    weights: str = ""
    checkpoints: Mapping[int, State] | None = None
    losses: Mapping[int, float] = attrs.field(factory=dict)
    _digests: dict[int, str] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def digest_at(self, step: int) -> str:
        """Digits that tell the given checkpoint of a step from others.

        Args:
            step: that has one.

        Raises:
            OSError: its file cannot be read.

        Cost: its bytes, read when first asked for.
        """
        if step not in self._digests:
            assert self.checkpoints is not None
            self._digests[step] = digest_of(self.checkpoints[step])
        return self._digests[step]

    def recorded(self, steps: int) -> list[int]:
        """The steps of a study of so many that have a record, in rising order.

        Args:
            steps: of the study.

        Raises:
            ValueError: no given checkpoint is of such a step, or more records than any study has.

        Cost: none.
        """
        if self.checkpoints is None:
            if steps // self.record_every > _MOST_RECORDS:
                raise ValueError(
                    f"{steps:,} steps, with a record every {self.record_every:,}, are {steps // self.record_every:,} "
                    f"records: take fewer steps, for {_MOST_RECORDS:,} records at most"
                )
            return sorted({*range(0, steps, self.record_every), steps})
        found = [step for step in sorted(self.checkpoints) if step <= steps]
        if not found:
            raise ValueError(f"{self.name} has checkpoints of the steps {sorted(self.checkpoints)}, all beyond {steps}")
        return found

    def dimensions(self, k: int) -> list[int]:
        """The dimensions to print of a study of k pairs: those of ``table_k`` up to there, and k if nobody foresaw it.

        Args:
            k: of the study.

        Cost: none.
        """
        return reached_k((*self.table_k, k) if k > self.k else self.table_k, k)

    def loss_in(self, dtype: torch.dtype, device: torch.device | str) -> Loss:
        """The loss, with tensors of its own such as class weights in a dtype and on a device.

        Cost: a copy of these tensors.
        """
        found = as_loss(loss_in(self.loss, dtype, device))
        assert isinstance(found, Loss)  # an Objective has no output to train by
        return found

    def operator(self, kind: type[Operator], model: nn.Module, batch: Batch, dtype: torch.dtype) -> Operator:
        """The Hessian or GGN of a network's loss on one batch, by the problem's own plan.

        Args:
            kind: `Hessian` or `GGN`.
            model: the network.
            batch: (inputs, targets).
            dtype: in which to compute.

        Cost: that of the operator: see `Risk`.
        """
        inputs, targets = batch
        fixed = self.plan.engine is not None
        return kind(
            model,
            self.loss_in(dtype, next(model.parameters()).device),
            (converted(inputs, dtype), converted(targets, dtype)),
            engine=self.plan.engine,
            chunk_size=self.plan.chunk_size if fixed else None,
            micro_batch_size=self.plan.micro_batch_size or (len(targets) if fixed else None),
            memory_budget=self.plan.memory_budget,
        )

    def default_source(self, root: Path | None) -> str:
        """Where data come from that are not named: from the folder of ``--data-root``, if any, or the first source.

        Cost: none.
        """
        return "folder" if root is not None and "folder" in self.sources else next(iter(self.sources))

    def resolved(self, request: DataRequest) -> DataRequest:
        """The request with the problem's own choices in the place of None.

        Raises:
            ValueError: a request that this problem cannot meet.

        Cost: none.
        """
        source = self.default_source(request.root) if request.source is None else request.source
        if source not in self.sources:
            raise ValueError(f"the data of {self.name} are one of {', '.join(self.sources)}; got {source!r}")
        if source == "folder" and request.root is None:
            others = "" if self.fetch is None else " which --download fills,"
            others += "".join(f" or --data {name}" for name in self.sources if name != "folder")
            raise ValueError(f"{self.name} needs --data-root, {self.layout}{others}")
        if source != "folder" and request.root is not None:
            raise ValueError(f"--data {source} has no use for --data-root {request.root}: leave out one of them")
        if request.hessian_samples is not None and self.hessian_samples is None:
            raise ValueError(f"the Hessian of {self.name} is of fixed samples: leave out the number of them")
        if request.hessian_samples is not None and request.hessian_samples < 1:
            raise ValueError(f"the Hessian is of at least 1 sample, got {request.hessian_samples}")
        if request.image_size is not None and (source != "fake" or request.image_size < 32):
            raise ValueError(
                f"the image size is that of generated images (--data fake), at least 32; got {request.image_size} for "
                f"the data {source!r}"
            )
        if request.image_size is not None and self.image_size is None:
            raise ValueError(f"the network of {self.name} takes images of one size: leave out the image size")
        size = self.image_size if source == "fake" and request.image_size is None else request.image_size
        samples = self.hessian_samples if request.hessian_samples is None else request.hessian_samples
        return attrs.evolve(request, source=source, hessian_samples=samples, image_size=size)

    def load(self, request: DataRequest) -> ProblemData:
        """The data.

        Args:
            request: resolved or not.

        Raises:
            ValueError: see `resolved`; data that are damaged, or too few.
            OSError: data that are missing or cannot be read.

        Cost: that of reading them.
        """
        request = self.resolved(request)
        return self.sources[str(request.source)](request)

    def with_weights(self, path: Path) -> Problem:
        """The same problem with a network that begins at the values in a file, a state dict with all buffers.

        Args:
            path: of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no state dict, or one of another network.

        Cost: memory for another copy of the network.
        """
        expected = (
            f"expected a state dict of the network of {self.name}, as torch.save(model.state_dict(), path) writes"
        )
        if self.checkpoints is not None:
            raise ValueError(f"{self.name} has the values of given checkpoints: leave out the weights of {path}")
        state, digest = read_state(path, expected), digest_of(path)

        def model() -> nn.Module:
            network = self.model()
            try:
                lacking = load_state(network, state, str(path))
            except ValueError as error:
                raise ValueError(f"{error}; {expected}") from error
            if lacking:
                raise ValueError(f"{path} lacks the buffers {listed(lacking)}: {expected}")
            return network

        with untouched_random_state(torch.device("cpu")):
            model()  # what does not fit shows at once
        weights = f"weights of {path.name}, SHA-256 {digest}"
        return attrs.evolve(self, model=model, title=f"{self.title}, pre-trained", weights=weights)


def converted(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating-point numbers in a dtype; classes, tokens and the like as they are."""
    return numbers.to(dtype) if numbers.is_floating_point() else numbers


def balanced(targets: Tensor, count: int) -> Tensor:
    """The indices of the first samples of each class, (count,) in rising order; the lower classes have one more.

    Args:
        targets: the class of each sample, (N,).
        count: how many indices; those of a class are as many as of any other, or one more.

    Raises:
        ValueError: a class that has too few.
    """
    classes, chosen = torch.unique(targets), []
    for place, label in enumerate(classes):
        wanted = count // len(classes) + (place < count % len(classes))
        indices = (targets == label).nonzero()[:wanted, 0]
        if len(indices) < wanted:
            raise ValueError(f"expected at least {wanted} samples of class {int(label)}, got {len(indices)}")
        chosen.append(indices)
    return torch.cat(chosen).sort().values
