"""Finding attention layers, in the networks people use and in nested ones."""

import re

import keras
import numpy as np
import pytest
from keras.src.applications import convnext, densenet, efficientnet

import sfocus_tf as sf
from sfocus_tf.classifier import attention_layers
from tests.conftest import crossentropy, random_images, tiny_classifier

# network, image size, expected inner and last layer, and their shapes
NETWORKS = [
    ("ResNet50", 64, "conv4_block6_out", "conv5_block3_out", (4, 4, 1024), (2, 2, 2048)),
    ("VGG19", 32, "block4_conv4", "block5_conv4", (4, 4, 512), (2, 2, 512)),
    ("DenseNet121", 64, "pool4_relu", "relu", (4, 4, 1024), (2, 2, 1024)),
    ("MobileNetV2", 64, "block_13_expand_relu", "out_relu", (4, 4, 576), (2, 2, 1280)),
    ("EfficientNetB0", 64, "block6a_expand_activation", "top_activation", (4, 4, 672), (2, 2, 1280)),
    ("InceptionV3", 139, "mixed7", "mixed10", (7, 7, 768), (3, 3, 2048)),
    ("Xception", 71, "block13_sepconv2_act", "block14_sepconv2_act", (5, 5, 728), (3, 3, 2048)),
    (
        "ConvNeXtTiny", 64, "convnext_tiny_stage_2_block_8_gelu", "convnext_tiny_stage_3_block_2_gelu",
        (4, 4, 1536), (2, 2, 3072),
    ),
]  # fmt: skip


def application(name, size, **kwargs):
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), **kwargs)


def nested(backbone, size):
    """A backbone as one layer of a larger model."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)  # a name that EfficientNet and ConvNeXt have inside too
    x = keras.layers.GlobalAveragePooling2D()(backbone(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


# Every other one as it is, and the others as one layer of a larger model.
@pytest.mark.parametrize(
    ("name", "size", "inner", "last", "inner_shape", "last_shape", "is_nested"),
    [(*network, number % 2 == 1) for number, network in enumerate(NETWORKS)],
)
def test_layers_of_keras_applications(name, size, inner, last, inner_shape, last_shape, is_nested):
    if is_nested:
        backbone = application(name, size, include_top=False)
        classifier = nested(backbone, size)
        inner, last = f"{backbone.name}/{inner}", f"{backbone.name}/{last}"
    else:
        classifier = application(name, size, classes=3, classifier_activation=None)
    model = sf.SharpenFocus(classifier)
    assert (model.inner_layer, model.last_layer) == (inner, last)
    for path, shape in ((inner, inner_shape), (last, last_shape)):
        layer = classifier
        for part in path.split("/"):
            layer = layer.get_layer(part)
        assert layer.output.shape[1:] == shape


# The same families with few and narrow blocks.
FAMILIES = {
    "densenet": lambda **kwargs: densenet.DenseNet([1, 2, 1, 1], weights=None, **kwargs),
    "convnext": lambda **kwargs: convnext.ConvNeXt([1, 1, 2, 1], [8, 16, 32, 64], weights=None, **kwargs),
    "efficientnet": lambda **kwargs: efficientnet.EfficientNet(0.3, 0.3, 64, weights=None, **kwargs),
    "mobilenet": lambda **kwargs: keras.applications.MobileNetV2(alpha=0.35, weights=None, **kwargs),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_keras_applications_are_explained_and_a_step_lowers_their_loss(name):
    size = 64
    backbone = FAMILIES[name](include_top=False, input_shape=(size, size, 3))
    classifier = nested(backbone, size)
    model = sf.SharpenFocus(classifier, "paper")
    images, labels = random_images(4, size) * 255, np.array([0, 1, 2, 1])
    explanation = model.explain(images)
    assert explanation.inner.target.shape == (4, 4, 4) and explanation.last.target.shape == (4, 2, 2)
    np.testing.assert_allclose(explanation.scores, classifier(images), rtol=1e-3, atol=1e-4)

    # Chance and the batch's own statistics apart, a step against the gradient lowers the loss if it is small enough;
    # how small depends on the network (ConvNeXt begins with factors of 1e-6).
    for layer in classifier._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    start = model.get_weights()
    for rate in (1e-5, 1e-7):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(rate, global_clipnorm=1.0), crossentropy(), run_eagerly=True)
        before, after = (model.train_on_batch(images, labels, return_dict=True)["loss"] for _ in range(2))
        after = 2 * after - before  # logged is the mean of both
        if after < before:
            return
    pytest.fail(f"no step lowers the loss: {before} -> {after}")


def test_names_are_accepted_whole_or_short():
    backbone = tiny_classifier()
    inner = keras.Model(backbone.input, backbone.get_layer("coarse").output, name="backbone")
    classifier = keras.Sequential(
        [keras.Input((8, 8, 3)), inner, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    )
    expected = attention_layers.AttentionLayers("backbone/fine", "backbone/coarse")
    assert attention_layers.find(classifier) == expected
    assert attention_layers.find(classifier, "fine", "backbone/coarse") == expected


def test_a_wrong_name_lists_the_nearest():
    with pytest.raises(ValueError, match="last_layer='corse' is not known. Did you mean 'coarse'"):
        sf.SharpenFocus(tiny_classifier(), last_layer="corse")


def test_layers_in_the_wrong_order():
    with pytest.raises(ValueError, match="inner_layer='coarse' must come before last_layer='fine'"):
        sf.SharpenFocus(tiny_classifier(), inner_layer="coarse", last_layer="fine")


def sequential(*parts, size=8):
    return keras.Sequential([keras.Input((size, size, 3)), *parts, keras.layers.Flatten(), keras.layers.Dense(3)])


def convolution(name, strides=1, activation="relu", size=3):
    return keras.layers.Conv2D(4, size, strides, padding="same", activation=activation, name=name)


def whole(name):
    """One position that sees the whole image."""
    return keras.layers.Conv2D(4, 8, activation="relu", name=name)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([convolution("one")], "no activated feature map has a finer resolution than its 8x8. Two layers are needed"),
        ([convolution("one"), convolution("two")], "No map before it is finer: name one that is not, such as 'one'"),
        ([convolution("one", activation=None), convolution("two", 2)], "'one' is finer, but no activation: name it"),
        ([convolution("one", activation=None)], "Feature maps such as 'one' have no activation behind them: name two"),
        ([convolution("one"), whole("all")], "Behind it, maps such as 'all' have one position: use a larger input"),
        ([whole("all")], "All feature maps, such as 'all', have one position: use a larger input"),
        ([], "no activated feature map with more than one position. Expected convolutions with activations"),
        ([keras.layers.Conv2D(4, 2, 2), keras.layers.Reshape((4, 16)), keras.layers.LayerNormalization()],
         r"The tokens of 'reshape\w*', \(None, 4, 16\), lie on no grid that is known: .*grid=\(height, width\)"),
    ],
)  # fmt: skip
def test_a_network_without_two_usable_layers(parts, message):
    """The advice is to use a larger input only where the input is too small."""
    with pytest.raises(ValueError, match="no two layers for attention.*" + message) as raised:
        sf.SharpenFocus(sequential(*parts))
    assert ("larger input" in str(raised.value)) == ("larger input" in message)


def test_a_name_of_a_layer_that_has_no_feature_map():
    with pytest.raises(ValueError, match=r"last_layer='scores' gives \(None, 3\): expected a feature map.*coarse"):
        sf.SharpenFocus(tiny_classifier(), last_layer="scores")


def test_a_grid_for_feature_maps_is_refused():
    with pytest.raises(ValueError, match=r"grid=\(4, 4\): .* 'fine' and 'coarse' output feature maps"):
        sf.SharpenFocus(tiny_classifier(), grid=(4, 4))


def test_a_layer_that_is_run_twice_is_no_attention_layer():
    """The activation is shared by two convolutions: it is left out where layers are chosen, and refused by name."""

    def classifier(*activations):
        x = inputs = keras.Input((8, 8, 3))
        for number, activation in enumerate(activations):
            x = activation(keras.layers.Conv2D(4, 3, 1 if number < 2 else 2, padding="same", name=f"c{number}")(x))
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))

    relu = [keras.layers.ReLU(name=f"relu{number}") for number in range(3)]
    model = sf.SharpenFocus(classifier(relu[0], relu[1], relu[2], relu[2]), last_layer="c2", inner_layer="relu1")
    assert (model.inner_layer, model.last_layer) == ("relu1", "c2")
    with pytest.raises(ValueError, match="last_layer='relu2' is run more than once"):
        sf.SharpenFocus(classifier(relu[0], relu[1], relu[2], relu[2]), last_layer="relu2")
    with pytest.raises(ValueError, match="left out, as they are run more than once: relu0"):
        sf.SharpenFocus(classifier(relu[0], relu[0], relu[0]))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_classifier_that_ends_in_probabilities(activation):
    base = tiny_classifier()
    inside = keras.Sequential([base, keras.layers.Activation(activation)])
    inside.build((None, 8, 8, 3))
    with pytest.raises(ValueError, match=f"ends in a {activation}.*classifier_activation=None"):
        sf.SharpenFocus(inside)
    x = keras.layers.GlobalAveragePooling2D()(base.get_layer("coarse").output)
    dense = keras.Model(base.input, keras.layers.Dense(3, activation=activation)(x))
    with pytest.raises(ValueError, match=f"ends in a {activation}"):
        sf.SharpenFocus(dense)
    with pytest.raises(ValueError, match="ends in a softmax"):
        sf.SharpenFocus(application("MobileNetV2", 64, classes=3))


def test_what_is_no_classifier():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="of a subclassed model they cannot be seen"):
        sf.SharpenFocus(Subclassed())
    with pytest.raises(
        TypeError, match="inner_layer: expected the name or path of a layer, got Activation; its name is 'fine'"
    ):
        sf.SharpenFocus(tiny_classifier(), inner_layer=tiny_classifier().get_layer("fine"))
    with pytest.raises(TypeError, match="expected a keras.Model, got str"):
        sf.SharpenFocus("resnet50")
    with pytest.raises(ValueError, match="has no input shape yet"):
        sf.SharpenFocus(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match=r"two classes or more.*Dense\(2\).*Crossentropy\(from_logits=True\)"):
        sf.SharpenFocus(tiny_classifier(classes=1))


def test_other_outputs_than_one_of_scores():
    """The messages say what to write; that is what makes it work."""
    base = tiny_classifier()
    scores, features = base.outputs[0], base.get_layer("coarse").output
    for outputs, message, key in [
        ({"logits": scores}, r"has a dict of outputs: 'logits' \(None, 3\)", "logits"),
        ({"map": features, "logits": scores}, r"has the outputs 'map' \(None, 4, 4, 6\), 'logits' \(N", "logits"),
        ([features, scores], r"has the outputs 0 \(None, 4, 4, 6\), 1 \(None, 3\)", 1),
    ]:
        classifier = keras.Model(base.inputs, outputs)
        selection = re.escape(f"keras.Model(classifier.inputs, classifier.output[{key!r}])")
        with pytest.raises(ValueError, match=f"{message}.*{selection}"):
            sf.SharpenFocus(classifier)
        assert sf.SharpenFocus(keras.Model(classifier.inputs, classifier.output[key])).num_classes == 3
    assert sf.SharpenFocus(keras.Model(base.inputs, [scores])).num_classes == 3


def test_several_inputs_are_named():
    inputs = [keras.Input((8, 8, 3), name="photo"), keras.Input((4,), name="weather")]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(inputs[0]))
    scores = keras.layers.Dense(3)(keras.ops.concatenate([x, inputs[1]], axis=-1))
    with pytest.raises(TypeError, match=r"has 2 inputs \('photo', 'weather'\): expected one, of images"):
        sf.SharpenFocus(keras.Model(inputs, scores))


def test_a_model_that_is_wrapped_already():
    model = sf.SharpenFocus(tiny_classifier())
    with pytest.raises(TypeError, match=r"is a SharpenFocus already.*SharpenFocus\(model.classifier, ...\)"):
        sf.SharpenFocus(model)
    with pytest.raises(TypeError, match="layer 'sharpen_focus_tiny' is a SharpenFocus already"):
        sf.SharpenFocus(keras.Sequential([keras.Input((8, 8, 3)), model]))
    assert sf.SharpenFocus(model.classifier).num_classes == 3


def test_wrapping_changes_nothing_of_the_classifier():
    classifier = tiny_classifier()
    config, names = classifier.get_config(), [weight.path for weight in classifier.weights]
    sf.SharpenFocus(classifier)
    assert classifier.get_config() == config
    assert [weight.path for weight in classifier.weights] == names


def test_a_size_left_open_is_no_obstacle():
    backbone = keras.applications.MobileNetV2(weights=None, input_shape=(None, None, 3), include_top=False)
    classifier = keras.Sequential(
        [keras.Input((None, None, 3)), backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    assert sf.SharpenFocus(classifier).explain(random_images(1, 96)).last.target.shape == (1, 3, 3)
