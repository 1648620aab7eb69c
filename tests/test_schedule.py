"""The weights of the terms over the steps: what a step computes, warm-up, every k steps, weights changed on the way."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from tests.conftest import LABELS, PAPER, ZERO, compiled, crossentropy, random_images, tiny_classifier


def test_a_step_has_no_more_than_its_terms_need():
    """By default no condition, no attention at the inner layer, and as many backward convolutions as plain Keras."""

    def counted(objective):
        stack = [keras.layers.Conv2D(4, 3, stride, activation="relu", padding="same") for stride in (1, 2, 1)]
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
        model = compiled(sf.SharpenFocus(keras.Sequential([keras.Input((8, 8, 3)), *stack, *head]), objective))
        model.make_train_function()
        spec = (tf.TensorSpec([6, 8, 8, 3]), tf.TensorSpec([6], tf.int32))
        graph = tf.function(lambda *data: model.train_step(data)).get_concrete_function(*spec).graph
        types = [operation.type for operation in graph.get_operations()]
        return [types.count(each) for each in ("If", "Conv2DBackpropInput", "Conv2DBackpropFilter")]

    plain = counted(ZERO)
    assert counted(sf.objective("light", last=sf.Term(1.0))) == plain
    assert counted("default")[0] == 1  # it begins late
    assert counted(sf.objective("light", last=sf.Term(1.0, every_steps=2)))[0] == 1
    assert counted(PAPER)[2] > plain[2]


def test_inner_terms_are_logged_over_the_steps_that_computed_them():
    model = compiled(sf.SharpenFocus(tiny_classifier(), "light"), rate=0.0)
    first = model.train_on_batch(random_images(6), LABELS, return_dict=True)
    assert first["consistency"] == 0 and first["separation_last"] > 0
    model.set_term_weight("consistency", 1.0)
    both = model.train_on_batch(random_images(6), LABELS, return_dict=True)
    alone = model.evaluate(random_images(6), LABELS, return_dict=True, verbose=0)
    assert both["consistency"] == pytest.approx(float(alone["consistency"]), rel=1e-4)
    assert both["dead_rival_inner"] == pytest.approx(float(alone["dead_rival_inner"]))


def test_schedule_and_lazy_steps():
    """Warm-up of 2, then each second step with twice the weight: the steps between are those of plain Keras."""
    images = random_images(6)
    term = sf.Term(1.0, warmup=0.2, every_steps=2)
    model = compiled(sf.SharpenFocus(tiny_classifier(), sf.objective("light", last=term, steps=10)))
    seen = []
    for _ in range(6):
        model.reset_metrics()
        logs = model.train_on_batch(images, LABELS, return_dict=True)
        seen.append((logs["separation_last"] > 0, round(float(logs["loss"] - logs["classification_loss"]), 5)))
        if seen[-1][0]:
            assert logs["loss"] - logs["classification_loss"] == pytest.approx(2 * logs["separation_last"], rel=1e-4)
    assert [computed for computed, _ in seen] == [False, False, True, False, True, False]
    assert [extra for computed, extra in seen if not computed] == [0, 0, 0, 0]


def test_a_changed_weight_takes_effect_without_compiling_again():
    images = random_images(6)
    model = compiled(sf.SharpenFocus(tiny_classifier(), ZERO))
    logs = model.train_on_batch(images, LABELS, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["classification_loss"])
    for weight in (0.5, 0.25):
        model.set_term_weight("separation_last", weight)
        function = model.train_function
        model.reset_metrics()
        logs = model.train_on_batch(images, LABELS, return_dict=True)
        assert logs["loss"] - logs["classification_loss"] == pytest.approx(weight * logs["separation_last"], rel=1e-3)
        assert logs["separation_last"] > 0
    assert model.train_function is function
    with pytest.raises(ValueError, match="term='separation' is not known. Did you mean"):
        model.set_term_weight("separation", 1.0)


def test_a_weight_raised_from_zero_by_a_callback_counts_in_the_same_fit():
    model = compiled(sf.SharpenFocus(tiny_classifier(), ZERO))
    raise_it = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.set_term_weight("consistency", float(epoch))
    )
    history = model.fit(random_images(6), LABELS, epochs=2, callbacks=[raise_it], verbose=0).history
    assert history["consistency"][0] == 0 and history["consistency"][1] != 0


def share_of(model, logs):
    """How much of the term at the last layer counted, of its whole weight."""
    return (logs["loss"] - logs["classification_loss"]) / logs["separation_last"] / 0.3


class Shares(keras.callbacks.Callback):
    """Notes the weight with which the last layer's term counts after each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        # Of the step that is done: the optimizer counts it already.
        weights = self.model._term_weights.at(tf.cast(self.model.optimizer.iterations - 1, tf.int64), training=False)
        self.seen.append(round(float(weights[1]), 4))


EXPECTED = [0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.3, 0.3]  # warm-up of a quarter of 8 steps, a ramp of three eighths


def timed(run_eagerly=False, **options):
    term = sf.Term(0.3, warmup=0.25, ramp=0.375)
    model = sf.SharpenFocus(tiny_classifier(), sf.objective("light", last=term, **options))
    model.compile(keras.optimizers.SGD(0.0), crossentropy(), run_eagerly=run_eagerly)
    return model


BATCHES = tf.data.Dataset.from_tensor_slices((random_images(6), LABELS)).batch(3)
DATA = {
    "arrays": {"x": random_images(6), "y": LABELS, "batch_size": 3},
    "dataset": {"x": BATCHES},
    "validation split": {"x": random_images(9), "y": np.resize(LABELS, 9), "validation_split": 0.33, "batch_size": 3},
    "steps per epoch": {"x": BATCHES.repeat(), "steps_per_epoch": 2},
}


@pytest.mark.parametrize("data", DATA)
def test_times_are_shares_of_one_fit(data):
    model, shares = timed(run_eagerly=data != "arrays"), Shares()  # the times need no graph, but have to work in one
    model.fit(**DATA[data], epochs=4, callbacks=[shares], verbose=0)
    assert shares.seen == pytest.approx(EXPECTED)
    model.fit(**DATA[data], epochs=4, callbacks=[shares], verbose=0)  # another run, from its beginning
    assert shares.seen == pytest.approx(EXPECTED)


def test_a_fit_that_goes_on_goes_on_in_its_times(tmp_path):
    """From the epoch that it is told, also in a loaded model."""
    model, shares = timed(), Shares()
    data = {"x": random_images(6), "y": LABELS, "batch_size": 3, "verbose": 0}
    model.fit(**data, epochs=2)
    model.save(tmp_path / "model.keras")
    for again in (model, keras.models.load_model(tmp_path / "model.keras")):
        again.fit(**data, initial_epoch=2, epochs=4, callbacks=[shares])
        assert shares.seen == pytest.approx(EXPECTED[4:])


def test_where_the_length_of_an_epoch_is_not_known_it_is_counted():
    """By whole epochs in the first. Keras counts a step more an epoch, in which it finds that the data have ended."""
    batches = [(random_images(3), LABELS[:3]), (random_images(3, seed=1), LABELS[3:])]
    spec = (tf.TensorSpec((3, 8, 8, 3)), tf.TensorSpec((3,), tf.int64))
    unknown = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    model, shares = timed(), Shares()
    model.fit(unknown, epochs=4, callbacks=[shares], verbose=0)
    assert shares.seen[:2] == [0, 0] and shares.seen == sorted(shares.seen)
    assert shares.seen == pytest.approx(EXPECTED, abs=0.3 / 4 + 1e-6)  # a step of the ramp


def test_steps_are_those_of_the_optimizer_where_they_are_given():
    """Over several calls of fit, and in train_on_batch."""
    model, shares = timed(steps=8), Shares()
    seen = []
    for _ in range(2):
        model.fit(random_images(6), LABELS, batch_size=3, epochs=1, callbacks=[shares], verbose=0)
        seen += shares.seen
    for _ in range(4):
        model.train_on_batch(random_images(3), LABELS[:3])
        weights = model._term_weights.at(tf.cast(model.optimizer.iterations - 1, tf.int64), training=False)
        seen.append(round(float(weights[1]), 4))
    assert seen == pytest.approx(EXPECTED)


def test_outside_of_fit_the_whole_weight_counts():
    model = timed()
    logs = model.train_on_batch(random_images(6), LABELS, return_dict=True)
    assert share_of(model, logs) == pytest.approx(1, rel=1e-3)


def test_steps_are_updates_where_gradients_are_accumulated():
    model, shares = timed(), Shares()
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=2)
    model.compile(optimizer, crossentropy())
    model.fit(random_images(6), LABELS, batch_size=3, epochs=8, callbacks=[shares], verbose=0)
    assert int(optimizer.iterations) == 8 and float(shares.seen[-1]) == pytest.approx(0.3)
    assert shares.seen[1::2] == pytest.approx(EXPECTED)


def test_a_loss_scale_changes_no_times():
    """Under mixed_float16 Keras wraps the optimizer, which accumulates, in one that does not say so."""
    model, shares = timed(), Shares()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0, gradient_accumulation_steps=2))
    model.compile(optimizer, crossentropy(), run_eagerly=True)
    model.fit(random_images(6), LABELS, batch_size=3, epochs=8, callbacks=[shares], verbose=0)
    assert shares.seen[1::2] == pytest.approx(EXPECTED)


def test_a_new_optimizer_begins_outside_of_any_fit():
    """Its steps are not those of the fit before: all terms count fully, as in a model that was never fitted."""
    model = timed(run_eagerly=True)
    model.fit(random_images(6), LABELS, batch_size=3, epochs=4, verbose=0)
    fitted = model.evaluate(random_images(6), LABELS, return_dict=True, verbose=0)
    model.compile(keras.optimizers.SGD(0.0), crossentropy(), run_eagerly=True)
    compiled_again = model.evaluate(random_images(6), LABELS, return_dict=True, verbose=0)
    assert compiled_again["loss"] == pytest.approx(fitted["loss"]) and fitted["loss"] > fitted["classification_loss"]
    logs = model.train_on_batch(random_images(6), LABELS, return_dict=True)
    assert share_of(model, logs) == pytest.approx(1, rel=1e-3)


def test_a_callback_list_and_a_single_callback_are_taken_too():
    def as_list(shares, model):
        return keras.callbacks.CallbackList([shares], add_history=True, model=model, epochs=4, steps=2)

    for wrap in (as_list, lambda shares, model: shares):
        model, shares = timed(run_eagerly=True), Shares()
        model.fit(random_images(6), LABELS, 3, 4, 0, wrap(shares, model))
        assert shares.seen == pytest.approx(EXPECTED)


def test_a_single_epoch_of_unknown_length_counts_fully_and_says_so():
    """With shares of a length that nobody knows the terms would never begin."""
    batches = BATCHES.filter(lambda images, labels: True)
    model = timed()
    with pytest.warns(UserWarning, match="number of batches is not known.*Pass steps_per_epoch"):
        logs = model.fit(batches, epochs=1, verbose=0).history
    assert share_of(model, {key: values[0] for key, values in logs.items()}) == pytest.approx(1, rel=1e-3)


def test_single_batches_of_unknown_number_count_fully_and_say_so_once():
    model = timed(run_eagerly=True)
    with pytest.warns(
        UserWarning, match=r"train_on_batch does not know the length of the run.*objective\(steps"
    ) as told:
        logs = [model.train_on_batch(random_images(6), LABELS, return_dict=True) for _ in range(2)]
    assert len(told) == 1 and share_of(model, logs[0]) == pytest.approx(1, rel=1e-3)
    model = compiled(sf.SharpenFocus(tiny_classifier(), sf.objective(steps=10)), run_eagerly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train_on_batch(random_images(6), LABELS)


def test_weights_of_a_run_without_attention_do_not_switch_it_off_without_a_word(tmp_path):
    sf.SharpenFocus(tiny_classifier(), ZERO).save_weights(tmp_path / "plain.weights.h5")
    model = sf.SharpenFocus(tiny_classifier(), "light")
    with pytest.warns(UserWarning, match="loaded weights of separation_last are 0.*set_term_weight"):
        model.load_weights(tmp_path / "plain.weights.h5")
    assert [float(weight) for weight in model.weights if weight.name == "separation_last_weight"] == [0]


def test_a_callback_list_need_not_know_the_epochs():
    """As of plain Keras, which needs a history of its own in it."""
    model = timed(run_eagerly=True)
    callbacks = keras.callbacks.CallbackList([], add_history=True, model=model)
    assert model.fit(random_images(6), LABELS, verbose=0, callbacks=callbacks).history["loss"]
    known = len(callbacks.callbacks)
    model.fit(random_images(6), LABELS, verbose=0, callbacks=callbacks)
    assert len(callbacks.callbacks) == known, "a second fit leaves nothing more in it"
