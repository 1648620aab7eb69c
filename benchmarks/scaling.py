"""A paper MODEL of how throughput scales with GPUs and hosts, from the step, its gradients and the input.

  python benchmarks/scaling.py                                      ResNet-50, ILSVRC2012, as in docs/scaling.md
  python benchmarks/scaling.py --gpu_rate=1500 --network_gbit=25    other machines

Measured here: the time of a step with attention supervision over one without, the images that one core decodes and
augments per second, and the size of the gradients. Assumed, as flags: the speed of a GPU with plain cross-entropy, the
links and the cores. A step takes the longer of input and GPU work, plus the ring all-reduce of the gradients without
overlap: 2 (n - 1) / n times their size over the slowest link, and 2 (n - 1) latencies. The batch grows with the number
of GPUs. The last line is JSON.
"""

import json
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import sfocus_tf as sf
from sfocus_tf import backbones

_BACKBONE = flags.DEFINE_string("backbone", "ResNet50", "Network.")
_GPU_RATE = flags.DEFINE_float("gpu_rate", 400.0, "Images per second of one GPU with cross-entropy (V100, float32).")
_BATCH = flags.DEFINE_integer("batch", 64, "Images per GPU and step.")
_CORES = flags.DEFINE_integer("cores", 48, "Processor cores of a host with 8 GPUs.")
_LINK_GBYTE = flags.DEFINE_float("link_gbyte", 10.0, "Gigabytes per second between two GPUs of a host (PCIe 3).")
_NETWORK_GBIT = flags.DEFINE_float("network_gbit", 100.0, "Gigabits per second between two hosts.")
_LATENCY = flags.DEFINE_float("latency", 2e-5, "Latency of a message between hosts, in seconds.")
_EPOCH = 1_281_167


def step_ratio(classifier, size):
    """Time of a step with the paper's losses over one without; medians of three, taking turns."""
    images = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3)).astype(np.float32)
    labels = np.arange(4)
    times = {"plain": [], "ours": []}
    ours = sf.SharpenFocus(classifier, "paper")
    models = {"plain": keras.Model(classifier.inputs, classifier.outputs), "ours": ours}
    for model in models.values():
        model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(images, labels)
    for _ in range(3):
        for name, model in models.items():
            begin = time.perf_counter()
            model.train_on_batch(images, labels)
            times[name].append(time.perf_counter() - begin)
    return statistics.median(times["ours"]) / statistics.median(times["plain"])


def input_rate(size):
    """Images per second that one core reads, decodes, crops and resizes, at ILSVRC2012's usual 500 x 375 pixels."""
    smooth = tf.image.resize(np.random.default_rng(0).uniform(0, 255, (24, 32, 3)), (375, 500), "bicubic")
    jpeg = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8), quality=95).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            for name in ("a", "b"):
                path = pathlib.Path(folder, split, name)
                path.mkdir(parents=True)
                for number in range(100):
                    (path / f"{number}.jpg").write_bytes(jpeg)
        options = {"image_size": size, "augmentation": "random_resized_crop", "check_images": False}
        data = sf.data.load("folder", "train", data_dir=folder, batch_size=20, **options).epochs(0, 6)
        alone = tf.data.Options()
        alone.threading.private_threadpool_size = alone.threading.max_intra_op_parallelism = 1
        iterator = iter(data.with_options(alone))
        for _ in range(10):  # skip what was prefetched during startup
            next(iterator)
        begin = time.perf_counter()
        images = sum(len(labels) for _, labels in iterator)
        return images / (time.perf_counter() - begin)


def row(gpus, hosts, ratio, gradient_bytes, core_rate):
    """Throughput of `gpus` GPUs on `hosts` hosts, in images per second, and its bottleneck."""
    work = _BATCH.value * ratio / _GPU_RATE.value
    reading = _BATCH.value * min(gpus, 8) / (core_rate * _CORES.value)
    share = 2 * (gpus - 1) / gpus * gradient_bytes
    inside = share / (_LINK_GBYTE.value * 1e9) if gpus > 1 else 0.0
    between = share / (_NETWORK_GBIT.value / 8 * 1e9) + 2 * (gpus - 1) * _LATENCY.value if hosts > 1 else 0.0
    exchange = max(inside, between)
    rate = gpus * _BATCH.value / (max(work, reading) + exchange)
    parts = {"work": work, "input": reading if reading > work else 0.0, "exchange": exchange}
    return {
        "hosts": hosts, "gpus": gpus, "global_batch": gpus * _BATCH.value, "images_a_second": round(rate),
        "efficiency": round(rate * ratio / (gpus * _GPU_RATE.value), 3), "slowest": max(parts, key=parts.get),
        "exchange_share": round(exchange / (max(work, reading) + exchange), 3),
        "minutes_an_epoch": round(_EPOCH / rate / 60, 2),
    }  # fmt: skip


def main(_):
    classifier = backbones.create(_BACKBONE.value, 1000, 224)
    measured = {"icasc": step_ratio(classifier, 224), "cross_entropy": 1.0}
    core_rate = input_rate(224)
    gradient_bytes = 4 * sum(int(np.prod(weight.shape)) for weight in classifier.trainable_weights)
    print(f"{_BACKBONE.value}: gradients of {gradient_bytes / 1e6:.1f} MB; a step takes {measured['icasc']:.2f} times "
          f"one of cross-entropy; one core reads {core_rate:.0f} images per second")  # fmt: skip
    places = [(1, 1), (2, 1), (4, 1), (8, 1), *((8 * hosts, hosts) for hosts in (2, 4, 8, 16, 32, 64))]
    tables = {
        name: [row(*place, ratio, gradient_bytes, core_rate) for place in places] for name, ratio in measured.items()
    }
    for name, rows in tables.items():
        print(f"\n{name}\n| hosts | GPUs | batch | images/s | efficiency | exchange | an epoch | slowest |")
        print("|---|---|---|---|---|---|---|---|")
        for cells in rows:
            print(f"| {cells['hosts']} | {cells['gpus']} | {cells['global_batch']:,} | {cells['images_a_second']:,} | "
                  f"{cells['efficiency']:.0%} | {cells['exchange_share']:.0%} | {cells['minutes_an_epoch']:.1f} min | "
                  f"{cells['slowest']} |")  # fmt: skip
    result = {"gradient_megabytes": round(gradient_bytes / 1e6, 1), "step_ratio": round(measured["icasc"], 3)}
    print("\n" + json.dumps(result | {"images_a_second_and_core": round(core_rate, 1)} | tables))


if __name__ == "__main__":
    app.run(main)
