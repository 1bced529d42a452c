"""Curvature recorded during a training by the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ImportError('this callback needs transformers: pip install "eigenspan[transformers]"') from error

import torch
from torch import Tensor, nn

from ..linops import Objective
from ..linops.curvature.data import Batches
from ..linops.curvature.guards import untouched_random_numbers
from ..linops.curvature.loss import tensors_of
from .recorder import CurvatureRecorder
from .schedule import ScheduledRecorder

_IGNORED = -100  # the label of what has no part in the loss


class CurvatureCallback(TrainerCallback):  # type: ignore[misc]
    """Records spectrum, masks and overlaps at steps of a training, and writes a report when it ends.

    Steps are those of the optimiser, ``state.global_step``. In a job of many processes the first one records, while the
    others wait for it in their next step: keep ``seconds`` below the timeout of the job. Models whose parameters are
    spread over ranks, as by FSDP or ZeRO-3, are not recorded.

    Args:
        data: a batch whose loss is decomposed, a mapping of the model's arguments with its ``labels``, or a re-iterable
            of such.
        directory: where records and report go.
        loss: by default the model's own, with the label smoothing of the training, see `own_loss`. Where a trainer
            computes another one, by ``compute_loss_func`` or a method of its own, it is given here: an `Objective` of
            model and batch, or of (output, targets) for batches that are pairs.
        every: records at step 0 and after every so many steps.
        steps: or at these.
        options: see `CurvatureRecorder`: k, parameters, seconds, seed, split, name.

    Raises:
        ValueError: neither or both of ``every`` and ``steps``, or other values out of range.
        TypeError: data that can be gone through only once; without a loss, batches that are no mappings or hold lists.

    Cost: see `CurvatureRecorder`.
    """

    def __init__(
        self,
        data: Any,
        directory: str | os.PathLike[str],
        *,
        loss: Any = None,
        every: int | None = None,
        steps: Collection[int] | None = None,
        **options: Any,
    ) -> None:
        self._loss = loss
        self._recorder = ScheduledRecorder(
            CurvatureRecorder(loss, data, directory, **options), every=every, steps=steps
        )
        if loss is None:
            with untouched_random_numbers(torch.device("cpu"), data):
                _require_arguments(next(iter(Batches(data, None, torch.device("cpu")))))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **others: Any,
    ) -> None:
        """Claims the folder, and records the first step."""
        if state.is_world_process_zero and model is not None:
            if self._loss is None:
                self._recorder.recorder.loss = own_loss(model, args.label_smoothing_factor)
            self._recorder.begin(model, state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **others: Any,
    ) -> None:
        """Records, if the step is one of those."""
        if state.is_world_process_zero and model is not None:
            self._recorder.after(model, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Writes results and report."""
        if state.is_world_process_zero:
            self._recorder.end()


def own_loss(model: nn.Module, label_smoothing: float = 0.0) -> Objective:
    """The loss that a model of transformers computes by itself, ``model(**batch).loss``, or its smoothed one.

    It is a mean over the labels of a batch that are not -100: of a causal language model over those that are predicted,
    all but the first of each row; of a classifier over samples. A batch weighs by their number, so that over several
    batches it is the mean over all labels, however they are cut; one without labels, such as of answers to questions,
    weighs by its samples. Most models compute it in float32, so that of a model in float64 no more than seven digits
    mean something.

    Args:
        model: that it is of, which says whether it predicts the next label.
        label_smoothing: that of ``TrainingArguments.label_smoothing_factor``, by which a trainer computes the
            cross-entropy of the logits in the place of the model; 0 for the model's.

    Raises:
        ValueError: a smoothing outside [0, 1).

    Cost: none.
    """
    shifted = getattr(model, "loss_type", "") in ("ForCausalLM", None)  # which None stands for

    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is in [0, 1), got {label_smoothing}")

    def loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        if label_smoothing > 0 and "labels" in batch:
            arguments = dict(batch)
            labels, logits = arguments.pop("labels"), _part(model(**arguments), "logits")
            if shifted:
                labels, logits = labels[..., 1:], logits[..., :-1, :]
            return nn.functional.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), ignore_index=_IGNORED, label_smoothing=label_smoothing
            )
        found: Tensor | None = _part(model(**batch), "loss")
        if found is None:
            raise ValueError(
                f"{type(model).__name__} computes no loss of batches with the keys {', '.join(batch)}: add labels, or "
                "give loss="
            )
        return found

    def weight(batch: Mapping[str, Any]) -> float:
        labels: Tensor | None = batch.get("labels")
        if labels is None:
            return Objective(loss).weight(batch)
        # One label a row is of a head that the model's type does not name, and predicts nothing else.
        return float(((labels[..., 1:] if shifted and labels.ndim > 1 else labels) != _IGNORED).sum())

    return Objective(loss, weight)


def _part(output: Any, name: str) -> Any:
    """Of what a model returns, as a Trainer takes it: a mapping, or a tuple, which begins with it."""
    if isinstance(output, Mapping):
        return output.get(name)
    return output[0] if isinstance(output, tuple) else getattr(output, name)


def _require_arguments(batch: Any) -> None:
    """A model computes its loss of nothing else, and in a training nobody would see why there are no records."""
    if not isinstance(batch, Mapping):
        raise TypeError(
            "a model of transformers computes its loss of a mapping of its arguments, as in "
            f'{{"input_ids": ids, "labels": labels}}; got a {type(batch).__name__}: give one, or loss='
        )
    lists = [name for name, value in batch.items() if isinstance(value, list) and next(tensors_of(value), None) is None]
    if lists:
        raise TypeError(f'{", ".join(lists)} of the data are lists, and a model takes tensors: return_tensors="pt"')
