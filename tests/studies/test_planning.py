"""What a study is expected to take, as a plan and on the command line."""

import json

import pytest
import torch
from study_cases import SMALL, options
from typer.testing import CliRunner

from eigenspan.solvers import DenseEigh, SketchedEigh
from eigenspan.studies import cli, problems
from eigenspan.studies.overlap_study import OverlapStudy
from eigenspan.studies.planning import first_hessian, plan_study


@pytest.fixture(autouse=True)
def _small_study(monkeypatch):
    monkeypatch.setitem(problems.PROBLEMS, "small", SMALL)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["plan", *map(str, arguments)])


def test_the_hessian_is_that_of_the_first_record(tmp_path):
    """Its products are those at step 0, so the eigenvalues recorded there are its own."""
    record = OverlapStudy(SMALL, options(steps=0, exact=True, compare=False), tmp_path).run()["records"][0]
    found = DenseEigh(k=6).solve(first_hessian(SMALL, options(steps=0)))
    torch.testing.assert_close(found.eigenvalues.tolist(), record["exact"]["eigenvalues"])


@pytest.mark.parametrize(("steps", "split", "records"), [(0, "train", 1), (4, "train", 3), (5, "both", 8)])
def test_records_are_those_that_a_study_makes(tmp_path, steps, split, records):
    plan = plan_study(SMALL, options(steps=steps, split=split))
    assert plan.records == records
    assert (
        len(OverlapStudy(SMALL, options(steps=steps, split=split, compare=False), tmp_path).run()["records"]) == records
    )
    assert plan.seconds == records * plan.seconds_per_record


def test_products_are_those_of_the_records(tmp_path):
    chosen = options(steps=0, solver="sketched")
    plan = plan_study(SMALL, chosen)
    assert plan.solve.solver == SketchedEigh(outer=6)
    assert plan.solve.products == OverlapStudy(SMALL, chosen, tmp_path).run()["records"][0]["report"]["products"]


def test_an_exact_study_takes_two_solves():
    plan = plan_study(SMALL, options(exact=True))
    assert "and comparisons, some three times the products" in str(plan)
    assert "comparisons" not in str(plan_study(SMALL, options(compare=False)))
    assert plan.exact.solver == DenseEigh(k=6)
    assert plan.exact.products == 27 + 2
    assert plan.seconds_per_record == plan.solve.seconds_spent + plan.solve.seconds + plan.exact.seconds
    assert plan.memory == max(plan.solve.memory, plan.exact.memory)


def test_the_command_prints_tables_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("small", "--steps", "2", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for words in ("BlockLanczos(k=6)", "products  ", "seconds  ", "memory  ", "small: 2 records of", "time"):
        assert words in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_json():
    entries = json.loads(invoke("small", "--json", "--exact", "--split", "both", "--solver", "dense").stdout)
    assert entries["records"] == 6
    assert entries["solve"]["solver"]["class"] == "DenseEigh"
    assert entries["seconds"] == pytest.approx(6 * entries["seconds_per_record"])
    assert entries["exact"]["products"] == 29


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no study"),
        (["small", "--k", "28"], "which has 27"),
        (["small", "--solver", "magic"], "block-lanczos"),
        (["small", "--device", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_end_with_code_2(arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.output
