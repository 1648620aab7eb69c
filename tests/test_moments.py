"""Second derivatives of normalisations, which Keras on TensorFlow gets wrong, against finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sfocus_tf.attention import moments

NORMALISATIONS = {
    "layer": lambda: keras.layers.LayerNormalization(epsilon=1e-6),
    "group": lambda: keras.layers.GroupNormalization(2),
    "batch": keras.layers.BatchNormalization,
}


def slope_and_difference(layer):
    """The derivative of a gradient with respect to what is added to a normalisation's input, and by differences."""
    generator = np.random.default_rng(0)
    features, others, mixing, weights, direction = (tf.constant(generator.normal(size=(3, 2, 2, 4))) for _ in range(5))
    layer.build(features.shape)

    def gradient(added):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(features)
            with moments.differentiable_twice():
                score = tf.reduce_sum(layer(features + added, **options) * mixing)
        return tf.reduce_sum(tape.gradient(score, features) * weights)

    options = {"training": True} if isinstance(layer, keras.layers.BatchNormalization) else {}
    with tf.GradientTape() as tape:
        tape.watch(others)
        found = gradient(others)
    slope = tf.reduce_sum(tape.gradient(found, others) * direction).numpy()
    step = 1e-5
    upper, lower = (gradient(others + sign * step * direction).numpy() for sign in (1, -1))
    return slope, (upper - lower) / (2 * step)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_second_derivatives(name):
    keras.config.set_floatx("float64")
    slope, difference = slope_and_difference(NORMALISATIONS[name]())
    assert abs(difference) > 0.1
    assert slope == pytest.approx(difference, rel=1e-7)


def test_keras_alone_is_still_wrong(monkeypatch):
    """If this fails, Keras or TensorFlow is right now, and `sfocus_tf.attention.moments` is no longer needed."""
    monkeypatch.setattr(moments, "_compute_moments", moments._ORIGINAL)
    keras.config.set_floatx("float64")
    slope, difference = slope_and_difference(NORMALISATIONS["layer"]())
    assert slope != pytest.approx(difference, rel=0.01)


@pytest.mark.parametrize("axes", [(0, 1, 2), (-1,)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_values_and_first_derivatives_are_those_of_tensorflow(axes, keepdims):
    x = tf.constant(np.random.default_rng(0).normal(3, 1, (4, 5, 5, 8)), tf.float32)

    def measured():
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean, variance = keras.ops.moments(x, axes, keepdims=keepdims)
            total = tf.reduce_sum(tf.sin(mean)) + tf.reduce_sum(variance**2)
        return mean, variance, tape.gradient(total, x)

    plain = measured()
    with moments.differentiable_twice():
        exact = measured()
    for one, other in zip(plain[:2], exact[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(plain[2], exact[2], rtol=1e-5, atol=1e-7)
