"""The weights of the terms over the steps: what a step computes, warm-up, every k steps, weights changed on the way."""

import keras
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import backbones
from tests.conftest import LABELS, PAPER, ZERO, compiled, pictures, tiny_classifier


def test_a_step_has_no_more_than_its_terms_need():
    """By default no condition, no attention at the inner layer, and as many backward convolutions as plain Keras."""

    def counted(**options):
        model = compiled(sf.SharpenFocus(backbones.create("resnet8", 3, 16), **options))
        model.make_train_function()
        spec = (tf.TensorSpec([6, 16, 16, 3]), tf.TensorSpec([6], tf.int32))
        graph = tf.function(lambda *data: model.train_step(data)).get_concrete_function(*spec).graph
        types = [operation.type for operation in graph.get_operations()]
        return [types.count(each) for each in ("If", "Conv2DBackpropInput", "Conv2DBackpropFilter")]

    plain = counted(**ZERO)
    assert counted() == plain
    assert counted(separation_last=sf.Term(1.0, every_steps=2))[0] == 1
    assert counted(**PAPER)[2] > plain[2]


def test_inner_terms_are_logged_over_the_steps_that_computed_them():
    model = compiled(sf.SharpenFocus(tiny_classifier()), rate=0.0)
    first = model.train_on_batch(pictures(6), LABELS, return_dict=True)
    assert first["consistency"] == 0 and first["separation_last"] > 0
    model.set_term_weight("consistency", 1.0)
    both = model.train_on_batch(pictures(6), LABELS, return_dict=True)
    alone = model.evaluate(pictures(6), LABELS, return_dict=True, verbose=0)
    assert both["consistency"] == pytest.approx(float(alone["consistency"]), rel=1e-4)
    assert both["dead_rival_inner"] == pytest.approx(float(alone["dead_rival_inner"]))


def test_schedule_and_lazy_steps():
    """Warm-up of 2, then each second step with twice the weight: the steps between are those of plain Keras."""
    images = pictures(6)
    term = sf.Term(1.0, warmup_steps=2, every_steps=2)
    model = compiled(sf.SharpenFocus(tiny_classifier(), separation_inner=0.0, separation_last=term, consistency=0.0))
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
    images = pictures(6)
    model = compiled(sf.SharpenFocus(tiny_classifier(), **ZERO))
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
    model = compiled(sf.SharpenFocus(tiny_classifier(), **ZERO))
    raise_it = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.set_term_weight("consistency", float(epoch))
    )
    history = model.fit(pictures(6), LABELS, epochs=2, callbacks=[raise_it], verbose=0).history
    assert history["consistency"][0] == 0 and history["consistency"][1] != 0
