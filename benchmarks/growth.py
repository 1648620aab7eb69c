"""How the overhead of attention supervision grows with classes, batch size, depth and resolution.

  python benchmarks/growth.py --output=growth.png     about ten minutes on two cores

A CIFAR ResNet trains in plain Keras and with attention supervision, taking turns; the overhead is the extra time per
step, in milliseconds and as a share of a plain step. One variable changes at a time, starting from ResNet-20 with 10
classes and 64 images of 32 pixels. The last line is JSON: the `shares`; `classes`, the growth of the overhead from 10
to 10,000 classes, as a share of a plain step; and `batch`, the overhead at 256 images over its linear extrapolation
from 16 to 128.
"""

import json
import os
import pathlib
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.figure
import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # makes `benchmarks` importable from a script

from benchmarks import stepping

_OUTPUT = flags.DEFINE_string("output", None, "PNG file for the plot; none by default.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of rounds.")
_USUAL = {"classes": 10, "batch": 64, "depth": 20, "resolution": 32}
_VARIED = {
    "classes": (10, 100, 1000, 10_000),
    "batch": (16, 32, 64, 128, 256),
    "depth": (20, 32, 56),
    "resolution": (32, 48, 64),
}


def extra(classes, batch, depth, resolution):
    """Seconds of a plain step, and the overhead of attention supervision in seconds."""
    keras.backend.clear_session()
    models = {
        variant: stepping.compiled(variant, f"resnet{depth}", resolution, classes) for variant in ("plain", "exact")
    }
    seconds = stepping.seconds_in_turns(models, stepping.one_batch(resolution, batch, classes), _ROUNDS.value)
    plain = statistics.median(seconds["plain"])
    return plain, plain * (stepping.ratio(seconds["exact"], seconds["plain"]) - 1)


def plot(measured, path):
    figure = matplotlib.figure.Figure((11, 3), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(measured)), measured.items(), strict=True):
        for label, row in (("plain step", 0), ("overhead", 1)):
            axes.plot([value for value, *_ in rows], [1000 * seconds[row] for _, *seconds in rows], "o-", label=label)
        axes.set(xlabel=name, ylabel="milliseconds", ylim=(0, None), xscale="log" if name == "classes" else "linear")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main(_):
    measured = {}
    for name, values in _VARIED.items():
        measured[name] = []
        for value in values:
            plain, overhead = extra(**_USUAL | {name: value})
            measured[name].append((value, plain, overhead))
            print(f"{name:<10} {value:>6}  plain {1000 * plain:8.1f} ms  overhead {1000 * overhead:8.1f} ms "
                  f"({overhead / plain:.1%})", flush=True)  # fmt: skip
    if _OUTPUT.value:
        plot(measured, _OUTPUT.value)
    base = measured["classes"][0][1]
    shares = {name: {value: round(more / plain, 3) for value, plain, more in rows} for name, rows in measured.items()}
    *few, (most, _, at_most) = measured["batch"]
    line = np.polyfit([value for value, *_ in few], [overhead for *_, overhead in few], 1)
    summary = {"classes": round((measured["classes"][-1][2] - measured["classes"][0][2]) / base, 3)}
    summary["batch"] = round(at_most / float(np.polyval(line, most)), 3)
    print(json.dumps(summary | {"shares": shares}))


if __name__ == "__main__":
    app.run(main)
