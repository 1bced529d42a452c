"""Which runs may be compared, and what a folder must hold."""

import copy
import json

import pytest

from eigenspan.studies.results import read_results
from eigenspan.studies.runs import Runs


@pytest.fixture
def folder(finished, tmp_path):
    finished(tmp_path / "a", steps=2)
    return tmp_path / "a"


@pytest.fixture
def results(folder):
    return read_results(folder)


def edited(results, **changes):
    """Results with other entries; those of dictionaries are changed one by one."""
    other = copy.deepcopy(results)
    for name, value in changes.items():
        other[name] = {**other[name], **value} if isinstance(value, dict) else value
    return other


def test_results_are_those_of_the_study(finished, tmp_path):
    made = finished(tmp_path / "b", steps=2)
    assert read_results(tmp_path / "b") == json.loads(json.dumps(made))


def test_a_folder_without_results_says_what_to_do(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json: name the folder of a study"):
        read_results(tmp_path)
    (folder / "results.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no results yet: finish the training that .* by eigenspan resume .*a$"
    ):
        read_results(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda results: results.pop("records"),
            "damaged .no records.: remove it, and make it anew by eigenspan resume",
        ),
        (lambda results: results["records"].clear(), "no records"),
        (lambda results: results["records"][0].pop("overlap"), "no overlap"),
        (lambda results: results["records"][0]["overlap"].pop(), "curves of other lengths"),
        (lambda results: results["records"].append(7), "no certificate, chance_stratified"),
        (lambda results: results.update(format=4), r"is of format 4, and this version reads \d: .*run the study again"),
        (lambda results: results.pop("format"), "is of format None"),
    ],
)
def test_damaged_and_other_results_are_refused(folder, results, change, message):
    change(results)
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        read_results(folder)


def test_half_a_file_is_refused(folder):
    path = folder / "results.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"results\.json is damaged .*resume"):
        read_results(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "mnist16"}, "a and b cannot be compared: they are of the studies small and mnist16"),
        (
            {"warning": "generated images, not CIFAR-10"},
            "of real data and generated images, not CIFAR-10; made-up data",
        ),
        ({"options": {"data": "folder"}}, "of embedded data and of folder data; compare runs with the same --data"),
        ({"parameters": {"sizes": [12, 3, 9, 4]}}, "networks differ .2.bias has 3 and 4 entries"),
        ({"parameters": {"names": ["a", "0.bias", "2.weight", "2.bias"]}}, "0.weight has 12 and no entries"),
        (
            {"parameters": {"names": ["0.bias", "0.weight", "2.weight", "2.bias"], "sizes": [3, 12, 9, 3]}},
            "parameters are in another order",
        ),
    ],
)
def test_runs_that_cannot_be_compared_say_in_what_they_differ(results, changes, message):
    with pytest.raises(ValueError, match=message):
        Runs({"a": results, "b": edited(results, **changes)})


def test_a_run_alone_and_runs_of_different_splits_are_refused(results):
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        Runs({"a": results})
    other = edited(results, records=[{**record, "split": "test"} for record in results["records"]])
    with pytest.raises(ValueError, match="no split in common"):
        Runs({"a": results, "b": other})


def test_what_differs_is_found(results):
    other = edited(results, options={"seed": 1, "new": "x"}, environment={"torch": "0"})
    runs = Runs({"a": results, "b": other})
    assert runs.differences("options") == {"seed": [0, 1], "new": [None, "x"]}
    assert runs.differences("environment") == {"torch": [results["environment"]["torch"], "0"]}
    assert (runs.splits, runs.k, runs.table_k) == (["train"], 6, [2, 6])


def test_labels_are_as_long_as_they_must_be(folder, results, tmp_path):
    for name in ("x/run", "y/run", "y/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    assert list(Runs.read([folder, tmp_path / "y/b"]).results) == ["a", "b"]
    assert list(Runs.read([tmp_path / "x/run", tmp_path / "y/run"]).results) == ["x/run", "y/run"]
    with pytest.raises(ValueError, match="named twice"):
        Runs.read([folder, folder])
