"""Overlays show what the maps say."""

import numpy as np

import sfocus_tf as sf
from sfocus_tf import report
from tests.conftest import pictures, tiny_classifier


def test_overlay_colours_where_the_attention_is_and_leaves_the_rest():
    image = np.full((8, 8, 3), 100.0)
    map_ = np.zeros((8, 8))
    map_[2, 5] = 1e-12
    shown = report.overlay(image, map_)
    assert shown.shape == (8, 8, 3) and shown.min() >= 0 and shown.max() <= 1
    coloured = np.abs(shown - 100 / 255).max(-1) > 0.1
    assert coloured[2, 5] and coloured.sum() == 1
    np.testing.assert_allclose(report.overlay(image, np.zeros((4, 4))), 100 / 255)


def test_figure_has_a_row_a_picture_and_names_the_classes(tmp_path):
    images = pictures(3) * 255
    explanation = sf.SharpenFocus(tiny_classifier()).explain(images)
    figure = report.attention_figure(images, explanation, ("ant", "bee", "cat"), ["ant", "bee", "cat"])
    assert len(figure.axes) == 15
    titles = [axis.get_title() for axis in figure.axes]
    names = ("ant", "bee", "cat")
    for row in range(3):
        assert names[row] in titles[5 * row]
        assert f"target: {names[explanation.target[row]]}\ninner layer" in titles[5 * row + 1]
        assert f"rival: {names[explanation.rival[row]]}\nlast layer" in titles[5 * row + 4]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
