"""Cost of explanations in the SavedModel: `explain` against `serving_default`, and the file size.

  python benchmarks/serving.py

EfficientNet-Lite0 at 160 pixels, batches of 1, 8 and 32; the two signatures take turns, loaded from disk. The last line
is JSON: for each batch size the ratios of the median request times and the milliseconds of `explain`; and the size on
disk over that of a plain export of the same classifier.
"""

import json
import pathlib
import statistics
import tempfile
import time

import tensorflow as tf
from absl import app, flags

import sfocus_tf as sf
from sfocus_tf import backbones

_BACKBONE = flags.DEFINE_string("backbone", "efficientnet_lite0", "Network.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 160, "Height and width in pixels.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 15, "Number of requests of each kind.")


def size_of(folder):
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def main(_):
    size = _IMAGE_SIZE.value
    classifier = backbones.create(_BACKBONE.value, 10, size)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        sf.SharpenFocus(classifier).export(f"{folder}/ours/1")
        classifier.export(f"{folder}/plain/1", verbose=False)
        result["file_size"] = round(size_of(f"{folder}/ours") / size_of(f"{folder}/plain"), 4)
        loaded, plain = (tf.saved_model.load(f"{folder}/{name}/1") for name in ("ours", "plain"))
    for batch in (1, 8, 32):
        images = tf.random.uniform([batch, size, size, 3], 0, 255)
        ids = tf.fill([batch], -1)
        requests = {
            "plain": lambda images=images: plain.serve(images),
            "serving_default": lambda images=images: loaded.signatures["serving_default"](images=images),
            "explain": lambda images=images, ids=ids: loaded.signatures["explain"](images=images, class_ids=ids),
        }
        seconds = {name: [] for name in requests}
        for repetition in range(_REPETITIONS.value + 2):  # the first two warm up
            for name, request in requests.items():
                begin = time.perf_counter()
                tf.nest.map_structure(lambda value: value.numpy(), request())
                if repetition > 1:
                    seconds[name].append(time.perf_counter() - begin)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, median in medians.items():
            print(f"batch {batch:>2}  {name:<15}  {1000 * median:7.1f} ms  {batch / median:7.1f} images/s")
        result[f"batch_{batch}"] = {
            "explain": round(medians["explain"] / medians["serving_default"], 3),
            "serving_default": round(medians["serving_default"] / medians["plain"], 3),
            "explain_ms": round(1000 * medians["explain"], 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
