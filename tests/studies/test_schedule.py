"""Which steps a scheduled recorder records, of a training that tells it of some of them."""

import types

import pytest
from torch import nn

from eigenspan.studies.schedule import ScheduledRecorder


def recorded(told, first=0, **schedule):
    steps = []
    recorder = types.SimpleNamespace(begin=lambda model, step: None, record=lambda model, step: steps.append(step))
    one, model = ScheduledRecorder(recorder, **schedule), nn.Linear(1, 1)
    one.begin(model, first)
    for step in told:
        one.after(model, step)
    return steps


@pytest.mark.parametrize(
    ("told", "first", "schedule", "expected"),
    [
        (range(1, 8), 0, {"every": 3}, [0, 3, 6]),
        ([1, 1, 2, 2, 3, 3, 3], 0, {"every": 3}, [0, 3]),  # batches that are accumulated
        ([2, 4, 6, 8], 0, {"every": 3}, [0, 4, 6]),  # two optimisers a batch
        ([2, 4, 6, 8], 0, {"steps": [3, 7]}, [4, 8]),
        ([4, 8], 0, {"steps": [1, 2, 3, 8]}, [4, 8]),
        ([5, 6, 7], 4, {"every": 3}, [6]),  # resumed between two records, and at one
        ([7, 8, 9], 6, {"every": 3}, [6, 9]),
        ([5, 6], 4, {"steps": [3, 6]}, [6]),
    ],
)
def test_each_step_that_is_due_is_recorded_once(told, first, schedule, expected):
    assert recorded(told, first, **schedule) == expected
