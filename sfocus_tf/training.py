"""From a config to a trained model and its results: data, model, fit, evaluation, files in the workdir."""

import errno
import json
import math
import pathlib
import time
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from sfocus_tf import backbones, checkpoints, data, loading, report, results
from sfocus_tf.data import Data
from sfocus_tf.model import TERMS, SharpenFocus
from sfocus_tf.naming import unknown
from sfocus_tf.progress import Progress
from sfocus_tf.recipes import recipe

METHODS = ("icasc", "cross_entropy")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "constant")
_NOT_WRITABLE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM)


class WorkdirError(ValueError):
    """The workdir cannot be used: another config's run is in it, or it cannot be written."""


def run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains and evaluates a classifier, going on where an interrupted run in the same workdir stopped.

    Leaves in the workdir: `config.json`, `data.json`, `history.csv`, `tensorboard/`, `last.keras`, `best.keras` (by
    the validation pictures, where there are any), `results.json` and `attention.png`.

    Args:
        config: every key of `configs/common.py`.
        workdir: the folder; made where it does not exist.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: a setting that is not valid, or data that are not as they should be.
        WorkdirError: the workdir has a run of another config, or cannot be written.
        FloatingPointError: a loss or a weight became NaN or infinite.
    """
    check(config)
    folder = _prepare_workdir(config, pathlib.Path(workdir).expanduser())
    if (folder / "results.json").exists():
        return json.loads((folder / "results.json").read_text())
    try:
        return _run(config, folder)
    except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        if isinstance(error, OSError) and error.errno not in _NOT_WRITABLE:
            raise
        raise WorkdirError(f"workdir={str(folder)!r} can no longer be written: {error}") from error
    except tf.errors.InvalidArgumentError as error:
        if config.check_pictures or "image file format" not in str(error).lower():
            raise
        raise ValueError(
            "a picture cannot be decoded. Once with --config.check_pictures=true says which, before training; with "
            "--skip_corrupt too, such pictures are left out."
        ) from error


def _run(config: ml_collections.ConfigDict, folder: pathlib.Path) -> dict[str, Any]:
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)
    resumed = (folder / "last.keras").exists()
    # Before the data are read, which may take long. A run that goes on needs no other's weights.
    start = None if resumed else _weights_to_start_from(config)
    splits = _data(config)
    model = _model(config, splits["train"], start)
    about: dict[str, Any] = {"class_names": list(splits["train"].class_names)}
    about |= {split: part.source.size for split, part in splits.items()}
    first = 0
    if resumed:
        _refuse_other(folder, "data", json.loads((folder / "data.json").read_text()), about)
        first = checkpoints.epochs_done(folder / "last.keras")
        checkpoints.load(model, folder / "last.keras")
    checkpoints.write_text(folder / "data.json", json.dumps(about, indent=2) + "\n")
    seconds = _fit(config, model, splits, folder, first)
    found = results.collect(config, model, splits, folder, seconds)
    checkpoints.write_text(folder / "results.json", json.dumps(found, indent=2) + "\n")
    return found


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for a setting that is not valid, before any work is done."""
    backbones.check(config.backbone, "imagenet" if config.weights == "imagenet" else None)
    for key, value, valid in (
        ("method", config.method, METHODS),
        ("config.optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("config.optimizer.schedule", config.optimizer.schedule, SCHEDULES),
        ("config.precision", config.precision, ("float32", "mixed_float16", "mixed_bfloat16")),
    ):
        if value not in valid:
            raise unknown(key, value, valid)
    if config.augmentation not in (None, *data.AUGMENTATIONS):
        raise unknown("config.augmentation", config.augmentation, data.AUGMENTATIONS)
    for key in ("epochs", "batch_size"):
        if config[key] < 1:
            raise ValueError(f"{key}={config[key]}: expected a positive number.")
    if config.attention_images_every < 0:
        raise ValueError(f"config.attention_images_every={config.attention_images_every}: expected 0 or more.")
    if config.optimizer.learning_rate <= 0:
        raise ValueError(f"config.optimizer.learning_rate={config.optimizer.learning_rate}: expected more than 0.")
    drops = list(config.optimizer.drops)
    if drops != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"config.optimizer.drops={tuple(drops)}: expected shares of the run, from 0 to 1, ascending.")
    recipe(config.attention, config.terms.to_dict()).arguments(1)


def _prepare_workdir(config: ml_collections.ConfigDict, folder: pathlib.Path) -> pathlib.Path:
    resolved = json.loads(config.to_json())
    for key in ("attention_images_every", "check_pictures"):  # change nothing about the run
        del resolved[key]
    if resolved["data_dir"]:
        resolved["data_dir"] = str(pathlib.Path(resolved["data_dir"]).expanduser().resolve())
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A config whose run never got to its first checkpoint is no obstacle.
        if any((folder / name).exists() for name in ("last.keras", "results.json")):
            _refuse_other(folder, "config", json.loads(path.read_text()), resolved)
        if not (folder / "results.json").exists():
            checkpoints.write_text(path, json.dumps(resolved, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise WorkdirError(f"workdir={str(folder)!r} cannot be written: {error}.") from error
    return folder


def _refuse_other(folder: pathlib.Path, what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    there, here = _flat(there), _flat(here)
    differing = [
        f"{key}: {there.get(key)!r} there, {here.get(key)!r} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise WorkdirError(
            f"workdir={str(folder)!r} has a run of another {what}. Give another --workdir, or remove it.\n  "
            + "\n  ".join(differing)
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _weights_to_start_from(config: ml_collections.ConfigDict) -> pathlib.Path | None:
    """The file that `config.weights` names, or `None` where it names none."""
    if config.weights in (None, "none", "imagenet"):
        return None
    try:
        return loading.model_file(config.weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"config.weights={config.weights!r}: no such file. Expected imagenet, none, a .keras file or a workdir."
        ) from error


def _data(config: ml_collections.ConfigDict) -> dict[str, Data]:
    splits = {}
    for split in ("train", "validation", "test"):
        if split == "validation" and not config.validation_fraction:
            continue
        splits[split] = data.load(
            config.dataset,
            split,
            data_dir=config.data_dir,
            batch_size=config.batch_size,
            image_size=config.image_size,
            augmentation=config.augmentation,
            center_crop=config.center_crop,
            validation_fraction=config.validation_fraction,
            examples=config.examples,
            skip_corrupt=config.skip_corrupt,
            check_pictures=config.check_pictures,
            seed=config.seed,
        )
        skipped = splits[split].source.skipped
        if skipped:
            print(f"{split}: left out {len(skipped)} corrupt picture(s), such as {skipped[0]}", flush=True)
    return splits


def _model(config: ml_collections.ConfigDict, train: Data, start: pathlib.Path | None) -> SharpenFocus:
    imagenet = "imagenet" if config.weights == "imagenet" else None
    classifier = backbones.create(config.backbone, len(train.class_names), train.image_size, imagenet, config.dropout)
    if start is not None:
        loading.start_from(classifier, start)
    steps = config.epochs * train.steps
    arguments = recipe(config.attention, config.terms.to_dict()).arguments(steps)
    if config.method == "cross_entropy":
        # With all weights zero each step is exactly one of plain Keras.
        arguments |= dict.fromkeys(TERMS, 0.0)
    model = SharpenFocus(classifier, config.inner_layer, config.last_layer, multi_label=train.multi_label, **arguments)
    loss: keras.losses.Loss
    if train.multi_label:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        # An approximation while training; the exact mean average precision is computed at the end.
        metric = keras.metrics.AUC(
            curve="PR", multi_label=True, num_labels=len(train.class_names), from_logits=True, name="pr_auc"
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(_optimizer(config, train.steps), loss, metrics=[metric], jit_compile=config.jit_compile)
    return model


def _optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    settings = config.optimizer
    total, warmup = config.epochs * steps_per_epoch, round(settings.warmup_epochs * steps_per_epoch)
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate, max(total - warmup, 1), warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    elif settings.schedule == "step":
        values = [rate / 10**drop for drop in range(len(settings.drops) + 1)]
        boundaries = [int(share * total) for share in settings.drops]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    common = {"weight_decay": settings.weight_decay or None, "global_clipnorm": settings.clip_norm or None}
    optimizer: keras.optimizers.Optimizer
    if settings.name == "sgd":
        optimizer = keras.optimizers.SGD(rate, settings.momentum, nesterov=settings.nesterov, **common)
    else:
        optimizer = keras.optimizers.AdamW(rate, **common)
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _fit(
    config: ml_collections.ConfigDict, model: SharpenFocus, splits: dict[str, Data], folder: pathlib.Path, first: int
) -> float:
    """Trains from epoch `first`; returns the seconds that all epochs took, earlier runs' included."""
    train, validation = splits["train"], splits.get("validation")
    monitor = None
    if validation is not None:
        monitor = "val_pr_auc" if train.multi_label else "val_accuracy"
    history = folder / "history.csv"
    rows = checkpoints.read_history(history, first)
    best = max([row[monitor] for row in rows], default=-math.inf) if monitor else -math.inf
    if first < config.epochs:
        model.fit(
            train.epochs(first, config.epochs),
            epochs=config.epochs,
            initial_epoch=first,
            steps_per_epoch=train.steps,
            validation_data=validation.batches if validation else None,
            shuffle=False,  # the data come shuffled
            verbose=0,
            callbacks=[
                Progress(),
                keras.callbacks.TerminateOnNaN(),
                _Seconds(),
                keras.callbacks.CSVLogger(str(history), append=bool(rows)),
                keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False),
                *_attention_images(config, validation, folder),
                checkpoints.Checkpoint(folder, monitor, best),
            ],
        )
        rows = checkpoints.read_history(history, config.epochs)
    return sum(row["seconds"] for row in rows)


def _attention_images(
    config: ml_collections.ConfigDict, validation: Data | None, folder: pathlib.Path
) -> list[keras.callbacks.Callback]:
    """What logs attention in some validation pictures, where the config asks for it and there are any."""
    if not config.attention_images_every or validation is None:
        return []
    images, labels = results.examples(validation)
    logs = folder / "tensorboard" / "attention"
    every = config.attention_images_every
    return [report.AttentionImages(logs, images, validation.class_names, labels, every)]


class _Seconds(keras.callbacks.Callback):
    """Logs how long the epoch's training steps took, validation left out."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begin = time.monotonic()
        self.elapsed = 0.0

    def on_test_begin(self, logs: Any = None) -> None:
        self.elapsed = self.elapsed or time.monotonic() - self.begin

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["seconds"] = self.elapsed or time.monotonic() - self.begin
