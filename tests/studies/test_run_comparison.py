"""The comparison of runs: one page, true to the results of each, that says what the differences are due to."""

import json
import re
import shutil
import statistics

import pytest
from page_cases import Page
from study_cases import run

from eigenspan.studies.drawing import svg_of
from eigenspan.studies.run_comparison import found, write_comparison
from eigenspan.studies.run_comparison_plots import run_figures
from eigenspan.studies.runs import Runs
from eigenspan.studies.tables import DOWN, UP, cells, share, table_rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("runs") / name for name in ("zero", "one", "two")]
    for seed, folder in enumerate(folders):
        run(folder, seed=seed, split="both", steps=2, compare=False)
    return folders


@pytest.fixture(scope="module")
def source(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    assert write_comparison(runs, path) == path
    assert [file.name for file in path.parent.iterdir()] == ["comparison.html"]
    return path.read_text(encoding="utf-8")


def last(folder, split="train"):
    results = json.loads((folder / "results.json").read_text())
    (record,) = [record for record in results["records"] if record["split"] == split and record["step"] == 2]
    return record


def test_it_loads_nothing(source):
    page = Page(source)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base"}
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.attributes("img"))
    assert len(page.attributes("img")) == source.count("<figcaption>") == 6  # three a split


def test_names_of_runs_are_no_formulas(runs):
    """Although there is a dollar sign before and after what would be none."""
    records = {f"$_{place}$": folder for place, folder in enumerate(Runs.read(runs).records("train").values())}
    for drawn in run_figures(r"$\frac$", records, "train", 6):
        assert svg_of(drawn.figure).startswith(b"<?xml")


def test_tables_hold_the_numbers_of_the_runs(runs, source):
    rows = Page(source).rows
    assert rows[:4] == [["run", "seed"], ["zero", "0"], ["one", "1"], ["two", "2"]]
    for folder in runs:
        for split in ("train", "test"):
            record = last(folder, split)
            first, *others = table_rows(record, [2, 6])
            assert [folder.name, "2", *cells(first)] in rows
            assert all(["2", *cells(row)] in rows for row in others)
            values = record["eigenvalues"]
            chosen = [f"{values[k - 1]:.4g}" for k in (1, 2, 6)]
            assert [folder.name, f"{record['loss']:.4f}", *chosen, str(sum(value < 0 for value in values))] in rows
            certificate, sure = record["certificate"], max(k for k in (2, 6) if record["certificate"]["leads"][k - 1])
            sides = {"low": DOWN, "high": UP}
            ends = [share(record["overlap_error"][end][sure - 1], side) for end, side in sides.items()]
            leading = max(j for j, leads in enumerate(certificate["leads"], 1) if leads)
            assert [folder.name, split, "2", record["report"]["status"].lower()] in [row[:4] for row in rows]
            assert [f"{leading} of 6", str(sure), *ends] in [row[5:] for row in rows if row[:2] == [folder.name, split]]
        records = json.loads((folder / "results.json").read_text())["records"]
        products = sum(record["report"]["products"] for record in records)
        assert [folder.name, "4", str(products)] in [row[:3] for row in rows]


def test_mean_and_range_over_seeds_are_said(runs, source):
    records = {folder.name: last(folder) for folder in runs}
    overlaps = {name: record["overlap"][5] for name, record in records.items()}
    high, low = max(overlaps, key=overlaps.get), min(overlaps, key=overlaps.get)
    words = Page(source).text
    assert (
        f"each of 3 runs the overlap is {statistics.mean(overlaps.values()):.4f} on average, from {overlaps[low]:.4f} "
        f"({low}) to {overlaps[high]:.4f} ({high})."
    ) in words
    ratios = [record["overlap"][5] / record["chance_stratified"]["mean"][5] for record in records.values()]
    assert f"and {statistics.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times stratified" in words
    above = sum(record["overlap"][5] > record["chance_uniform"]["high"][5] for record in records.values())
    assert f"{above} of 3 runs are above the 95% interval of uniform chance" in words
    assert "differ in the seed alone" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The settings are the same"),
        ({"seed": 7}, "differ in the seed alone"),
        ({"solver": "dense"}, "differ in solver alone"),
        ({"solver": "dense", "dtype": "float32", "seed": 5}, "differ in solver, dtype and seed: which of these"),
    ],
)
def test_what_differences_may_be_due_to(runs, changes, words):
    results = json.loads((runs[0] / "results.json").read_text())
    other = {**results, "options": {**results["options"], **changes}}
    assert words in found(Runs({"a": results, "b": other}), "train")[-1]


def test_data_and_last_steps_that_differ_are_no_rounding(runs):
    """Neither is an option of every study: own data have their digest in the description."""
    results = json.loads((runs[0] / "results.json").read_text())
    earlier = [record for record in results["records"] if record["step"] < 2]
    for changes, words in [
        ({"description": "other points"}, "differ in data alone"),
        ({"records": earlier}, "differ in last step alone"),
        ({"description": "other points", "records": earlier}, "differ in data and last step: which of these"),
    ]:
        assert words in found(Runs({"a": results, "b": {**results, **changes}}), "train")[-1]


def test_what_the_settings_do_not_hold_is_not_ruled_out(runs):
    """Optimisers and checkpoints of one's own may differ under the same settings and data; those of a study cannot."""
    results = json.loads((runs[0] / "results.json").read_text())
    words = "or to the network, data, training or checkpoints of one's own"
    for changes in ({"command": None}, {"study": "my_module:problem", "command": "eigenspan study my_module:problem"}):
        other = {**results, **changes}
        assert words in found(Runs({"a": other, "b": other}), "train")[-1]
    ours = {**results, "study": "mnist16", "command": "eigenspan study mnist16"}
    assert found(Runs({"a": ours, "b": ours}), "train")[-1].endswith("or to what the runs were computed with.")


def test_of_recorded_trainings_it_is_not_known_what_they_differ_in(runs):
    """Their seed is that of the solver; initial values and data order are those of the training."""
    results = json.loads((runs[0] / "results.json").read_text())
    alike = {**results, "options": {"k": 6, "seconds": 60.0, "seed": 0, "split": "both"}}
    other = {**alike, "options": {**alike["options"], "seed": 1}}
    assert found(Runs({"a": alike, "b": alike}), "train")[-1].startswith("How the networks were trained is not known")
    said = found(Runs({"a": alike, "b": other}), "train")[-1]
    assert said.startswith("The runs differ in seed. How the networks were trained is not known")
    with pytest.raises(ValueError, match="one is a study, the other has the records of a training"):
        Runs({"a": results, "b": alike})
    one, two = (
        {**alike, "records": [record for record in alike["records"] if record["split"] == split]}
        for split in ("train", "test")
    )
    with pytest.raises(ValueError, match=r"no split in common, .*: record one of them with the split= of the other"):
        Runs({"a": one, "b": two})


def test_runs_of_other_lengths_are_compared_at_what_they_share(runs, tmp_path):
    run(tmp_path / "short", k=4, steps=0, solver="sketched", compare=False)
    page = Page(write_comparison([runs[0], tmp_path / "short"], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "At k = 4 and the last step of each of 2 runs" in page.text
    assert "On test data" not in page.text  # which one has not
    assert page.rows[0] == ["run", "k", "steps", "solver", "split"]
    assert ["short", "train", "0", "sketched"] in [row[:4] for row in page.rows]


def test_runs_of_one_step_have_no_lines_along_it(runs, tmp_path):
    results = json.loads((runs[0] / "results.json").read_text())
    for name in ("a", "b"):
        single = {**results, "records": [record for record in results["records"] if record["step"] == 2]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(single))
    page = Page(write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "c.html").read_text(encoding="utf-8"))
    assert len(page.attributes("img")) == 4


def test_names_of_folders_are_only_text(runs, tmp_path):
    results = (runs[0] / "results.json").read_text()
    for name in ("<script>", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(results)
    path = write_comparison([tmp_path / "<script>", tmp_path / "b"], tmp_path / "c.html")
    assert not Page(path.read_text(encoding="utf-8")).attributes("script")


def test_what_is_equal_is_said_once(runs, tmp_path):
    """Two runs of one seed on one machine have the same numbers, and no range of them."""
    for name in ("one", "two"):
        shutil.copytree(runs[0], tmp_path / name)
    sentences = found(Runs.read([tmp_path / "one", tmp_path / "two"]), "train")
    assert sentences[0].endswith(" on average, and the same for each to these digits.")
    assert not any(" to " in sentence.replace("to these digits", "") for sentence in sentences[1:4])
    words = Page(write_comparison([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html").read_text("utf-8"))
    assert not re.search(r"(\d\S+) to \1\b", " ".join(words.words))
