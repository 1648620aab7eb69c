"""Attention is taken of feature maps alone: outputs whose positions are those of the image."""

import keras
import numpy as np
import pytest

import sfocus_tf as sf
from sfocus_tf.classifier import attention_layers, checks
from tests.conftest import random_images

L, ops = keras.layers, keras.ops


def stem(side=32, count=2):
    """Convolutions that halve the resolution."""
    images = x = keras.Input((side, side, 3))
    for number in range(count):
        x = L.Conv2D(16, 3, strides=2, padding="same", activation="relu", name=f"stem{number + 1}")(x)
    return images, x


def weights_of_attention(kind, tokens):
    """`[batch, heads, tokens, tokens]`, or with the heads last, before an activation; and the axis of the heads."""
    count = tokens.shape[1]
    heads = [L.Reshape((count, 2, 8))(L.Dense(16)(tokens)) for _ in range(2)]
    if kind == "matmul":
        query, key = (ops.transpose(each, (0, 2, 1, 3)) for each in heads)
        return ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))), 1
    if kind == "Permute":
        query, key = (L.Permute((2, 1, 3))(each) for each in heads)
        return ops.matmul(query, ops.swapaxes(key, 2, 3)), 1
    if kind == "einsum":
        return ops.einsum("bqhd,bkhd->bhqk", *heads), 1
    if kind == "heads last":
        return ops.einsum("bqhd,bkhd->bqkh", *heads), 3
    if kind == "Dot":
        return L.Reshape((count, count, 1))(L.Dot(-1)([L.Dense(8)(tokens), L.Dense(8)(tokens)])), 3
    return L.MultiHeadAttention(2, 8)(tokens, tokens, return_attention_scores=True)[1], 1


def transformer(kind, activation, side=32, back=False):
    """One block of attention between the positions of a feature map; with a convolution behind it, or without."""
    images, x = stem(side)
    tokens = L.Reshape((x.shape[1] * x.shape[2], 16))(x)
    weights, axis = weights_of_attention(kind, tokens)
    weights = L.Activation(activation, name="attention_scores")(weights)
    tokens = L.Add()([tokens, ops.matmul(ops.mean(weights, axis), L.Dense(16)(tokens))])
    if back:
        x = L.Reshape((*x.shape[1:3], 16), name="back")(tokens)
        x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="after")(x)
        return keras.Model(images, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    return keras.Model(images, L.Dense(3)(L.GlobalAveragePooling1D()(tokens)))


KINDS = ["matmul", "Permute", "einsum", "heads last", "Dot", "MultiHeadAttention"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("activation", "side"), [("softmax", 32), ("sigmoid", 8), ("relu", 16), ("relu", 32)])
def test_attention_weights_are_no_feature_map(kind, activation, side):
    classifier = transformer(kind, activation, side)
    assert attention_layers.find(classifier) == ("stem1", "stem2")
    for argument in ("inner", "last"):
        with pytest.raises(ValueError, match=f"{argument}_layer='attention_scores' is no feature map: the positions"):
            attention_layers.find(classifier, **{argument: "attention_scores"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_behind_attention_has_positions(kind):
    """Tokens that are put back into rows and columns lie where they lay before."""
    model = sf.SharpenFocus(transformer(kind, "softmax", back=True))
    assert (model.inner_layer, model.last_layer) == ("stem2", "after")
    assert model.explain(random_images(2, 32)).last.target.shape == (2, 4, 4)


def of_channels(queries, size):
    """Attention between channels, as in XCiT: `[batch, heads, size, size]`."""
    heads = L.Reshape((queries.shape[1], 16 // size, size))(L.Dense(16)(queries))
    return ops.einsum("bnhd,bnhe->bhde", heads, heads)


def of_channels_heads_last(queries, size):
    return ops.transpose(of_channels(queries, size), (0, 2, 3, 1))


def of_pooled(queries, size):
    """Between the means of quarters of the image: as many tokens as rows."""
    tokens = L.Reshape((4, 16))(L.AveragePooling2D(4)(L.Reshape((8, 8, 16))(queries)))
    query, key = (L.Reshape((4, 16 // size, size))(L.Dense(16)(tokens)) for _ in range(2))
    return ops.einsum("bqhd,bkhd->bhqk", query, key)


def of_pooled_heads_last(queries, size):
    return ops.transpose(of_pooled(queries, size), (0, 2, 3, 1))


@pytest.mark.parametrize("activation", ["softmax", "relu"])
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("weights", [of_channels, of_channels_heads_last, of_pooled, of_pooled_heads_last])
def test_attention_weights_that_are_as_small_as_a_feature_map(weights, size, activation):
    images, x = stem()
    scores = L.Activation(activation, name="attention_scores")(weights(L.Reshape((64, 16))(x), size))
    joined = ops.concatenate([L.Flatten()(scores), L.Flatten()(x)], axis=-1)
    classifier = keras.Model(images, L.Dense(3)(joined))
    assert attention_layers.find(classifier) == ("stem1", "stem2")
    with pytest.raises(ValueError, match="last_layer='attention_scores' is no feature map"):
        attention_layers.find(classifier, last="attention_scores")


class Weights(L.Layer):
    """Attention weights by one layer, which even has what looks like an activation."""

    activation = staticmethod(keras.activations.softmax)

    def __init__(self, heads_last, **options):
        super().__init__(**options)
        self.heads_last = heads_last

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], shape[-1]))

    def call(self, x):
        tokens = ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
        weights = ops.softmax(ops.matmul(tokens @ self.kernel, ops.transpose(tokens, (0, 2, 1))))
        return weights[..., None] if self.heads_last else weights[:, None]


@pytest.mark.parametrize("heads_last", [True, False])
def test_attention_weights_of_a_layer_that_somebody_wrote(heads_last):
    images, x = stem()
    weights = Weights(heads_last, name="attention_scores")(x)
    joined = ops.concatenate([L.Flatten()(weights), L.Flatten()(x)], axis=-1)
    classifier = keras.Model(images, L.Dense(3)(joined))
    assert attention_layers.find(classifier) == ("stem1", "stem2")
    with pytest.raises(ValueError, match="last_layer='attention_scores' is no feature map"):
        attention_layers.find(classifier, last="attention_scores")


class Block(L.Layer):
    """A convolution, normalisation and activation in one layer."""

    activation = staticmethod(keras.activations.relu)

    def __init__(self, filters, strides, **options):
        super().__init__(**options)
        self.convolution = L.Conv2D(filters, 3, strides, padding="same")
        self.normalisation = L.BatchNormalization()

    def build(self, shape):
        self.convolution.build(shape)
        self.normalisation.build(self.convolution.compute_output_shape(shape))

    def call(self, x):
        return self.activation(self.normalisation(self.convolution(x)))


def patches_merged(x):
    return ops.concatenate([x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)], axis=-1)


def space_to_depth(x):
    _, rows, columns, channels = x.shape
    split = ops.reshape(x, (-1, rows // 2, 2, columns // 2, 2, channels))
    return ops.reshape(ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, rows // 2, columns // 2, 4 * channels))


def shifted_windows(x):
    """Attention inside windows of 4x4 that are shifted by half a window, as in Swin."""
    _, rows, columns, channels = x.shape
    split = ops.reshape(ops.roll(x, (-2, -2), (1, 2)), (-1, rows // 4, 4, columns // 4, 4, channels))
    windows = ops.reshape(ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, 16, channels))
    windows = L.MultiHeadAttention(2, 8)(windows, windows)
    split = ops.reshape(windows, (-1, rows // 4, columns // 4, 4, 4, channels))
    back = ops.reshape(ops.transpose(split, (0, 1, 3, 2, 4, 5)), (-1, rows, columns, channels))
    return L.Add()([x, ops.roll(back, (2, 2), (1, 2))])


def squeezed(x):
    factors = ops.reshape(L.GlobalAveragePooling2D()(x), (-1, 1, 1, x.shape[-1]))
    return x * ops.sigmoid(L.Conv2D(x.shape[-1], 1)(factors))


def padded_with_infinity(x):
    return L.MaxPooling2D(3, 1)(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf))


def of_lambda(x):
    return L.Lambda(lambda y: y[:, ::2, ::2] - 0.5)(x)


@pytest.mark.parametrize(
    "part", [patches_merged, space_to_depth, shifted_windows, squeezed, padded_with_infinity, of_lambda, Block(8, 1)]
)
def test_what_keeps_positions_in_place(part):
    images, x = stem(32, 1)
    x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="after")(part(x))
    assert attention_layers.find(keras.Model(images, L.Dense(3)(L.GlobalAveragePooling2D()(x))))[1] == "after"


def test_layers_that_somebody_wrote_around_convolutions():
    images = keras.Input((32, 32, 3))
    x = Block(8, 2, name="second")(Block(8, 2, name="first")(images))
    assert attention_layers.find(keras.Model(images, L.Dense(3)(L.Flatten()(x)))) == ("first", "second")


@pytest.mark.parametrize("part", [L.Permute((2, 1, 3)), L.Lambda(lambda x: ops.transpose(x, (0, 2, 1, 3)))])
def test_rows_taken_for_columns_are_no_positions_of_the_image(part):
    images, x = stem(32, 1)
    x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="after")(part(x))
    classifier = keras.Model(images, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match="last_layer='after' is no feature map"):
        attention_layers.find(classifier, last="after")


def channels_first(*parts, name="network"):
    return keras.Sequential([keras.Input((3, 32, 32)), *parts, L.Flatten(), L.Dense(3)], name=name)


FIRST = {"data_format": "channels_first"}


class Wrapped(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.convolution = L.Conv2D(4, 3, **FIRST)

    def build(self, shape):
        self.convolution.build(shape)

    def call(self, x):
        return self.convolution(x)


@pytest.mark.parametrize(
    "part",
    [
        lambda: L.Conv2D(4, 3, name="part", **FIRST),
        lambda: L.DepthwiseConv2D(3, name="part", **FIRST),
        lambda: L.SeparableConv2D(4, 3, name="part", **FIRST),
        lambda: L.Conv2DTranspose(4, 3, name="part", **FIRST),
        lambda: L.MaxPooling2D(name="part", **FIRST),
        lambda: L.GlobalAveragePooling2D(name="part", **FIRST),
        lambda: L.UpSampling2D(name="part", **FIRST),
        lambda: L.ZeroPadding2D(name="part", **FIRST),
        lambda: L.Cropping2D(name="part", **FIRST),
        lambda: Wrapped(name="part"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_channels_first_is_refused_by_the_layers_name(part, nested):
    layer = part()
    if nested:
        layer = keras.Sequential([keras.Input((3, 32, 32)), layer], name="inside")
    path = "inside/part" if nested else "part"
    with pytest.raises(ValueError, match=f"layer '{path}' has data_format='channels_first'.*channels_last"):
        sf.SharpenFocus(channels_first(layer))


class Hidden(L.Layer):
    """A convolution that says nothing of its channels."""

    def build(self, shape):
        self.kernel = self.add_weight((3, 3, shape[1], 4))

    def call(self, x):
        return ops.relu(ops.conv(x, self.kernel, 2, data_format="channels_first"))


@pytest.mark.parametrize("images_too", [False, True])
def test_channels_first_inside_a_layer_that_does_not_say_so(images_too):
    images = keras.Input((3, 32, 32) if images_too else (32, 32, 3))
    x = images if images_too else ops.transpose(images, (0, 3, 1, 2))
    x = L.ReLU(name="coarse")(Hidden()(L.ReLU(name="fine")(Hidden()(x))))
    with pytest.raises(
        ValueError, match="no two layers for attention.*positions of .*fine.* are not those of the image"
    ):
        sf.SharpenFocus(keras.Model(images, L.Dense(3)(L.Flatten()(x))))


def test_channels_first_operations_are_refused_too():
    images = keras.Input((3, 32, 32))
    x = ops.relu(ops.conv(images, np.ones((3, 3, 3, 4), "float32"), 2, data_format="channels_first"))
    with pytest.raises(ValueError, match="layer 'conv.*' has data_format='channels_first'"):
        sf.SharpenFocus(keras.Model(images, L.Dense(3)(L.Flatten()(x))))


@pytest.mark.parametrize(
    "to_last",
    [
        L.Permute((2, 3, 1)),
        lambda x: ops.transpose(x, (0, 2, 3, 1)),
        L.Lambda(lambda x: ops.moveaxis(x, 1, 3)),
    ],
)
def test_images_with_channels_first_that_the_network_puts_last(to_last):
    """The maps are those of the same network for images with their channels last."""
    keras.utils.set_random_seed(1)
    images = keras.Input((32, 32, 3))
    x = L.Conv2D(8, 3, 2, activation="relu", name="fine")(images)
    x = L.Conv2D(8, 3, 2, activation="relu", name="coarse")(x)
    last = keras.Model(images, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    inputs = keras.Input((3, 32, 32))
    x = to_last(inputs)
    for layer in last.layers[1:]:
        x = layer(x)
    first = keras.Model(inputs, x)
    given = random_images(2, 32)
    one, other = sf.SharpenFocus(last).explain(given), sf.SharpenFocus(first).explain(given.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(one.last.target, other.last.target, atol=1e-5)
    assert one.last.target.max() > 0


def test_flatten_with_channels_first_takes_no_positions_away():
    images, x = stem()
    assert checks.check(keras.Model(images, L.Dense(3)(L.Flatten(**FIRST)(x)))) == 3
