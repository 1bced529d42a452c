"""Panels for anyone's results: what is drawn is what was given, in words and colours that are told apart."""

import math
from colorsys import rgb_to_hls

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

import eigenspan as es
from eigenspan.linops.composition import Composition
from eigenspan.studies.drawing import NULLS, SEQUENTIAL, own_style, write_figure
from eigenspan.studies.panels import (
    plot_composition,
    plot_layer_energy,
    plot_overlap_curve,
    plot_overlap_matrix,
    plot_principal_angles,
)

COMPOSITION = Composition("tensor", ("a.weight", "a.bias", ""), (6, 3, 1), (3, 0, 1))


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.fixture(scope="module")
def curves():
    generator = torch.Generator().manual_seed(5)
    vectors = torch.linalg.qr(torch.randn(40, 6, generator=generator, dtype=torch.float64)).Q
    B = es.EigenSubspace(vectors, torch.arange(6, 0, -1, dtype=torch.float64))
    scores = torch.rand(40, generator=generator)
    return [es.chance_curve(scores, B, strata, draws=99) for strata in (None, torch.arange(40) // 10)]


def texts(axes):
    """The words in a panel by their (x, y)."""
    return {text.get_position(): text.get_text() for text in axes.texts}


def ends_at(band, x):
    corners = band.get_paths()[0].vertices
    heights = corners[corners[:, 0] == x, 1]
    return heights.min(), heights.max()


# -- overlap by k -----------------------------------------------------------------------------------------------------


def test_an_overlap_curve_has_the_mean_and_interval_of_each_null(axes, curves):
    plot_overlap_curve(axes, curves, level=0.8)
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(drawn) == ["uniform chance, 80% interval", "stratified chance, 80% interval", "overlap"]
    assert drawn["overlap"].tolist() == curves[0].observed.tolist()
    for curve, band in zip(curves, axes.collections, strict=True):
        assert drawn[f"{curve.null} chance, 80% interval"].tolist() == curve.mean.tolist()
        low, high = curve.interval(0.8)
        for k in range(1, 7):
            assert ends_at(band, k) == pytest.approx((float(low[k - 1]), float(high[k - 1])))
    assert axes.get_ylim()[0] == 0


def test_an_overlap_curve_with_its_own_error(axes, curves):
    low, high = curves[0].observed - 0.01, curves[0].observed + 0.02
    low[4] = high[4] = math.nan
    plot_overlap_curve(axes, curves[0], error=(low, high))
    assert len(axes.lines) == 2
    (band,) = [one for one in axes.collections if one.get_label() == "error of the eigenspace"]
    assert ends_at(band, 2) == pytest.approx((float(low[1]), float(high[1])))
    assert not any(5.0 in path.vertices[:, 0] for path in band.get_paths())


def test_an_error_that_knows_nothing_does_not_stretch_the_axis(axes, curves):
    plot_overlap_curve(axes, curves)
    height = axes.get_ylim()
    axes.clear()
    plot_overlap_curve(axes, curves, error=(curves[0].observed * 0, curves[0].observed * 0 + 1))
    assert axes.get_ylim() == pytest.approx(height)


def test_overlaps_that_differ_do_not_share_a_panel(axes, curves):
    other = es.chance_curve(torch.arange(40.0), eigenspace_of_axes(), draws=9)
    with pytest.raises(ValueError, match="same overlaps under different nulls"):
        plot_overlap_curve(axes, [curves[0], other])
    with pytest.raises(ValueError, match="no curve to plot"):
        plot_overlap_curve(axes, [])


def eigenspace_of_axes():
    return es.EigenSubspace(torch.eye(40)[:, :6], torch.arange(6, 0, -1.0))


# -- heat maps --------------------------------------------------------------------------------------------------------


def test_an_overlap_matrix_with_few_cells_has_their_values(axes):
    matrix = torch.tensor([[1.0, 0.25, math.nan], [0.0, 0.5, 0.75]])
    plot_overlap_matrix(axes, matrix, [0, 100], ["x", "y", "z"])
    (image,) = axes.images
    assert np.array_equal(image.get_array().filled(np.nan), matrix.numpy(), equal_nan=True)
    assert image.get_clim() == (0, 1)
    assert texts(axes) == {(0, 0): "1.00", (1, 0): "0.25", (0, 1): "0.00", (1, 1): "0.50", (2, 1): "0.75"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "100"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert axes.yaxis_inverted()


def test_values_stand_out_from_their_cells(axes):
    plot_overlap_matrix(axes, np.linspace(0, 1, 11)[None], ["a"], range(11))
    for text in axes.texts:
        background = rgb_to_hls(*SEQUENTIAL(text.get_position()[0] / 10)[:3])[1]
        assert abs(background - rgb_to_hls(*to_rgb(text.get_color()))[1]) > 0.3


def test_an_overlap_matrix_with_many_cells_has_colours_alone(axes):
    plot_overlap_matrix(axes, torch.eye(60), range(60))
    assert not axes.texts
    assert len(axes.get_yticks()) <= 20
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(step) for step in range(0, 60, 5)]


def test_narrow_cells_have_colours_alone(axes):
    plot_overlap_matrix(axes, torch.zeros(4, 20), range(4), range(20))
    assert not axes.texts


def test_an_overlap_matrix_that_is_none_is_refused(axes):
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        plot_overlap_matrix(axes, [[1.5]], ["a"])
    with pytest.raises(ValueError, match=r"got 2 and 2 for shape \(1, 2\)"):
        plot_overlap_matrix(axes, [[0.5, 0.5]], ["a", "b"])


def test_layer_energy_is_coloured_up_to_the_largest_share(axes):
    energy = torch.tensor([[0.1, 0.2], [0.4, 0.3]])
    plot_layer_energy(axes, energy, ["0.weight", ""])
    assert axes.images[0].get_clim() == (0, pytest.approx(0.4))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.weight", "(model)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert texts(axes)[(1, 0)] == "0.20"
    with pytest.raises(ValueError, match=r"got 1 and 2 for shape \(2, 2\)"):
        plot_layer_energy(axes, energy, ["a"])


# -- composition and angles -------------------------------------------------------------------------------------------


def test_a_composition_stands_beside_all_parameters(axes):
    plot_composition(axes, COMPOSITION)
    parameters, mask = axes.containers
    assert [bar.get_width() for bar in parameters] == pytest.approx([0.6, 0.3, 0.1])
    assert [bar.get_width() for bar in mask] == pytest.approx([0.75, 0, 0.25])
    assert [text.get_text() for text in axes.texts] == ["0.5", "0", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a.weight", "a.bias", "(model)"]
    for bars in zip(parameters, mask, strict=True):  # beside one another, around the tick
        edges = [edge for bar in bars for edge in (bar.get_y(), bar.get_y() + bar.get_height())]
        assert edges == pytest.approx(sorted(edges))
        assert sum(edges) / 4 == pytest.approx(parameters.index(bars[0]))


def test_compositions_by_name(axes):
    plot_composition(axes, {f"step {step}": COMPOSITION for step in range(4)})
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["all parameters", "step 0", "step 1", "step 2", "step 3"]
    assert not axes.texts  # no room for densities
    assert len({bars[0].get_facecolor() for bars in axes.containers}) == 5


def test_compositions_of_different_models_are_refused(axes):
    other = Composition("tensor", ("b",), (10,), (4,))
    with pytest.raises(ValueError, match="those of 2 models"):
        plot_composition(axes, {"one": COMPOSITION, "two": other})
    with pytest.raises(ValueError, match="at least one"):
        plot_composition(axes, {})


def test_principal_angles_are_counted_in_degrees(axes):
    tilted = torch.zeros(6, 3, dtype=torch.float64)
    tilted[0, 0] = tilted[5, 2] = 1  # 0 and 90 degrees
    tilted[1, 1], tilted[4, 1] = math.cos(math.radians(32)), math.sin(math.radians(32))
    mask = es.MaskSubspace.from_indices(torch.arange(3), 6, torch.float64)
    plot_principal_angles(axes, es.principal_angles(mask, es.OrthonormalSubspace(tilted)))
    heights = {bar.get_x(): bar.get_height() for bar in axes.patches}
    assert {start: height for start, height in heights.items() if height} == {0: 1, 30: 1, 85: 1}
    assert axes.get_xlim() == (0, 90)


def test_principal_angles_beside_those_of_random_subspaces(axes):
    """All of them, and where they are; some are zero where there is no room for others."""
    A, B = (es.OrthonormalSubspace.random(100, k, seed=k, dtype=torch.float64) for k in (40, 70))
    plot_principal_angles(axes, es.principal_angles(A, B), ambient_dim=100)
    (expected,) = (patch for patch in axes.patches if isinstance(patch, StepPatch))
    values, counts = expected.get_data().values, [bar.get_height() for bar in axes.patches if bar is not expected]
    assert values.sum() == pytest.approx(40)
    assert values[0] == pytest.approx(10, abs=0.5) == counts[0]
    assert np.abs(np.cumsum(values) - np.cumsum(counts)).max() < 2.5  # of one draw, whose angles repel one another
    assert axes.get_legend().get_texts()[0].get_text() == "random subspaces"
    with pytest.raises(ValueError, match="larger space than that of ambient_dim=69"):
        plot_principal_angles(axes, es.principal_angles(A, B), ambient_dim=69)


# -- colours and files ------------------------------------------------------------------------------------------------


def test_levels_of_chance_differ_in_colour_and_dashes():
    colors, dashes = zip(*NULLS.values(), strict=True)
    assert len(set(colors)) == len(set(dashes)) == len(NULLS)


def test_lightness_falls_along_the_sequential_colours():
    lightness = SEQUENTIAL(np.linspace(0, 1, 50))[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) < 0).all()


def test_panels_are_written_in_the_style_of_the_studies(tmp_path, curves):
    with own_style():
        figure = Figure(layout="constrained")
        plot_overlap_curve(figure.subplots(), curves)
        write_figure(figure, tmp_path / "mine")
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "mine.svg").stat().st_size > 1000
