"""Cost of a training step with attention supervision, relative to plain Keras `fit`.

  python benchmarks/train_step.py                                                      ResNet-18, 32 pixels, batch 64
  python benchmarks/train_step.py --backbone=resnet20 --batch_size=128
  python benchmarks/train_step.py --backbone=efficientnet_lite0 --image_size=160 --batch_size=32
  python benchmarks/train_step.py --precision=mixed_bfloat16                           or --jit_compile, ...

Six models take turns training on one batch in one process: plain Keras; the default and the light objective, active
from the first step (default, light); the paper's losses at both layers (exact), the same with the attention's channel
weights as constants (first_order), and the same in every fourth step (every_4). Ratios are medians over the rounds. The
floor of the paper's losses is the cost of the additional multiplications alone, see benchmarks/multiplications.py. Peak
memory is measured in separate processes, also relative to plain Keras: `memory_exact` of the whole process,
`memory_exact_above_model` of the growth during training. The last line is JSON.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # makes `benchmarks` importable from a script

import sfocus_tf as sf
from benchmarks import multiplications, stepping
from sfocus_tf import backbones

_BACKBONE = flags.DEFINE_string("backbone", "resnet18_cifar", "Network.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Height and width, in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per step.")
_CLASSES = flags.DEFINE_integer("classes", 10, "Number of classes.")
_PRECISION = flags.DEFINE_string("precision", "float32", "float32, mixed_float16 or mixed_bfloat16.")
_JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Compile the training step with XLA.")
_STEPS_PER_EXECUTION = flags.DEFINE_integer("steps_per_execution", 1, "As in `compile`.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Number of rounds.")
_VARIANTS = flags.DEFINE_list("variants", list(stepping.VARIANTS), "Models to time; must include plain.")
_MEMORY = flags.DEFINE_bool("memory", True, "Also measure peak memory.")
_MEMORY_OF = flags.DEFINE_string("memory_of", None, "Print the peak memory of one variant and exit; internal.")


def make(variant):
    options = {"jit_compile": _JIT_COMPILE.value, "steps_per_execution": _STEPS_PER_EXECUTION.value}
    return stepping.compiled(variant, _BACKBONE.value, _IMAGE_SIZE.value, _CLASSES.value, **options)


def peak_memory(variant):
    """Peak resident memory in bytes of a process that trains for a few steps, and its growth during training."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--memory_of={variant}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def resident(key):
    """Resident memory of this process in bytes, current (VmRSS) or peak (VmHWM); Linux only."""
    # `resource` would include the memory of the parent when it started this process.
    (line,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def train_and_print_memory(model, data):
    before = resident("VmRSS")
    model.fit(data, steps_per_epoch=4 * _STEPS_PER_EXECUTION.value, verbose=0)
    peak = resident("VmHWM")
    print(json.dumps([peak, peak - before]))


def main(_):
    keras.mixed_precision.set_global_policy(_PRECISION.value)
    data = stepping.one_batch(_IMAGE_SIZE.value, _BATCH_SIZE.value, _CLASSES.value)
    if _MEMORY_OF.value:
        train_and_print_memory(make(_MEMORY_OF.value), data)
        return
    models = {name: make(name) for name in _VARIANTS.value}
    seconds = stepping.seconds_in_turns(models, data, _ROUNDS.value, _STEPS_PER_EXECUTION.value)
    result = {}
    for name, times in seconds.items():
        result[name] = round(stepping.ratio(times, seconds["plain"]), 3)
        print(
            f"{name:<12} {1000 * statistics.median(times):8.1f} ms a step  {result[name]:.3f} times plain", flush=True
        )
    result.pop("plain")
    classifier = backbones.create(_BACKBONE.value, _CLASSES.value, _IMAGE_SIZE.value)
    floors = multiplications.floors(classifier, sf.SharpenFocus(classifier).inner_layer)
    result |= {f"floor_{key}": round(floors[key], 3) for key in ("exact", "first_order")}
    if _MEMORY.value:
        exact, plain = peak_memory("exact"), peak_memory("plain")
        result |= {
            key: round(mine / other, 3)
            for key, mine, other in zip(("memory_exact", "memory_exact_above_model"), exact, plain, strict=True)
        }
    keys = ("backbone", "image_size", "batch_size", "classes", "precision", "jit_compile", "steps_per_execution")
    print(json.dumps(result | {key: flags.FLAGS[key].value for key in keys}))


if __name__ == "__main__":
    app.run(main)
