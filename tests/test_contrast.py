"""Contrast maps: what speaks for a class and not for its rival, computed, drawn, and against independent references."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from tf_keras_vis.gradcam import Gradcam

import sfocus_tf as sf
from sfocus_tf import evaluation, report
from sfocus_tf.evaluation import localisation
from tests.conftest import crossentropy, first_images, random_images, tiny_classifier

NAMES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize(("layer", "path"), [("inner", "fine"), ("last", "coarse")])
def test_both_sides_equal_tf_keras_vis_with_a_difference_of_scores(layer, path):
    classifier, images = tiny_classifier(4), random_images(4)
    contrast = sf.SharpenFocus(classifier).explain(images, of="contrast")
    ids = list(zip(contrast.target.tolist(), contrast.rival.tolist(), strict=True))
    for side, sign in (("target", 1), ("rival", -1)):

        def score(scores, sign=sign):
            return [sign * (scores[row, target] - scores[row, rival]) for row, (target, rival) in enumerate(ids)]

        expected = Gradcam(classifier, clone=True)(
            score,
            images,
            penultimate_layer=path,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
        )
        np.testing.assert_allclose(getattr(getattr(contrast, layer), side), expected, rtol=1e-4, atol=1e-7)


def test_evidence_is_what_the_difference_loses_without_a_position():
    """HiResCAM at a layer is, to first order, the change of the difference when a position's features are scaled."""
    keras.config.set_floatx("float64")
    classifier, image, eps = tiny_classifier(4, activation="softplus"), random_images(1), 1e-5
    contrast = sf.SharpenFocus(classifier).explain(image, of="contrast", cam="hires_cam")
    signed = (contrast.inner.target - contrast.inner.rival)[0]
    features = keras.Model(classifier.input, classifier.get_layer("fine").output)(image).numpy()
    inputs = keras.Input(features.shape[1:])
    x = inputs
    for layer in classifier.layers[classifier.layers.index(classifier.get_layer("fine")) + 1 :]:
        x = layer(x)
    head = keras.Model(inputs, x)

    def difference(row, column, scale):
        changed = features.copy()
        changed[0, row, column] *= scale
        scores = head(changed).numpy()[0]
        return scores[contrast.target[0]] - scores[contrast.rival[0]]

    for row, column in ((0, 0), (3, 5), (7, 2)):
        slope = (difference(row, column, 1 + eps) - difference(row, column, 1 - eps)) / (2 * eps)
        assert signed[row, column] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_several_labels_and_named_classes():
    model, images = sf.SharpenFocus(tiny_classifier(4), multi_label=True), random_images(3)
    contrast = model.explain(images, class_ids=2, rival_ids=0, of="contrast")
    assert set(contrast.target) == {2} and set(contrast.rival) == {0}
    score = model.explain(images, class_ids=2, rival_ids=0)
    assert np.abs(score.last.target - contrast.last.target).max() > 0
    assert (np.minimum(contrast.last.target, contrast.last.rival) == 0).all()


def test_overlay_has_both_sides_on_one_scale_and_leaves_the_rest():
    image = np.full((2, 2, 3), 100.0)
    target, rival = np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    shown = report.contrast_overlay(image, target, rival)
    grey, blue, orange = 100 / 255, np.array((0, 114, 178)) / 255, np.array((213, 94, 0)) / 255
    np.testing.assert_allclose(shown[0, 0], 0.25 * grey + 0.75 * blue)
    np.testing.assert_allclose(shown[0, 1], 0.625 * grey + 0.375 * orange)  # half as much evidence
    np.testing.assert_allclose(shown[1], grey)
    np.testing.assert_allclose(report.contrast_overlay(image, 0 * target, 0 * rival), grey)


@pytest.mark.parametrize("multi_label", [False, True])
def test_figure_names_both_classes_with_their_probabilities_and_the_scale(multi_label, tmp_path):
    model, images = sf.SharpenFocus(tiny_classifier(4), multi_label=multi_label), random_images(2)
    contrast = model.explain(images, of="contrast")
    figure = report.contrast_figure(images, contrast, NAMES, ["bee", "cat"], multi_label)
    squash = keras.ops.sigmoid if multi_label else keras.ops.softmax
    probabilities = keras.ops.convert_to_numpy(squash(contrast.scores))
    titles = [axis.get_title() for axis in figure.axes]
    for row in range(2):
        title = titles[3 * row]
        assert title.startswith(f"label: {NAMES[1 + row]}\n")
        for ids, colour in ((contrast.target, "blue"), (contrast.rival, "orange")):
            assert f"{NAMES[ids[row]]} ({colour}): probability {100 * probabilities[row, ids[row]]:.0f} %" in title
        sides = contrast.last.target[row].sum(), contrast.last.rival[row].sum()
        share = f"evidence: {100 * sides[1] / sum(sides):.0f} % for {NAMES[contrast.rival[row]]}"
        assert titles[3 * row + 1] == f"last layer\n{share}"
    scales = [label.get_text() for axis in figure.axes[6:] for label in axis.get_xticklabels()]
    peak = max(contrast.last.target[0].max(), contrast.last.rival[0].max())
    assert scales[:3] == [f"{peak:.2g}", "0", f"{peak:.2g}"]
    figure.savefig(tmp_path / "figure.png")
    without_inner = report.contrast_figure(images, model.explain(images, of="contrast", inner=False), NAMES)
    assert [axis.get_title().split("\n")[0] for axis in without_inner.axes[1:2]] == ["last layer"]


def test_tensorboard_has_contrast_maps_too(tmp_path):
    model = sf.SharpenFocus(tiny_classifier(4))
    model.compile("sgd", crossentropy())
    callback = report.AttentionImages(tmp_path, 255 * random_images(2), NAMES)
    model.fit(random_images(6), np.arange(6) % 3, verbose=0, callbacks=[callback])
    events = [
        value.tag
        for file in tmp_path.glob("*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert {"attention", "contrast"} <= set(events)


def test_measures_of_contrast_maps():
    """The rival's share worked out by hand, and an evaluation that has all of them."""
    target, rival = np.array([[[3.0, 0.0]], [[0.0, 0.0]]]), np.array([[[0.0, 1.0]], [[0.0, 0.0]]])
    np.testing.assert_array_equal(evaluation.rival_share(target, rival), [0.25, np.nan])
    data = first_images(sf.data.load("scenes", "test", image_size=16, regions=True), 12, 6)
    model = sf.SharpenFocus(tiny_classifier(16, 16))
    found = evaluation.evaluate(model, data, faithfulness_steps=2)
    images = np.concatenate([batch["image"] for batch in data.batches.as_numpy_iterator()])
    expected = model.explain(images, labels=found.labels, of="contrast")
    np.testing.assert_allclose(found.contrast.last.target, expected.last.target, rtol=1e-4, atol=1e-6)
    summary = found.summary()
    masks = [
        np.concatenate([batch[name] for batch in data.batches.as_numpy_iterator()]) for name in ("mask", "part_mask")
    ]
    for layer in ("inner", "last"):
        maps = getattr(expected, layer)
        shares = evaluation.rival_share(maps.target, maps.rival)
        assert summary[f"rival_share_{layer}"] == pytest.approx(np.nanmean(shares), rel=1e-4)
        fine = localisation.at_resolution(maps.target, images.shape[1:3])
        for name, mask in zip(("contrast_pointing", "contrast_part_pointing"), masks, strict=True):
            inside = mask[..., 0] == found.labels[:, np.newaxis, np.newaxis] + 1
            hits = evaluation.pointing_game(fine, inside)
            by_class = [hits[found.labels == label].mean() for label in np.unique(found.labels)]
            assert summary[f"{name}_{layer}"] == pytest.approx(np.mean(by_class)), name
    assert 0 < summary["insertion"] < 1 and "contrast_insertion" not in summary
    of_contrast = evaluation.evaluate(model, data, faithfulness_steps=2, of="contrast")
    for maps in (of_contrast.contrast, of_contrast.explanation):
        np.testing.assert_allclose(maps.inner.rival, expected.inner.rival, rtol=1e-4, atol=1e-6)
    summary = of_contrast.summary()
    assert not [name for name in summary if name.startswith(("overlap", "rank_correlation", "same_peak"))]
    report.comparison_page(of_contrast, of_contrast, data.images, ("a", "b"), "scenes")
    rows = np.arange(len(images))

    def against_the_rival(changed):
        scores = model.predict(changed, verbose=0)
        return special.expit(scores[rows, expected.target] - scores[rows, expected.rival])[:, np.newaxis]

    given = (against_the_rival, images, expected.last.target - expected.last.rival, np.zeros(len(images), int), 2)
    for name in ("insertion", "deletion"):
        assert summary[f"contrast_{name}"] == pytest.approx(getattr(evaluation, name)(*given).mean(), rel=1e-4)


def test_deletion_by_evidence_that_all_speaks_for_the_rival_is_defined():
    """The least of it goes first: at the second of three points of the curve, half of the four pixels are the mean."""
    seen = []

    def mean_pixel(images):
        seen.append(images[0, ..., 0])
        return images.mean(axis=(1, 2, 3))[:, np.newaxis]

    image = np.repeat(np.array([[[[10.0], [20.0]], [[30.0], [90.0]]]], np.float32), 3, axis=-1)
    evidence = np.array([[[-1.0, -4.0], [-2.0, -3.0]]])
    (found,) = evaluation.deletion(mean_pixel, image, evidence, np.zeros(1, int), 2)
    np.testing.assert_allclose(seen[1], [[37.5, 20.0], [37.5, 90.0]])
    assert found == pytest.approx((37.5 / 2 + 46.25 + 37.5 / 2) / 2)
    assert np.isnan(evaluation.deletion(mean_pixel, image, 0 * evidence, np.zeros(1, int), 2)).all()


def test_evaluation_of_a_model_whose_cam_has_no_negative_side():
    """As of a former version: its maps by its own CAM, the contrast by Grad-CAM."""
    data = first_images(sf.data.load("scenes", "test", image_size=16, regions=True), 12, 6)
    model = sf.SharpenFocus(tiny_classifier(16, 16))
    usual = evaluation.evaluate(model, data)
    model.cam = "layer_cam"
    found = evaluation.evaluate(model, data)
    np.testing.assert_allclose(found.contrast.last.rival, usual.contrast.last.rival, rtol=1e-4, atol=1e-6)
    assert np.abs(found.explanation.inner.target - usual.explanation.inner.target).max() > 1e-3
