"""Results of a run: the contents of results.json, a table, and a figure of the attention."""

import dataclasses
import math
import pathlib
import platform
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import sfocus_tf
from sfocus_tf import evaluation, report, saved_models
from sfocus_tf.data import Data
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training import checkpoints
from sfocus_tf.training.config import Config

_SHOWN = 8  # images in the figure
# Metrics in the table; results.json has all.
_SHOWN_MEASURES = (
    "accuracy", "top-5 accuracy", "mAP", "overlap_inner", "overlap_last", "pointing_inner", "pointing_last"
)  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The results as a text table; runs that do not say `of` measured maps of the scores."""
    rows = [("data", f"{results['dataset']}, {results['examples']['test']:,} test images")]
    method = saved_models.METHOD_NAMES[results["method"]]
    rows += [("method", f"{method}, {results['backbone']}, seed {results['seed']}")]
    for name, value in results["test"].items():
        if name in _SHOWN_MEASURES:
            text = "not defined" if value is None else f"{100 * value:.2f} %"
            rows.append((evaluation.describe(name).full_text, text))
    if results["best"]:
        (name, value), *_ = results["best"]["test"].items()
        if value is not None:
            epochs = results["best"]["epochs"]
            text = f"{100 * value:.2f} % (epoch {epochs}, the best on the validation images)"
            rows.append((f"{evaluation.describe(name).text} of best.keras", text))
    rows.append(("training time", f"{results['seconds']:.0f} s for {results['epochs']} epochs"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, f"Maps are {evaluation.MAPS[results.get('of', 'score')]}."])


def collect(
    config: Config,
    model: SharpenFocus,
    splits: dict[str, Data],
    seconds: float,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Evaluates a trained model, saves the attention figure, and collects the results.

    Args:
        config: config of the run.
        model: the model after the last epoch; gets the weights of `best.keras` if there is one.
        splits: "train", "test", and "validation" if there is one.
        seconds: training time.
        folder: the workdir.

    Returns:
        The contents of `results.json`.
    """
    test = dataclasses.replace(splits["test"], regions=True)
    measured = evaluation.evaluate(model, test)
    _image(model, splits["test"], folder / "attention.png")
    best = None
    if (folder / "best.keras").exists():
        checkpoints.load(model, folder / "best.keras")
        best = {"epochs": checkpoints.position(folder / "best.keras").epochs, "test": _headline(model, test)}
    return {
        "dataset": config.dataset,
        "method": config.method,
        "backbone": config.backbone,
        "seed": config.seed,
        "epochs": config.epochs,
        "examples": {split: part.source.size for split, part in splits.items()},
        "of": measured.of,  # what the maps of "test" explain
        "test": {key: None if math.isnan(value) else value for key, value in measured.summary().items()},
        # NaN marks classes that are difficult to recognise: present in the loss, as in training.
        "test_loss": float(model.loss(np.nan_to_num(measured.labels, nan=1.0), measured.explanation.scores)),
        "best": best,
        "seconds": seconds,
        "objective": config.objective_used,
        "layers": {"inner": model.inner_layer, "last": model.last_layer},
        "versions": _versions(),
        "machine": {
            "processor": _processor(),
            "devices": [d.device_type for d in tf.config.list_physical_devices()],
            "replicas": model.distribute_strategy.num_replicas_in_sync,
        },
        "config": config.given,
    }


def _versions() -> dict[str, str]:
    return {
        "sfocus_tf": sfocus_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's model, since deterministic runs repeat to the bit on one model alone."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _headline(model: SharpenFocus, test: Data) -> dict[str, float | None]:
    """Accuracy or mean average precision on the test split; `None` if undefined."""
    predict = tf.function(model.classifier, reduce_retracing=True, autograph=False)  # `predict` would need all workers
    parts = [
        (predict(batch["image"], training=False).numpy(), evaluation.countable(batch))
        for batch in test.batches.as_numpy_iterator()
    ]
    name, value = evaluation.headline(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    return {name: None if math.isnan(value) else value}


def _image(model: SharpenFocus, test: Data, path: pathlib.Path) -> None:
    """Saves a figure of test images with the attention for the predicted class and its rival."""
    images, labels = examples(test)
    figure = report.attention_figure(images, model.explain(images), test.class_names, labels)
    figure.savefig(path, dpi=110)


def examples(split: Data) -> tuple[np.ndarray, list[str]]:
    """Evenly spaced images of a split, `[images, size, size, 3]`, and the names of their classes."""
    stride = max(split.source.size // _SHOWN, 1)
    stride -= stride % 2 == 0 and stride > 1  # odd, to avoid a pattern with alternating classes
    source = split.source

    def chosen(seed: tf.Tensor | None) -> tf.data.Dataset:
        return source.keys(seed).shard(stride, 0).take(_SHOWN)

    count = min(_SHOWN, -(-source.size // stride))
    few = dataclasses.replace(split, source=dataclasses.replace(source, keys=chosen, size=count))
    images = list(few.batches.unbatch().as_numpy_iterator())
    names = [evaluation.label_text(label, split.class_names) for _, label in images]
    return np.stack([image for image, _ in images]), names
