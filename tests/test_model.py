"""SharpenFocus as a Keras model: its gradients, its modes, its logs, and what it refuses."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import attention, backbones, losses
from tests.conftest import LABELS, PAPER, ZERO, compiled, crossentropy, random_images, tiny_classifier

ATTENTION_LOGS = {"separation_inner", "separation_last", "consistency"}


def step_of(model, images, labels, **kwargs):
    """The change of the classifier's weights in one step of plain gradient descent with rate 1: minus the gradient."""
    before = [weight.numpy() for weight in model.classifier.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0), kwargs.pop("loss", crossentropy()))
    model.train_on_batch(images, labels, **kwargs)
    return [old - new.numpy() for old, new in zip(before, model.classifier.trainable_weights, strict=True)]


def test_zero_weights_train_exactly_as_plain_keras():
    images, labels = random_images(40, 16) * 255, np.random.default_rng(0).integers(0, 4, 40)

    def trained(wrap):
        keras.utils.set_random_seed(3)
        classifier = backbones.create("resnet8", 4, 16, dropout=0.3)
        model = compiled(sf.SharpenFocus(classifier, ZERO) if wrap else classifier)
        history = model.fit(images, labels, batch_size=16, epochs=3, shuffle=False, verbose=0).history
        return classifier.get_weights(), history["loss"]

    tf.config.experimental.enable_op_determinism()
    plain, plain_loss = trained(wrap=False)
    wrapped, wrapped_loss = trained(wrap=True)
    for one, other in zip(plain, wrapped, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(plain_loss, wrapped_loss, rtol=1e-6)


@pytest.mark.parametrize(("separation", "of"), [("overlap", "score"), ("overlap", "relative")])
def test_gradient_of_the_whole_loss_equals_finite_differences(separation, of):
    """In float64, on a smooth network; every weight of it. The attention is differentiated through its own weights."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(1)
    classifier = tiny_classifier(size=6, activation="softplus")
    model = sf.SharpenFocus(classifier, sf.objective("paper", separation=separation, of=of, omega=5.0))
    images, labels = random_images(3, 6).astype(np.float64), LABELS[:3]

    def loss():
        model.reset_metrics()
        return float(model.test_on_batch(images, labels, return_dict=True)["loss"])

    start = [weight.numpy() for weight in classifier.trainable_weights]
    gradients = step_of(model, images, labels)
    rng = np.random.default_rng(0)
    for weight, value, gradient in zip(classifier.trainable_weights, start, gradients, strict=True):
        for other, old in zip(classifier.trainable_weights, start, strict=True):
            other.assign(old)
        for place in rng.permutation(value.size)[:4]:
            shift = np.zeros(value.size)
            shift[place] = 1e-6
            shift = shift.reshape(value.shape)
            weight.assign(value + shift)
            up = loss()
            weight.assign(value - shift)
            numeric = (up - loss()) / 2e-6
            weight.assign(value)
            np.testing.assert_allclose(gradient.flat[place], numeric, rtol=1e-4, atol=1e-7)


def test_first_order_differs_from_second_order_and_costs_no_accuracy_of_the_value():
    images = random_images(6)
    steps, values = [], []
    for second_order in (True, False):
        keras.utils.set_random_seed(0)
        model = sf.SharpenFocus(tiny_classifier(), dataclasses.replace(PAPER, second_order=second_order))
        steps.append(step_of(model, images, LABELS))
        values.append(float(model.get_metrics_result()["loss"]))
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(*steps, strict=True)) > 1e-5


def test_rival_changes_only_the_kernel_of_the_rival():
    """Compared with finite differences of the loss, worked out by NumPy for a kernel column of the rival alone: behind
    pooling the map is the features times that column. Nothing else gets a gradient, neither what makes the features
    nor the column of the target.
    """
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(1)
    model = sf.SharpenFocus(tiny_classifier(), sf.Objective("rival", sf.Term(0), sf.Term(1.0), sf.Term(0), of="score"))
    (image,), label = random_images(1).astype(np.float64), LABELS[:1]
    why = model.explain(image[np.newaxis], label)
    target, rival, kernel = int(why.target[0]), int(why.rival[0]), model.classifier.get_layer("scores").kernel.numpy()
    until_coarse = keras.Model(model.classifier.input, model.classifier.get_layer("coarse").output)
    features = until_coarse(image[np.newaxis])[0].numpy()
    own, other = (np.maximum(features @ kernel[:, number] / 16, 0) for number in (target, rival))
    region = attention.soft_mask(own[np.newaxis])[0].numpy()
    assert (other * region).sum() > 1e-3

    def loss(column):
        inside = np.sum(np.maximum(features @ column / 16, 0) * region) / (own.sum() + other.sum())
        return min(1, 4 * np.exp(why.scores[0, rival]) / np.exp(why.scores[0]).sum()) * 2 * inside

    shifts = 1e-6 * np.eye(6)
    numeric = [(loss(kernel[:, rival] + shift) - loss(kernel[:, rival] - shift)) / 2e-6 for shift in shifts]
    of_nothing = compiled(sf.SharpenFocus(keras.models.clone_model(model.classifier), ZERO))
    of_nothing.classifier.set_weights(model.classifier.get_weights())
    both = zip(step_of(model, image[np.newaxis], label), step_of(of_nothing, image[np.newaxis], label), strict=True)
    *features_made_by, of_kernel, bias = (with_term - without for with_term, without in both)
    np.testing.assert_allclose(of_kernel[:, rival], numeric, rtol=1e-4, atol=1e-7)
    for gradient in (*features_made_by, np.delete(of_kernel, rival, axis=1), bias):
        np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_rival_of_first_order_changes_the_features_instead():
    """Its channel weights being constants, nothing else is left."""
    objective = sf.objective("light", last=sf.Term(1.0), second_order=False)
    keras.utils.set_random_seed(0)
    classifier, images = tiny_classifier(), random_images(6)
    copies = [keras.models.clone_model(classifier) for _ in range(2)]
    steps = []
    for copy, chosen in zip(copies, (objective, ZERO), strict=True):
        copy.set_weights(classifier.get_weights())
        steps.append(step_of(sf.SharpenFocus(copy, chosen), images, LABELS))
    first, *_, kernel, _ = (with_term - without for with_term, without in zip(*steps, strict=True))
    assert np.abs(first).max() > 1e-5 and np.abs(kernel).max() < 1e-6


def test_the_loss_of_an_image_does_not_depend_on_the_others():
    classifier = backbones.create("resnet8", 3, 16)
    model = compiled(sf.SharpenFocus(classifier, PAPER))
    images = random_images(6, 16) * 255
    whole = model.evaluate(images, LABELS, batch_size=6, return_dict=True, verbose=0)
    single = [
        model.evaluate(images[row : row + 1], LABELS[row : row + 1], return_dict=True, verbose=0) for row in range(6)
    ]
    for key, value in whole.items():
        assert value == pytest.approx(np.mean([logs[key] for logs in single]), abs=2e-6), key


def test_label_forms_give_the_same_losses():
    images, model = random_images(6), sf.SharpenFocus(tiny_classifier(), PAPER)
    one_hot = keras.utils.to_categorical(LABELS, 3)
    results = []
    for loss, labels in (
        (crossentropy(), LABELS),
        (crossentropy(), LABELS[:, np.newaxis]),
        (keras.losses.CategoricalCrossentropy(from_logits=True), one_hot),
    ):
        results.append(compiled(model, loss=loss).evaluate(images, labels, return_dict=True, verbose=0))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)
    soft = one_hot * 0.8 + 0.2 / 3
    mixed = compiled(model, loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    logs = mixed.evaluate(images, soft, return_dict=True, verbose=0)
    assert {key: logs[key] for key in ATTENTION_LOGS} == pytest.approx(
        {k: results[0][k] for k in ATTENTION_LOGS}, rel=1e-5
    )


def test_sample_and_class_weights_reach_the_attention_terms():
    """Weight zero takes an image out, weight two counts it twice: in value (over the same number) and gradient."""
    images = random_images(6)
    model = compiled(sf.SharpenFocus(tiny_classifier(), sf.objective("paper")))
    single = [model.evaluate(images[i : i + 1], LABELS[i : i + 1], return_dict=True, verbose=0) for i in range(6)]
    weights = np.array([0.0, 2.0, 1.0, 0.5, 1.0, 0.0])
    logs = model.evaluate(images, LABELS, sample_weight=weights, return_dict=True, verbose=0)
    for key in ATTENTION_LOGS:
        assert logs[key] == pytest.approx(np.mean([w * s[key] for w, s in zip(weights, single, strict=True)]), rel=1e-4)

    def weights_after(**kwargs):
        keras.utils.set_random_seed(0)
        fresh = compiled(sf.SharpenFocus(tiny_classifier(), PAPER), run_eagerly=True)
        fresh.fit(images, LABELS, batch_size=6, shuffle=False, verbose=0, **kwargs)
        return np.concatenate([weight.numpy().ravel() for weight in fresh.classifier.weights])

    by_class = weights_after(class_weight={0: 0.0, 1: 2.0, 2: 1.0})
    by_sample = weights_after(sample_weight=np.array([0.0, 2.0, 1.0])[LABELS])
    np.testing.assert_allclose(by_class, by_sample, rtol=1e-6, atol=1e-8)
    assert np.abs(by_class - weights_after()).max() > 1e-4


def test_multi_label_images_without_target_or_rival_contribute_nothing():
    images = random_images(3)
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], np.float32)
    model = sf.SharpenFocus(tiny_classifier(), sf.objective("paper"), multi_label=True)
    compiled(model, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    whole = model.evaluate(images, labels, return_dict=True, verbose=0)
    one = model.evaluate(images[:1], labels[:1], return_dict=True, verbose=0)
    for key in ATTENTION_LOGS:
        assert whole[key] == pytest.approx(one[key] / 3, rel=1e-5), key
    model.fit(images, labels, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_dead_maps_are_counted_and_harmless():
    """A head without weights has no evidence for any class: every map is zero."""
    classifier = tiny_classifier()
    classifier.get_layer("scores").set_weights([np.zeros((6, 3), np.float32), np.array([0.0, 1.0, 2.0], np.float32)])
    model = compiled(sf.SharpenFocus(classifier, sf.objective("paper")))
    logs = model.train_on_batch(random_images(6), LABELS, return_dict=True)
    assert all(logs[f"dead_{role}_{layer}"] == 1 for role in ("target", "rival") for layer in ("inner", "last"))
    assert logs["loss"] == pytest.approx(logs["classification_loss"])
    assert all(np.isfinite(weight.numpy()).all() for weight in model.weights)


@pytest.mark.parametrize("exponent", [-30, -10, 10, 25])
@pytest.mark.parametrize("separation", losses.SEPARATIONS)
def test_features_of_any_scale_train_without_nan(exponent, separation):
    """The first layer's output scaled up and down by powers of ten, second order included."""
    classifier = tiny_classifier()
    kernel, bias = classifier.get_layer("fine_conv").get_weights()
    classifier.get_layer("fine_conv").set_weights([kernel * np.float32(10.0**exponent), bias])
    model = sf.SharpenFocus(classifier, dataclasses.replace(PAPER, separation=separation))

    @tf.function
    def loss_and_gradients(images, labels):
        with tf.GradientTape() as tape:
            extracted = model._extract(images, labels, training=True, inner=True)
            loss = tf.add_n(losses.batch_terms(model.objective, extracted, None, False).terms)
        return loss, tape.gradient(loss, classifier.trainable_weights)

    loss, gradients = loss_and_gradients(tf.constant(random_images(4)), tf.constant(LABELS[:4]))
    assert np.isfinite(loss) and float(loss) > -0.3
    assert float(loss) < 3
    for gradient in gradients:
        assert gradient is None or np.isfinite(gradient).all()


@pytest.mark.parametrize("cam", attention.LINEAR)
def test_contrast_from_one_backward_pass_is_that_of_two(cam):
    """Where maps are linear in the score, the evidence of the scores' difference is the difference of the evidence."""
    model, images = sf.SharpenFocus(tiny_classifier(4)), tf.constant(random_images(6))
    extractor, expected = dataclasses.replace(model._extractor, cam=cam), []
    choose = functools.partial(attention.trained_classes, labels=LABELS)
    score, contrast = (extractor.extract(images, False, choose, of) for of in ("score", "contrast"))
    for of_two, of_one in ((score.inner, contrast.inner), (score.last, contrast.last)):
        expected = of_two.target.evidence - of_two.rival.evidence
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(of_one.target.evidence, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(of_one.target.map, tf.nn.relu(expected), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(of_one.rival.map, tf.nn.relu(-expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separation", losses.SEPARATIONS)
def test_features_in_float64_before_scores_in_float32(separation):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    base = tiny_classifier()
    classifier = keras.Model(base.input, keras.layers.Activation("linear", dtype="float32")(base.output))
    model = compiled(sf.SharpenFocus(classifier, dataclasses.replace(PAPER, separation=separation)))
    logs = model.train_on_batch(random_images(6), LABELS, return_dict=True)
    assert logs["separation_last"] > 0 and np.isfinite(logs["loss"])


@pytest.mark.parametrize(("of", "sees_it"), [("relative", False), ("auto", False), ("score", True)])
def test_an_objective_of_relative_maps_does_not_see_what_changes_no_probability(of, sees_it):
    """The same vector added to the kernels of all classes adds the same to all scores of an image."""
    keras.utils.set_random_seed(0)
    classifier = tiny_classifier()
    model = compiled(sf.SharpenFocus(classifier, sf.objective("paper", of=of, consistency=0.0)))
    images, head = random_images(6), classifier.get_layer("scores")
    before = model.evaluate(images, LABELS, return_dict=True, verbose=0)
    kernel, bias = head.get_weights()
    head.set_weights([kernel + np.linspace(-0.5, 1.0, len(kernel))[:, np.newaxis], bias])
    after = model.evaluate(images, LABELS, return_dict=True, verbose=0)
    assert after["classification_loss"] == pytest.approx(before["classification_loss"], rel=1e-4)
    for key in ("separation_inner", "separation_last"):
        assert before[key] > 0.01
        assert (after[key] != pytest.approx(before[key], rel=1e-3)) == sees_it
    step = step_of(model, images, LABELS)[-2]
    assert (np.abs(step.mean(axis=1)).max() > 1e-3 * np.abs(step).max()) == sees_it


def test_of_several_labels_an_objective_explains_the_scores_unless_told_otherwise():
    keras.utils.set_random_seed(0)
    classifier, images = tiny_classifier(), random_images(6)
    labels = np.eye(classifier.output_shape[-1], dtype=np.float32)[LABELS]
    start, steps = classifier.get_weights(), []
    for of in ("auto", "score"):
        classifier.set_weights(start)
        model = sf.SharpenFocus(classifier, sf.objective("paper", of=of, per_class=False), multi_label=True)
        steps.append(step_of(model, images, labels, loss=keras.losses.BinaryCrossentropy(from_logits=True)))
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="of='relative': expected a classifier of one class an image"):
        sf.SharpenFocus(classifier, sf.objective("paper", of="relative"), multi_label=True)


def test_images_may_come_by_the_name_of_the_input():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    model = compiled(sf.SharpenFocus(keras.Model(inputs, tiny_classifier()(inputs))))
    named = {"image": random_images(6)}
    before = model.evaluate(named, LABELS, return_dict=True, verbose=0)
    assert before == model.evaluate(random_images(6), LABELS, return_dict=True, verbose=0)
    assert np.isfinite(model.train_on_batch(named, LABELS)).all()


def test_a_loss_on_probabilities_is_refused():
    model = sf.SharpenFocus(tiny_classifier())
    for loss in (
        "sparse_categorical_crossentropy",
        "categorical_focal_crossentropy",
        keras.losses.binary_focal_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
        [keras.losses.SparseCategoricalCrossentropy()],
    ):
        with pytest.raises(ValueError, match="takes probabilities.*from_logits=True"):
            compiled(model, loss=loss).train_on_batch(random_images(6), LABELS)
    for loss in (
        "kl_divergence",
        "KLDivergence",
        keras.losses.Poisson(),
        keras.losses.poisson,
        keras.losses.CategoricalGeneralizedCrossEntropy(),
    ):
        with pytest.raises(ValueError, match="takes probabilities.*soft labels"):
            compiled(model, loss=loss).train_on_batch(random_images(6), LABELS)
    with pytest.raises(ValueError, match=r"Pass keras.losses.BinaryFocalCrossentropy\(from_logits=True\)"):
        compiled(model, loss="binary_focal_crossentropy").train_on_batch(random_images(6), LABELS)


def test_several_labels_need_to_be_announced():
    """Soft and mixed labels are one label's; rows with several classes are not."""
    rows = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="multi_label=True"):
        compiled(sf.SharpenFocus(tiny_classifier()), loss=loss).train_on_batch(random_images(6), rows)
    for labels, multi_label in ((0.5 * rows, False), (rows, True)):
        model = sf.SharpenFocus(tiny_classifier(), multi_label=multi_label)
        compiled(model, loss=loss, run_eagerly=True).train_on_batch(random_images(6), labels)


def test_images_that_the_classifier_does_not_take_are_refused():
    model = compiled(sf.SharpenFocus(tiny_classifier(size=8)))
    for call in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"expected shape=\(None, 8, 8, 3\)"):
            call(random_images(6, 16), LABELS)
    with pytest.raises(ValueError, match=r"expected shape=\(None, 8, 8, 3\)"):
        model.explain(random_images(6, 16))
    with pytest.raises(ValueError, match="y: expected labels, got none"):
        model.fit(random_images(6), verbose=0)


@pytest.mark.parametrize(("argument", "value"), [("sigma", 1.5), ("theta", -0.1), ("minimum_mass", 2), ("omega", -1)])
def test_numbers_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        sf.objective("paper", **{argument: value})


@pytest.mark.parametrize("term", ["separation_inner", "separation_last", "consistency"])
def test_a_negative_weight_is_told_by_its_name(term):
    name = term.removeprefix("separation_")
    with pytest.raises(ValueError, match=f"{name}: weight=-1.0: expected a number of 0 or more"):
        sf.objective("paper", **{name: -1.0})
    with pytest.raises(ValueError, match=f"{term}: weight=-1.0: expected a number of 0 or more"):
        sf.SharpenFocus(tiny_classifier()).set_term_weight(term, -1.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_step_is_traced_once(optimizer):
    """Plain Keras traces it twice, as the first trace creates the variables of metrics and optimizer."""
    traces = []

    class Counting(sf.SharpenFocus):
        def train_step(self, data):
            traces.append(data)
            return super().train_step(data)

    model = Counting(tiny_classifier(), PAPER)
    model.compile(optimizer, crossentropy(), metrics=["accuracy"])
    model.fit(random_images(6), LABELS, batch_size=3, epochs=2, verbose=0)
    assert len(traces) == 1


def test_of_two_classes_the_scores_are_explained():
    """Their relative maps never overlap, so that a separation would do nothing."""
    images, labels = random_images(6), LABELS % 2
    classifier = tiny_classifier(2)
    kernel = classifier.get_layer("scores").kernel
    kernel.assign(keras.ops.abs(kernel))  # evidence for both classes everywhere
    model = compiled(sf.SharpenFocus(classifier, "light"), run_eagerly=True)
    assert model.fit(images, labels, verbose=0).history["separation_last"][0] > 0.01
    own, relative = (model.explain(images, of=of).last for of in ("score", "relative"))
    assert np.minimum(own.target, own.rival).max() > 0 == np.minimum(relative.target, relative.rival).max()
    with pytest.raises(ValueError, match="of='relative': of two classes each map is the negative of the other"):
        sf.SharpenFocus(tiny_classifier(2), sf.objective("light", of="relative"))
