"""At which steps a recorder is called, however often it is told of them."""

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


def steps_recorded(first, last, **schedule):
    recorder = Recorder()
    scheduled = ScheduledRecorder(recorder, **schedule)
    scheduled.begin(None, first)
    for step in range(first + 1, last + 1):
        scheduled.after(None, step)
        scheduled.after(None, step)  # as of each of the batches that are accumulated
    scheduled.end()
    assert recorder.calls[0] == ("begin", first)
    assert recorder.calls[-1] == ("finish",)
    return [step for _, step in recorder.calls[1:-1]]


@pytest.mark.parametrize(
    ("schedule", "first", "expected"),
    [
        ({"every": 3}, 0, [0, 3, 6]),
        ({"every": 1}, 6, [6, 7, 8]),
        ({"steps": {8, 0, 1, 9}}, 0, [0, 1, 8]),
        ({"steps": [8, 2, 4]}, 4, [4, 8]),
    ],
)
def test_each_step_that_is_due_is_recorded_once(schedule, first, expected):
    assert steps_recorded(first, 8, **schedule) == expected


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [({"every": 3}, [0, 4, 6]), ({"steps": [3, 7]}, [4, 8]), ({"steps": [1, 2, 8]}, [2, 8])],
)
def test_where_steps_are_passed_over_the_next_is_recorded(schedule, expected):
    recorder = Recorder()
    scheduled = ScheduledRecorder(recorder, **schedule)
    scheduled.begin(None, 0)
    for step in (2, 4, 6, 8):  # of two optimisers, one after the other
        scheduled.after(None, step)
    assert [step for kind, step in recorder.calls if kind == "record"] == expected


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
