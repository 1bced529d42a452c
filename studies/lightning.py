"""Curvature recorded during a training by Lightning."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ImportError('this callback needs Lightning: pip install "eigenspan[lightning]"') from error

from .recorder import CurvatureRecorder
from .schedule import ScheduledRecorder


class CurvatureCallback(Callback):  # type: ignore[misc]
    """Records spectrum, masks and overlaps at steps of a training, and writes a report when it ends, by an error too.

    Steps are those of the optimisers, ``trainer.global_step``. In a job of many processes the first one records, while
    the others wait for it in their next step: keep ``seconds`` below the timeout of the job. Modules whose parameters
    are spread over ranks, as by FSDP, are not recorded.

    Args:
        loss: of (output of ``module(inputs)``, targets), or an `Objective` of module and batch.
        data: a batch or a re-iterable of batches whose loss is decomposed, see `Hessian`.
        directory: where records and report go.
        every: records at step 0 and after every so many steps.
        steps: or at these.
        options: see `CurvatureRecorder`: k, parameters, seconds, seed, split, name.

    Raises:
        ValueError: neither or both of ``every`` and ``steps``, or other values out of range.
        TypeError: data that can be gone through only once.

    Cost: see `CurvatureRecorder`.
    """

    def __init__(
        self,
        loss: Any,
        data: Any,
        directory: str | os.PathLike[str],
        *,
        every: int | None = None,
        steps: Collection[int] | None = None,
        **options: Any,
    ) -> None:
        self._recorder = ScheduledRecorder(
            CurvatureRecorder(loss, data, directory, **options), every=every, steps=steps
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claims the folder, and records the first step."""
        if trainer.is_global_zero:
            self._recorder.begin(trainer.model, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records, if the step is one of those."""
        if trainer.is_global_zero:
            self._recorder.after(trainer.model, trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes results and report of what was recorded before an error or an interruption."""
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes results and report."""
        if trainer.is_global_zero:
            self._recorder.end()
