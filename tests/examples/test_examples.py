"""The examples run, in fewer steps, and print what they found."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eigenspan

ROOT = Path(eigenspan.__file__).resolve().parent
STEPS = {"gpt2_trainer": 3, "lightning_callback": 4, "checkpoints": 3}  # of which each has a record


@pytest.mark.parametrize(
    ("name", "needs"),
    [("gpt2_trainer", "transformers"), ("lightning_callback", "lightning"), ("checkpoints", "torch")],
)
def test_an_example_runs(name, needs, tmp_path):
    pytest.importorskip(needs, reason=f"{needs} is not installed: pip install 'eigenspan[{needs}]'")
    out, steps = tmp_path / "out", STEPS[name]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", "--steps", str(steps), "--out", out],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^step +\d+: loss \d.*eigenvalues -?\d", done.stdout, re.MULTILINE)) == steps + 1
    assert done.stdout.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert (out / "report.html").exists()


def test_all_examples_are_run():
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == STEPS.keys()
