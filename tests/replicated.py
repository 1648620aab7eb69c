"""Trains a small model on so many replicas: `python -m tests.replicated mirrored|worker REPLICAS NORMALISED OUTPUT`.

Workers are told apart by TF_CONFIG. Pictures, weights and steps are the same whatever the number of replicas; 21
pictures in batches of 8 leave 5 for the last batch: uneven, and with 4 replicas one of them gets none.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import sfocus_tf as sf
from tests.conftest import crossentropy, pictures

PICTURES = 21


def classifier(normalised):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="fine")(inputs)
    if normalised:
        x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.Conv2D(6, 3, 2, padding="same", activation="relu", name="coarse")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def main(kind, replicas, normalised, output):
    if kind == "worker":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        devices = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])
    # A step of training with a steep mask on such small maps makes a difference a hundred times larger: with rounding
    # errors of float32, or a steep mask and large steps, no two orders of summation stay together for 21 steps.
    keras.config.set_floatx("float64")
    with strategy.scope():
        keras.utils.set_random_seed(0)
        term = sf.Term(1.0, warmup_steps=2, ramp_steps=4)
        options = {"separation_inner": term, "separation_last": term, "consistency": term}
        model = sf.SharpenFocus(classifier(normalised), **options, omega=5.0, minimum_mass=0.0)
        model.compile(keras.optimizers.SGD(0.02), crossentropy(), metrics=["accuracy"])
    # Replicas of synchronised BatchNormalization count alike, so it wants even batches.
    count = 18 if normalised else PICTURES
    data = tf.data.Dataset.from_tensor_slices((pictures(count), np.arange(count) % 3)).batch(6 if normalised else 8)
    sharding = tf.data.Options()
    sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = data.with_options(sharding)
    history = model.fit(data, epochs=7, validation_data=data, verbose=0).history  # 21 steps
    assert history["separation_last"][-1] > 0 and model.optimizer.iterations == 7 * len(data)
    logs = model.evaluate(data, return_dict=True, verbose=0)
    predicted = model.predict(data, verbose=0)
    values = [logs[key] for key in sorted(logs)] + [history[key][-1] for key in sorted(history)]
    np.savez(output, *model.classifier.get_weights(), values=np.ravel(values), predicted=predicted)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "yes", sys.argv[4])
