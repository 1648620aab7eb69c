"""Operations that cannot be differentiated, or not twice: a message that says which, where, and what to do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from tests.conftest import LABELS, PAPER, ZERO, compiled, random_images

L = keras.layers
# What lies between the attention layers and the scores, and how the message calls it.
NOT_TWICE = {
    "LRN of layer 'between'": lambda: L.Lambda(tf.nn.local_response_normalization, name="between"),
    "ResizeBicubic of layer 'between'": lambda: L.UpSampling2D(interpolation="bicubic", name="between"),
    "ScaleAndTranslate of layer 'between'": lambda: L.Resizing(5, 5, interpolation="lanczos3", name="between"),
    "MaxPoolGradWithArgmax of layer 'between'": lambda: L.Lambda(
        lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "VALID")[0], name="between"
    ),
}


def classifier_with(between):
    x = inputs = keras.Input((8, 8, 3))
    for name in ("fine", "coarse"):
        x = L.Conv2D(4, 3, 1 if name == "fine" else 2, padding="same", activation="relu", name=name)(x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(between(x))), name="network")


@pytest.mark.parametrize("operation", NOT_TWICE)
def test_an_operation_without_a_second_derivative_is_named(operation):
    between = NOT_TWICE[operation]
    model = compiled(sf.SharpenFocus(classifier_with(between()), PAPER))
    with pytest.raises(
        ValueError, match=f"operation {operation} has no second derivative.*sf.objective\\(second_order=False\\)"
    ):
        model.fit(random_images(6), LABELS, verbose=0)
    first_order = compiled(sf.SharpenFocus(classifier_with(between()), sf.objective("paper", second_order=False)))
    assert np.isfinite(first_order.fit(random_images(6), LABELS, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("operation", list(NOT_TWICE)[:2])
def test_it_is_named_in_eager_steps_too(operation):
    """Which know of no layers."""
    model = compiled(sf.SharpenFocus(classifier_with(NOT_TWICE[operation]()), PAPER), run_eagerly=True)
    with pytest.raises(ValueError, match=f"operation {operation.split()[0]} has no second derivative"):
        model.fit(random_images(6), LABELS, verbose=0)


def test_what_plain_keras_cannot_train_raises_what_plain_keras_raises():
    """With all weights zero there is no attention to blame."""
    no_gradient = L.Lambda(lambda x: tf.raw_ops.PreventGradient(input=x, message="none here"))
    model = compiled(sf.SharpenFocus(classifier_with(no_gradient), ZERO))
    with pytest.raises(LookupError, match="none here"):
        model.fit(random_images(6), LABELS, verbose=0)


def test_an_operation_without_any_derivative_is_named_with_the_attention_layers():
    no_gradient = L.Lambda(lambda x: tf.raw_ops.PreventGradient(input=x, message="none here"))
    model = sf.SharpenFocus(classifier_with(no_gradient))
    with pytest.raises(ValueError, match="none here.*has no derivative, and lies between.*fine, coarse"):
        model.explain(random_images(2))


def test_a_layer_that_recomputes_its_activations_has_its_second_derivatives():
    """`tf.recompute_grad` has none in eager steps, and the right ones in graphs."""

    class Recomputed(L.Layer):
        def __init__(self, recompute):
            super().__init__()
            self.convolution, self.recompute = L.Conv2D(4, 3, padding="same", activation="softplus"), recompute

        def build(self, shape):
            self.convolution.build(shape)
            self.built = True

        def call(self, x):
            return tf.recompute_grad(self.convolution)(x) if self.recompute else self.convolution(x)

    def step(recompute, weight):
        keras.utils.set_random_seed(0)
        terms = dict.fromkeys(("inner", "last", "consistency"), weight)
        model = sf.SharpenFocus(classifier_with(Recomputed(recompute)), sf.objective("paper", **terms))
        model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(random_images(6), LABELS)
        return np.concatenate([weight.numpy().ravel() for weight in model.classifier.weights])

    np.testing.assert_allclose(step(True, 1.0), step(False, 1.0), rtol=1e-5, atol=1e-6)
    assert np.abs(step(True, 1.0) - step(True, 0.0)).max() > 1e-3
