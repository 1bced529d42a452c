"""Bars of tqdm in the log of a batch job: a plain line each half minute, and nothing else."""

import io
import sys

import pytest
from study_cases import SMALL, options
from tqdm import tqdm

from eigenspan.studies.bars_in_logs import ProgressLines, legible_progress
from eigenspan.studies.overlap_study import OverlapStudy


class Clock:
    """Moves on by so many seconds each time that it is asked."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def lines_of(step, draw):
    log = io.StringIO()
    draw(ProgressLines(log, Clock(step)))
    return log.getvalue()


def nested(stream):
    with tqdm(range(2), desc="records", unit="record", file=stream, mininterval=0, disable=False) as bar:
        for _ in bar:
            with tqdm(total=300, desc="BlockLanczos", unit=" products", file=stream, mininterval=0) as inner:
                for _ in range(3):
                    inner.update(100)


def test_each_is_a_line_of_words_and_numbers():
    found = lines_of(31.0, nested)
    assert "\r" not in found
    assert "\x1b" not in found
    assert found.isascii()
    lines = found.splitlines()
    assert all(line and "|" not in line and "  " not in line for line in lines)
    assert [line.split(" [")[0] for line in lines if line.startswith("BlockLanczos")][:2] == [
        "BlockLanczos: 0% 0/300",
        "BlockLanczos: 33% 100/300",
    ]
    assert any(line.startswith("records: 50% 1/2 [") for line in lines)


def test_no_more_than_one_in_half_a_minute():
    everything = len(lines_of(31.0, nested).splitlines())
    assert lines_of(0.0, nested) == ""
    # The clock is asked at each drawing, and once more at each line.
    assert 2 <= len(lines_of(11.0, nested).splitlines()) <= everything // 2


@pytest.mark.parametrize("step", [0.0, 31.0])
def test_other_text_is_passed_on_whole(step):
    def draw(stream):
        with tqdm(total=2, file=stream, mininterval=0) as bar:
            bar.update()
            tqdm.write("eigenspan: a warning", file=stream)
            print("printed", "in parts", file=stream)
            stream.write("half ")
            stream.write("a line\n\nand one more\n")

    found = lines_of(step, draw).splitlines()
    assert [line for line in found if "it/s" not in line and "?it" not in line] == [
        *("eigenspan: a warning", "printed in parts", "half a line", "", "and one more"),
    ]


def test_a_study_tells_of_its_training_and_its_solves(tmp_path, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("eigenspan.studies.bars_in_logs._SECONDS", 0.0)
    with legible_progress():
        OverlapStudy(SMALL, options(compare=False), tmp_path).run(progress=True)
    lines = log.getvalue().splitlines()
    for start in ("training: 100% 4/4", "records: 100% 3/3", "BlockLanczos: "):
        assert any(line.startswith(start) for line in lines), start


def test_bars_stay_bars_in_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with legible_progress():
        assert sys.stderr is terminal
