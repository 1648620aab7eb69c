"""Which size should images have in testing? Measures trained networks on their validation images at several sizes.

  python train.py --dataset=cub200 --data_dir=... --config.validation_fraction=0.3 --workdir=runs/birds ...
  python benchmarks/image_sizes.py runs/birds --sizes=128,160,192,224

After training with random resized crops, larger images than those of training are classified better (Touvron et al.
2019, arXiv 1906.06423). The test images are not touched. The workdirs must be of one data set, held out the same way;
the table has a row for each and their mean. The last line is JSON: for each size the metric of every workdir, in per
cent.
"""

import json
import os
import pathlib
import sys

import numpy as np
from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `sfocus_tf` importable from a script
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from sfocus_tf import data, evaluation, saved_models

_SIZES = flags.DEFINE_list("sizes", ["128", "160", "192", "224"], "Heights and widths to test at, in pixels.")


def measure(workdir, sizes):
    """Name of the metric, and its value for each size, in per cent."""
    saved = saved_models.find(workdir)
    config = saved.config
    trained = saved.load().classifier
    values = {}
    for size in sizes:
        images = data.load(
            config["dataset"],
            "validation",
            data_dir=config["data_dir"],
            batch_size=64,
            image_size=size,
            center_crop=config["center_crop"],
            validation_fraction=config["validation_fraction"],
        )
        pairs = [(trained(batch, training=False), labels) for batch, labels in images.batches]
        scores, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        metric, value = evaluation.headline(np.asarray(scores, np.float32), labels)
        values[size] = round(100 * value, 2)
    return metric, values


def main(arguments):
    workdirs = arguments[1:]
    if not workdirs:
        raise app.UsageError("name the workdirs of train.py.")
    sizes = [int(size) for size in _SIZES.value]
    rows = {}
    for workdir in workdirs:
        metric, rows[workdir] = measure(workdir, sizes)
        print(f"{workdir}: " + ", ".join(f"{value} at {size}" for size, value in rows[workdir].items()), flush=True)
    means = {size: round(float(np.mean([values[size] for values in rows.values()])), 2) for size in sizes}
    print(f"mean: {', '.join(f'{value} at {size}' for size, value in means.items())} pixels")
    print(json.dumps({"metric": metric, "mean": means, "workdirs": rows}))


if __name__ == "__main__":
    app.run(main)
