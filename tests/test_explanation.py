"""What `explain` gives, of which classes, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import attention, backbones
from tests.conftest import LABELS, compiled, random_images, tiny_classifier


def maps_of(explanation):
    return [*explanation.inner, *explanation.last]


def test_of_several_labels_the_rival_of_a_named_class_is_the_best_of_the_others():
    model, images = sf.SharpenFocus(tiny_classifier(4), multi_label=True), random_images(6)
    ranks = np.argsort(-model.explain(images).scores, axis=1)
    named = model.explain(images, class_ids=ranks[:, 0])
    assert (named.target == ranks[:, 0]).all() and (named.rival == ranks[:, 1]).all()


def test_explain_takes_classes_and_checks_them():
    model, images = sf.SharpenFocus(tiny_classifier()), random_images(5)
    predicted = model.explain(images)
    ranks = np.argsort(-predicted.scores, axis=1)
    assert (predicted.target == ranks[:, 0]).all() and (predicted.rival == ranks[:, 1]).all()
    asked = model.explain(images, class_ids=ranks[:, 1], rival_ids=ranks[:, 0], batch_size=2)
    np.testing.assert_allclose(asked.inner.target, predicted.inner.rival, rtol=1e-5, atol=1e-9)
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
    for labels, message in (
        ([7, 0, 0, 0, 0], "labels: expected class numbers from 0 to 2, got 7"),
        ([[0], [1], [2], [-1], [0]], "labels: expected class numbers from 0 to 2, got -1"),
        (np.array([np.nan, 0, 0, 0, 0]), "labels: expected finite numbers"),
        (list("abcde"), "labels: expected numbers, got <U1"),
        ([0, 1], "labels: expected 5 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            model.explain(images, labels=labels)
    with pytest.raises(ValueError, match="class_ids: expected class numbers from -1 to 2"):
        model.explain(images, class_ids=2**32 + 1)
    several = sf.SharpenFocus(tiny_classifier(), multi_label=True)
    assert several.explain(images, labels=np.eye(3)[[0, 1, 2, 0, 1]]).target.tolist() == [0, 1, 2, 0, 1]
    labelled = model.explain(images, labels=2)
    assert (labelled.target == 2).all() and (labelled.rival == model.explain(images, class_ids=2).rival).all()


@pytest.mark.parametrize("cam", ["grad_cam", "layer_cam"])
def test_a_layer_that_the_scores_do_not_depend_on_is_named(cam):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="cut_off")(inputs)
    x = keras.ops.stop_gradient(x)
    x = keras.layers.Conv2D(4, 3, 2, activation="relu")(x)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = sf.SharpenFocus(keras.Model(inputs, x))
    with pytest.raises(ValueError, match="attention layer 'cut_off': the scores do not depend on it"):
        model.explain(random_images(2), cam=cam)


def test_relative_maps_are_those_of_what_tells_classes_apart():
    """They are the maps of the network whose kernel has no mean over the classes, which answers the same."""
    model, images = sf.SharpenFocus(tiny_classifier(4)), random_images(6)
    relative, raw = model.explain(images, of="relative"), model.explain(images)
    head = model.classifier.get_layer("scores")
    kernel, bias = head.get_weights()
    head.set_weights([kernel - kernel.mean(axis=1, keepdims=True), bias - bias.mean()])
    centred = model.explain(images)
    np.testing.assert_allclose(tf.nn.softmax(centred.scores), tf.nn.softmax(raw.scores), rtol=1e-5)
    assert (relative.target == raw.target).all() and (relative.rival == raw.rival).all()
    for found, expected, of_score in zip(*(maps_of(each) for each in (relative, centred, raw)), strict=True):
        assert expected.max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert np.abs(of_score - expected).max() > 0.01 * expected.max()
    several = sf.SharpenFocus(tiny_classifier(4), multi_label=True)
    with pytest.raises(ValueError, match="of='relative': expected a classifier of one class an image"):
        several.explain(images, of="relative")


def test_the_last_layer_alone_is_explained_without_a_backward_pass():
    """The same maps, and no convolution but those of the forward pass in the graph."""
    model = sf.SharpenFocus(backbones.create("resnet8", 5, 16))
    images = 255 * random_images(4, 16)
    both, last = model.explain(images), model.explain(images, inner=False)
    assert both.inner.target.max() > 0 and last.inner.target.shape == last.inner.rival.shape == (4, 0, 0)
    for field in ("scores", "target", "rival", "last"):
        np.testing.assert_allclose(getattr(last, field), getattr(both, field), rtol=1e-5, atol=1e-7, err_msg=field)

    def convolutions(inner):
        extract = tf.function(model._extractor.extract, autograph=False)
        choose = attention.predicted_classes
        graph = extract.get_concrete_function(tf.constant(images), False, choose, inner=inner).graph
        return [operation.type for operation in graph.get_operations() if operation.type.startswith("Conv2D")]

    assert "Conv2DBackpropInput" in convolutions(True)
    assert set(convolutions(False)) == {"Conv2D"}


def with_adapters(model):
    model.classifier.get_layer("scores").enable_lora(2)
    model.classifier.get_layer("scores").lora_kernel_b.assign(tf.ones((2, 3)))


def with_another_activation(model):
    model.classifier.get_layer("coarse").activation = keras.activations.gelu


def with_an_activation_after_the_inner_layer(model):
    """The layer that reads the inner feature map is no longer a convolution alone."""
    model.classifier.get_layer("coarse_conv").activation = keras.activations.tanh


def quantized(model):
    model.classifier.get_layer("scores").quantize("int8")


def with_half_the_precision(model):
    model.classifier.get_layer("coarse_conv").dtype_policy = "mixed_bfloat16"


def with_adapters_of_a_convolution(model):
    layer = model.classifier.get_layer("coarse_conv")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(tf.ones(layer.lora_kernel_b.shape))


CHANGES = (
    with_adapters, with_another_activation, with_an_activation_after_the_inner_layer, quantized,
    with_half_the_precision, with_adapters_of_a_convolution,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_is_explained_as_it_is_now(change, tmp_path):
    """As one that was never explained before: maps, what callbacks log of them, and what is exported."""
    images, explained = random_images(3), []
    for look_first in (True, False):
        keras.utils.set_random_seed(0)
        model = sf.SharpenFocus(tiny_classifier())
        before = model.explain(images) if look_first else None
        change(model)
        explained.append(model.explain(images))
        if before is not None:
            changes = zip(maps_of(before), maps_of(explained[0]), strict=True)
            assert max(np.abs(one - other).max() for one, other in changes) > 1e-4
            model.export(tmp_path / "1")
    np.testing.assert_allclose(explained[0].scores, model.classifier(images), rtol=1e-5, atol=1e-6)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["explain"]
    for one, other in zip(*map(maps_of, explained), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    result = served(images=tf.constant(images), class_ids=tf.fill([3], -1))
    for key, expected in (("target_inner", explained[1].inner.target), ("rival_last", explained[1].last.rival)):
        np.testing.assert_allclose(result[f"raw_attention_{key}"], expected, rtol=1e-4, atol=1e-6)


def test_maps_at_a_layer_read_by_a_convolution_with_an_activation_are_grad_cam():
    """The activation comes when the network is wrapped already; an independent Grad-CAM says what is right."""
    model, images = sf.SharpenFocus(tiny_classifier()), random_images(3)
    with_an_activation_after_the_inner_layer(model)
    both = keras.Model(model.classifier.input, [model.classifier.get_layer("fine").output, model.classifier.output])
    with tf.GradientTape() as tape:
        features, scores = both(images)
        tape.watch(features)
        scores = model.classifier.get_layer("scores")(
            model.classifier.layers[-2](
                model.classifier.get_layer("coarse")(model.classifier.get_layer("coarse_conv")(features))
            )
        )
        best = tf.reduce_sum(tf.reduce_max(scores, axis=-1))
    alpha = tf.reduce_mean(tape.gradient(best, features), axis=(1, 2), keepdims=True)
    expected = tf.nn.relu(tf.reduce_sum(alpha * features, axis=-1))
    np.testing.assert_allclose(model.explain(images).inner.target, expected, rtol=1e-5, atol=1e-8)


def test_an_unchanged_network_is_traced_once():
    """Also when layers take notes while they are traced, and after training."""

    class Counting(keras.layers.Layer):
        calls = 0

        def call(self, x):
            self.calls = self.calls + 1
            return x

    classifier = tiny_classifier()
    counting = Counting()
    model = compiled(sf.SharpenFocus(keras.Model(classifier.input, counting(classifier.output))))
    model.explain(random_images(4))
    calls = counting.calls
    model.explain(random_images(4, seed=1))
    assert counting.calls == calls
    model.fit(random_images(6), LABELS, verbose=0)
    after_training = counting.calls
    first = model.explain(random_images(4))
    traced_again = counting.calls
    model.explain(random_images(4))
    assert counting.calls == traced_again <= after_training + 1
    np.testing.assert_allclose(first.scores, model.classifier(random_images(4)), rtol=1e-5)


@pytest.mark.parametrize("cam", attention.LINEAR)
def test_contrast_parts_what_speaks_for_each_class(cam):
    """On one scale: the difference of the two maps is that of the evidence of both scores, and they never overlap."""
    model, images = sf.SharpenFocus(tiny_classifier(4)), random_images(6)
    contrast = model.explain(images, of="contrast", cam=cam)
    swapped = model.explain(images, contrast.rival, contrast.target, of="contrast", cam=cam)
    for pair, other in ((contrast.inner, swapped.inner), (contrast.last, swapped.last)):
        assert pair.target.max() > 0 and pair.rival.max() > 0
        assert (np.minimum(pair.target, pair.rival) == 0).all()
        np.testing.assert_allclose(pair.target, other.rival, rtol=1e-5, atol=1e-8)


def test_contrast_adds_up_to_the_difference_of_the_scores_where_pooling_and_a_dense_layer_follow():
    model, images = sf.SharpenFocus(tiny_classifier(4)), random_images(6)
    contrast = model.explain(images, of="contrast")
    scores = contrast.scores - model.classifier.get_layer("scores").get_weights()[1]
    difference = np.diff(np.stack([scores[np.arange(6), ids] for ids in (contrast.rival, contrast.target)]), axis=0)[0]
    np.testing.assert_allclose((contrast.last.target - contrast.last.rival).sum((1, 2)), difference, rtol=1e-4)


@pytest.mark.parametrize("cam", sorted(set(attention.CAMS) - set(attention.LINEAR)))
def test_contrast_is_refused_for_maps_without_a_negative_side(cam):
    with pytest.raises(
        ValueError, match=f"of='contrast': cam='{cam}' has no negative side; expected grad_cam or hires"
    ):
        sf.SharpenFocus(tiny_classifier()).explain(random_images(2), of="contrast", cam=cam)


@pytest.mark.parametrize("ids", [([7, 0], [-1, 1]), ([0, 1], [1, 3])])
def test_batches_of_tensors_with_class_numbers_out_of_range_are_refused(ids):
    model = sf.SharpenFocus(tiny_classifier())
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="class_ids, rival_ids: expected class numbers from -1 to 2"
    ):
        model.explain_on_batch(tf.constant(random_images(2)), *map(tf.constant, ids))


def test_explain_names_what_are_no_images():
    model, images = sf.SharpenFocus(tiny_classifier()), random_images(3)
    for given, name in ((None, "NoneType"), ("a.jpg", "str"), ({"image": images}, "dict"), (7, "int")):
        with pytest.raises(ValueError, match=f"images: expected an array .*got {name}"):
            model.explain(given)
    images[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="images: expected finite numbers, got NaN or infinity in image 1"):
        model.explain(images)


def test_what_maps_explain_and_how_they_are_made_is_checked_before_images_are():
    model = sf.SharpenFocus(tiny_classifier())
    with pytest.raises(ValueError, match="of='contrst' is not known. Did you mean 'contrast'"):
        model.explain(None, of="contrst")
    with pytest.raises(ValueError, match="cam='gradcam' is not known. Did you mean 'grad_cam'"):
        model.explain(None, cam="gradcam")


def test_rows_of_an_explanation():
    explanation = sf.SharpenFocus(tiny_classifier()).explain(random_images(5))
    some = explanation.rows([3, 1])
    np.testing.assert_array_equal(some.last.rival, explanation.last.rival[[3, 1]])
    np.testing.assert_array_equal(some.scores, explanation.scores[[3, 1]])
