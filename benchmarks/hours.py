"""Training time of the benchmarks in configs/: measured on this machine, and an ESTIMATE for a GPU.

  python benchmarks/hours.py                      all of them, about 15 minutes on two cores
  python benchmarks/hours.py --only=cifar100      one

For each: multiplications of the forward pass (counted from the layers); images per second of training here without and
with attention supervision (median of a few steps on random images, with the paper's losses in every step; the
default objective costs less); and from these the hours of the full training here and on a GPU that sustains
`--gpu_rate` multiplications per second. A training step counts as three forward passes, and attention supervision as
the ratio measured here. Small networks and images underuse a GPU: for them the estimate is a lower bound. The last line
is JSON.
"""

import importlib
import json
import pathlib
import statistics
import sys
import time

import keras
import numpy as np
from absl import app, flags

import sfocus_tf as sf
from sfocus_tf import backbones
from sfocus_tf.data.voc import CLASS_NAMES

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # makes `benchmarks` importable from a script

from benchmarks.multiplications import of_forward

# Config, variant, classes, training images.
BENCHMARKS = {
    "cifar100": ("", 100, 50_000),
    "caltech256": ("", 256, 15_360),
    "caltech256:vgg19": ("vgg19", 256, 15_360),
    "ilsvrc2012": ("", 1000, 1_281_167),
    "cub200": ("", 200, 5_994),
    "cub200:resnet50": ("resnet50", 200, 5_994),
    "voc2012": ("", len(CLASS_NAMES), 5_717),
    "voc2012:resnet50": ("resnet50", len(CLASS_NAMES), 5_717),
    "cifar10": ("", 10, 50_000),
}
_ONLY = flags.DEFINE_list("only", [], "Names of benchmarks; all by default.")
_GPU_RATE = flags.DEFINE_float(
    "gpu_rate",
    5e12,
    "Multiplications per second that the GPU sustains in training; 5e12 is about a V100 in float32 with ResNet-50 "
    "(some 400 images per second at 224 pixels).",
)
_STEPS = flags.DEFINE_integer("steps", 3, "Number of timed steps of each kind.")


def seconds_an_image(model, images, labels):
    """Median seconds per image over a few training steps, after one that compiles."""
    times = []
    for step in range(1 + _STEPS.value):
        begin = time.perf_counter()
        model.train_on_batch(images, labels)
        if step:
            times.append((time.perf_counter() - begin) / len(images))
    return statistics.median(times)


def measure(name):
    variant, classes, examples = BENCHMARKS[name]
    config = importlib.import_module(f"sfocus_tf.configs.{name.partition(':')[0]}").get_config(variant)
    size = config.image_size or (32 if config.dataset.startswith("cifar") else 224)
    # Small, since one image of 448 pixels takes seconds, but large enough to use the cores.
    batch = 32 if size <= 32 else 4
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.float32)
    labels = np.arange(batch) % classes
    multi_label = config.dataset == "voc2012"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if multi_label:
        labels, loss = np.eye(classes, dtype=np.float32)[labels], keras.losses.BinaryCrossentropy(from_logits=True)
    seconds = []
    for wrap in (lambda c: c, lambda c: sf.SharpenFocus(c, "paper", multi_label=multi_label)):
        keras.backend.clear_session()
        classifier = backbones.create(config.backbone, classes, size)
        model = wrap(classifier)
        model.compile(keras.optimizers.SGD(1e-4), loss)
        seconds.append(seconds_an_image(model, images, labels))
    count = of_forward(classifier)
    ratio = seconds[1] / seconds[0]
    seen = examples * config.epochs
    return {
        "network": config.backbone,
        "image_size": size,
        "epochs": config.epochs,
        "images": examples,
        "multiplications": count,
        "images_a_second": [round(1 / time_, 2) for time_ in seconds],
        "ratio": round(ratio, 2),
        "hours_here": [round(seen * time_ / 3600, 1) for time_ in seconds],
        "gpu_hours_estimate": [round(3 * seen * count / _GPU_RATE.value / 3600 * factor, 2) for factor in (1, ratio)],
    }


def main(_):
    rows = {}
    for name in _ONLY.value or BENCHMARKS:
        row = rows[name] = measure(name)
        print(
            f"{name:<17} {row['network']:<18} {row['image_size']:>4} px {row['epochs']:>4} epochs  "
            f"{row['multiplications'] / 1e6:8.0f} M  {row['images_a_second'][0]:8.2f} and "
            f"{row['images_a_second'][1]:8.2f} images/s here, {row['hours_here'][0]:8.1f} and "
            f"{row['hours_here'][1]:8.1f} h; GPU (estimate) {row['gpu_hours_estimate'][0]:7.2f} and "
            f"{row['gpu_hours_estimate'][1]:7.2f} h",
            flush=True,
        )
    print(json.dumps({"gpu_rate": _GPU_RATE.value, "benchmarks": rows}))


if __name__ == "__main__":
    app.run(main)
