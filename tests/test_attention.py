"""Maps, masks and class choice, against numbers worked out by hand and independent implementations."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tf_keras_vis.gradcam import Gradcam

import sfocus_tf as sf
from sfocus_tf import attention, backbones
from sfocus_tf.data import scenes
from tests.conftest import random_images, tiny_classifier

# One image, 1x2 positions, 2 channels.
FEATURES = tf.constant([[[[1.0, 2.0], [3.0, 0.0]]]])
GRADIENTS = tf.constant([[[[2.0, -4.0], [0.0, 2.0]]]])


@pytest.mark.parametrize(
    ("cam", "expected", "capacity"),
    [
        # alpha = mean g = (1, -1); A = relu(1-2, 3-0); |alpha F| sums to 1+2+3+0.
        ("grad_cam", [[[0.0, 3.0]]], 6.0),
        # alpha = mean relu(g) = (1, 1).
        ("grad_cam_positive", [[[3.0, 3.0]]], 6.0),
        # sum F = (4, 2); alpha_1 = 2 / (2 + 4*2) = 0.2, alpha_2 = 2 / (2 + 2*2) = 1/3.
        ("grad_cam_plus_plus", [[[0.2 + 2 / 3, 0.6]]], 0.2 * 4 + 2 / 3),
        # g * F at each position: (2 - 8, 0 + 0).
        ("hires_cam", [[[0.0, 0.0]]], 10.0),
        # relu(g) * F at each position: (2 + 0, 0 + 0).
        ("layer_cam", [[[2.0, 0.0]]], 2.0),
    ],
)
def test_maps_worked_out_by_hand(cam, expected, capacity):
    result = attention.class_activation(FEATURES, GRADIENTS, cam)
    np.testing.assert_allclose(result.map, expected, rtol=1e-6)
    np.testing.assert_allclose(result.capacity, [capacity], rtol=1e-6)


def test_grad_cam_plus_plus_is_the_papers_equation():
    """Equations 10 and 19 of the paper written out, where every gradient is positive."""
    rng = np.random.default_rng(0)
    f, g = rng.random((2, 3, 3, 4)), rng.random((2, 3, 3, 4)) + 0.1
    alpha = g**2 / (2 * g**2 + f.sum((1, 2), keepdims=True) * g**3)
    weights = (alpha * np.maximum(g, 0)).sum((1, 2), keepdims=True)
    expected = np.maximum((weights * f).sum(-1), 0)
    result = attention.class_activation(tf.constant(f), tf.constant(g), "grad_cam_plus_plus")
    np.testing.assert_allclose(result.map, expected, rtol=1e-12)


@pytest.mark.parametrize("cam", attention.CAMS)
def test_capacity_bounds_the_map(cam):
    rng = np.random.default_rng(1)
    result = attention.class_activation(rng.normal(size=(5, 4, 4, 6)), rng.normal(size=(5, 4, 4, 6)), cam)
    assert (np.sum(result.map, axis=(1, 2)) <= result.capacity.numpy() * (1 + 1e-9)).all()


def test_unknown_cam_names_the_nearest():
    with pytest.raises(ValueError, match="'gradcam' is not known. Did you mean 'grad_cam'"):
        attention.check_cam("gradcam")


@pytest.mark.parametrize(("cam", "modifier"), [("grad_cam", None), ("grad_cam_positive", tf.nn.relu)])
@pytest.mark.parametrize("layer", ["inner", "last"])
def test_maps_equal_tf_keras_vis(cam, modifier, layer):
    """The independent implementation, on images of the package and a network with normalisation and shortcuts."""
    classifier = backbones.create("resnet8", 5, 32)
    model = sf.SharpenFocus(classifier)
    images = np.stack([scenes.scene(tf.constant(number), "test", 32)["image"] for number in range(4)])
    images = images.astype(np.float32)
    explanation = model.explain(images, cam=cam)
    path = model.inner_layer if layer == "inner" else model.last_layer
    arguments = {} if modifier is None else {"gradient_modifier": modifier}
    for role in ("target", "rival"):
        classes = [int(number) for number in getattr(explanation, role)]
        expected = Gradcam(classifier, clone=True)(
            lambda scores, classes=classes: [scores[row, number] for row, number in enumerate(classes)],
            images,
            penultimate_layer=path,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
            **arguments,
        )
        np.testing.assert_allclose(getattr(getattr(explanation, layer), role), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("cam", attention.LINEAR)
def test_last_map_equals_the_closed_form_of_pooling_and_dense(cam):
    """Y = W' mean(F) + b, so alpha = W / positions whatever the image (Zhou et al. 2016)."""
    classifier = tiny_classifier()
    images = random_images(6)
    explanation = sf.SharpenFocus(classifier).explain(images, cam=cam)
    features = keras.Model(classifier.input, classifier.get_layer("coarse").output).predict(images, verbose=0)
    kernel = classifier.get_layer("scores").get_weights()[0] / (4 * 4)
    for role in ("target", "rival"):
        expected = np.maximum(np.einsum("bhwk,kb->bhw", features, kernel[:, getattr(explanation, role)]), 0)
        np.testing.assert_allclose(getattr(explanation.last, role), expected, rtol=1e-5, atol=1e-8)


def test_soft_mask_worked_out_by_hand():
    mask = attention.soft_mask(tf.constant([[[2.0, 1.1, 1.0, 0.0]]]), sigma=0.55, omega=100.0)
    expected = 1 / (1 + np.exp(-100 * (np.array([1.0, 0.55, 0.5, 0.0]) - 0.55)))
    np.testing.assert_allclose(mask[0, 0], expected, atol=1e-6)


def test_evidence_adds_up_to_the_score_where_pooling_and_one_dense_layer_follow():
    model = sf.SharpenFocus(tiny_classifier())
    _, bias = model.classifier.get_layer("scores").get_weights()
    choose = functools.partial(attention.labelled_classes, labels=tf.constant([0, 1, 2, 0]))
    scores, classes, _, last = model._extractor.extract(random_images(4), training=False, choose=choose)
    for attended, ids in ((last.target, classes.target), (last.rival, classes.rival)):
        expected = tf.gather(scores, ids, batch_dims=1) - tf.gather(bias, ids)
        np.testing.assert_allclose(tf.reduce_sum(attended.evidence, axis=(1, 2)), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(attended.map, tf.nn.relu(attended.evidence))


def test_soft_mask_ignores_scale_and_is_empty_for_a_dead_map():
    map_ = tf.constant(np.random.default_rng(0).random((3, 4, 4), dtype=np.float32))
    np.testing.assert_allclose(attention.soft_mask(map_), attention.soft_mask(map_ * 2.0**-10), atol=1e-4)
    assert np.max(attention.soft_mask(tf.zeros([1, 4, 4]))) < 1e-20


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((2, 3), (7, 5)), ((1, 1), (3, 3)), ((4, 4), (4, 4))])
def test_resized_maps_equal_those_of_tensorflow(old, new):
    map_ = tf.constant(np.random.default_rng(0).random((2, *old), dtype=np.float32))
    expected = tf.image.resize(map_[..., tf.newaxis], new)[..., 0]
    any_size, number = tf.TensorSpec([None] * 3), tf.TensorSpec([], tf.int32)
    resized = tf.function(
        lambda map_, *size: attention.resize_map(map_, size), input_signature=[any_size, number, number]
    )
    for found in (attention.resize_map(map_, new), resized(map_, *map(tf.constant, new))):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


SCORES = tf.constant([[1.0, 5.0, 2.0], [9.0, 1.0, 3.0]])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 2]),
        np.array([[1], [2]], np.int64),
        np.array([[0, 1, 0], [0, 0, 1]], np.float32),
        np.array([[0.1, 0.8, 0.1], [0.05, 0.05, 0.9]], np.float32),  # smoothed
        np.array([[0.4, 0.6, 0.0], [0.0, 0.3, 0.7]], np.float32),  # mixed up
    ],
)
def test_target_is_the_label_and_rival_the_best_of_the_others(labels):
    classes = attention.labelled_classes(SCORES, labels)
    assert classes.target.numpy().tolist() == [1, 2]
    assert classes.rival.numpy().tolist() == [2, 0]
    assert classes.valid.numpy().all()


def test_rival_of_two_classes_and_of_very_low_scores():
    classes = attention.labelled_classes(tf.constant([[-1e38, 3e38], [0.0, -3.4e38]]), np.array([1, 0]))
    assert classes.rival.numpy().tolist() == [0, 1]


def test_multi_label_classes():
    """Present with the highest score, absent with the highest; images with none of one kind are not valid."""
    scores = tf.constant([[1.0, 5.0, 2.0], [9.0, 1.0, 3.0], [9.0, 1.0, 3.0]])
    classes = attention.labelled_classes(scores, tf.constant([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]]), multi_label=True)
    assert (int(classes.target[0]), int(classes.rival[0])) == (2, 1)
    assert classes.valid.numpy().tolist() == [True, False, False]


@pytest.mark.parametrize(("multi_label", "labels"), [(False, np.eye(2)), (True, np.array([0, 1])), (True, np.eye(2))])
def test_labels_of_the_wrong_shape(multi_label, labels):
    with pytest.raises(ValueError, match="labels: expected"):
        attention.labelled_classes(SCORES, labels, multi_label)


def test_multi_label_takes_integers_and_booleans():
    for dtype in (np.int64, bool):
        classes = attention.labelled_classes(SCORES, np.array([[1, 0, 1], [0, 1, 0]], dtype), multi_label=True)
        assert classes.target.numpy().tolist() == [2, 1]


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_out_of_range(labels):
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be class numbers from 0 to 2"):
        attention.labelled_classes(SCORES, np.array(labels))


def test_predicted_classes():
    classes = attention.predicted_classes(SCORES)
    assert classes.target.numpy().tolist() == [1, 0] and classes.rival.numpy().tolist() == [2, 2]
    several = attention.predicted_classes(tf.constant([[4.0, 3.0, -1.0], [4.0, 3.0, 1.0]]), multi_label=True)
    assert several.rival.numpy().tolist() == [2, 1]
