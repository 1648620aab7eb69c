"""What misleads a classifier of the generated scenes: its look-alike, or the patch in the background?

  python benchmarks/scenes.py runs/scenes-cross_entropy-0

Prints the accuracy on the test images; the share of images whose object (colour and texture) is recognised; the share
of the errors that are the look-alike; and the accuracy where the patch agrees with the class and where it contradicts
it, as JSON, in per cent.
"""

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `sfocus_tf` importable from a script

from sfocus_tf import data, saved_models
from sfocus_tf.data import scenes


def measure(workdir):
    saved = saved_models.find(workdir)
    size = saved.config.get("test_image_size") or saved.config.get("image_size")
    test = data.load("scenes", "test", image_size=size, batch_size=256)
    images, labels = (np.concatenate(parts) for parts in zip(*test.batches.as_numpy_iterator(), strict=True))
    predicted = saved.load().classifier.predict(images, batch_size=256, verbose=0).argmax(1)
    agrees = np.array([bool(scenes.patch_agrees(tf.constant(number), "test")) for number in range(len(labels))])
    right, same_object = predicted == labels, predicted // 2 == labels // 2
    shares = {
        "accuracy": right.mean(),
        "object recognised": same_object.mean(),
        "look-alikes among errors": same_object[~right].mean() if not right.all() else None,
        "accuracy where the patch agrees": right[agrees].mean(),
        "accuracy where it contradicts": right[~agrees].mean(),
    }
    return {name: None if share is None else round(100 * float(share), 2) for name, share in shares.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(json.dumps(measure(sys.argv[1])))
