"""Figures and pages show what the maps and the numbers say."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import evaluation, report
from sfocus_tf.attention import LayerMaps
from sfocus_tf.classifier import graph
from sfocus_tf.report import tf_keras_vis
from tests.conftest import crossentropy, first_images, random_images, tiny_classifier

NAMES = ("ant", "bee", "cat")


def test_overlay_colours_where_the_attention_is_and_leaves_the_rest():
    image = np.full((8, 8, 3), 100.0)
    map_ = np.zeros((8, 8))
    map_[2, 5] = 1e-12
    shown = report.overlay(image, map_)
    assert shown.shape == (8, 8, 3) and shown.min() >= 0 and shown.max() <= 1
    coloured = np.abs(shown - 100 / 255).max(-1) > 0.1
    assert coloured[2, 5] and coloured.sum() == 1
    np.testing.assert_allclose(report.overlay(image, np.zeros((4, 4))), 100 / 255)


def test_figure_shows_images_in_either_range_alike():
    images = random_images(2)
    explanation = sf.SharpenFocus(tiny_classifier()).explain(images)
    in_bytes, in_shares = (
        [axis.get_images()[0].get_array() for axis in report.attention_figure(each, explanation, NAMES).axes]
        for each in (images * 255, images)
    )
    for one, other in zip(in_bytes, in_shares, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(in_shares[0], images[0], atol=1e-6)


def test_figures_refuse_what_does_not_belong_together():
    images, model = random_images(3), sf.SharpenFocus(tiny_classifier())
    contrast, scores = (model.explain(images, of=of) for of in ("contrast", "score"))
    for arguments, message in (
        ((images[:2], contrast, NAMES), r"images: expected the 3 that were explained, got .* \(2, 8, 8, 3\)"),
        ((images[0], contrast, NAMES), r"images: expected the 3 that were explained, got .* \(8, 8, 3\)"),
        ((images, contrast, NAMES[:2]), "class_names: expected 3, one for each class, got 2"),
        ((images, contrast, (*NAMES, "dog")), "class_names: expected 3, one for each class, got 4"),
        ((images, contrast, NAMES, ["ant"]), "labels: expected 3, one for each image, got 1"),
        ((images[0], contrast.rows(0), NAMES), r"explanation: .*rows\(slice\(n, n \+ 1\)\)"),
    ):
        for figure in (report.contrast_figure, report.attention_figure):
            with pytest.raises(ValueError, match=message):
                figure(*arguments)
    assert ((scores.last.target > 0) & (scores.last.rival > 0)).any()
    with pytest.raises(ValueError, match="expected contrast maps, explain"):
        report.contrast_figure(images, scores, NAMES)


def test_figure_has_a_row_an_image_and_names_classes_and_overlap(tmp_path):
    images = random_images(3) * 255
    explanation = sf.SharpenFocus(tiny_classifier()).explain(images)
    figure = report.attention_figure(images, explanation, NAMES, list(NAMES))
    assert len(figure.axes) == 15
    titles = [axis.get_title() for axis in figure.axes]
    overlap = evaluation.region_iou(explanation.last.target, explanation.last.rival)
    for row in range(3):
        assert NAMES[row] in titles[5 * row]
        assert f"predicted: {NAMES[explanation.target[row]]}\nscore" in titles[5 * row + 1]
        assert "last layer" in titles[5 * row + 1] and "last layer" in titles[5 * row + 2]
        assert f"rival: {NAMES[explanation.rival[row]]}\nscore" in titles[5 * row + 2]
        assert f"overlap {overlap[row]:.2f}" in titles[5 * row + 2] or "no attention" in titles[5 * row + 2]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(report.attention_figure(images, explanation, NAMES, layers={"last": "pixels"}).axes) == 9
    others = explanation._replace(target=explanation.rival, rival=explanation.target)  # a class that is not predicted
    titles = [axis.get_title() for axis in report.attention_figure(images, others, NAMES).axes]
    assert titles[1].startswith(f"target: {NAMES[others.target[0]]}\n")
    empty = np.zeros((len(images), 0, 0), np.float32)  # as of explain(images, inner=False)
    last_alone = explanation._replace(inner=LayerMaps(empty, empty))
    assert len(report.attention_figure(images, last_alone, NAMES).axes) == 9


def no_maps(count):
    """Maps of so many images, without attention."""
    return LayerMaps(np.zeros((count, 1, 1)), np.zeros((count, 1, 1)))


@pytest.fixture
def two_models():
    """Two evaluations of 32 scenes, and the images."""
    data = sf.data.load("scenes", "validation", batch_size=16, image_size=16, regions=True)
    data = first_images(data, 32, 16)
    found = [evaluation.evaluate(sf.SharpenFocus(tiny_classifier(16, 16)), data) for _ in range(2)]
    images = np.concatenate([batch["image"] for batch in data.batches.as_numpy_iterator()])
    return *found, images


def test_comparison_counts_what_changed(two_models):
    a, b, _ = two_models
    found = report.compare(a, b)
    right = [each.explanation.scores.argmax(1) == each.labels for each in (a, b)]
    np.testing.assert_array_equal(found.mended, np.flatnonzero(~right[0] & right[1]))
    np.testing.assert_array_equal(found.broken, np.flatnonzero(right[0] & ~right[1]))
    by_name = {each.name: each for each in found.differences}
    assert found.differences[0].name == "accuracy" and by_name.keys() == a.summary().keys()
    both = ~np.isnan(a.confusion["overlap_last"]) & ~np.isnan(b.confusion["overlap_last"])
    assert by_name["overlap_last"].a == pytest.approx(a.confusion["overlap_last"][both].mean())
    assert by_name["pointing_last"].b == pytest.approx(b.summary()["pointing_last"])
    for each in found.differences:
        if not np.isnan(each.low):
            assert each.low - 1e-6 <= each.b - each.a <= each.high + 1e-6
    assert sum(pair.a for pair in found.pairs) == (~right[0]).sum()
    assert [pair.a + pair.b for pair in found.pairs] == sorted((pair.a + pair.b for pair in found.pairs), reverse=True)


def test_a_model_compared_with_itself_does_not_differ(two_models):
    a, b, _ = two_models
    assert all(each.low == each.high == 0 for each in report.compare(a, a).differences if not np.isnan(each.a))
    with pytest.raises(ValueError, match="same images"):
        report.compare(a, dataclasses.replace(b, labels=b.labels[::-1]))
    with pytest.raises(ValueError, match="expected the same measures; one alone has faithfulness: insertion"):
        report.compare(a, dataclasses.replace(b, faithfulness={"insertion": np.zeros(32)}))
    with pytest.raises(ValueError, match="expected maps of the same, got 'score' and 'contrast'"):
        report.compare(dataclasses.replace(a, of="score"), dataclasses.replace(b, of="contrast"))


def test_interval_is_that_of_a_paired_difference():
    """Of 100 images 30 are mended: the difference is 0.3 with a standard error of sqrt(0.3 * 0.7 / 100)."""
    labels = np.zeros(100, int)
    scores = np.tile([1.0, 0.0], (100, 1))
    worse = scores.copy()
    worse[:30] = worse[:30, ::-1]
    maps = no_maps(100)

    def evaluated(values):
        explanation = sf.Explanation(values, labels, 1 - labels, maps, maps)
        return evaluation.Evaluation(
            ("x", "y"), labels, explanation, labels == 0, {}, np.zeros((0, 2), int), {}, {}, explanation, "score"
        )

    (accuracy,) = report.compare(evaluated(worse), evaluated(scores)).differences
    error = np.sqrt(0.3 * 0.7 / 100)
    assert (accuracy.a, accuracy.b) == pytest.approx((0.7, 1.0))
    assert accuracy.low == pytest.approx(0.3 - 1.96 * error, abs=0.02)
    assert accuracy.high == pytest.approx(0.3 + 1.96 * error, abs=0.02)


@pytest.mark.parametrize("difficult", [0, 60])
def test_interval_of_mean_average_precision_is_around_it(difficult):
    rng = np.random.default_rng(0)
    present = (rng.random((200, 3)) < 0.3).astype(np.float32)
    labels = present.copy()
    labels[:difficult, 2] = np.nan
    maps = no_maps(200)

    def evaluated(noise):
        scores = present + rng.normal(0, noise, labels.shape)
        explanation = sf.Explanation(scores, labels, labels, maps, maps)
        valid = present.any(axis=1) & ~present.all(axis=1)
        return evaluation.Evaluation(
            NAMES, labels, explanation, valid, {}, np.zeros((0, 2), int), {}, {}, explanation, "score"
        )

    (precision,) = report.compare(evaluated(1.0), evaluated(0.5)).differences
    assert precision.name == "mAP" and 0 < precision.low < precision.b - precision.a < precision.high < 0.5


def test_page_is_whole_and_escapes_names(two_models):
    a, b, images = two_models
    names = tuple(f"<b>{name}" for name in a.class_names)
    a, b = (dataclasses.replace(each, class_names=names) for each in (a, b))
    page = report.comparison_page(a, b, lambda numbers: images, ("one", "two & more"), "scenes", most=5)
    assert "<b>" not in page and "&lt;b&gt;" in page and "two &amp; more" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page
    found = report.compare(a, b)
    shown = sum(min(len(numbers), 5) for numbers in (found.mended, found.broken, found.wrong))
    worst = min(int((np.nan_to_num(b.confusion["overlap_last"]) > 0).sum()), 5)
    assert page.count('<article class="card"') == shown + worst


def several_classes(scores, labels, rival_maps):
    """An evaluation made by hand."""
    ones = np.ones((len(labels), 2, 2))
    inner, last = LayerMaps(ones, ones), LayerMaps(ones, rival_maps)
    explanation = sf.Explanation(scores, labels.argmax(1), scores.argmax(1), inner, last)
    confusion = {f"overlap_{layer}": evaluation.region_iou(*last) for layer in ("inner", "last")}
    confusion |= {f"rival_share_{layer}": evaluation.rival_share(*last) for layer in ("inner", "last")}
    return evaluation.Evaluation(
        NAMES, labels, explanation, labels.any(axis=1), confusion, np.zeros((0, 2), int), {}, {}, explanation, "score"
    )


def test_page_of_images_with_several_classes_filters_as_the_matrix_counts():
    labels = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 0]], np.float32)
    scores = np.array([[1.0, 0, 3], [1, 2, 0], [0, 3, 1]])
    worse = np.array([[1.0, 0, 3], [1, 2, 3], [0, 3, 1]])
    maps = np.ones((3, 2, 2))
    maps[1] = 0
    a, b = several_classes(scores, labels, maps), several_classes(worse, labels, maps)
    page = report.comparison_page(a, b, lambda numbers: np.zeros((3, 4, 4, 3)), ("one", "two"), "three images")
    # Only in the second image is an absent class above a present one: above both for the first model.
    keys = set(re.findall(r'data-keys="([^"]*)"', page))
    assert keys == {"0-1 2-1", ""} and "no overlap: no attention" in page
    matrix = evaluation.confusion_matrix(scores, labels) + evaluation.confusion_matrix(worse, labels)
    assert {f"{row}-{column}" for row, column in np.argwhere(matrix)} == {"0-1", "2-1"}


def test_the_highest_overlap_comes_first(two_models):
    a, b, images = two_models
    overlap = np.linspace(0, 1, len(images))[np.random.default_rng(0).permutation(len(images))]
    b = dataclasses.replace(b, confusion=b.confusion | {"overlap_last": overlap})
    a = dataclasses.replace(a, confusion=a.confusion | {"overlap_last": np.zeros(len(images))})
    page = report.comparison_page(a, b, lambda numbers: images, ("one", "two"), "scenes", most=4)
    worst = page[page.index('<section id="worst">') :]
    shown = [float(value) for value in re.findall(r'class="last">, overlap ([\d.]+)', worst)][1::2]
    assert shown == [round(value, 2) for value in sorted(overlap, reverse=True)[:4]]


def test_images_are_taken_in_turn_from_confused_pairs():
    """Sorted by class, as folders are, with most for the first: each pair is among the first shown."""
    labels = np.repeat([0, 1, 2], [20, 4, 4])
    scores = np.eye(3)[(labels + 1) % 3]
    maps = LayerMaps(np.ones((28, 2, 2)), np.ones((28, 2, 2)))
    explanation = sf.Explanation(scores, labels, labels, maps, maps)
    confusion = {f"{name}_{layer}": np.ones(28) for name in ("overlap", "rival_share") for layer in ("inner", "last")}
    found = evaluation.Evaluation(
        NAMES, labels, explanation, labels >= 0, confusion, np.zeros((0, 2), int), {}, {}, explanation, "score"
    )
    page = report.comparison_page(
        found, found, lambda numbers: np.zeros((28, 4, 4, 3)), ("one", "two"), "birds", most=6
    )
    wrong = page[page.index('<section id="wrong">') : page.index('<section id="worst">')]
    assert re.findall(r'data-keys="([^"]*)"', wrong) == ["0-1", "1-2", "2-0"] * 2


@pytest.mark.parametrize("cam", tf_keras_vis.VIS_CAMS)
def test_tf_keras_vis_explain_the_same_classes(cam):
    model = sf.SharpenFocus(tiny_classifier())
    images = 255 * random_images(2)
    explanation = model.explain(images)
    other = tf_keras_vis.explain_by(cam, model, images, explanation)
    np.testing.assert_array_equal(other.target, explanation.target)
    size = (2, 8, 8) if cam == "vis:saliency" else (2, 4, 4)
    assert other.last.target.shape == size and np.isfinite(other.inner.rival).all() and other.inner.target.max() > 0
    with pytest.raises(ValueError, match="vis:score_cam"):
        tf_keras_vis.explain_by("vis:score-cam", model, images, explanation)


def test_tf_keras_vis_see_into_nested_models_in_which_two_layers_share_a_name():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 1, name="fine_conv")(inputs)  # a name that the network inside has too
    classifier = keras.Model(inputs, tiny_classifier()(x))
    model = sf.SharpenFocus(classifier)
    images = 255 * random_images(2)
    flat = graph.flat(classifier)
    np.testing.assert_allclose(flat(images), classifier(images), rtol=1e-6)
    assert {"fine_conv", "tiny.fine_conv"} <= {layer.name for layer in flat.layers}
    other = tf_keras_vis.explain_by("vis:grad_cam_plus_plus", model, images, model.explain(images))
    assert other.last.target.shape == (2, 4, 4) and other.inner.target.max() > 0


@pytest.mark.parametrize("count", [2, 6])
def test_comparison_figure_says_what_each_model_answers_and_why(count):
    data = first_images(sf.data.load("scenes", "validation", image_size=16, regions=True), 12, 12)
    a, b = (evaluation.evaluate(sf.SharpenFocus(tiny_classifier(16, 16)), data) for _ in range(2))
    numbers = list(range(0, 12, 2))[:count]
    images = data.images(numbers)
    figure = report.comparison_figure([images[number] for number in numbers], numbers, a, b, ("plain", "ours"))
    columns = min(4, count)
    grid = np.array(figure.axes).reshape(-1, columns)
    assert len(grid) == (3 if count == 2 else 6)
    assert [axis.get_ylabel() for axis in grid[:3, 0]] == ["label", "plain", "ours"]
    for place, number in enumerate(numbers):
        block, column = divmod(place, columns)
        at_image, of_a, of_b = grid[3 * block : 3 * block + 3, column]
        assert at_image.get_title() == data.class_names[a.labels[number]]
        np.testing.assert_array_equal(at_image.get_images()[0].get_array(), images[number])
        for axis, model in ((of_a, a), (of_b, b)):
            answer, share = axis.get_title().split("\n")
            name = data.class_names[model.explanation.scores[number].argmax()]
            assert answer == f"{'right' if name == at_image.get_title() else 'wrong'}: {name}"
            assert share.startswith(f"evidence: {100 * model.confusion['rival_share_last'][number]:.0f} % for ")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "evidence for the label", "evidence for its rival",
    ]  # fmt: skip
    assert sum(axis.axison for axis in figure.axes) == 3 * count  # places that are left over show no frame


def test_callback_logs_figures_and_measures(tmp_path):
    model = sf.SharpenFocus(tiny_classifier())
    model.compile("sgd", crossentropy())
    callback = report.AttentionImages(tmp_path, 255 * random_images(2), NAMES, every_epochs=2)
    model.fit(random_images(6), np.arange(6) % 3, epochs=3, verbose=0, callbacks=[callback])
    events = [
        (event.step, value.tag)
        for file in tmp_path.glob("*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert [step for step, tag in sorted(events) if tag == "attention"] == [1, 2]
    assert (1, "attention/overlap_last") in events
    plain = tiny_classifier()
    plain.compile("sgd", crossentropy())
    with pytest.raises(TypeError, match="expected a SharpenFocus model, got Functional"):
        plain.fit(random_images(6), np.arange(6) % 3, verbose=0, callbacks=[callback])
    with pytest.raises(ValueError, match="class_names: expected 4 for this model, got 3"):
        callback.set_model(sf.SharpenFocus(tiny_classifier(4)))
    with pytest.raises(ValueError, match="every_epochs=0"):
        report.AttentionImages(tmp_path, random_images(1), NAMES, every_epochs=0)
