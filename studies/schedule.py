"""At which steps of a training a recorder records."""

from __future__ import annotations

from collections.abc import Collection
from operator import index

from torch import nn

from .recorder import CurvatureRecorder


class ScheduledRecorder:
    """A recorder that is told of a training as it goes, and records at some of its steps.

    Where several steps pass between two calls, as with several optimisers, the first that comes after one that was due
    is recorded.

    Args:
        recorder: what records.
        every: so many steps, 0 among them.
        steps: or at these.

    Raises:
        ValueError: neither or both, ``every`` below 1, or no steps or negative ones.
        TypeError: numbers that are no integers.
    """

    def __init__(
        self, recorder: CurvatureRecorder, *, every: int | None = None, steps: Collection[int] | None = None
    ) -> None:
        if (every is None) == (steps is None):
            raise ValueError(f"give every= or steps=, one of the two; got every={every}, steps={steps}")
        if every is not None and index(every) < 1:
            raise ValueError(f"every is a number of steps, at least 1; got {every}")
        if steps is not None and not isinstance(steps, Collection):
            raise TypeError(f"steps is a collection of integers, got {type(steps).__name__}")
        self._every, self._steps = every, None if steps is None else frozenset(index(step) for step in steps)
        if self._steps is not None and (not self._steps or min(self._steps) < 0):
            raise ValueError(f"steps are one or more numbers from 0 on; got {sorted(self._steps)}")
        self.recorder = recorder
        self._told = -1  # the last step that it was told of

    def begin(self, model: nn.Module, step: int) -> None:
        """A training begins, or is resumed, at a step; see `CurvatureRecorder.begin`."""
        self._told = step - 1
        self.recorder.begin(model, step)
        self.after(model, step)

    def after(self, model: nn.Module, step: int) -> None:
        """The network has taken so many steps; it may be told of one several times."""
        before, self._told = self._told, step
        if self._steps is not None:
            due = any(before < one <= step for one in self._steps)
        else:
            assert self._every is not None
            due = step // self._every > before // self._every
        if due:
            self.recorder.record(model, step)

    def end(self) -> None:
        """The training has ended."""
        self.recorder.finish()
