"""Classifiers whose features are tokens: their grids, layers, maps and training, in plain Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from benchmarks.vision_transformers import ClassToken, mixer, vit
from sfocus_tf.attention import labelled_classes
from sfocus_tf.classifier import attention_layers
from sfocus_tf.classifier.token_grids import Grid
from sfocus_tf.report import tf_keras_vis
from tests.conftest import LABELS, PAPER, compiled, random_images

L, ops = keras.layers, keras.ops

# network, inner and last layer, tokens before those of patches
NETWORKS = {
    "keras.io": (vit, "norm1a", "norm", 0),
    "patches by a convolution": (lambda: vit("mean", patches="convolution"), "norm1a", "norm", 0),
    "patches by an operation": (lambda: vit("mean", patches="operation"), "norm1a", "norm", 0),
    "mean": (lambda: vit("mean"), "norm1a", "norm", 0),
    "mean of patches": (lambda: vit("patches"), "norm1a", "norm", 1),
    "class token": (lambda: vit("class"), "norm0a", "norm1a", 1),
    "registers": (lambda: vit("class", registers=4), "norm0a", "norm1a", 5),
    "four blocks": (lambda: vit("mean", blocks=4), "norm2b", "norm", 0),
    "as many tokens as channels": (lambda: mixer("graph", channels=16), "norm1a", "norm", 0),
    "mixer": (lambda: mixer(channels=8), "block0", "norm", 0),
    "mixer without a last normalisation": (lambda: mixer("graph", norm=False), "norm1a", "block1", 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_and_grids(name):
    make, inner, last, skip = NETWORKS[name]
    found = attention_layers.locate(make())
    assert found.layers == (inner, last)
    assert found.grids == dict.fromkeys((inner, last), Grid(4, 4, skip))


def by_tape(classifier, images, path, class_ids, grid):
    """Grad-CAM of tokens as the papers write it, and the gradients, of a flat network."""
    both = keras.Model(classifier.input, [classifier.get_layer(path).output, classifier.output])
    with tf.GradientTape() as tape:
        images = tf.constant(images)
        tape.watch(images)
        tokens, scores = both(images)
        chosen = tf.gather(scores, class_ids, batch_dims=1)
    slopes = tape.gradient(chosen, tokens).numpy()[:, grid.skip :]
    patches = tokens.numpy()[:, grid.skip :]
    maps = np.maximum(0, np.einsum("bnc,bc->bn", patches, slopes.mean(1)))
    return maps.reshape(-1, grid.height, grid.width), slopes


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_a_gradient_tape(name):
    model = sf.SharpenFocus(NETWORKS[name][0]())
    images = random_images(8, 16)
    found = model.explain(images)
    grid = model.token_grids[model.last_layer]
    for path, maps in ((model.inner_layer, found.inner), (model.last_layer, found.last)):
        for class_ids, of_class in ((found.target, maps.target), (found.rival, maps.rival)):
            # With few channels a map may be zero for all of these images; some map is not.
            expected, slopes = by_tape(model.classifier, images, path, class_ids, grid)
            assert (np.abs(slopes) > 0).any((1, 2)).all()
            np.testing.assert_allclose(of_class, expected, rtol=1e-4, atol=1e-5 * max(1, expected.max()))
        assert max(maps.target.max(), maps.rival.max()) > 1e-3


@pytest.mark.parametrize("head", ["mean", "class"])
@pytest.mark.parametrize("layer", ["embedding", "attention0", "mlp1a", "scores"])
def test_second_derivatives_by_finite_differences(head, layer):
    """Of what the losses are made of: maps at both layers, along a random direction of one layer's kernel."""
    keras.config.set_floatx("float64")
    classifier = vit(head, size=(8, 8), channels=4, activation="tanh")
    model = sf.SharpenFocus(classifier, PAPER)  # whose maps are differentiated through everything
    images = tf.constant(random_images(3, 8), tf.float64)
    variable = classifier.get_layer(layer).trainable_variables[0]
    direction = tf.constant(np.random.default_rng(0).normal(size=variable.shape))

    def value():
        extracted = model._extractor.extract(images, False, lambda scores: labelled_classes(scores, [0, 1, 2]))
        maps = [pair.target.evidence for pair in (extracted.inner, extracted.last)]
        maps += [pair.rival.evidence for pair in (extracted.inner, extracted.last)]
        return tf.add_n([tf.reduce_sum(tf.tanh(10 * each) ** 2) for each in maps])

    with tf.GradientTape() as tape:
        total = value()
    slope = tf.reduce_sum(tape.gradient(total, variable.value) * direction).numpy()
    start, step = variable.numpy(), 1e-5
    sides = []
    for sign in (1, -1):
        variable.assign(start + sign * step * direction)
        sides.append(value().numpy())
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("name", ["keras.io", "mixer"])
def test_training_and_saving(name, tmp_path):
    model = compiled(sf.SharpenFocus(NETWORKS[name][0](), PAPER), 0.01)
    images = random_images(6, 16)
    before = model.evaluate(images, LABELS, verbose=0, return_dict=True)
    logs = model.fit(images, LABELS, epochs=8, batch_size=6, verbose=0).history
    after = model.evaluate(images, LABELS, verbose=0, return_dict=True)
    assert after["classification_loss"] < before["classification_loss"]
    assert logs["separation_last"][0] > 0
    expected = model.explain(images)
    assert expected.last.target.max() > 0

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.inner_layer, loaded.last_layer) == (model.inner_layer, model.last_layer)
    for one, two in zip(keras.tree.flatten(expected), keras.tree.flatten(loaded.explain(images)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    loaded.run_eagerly = True  # a graph would take longer and tell no more
    loaded.fit(images, LABELS, verbose=0)


def test_served_explanations(tmp_path):
    model, images = sf.SharpenFocus(vit("class", blocks=1)), random_images(6, 16)
    expected = model.explain(images)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["explain"]
    answer = served(images=tf.constant(images), class_ids=tf.fill([6], -1))
    np.testing.assert_allclose(answer["raw_attention_target_last"], expected.last.target, atol=1e-5)
    np.testing.assert_allclose(answer["raw_attention_rival_inner"], expected.inner.rival, atol=1e-5)


def test_a_transformer_inside_a_users_model():
    base = vit("mean")
    backbone = keras.Model(base.input, base.get_layer("norm").output, name="backbone")
    images = keras.Input((16, 16, 3))
    x = backbone(L.Rescaling(1 / 255)(images))
    model = sf.SharpenFocus(keras.Model(images, L.Dense(3)(L.GlobalAveragePooling1D()(x))))
    assert (model.inner_layer, model.last_layer) == ("backbone/norm1a", "backbone/norm")
    assert model.explain(255 * random_images(2, 16)).last.target.shape == (2, 4, 4)
    outer = keras.Sequential([keras.Input((16, 16, 3)), model.classifier])
    assert model.around(outer).last_layer == f"{model.classifier.name}/backbone/norm"


def test_explanations_of_tf_keras_vis_are_refused_for_tokens():
    model, images = sf.SharpenFocus(vit("mean")), random_images(2, 16)
    explanation = model.explain(images)
    with pytest.raises(ValueError, match="cam='vis:score_cam': tf-keras-vis takes no tokens, which layer 'norm1a' out"):
        tf_keras_vis.explain_by("vis:score_cam", model, images, explanation)
    assert tf_keras_vis.explain_by("vis:saliency", model, images, explanation).last.target.shape == (2, 16, 16)


@pytest.mark.parametrize("cam", sf.attention.CAMS)
@pytest.mark.parametrize("of", ["score", "relative"])
def test_every_kind_of_map(cam, of):
    model = sf.SharpenFocus(vit("class", blocks=1))
    maps = model.explain(random_images(4, 16), cam=cam, of=of).last
    assert maps.target.shape == (4, 4, 4) and max(maps.target.max(), maps.rival.max()) > 0


def test_images_of_another_shape_than_a_square():
    model = sf.SharpenFocus(vit("class", size=(16, 24)))
    assert model.token_grids[model.last_layer] == Grid(4, 6, 1)
    images = np.random.default_rng(0).random((2, 16, 24, 3), dtype=np.float32)
    assert model.explain(images).last.target.shape == (2, 4, 6)


@keras.saving.register_keras_serializable(package="sfocus_tf_tests")
class Encoder(L.Layer):
    """From images to tokens of oblong patches that are mixed already, so that nothing tells how they lie."""

    def __init__(self, **options):
        super().__init__(**options)
        self.projection = L.Dense(8)
        self.mixing = L.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.projection.build((None, None, 96))
        self.mixing.build((None, None, 8), (None, None, 8))
        self.built = True

    def call(self, images):
        rows = ops.reshape(images, (-1, 4, 4, 3, 8, 3))
        x = self.projection(ops.reshape(ops.transpose(rows, (0, 1, 3, 2, 4, 5)), (-1, 12, 96)))
        return self.mixing(ops.ones_like(x), x) + 0.01 * ops.mean(x, 1, keepdims=True)


def unclear(size=(16, 24)):
    images = keras.Input((*size, 3))
    x = L.LayerNormalization(name="norm")(Encoder(name="encoder")(images))
    return keras.Model(images, L.Dense(3)(L.GlobalAveragePooling1D()(x)), name="unclear")


def test_an_unclear_grid_is_asked_for():
    with pytest.raises(ValueError, match=r"tokens of layer 'encoder' .* unclear.*grid=\(height, width\).*\(4, 3\)"):
        sf.SharpenFocus(unclear())
    model = sf.SharpenFocus(unclear(), grid=(4, 3))
    assert model.get_config()["grid"] == (4, 3)
    assert (model.inner_layer, model.last_layer) == ("encoder", "norm")
    assert model.token_grids["norm"] == Grid(4, 3)
    copy = sf.SharpenFocus.from_config(model.get_config())
    assert copy.grid == (4, 3) and copy.token_grids == model.token_grids


@pytest.mark.parametrize("grid", [(5, 6), (1, 3), (2, 1)])
def test_a_grid_that_does_not_fit(grid):
    message = (
        rf"grid=\({grid[0]}, {grid[1]}\): expected rows and columns of the 12 tokens of layer 'encoder', .* at most 8"
    )
    with pytest.raises(ValueError, match=message):
        sf.SharpenFocus(unclear(), grid=grid)


@pytest.mark.parametrize("grid", [4, (4,), (4, 0), (4.0, 3.0), "43"])
def test_a_grid_that_is_none(grid):
    with pytest.raises(ValueError, match=r"grid=.*: expected rows and columns, two positive whole numbers"):
        sf.SharpenFocus(unclear(), grid=grid)


def test_a_grid_other_than_the_one_that_is_seen():
    with pytest.warns(
        UserWarning, match=r"grid=\(2, 8\): changes in the image appear on a grid of 4 rows and 4 columns"
    ):
        model = sf.SharpenFocus(vit("mean"), grid=(2, 8))
    assert model.token_grids[model.last_layer] == Grid(2, 8)


def test_a_named_layer_whose_patches_are_not_read():
    with pytest.raises(ValueError, match="last_layer='norm': the scores depend on none of its patch tokens"):
        sf.SharpenFocus(vit("class"), last_layer="norm")
    model = sf.SharpenFocus(vit("class"), inner_layer="class_token", last_layer="block0")
    assert (model.inner_layer, model.last_layer) == ("class_token", "block0")


def test_a_new_head_of_zeros_hides_nothing():
    """The scores depend on no token as long as the head's kernel is zero."""
    images = keras.Input((16, 16, 3))
    x = ClassToken()(L.Reshape((16, 8))(L.Conv2D(8, 4, 4)(images)))
    x = L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)])
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(3, kernel_initializer="zeros")(L.GlobalAveragePooling1D()(x))
    assert attention_layers.find(keras.Model(images, x)).last == "norm"


def test_images_of_any_size_are_refused():
    images = keras.Input((None, None, 3))
    x = L.Reshape((-1, 8))(L.Conv2D(8, 16, 16)(images))
    x = L.LayerNormalization()(L.Dense(8)(x))
    classifier = keras.Model(images, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    with pytest.raises(ValueError, match="takes images of any size. Expected one size"):
        sf.SharpenFocus(classifier)


def test_wrapping_changes_nothing_of_the_classifier():
    classifier = vit("class")
    classifier.get_layer("scores").kernel.assign(np.zeros((16, 3)))
    weights, config = classifier.get_weights(), classifier.get_config()
    sf.SharpenFocus(classifier)
    assert classifier.get_config() == config
    for before, after in zip(weights, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not any("call" in vars(layer) for layer in classifier._flatten_layers())


def attention_by_hand(x, name):
    """Attention whose weights `[batch, tokens, tokens]` are layers' outputs."""
    query, key, value = (L.Dense(16)(x) for _ in range(3))
    weights = L.Softmax(name=f"{name}_weights")(L.Dot(-1, name=f"{name}_logits")([query, key]))
    return L.Dot((2, 1), name=name)([weights, value])


@pytest.mark.parametrize("head", ["mean", "class"])
def test_attention_weights_are_not_chosen(head):
    images = keras.Input((16, 16, 3))
    x = L.Reshape((16, 16), name="tokens")(L.Conv2D(16, 4, 4)(images))
    if head == "class":
        x = ClassToken()(x)
    for number in range(2):
        x = L.Add(name=f"block{number}")([x, attention_by_hand(x, f"attention{number}")])
    x = L.GlobalAveragePooling1D()(x) if head == "mean" else x[:, 0]
    found = attention_layers.find(keras.Model(images, L.Dense(3)(x)))
    assert found == ("tokens", "block1" if head == "mean" else "block0")
