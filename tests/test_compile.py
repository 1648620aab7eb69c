"""`compile` and `fit` as people use them: callbacks, metrics, frozen networks, ignored labels, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import attention
from sfocus_tf import model as model_module
from tests.conftest import LABELS, PAPER, ZERO, compiled, crossentropy, random_images, tiny_classifier


@pytest.mark.parametrize("monitor", ["val_classification_loss", "val_separation_last", "consistency", "val_weak_last"])
def test_callbacks_know_that_less_is_better(monitor, tmp_path):
    """As for `val_loss`: without `mode=`, the best is the least."""
    # Not traced but for one of them, as everywhere in these tests where a graph would take long and tell no more.
    model = compiled(sf.SharpenFocus(tiny_classifier(), PAPER), run_eagerly=monitor != "val_separation_last")
    path = tmp_path / "best.keras"
    callbacks = [
        keras.callbacks.EarlyStopping(monitor, patience=1, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(str(path), monitor=monitor, save_best_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor=monitor, patience=1),
    ]
    history = model.fit(
        random_images(6),
        LABELS,
        validation_data=(random_images(6, seed=1), LABELS),
        epochs=4,
        verbose=0,
        callbacks=callbacks,
    ).history
    assert callbacks[1].best == pytest.approx(min(history[monitor]))
    if monitor.startswith("val_"):
        best = keras.models.load_model(path)
        logs = best.evaluate(random_images(6, seed=1), LABELS, return_dict=True, verbose=0)
        assert logs[monitor.removeprefix("val_")] == pytest.approx(min(history[monitor]), abs=1e-5)


def named_consistency(y_true, y_pred):
    return keras.ops.mean(y_pred)


named_consistency.__name__ = "consistency"


@pytest.mark.parametrize(
    "metrics",
    [
        {"metrics": [keras.metrics.SparseCategoricalAccuracy(name="consistency")]},
        {"metrics": ["accuracy", named_consistency]},
        {"weighted_metrics": [keras.metrics.SparseCategoricalAccuracy(name="consistency")]},
    ],
)
def test_a_metric_with_the_name_of_a_term_is_refused(metrics):
    with pytest.raises(ValueError, match="metrics: 'consistency' is logged by SharpenFocus itself"):
        compiled(sf.SharpenFocus(tiny_classifier()), **metrics)


def test_a_metric_inside_the_classifier_with_the_name_of_a_log_is_refused():
    class Measuring(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean("weak_last")

        def call(self, x):
            return x

    classifier = tiny_classifier()
    model = sf.SharpenFocus(keras.Model(classifier.input, Measuring()(classifier.output)))
    with pytest.raises(ValueError, match="metrics: 'weak_last' is logged by SharpenFocus itself"):
        compiled(model)


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        ("AUC", "AUC"),
        (keras.metrics.AUC(name="area"), "area"),
        ("sparse_categorical_crossentropy", "sparse_categorical_crossentropy"),
        (keras.metrics.sparse_categorical_crossentropy, "sparse_categorical_crossentropy"),
        ("crossentropy", "crossentropy"),
        ({"scores": [keras.metrics.BinaryCrossentropy()]}, "binary_crossentropy"),
    ],
)
def test_metrics_of_probabilities_are_warned_of(metric, named):
    model = sf.SharpenFocus(tiny_classifier())
    with pytest.warns(UserWarning, match=rf"metrics: '{named}' takes probabilities.*from_logits=True"):
        model.compile("sgd", crossentropy(), metrics=metric if isinstance(metric, dict) else [metric])


@pytest.mark.parametrize(
    ("metric", "option"),
    [
        ("binary_accuracy", "threshold=0.0"),
        (keras.metrics.BinaryAccuracy(), "threshold=0.0"),
        (keras.metrics.Precision(), "thresholds=0.0"),
        ("Recall", "thresholds=0.0"),
    ],
)
def test_thresholds_of_probabilities_are_warned_of(metric, option):
    model = sf.SharpenFocus(tiny_classifier(), multi_label=True)
    with pytest.warns(UserWarning, match=f"metrics: .* takes probabilities.*with {option}"):
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True), metrics=[metric])


@pytest.mark.filterwarnings("error")
def test_no_other_metric_is_warned_of():
    class Own(keras.metrics.Mean):
        def get_config(self):
            raise NotImplementedError

    own = keras.metrics.MeanMetricWrapper(named_consistency, name="own")
    metrics = [
        "accuracy",
        "sparse_top_k_categorical_accuracy",
        keras.metrics.AUC(from_logits=True),
        keras.metrics.BinaryAccuracy(threshold=0.0),
        keras.metrics.Precision(thresholds=0.0),
        keras.metrics.Recall(top_k=1),
        own,
        keras.ops.mean,
    ]
    sf.SharpenFocus(tiny_classifier()).compile("sgd", crossentropy(), metrics=[*metrics, Own(name="other")])


def test_loss_and_metrics_by_the_outputs_name():
    plain = tiny_classifier()
    both = []
    for model in (plain, sf.SharpenFocus(plain)):
        model.compile("sgd", {"scores": crossentropy()}, metrics={"scores": "accuracy"}, run_eagerly=True)
        both.append(model.evaluate(random_images(6), LABELS, return_dict=True, verbose=0))
    assert (
        both[1]["classification_loss"] == pytest.approx(both[0]["loss"]) and both[1]["accuracy"] == both[0]["accuracy"]
    )


def test_other_metrics_keep_their_values():
    model = compiled(sf.SharpenFocus(tiny_classifier()), metrics=["accuracy"])
    logs = model.evaluate(random_images(6), LABELS, return_dict=True, verbose=0)
    right = model.predict(random_images(6), verbose=0).argmax(axis=1) == LABELS
    assert logs["accuracy"] == pytest.approx(right.mean())
    assert {"loss", *model_module.LOGGED} < logs.keys()


@pytest.mark.parametrize("objective", [ZERO, PAPER])
def test_a_frozen_network_is_left_as_it_is_as_by_plain_keras(objective):
    classifier = tiny_classifier()
    classifier.trainable = False
    before = classifier.get_weights()
    plain, wrapped = compiled(classifier), compiled(sf.SharpenFocus(classifier, objective))
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        expected = plain.fit(random_images(6), LABELS, verbose=0).history["loss"]
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        found = wrapped.fit(random_images(6), LABELS, verbose=0).history["classification_loss"]
    assert found == pytest.approx(expected, rel=1e-6)
    for one, other in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_frozen_backbone_leaves_the_head_to_be_trained():
    classifier = tiny_classifier()
    for layer in classifier.layers[:-1]:
        layer.trainable = False
    model = compiled(sf.SharpenFocus(classifier, PAPER))
    before = classifier.get_weights()
    model.fit(random_images(6), LABELS, verbose=0)
    moved = [np.abs(one - other).max() > 0 for one, other in zip(before, classifier.get_weights(), strict=True)]
    assert moved == [False] * 4 + [True] * 2


@pytest.mark.parametrize("ignored", [255, -1, 1])
@pytest.mark.parametrize("column", [False, True])
def test_ignored_images_count_as_zero_in_the_terms(ignored, column):
    """And the loss is that of plain Keras."""
    eager = {"run_eagerly": ignored != 255}
    labels = LABELS.copy()
    labels[[1, 4]] = ignored
    labels[labels == 1] = ignored  # where it is a class number, all of its images are left out
    known = labels != ignored
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)
    model = compiled(sf.SharpenFocus(tiny_classifier(), sf.objective("paper")), loss=loss, **eager)
    given = labels[:, np.newaxis] if column else labels
    whole = model.evaluate(random_images(6), given, return_dict=True, verbose=0)
    part = model.evaluate(random_images(6)[known], given[known], return_dict=True, verbose=0)
    for key in ("separation_inner", "separation_last", "consistency"):
        assert whole[key] == pytest.approx(part[key] * known.mean(), rel=1e-5), key
    assert whole["dead_rival_last"] == pytest.approx(part["dead_rival_last"])
    plain = compiled(model.classifier, loss=loss).evaluate(random_images(6), given, verbose=0)
    assert whole["classification_loss"] == pytest.approx(plain, rel=1e-6)
    listed = compiled(model, loss=[loss], **eager).evaluate(random_images(6), given, return_dict=True, verbose=0)
    assert listed["separation_last"] == pytest.approx(whole["separation_last"])
    history = compiled(model, loss=loss, **eager).fit(random_images(6), given, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_label_that_is_neither_a_class_nor_ignored_is_still_refused():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model = compiled(sf.SharpenFocus(tiny_classifier(), PAPER), loss=loss)
    with pytest.raises(tf.errors.InvalidArgumentError, match="label"):  # Keras' check or ours, whichever runs first
        model.evaluate(random_images(6), np.where(LABELS == 1, 7, 255), verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be class numbers from 0 to 2"):
        attention.labelled_classes(tf.zeros([2, 3]), tf.constant([7, 255]), ignore_class=255)


@pytest.fixture
def one_gpu(monkeypatch):
    """Keras believes that there is a GPU, where "auto" means XLA; nothing is placed on it."""
    from tensorflow.python.eager import context

    cpu = tf.config.list_physical_devices("CPU")
    gpu = context.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu] if kind == "GPU" else [*cpu, gpu])


def test_steps_with_attention_terms_are_not_compiled_with_xla_unasked(one_gpu):
    plain = compiled(tiny_classifier())
    assert plain.jit_compile  # else this test says nothing
    assert not compiled(sf.SharpenFocus(tiny_classifier())).jit_compile
    assert compiled(sf.SharpenFocus(tiny_classifier()), jit_compile=True).jit_compile
    assert not compiled(sf.SharpenFocus(tiny_classifier()), jit_compile=False).jit_compile
    unsupervised = compiled(sf.SharpenFocus(tiny_classifier(), ZERO))
    assert unsupervised.jit_compile
    unsupervised.make_train_function()
    unsupervised.set_term_weight("separation_last", 0.3)
    assert not unsupervised.jit_compile


def test_a_saved_choice_of_xla_is_kept(one_gpu, tmp_path):
    for asked in (True, "auto"):
        compiled(sf.SharpenFocus(tiny_classifier()), jit_compile=asked).save(tmp_path / "model.keras")
        assert keras.models.load_model(tmp_path / "model.keras").jit_compile is (asked is True)


def test_a_second_compile_does_not_start_the_times_again():
    """With steps of its own the objective counts the optimizer's: as long as it is the same one."""
    model = sf.SharpenFocus(tiny_classifier(), sf.objective("light", last=sf.Term(1.0, warmup=0.5), steps=4))
    optimizer = keras.optimizers.SGD(0.1)

    def supervised(optimizer):
        model.compile(optimizer, crossentropy())
        return model.train_on_batch(random_images(6), LABELS, return_dict=True)["separation_last"] > 0

    assert [supervised(optimizer) for _ in range(3)] == [False, False, True]
    assert not supervised(keras.optimizers.SGD(0.1))
    late = compiled(sf.SharpenFocus(tiny_classifier(), sf.objective("light", last=sf.Term(1.0, warmup=0.5))))
    data = {"x": random_images(6), "y": LABELS, "verbose": 0}
    assert late.fit(**data, epochs=2).history["separation_last"][0] == 0
    assert compiled(late).fit(**data, initial_epoch=2, epochs=4).history["separation_last"][0] > 0
