"""A classifier that ends in probabilities is recognised by what it computes, and one that gives scores never is."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import saved_models
from sfocus_tf.classifier import checks, probabilities
from tests.conftest import random_images, tiny_classifier

CLASSES = 4
L, ops = keras.layers, keras.ops


def load(path, *arguments, **options):
    return saved_models.find(path).load(*arguments, **options)


@keras.saving.register_keras_serializable(package="test_probabilities")
def hand_written_softmax(scores):
    exponentials = tf.exp(scores)
    return exponentials / tf.reduce_sum(exponentials, axis=-1, keepdims=True)


class Head(L.Layer):
    """Somebody's dense layer, with weights of zero, and what follows in the same layer."""

    def __init__(self, function, initializer="zeros"):
        super().__init__()
        self.function, self.initializer = function, initializer

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], CLASSES), self.initializer)

    def call(self, x):
        return self.function(x @ self.kernel)


class Temperature(L.Layer):
    """A learned factor of the scores."""

    def build(self, shape):
        self.factor = self.add_weight((), "ones")

    def call(self, x):
        return x / self.factor


def dense(x, **options):
    return L.Dense(CLASSES, **options)(x)


def through(*parts):
    return lambda x: functools.reduce(lambda value, part: part(value), parts, x)


def softmax_by_operations(x):
    exponentials = ops.exp(dense(x))
    return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)


def yes_and_no(x):
    yes = L.Dense(CLASSES // 2, activation="sigmoid")(x)
    return ops.concatenate([yes, 1 - yes], axis=-1) / 2


def model(end, seed=0, size=8):
    """Two convolutions and an end."""
    base = tiny_classifier(CLASSES, size)
    keras.utils.set_random_seed(seed)
    return keras.Model(base.inputs[0], end(base.get_layer("scores").input), name="network")


def inside(*layers):
    return keras.Sequential([keras.Input((6,)), *layers], name="head")


# What the end is, and what it comes to: what can be taken off.
ENDS = {
    "keras": (lambda x: dense(x, activation="softmax"), "softmax"),
    "keras.activations": (lambda x: dense(x, activation=keras.activations.sigmoid), "sigmoid"),
    "log_softmax": (lambda x: dense(x, activation="log_softmax"), "log_softmax"),
    "tf.nn.softmax": (lambda x: dense(x, activation=tf.nn.softmax), "softmax"),
    "tf.nn.sigmoid": (lambda x: dense(x, activation=tf.nn.sigmoid), "sigmoid"),
    "tf.math.sigmoid": (lambda x: dense(x, activation=tf.math.sigmoid), "sigmoid"),
    "tf.nn.log_softmax": (lambda x: dense(x, activation=tf.nn.log_softmax), "log_softmax"),
    "keras.ops.softmax": (lambda x: dense(x, activation=ops.softmax), "softmax"),
    "hand-written": (lambda x: dense(x, activation=hand_written_softmax), "softmax"),
    "layer as activation": (lambda x: dense(x, activation=L.Softmax()), "softmax"),
    "convolution": (through(L.Reshape((1, 1, 6)), L.Conv2D(4, 1, activation="softmax"), L.Flatten()), "softmax"),
    "Softmax, then Reshape": (through(L.Reshape((1, 1, 6)), L.Conv2D(4, 1), L.Softmax(), L.Reshape((4,))), "softmax"),
    "Activation": (through(dense, L.Activation(tf.nn.sigmoid)), "sigmoid"),
    "after normalisation": (through(dense, L.BatchNormalization(), L.Activation("softmax")), "softmax"),
    "zeros": (lambda x: dense(x, activation="sigmoid", kernel_initializer="zeros"), "sigmoid"),
    "operation": (through(dense, ops.softmax), "softmax"),
    "operations": (softmax_by_operations, "softmax"),
    "sigmoid operation": (through(dense, ops.sigmoid), "sigmoid"),
    "Lambda": (through(dense, L.Lambda(hand_written_softmax)), "softmax"),
    "logarithm": (through(dense, L.Softmax(), ops.log), "log_softmax"),
    "to float32": (through(dense, L.Softmax(), L.Activation("linear", dtype="float32")), "softmax"),
    "to float64": (lambda x: ops.cast(dense(x, activation="softmax"), "float64"), "softmax"),
    "nothing changes": (
        through(dense, L.Activation("sigmoid"), L.Identity(), L.Reshape((2, 2)), L.Flatten(), L.Dropout(0.5),
                L.Rescaling(1), L.GaussianNoise(0.1)),
        "sigmoid",
    ),
    "temperature before": (through(dense, Temperature(), L.Rescaling(0.5), L.Softmax()), "softmax"),
    "nested": (through(inside(L.Dense(CLASSES), L.Softmax()), L.Identity()), "softmax"),
    "nested twice": (through(inside(inside(L.Dense(CLASSES, activation="softmax")), L.Identity())), "softmax"),
    "after nested": (through(inside(L.Dense(CLASSES)), L.Softmax()), "softmax"),
}  # fmt: skip

# Probabilities that are no softmax or sigmoid of scores inside.
FIRM_ENDS = {
    "hard_sigmoid": lambda x: dense(x, activation="hard_sigmoid"),
    "sparsemax": lambda x: dense(x, activation="sparsemax"),
    "softmax inside": Head(tf.nn.softmax),
    "sigmoid inside": Head(lambda x: 1 / (1 + tf.exp(-x))),
    "twice as large": through(dense, L.Softmax(), L.Rescaling(2.0)),
    "shifted": through(dense, L.Softmax(), L.Rescaling(2.0, offset=-1)),
    "shifted sigmoid": through(dense, L.Activation("sigmoid"), L.Rescaling(2.0, offset=-1)),
    "learned factor": through(dense, L.Softmax(), Temperature()),
    "mean of two": lambda x: L.Average()([dense(x, activation="softmax"), dense(x, activation="softmax")]),
    "yes and no": yes_and_no,
    "mean over positions": through(L.Reshape((2, 3, 1)), L.Conv2D(4, 1, activation="softmax"),
                                   L.GlobalAveragePooling2D(name="mean")),
}  # fmt: skip


def unit_length(x):
    return x / tf.sqrt(tf.reduce_sum(x**2, axis=-1, keepdims=True) + 1e-6)


SCORES = {
    "dense": dense,
    "relu": lambda x: dense(x, activation="relu"),
    "relu6": lambda x: dense(x, activation="relu6"),
    "softplus": lambda x: dense(x, activation=tf.nn.softplus),
    "exponential": lambda x: dense(x, activation="exponential"),
    "own activation": lambda x: dense(x, activation=lambda y: 1e-3 * y),
    "zeros": lambda x: dense(x, kernel_initializer="zeros"),
    "in [0, 1]": lambda x: dense(x, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(0.25)),
    "tiny": lambda x: dense(x, kernel_initializer=keras.initializers.RandomNormal(stddev=1e-6)),
    "tiny and not negative": through(lambda x: dense(x, activation="relu"), L.Rescaling(1e-6)),
    "one resolution": lambda x: ops.softplus(dense(x)) / 1000,
    "normalised": through(dense, L.BatchNormalization()),
    "layer norm": through(dense, L.LayerNormalization()),
    "temperature": through(dense, L.Rescaling(1 / 50)),
    "learned temperature": through(dense, Temperature()),
    "cosine": through(dense, L.UnitNormalization()),
    "cosine of relu": through(lambda x: dense(x, activation="relu"), L.UnitNormalization()),
    "cosine, Lambda": through(dense, L.Lambda(unit_length), L.Rescaling(10.0)),
    "cosine inside": Head(unit_length),
    "zeros inside": Head(lambda x: x),
    "constant inside": Head(lambda x: x + 0.25),
    "tiny relu inside": Head(lambda x: 1e-5 * tf.nn.relu(x)),
    "soft cap": lambda x: 30 * ops.tanh(dense(x) / 30),
    "gated": lambda x: ops.sigmoid(dense(x)) * dense(x),
    "centred": through(dense, L.Lambda(lambda x: x - ops.mean(x, axis=-1, keepdims=True))),
    "calibrated": through(dense, L.Softmax(), ops.log, L.Rescaling(0.5)),
    "float32": through(dense, L.Activation("linear", dtype="float32")),
    "nested": inside(L.Dense(CLASSES), L.Dropout(0.5)),
}


@pytest.mark.parametrize("name", ENDS)
def test_probabilities_are_refused_and_taken_off(name):
    end, kind = ENDS[name]
    network = model(end)
    images, weights = random_images(4), [weight.copy() for weight in network.get_weights()]
    expected = network.predict(images, verbose=0)
    with pytest.raises(ValueError, match=f"ends in a {kind} .layer '[a-z_0-9/]+'.*from_logits=True"):
        sf.SharpenFocus(network)
    stripped, taken = checks.without_probabilities(network)
    assert taken == kind and stripped.outputs[0].dtype == network.outputs[0].dtype
    scores = sf.SharpenFocus(stripped).predict(images, verbose=0)
    again = {"softmax": ops.softmax, "sigmoid": ops.sigmoid, "log_softmax": ops.log_softmax}[kind](scores)
    np.testing.assert_allclose(again, expected, atol=1e-5)
    np.testing.assert_array_equal(network.predict(images, verbose=0), expected)
    for one, other in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", FIRM_ENDS)
def test_probabilities_that_cannot_be_taken_off_are_refused(name):
    network = model(FIRM_ENDS[name])
    with pytest.raises(ValueError, match="ends in a (softmax|sigmoid)"):
        sf.SharpenFocus(network)
    with pytest.raises(ValueError, match="ends in probabilities .* nothing to take off"):
        checks.without_probabilities(network)


def test_the_message_says_what_to_change_and_where():
    with pytest.raises(ValueError, match="build layer 'head/last' with activation=None"):
        sf.SharpenFocus(model(inside(L.Dense(CLASSES, activation=tf.nn.softmax, name="last"))))
    end = through(dense, L.Softmax(name="last"), L.Rescaling(2.0, offset=-1, name="more"))
    with pytest.raises(ValueError, match="changed by layer 'more' behind it.*leave layer 'last' out"):
        sf.SharpenFocus(model(end))


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_never_taken_for_probabilities(name):
    """With four random initialisations each: more than 100 networks."""
    for seed in range(4):
        network = model(SCORES[name], seed)
        assert probabilities.find(network) is None
    assert checks.without_probabilities(network) == (network, None)


def test_the_state_of_random_generators_stays_as_it_was():
    """A layer that draws random numbers even outside of training is run by the check, with a state of its own."""

    class Noisy(L.Layer):
        def __init__(self):
            super().__init__()
            self.generator = keras.random.SeedGenerator(3)

        def call(self, x):
            return (
                x + 1e-9 * keras.random.normal(ops.shape(x), seed=self.generator) + 1e-9 * tf.random.normal((CLASSES,))
            )

    noisy = Noisy()
    network = model(through(dense, noisy, L.Softmax()))
    states = []
    for check in (lambda: None, lambda: probabilities.find(network)):
        tf.random.set_seed(5)
        before = noisy.generator.state.numpy().copy()
        found = check()
        np.testing.assert_array_equal(noisy.generator.state, before)
        states.append(tf.random.uniform((3,)).numpy())
    assert found.kind == "softmax"
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_mixed_precision(policy, activation, tmp_path):
    """The usual way: scores in 16 bits, probabilities in 32."""
    keras.config.set_dtype_policy(policy)
    network = model(through(dense, L.Activation(activation, dtype="float32"), L.Activation("linear", dtype="float32")))
    images = random_images(4)
    expected = network.predict(images, verbose=0)
    network.save(tmp_path / "mixed.keras")
    loaded = load(tmp_path / "mixed.keras")
    assert loaded.multi_label == (activation == "sigmoid")
    again = getattr(ops, activation)(loaded.predict(images, verbose=0))
    np.testing.assert_allclose(again, expected, atol=1e-5)
    assert probabilities.find(model(dense)) is None and probabilities.find(model(Head(lambda x: x))) is None


def test_served_probabilities_are_the_networks_own(tmp_path):
    """Softmax, then a layer that changes nothing: served was the softmax of the softmax."""
    large = keras.initializers.RandomNormal(stddev=300.0)
    network = model(through(lambda x: dense(x, activation="softmax", kernel_initializer=large),
                            L.Activation("linear", dtype="float32")))  # fmt: skip
    network.save(tmp_path / "network.keras")
    load(tmp_path / "network.keras").export(tmp_path / "served" / "1")
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["serving_default"]
    images = random_images(2)
    expected = network.predict(images, verbose=0)
    np.testing.assert_allclose(served(images=tf.constant(images))["probabilities"], expected, atol=1e-5)
    assert expected.max() > 0.9  # else the softmax of it would be near to it


@pytest.mark.parametrize("activation", [tf.nn.sigmoid, tf.math.sigmoid, "sigmoid", keras.ops.sigmoid])
def test_every_spelling_of_a_sigmoid_is_multi_label(activation, tmp_path):
    with keras.saving.custom_object_scope({getattr(activation, "__name__", "sigmoid"): activation}):
        model(lambda x: L.Identity()(dense(x, activation=activation))).save(tmp_path / "several.keras")
        assert load(tmp_path / "several.keras").multi_label
