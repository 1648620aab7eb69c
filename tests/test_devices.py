"""Two replicas on logical devices, in processes of their own: devices can only be set up once."""

import subprocess
import sys

import numpy as np

from tests.conftest import ROOT

SCRIPT = """
import sys
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import sfocus_tf as sf
from tests.conftest import crossentropy, pictures, tiny_classifier
devices = ["CPU:0", "CPU:1"][: int(sys.argv[1])]
with tf.distribute.MirroredStrategy(devices).scope():
    keras.utils.set_random_seed(0)
    term = sf.Term(1.0, warmup_steps=2)
    model = sf.SharpenFocus(tiny_classifier(), separation_last=term, consistency=term, minimum_mass=0.0)
    model.compile(keras.optimizers.SGD(0.05, 0.9), crossentropy(), metrics=["accuracy"])
images, labels = pictures(16), np.arange(16) % 3
history = model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0).history
logs = model.evaluate(images, labels, batch_size=8, return_dict=True, verbose=0)
values = [logs[key] for key in sorted(logs)] + [history[key][-1] for key in sorted(history)]
np.savez(sys.argv[2], *model.classifier.get_weights(), values=values)
"""


def test_two_replicas_equal_one(tmp_path):
    """Weights, losses and metrics after four steps: attention terms are scaled for the replicas as Keras' loss is."""
    results = []
    for count in (1, 2):
        path = tmp_path / f"{count}.npz"
        subprocess.run([sys.executable, "-c", SCRIPT, str(count), str(path)], check=True, cwd=ROOT)
        results.append(np.load(path))
    one, two = results
    for key in one.files:
        np.testing.assert_allclose(one[key], two[key], rtol=1e-5, atol=1e-5, err_msg=key)
