"""Precision, compilation, and what Keras' optimizers can do besides: attention supervision goes along with each."""

import dataclasses

import keras
import numpy as np
import pytest

import sfocus_tf as sf
from sfocus_tf import backbones
from tests.conftest import LABELS, PAPER, compiled, crossentropy, random_images, tiny_classifier


@pytest.mark.parametrize(
    ("objective", "run_eagerly"),
    [("default", False), (PAPER, False), (PAPER, True)],  # relative maps, and maps of the scores
)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_and_keeps_maps_in_float32(policy, run_eagerly, objective):
    keras.config.set_dtype_policy(policy)
    model = compiled(sf.SharpenFocus(backbones.create("resnet8", 3, 16), objective), 0.01, run_eagerly=run_eagerly)
    images = random_images(6, 16) * 255
    logs = model.fit(images, LABELS, epochs=3, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]  # steps with gradients that are not finite would have been left out
    assert model.explain(images).inner.target.dtype == np.float32


@pytest.mark.filterwarnings("error:Model doesn't support")
@pytest.mark.parametrize("options", [{"steps_per_execution": 2}, {"run_eagerly": True}, {"jit_compile": True}])
def test_ways_to_run_give_the_same_weights(options):
    images = random_images(6)

    def trained(**kwargs):
        keras.utils.set_random_seed(0)
        # A steep mask would enlarge what the ways differ in by rounding.
        model = compiled(sf.SharpenFocus(tiny_classifier(), dataclasses.replace(PAPER, omega=5.0)), **kwargs)
        model.fit(images, LABELS, batch_size=3, epochs=2, shuffle=False, verbose=0)
        return model.classifier.get_weights()

    for one, other in zip(trained(), trained(**options), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    images = random_images(6)

    def trained(batch_size, **options):
        keras.utils.set_random_seed(0)
        model = sf.SharpenFocus(tiny_classifier(), PAPER)
        model.compile(keras.optimizers.SGD(0.1, **options), crossentropy())
        model.fit(images, LABELS, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
        return model.classifier.get_weights()

    for one, other in zip(trained(6), trained(3, gradient_accumulation_steps=2), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_average_of_weights_that_an_optimizer_keeps_is_what_training_ends_with():
    """By hand, with momentum 0.5 over two steps: Keras' average begins with w1, so half of w1 and half of w2."""
    images, kept = random_images(6), []
    keras.utils.set_random_seed(0)
    model = sf.SharpenFocus(tiny_classifier(), PAPER)
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), crossentropy())
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: kept.append([w.numpy() for w in model.trainable_variables])
    )
    model.fit(images, LABELS, batch_size=6, epochs=2, verbose=0, callbacks=[keep])
    for weight, first, second in zip(model.trainable_variables, *kept, strict=True):
        np.testing.assert_allclose(weight.numpy(), (first + second) / 2, rtol=1e-4, atol=1e-6)
