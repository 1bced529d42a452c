"""The command line: what it prints, writes and refuses, and with which exit code."""

import json
import subprocess
import sys

import pytest
from test_overlap_study import SMALL
from typer.testing import CliRunner

from eigenspan.studies import cli, problems

SMALL_OPTIONS = ["--k", "6", "--steps", "2"]


@pytest.fixture(autouse=True)
def _small_study(monkeypatch):
    monkeypatch.setitem(problems.PROBLEMS, "small", SMALL)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_study_prints_tables_and_writes_its_files(tmp_path):
    result = invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS)
    assert result.exit_code == 0, result.output
    assert "step 2" in result.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["step"] for record in results["records"]] == [0, 2]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert {path.suffix for path in (tmp_path / "out" / "figures").iterdir()} == {".png", ".svg"}


def test_a_second_run_goes_on_and_a_changed_option_is_refused(tmp_path):
    assert invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS).exit_code == 0
    assert invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS).exit_code == 0
    result = invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS, "--seed", "1")
    assert result.exit_code == 2
    assert "another study" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "mnist16"),
        (["small", "--k", "0"], "--k"),
        (["small", "--k", "28"], "number of parameters"),
        (["small", "--steps", "-1"], "--steps"),
        (["small", "--solver", "magic"], "block-lanczos"),
        (["small", "--split", "half"], "both"),
        (["small", "--dtype", "int8"], "float64"),
        (["small", "--device", "nowhere"], "nowhere"),
        (["mnist16", "--data-root", "no/such/folder"], "no/such/folder"),
    ],
)
def test_wrong_options_end_with_code_2(tmp_path, arguments, words):
    result = invoke("study", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_version_and_help():
    assert invoke("--version").output.startswith("eigenspan ")
    assert "mnist16" in invoke("study", "--help").output


def test_module_and_missing_extra():
    """Without an extra the command says which one; the library itself does not need it."""
    run = [sys.executable, "-c"]
    hidden = "import sys; sys.modules['typer'] = None; sys.argv = ['eigenspan']; "
    result = subprocess.run(
        [*run, hidden + "from eigenspan.__main__ import main; main()"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert 'pip install "eigenspan[studies]"' in result.stderr
    module = subprocess.run(
        [sys.executable, "-m", "eigenspan", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout.startswith("eigenspan ")
