"""Sums over positions of a gradient, against the sums of the gradient that TensorFlow gives at every position."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import sfocus_tf as sf
from sfocus_tf import attention, backbones
from sfocus_tf.attention import channel_gradients
from tests.conftest import crossentropy, random_images

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
    "depthwise dilated": lambda: layers.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
    "global average": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "global maximum": layers.GlobalMaxPooling2D,
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
        return tf.reduce_sum(tf.tanh(tf.einsum("b...o,op->b...p", output, mixing)) ** 2)

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

    def from_output():
        with tf.GradientTape() as tape:
            output = reader(features)
            tape.watch(output)
            found = score(output)
        return channel_gradients.summed(reader, features, tape.gradient(found, output))

    (expected, expected_slopes), (found, slopes) = derivatives(by_position), derivatives(from_output)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert all(np.abs(slope).max() > 1e-4 for slope in expected_slopes)
    for slope, expected_slope in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", READERS)
def test_images_of_any_size_have_the_same_sums(name):
    """Where the graph does not know the sizes, it computes what is a constant where it does."""
    reader = READERS[name]()
    features = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 9, 3)), tf.float32)
    reader.build(features.shape)
    gradient = tf.tanh(reader(features))
    of_any_size = [
        tf.TensorSpec([None] * (tensor.shape.rank - 1) + [tensor.shape[-1]]) for tensor in (features, gradient)
    ]
    summed = tf.function(lambda *tensors: channel_gradients.summed(reader, *tensors), input_signature=of_any_size)
    expected = channel_gradients.summed(reader, features, gradient)
    np.testing.assert_allclose(summed(features, gradient), expected, rtol=1e-5, atol=1e-6)


def test_readers_are_found_and_what_is_not_known_is_left_to_the_general_path():
    inputs = keras.Input((8, 8, 3))
    fine = layers.Conv2D(4, 3, padding="same", activation="relu", name="fine")(inputs)
    x = layers.Conv2D(4, 3, 2, padding="same", name="conv")(fine)
    shortcut = layers.AveragePooling2D(2, name="shortcut")(fine)
    coarse = layers.ReLU(name="coarse")(layers.Add()([x, shortcut]))
    scores = layers.Dense(3)(layers.GlobalAveragePooling2D(name="pool")(coarse))
    model = keras.Model(inputs, scores)
    found = channel_gradients.readers(model, ("fine", "coarse"))
    assert found == {"fine": {"conv", "shortcut"}, "coarse": {"pool"}}

    # A convolution with an activation of its own is no linear function of its input.
    activated = layers.Conv2D(4, 3, 2, activation="relu", name="coarse")(fine)
    scores = layers.Dense(3)(layers.GlobalAveragePooling2D(name="pool")(activated))
    found = channel_gradients.readers(keras.Model(inputs, scores), ("fine", "coarse"))
    assert found == {"fine": set(), "coarse": {"pool"}}
    scores = layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5)(coarse)))
    assert channel_gradients.readers(keras.Model(inputs, scores), ("coarse",)) == {"coarse": set()}


def test_a_layer_that_is_run_twice_is_no_known_reader():
    shared = layers.Conv2D(3, 3, padding="same")
    inputs = keras.Input((8, 8, 3))
    fine = layers.ReLU(name="fine")(shared(inputs))
    coarse = layers.ReLU(name="coarse")(layers.MaxPooling2D()(shared(fine)))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(coarse)))
    assert channel_gradients.readers(model, ("fine",)) == {"fine": set()}


def test_readers_inside_a_nested_model_are_found_by_their_path():
    backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(backbone(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    paths = [f"{backbone.name}/{name}" for name in ("block_1_expand_relu", "block_15_expand_relu", "out_relu")]
    found = channel_gradients.readers(model, tuple(paths))
    assert found == {paths[0]: set(), paths[1]: {f"{backbone.name}/block_15_depthwise"}, paths[2]: {"pool"}}
    # The first is read by a padding, which is not known.


def with_general_path(model):
    """Lets a model take its attention as if no reader was known."""
    none = dict.fromkeys(model._extractor.readers, frozenset())
    model._extractor = dataclasses.replace(model._extractor, readers=none)
    model._traced = attention.Traced(model._extractor)
    return model


@pytest.mark.parametrize("second_order", [True, False])
def test_a_training_step_is_that_of_the_general_path(second_order):
    """Weights after a step of a small residual network, with known readers and without; attention counts in both."""

    def trained(weight, *, general):
        keras.utils.set_random_seed(1)
        keras.config.set_floatx("float64")
        terms = dict.fromkeys(("inner", "last", "consistency"), weight)
        classifier = backbones.create("resnet8", 3, 16)
        model = sf.SharpenFocus(classifier, sf.objective("paper", second_order=second_order, omega=5.0, **terms))
        assert all(model._extractor.readers.values())
        if general:
            with_general_path(model)
        model.compile(keras.optimizers.SGD(0.1), crossentropy())
        model.train_on_batch(255 * random_images(6, 16), np.arange(6) % 3)
        return model.get_weights()

    mine, other = trained(1.0, general=False), trained(1.0, general=True)
    without = trained(0.0, general=False)
    assert max(np.abs(one - two).max() for one, two in zip(mine, without, strict=True)) > 1e-3
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision_the_maps_are_those_of_the_general_path(policy):
    keras.config.set_dtype_policy(policy)
    model = sf.SharpenFocus(backbones.create("resnet8", 3, 16))
    images = 255 * random_images(6, 16)
    mine = model.explain(images)
    model = with_general_path(sf.SharpenFocus(model.classifier))
    other = model.explain(images, mine.target, mine.rival)
    for one, two in zip((*mine.inner, *mine.last), (*other.inner, *other.last), strict=True):
        assert one.dtype == np.float32 and two.max() > 0
        np.testing.assert_allclose(one, two, atol=0.05 * two.max())


@pytest.mark.parametrize("times", [1, 2])
def test_losses_of_layers_are_kept(times):
    """The search for readers runs the network, which must not cost a layer its losses: two, where it is run twice."""

    def logged(wrap):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 3))
        x = inputs
        shared = layers.Conv2D(3, 3, padding="same", activity_regularizer="l2")
        for _ in range(times):
            x = shared(x)
        x = layers.Conv2D(4, 3, padding="same")(x)
        x = layers.Conv2D(4, 3, 2, padding="same")(layers.ReLU()(x))
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
        model = wrap(keras.Model(inputs, layers.Dense(3)(x)))
        model.compile(keras.optimizers.SGD(0.1), crossentropy())
        return model.fit(random_images(6), np.arange(6) % 3, epochs=2, shuffle=False, verbose=0).history

    plain, ours = logged(lambda model: model), logged(lambda model: sf.SharpenFocus(model, sf.Objective()))
    assert ours["separation_last"][0] > 0
    assert ours["classification_loss"][0] == pytest.approx(plain["loss"][0], rel=1e-6)
