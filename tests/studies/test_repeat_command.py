"""The command that a report names repeats the study."""

import shlex

import attrs
import pytest
import torch
import typer
from study_cases import SMALL, options, small_model
from typer.testing import CliRunner

from eigenspan.studies import cli, problems
from eigenspan.studies.options import StudyOptions
from eigenspan.studies.overlap_study import OverlapStudy
from eigenspan.studies.repeat_command import repeat_command
from eigenspan.studies.results import read_results


class _StudyMadeError(RuntimeError):
    pass


@pytest.mark.parametrize(
    "arguments",
    [
        ["small"],
        ["small", "--k", "5", "--steps", "2", "--solver", "sketched-two-pass", "--storage", "host"],
        ["small", "--split", "both", "--no-compare", "--exact", "--dtype", "float64", "--seed", "3"],
        ["small", "--data-root", "a folder"],
        ["study_cases:SMALL", "--k", "4"],
        ["cifar10-3c3d", "--data", "fake", "--steps", "0", "--hessian-samples", "7", "--k", "3"],
        ["cifar100-allcnnc", "--data", "fake", "--steps", "0", "--k", "3"],
        ["cifar100-allcnnc", "--data", "fake", "--steps", "0", "--k", "3", "--storage", "device"],
        ["cifar100-allcnnc", "--data", "fake", "--steps", "0", "--k", "3", "--solver", "arpack"],
        ["imagenet-resnet18", "--data", "fake", "--image-size", "64", "--hessian-samples", "3", "--compare"],
    ],
)
def test_it_asks_for_the_same_options(arguments, monkeypatch, tmp_path):
    """What the command line reads from the command is what was read from the arguments, and it says no more."""
    monkeypatch.setitem(problems.PROBLEMS, "small", SMALL)
    monkeypatch.chdir(tmp_path)
    asked = []

    def made(self, problem, options, directory, mesh=None):
        request = problem.resolved(options.data_request())
        chosen = attrs.evolve(
            options, data=request.source, hessian_samples=request.hessian_samples, image_size=request.image_size
        )
        asked.append((problem.name, chosen, repeat_command(problem, chosen)))
        raise _StudyMadeError

    monkeypatch.setattr(OverlapStudy, "__init__", made)
    for words in (arguments, None):
        command = ["study", *words] if words is not None else shlex.split(asked[0][2])[1:]
        with pytest.raises(_StudyMadeError):
            typer.main.get_command(cli.app).main(["--traceback", *command], standalone_mode=False)
    assert asked[0] == asked[1]
    if "--data-root" not in arguments:
        assert sorted(shlex.split(asked[0][2])[2:]) == sorted(arguments)


def test_a_study_without_the_storage_of_its_problem():
    """In Python nothing is chosen for what is left out."""
    problem = problems.find_problem("cifar100-allcnnc")
    chosen = StudyOptions(k=3, steps=0, data="fake", compare=False, hessian_samples=1000)
    assert repeat_command(problem, chosen).endswith("--k 3 --steps 0 --storage device --data fake")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("problem", "changes"),
    [
        (SMALL, {}),
        (attrs.evolve(SMALL, storage="auto"), {}),
        (SMALL, {"solver": "sketched", "exact": True, "split": "both", "dtype": "float32", "seed": 2}),
        (SMALL, {"solver": "sketched-two-pass", "storage": "disk", "k": 3, "steps": 2}),
        (SMALL, {"weights": "weights.pt", "steps": 0, "data_root": "data", "compare": False}),
    ],
)
def test_the_folder_of_a_study_takes_the_command_of_its_report(problem, changes, tmp_path, monkeypatch):
    """As Python began it: it has nothing left to do there, and in a new folder finds the same numbers."""
    monkeypatch.setitem(problems.PROBLEMS, "small", problem)
    monkeypatch.chdir(tmp_path)
    torch.save(small_model().state_dict(), "weights.pt")
    results = OverlapStudy(problem, options(**changes), "first").run()
    monkeypatch.chdir(tmp_path / "first")  # from wherever it is run
    words = shlex.split(results["command"])[1:]
    for folder in ("first", "second"):
        done = CliRunner().invoke(cli.app, ["--traceback", *words, "--quiet", "--out", str(tmp_path / folder)])
        assert done.exit_code == 0, done.output
        again = read_results(tmp_path / folder)
        assert again["command"] == results["command"]
        assert again["options"] == results["options"]
        ours = [record["eigenvalues"] for record in results["records"]]
        assert [record["eigenvalues"] for record in again["records"]] == ours


def test_a_problem_without_a_name_has_none():
    assert repeat_command(SMALL, StudyOptions(k=6, steps=4, data="embedded")) is None
