"""How the extra cost of attention supervision grows with classes, batch, depth and resolution.

  python benchmarks/growth.py --output=growth.png     about ten minutes on two cores

A CIFAR ResNet trains in turns in plain Keras and with attention supervision; what the step takes beyond the plain one
is given in milliseconds and as a share of it. One thing varies at a time, from ResNet-20 with 10 classes and 64
pictures of 32 pixels. The last line is JSON: the shares; `classes`, by how much the time beyond grows from 10 to 10,000
classes, in shares of a plain step; and `batch`, the time beyond at 256 pictures over what a line through those at 16 to
128 gives there.
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # for this folder, as a script

from benchmarks import stepping

_OUTPUT = flags.DEFINE_string("output", None, "Where the plot goes, a PNG file; none by default.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often the two take turns.")
_USUAL = {"classes": 10, "batch": 64, "depth": 20, "resolution": 32}
_VARIED = {
    "classes": (10, 100, 1000, 10_000),
    "batch": (16, 32, 64, 128, 256),
    "depth": (20, 32, 56),
    "resolution": (32, 48, 64),
}


def extra(classes, batch, depth, resolution):
    """Seconds of a plain step, and those that attention supervision takes beyond."""
    keras.backend.clear_session()
    models = {
        variant: stepping.compiled(variant, f"resnet{depth}", resolution, classes) for variant in ("plain", "exact")
    }
    seconds = stepping.seconds_in_turns(models, stepping.one_batch(resolution, batch, classes), _ROUNDS.value)
    plain = statistics.median(seconds["plain"])
    return plain, plain * (stepping.ratio(seconds["exact"], seconds["plain"]) - 1)


def plot(found, path):
    figure = matplotlib.figure.Figure((11, 3), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        for label, row in (("plain step", 0), ("beyond it", 1)):
            axes.plot([value for value, *_ in rows], [1000 * seconds[row] for _, *seconds in rows], "o-", label=label)
        axes.set(xlabel=name, ylabel="milliseconds", ylim=(0, None), xscale="log" if name == "classes" else "linear")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main(_):
    found = {}
    for name, values in _VARIED.items():
        found[name] = []
        for value in values:
            plain, beyond = extra(**_USUAL | {name: value})
            found[name].append((value, plain, beyond))
            print(f"{name:<10} {value:>6}  plain {1000 * plain:8.1f} ms  beyond it {1000 * beyond:8.1f} ms "
                  f"({beyond / plain:.1%})", flush=True)  # fmt: skip
    if _OUTPUT.value:
        plot(found, _OUTPUT.value)
    base = found["classes"][0][1]
    result = {name: {value: round(beyond / plain, 3) for value, plain, beyond in rows} for name, rows in found.items()}
    *few, (most, _, at_most) = found["batch"]
    line = np.polyfit([value for value, *_ in few], [beyond for *_, beyond in few], 1)
    summary = {"classes": round((found["classes"][-1][2] - found["classes"][0][2]) / base, 3)}
    summary["batch"] = round(at_most / float(np.polyval(line, most)), 3)
    print(json.dumps(summary | {"shares": result}))


if __name__ == "__main__":
    app.run(main)
