"""Sums over positions of a gradient, against the sums of the gradient that TensorFlow gives at every position."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import sfocus_tf as sf
from sfocus_tf import backbones, channel_gradients
from tests.conftest import pictures, tiny_classifier

READERS = {
    "strided": lambda: layers.Conv2D(4, 3, 2, padding="same"),
    "strided, several rows of padding": lambda: layers.Conv2D(4, (5, 2), (3, 2), padding="same"),
    "valid": lambda: layers.Conv2D(4, 3, padding="valid"),
    "dilated": lambda: layers.Conv2D(4, 3, dilation_rate=2, padding="same"),
    "one tap": lambda: layers.Conv2D(4, 1, 2),
    "depthwise": lambda: layers.DepthwiseConv2D(5, 2, padding="same", depth_multiplier=2),
    "depthwise valid": lambda: layers.DepthwiseConv2D(3, padding="valid"),
    "maximum": lambda: layers.MaxPooling2D(3, 2, padding="same"),
    "average": lambda: layers.AveragePooling2D(3, 2, padding="same"),
    "global average": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "global maximum": lambda: layers.GlobalMaxPooling2D(keepdims=True),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("size", [(6, 7), (5, 9)])
def test_the_sum_of_a_gradient_and_its_derivatives(name, size):
    """The derivatives are taken with respect to the features and the layer's weights, through the sum."""
    keras.config.set_floatx("float64")
    reader = READERS[name]()
    features = tf.constant(np.random.default_rng(0).normal(size=(2, *size, 3)))
    reader.build(features.shape)
    mixing = tf.constant(np.random.default_rng(1).normal(size=(reader(features).shape[-1], 5)))

    def score(output):
        return tf.reduce_sum(tf.tanh(tf.einsum("bijo,op->bijp", output, mixing)) ** 2)

    def derivatives(of_sum):
        with tf.GradientTape() as tape:
            tape.watch(features)
            total = of_sum()
            mixed = tf.reduce_sum(total**3)
        weights = [variable.value for variable in reader.trainable_variables]
        return total, tape.gradient(mixed, [features, *weights], unconnected_gradients="zero")

    def by_position():
        with tf.GradientTape() as tape:
            tape.watch(features)
            found = score(reader(features))
        return tf.reduce_sum(tape.gradient(found, features), axis=(1, 2))

    def by_probe():
        probe = tf.zeros([2, 3], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(probe)
            output = reader(features)
            tapped = channel_gradients.tapped(reader, features, output, probe)
            found = score(tapped)
        np.testing.assert_array_equal(tapped, output)
        return tape.gradient(found, probe)

    (expected, expected_slopes), (found, slopes) = derivatives(by_position), derivatives(by_probe)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    for slope, expected_slope in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-8, atol=1e-10)


def test_readers_are_found_and_what_is_not_known_is_left_to_the_general_path():
    inputs = keras.Input((8, 8, 3))
    fine = layers.Conv2D(4, 3, padding="same", activation="relu", name="fine")(inputs)
    x = layers.Conv2D(4, 3, 2, padding="same", name="conv")(fine)
    shortcut = layers.AveragePooling2D(2, name="shortcut")(fine)
    coarse = layers.ReLU(name="coarse")(layers.Add()([x, shortcut]))
    scores = layers.Dense(3)(layers.GlobalAveragePooling2D(name="pool")(coarse))
    model = keras.Model(inputs, scores)
    assert channel_gradients.readers(model, "fine") == {"conv", "shortcut"}
    assert channel_gradients.readers(model, "coarse") == {"pool"}

    # The convolution's own activation is no linear function of its input.
    assert channel_gradients.readers(tiny_classifier(), "fine") == frozenset()
    scores = layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5)(coarse)))
    assert channel_gradients.readers(keras.Model(inputs, scores), "coarse") == frozenset()


def test_a_layer_that_is_run_twice_is_no_known_reader():
    shared = layers.Conv2D(3, 3, padding="same")
    inputs = keras.Input((8, 8, 3))
    fine = layers.ReLU(name="fine")(shared(inputs))
    coarse = layers.ReLU(name="coarse")(layers.MaxPooling2D()(shared(fine)))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(coarse)))
    assert channel_gradients.readers(model, "fine") == frozenset()


def test_readers_inside_a_nested_model_are_found_by_their_path():
    backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(backbone(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    assert channel_gradients.readers(model, f"{backbone.name}/block_1_expand_relu") == frozenset()  # read by padding
    assert channel_gradients.readers(model, f"{backbone.name}/block_15_expand_relu") == {
        f"{backbone.name}/block_15_depthwise"
    }
    assert channel_gradients.readers(model, f"{backbone.name}/out_relu") == {"pool"}


@pytest.mark.parametrize("second_order", [True, False])
def test_a_training_step_is_that_of_the_general_path(second_order):
    """Weights after a step of a small residual network, with `readers` and without."""
    weights = []
    for general in (False, True):
        keras.utils.set_random_seed(1)
        keras.config.set_floatx("float64")
        model = sf.SharpenFocus(
            backbones.create("resnet8", 3, 16), second_order=second_order, omega=5.0, minimum_mass=0.0
        )
        assert len(model._observer._readers) == 2
        if general:
            model._observer.__dict__["_readers"] = {}
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        before = model.get_weights()
        model.train_on_batch(255 * pictures(6, 16), np.arange(6) % 3)
        weights.append(model.get_weights())
    assert max(np.abs(new - old).max() for new, old in zip(weights[0], before, strict=True)) > 1e-3
    for mine, other in zip(*weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-7, atol=1e-9)
