"""One pass over a split, against each measure by itself."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import evaluation, report
from sfocus_tf.data.source import indexed_keys
from tests.conftest import first_images, tiny_classifier

CLASSES = 16


@pytest.fixture
def scenes():
    return sf.data.load("scenes", "validation", batch_size=64, image_size=16, regions=True)


def test_everything_is_exact_under_any_batch_size(scenes):
    model = sf.SharpenFocus(tiny_classifier(CLASSES, 16))
    batches = []
    whole = evaluation.evaluate(model, first_images(scenes, 24, 8), 4, batches.append)
    parts = evaluation.evaluate(model, first_images(scenes, 24, 5), 4)
    assert batches == [1, 2, 3]
    assert whole.summary().keys() == parts.summary().keys()
    for key, value in whole.summary().items():
        assert parts.summary()[key] == pytest.approx(value, abs=1e-5, nan_ok=True), key
    np.testing.assert_array_equal(whole.pairs[:, 0], np.arange(24))
    np.testing.assert_array_equal(whole.pairs[:, 1], whole.labels)


def test_agrees_with_predict_and_explain(scenes):
    model = sf.SharpenFocus(tiny_classifier(CLASSES, 16))
    data = first_images(scenes, 24, 8)
    found = evaluation.evaluate(model, data)
    batches = list(data.batches.as_numpy_iterator())
    images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    np.testing.assert_allclose(found.explanation.scores, model.predict(images, verbose=0), rtol=1e-4, atol=1e-4)
    expected = model.explain(images, class_ids=labels, of="relative")
    assert found.of == "relative"
    np.testing.assert_array_equal(found.explanation.rival, expected.rival)
    overlap = evaluation.region_iou(expected.last.target, expected.last.rival)
    np.testing.assert_allclose(found.confusion["overlap_last"], overlap, atol=1e-6)
    mask = np.concatenate([batch["mask"] for batch in batches])[..., 0] > 0
    hits = evaluation.pointing_game(expected.inner.target, mask)
    np.testing.assert_array_equal(found.localisation["pointing_inner"], hits)
    of_class = [hits[labels == number].mean() for number in np.unique(labels)]
    assert found.summary()["pointing_inner"] == pytest.approx(np.mean(of_class))
    assert found.summary()["accuracy"] == np.mean(found.correct())


def test_relative_measures_do_not_see_what_changes_no_answer(scenes):
    model, data = sf.SharpenFocus(tiny_classifier(CLASSES, 16)), first_images(scenes, 24, 8)
    before = [evaluation.evaluate(model, data, of=of).summary() for of in ("score", "relative")]
    head = model.classifier.get_layer("scores")
    kernel, bias = head.get_weights()
    head.set_weights([kernel + np.linspace(-0.5, 1.0, len(kernel))[:, np.newaxis], bias])
    after = [evaluation.evaluate(model, data, of=of).summary() for of in ("score", "relative")]
    assert after[1] == pytest.approx(before[1], abs=1e-4, nan_ok=True)
    assert after[0]["overlap_last"] != pytest.approx(before[0]["overlap_last"], abs=1e-2)
    assert after[0]["accuracy"] == before[0]["accuracy"]


def test_several_classes_an_image(real):
    """Every class that an image has is localised; rivals are absent classes; as JSON, with no NaN."""
    voc = sf.data.load("voc2012", "test", data_dir=real("voc2012_sample"), batch_size=7, image_size=32, regions=True)
    data = first_images(voc, 21, 7)
    model = sf.SharpenFocus(tiny_classifier(20, 32), multi_label=True)
    found = evaluation.evaluate(model, data)
    present = found.labels > 0.5
    np.testing.assert_array_equal(found.valid, present.any(axis=1))
    np.testing.assert_array_equal(found.pairs, np.argwhere(present))
    rows = np.flatnonzero(found.valid)
    assert present[rows, found.explanation.target[rows]].all()
    assert not present[rows, found.explanation.rival[rows]].any()
    images = np.concatenate([batch["image"] for batch in data.batches.as_numpy_iterator()])
    alone = model.explain(images[found.pairs[:, 0]], class_ids=found.pairs[:, 1])
    boxes = np.concatenate([batch["boxes"] for batch in data.batches.as_numpy_iterator()])[found.pairs[:, 0]]
    labels = np.concatenate([batch["box_labels"] for batch in data.batches.as_numpy_iterator()])[found.pairs[:, 0]]
    expected = evaluation.box_iou(alone.last.target, boxes, labels, found.pairs[:, 1], (32, 32))
    np.testing.assert_allclose(found.localisation["box_iou_50_last"], expected[:, 1], atol=1e-5)
    text = json.dumps(found.as_json())
    assert "NaN" not in text and json.loads(text)["images"] == 21


@pytest.mark.parametrize("batch_size", [1, 3])
def test_images_without_any_object_are_left_out(batch_size):
    """Of three images the second has no class, and the third's object is nowhere to be found."""
    records = {
        "image": np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8),
        "label": np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32),
        "boxes": np.array([[[0, 0, 0.5, 1]], [[0, 0, 1, 1]], [[0, 0, 1, 1]]], np.float32),
        "box_labels": np.array([[2], [0], [0]], np.int32),
    }
    numbers = indexed_keys(np.arange(3))
    source = sf.data.Source(
        ("a", "b", "c"), 3, numbers, lambda n: {k: tf.gather(v, n) for k, v in records.items()}, True
    )
    model = sf.SharpenFocus(tiny_classifier(3, 16), multi_label=True)
    found = evaluation.evaluate(model, sf.data.Data(source, batch_size, 16, regions=True))
    assert found.pairs.tolist() == [[0, 2]] and found.valid.tolist() == [True, False, True]
    # As of a former version, with a class to localise that is not the target: contrast maps need a linear CAM.
    model.classifier.get_layer("scores").bias.assign([9.0, 0.0, 0.0])
    model.cam = "layer_cam"
    assert evaluation.evaluate(model, sf.data.Data(source, batch_size, 16, regions=True)).pairs.tolist() == [[0, 2]]
    nothing = dataclasses.replace(found, pairs=found.pairs[:0], localisation={"pointing_last": np.zeros(0)})
    assert np.isnan(nothing.summary()["pointing_last"])
    page = report.comparison_page(nothing, nothing, lambda numbers: records["image"], ("one", "two"), "three images")
    assert "not defined" in page


def test_what_is_not_right_is_refused(scenes):
    model = sf.SharpenFocus(tiny_classifier(CLASSES, 16))
    with pytest.raises(TypeError, match="model: expected a SharpenFocus, got Functional. Wrap it"):
        evaluation.evaluate(tiny_classifier(), None)
    with pytest.raises(ValueError, match="regions=True"):
        evaluation.evaluate(model, dataclasses.replace(scenes, regions=False))
    with pytest.raises(ValueError, match="16 classes, one an image; the model has 3"):
        evaluation.evaluate(sf.SharpenFocus(tiny_classifier(3, 16)), scenes)


def test_confusion_matrix_and_class_table_by_hand():
    scores = np.array([[3.0, 1, 2], [1, 2, 3], [0, 5, 1], [1, 0, 4]])
    labels = np.array([0, 1, 1, 2])
    np.testing.assert_array_equal(evaluation.confusion_matrix(scores, labels), [[1, 0, 0], [0, 1, 1], [0, 0, 1]])
    table = evaluation.class_table(scores, labels)
    assert [row["recall"] for row in table] == [1, 0.5, 1] and [row["precision"] for row in table] == [1, 1, 0.5]
    several = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]])
    # In the second image class 2 is above class 1.
    np.testing.assert_array_equal(evaluation.confusion_matrix(scores, several), [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    table = evaluation.class_table(scores, several)
    assert [row["images"] for row in table] == [1, 2, 1] and table[1]["average_precision"] == 1


def test_a_model_of_plain_keras_needs_no_training_with_ours(scenes):
    classifier = tiny_classifier(CLASSES, 16)
    classifier.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = evaluation.evaluate(sf.SharpenFocus(classifier), first_images(scenes, 24, 8))
    assert 0 <= found.summary()["pointing_last"] <= 1
