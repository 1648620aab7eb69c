"""Trains small models on several replicas, with and without normalisation, and saves what came.

  python -m tests.replicated FOLDER 3     on 3 logical devices
  python -m tests.replicated FOLDER       as one of the workers that TF_CONFIG names

Images, weights and steps are the same whatever the number of replicas. Without normalisation the images are dealt by
`Data.replicated`: 25 of them in batches of 12 leave one for the last batch, and none for all replicas but the first.
With it, an ordinary tf.data.Dataset goes to `fit`, as in a user's script.
"""

import dataclasses
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import distribution
from sfocus_tf.data import Data, Source
from sfocus_tf.data.source import indexed_keys
from tests import command_line
from tests.conftest import crossentropy, random_images


def numbered(count):
    """So many images as a source."""
    images, labels = tf.constant(random_images(count)), tf.constant(np.arange(count) % 3, tf.int32)

    def read(key):
        return {"image": images[key], "label": labels[key]}

    return Source(("a", "b", "c"), count, indexed_keys(np.arange(count)), read)


def dataset(count):
    """The same as a dataset of a user's own."""
    data = tf.data.Dataset.from_tensor_slices((random_images(count), np.arange(count) % 3)).batch(12)
    sharding = tf.data.Options()
    sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(sharding)


def classifier(normalised):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    if normalised:
        x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.ReLU(name="fine")(x)
    x = keras.layers.Conv2D(6, 3, 2, padding="same")(x)
    if normalised:
        x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.ReLU(name="coarse")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def train(strategy, normalised):
    """Weights, metrics and scores after 20 steps or more."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        term = sf.Term(1.0, warmup=0.1, ramp=0.2)  # 2 and 4 steps
        form = "overlap" if normalised else "rival"  # the paper's and the default one
        objective = sf.Objective(form, term, term, term, of="score", omega=5.0, minimum_mass=0.0)
        model = sf.SharpenFocus(classifier(normalised), objective)
        model.compile(keras.optimizers.SGD(0.02), crossentropy(), metrics=["accuracy"])
    if normalised:  # 22 images in batches of 12 leave 10 for the last one
        train, validation, steps, epochs = dataset(22), dataset(22), None, 10
    else:
        data = Data(numbered(25), 12, 8, training=True, augmentation="flip", seed=3)
        train, steps, epochs = data.replicated(strategy, 0, 7), data.steps, 7
        validation = dataclasses.replace(data, training=False).replicated(strategy, 0, None)
    given = {"epochs": epochs, "steps_per_epoch": steps, "validation_data": validation, "validation_steps": steps}
    history = model.fit(train, **given, validation_freq=epochs, verbose=0, shuffle=False).history
    assert max(history["separation_last"]) > 0.1 and model.optimizer.iterations == (20 if normalised else 21)
    logs = model.evaluate(dataset(22), return_dict=True, verbose=0)
    predicted = model.predict(dataset(22), verbose=0)
    values = [logs[key] for key in sorted(logs)] + [history[key][-1] for key in sorted(history)]
    return {"values": np.ravel(values), "predicted": predicted} | {
        f"weight_{number}": weight for number, weight in enumerate(model.classifier.get_weights())
    }


def refused(folder):
    """What train.py says where the last batch leaves a replica without images."""
    flags = ("--dataset=scenes:tiny", "--config.image_size=16", "--config.examples=103", "--batch_size=6")
    devices = "--devices=CPU:0,CPU:1,CPU:2"
    done = command_line.train(*flags, devices, "--config.validation_fraction=0", f"--workdir={folder}/refused")
    assert done.returncode == 1
    return done.stderr


def main(folder, devices=None):
    if devices:
        strategy = distribution.strategy("mirrored", [f"CPU:{number}" for number in range(int(devices))])
        name = f"device{devices}"
    else:
        strategy = distribution.strategy("auto")
        name = f"worker{strategy.cluster_resolver.task_id}"
    # A step of training with a steep mask on such small maps makes a difference a hundred times larger: with rounding
    # errors of float32, or a steep mask and large steps, no two orders of summation stay together for 21 steps.
    keras.config.set_floatx("float64")
    for normalised in (False, True):
        found = train(strategy, normalised)
        np.savez(pathlib.Path(folder, f"{'normalised' if normalised else 'plain'}-{name}.npz"), **found)
    if devices == "3":
        pathlib.Path(folder, "refused.txt").write_text(refused(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
