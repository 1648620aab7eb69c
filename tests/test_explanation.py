"""What `explain` gives, of which classes, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import backbones
from tests.conftest import pictures, tiny_classifier


def test_of_several_labels_the_rival_of_a_named_class_is_the_best_of_the_others():
    model, images = sf.SharpenFocus(tiny_classifier(4), multi_label=True), pictures(6)
    ranks = np.argsort(-model.explain(images).scores, axis=1)
    named = model.explain(images, class_ids=ranks[:, 0])
    assert (named.target == ranks[:, 0]).all() and (named.rival == ranks[:, 1]).all()


def test_explain_takes_classes_and_checks_them():
    model, images = sf.SharpenFocus(tiny_classifier()), pictures(5)
    predicted = model.explain(images)
    ranks = np.argsort(-predicted.scores, axis=1)
    assert (predicted.target == ranks[:, 0]).all() and (predicted.rival == ranks[:, 1]).all()
    asked = model.explain(images, class_ids=ranks[:, 1], rival_ids=ranks[:, 0], batch_size=2)
    np.testing.assert_allclose(asked.target_inner, predicted.rival_inner, rtol=1e-5, atol=1e-9)
    assert (model.explain(images, class_ids=ranks[:, 2]).rival == ranks[:, 0]).all()
    assert model.explain(images[0], class_ids=2).target.tolist() == [2]
    with pytest.raises(ValueError, match="class_ids: expected class numbers from -1 to 2"):
        model.explain(images, class_ids=3)
    with pytest.raises(ValueError, match="rival_ids: expected one class number or 5 of them"):
        model.explain(images, rival_ids=[0, 1])
    with pytest.raises(ValueError, match="class_ids: expected whole numbers, got float64"):
        model.explain(images, class_ids=1.7)
    with pytest.raises(ValueError, match="batch_size=0: expected a positive number"):
        model.explain(images, batch_size=0)
    grey = sf.SharpenFocus(tiny_classifier(channels=1))
    np.testing.assert_array_equal(grey.explain(images[..., 0]).scores, grey.explain(images[..., :1]).scores)
    labelled = model.explain(images, labels=2)
    assert (labelled.target == 2).all() and (labelled.rival == model.explain(images, class_ids=2).rival).all()


@pytest.mark.parametrize("attention", ["grad_cam", "layer_cam"])
def test_a_layer_that_the_scores_do_not_depend_on_is_named(attention):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="cut_off")(inputs)
    x = keras.ops.stop_gradient(x)
    x = keras.layers.Conv2D(4, 3, 2, activation="relu")(x)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = sf.SharpenFocus(keras.Model(inputs, x), attention=attention)
    with pytest.raises(ValueError, match="attention layer 'cut_off': the scores do not depend on it"):
        model.explain(pictures(2))


def test_relative_maps_are_those_of_what_tells_classes_apart():
    """They are the maps of the network whose kernel has no mean over the classes, which answers the same."""
    model, images = sf.SharpenFocus(tiny_classifier(4)), pictures(6)
    relative, raw = model.explain(images, relative=True), model.explain(images)
    head = model.classifier.get_layer("scores")
    kernel, bias = head.get_weights()
    head.set_weights([kernel - kernel.mean(axis=1, keepdims=True), bias - bias.mean()])
    centred = model.explain(images)
    np.testing.assert_allclose(tf.nn.softmax(centred.scores), tf.nn.softmax(raw.scores), rtol=1e-5)
    assert (relative.target == raw.target).all() and (relative.rival == raw.rival).all()
    for key in ("target_inner", "rival_inner", "target_last", "rival_last"):
        expected = getattr(centred, key)
        assert expected.max() > 0
        np.testing.assert_allclose(getattr(relative, key), expected, rtol=1e-4, atol=1e-6)
        assert np.abs(getattr(raw, key) - expected).max() > 0.01 * expected.max()
    several = sf.SharpenFocus(tiny_classifier(4), multi_label=True)
    with pytest.raises(ValueError, match="relative=True: expected a classifier of one class a picture"):
        several.explain(images, relative=True)


def test_the_last_layer_alone_is_explained_without_a_backward_pass():
    """The same maps, and no convolution but those of the forward pass in the graph."""
    model = sf.SharpenFocus(backbones.create("resnet8", 5, 16))
    images = 255 * pictures(4, 16)
    both, last = model.explain(images), model.explain(images, inner=False)
    assert both.target_inner.max() > 0 and last.target_inner.shape == last.rival_inner.shape == (4, 0, 0)
    for field in ("scores", "target", "rival", "target_last", "rival_last"):
        np.testing.assert_allclose(getattr(last, field), getattr(both, field), rtol=1e-5, atol=1e-7, err_msg=field)

    def convolutions(inner):
        ids = tf.fill([4], -1)
        graph = model.explain_on_batch.get_concrete_function(tf.constant(images), ids, ids, inner).graph
        return [operation.type for operation in graph.get_operations() if operation.type.startswith("Conv2D")]

    assert "Conv2DBackpropInput" in convolutions(True)
    assert set(convolutions(False)) == {"Conv2D"}
