"""Builds models and times their training steps, taking turns in one process."""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import backbones

VARIANTS = ("plain", "default", "light", "exact", "first_order", "every_4")
_STEPS = 4  # per round, so that every_4 has one step of each kind


class Clock(keras.callbacks.Callback):
    """Total seconds of the steps in one call of `fit`."""

    def on_train_begin(self, logs=None):
        self.total = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.total += time.perf_counter() - self.begin


def compiled(variant, backbone, image_size, classes=10, **options):
    """A compiled classifier in plain Keras or with attention supervision; `options` go to `compile`."""
    classifier = backbones.create(backbone, classes, image_size)
    if variant == "plain":
        model = keras.Model(classifier.inputs, classifier.outputs)
    elif variant in ("default", "light"):  # active from step 0, since each round is its own `fit`
        begun = {key: {"warmup": 0.0, "ramp": 0.0} for key in ("inner", "last", "consistency")}
        model = sf.SharpenFocus(classifier, sf.objective(variant, **begun))
    else:
        timing = {"every_steps": 4 if variant == "every_4" else 1}
        terms = dict.fromkeys(("inner", "last", "consistency"), timing)
        model = sf.SharpenFocus(classifier, sf.objective("paper", second_order=variant != "first_order", **terms))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, metrics=["accuracy"], **options)
    return model


def one_batch(image_size, batch_size, classes=10):
    """Repeats one batch forever."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, image_size, image_size, 3)).astype(np.float32)
    return tf.data.Dataset.from_tensors((images, np.arange(batch_size) % classes)).repeat().prefetch(2)


def seconds_in_turns(models, data, rounds, steps_per_execution=1):
    """Seconds per step of each model in each round, without the first round, which compiles."""
    clock, seconds = Clock(), {name: [] for name in models}
    steps = _STEPS * steps_per_execution
    for round_ in range(1 + rounds):
        first = round_ % len(models)
        for name, model in [*models.items()][first:] + [*models.items()][:first]:
            model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[clock])
            if round_:
                seconds[name].append(clock.total / steps)
    return seconds


def ratio(times, others):
    """The median over rounds of the ratio of two models' times."""
    return statistics.median(mine / other for mine, other in zip(times, others, strict=True))
