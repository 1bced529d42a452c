"""The figures: what is drawn is what was measured, the same every time, and none of the user's settings is touched."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from study_cases import run

from eigenspan.studies.drawing import write_figure
from eigenspan.studies.plots import BAND, save_figures

NAMES = ["overlap-by-step", "overlap-by-k", "spectrum", "residuals", "exact"]


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


def test_each_figure_is_a_png_and_an_svg(drawn, folder):
    assert list(drawn) == NAMES
    paths = {path.name for path in (folder / "figures").iterdir()}
    assert paths == {f"{name}{suffix}" for name in drawn for suffix in (".png", ".svg")}
    for name in drawn:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not root.findall(".//{http://purl.org/dc/elements/1.1/}date")


def test_the_same_results_give_the_same_files_whatever_the_users_settings(single, tmp_path):
    save_figures(single, tmp_path / "one")
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "black", "savefig.dpi": 20}):
        before = dict(matplotlib.rcParams)
        save_figures(single, tmp_path / "two")
        assert dict(matplotlib.rcParams) == before
    for path in (tmp_path / "one" / "figures").iterdir():
        assert (tmp_path / "two" / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("method", ["FigureCanvasSVG.print_svg", "FigureCanvasAgg.print_png"])
def test_a_figure_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch, method):
    write_figure(Figure(), tmp_path / "figure")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"figure.svg", "figure.png"}

    def full(self, target, **_):
        Path(target).write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(f"eigenspan.studies.drawing.{method}", full)
    with pytest.raises(OSError, match="no space left"):
        write_figure(Figure(), tmp_path / "figure")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pyplot_is_not_imported():
    """Its global state would be the user's; importing it may also open a display."""
    code = "import sys, eigenspan.studies.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 6])
def test_overlap_by_step_has_both_levels_of_chance(results, drawn, k):
    axes = panel(drawn, "overlap-by-step", f"overlap at k = {k}")
    records, steps = results["records"], [0, 2]
    overlap = line(axes, "overlap")
    assert overlap.get_xdata().tolist() == steps
    assert list(overlap.get_ydata()) == [record["overlap"][k - 1] for record in records]
    for null, band in zip(("uniform", "stratified"), axes.collections, strict=True):
        mean, std = ([record[f"chance_{null}"][what][k - 1] for record in records] for what in ("mean", "std"))
        level = line(axes, f"{null} chance")
        assert level.get_xdata().tolist() == steps
        assert level.get_ydata().tolist() == mean
        corners = band.get_paths()[0].vertices
        for step, middle, spread in zip(steps, mean, std, strict=True):
            heights = corners[corners[:, 0] == step, 1]
            assert heights.max() == pytest.approx(middle + BAND * spread)
            assert heights.min() == pytest.approx(max(middle - BAND * spread, 0))
    assert axes.get_ylim()[0] == 0


def test_the_loss_is_beside_it(results, drawn):
    axes = panel(drawn, "overlap-by-step", "loss")
    losses = [record["loss"] for record in results["records"]]
    assert list(axes.lines[0].get_ydata()) == losses


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


def test_every_figure_has_words_and_no_labels_that_overlap(drawn):
    for one in drawn.values():
        assert len(one.caption) > 40
        assert any(character.isdigit() for character in one.alternative)
        one.figure.draw_without_rendering()
        for axes in one.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
                assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
        titles = [axes.title.get_window_extent() for axes in one.figure.axes if axes.get_title()]
        assert not any(first.overlaps(second) for first, second in itertools.combinations(titles, 2))


# -- little and missing -----------------------------------------------------------------------------------------------


def test_a_single_record_and_a_single_k(single, tmp_path):
    figures = {one.name: one for one in save_figures(single, tmp_path)}
    assert list(figures) == NAMES[:-1]
    (record,) = single["records"]
    axes = panel(figures, "overlap-by-step", "overlap at k = 1")
    assert line(axes, "overlap").get_ydata() == record["overlap"]
    level = line(axes, "stratified chance")
    assert level.get_ydata().tolist() == 2 * record["chance_stratified"]["mean"]
    assert np.ptp(level.get_xdata()) > 0
    assert axes.get_xticks().tolist() == [0]
    for one in figures.values():
        assert "step 0" in one.figure.get_suptitle()
        assert "training step" not in [axes.get_ylabel() for axes in one.figure.axes]
    assert [text.get_text() for axes in figures["spectrum"].figure.axes for text in axes.texts] == ["none"]


def test_what_is_null_is_left_out(results, tmp_path):
    """Files hold null for numbers that were not finite; warnings would be errors here."""
    holed = copy.deepcopy(results)
    for record in holed["records"]:
        record["residual_norms"] = [None] * 6
        record["chance_stratified"] = {"mean": [None] * 6, "std": [None] * 6}
        record["chance_uniform"]["std"] = [None] * 6
        record["overlap"][0] = None
        record["exact"]["subspace_overlap"][2] = None
    figures = {one.name: one for one in save_figures(holed, tmp_path)}
    assert "not measured" in figures["residuals"].alternative
    top = panel(figures, "overlap-by-k", "overlap")
    assert drawn_lines(top, 1)[0].get_xdata().tolist() == [2, 3, 4, 5, 6]
    missed = panel(figures, "exact", "eigenspace missed: 1 − overlap with the exact one")
    assert missed.lines[0].get_xdata().tolist() == [1, 2, 4, 5, 6]


def test_zero_eigenvalues_and_levels_are_drawn_without_a_warning(single, tmp_path):
    flat = copy.deepcopy(single)
    (record,) = flat["records"]
    record["eigenvalues"], record["residual_norms"] = [0.0], [0.0]
    record["chance_stratified"] = {"mean": [0.0], "std": [0.0]}
    figures = {one.name: one for one in save_figures(flat, tmp_path)}
    assert [text.get_text() for axes in figures["spectrum"].figure.axes for text in axes.texts] == ["none", "none"]
