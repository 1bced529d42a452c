"""The report: whole in one file, true to the results, and honest about chance."""

import base64
import copy
import itertools
import json
import math
import re
from xml.etree import ElementTree

import numpy
import pytest
from page_cases import Page
from study_cases import only_vectors, run

import eigenspan as es
from eigenspan.studies import plots, report
from eigenspan.studies.certainty import certainty, certificate_table
from eigenspan.studies.findings import findings
from eigenspan.studies.report import write_report
from eigenspan.studies.tables import DOWN, UP, cells, percent, residual, share, table_rows, text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def results(folder):
    return run(folder, split="both", exact=True)


@pytest.fixture(scope="module")
def source(results, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figure", only_vectors)
        path = write_report(results, folder)
    assert path == folder / "report.html"
    return path.read_bytes().decode("utf-8")


def write(results, directory):
    return Page(write_report(results, directory).read_text(encoding="utf-8"))


# -- one file ---------------------------------------------------------------------------------------------------------


def test_it_loads_nothing_and_runs_nothing(source):
    page = Page(source)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        if not attributes.get("href", "#").startswith("#"):
            assert (tag, attributes["href"]) == ("a", "https://arxiv.org/abs/2504.14701")
    (policy,) = [meta["content"] for meta in page.attributes("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")
    (style,) = re.findall("<style>(.*)</style>", source, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert style.count("{") == style.count("}")
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_the_figures_are_inside_with_captions_and_words(source, folder):
    page = Page(source)
    images = page.attributes("img")
    assert len(images) == source.count("<figcaption>") == 17
    drawings = {path.read_bytes() for path in (folder / "figures").glob("*.svg")}
    for image in images:
        assert re.search(r"\d", image["alt"])
        kind, content = image["src"].split(",")
        assert kind == "data:image/svg+xml;base64"
        drawing = base64.b64decode(content)
        drawings.remove(drawing)
        for element in ElementTree.fromstring(drawing).iter():
            for name, value in element.attrib.items():
                assert not name.endswith("href") or value.startswith(("#", "data:"))
    assert not drawings


def test_it_is_a_valid_page_in_english(source):
    assert source.startswith("<!DOCTYPE html>\n")
    page = Page(source)
    assert page.attributes("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.attributes("meta")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.attributes("meta")
    assert len(page.attributes("h1")) == len(page.attributes("title")) == 1


def test_all_links_within_lead_somewhere_and_headings_are_in_order(source):
    page = Page(source)
    anchors = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    links = [link["href"][1:] for link in page.attributes("a") if link["href"].startswith("#")]
    assert links == ["main", *(anchor for anchor in anchors if anchor != "main")]
    ranks = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in itertools.pairwise([0, *ranks]))


def test_a_report_that_cannot_be_finished_leaves_the_old_one(results, folder, source, undrawn, monkeypatch):
    monkeypatch.setattr(report, "_page", lambda *_: "\ud800")  # no UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_report(results, folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == source
    assert not list(folder.rglob("*.partial"))


# -- what it says -----------------------------------------------------------------------------------------------------


def test_tables_hold_the_numbers_of_the_results(results, source):
    rows = Page(source).rows
    for record in results["records"]:
        for row in table_rows(record, results["table_k"]):
            level = record["chance_stratified"]
            mean, std, p = (level[name][row.k - 1] for name in ("mean", "std", "p_value"))
            overlap = record["overlap"][row.k - 1]
            quotient, deviations = f"{overlap / mean:.2f}", f"{(overlap - mean) / std:+.1f}"
            assert [cells(row)[1], *cells(row)[6:]] == [
                *(f"{overlap:.4f}", f"{mean:.4f}", quotient, deviations, f"{p:.3f}")
            ]
            assert any(found[-10:] == list(cells(row)) for found in rows)
        solve = [str(record["step"]), record["split"], f"{record['loss']:.4f}", f"{record['eigenvalues'][0]:.4g}"]
        (found,) = [row for row in rows if row[:4] == solve]
        assert found[5] == str(sum(value < 0 for value in record["eigenvalues"]))
        assert found[7] == str(record["report"]["products"])
        assert found[9] == f"{record['report']['seconds']:.2f}"
        assert found[10] == record["report"]["status"].lower()


@pytest.mark.parametrize(
    ("value", "overlap", "of_all"),
    [
        *((0.0, "0.0000", "0%"), (1.0, "1.0000", "100%"), (0.0123, "0.0123", "1.2%"), (0.25, "0.2500", "25%")),
        *((5.4e-6, "5.4e-06", "0.00054%"), (-2e-9, "-2.0e-09", "-2e-07%")),
    ],
)
def test_small_numbers_keep_two_digits(value, overlap, of_all):
    assert (share(value), percent(value)) == (overlap, of_all)


def test_the_tensors_are_counted(results, source):
    rows = Page(source).rows
    records = [record for record in results["records"] if record["split"] == "train"]
    for index, (name, size) in enumerate(zip(*results["parameters"].values(), strict=True)):
        counts = [str(record["mask_counts"][index]) for record in records]
        assert [name, str(size), f"{6 * size / 27:.1f}", *counts, percent(int(counts[-1]) / size)] in rows


def test_of_many_tensors_those_without_weight_share_a_row(results, tmp_path, undrawn):
    """Of two thousand, 150 have one of the largest parameters each, and the last has two."""
    many = copy.deepcopy(results)
    many["parameters"] = {"names": [f"layer.{index}" for index in range(2000)], "sizes": [10] * 2000}
    for record in many["records"]:
        record["mask_counts"] = [0] * 1849 + [1] * 150 + [2]
        record["layer_energy"]["eigenspaces"] = [[1 / 2000, 1 / 2000]] * 2000
    rows = Page(write_report(many, tmp_path).read_text(encoding="utf-8")).rows
    named = [row for row in rows if row[0].startswith("layer.") and len(row) > 3]
    assert [row[0] for row in named] == [f"layer.{index}" for index in (*range(1849, 1948), 1999)]
    (others,) = [row for row in rows if row[0] == "1,900 others"]
    steps = len({record["step"] for record in results["records"]})
    assert others == ["1,900 others", "19,000", f"{6 * 0.95:.1f}", *["51"] * steps, percent(51 / 19000)]


def test_rows_name_the_null_and_its_strata(results):
    for record in results["records"]:
        for row in table_rows(record, results["table_k"]):
            assert (row.uniform.null, row.uniform.strata) == ("uniform", 1)
            assert (row.stratified.null, row.stratified.strata) == ("stratified", 4)  # the tensors of the network


def test_what_was_run_and_how_to_cite(results, source):
    words = Page(source).text
    for name, value in results["options"].items():
        assert name.replace("_", " ") in words
        assert ("yes" if value is True else str(value) if value is not None else "-") in words
    for value in results["environment"].values():
        assert value in words
    assert "random points" in words
    assert "BlockLanczos(k=6, seed=0, which=LM" in words
    assert "arXiv 2504.14701" in words
    assert "at least 0.999999 at every k" in words  # rounded down, as a bound is


def test_markup_in_names_is_only_text(results, tmp_path, undrawn):
    strange = copy.deepcopy(results)
    strange["title"] = strange["description"] = strange["attribution"] = '<b onload="x">&amp; "more"</b>'
    strange["parameters"]["names"][0] = "<script>"
    page = write(strange, tmp_path)
    assert not page.attributes("script")
    assert page.text.count('<b onload="x">&amp; "more"</b>') >= 4
    assert ["<script>", "12"] in [row[:2] for row in page.rows]


def test_what_is_null_or_not_finite_is_a_dash(results, tmp_path, undrawn):
    holed = copy.deepcopy(results)
    for record in holed["records"]:
        record["certificate"], record["seconds"] = None, None
        record["loss"] = record["report"]["peak_memory"] = record["report"]["seconds"] = None
        record["residual_norms"] = [None] * 6
        record["chance_uniform"] = {name: [0.0] * 6 for name in ("mean", "std", "low", "high")} | {"p_value": [1.0] * 6}
        record["chance_stratified"] = {name: [float("nan")] * 6 for name in ("mean", "low", "high", "p_value")}
        record["chance_stratified"]["std"] = [float("inf")] * 6
        record["participation_ratio"] = [None] * 6
        record["layer_energy"] = {"eigenspaces": [[None] * 2] * 4}
    page = write(holed, tmp_path)
    (row,) = [row for row in page.rows if row[:3] == ["4", "train", "-"]]
    assert row[6] == row[9] == "-"
    assert ["2", f"{holed['records'][1]['overlap'][1]:.4f}", "0.0000", "-", "-", "1.000", *"----"] in [
        row[-10:] for row in page.rows
    ]
    assert "were not measured" in page.text
    for word in ("nan", "inf", "null"):
        assert not re.search(rf"\b{word}\b", page.text)


# -- what was found ---------------------------------------------------------------------------------------------------


def level(low, mean, high, std=0.01, p=0.5):
    return {"mean": [mean], "std": [std], "low": [low], "high": [high], "p_value": [p]}


def study(overlap, uniform, stratified, status="converged: every wanted pair meets the tolerance", **changes):
    """Results of one record and one k, with levels of chance as those of `level`."""
    record = {
        **{"step": 7, "split": "train", "loss": 0.5, "k_max": 1, "mask_counts": [1, 0], "mask_ties": None},
        **{"overlap": [overlap], "eigenvalues": [-2.0], "residual_norms": [2e-4], "certificate": None},
        "overlap_error": {"low": [None], "high": [None]},
        "layer_energy": {"eigenvectors": [[0.3], [0.7]], "eigenspaces": [[0.3], [0.7]]},
        "participation_ratio": [4.2],
        "chance_uniform": level(*uniform),
        "chance_stratified": level(*stratified),
        "report": {"products": 5, "seconds": 1.0, "status_text": status},
    }
    return {"records": [record | changes], "table_k": [1], "parameters": {"names": ["a", "b"], "sizes": [3, 7]}}


ABOVE, INSIDE, BELOW = (0.08, 0.1, 0.12, 0.01, 0.002), (0.17, 0.19, 0.21, 0.01, 0.27), (0.28, 0.3, 0.32, 0.01, 0.004)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (
            (ABOVE, INSIDE),
            "by 0.1000 on average, and 95% of such masks by 0.0800 to 0.1200. The observed",
        ),
        (
            (ABOVE, INSIDE),
            "2.00 times that average, z = +10.0, p = 0.002, the least that 999 random masks can tell: above",
        ),
        ((ABOVE, INSIDE), "1.05 times that average, z = +1.0, p = 0.270: it cannot be told apart from chance."),
        ((ABOVE, INSIDE), "the overlap excess, is 0.89 to 1.11 for 95% of the random masks."),
        ((ABOVE, INSIDE), "accounts for 90% of the excess over uniform chance"),
        ((ABOVE, (0.03, 0.05, 0.07)), "accounts for 0% of the excess"),
        ((ABOVE, BELOW), "z = -10.0, p = 0.004: below this chance level."),
        ((ABOVE, BELOW), "Which tensors the largest lie in accounts for all"),
        ((ABOVE, (0.2, 0.2, 0.2, 0.0)), "All such masks have the same overlap, 0.2000"),
    ],
)
def test_the_overlap_is_compared_with_both_levels_of_chance(levels, words):
    assert words in " ".join(findings(study(0.2, *levels))["Overlap"])


def test_no_excess_is_explained_where_there_is_none():
    assert "accounts for" not in " ".join(findings(study(0.11, ABOVE, (0.1, 0.105, 0.12)))["Overlap"])


def test_the_mask_the_eigenvectors_and_the_accuracy_are_said():
    found = findings(study(0.2, ABOVE, ABOVE))
    assert found["Where the large weights are"] == [
        "Of the 1 largest parameters, as many as eigenpairs were solved for, at step 7: 1 in a (33% of its entries).",
        "The largest tensor, b, has 70% of all parameters and 0% of the 1 largest.",
    ]
    assert found["Where the eigenvectors live"] == [
        "Of the energy of the 1 leading eigenvectors, the squares of their entries, at step 7: 70% in b, 30% in a.",
        "The number of parameters that take part in one, the participation ratio, is 4 of 10.",
    ]


def test_how_solves_ended_is_said():
    found = certainty(study(0.2, ABOVE, ABOVE, status="not converged when 5 products were spent"))
    assert found["How the solves ended"] == [
        "1 of 1 solves not converged when 5 products were spent.",
        "No residual norm ‖Hv - λv‖ is larger than 1.0e-04 of the largest |λ|.",
    ]


@pytest.mark.parametrize(("norm", "words"), [(0.0, "eigenvalues that were found are 0"), (None, "were not measured")])
def test_residual_norms_that_have_no_scale_were_measured_nevertheless(norm, words):
    found = certainty(study(0.2, ABOVE, ABOVE, eigenvalues=[0.0], residual_norms=[norm]))
    assert words in found["How the solves ended"][1]


def test_an_arbitrary_mask_and_the_error_of_the_overlap_are_said_where_they_are_known():
    ties = {"threshold": 0.5, "tied": 4, "selected": 2, "strata": 1}
    error = {"low": [0.15], "high": [0.25]}
    several = study(0.2, ABOVE, ABOVE, mask_ties=ties, overlap_error=error)
    arbitrary, sure = findings(several)["Where the large weights are"][-1], certainty(several)["By a premise"][-1]
    assert "4 parameters have the same magnitude, of which 2 were taken" in arbitrary
    assert "k = 1 the overlap with the true eigenspace is between 0.1500 and 0.2500, if" in sure


def test_the_widest_error_is_said_and_how_many_records_have_none():
    several = study(0.2, ABOVE, ABOVE)
    ends = [("low", 0.15, 0.19, None), ("high", 0.25, 0.21, None)]
    several["records"] = [
        {**several["records"][0], "step": step, "overlap_error": {name: [values[step]] for name, *values in ends}}
        for step in range(3)
    ]
    assert certainty(several)["By a premise"][-2:] == [
        "Of all records at k = 1 the widest such interval is that of step 0, 0.1500 to 0.2500.",
        "1 of 3 records have none there: no gap behind eigenvalue k is known.",
    ]


def certificate(leads, **changes):
    curves = {"radii": [2e-3] * 2, "sharp_radii": [1e-6] * 2, "sines": [0.01, 1.0], "overlaps": [0.9999, 0.0]}
    premise = "there is no other eigenvalue of |λ| above 1"
    return {**curves, "leads": leads, "premise": premise, "probability": None, **changes}


def certified(*certificates):
    """Results of two pairs, one record a certificate."""
    several, chance = study(0.2, ABOVE, ABOVE), {name: values * 2 for name, values in level(*ABOVE).items()}
    (record,) = several["records"]
    pairs = {"k_max": 2, "eigenvalues": [-2.0, 1.0], "overlap": [0.2] * 2, "chance_uniform": chance}
    error = {"low": [None] * 2, "high": [None] * 2}
    record |= {**pairs, "chance_stratified": chance, "overlap_error": error}
    return {**several, "table_k": [1, 2], "records": [{**record, "certificate": one} for one in certificates]}


def test_what_is_certain_and_what_rests_on_a_premise():
    found = certainty(certified(certificate([True, False])))
    assert found["Certain"][0].startswith("The 2 eigenvalues of a record are within 1.0e-03 of the largest |λ|")
    assert found["By a premise"][:2] == [
        "That no larger eigenvalue was missed is assumed and not shown. At step 7 the premise is that there is no "
        "other eigenvalue of |λ| above 1.",
        "By it the span of the first 1 of 2 eigenvectors is the leading eigenspace but for an error: the sine of its "
        "largest angle to that is at most 1.0e-02, and at most 1.0e-04 is missing to an overlap of 1 (Davis and "
        "Kahan).",
    ]


def test_of_two_splits_it_is_said_which_one_the_premise_is_of(results):
    """The last record is of training data, and beside it stand those of test data at the same step."""
    said = " ".join(certainty(results)["By a premise"])
    step = results["records"][-1]["step"]
    assert f"At step {step} on training data the premise is" in said
    assert f"At step {step} on training data and k = " in said


def test_a_bound_of_what_is_missed_is_never_none():
    """1 - overlap of an error below the square root of a rounding would be 0, which is no bound."""
    found = certified(certificate([True, True], sines=[3e-14, 2e-10], overlaps=[1.0, 1.0]))
    assert "at most 2.1e-20 is missing" in " ".join(certainty(found)["By a premise"])
    rows = Page(certificate_table(found, found["records"], "")).rows
    assert [row[-3] for row in rows[-2:]] == ["9.0e-28", "2.1e-20"]


@pytest.mark.parametrize(
    ("certificates", "heading", "words"),
    [
        ([certificate([False, False])], "By a premise", "no eigenspace is bounded"),
        (
            [certificate([True, True], probability=1.0)],
            "By a premise",
            "At step 7 it is certain that there is no other",
        ),
        ([certificate([True, True], overlaps=[1.0, 0.0])], "By a premise", "no angle is bounded"),
        ([certificate([True, True]), None], "Certain", "1 of 2 records have no residual norms"),
        ([certificate([True, True]), None], "By a premise", "Nothing is shown of eigenspaces"),
    ],
)
def test_what_is_not_shown_is_said(certificates, heading, words):
    assert words in " ".join(certainty(certified(*certificates))[heading])


def test_certificates_are_those_of_the_eigenpairs_in_the_folder(results, folder, source):
    """Read from the folder and certified again, and set beside the dense eigenvalues, within the radii."""
    rows = Page(source).rows
    for record in results["records"]:
        eig = es.EigenDecomposition.load(folder / "eigenspaces" / f"{record['step']:08d}-{record['split']}.npz")
        again, found = es.certify(eig), record["certificate"]
        assert found["radii"] == pytest.approx(again.radii.tolist())
        assert found["leads"] == again.leads.tolist()
        errors = [
            abs(one - two) for one, two in zip(record["eigenvalues"], record["exact"]["eigenvalues"], strict=True)
        ]
        assert all(error <= radius for error, radius in zip(errors, found["radii"], strict=True))
        cells = [
            f"{record['eigenvalues'][1]:.4g}",
            *(text(found[name][1], ".1e", UP) for name in ("radii", "sharp_radii")),
        ]
        assert any(row[-9] == "2" and row[-8:-5] == cells for row in rows if len(row) >= 9)


def test_steps_that_were_not_set_beside_one_another_have_no_such_figure(results, tmp_path, monkeypatch):
    """As in results of another origin."""
    others = {name: entry for name, entry in results.items() if name != "tracking"}
    steps = [record for record in others["records"] if record["split"] == "train"][:2]
    others["records"] = [{n: e for n, e in record.items() if n not in ("comparison", "exact")} for record in steps]
    monkeypatch.setattr(plots, "write_figure", lambda figure, stem: None)
    assert "through-training" not in {drawn.name for drawn in plots.save_figures(others, tmp_path)}


def test_made_up_data_are_said_in_the_header(results, tmp_path, undrawn):
    assert "Mind the data" not in write(results, tmp_path).text
    made_up = results | {"warning": "generated images, not those"}
    path = write_report(made_up, tmp_path)
    header = path.read_text(encoding="utf-8").split("</header>")[0]
    assert "Mind the data: generated images, not those." in header


def test_a_study_that_no_command_repeats_says_so(results, source, tmp_path, undrawn):
    assert "eigenspan study small --k" not in source  # of a problem that has no name
    assert "It was run from Python" in Page(source).text
    named = results | {"command": "eigenspan study small --k 6"}
    assert "eigenspan study small --k 6" in write(named, tmp_path).text


def test_rise_and_fall_are_said(results):
    found = " ".join(findings(results)["Overlap, test data"])
    overlaps = {record["step"]: record["overlap"][5] for record in results["records"] if record["split"] == "test"}
    highest, lowest = max(overlaps, key=overlaps.get), min(overlaps, key=overlaps.get)
    assert f"highest at step {highest} ({overlaps[highest]:.4f}) and lowest at step {lowest} (" in found
    assert "Of 3 records" in found
    assert f"{overlaps[4] / (6 / 27):.2f} times uniform" in found


def test_results_read_from_disk_give_the_same_report(results, folder, source, tmp_path, undrawn):
    read = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert write(read, tmp_path).text == write(results, tmp_path).text


@pytest.mark.parametrize(
    ("value", "form", "down", "up"),
    [
        (0.12341, ".4f", "0.1234", "0.1235"),
        (0.5, ".4f", "0.5000", "0.5000"),
        (0.15, ".4f", "0.1500", "0.1500"),  # as it is written, though the float is a rounding away
        (1.21e-7, ".1e", "1.2e-07", "1.3e-07"),
        (9.91e-7, ".1e", "9.9e-07", "1.0e-06"),
        (0.99999999, ".6f", "0.999999", "1.000000"),
        (-0.00001, ".4f", "-0.0001", "-0.0000"),
        (0.0, ".1e", "0.0e+00", "0.0e+00"),
    ],
)
def test_bounds_are_rounded_outward(value, form, down, up):
    assert (text(value, form, DOWN), text(value, form, UP)) == (down, up)
    assert text(math.nan, form, UP) == "-"
    assert text(numpy.float64(value), form, UP) == up  # whose repr is not that of a float


def test_the_bounds_of_a_report_bound_what_was_found(results):
    """Every upper bound that is printed is no smaller than the number, and every lower one no larger."""
    page = "\n".join(sentence for told in certainty(results).values() for sentence in told)
    largest = max(map(residual, results["records"]))
    assert float(re.search(r"is larger than (\S+) of", page)[1]) >= largest
    radii = (max(one["certificate"]["radii"]) / abs(one["eigenvalues"][0]) for one in results["records"])
    assert float(re.search(r"are within (\S+) of the largest", page)[1]) >= max(radii)
    least = min(value for record in results["records"] for value in record["exact"]["subspace_overlap"])
    assert float(re.search(r"Hessian by at least (\S+) at every", page)[1]) <= least
    low, high = (float(end) for end in re.search(r"eigenspace is between (\S+) and (\S+), if", page).groups())
    known = [row for row in table_rows(results["records"][-1], results["table_k"]) if math.isfinite(row.error[0])]
    assert low <= known[-1].error[0] <= known[-1].error[1] <= high


def test_what_is_equal_is_said_once(results):
    """Of a network that does not change nobody learns at which step it was highest."""
    same = copy.deepcopy(results)
    first = [record for record in same["records"] if record["step"] == 0]
    same["records"] = [copy.deepcopy(record) | {"step": step} for step in (0, 2) for record in first]
    for record in same["records"]:
        record["participation_ratio"] = [3.0] * 6
    sentences = [sentence for told in findings(same).values() for sentence in told]
    assert any("it is " in one and " at every step. Of 2 records" in one for one in sentences)
    assert any("the participation ratio, is 3 of 27" in one for one in sentences)
    assert not any(re.search(r" (\S+) to \1\b", one) for one in sentences)


def test_solves_have_the_order_of_the_other_tables(source):
    rows = [row for row in Page(source).rows if len(row) == 11 and row[1] in ("train", "test")]
    assert [(row[1], row[0]) for row in rows] == [(split, step) for split in ("train", "test") for step in "024"]
