"""Thirty random small networks: scores, maps and exported signatures, against plain Keras and a Grad-CAM of its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf

L = keras.layers
SIZE, CLASSES = 16, 4


class Network:
    """A classifier in three parts, so that the maps between them can be differentiated without looking inside.

    The parts are plain Keras models; the classifier is their layers in one model, or nested models.
    """

    def __init__(self, seed: int):
        self.choose = np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)
        self.fine = self._part((SIZE, SIZE, 3), [self._block(1) for _ in range(self.choose.integers(1, 3))], "inner")
        blocks = [self._block(2), *(self._block(1) for _ in range(self.choose.integers(0, 2)))]
        self.coarse = self._part(self.fine.output_shape[1:], blocks, "last")
        self.head = self._part(self.coarse.output_shape[1:], [self._head()], None)
        self.parts = (self.fine, self.coarse, self.head)
        self.nesting = self.choose.choice(["flat", "backbone", "parts", "deep"])
        self._jitter()

    def classifier(self) -> tuple[keras.Model, str, str]:
        """The model, and the paths of its attention layers."""
        inputs = keras.Input((SIZE, SIZE, 3))
        if self.nesting == "parts":
            x = inputs
            for part in self.parts:
                x = part(x)
            return keras.Model(inputs, x), f"{self.fine.name}/inner", f"{self.coarse.name}/last"
        backbone = keras.Model(inputs, self._layers(self.coarse, self._layers(self.fine, inputs)), name="backbone")
        if self.nesting == "flat":
            return keras.Model(inputs, self._layers(self.head, backbone.output)), "inner", "last"
        outer = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(outer, self._layers(self.head, backbone(outer)), name="outer")
        if self.nesting == "backbone":
            return model, "backbone/inner", "backbone/last"
        whole = keras.Sequential([keras.Input((SIZE, SIZE, 3)), model, L.Identity()])
        return whole, "outer/backbone/inner", "outer/backbone/last"

    def grad_cam(self, images: np.ndarray, class_ids: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Maps at both layers, by the definition: channel weights are means over positions of the gradient.

        Beside each, the scale of its rounding: the largest sum over channels, ignoring sign.
        """
        with tf.GradientTape() as tape:
            inner = self.fine(images)
            tape.watch(inner)
            last = self.coarse(inner)
            tape.watch(last)
            chosen = tf.reduce_sum(tf.gather(self.head(last), class_ids, batch_dims=1))
        gradients = tape.gradient(chosen, [inner, last])
        maps = []
        for features, gradient in zip((inner, last), gradients, strict=True):
            alpha = gradient.numpy().mean(axis=(1, 2), keepdims=True)
            evidence = alpha * features.numpy()
            maps.append((np.maximum(evidence.sum(axis=-1), 0.0), np.abs(evidence).sum(axis=-1).max()))
        return maps

    def _part(self, shape, blocks, name):
        x = inputs = keras.Input(shape)
        for block in blocks:
            for layer in block:
                x = layer(x)
        if name:
            x = L.Activation(self.choose.choice(["relu", "gelu", "silu", "softplus"]), name=name)(x)
        return keras.Model(inputs, x)

    def _block(self, stride):
        """A convolution of some kind, with what goes along with one."""
        kernel = int(self.choose.choice([1, 2, 3, 5]))
        padding = str(self.choose.choice(["same", "valid"])) if kernel < 5 else "same"
        strides = stride if self.choose.random() < 0.7 else 1
        kinds = {
            "plain": lambda: L.Conv2D(6, kernel, strides, padding=padding),
            "dilated": lambda: L.Conv2D(4, kernel, dilation_rate=2, padding="same"),
            "separable": lambda: L.SeparableConv2D(4, kernel, strides, padding=padding),
            "depthwise": lambda: L.DepthwiseConv2D(kernel, strides, padding=padding, depth_multiplier=2),
            "transposed": lambda: L.Conv2DTranspose(4, kernel, padding=padding),
            "grouped": lambda: L.Conv2D(4, kernel, strides, padding=padding, groups=2),
        }
        kind = str(self.choose.choice(list(kinds)))
        layers = [L.Conv2D(4, 1)] if kind == "grouped" else []
        layers.append(kinds[kind]())
        layers += [L.BatchNormalization()] if self.choose.random() < 0.4 else []
        layers += [L.Dropout(0.3)] if self.choose.random() < 0.2 else []
        if strides != stride:
            pool = str(self.choose.choice(["max", "average", "padded"]))
            layers += [L.ZeroPadding2D(1)] if pool == "padded" else []
            layers.append(L.MaxPooling2D(2) if pool == "max" else L.AveragePooling2D(2, padding="same"))
        return layers

    def _head(self):
        kinds = {
            "average": lambda: [L.GlobalAveragePooling2D(), L.Dense(CLASSES)],
            "maximum": lambda: [L.GlobalMaxPooling2D(), L.Dropout(0.5), L.Dense(CLASSES)],
            "flat": lambda: [L.Flatten(), L.Dense(CLASSES)],
            "two layers": lambda: [L.GlobalAveragePooling2D(), L.Dense(5, activation="elu"), L.Dense(CLASSES)],
            "convolution": lambda: [L.Conv2D(CLASSES, 1), L.GlobalAveragePooling2D()],
            "activated": lambda: [L.Conv2D(5, 2, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(CLASSES)],
            "pooled": lambda: [L.AveragePooling2D(2, padding="same"), L.Flatten(), L.Dense(CLASSES), L.Rescaling(0.5)],
            "normalised": lambda: [L.LayerNormalization(), L.GlobalAveragePooling2D(), L.Dense(CLASSES)],
        }
        return kinds[str(self.choose.choice(list(kinds)))]()

    def _layers(self, part, x):
        """The part's layers, run once more."""
        for layer in part.layers[1:]:
            x = layer(x)
        return x

    def _jitter(self):
        """As after training: biases, factors and averages are not at 0 and 1."""
        for part in self.parts:
            for weight in part.weights:
                if weight.dtype == "float32":
                    weight.assign(weight + self.choose.uniform(0.0, 0.2, weight.shape).astype(np.float32))


@pytest.mark.parametrize("seed", range(30))
def test_a_random_network(seed, tmp_path):
    network = Network(seed)
    classifier, inner, last = network.classifier()
    images = network.choose.random((3, SIZE, SIZE, 3), dtype=np.float32)
    model = sf.SharpenFocus(classifier, inner_layer=inner, last_layer=last)
    kinds = [type(layer).__name__ for part in network.parts for layer in part.layers]
    about = f"seed {seed}, {network.nesting}: {kinds}"

    explained = model.explain(images)
    scores = network.head(network.coarse(network.fine(images))).numpy()
    np.testing.assert_allclose(explained.scores, scores, rtol=1e-5, atol=1e-5, err_msg=about)
    ranks = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(np.stack([explained.target, explained.rival]), ranks[:, :2].T, err_msg=about)

    model.export(tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["explain"](
        images=tf.constant(images), class_ids=tf.fill([3], -1)
    )
    np.testing.assert_allclose(served["logits"], scores, rtol=1e-5, atol=1e-5, err_msg=about)
    np.testing.assert_allclose(served["probabilities"], keras.ops.softmax(scores), atol=1e-5, err_msg=about)
    for role in ("target", "rival"):
        maps = network.grad_cam(images, getattr(explained, role))
        for layer, (expected, scale) in zip(("inner", "last"), maps, strict=True):
            for found in (getattr(getattr(explained, layer), role), served[f"raw_attention_{role}_{layer}"]):
                message = f"{about}: {role} {layer}"
                np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5, err_msg=message)
