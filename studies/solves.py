"""All that is solved for at a step of a study, on every rank of a job alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import nn

from ..linops import GGN, Hessian
from ..linops.distributed import DataParallel, share_of
from ..solvers import DenseEigh, EigenDecomposition
from .comparisons import COMPARED_K, layer_eigenpairs
from .options import DTYPES, SPLIT_NAMES, SPLITS, StudyOptions
from .problem import Operator, Problem, ProblemData
from .training import Checkpoint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@attrs.frozen(kw_only=True)
class StepSolves:
    """What was found at a step.

    Attributes:
        H: the Hessian.
        loss: at the point.
        eig: its leading eigenpairs.
        exact: those of the dense matrix, if they were asked for.
        others: those of other operators by name, if they were asked for.
        layers: those of single tensors by name, likewise.
    """

    H: Hessian | DataParallel
    loss: float
    eig: EigenDecomposition
    exact: EigenDecomposition | None
    others: dict[str, EigenDecomposition]
    layers: dict[str, EigenDecomposition]


@attrs.frozen
class StepSolver:
    """Solves for what the options of a study ask for, at any of its steps.

    Attributes:
        problem: of the study.
        options: what to solve for.
        data: of the problem.
        mesh: the ranks that share out the data of every operator; None for this process alone.
    """

    problem: Problem
    options: StudyOptions
    data: ProblemData
    mesh: DeviceMesh | None = None

    def solve(self, checkpoint: Checkpoint, split: str, folder: Path, progress: bool) -> StepSolves:
        """All of it, for the network at a step and the data of a split.

        Args:
            checkpoint: the network, with its losses as they were in training.
            split: of the data.
            folder: where products are kept, from which an interrupted solve goes on; in a job the first rank's.
            progress: whether to show bars.

        Raises:
            ValueError: a Hessian of another loss than the checkpoint had.
            RuntimeError: a solver that found fewer than k pairs.
        """
        options = self.options
        model = checkpoint.restore(self.problem, self.data, device=options.device)
        H = self.operator(Hessian, model, split)
        loss = H.loss()
        checkpoint.require_losses({split: loss}, H.dtype)
        eig = options.eigensolver().solve(H, progress=progress, checkpoint=folder / "hessian")
        if len(eig.eigenvalues) < options.k:
            raise RuntimeError(f"{eig!r}: {eig.report.ending}")
        return StepSolves(
            H=H,
            loss=loss,
            eig=eig,
            exact=DenseEigh(k=options.k).solve(H) if options.exact else None,
            others=self._others(model, split, folder, progress) if options.compare else {},
            layers=layer_eigenpairs(H, options.seed, progress, folder / "layers") if options.compare else {},
        )

    def operator(self, kind: type[Operator], model: nn.Module, split: str) -> Operator | DataParallel:
        """The Hessian or GGN on the data of a split, of which each rank has a share."""
        samples, targets = self.data.hessian[split]
        batch = (samples if isinstance(samples, torch.Tensor) else samples[torch.arange(len(targets))], targets)
        dtype = DTYPES[self.options.dtype]
        if self.mesh is None:
            return self.problem.operator(kind, model, batch, dtype)
        return DataParallel(self.problem.operator(kind, model, share_of(batch, self.mesh), dtype), self.mesh)

    def _others(self, model: nn.Module, split: str, folder: Path, progress: bool) -> dict[str, EigenDecomposition]:
        """The leading eigenpairs of the GGN, and of the Hessian on the other data."""
        solver = self.options.eigensolver(COMPARED_K)
        (other,) = set(SPLITS["both"]) - {split}
        operators = {
            "GGN": self.operator(GGN, model, split),
            f"Hessian on {SPLIT_NAMES[other]} data": self.operator(Hessian, model, other),
        }
        return {
            name: solver.solve(operator, progress=progress, checkpoint=folder / name.lower().replace(" ", "-"))
            for name, operator in operators.items()
        }
