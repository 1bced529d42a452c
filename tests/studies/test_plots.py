"""The figures: what is drawn is what was measured, the same every time, and none of the user's settings is touched."""

import copy
import itertools
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from study_cases import run

from eigenspan.studies import plots
from eigenspan.studies.comparison_plots import comparison_figure
from eigenspan.studies.drawing import draw_lines, empty_figure, write_figure
from eigenspan.studies.plots import save_figures

NAMES = [
    "overlap-by-step",
    "overlap-by-k",
    "energy-by-layer",
    "through-training",
    "beside-others",
    "spectrum",
    "residuals",
    "exact",
    "mask-by-layer",
]
UNKNOWN = {name: [None] * 6 for name in ("mean", "std", "low", "high", "p_value")}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Those of a sketch, for its errors can be seen."""
    return run(tmp_path_factory.mktemp("study"), exact=True, solver="sketched", steps=2)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return run(tmp_path_factory.mktemp("study"), steps=0, k=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def drawn(results, folder):
    return {one.name: one for one in save_figures(results, folder)}


@pytest.fixture
def unwritten(monkeypatch):
    """Figures without their files, which take the time."""
    monkeypatch.setattr(plots, "write_figure", lambda figure, stem: None)


@pytest.fixture
def laid_out(monkeypatch):
    """Figures without their files, but drawn, since warnings come with that."""
    monkeypatch.setattr(plots, "write_figure", lambda figure, stem: figure.draw_without_rendering())


def panel(drawn, name, title):
    (axes,) = [axes for axes in drawn[name].figure.axes if axes.get_title() == title]
    return axes


def line(axes, label):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


def drawn_lines(axes, count):
    """The lines of the steps, which come last and have no label."""
    return axes.lines[-count:]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_title_is_no_formula(results, tmp_path):
    """Although there is a dollar sign before and after what would be none."""
    assert len(save_figures({**results, "title": r"$\frac$"}, tmp_path)) == len(NAMES)


def test_a_long_title_is_in_lines_and_of_a_very_long_one_there_is_the_beginning(single, tmp_path, laid_out):
    for one in save_figures({**single, "title": "A title of many words, and more of them. " * 30}, tmp_path):
        assert one.figure.get_suptitle().startswith("A title of many words")
        assert one.figure.get_suptitle().endswith(" …")
        (title,) = [text for text in one.figure.texts if text.get_text() == one.figure.get_suptitle()]
        assert title.get_window_extent().x0 >= 0
        assert title.get_window_extent().x1 <= one.figure.bbox.x1


def test_each_figure_is_a_png_and_an_svg(drawn, folder):
    assert list(drawn) == NAMES
    paths = {path.name for path in (folder / "figures").iterdir()}
    assert paths == {f"{name}{suffix}" for name in drawn for suffix in (".png", ".svg")}
    for name in drawn:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not root.findall(".//{http://purl.org/dc/elements/1.1/}date")


@pytest.mark.slow
def test_the_same_results_give_the_same_files_whatever_the_users_settings(single, tmp_path):
    save_figures(single, tmp_path / "one")
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "black", "savefig.dpi": 20}):
        before = dict(matplotlib.rcParams)
        save_figures(single, tmp_path / "two")
        assert dict(matplotlib.rcParams) == before
    for path in (tmp_path / "one" / "figures").iterdir():
        assert (tmp_path / "two" / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_png_has_as_many_pixels_as_the_figure_says(tmp_path):
    """To draw in vectors sets 72 an inch, in which letters are hard to read."""
    figure = empty_figure((3, 2))
    figure.subplots()
    write_figure(figure, tmp_path / "figure")
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[:2] == (300, 450)


@pytest.mark.parametrize("method", ["FigureCanvasSVG.print_svg", "FigureCanvasAgg.print_png"])
def test_a_figure_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch, method):
    write_figure(Figure(), tmp_path / "figure")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"figure.svg", "figure.png"}

    def full(self, target, **_):
        if isinstance(target, Path):  # else memory
            target.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(f"eigenspan.studies.drawing.{method}", full)
    with pytest.raises(OSError, match="no space left"):
        write_figure(Figure(), tmp_path / "figure")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 6])
def test_overlap_by_step_has_both_levels_of_chance(results, drawn, k):
    axes = panel(drawn, "overlap-by-step", f"overlap at k = {k}")
    records, steps = results["records"], [0, 2]
    overlap = line(axes, "overlap")
    assert overlap.get_xdata().tolist() == steps
    assert list(overlap.get_ydata()) == [record["overlap"][k - 1] for record in records]
    for null, band in zip(("uniform", "stratified"), axes.collections[:2], strict=True):
        mean, low, high = (
            [record[f"chance_{null}"][what][k - 1] for record in records] for what in ("mean", "low", "high")
        )
        level = line(axes, f"{null} chance, 95% of masks")
        assert level.get_xdata().tolist() == steps
        assert level.get_ydata().tolist() == mean
        corners = band.get_paths()[0].vertices
        for step, *ends in zip(steps, low, high, strict=True):
            heights = corners[corners[:, 0] == step, 1]
            assert [heights.min(), heights.max()] == ends
    assert axes.get_ylim()[0] == 0


def test_the_error_of_the_eigenvectors_is_a_bar_behind_the_overlap(results, tmp_path, unwritten):
    known = copy.deepcopy(results)
    for record in known["records"]:
        record["overlap_error"] = {"low": [0.1] * 6, "high": [0.4] * 6}
    figures = {one.name: one for one in save_figures(known, tmp_path)}
    bars = panel(figures, "overlap-by-step", "overlap at k = 6").collections[2]
    assert [bar.tolist() for bar in bars.get_segments()] == [[[step, 0.1], [step, 0.4]] for step in (0, 2)]


def test_the_loss_is_beside_it(results, drawn):
    axes = panel(drawn, "overlap-by-step", "loss")
    losses = [record["loss"] for record in results["records"]]
    assert list(axes.lines[0].get_ydata()) == losses
    assert axes.get_ylim()[0] == 0


def test_a_loss_may_be_negative(results, tmp_path, unwritten):
    below = copy.deepcopy(results)
    for record in below["records"]:
        record["loss"] -= 10
    figures = {one.name: one for one in save_figures(below, tmp_path)}
    axes = panel(figures, "overlap-by-step", "loss")
    low, high = axes.get_ylim()
    assert low < min(axes.lines[0].get_ydata()) < high


def test_overlap_by_k_is_drawn_as_it_is_and_relative_to_chance(results, drawn):
    records, k = results["records"], np.arange(1, 7)
    top = panel(drawn, "overlap-by-k", "overlap")
    for drawing, record in zip(drawn_lines(top, 2), records, strict=True):
        assert drawing.get_xdata().tolist() == k.tolist()
        assert drawing.get_ydata().tolist() == record["overlap"]
    assert any(np.allclose(one.get_ydata(), k / 27) for one in top.lines[:-2])
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == ["uniform chance, all steps", "stratified chance, all steps"]
    for null in ("uniform", "stratified"):
        axes = panel(drawn, "overlap-by-k", f"overlap / {null} chance")
        assert [1, 1] in [list(one.get_ydata()) for one in axes.lines]
        for drawing, record in zip(drawn_lines(axes, 2), records, strict=True):
            ratio = np.array(record["overlap"]) / np.array(record[f"chance_{null}"]["mean"])
            assert drawing.get_ydata() == pytest.approx(ratio)
        chances = [{name: np.array(curve) for name, curve in record[f"chance_{null}"].items()} for record in records]
        corners = axes.collections[0].get_paths()[0].vertices
        for k in range(1, 7):
            heights = corners[corners[:, 0] == k, 1]
            assert heights.min() == pytest.approx(min((one["low"] / one["mean"])[k - 1] for one in chances))
            assert heights.max() == pytest.approx(max((one["high"] / one["mean"])[k - 1] for one in chances))


def test_layers_of_eigenvectors_are_those_of_the_last_record(results, drawn):
    record = results["records"][-1]
    vectors = panel(drawn, "energy-by-layer", "energy of eigenvectors, step 2")
    spaces = panel(drawn, "energy-by-layer", "mean of the first k, step 2")
    for axes, what in ((vectors, "eigenvectors"), (spaces, "eigenspaces")):
        assert axes.images[0].get_array().tolist() == record["layer_energy"][what]
    assert [label.get_text() for label in vectors.get_yticklabels()] == results["parameters"]["names"]
    assert not spaces.get_yticklabels()  # the rows are those beside it
    assert [label.get_text() for label in spaces.get_xticklabels()] == ["2", "6"]
    ratios = panel(drawn, "energy-by-layer", "participation ratio")
    for drawing, one in zip(ratios.lines, results["records"], strict=True):
        assert list(drawing.get_ydata()) == one["participation_ratio"]


def test_layers_of_the_mask_are_those_of_the_first_and_last_record(results, drawn):
    (axes,) = drawn["mask-by-layer"].figure.axes
    for bars, record in zip(axes.containers[1:], results["records"], strict=True):
        assert bars.get_label() == f"step {record['step']}"
        assert [6 * bar.get_width() for bar in bars] == pytest.approx(record["mask_counts"])


def test_two_splits_have_one_figure_of_the_mask(results, tmp_path, unwritten):
    both = copy.deepcopy(results)
    both["records"] += [record | {"split": "test"} for record in both["records"]]
    both["tracking"]["test"] = both["tracking"]["train"]
    names = [one.name for one in save_figures(both, tmp_path)]
    assert names == [*(f"{name}-{split}" for split in ("train", "test") for name in NAMES[:-1]), "mask-by-layer"]


def test_steps_are_compared_with_one_another(results, drawn):
    at_k = results["tracking"]["train"]["by_k"]["6"]
    for title, matrix in (
        ("eigenvectors with eigenvectors, k = 6", at_k["eigenspaces"]),
        ("masks with masks, k = 6", at_k["masks"]["magnitude"]),
        ("mask (row) with eigenvectors (column), k = 6", at_k["masks_with_eigenspaces"]["magnitude"]),
    ):
        image = panel(drawn, "through-training", title).images[0]
        np.testing.assert_array_equal(image.get_array(), matrix)
    lines = drawn_lines(panel(drawn, "through-training", "share of the gradient"), 3)[:2]
    for line, shares in zip(lines, results["tracking"]["train"]["gradient_shares"], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), shares)


def test_of_very_many_tensors_the_lightest_share_a_row(results, folder, unwritten):
    """A row for each would be a picture a thousand inches high, which nobody reads. What is added up is all there."""
    many, generator = copy.deepcopy(results), np.random.default_rng(0)
    many["parameters"] = {"names": [f"block.{index}" for index in range(2000)], "sizes": [3] * 2000}
    for record in many["records"]:
        record.pop("comparison", None)
        record["mask_counts"] = [0] * 2000
        for index in (7, 7, 30, 999, 1998, 1999):
            record["mask_counts"][index] += 1
        for what, energy in record["layer_energy"].items():
            record["layer_energy"][what] = generator.dirichlet(np.ones(2000), len(energy[0])).T.tolist()
    many.pop("tracking", None)
    figures = {one.name: one for one in save_figures(many, folder)}
    assert max(one.figure.get_figheight() for one in figures.values()) < 60
    (axes,) = figures["mask-by-layer"].figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 101
    assert labels[-1] == "1,900 others"
    everything, first, _ = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert everything[-1] == pytest.approx(1900 / 2000)
    assert sum(everything) == pytest.approx(1)
    assert sorted(first)[-5:] == pytest.approx([1 / 6] * 4 + [2 / 6])
    assert sum(first) == pytest.approx(1)
    spaces = panel(figures, "energy-by-layer", "mean of the first k, step 2").images[0].get_array()
    vectors = panel(figures, "energy-by-layer", "energy of eigenvectors, step 2")
    assert [label.get_text() for label in vectors.get_yticklabels()][-1] == "1,900 others"
    assert len(vectors.get_yticklabels()) == 101
    energy = np.array(many["records"][-1]["layer_energy"]["eigenspaces"])
    heaviest = np.sort((-energy[:, -1]).argsort(kind="stable")[:100])
    np.testing.assert_array_equal(spaces[:-1], energy[heaviest])
    np.testing.assert_allclose(spaces[-1], 1 - energy[heaviest].sum(axis=0), rtol=1e-12)


def test_of_very_many_tensors_the_largest_are_compared(results, folder, unwritten):
    """Of overlaps there is no sum."""
    many = copy.deepcopy(results)
    names, sizes = [f"block.{index}" for index in range(2000)], [3] * 2000
    sizes[1000:1100] = [4] * 100
    for tracking in many["tracking"].values():
        for at_k in tracking["by_k"].values():
            at_k["layers"] = {name: [[1.0, index / 2000], [index / 2000, 1.0]] for index, name in enumerate(names)}
    many["parameters"] = {"names": names, "sizes": sizes}
    figure = comparison_figure(many, many["records"])
    axes = next(axes for axes in figure.figure.axes if axes.get_title() == "layers: overlap with the step before")
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(index) for index in range(1000, 1100)]
    np.testing.assert_array_equal(axes.images[0].get_array()[:, 0], np.arange(1000, 1100) / 2000)
    assert figure.figure.get_figheight() < 60
    assert "Only the 100 largest of 2,000 tensors are followed." in figure.caption


def test_the_spectrum_tells_signs_apart_on_a_logarithmic_axis(results, drawn):
    for sign, title in ((1, "positive eigenvalues"), (-1, "negative eigenvalues")):
        axes = panel(drawn, "spectrum", title)
        assert axes.get_yscale() == "log"
        for curves, drawings in (
            ([record["eigenvalues"] for record in results["records"]], axes.lines[:2]),
            ([record["exact"]["eigenvalues"] for record in results["records"]], axes.lines[2:]),
        ):
            for values, drawing in zip(curves, drawings, strict=True):
                wanted = [(i, sign * value) for i, value in enumerate(values, 1) if sign * value > 0]
                assert list(zip(*drawing.get_data(), strict=True)) == wanted


def test_residuals_are_relative_to_the_top_eigenvalue(results, drawn):
    axes = panel(drawn, "residuals", "relative residual norm")
    for drawing, record in zip(axes.lines, results["records"], strict=True):
        relative = np.array(record["residual_norms"]) / abs(record["eigenvalues"][0])
        assert drawing.get_ydata() == pytest.approx(relative[relative > 0])


def test_exact_shows_the_errors_and_what_was_missed(results, drawn):
    errors = panel(drawn, "exact", "error of the eigenvalues")
    missed = panel(drawn, "exact", "eigenspace missed: 1 − overlap with the exact one")
    rounding = np.finfo(np.float64).eps
    for record, error, share in zip(results["records"], errors.lines, missed.lines, strict=True):
        found, exact = np.abs(record["eigenvalues"]), np.abs(record["exact"]["eigenvalues"])
        assert error.get_ydata() == pytest.approx(np.maximum(np.abs(found - exact) / found[0], rounding))
        assert share.get_ydata() == pytest.approx(
            np.maximum(1 - np.array(record["exact"]["subspace_overlap"]), rounding)
        )
    worst = 1 - min(overlap for record in results["records"] for overlap in record["exact"]["subspace_overlap"])
    assert worst > 1e-3  # or there would have been nothing to see
    assert f"{worst:.1e}" in drawn["exact"].alternative


def require_room(figures):
    """No labels of ticks, and no titles, that overlap one another."""
    for one in figures.values():
        one.figure.draw_without_rendering()
        for axes in one.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
                assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
        titles = [axes.title.get_window_extent() for axes in one.figure.axes if axes.get_title()]
        assert not any(first.overlaps(second) for first, second in itertools.combinations(titles, 2))


def test_every_figure_has_words_and_no_labels_that_overlap(drawn):
    require_room(drawn)
    for one in drawn.values():
        assert len(one.caption) > 40
        assert any(character.isdigit() for character in one.alternative)


@pytest.mark.parametrize(
    ("long", "shown"),
    [
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.default.{}", "{}"),
        (
            "{}.encoder.layer.0.attention.output.dense.adapter.weight",
            "{}.encoder.layer.0.attention.output.dense.adapter.weight",
        ),
    ],
)
def test_long_names_have_room_without_what_all_of_them_share(results, tmp_path, laid_out, long, shown):
    """Panels that are pressed to nothing come with a warning, an error here."""
    named = copy.deepcopy(results)
    old = results["parameters"]["names"]
    last = [name.replace(".", "_") for name in old]
    named["parameters"]["names"] = [long.format(name) for name in last]
    for tracked in named["tracking"].values():
        for one in tracked["by_k"].values():
            one["layers"] = {long.format(name.replace(".", "_")): overlaps for name, overlaps in one["layers"].items()}
    figures = {one.name: one for one in save_figures(named, tmp_path)}
    require_room(figures)
    for name in ("energy-by-layer", "mask-by-layer", "beside-others"):
        figure = figures[name].figure
        written = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
        assert [shown.format(name) for name in last] in written
        inches = [axes.get_window_extent().width / figure.dpi for axes in figure.axes if axes.get_title()]
        assert (
            min(inches, default=3) > 2.5
        )  # beside the labels, a panel keeps about the width that it has with short ones


@pytest.mark.parametrize(
    ("steps", "k", "marked", "picture"), [(5, 20, True, False), (200, 20, False, False), (200, 100, False, True)]
)
def test_of_many_records_the_lines_are_bare_and_of_very_many_they_are_a_picture(steps, k, marked, picture):
    """So that a page of hundreds of them stays small."""
    axes = Figure().subplots()
    draw_lines(axes, [{"step": step} for step in range(steps)], np.ones((steps, k)))
    assert all((one.get_marker() == "o") is marked for one in axes.lines)
    assert all(bool(one.get_rasterized()) is picture for one in axes.lines)


def test_a_line_of_one_point_is_seen():
    axes = Figure().subplots()
    draw_lines(axes, [{"step": step} for step in range(200)], np.ones((200, 1)))
    assert all(one.get_marker() == "o" for one in axes.lines)


# -- little and missing -----------------------------------------------------------------------------------------------


def test_a_single_record_and_a_single_k(single, tmp_path, laid_out):
    figures = {one.name: one for one in save_figures(single, tmp_path)}
    assert list(figures) == [name for name in NAMES if name not in ("exact", "through-training")]
    (record,) = single["records"]
    axes = panel(figures, "overlap-by-step", "overlap at k = 1")
    assert line(axes, "overlap").get_ydata() == record["overlap"]
    level = line(axes, "stratified chance, 95% of masks")
    assert level.get_ydata().tolist() == 2 * record["chance_stratified"]["mean"]
    assert np.ptp(level.get_xdata()) > 0
    assert axes.get_xticks().tolist() == [0]
    for one in figures.values():
        assert "step 0" in one.figure.get_suptitle() or one.name == "mask-by-layer"
        assert "training step" not in [axes.get_ylabel() for axes in one.figure.axes]
    assert [text.get_text() for axes in figures["spectrum"].figure.axes for text in axes.texts] == ["none"]


def energy(record):
    return record["layer_energy"]


def test_what_is_null_is_left_out(results, tmp_path, laid_out):
    """Files hold null for numbers that were not finite; warnings would be errors here."""
    holed = copy.deepcopy(results)
    for record in holed["records"]:
        record["residual_norms"] = [None] * 6
        record["chance_stratified"] = UNKNOWN
        record["chance_uniform"]["low"] = [None] * 6
        record["overlap_error"] = {"low": [None] * 6, "high": [None] * 6}
        record["layer_energy"] = {name: [[None] * len(row) for row in rows] for name, rows in energy(record).items()}
        record["participation_ratio"] = [None] * 6
        record["overlap"][0] = None
        record["exact"]["subspace_overlap"][2] = None
    figures = {one.name: one for one in save_figures(holed, tmp_path)}
    assert "not measured" in figures["residuals"].alternative
    top = panel(figures, "overlap-by-k", "overlap")
    assert drawn_lines(top, 1)[0].get_xdata().tolist() == [2, 3, 4, 5, 6]
    missed = panel(figures, "exact", "eigenspace missed: 1 − overlap with the exact one")
    assert missed.lines[0].get_xdata().tolist() == [1, 2, 4, 5, 6]


def test_zero_eigenvalues_and_levels_are_drawn_without_a_warning(single, tmp_path, laid_out):
    flat = copy.deepcopy(single)
    (record,) = flat["records"]
    record["eigenvalues"], record["residual_norms"] = [0.0], [0.0]
    record["chance_stratified"] = {name: [0.0] for name in UNKNOWN}
    record["exact"] = {"eigenvalues": [0.0], "subspace_overlap": [1.0]}
    figures = {one.name: one for one in save_figures(flat, tmp_path)}
    assert [text.get_text() for axes in figures["spectrum"].figure.axes for text in axes.texts] == ["none", "none"]
    assert "not measured" not in figures["residuals"].alternative
