"""At which steps a recorder is called, of a training that tells it of some of them."""

import pytest

from eigenspan.studies.schedule import ScheduledRecorder


class Recorder:
    """Notes what it is called for."""

    def __init__(self):
        self.calls = []

    def begin(self, model, step):
        self.calls.append(("begin", step))

    def record(self, model, step):
        self.calls.append(("record", step))

    def finish(self):
        self.calls.append(("finish",))


def steps_recorded(told, first, **schedule):
    recorder = Recorder()
    scheduled = ScheduledRecorder(recorder, **schedule)
    scheduled.begin(None, first)
    for step in told:
        scheduled.after(None, step)
    scheduled.end()
    assert recorder.calls[0] == ("begin", first)
    assert recorder.calls[-1] == ("finish",)
    return [step for _, step in recorder.calls[1:-1]]


@pytest.mark.parametrize(
    ("told", "first", "schedule", "expected"),
    [
        (range(1, 8), 0, {"every": 3}, [0, 3, 6]),
        (range(7, 9), 6, {"every": 1}, [6, 7, 8]),
        (range(1, 9), 0, {"steps": {8, 0, 1, 9}}, [0, 1, 8]),
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
    assert steps_recorded(told, first, **schedule) == expected


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ({"every": 0}, ValueError, "every is a number of steps, at least 1; got 0"),
        ({"every": 1.5}, TypeError, "integer"),
        ({"steps": [3, -1]}, ValueError, r"numbers from 0 on; got \[-1, 3\]"),
        ({"steps": []}, ValueError, "one or more numbers"),
        ({"steps": 3}, TypeError, "a collection of integers, got int"),
        ({}, ValueError, "give every= or steps=, one of the two"),
        ({"every": 1, "steps": [1]}, ValueError, "one of the two"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule, error, message):
    with pytest.raises(error, match=message):
        ScheduledRecorder(Recorder(), **schedule)
