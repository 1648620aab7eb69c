"""What a training step with attention supervision costs, as a multiple of plain Keras `fit`.

  python benchmarks/train_step.py                                                         ResNet-18, 32 pixels, batch 64
  python benchmarks/train_step.py --backbone=resnet20 --batch_size=128
  python benchmarks/train_step.py --backbone=efficientnet_lite0 --image_size=160 --batch_size=32
  python benchmarks/train_step.py --precision=mixed_bfloat16                              or --jit_compile, ...

Four models train in turns in one process on one batch: plain Keras, ICASC as the paper has it, ICASC with attention
whose weights are taken as constants, and ICASC each fourth step. Each round gives a ratio, and the median of the rounds
counts. The floor is what the additional multiplications alone would cost. Peak memory (resident, of the whole process,
and above what it had with the model made) is measured in processes of their own. The last line is JSON.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import sfocus_tf as sf
from sfocus_tf import backbones

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # for this folder, as a script

from benchmarks import multiplications

_BACKBONE = flags.DEFINE_string("backbone", "resnet18_cifar", "Network.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Height and width, in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures a step.")
_CLASSES = flags.DEFINE_integer("classes", 10, "Classes.")
_PRECISION = flags.DEFINE_string("precision", "float32", "Of the network: float32, mixed_float16 or mixed_bfloat16.")
_JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Compile the training step with XLA.")
_STEPS_PER_EXECUTION = flags.DEFINE_integer("steps_per_execution", 1, "As in `compile`.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often the models take turns.")
_VARIANTS = flags.DEFINE_list("variants", ["plain", "exact", "first_order", "every_4"], "Which to time, plain first.")
_MEMORY = flags.DEFINE_bool("memory", True, "Measure peak memory, too.")
_MEMORY_OF = flags.DEFINE_string("memory_of", None, "Print the peak memory of one variant, in bytes, and end.")
_STEPS = 4  # a round: every_4 has one step of each kind


class Clock(keras.callbacks.Callback):
    """Seconds of the steps of one call of `fit`."""

    def on_train_begin(self, logs=None):
        self.total, self.steps = 0.0, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.total += time.perf_counter() - self.begin
        self.steps += _STEPS_PER_EXECUTION.value


def make(variant):
    """A compiled model."""
    classifier = backbones.create(_BACKBONE.value, _CLASSES.value, _IMAGE_SIZE.value)
    if variant == "plain":
        model = keras.Model(classifier.inputs, classifier.outputs)
    else:
        term = sf.Term(0.3, every_steps=4 if variant == "every_4" else 1)
        terms = dict.fromkeys(("separation_inner", "separation_last", "consistency"), term)
        model = sf.SharpenFocus(classifier, second_order=variant != "first_order", **terms)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=_JIT_COMPILE.value,
        steps_per_execution=_STEPS_PER_EXECUTION.value,
    )
    return model


def one_batch():
    """The same batch for ever."""
    size, count = _IMAGE_SIZE.value, _BATCH_SIZE.value
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.float32)
    return tf.data.Dataset.from_tensors((images, np.arange(count) % _CLASSES.value)).repeat().prefetch(2)


def step_seconds(models, data):
    """Seconds a step of each model, round by round."""
    clock, found = Clock(), {name: [] for name in models}
    steps = _STEPS * _STEPS_PER_EXECUTION.value
    for round_ in range(1 + _ROUNDS.value):
        for name, model in models.items():
            model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[clock])
            if round_:  # the first one compiles
                found[name].append(clock.total / clock.steps)
    return found


def peak_memory(variant):
    """Peak resident memory of a process that trains it for a few steps, and what of it is above that of the model."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--memory_of={variant}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(_):
    keras.mixed_precision.set_global_policy(_PRECISION.value)
    data = one_batch()
    if _MEMORY_OF.value:
        model = make(_MEMORY_OF.value)
        before = resident()
        model.fit(data, steps_per_epoch=_STEPS, verbose=0)
        print(json.dumps([resident(), resident() - before]))
        return
    models = {name: make(name) for name in _VARIANTS.value}
    seconds = step_seconds(models, data)
    ratios = {
        name: statistics.median(mine / plain for mine, plain in zip(times, seconds["plain"], strict=True))
        for name, times in seconds.items()
    }
    for name, times in seconds.items():
        print(
            f"{name:<12} {1000 * statistics.median(times):8.1f} ms a step  {ratios[name]:.3f} times plain", flush=True
        )
    classifier = backbones.create(_BACKBONE.value, _CLASSES.value, _IMAGE_SIZE.value)
    floors = multiplications.floors(classifier, sf.SharpenFocus(classifier).inner_layer)
    result = {key: round(ratios[key], 3) for key in _VARIANTS.value if key != "plain"}
    result |= {f"floor_{key}": round(floors[key], 3) for key in ("exact", "first_order")}
    if _MEMORY.value:
        plain, exact = peak_memory("plain"), peak_memory("exact")
        result["memory_exact"], result["memory_exact_above_model"] = (
            round(mine / other, 3) for mine, other in zip(exact, plain, strict=True)
        )
    keys = ("backbone", "image_size", "batch_size", "classes", "precision", "jit_compile", "steps_per_execution")
    print(json.dumps(result | {key: flags.FLAGS[key].value for key in keys}))


if __name__ == "__main__":
    app.run(main)
