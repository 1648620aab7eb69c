"""From a config to a trained model and its results: data, model, fit, evaluation, files in the workdir."""

import errno
import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from sfocus_tf import backbones, checkpoints, data, distribution, faults, fitting, loading, results
from sfocus_tf.attention import check_mechanism
from sfocus_tf.data import Data
from sfocus_tf.model import SharpenFocus
from sfocus_tf.naming import unknown
from sfocus_tf.recipes import RECIPES, recipe
from sfocus_tf.terms import TERMS, Settings
from sfocus_tf.workdir import WorkdirError, prepare, refuse_other

METHODS = ("icasc", "cross_entropy")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "constant")
_NOT_WRITABLE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM)


def run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any] | None:
    """Trains and evaluates a classifier, going on where an interrupted run in the same workdir stopped.

    Leaves in the workdir: `config.json`, `data.json`, `history.csv`, `tensorboard/`, `last.keras`, `best.keras` (by
    the validation pictures, where there are any), `results.json` and `attention.png`. Of several workers, which all
    call this with the same folder on a file system they share, the chief writes.

    Args:
        config: every key of `configs/common.py`.
        workdir: the folder; made where it does not exist.

    Returns:
        What `results.json` holds; `None` for a worker that is not the chief.

    Raises:
        ValueError: a setting that is not valid, data that are not as they should be, or that differ between workers.
        WorkdirError: the workdir has a run of another config, or cannot be written.
        FloatingPointError: a loss or a weight became NaN or infinite.
        StoppedError: SIGTERM came; the same call goes on.
        WorkerLostError: another worker is gone.
    """
    check(config)
    strategy = distribution.strategy(config.strategy, config.devices)
    chief = distribution.is_chief(strategy)
    stop = faults.Stop()
    with stop.caught():  # only now, as TensorFlow's service for several workers catches signals itself
        folder = prepare(config, pathlib.Path(workdir).expanduser(), chief)
        try:
            if not (folder / "results.json").exists():
                with faults.told_of_lost_workers(strategy):
                    _run(config, folder, strategy, stop)
            return json.loads((folder / "results.json").read_text()) if chief else None
        except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
            if not _of_writing(error, folder):
                raise
            raise WorkdirError(f"workdir={str(folder)!r} can no longer be written: {error}") from error
        except tf.errors.InvalidArgumentError as error:
            if config.check_pictures or "decodeimage" not in str(error).lower():
                raise
            raise ValueError(
                "a picture cannot be decoded. Once with --config.check_pictures=true says which, before training; "
                "with --skip_corrupt too, such pictures are left out."
            ) from error


def _of_writing(error: Exception, folder: pathlib.Path) -> bool:
    """Whether an error tells that files in a folder cannot be written, and not that others cannot be read."""
    if not isinstance(error, OSError):
        return str(folder) in str(error)
    # What is written to an open file fails without a name: on a full disk.
    inside = error.filename is None or pathlib.Path(str(error.filename)).resolve().is_relative_to(folder.resolve())
    return error.errno in _NOT_WRITABLE and inside


def _run(
    config: ml_collections.ConfigDict, folder: pathlib.Path, strategy: tf.distribute.Strategy, stop: faults.Stop
) -> None:
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)
    chief = distribution.is_chief(strategy)
    resumed = (folder / "last.keras").exists()
    # Before the data are read, which may take long. A run that goes on needs no other's weights.
    start = None if resumed else _weights_to_start_from(config)
    splits = _data(config, chief)
    with strategy.scope():
        model = _model(config, splits["train"], start)
    _refuse_empty_replicas(model, splits["train"], strategy.num_replicas_in_sync)
    if chief:
        print(_about_replicas(config, strategy, splits["train"].image_size), flush=True)
    position = _go_on(folder, model, splits, strategy) if resumed else checkpoints.Position(0)
    _refuse_disagreement(folder, position, splits, strategy)
    if chief:
        checkpoints.write_text(folder / "data.json", json.dumps(_about(splits), indent=2) + "\n")
        if position.epochs == 0:
            (folder / "best.keras").unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
    with distribution.folder_to_write(strategy, folder) as written, stop.after_saving(), strategy.scope():
        seconds = fitting.fit(config, model, splits, folder, written, position, stop)
    if chief:
        found = results.collect(config, model, splits, folder, seconds)
        checkpoints.write_text(folder / "results.json", json.dumps(found, indent=2) + "\n")
    distribution.any_worker(strategy, False)  # the others wait: a worker that leaves would count as lost


def _about(splits: dict[str, Data]) -> dict[str, Any]:
    """What a run that goes on has to find the same."""
    about: dict[str, Any] = {"class_names": list(splits["train"].class_names)}
    return about | {split: part.source.size for split, part in splits.items()}


def _go_on(
    folder: pathlib.Path, model: SharpenFocus, splits: dict[str, Data], strategy: tf.distribute.Strategy
) -> checkpoints.Position:
    """Loads the last checkpoint; how far the run had come."""
    refuse_other(folder, "data", json.loads((folder / "data.json").read_text()), _about(splits))
    with strategy.scope():
        checkpoints.load(model, folder / "last.keras")
    return checkpoints.position(folder / "last.keras")


def _refuse_disagreement(
    folder: pathlib.Path, position: checkpoints.Position, splits: dict[str, Data], strategy: tf.distribute.Strategy
) -> None:
    """Workers that begin at different places, or read different pictures, would spoil the run without a word."""
    known = {"workdir": (folder / "config.json").exists(), "position": position, "data": _about(splits)}
    known["files"] = [pathlib.Path(file).name for part in splits.values() for file in part.source.files]
    if not distribution.all_agree(strategy, json.dumps(known)):
        raise ValueError(
            f"the workers differ in the workdir or in the data. This one: workdir={str(folder)!r} at epoch "
            f"{position.epochs}, step {position.steps}; {_about(splits)}. Expected one --workdir and the same "
            "--data_dir, on a file system that all of them share."
        )


def _about_replicas(config: ml_collections.ConfigDict, strategy: tf.distribute.Strategy, size: int) -> str:
    """What is spread over how many replicas, in a line."""
    replicas = strategy.num_replicas_in_sync
    rate = f"learning rate {_rate(config):g}"
    if config.optimizer.rate_for_batch:
        rate += f" ({config.optimizer.learning_rate:g} for {config.optimizer.rate_for_batch} pictures a batch)"
    rate += f"; {config.backbone}, {size}x{size} pixels"
    if replicas == 1:
        return f"one device; {config.batch_size} pictures a batch; {rate}"
    workers = strategy.extended._num_workers if distribution.several_workers(strategy) else 1
    return (
        f"{replicas} replicas on {workers} worker(s); {config.batch_size} pictures a batch, "
        f"{config.batch_size // replicas} a replica; {rate}"
    )


def _refuse_empty_replicas(model: SharpenFocus, train: Data, replicas: int) -> None:
    """BatchNormalization has no mean of no pictures: its averages would be NaN from then on."""
    rest = train.source.size % train.batch_size
    of_replica = [each for each in distribution.normalisations(model.classifier) if not each.synchronized]
    if 0 < rest < replicas and of_replica:
        raise ValueError(
            f"batch_size={train.batch_size}: the last batch of {train.source.size} pictures would have {rest} for "
            f"{replicas} replicas, and BatchNormalization needs one for each. Another multiple of {replicas} may do, "
            "or --config.synchronized."
        )


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for a setting that is not valid, before any work is done."""
    backbones.check(config.backbone, "imagenet" if config.weights == "imagenet" else None)
    for key, value, valid in (
        ("method", config.method, METHODS),
        ("config.attention", config.attention, RECIPES),
        ("config.optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("config.optimizer.schedule", config.optimizer.schedule, SCHEDULES),
        ("strategy", config.strategy, distribution.STRATEGIES),
        ("config.precision", config.precision, ("float32", "mixed_float16", "mixed_bfloat16")),
    ):
        if value not in valid:
            raise unknown(key, value, valid)
    if config.augmentation not in (None, *data.AUGMENTATIONS):
        raise unknown("config.augmentation", config.augmentation, data.AUGMENTATIONS)
    for key in ("epochs", "batch_size"):
        if config[key] < 1:
            raise ValueError(f"{key}={config[key]}: expected a positive number.")
    _check_numbers(config)
    drops = list(config.optimizer.drops)
    if drops != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"config.optimizer.drops={tuple(drops)}: expected shares of the run, from 0 to 1, ascending.")
    terms = recipe(config.attention, config.terms.to_dict())
    terms.arguments(1)
    check_mechanism(terms.mechanism)
    Settings(terms.separation, terms.sigma, terms.omega, terms.theta, terms.minimum_mass)


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for a number out of its range."""
    positive: tuple[Callable[[Any], bool], str] = (lambda x: x is None or x >= 1, "a positive number")
    not_negative: tuple[Callable[[Any], bool], str] = (lambda x: x >= 0, "0 or more")
    rate: tuple[Callable[[Any], bool], str] = (lambda x: 0 <= x < 1, "a number from 0 to below 1")
    optimizer = config.optimizer
    for key, value, (valid, expected) in (
        ("image_size", config.image_size, positive),
        ("examples", config.examples, positive),
        ("center_crop", config.center_crop, (lambda x: x is None or 0 < x <= 1, "a share above 0, up to 1")),
        ("validation_fraction", config.validation_fraction, rate),
        ("attention_images_every", config.attention_images_every, not_negative),
        ("dropout", config.dropout, rate),
        ("optimizer.learning_rate", optimizer.learning_rate, (lambda x: x > 0, "more than 0")),
        ("optimizer.rate_for_batch", optimizer.rate_for_batch, positive),
        ("optimizer.warmup_epochs", optimizer.warmup_epochs, (lambda x: 0 <= x <= config.epochs, "0 up to the epochs")),
        ("optimizer.momentum", optimizer.momentum, rate),
        ("optimizer.weight_decay", optimizer.weight_decay, not_negative),
        ("optimizer.clip_norm", optimizer.clip_norm, not_negative),
    ):
        if not valid(value):
            raise ValueError(f"config.{key}={value}: expected {expected}.")


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


def _data(config: ml_collections.ConfigDict, chief: bool) -> dict[str, Data]:
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
        if skipped and chief:
            print(f"{split}: left out {len(skipped)} corrupt picture(s), such as {skipped[0]}", flush=True)
    return splits


def _model(config: ml_collections.ConfigDict, train: Data, start: pathlib.Path | None) -> SharpenFocus:
    imagenet = "imagenet" if config.weights == "imagenet" else None
    classifier = backbones.create(config.backbone, len(train.class_names), train.image_size, imagenet, config.dropout)
    for layer in distribution.normalisations(classifier):
        layer.synchronized = config.synchronized
    if start is not None:
        loading.start_from(classifier, start)
    steps = config.epochs * train.steps
    classes = len(train.class_names) if train.multi_label else 1
    arguments = recipe(config.attention, config.terms.to_dict()).arguments(steps, classes)
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


def _rate(config: ml_collections.ConfigDict) -> float:
    """The learning rate for the batch size, scaled linearly (Goyal et al. 2017) where the config asks for it."""
    settings = config.optimizer
    return settings.learning_rate * config.batch_size / (settings.rate_for_batch or config.batch_size)


def _optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    settings = config.optimizer
    total, warmup = config.epochs * steps_per_epoch, round(settings.warmup_epochs * steps_per_epoch)
    rate: Any = _rate(config)
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate, max(total - warmup, 1), warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    elif settings.schedule == "step":
        values = [rate / 10**drop for drop in range(len(settings.drops) + 1)]
        boundaries = [int(share * total) for share in settings.drops]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    clip_norm = settings.clip_norm or None
    optimizer: keras.optimizers.Optimizer
    if settings.name == "sgd":
        optimizer = keras.optimizers.SGD(
            rate,
            settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay or None,
            global_clipnorm=clip_norm,
        )
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=clip_norm)
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
