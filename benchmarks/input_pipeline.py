"""Whether the input keeps up: its throughput alone, compared with that of the training step.

  python benchmarks/input_pipeline.py      about ten minutes on two cores

Reads synthetic images as JPEG files in class folders and as TFDS records: 32 and 64 pixels, and 500 x 375 for networks
that take 160 and 224. The training step is that of plain Keras on one batch in memory, the fastest to feed. Then
train.py runs on files and, taking turns, on one repeated batch of them. The last line is JSON: `files` and `records`,
input throughput over training throughput; `end_to_end`, the speed of train.py on files over that on one batch.
"""

import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `benchmarks` importable from a script

import sfocus_tf as sf
from benchmarks import stepping
from sfocus_tf.training import command

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Number of runs of train.py on files and on one batch.")
_IMAGES = 640  # of each kind
# Network, its input size, batch size, height and width of the images.
_NETWORKS = (
    ("resnet18_cifar", 32, 64, (32, 32)), ("resnet20", 32, 128, (32, 32)), ("resnet18_cifar", 64, 64, (64, 64)),
    ("efficientnet_lite0", 160, 32, (375, 500)), ("efficientnet_lite0", 224, 32, (375, 500)),
)  # fmt: skip
_TRAIN = (
    "--dataset=folder", "--backbone=resnet18_cifar", "--batch_size=64", "--epochs=3", "--config.image_size=32",
    "--config.validation_fraction=0", "--config.attention_images_every=0", "--method=cross_entropy",
)  # fmt: skip


def encoded(shape):
    """A JPEG with roughly the detail of a photograph."""
    rng = np.random.default_rng(0)
    coarse = tf.image.resize(rng.uniform(0, 255, (shape[0] // 8, shape[1] // 8, 3)), shape, "bicubic")
    noisy = coarse + rng.normal(scale=6.0, size=(*shape, 3))
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(noisy, 0, 255), tf.uint8), quality=95).numpy()


def write_folder(root, jpeg):
    """Writes class folders with many copies of the image."""
    for split, count in (("train", _IMAGES), ("test", 64)):
        for number in range(count):
            path = pathlib.Path(root, split, f"class{number % 10}", f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)


class MadeUp(tfds.core.GeneratorBasedBuilder):
    """The same images as TFDS records."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"{height}x{width}") for height, width in
                       sorted({shape for *_, shape in _NETWORKS})]  # fmt: skip

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=10)}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(_IMAGES), "test": self._generate_examples(64)}

    def _generate_examples(self, count):
        jpeg = encoded(tuple(int(side) for side in self.builder_config.name.split("x")))
        for number in range(count):
            yield number, {"image": jpeg, "label": number % 10}


def delivered(data):
    """Images per second of the input alone."""
    iterator = iter(data.epochs(0, 20))
    for _ in range(2 * data.steps):  # skip what was prefetched during startup
        next(iterator)
    begin = time.perf_counter()
    images = sum(len(labels) for _, labels in iterator)
    return images / (time.perf_counter() - begin)


def taken(network, size, batch):
    """Images per second of training in plain Keras."""
    keras.backend.clear_session()
    models = {"plain": stepping.compiled("plain", network, size)}
    times = stepping.seconds_in_turns(models, stepping.one_batch(size, batch), 3)
    return batch / statistics.median(times["plain"])


def train_speed(data_dir, *, one_batch):
    """Images per second of train.py after its first epoch; with `one_batch`, on one repeated batch of its input."""
    with tempfile.TemporaryDirectory() as workdir:
        flags_ = [f"--data_dir={data_dir}", f"--workdir={workdir}", *_TRAIN]
        script = [__file__, "--as_train"] if one_batch else [str(_ROOT / "train.py")]
        subprocess.run([sys.executable, *script, *flags_], check=True, capture_output=True)
        with open(pathlib.Path(workdir, "history.csv"), newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return _IMAGES / statistics.median(seconds[1:])


def train_on_one_batch():
    """Runs train.py on one repeated batch of its input."""
    replicated = sf.data.Data.replicated

    def first_batch(self, strategy, first, last, skip=0):
        return replicated(self, strategy, first, last, skip).take(1).cache().repeat().prefetch(2)

    sf.data.Data.replicated = first_batch
    command.main()


def main(_):
    files, records = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for network, size, batch, shape in _NETWORKS:
            name, root = "x".join(map(str, shape)), pathlib.Path(folder, "x".join(map(str, shape)))
            if not root.exists():
                write_folder(root, encoded(shape))
                MadeUp(data_dir=folder, config=name).download_and_prepare()
            augmentation = "random_resized_crop" if size > 64 else "pad_crop_flip"
            options = {"image_size": size, "batch_size": batch, "augmentation": augmentation}
            rate = taken(network, size, batch)
            for results, source, data_dir in (
                (files, "folder", root), (records, f"tfds:made_up/{name}", folder)
            ):  # fmt: skip
                rate_in = delivered(sf.data.load(source, "train", data_dir=data_dir, **options))
                results[f"{network}/{size}"] = round(rate_in / rate, 2)
                print(f"{network} at {size} pixels takes {rate:.0f} images/s; {source} delivers {rate_in:.0f}",
                      flush=True)  # fmt: skip
        ratios = []
        for _ in range(_ROUNDS.value):
            speeds = [train_speed(pathlib.Path(folder, "32x32"), one_batch=one_batch) for one_batch in (False, True)]
            ratios.append(speeds[0] / speeds[1])
            print(f"train.py: {speeds[0]:.1f} images/s on files, {speeds[1]:.1f} on one batch", flush=True)
    print(json.dumps({"files": files, "records": records, "end_to_end": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    if "--as_train" in sys.argv:
        sys.argv.remove("--as_train")
        train_on_one_batch()
    else:
        app.run(main)
