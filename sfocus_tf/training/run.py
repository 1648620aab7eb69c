"""Runs a config: data, model, fit, evaluation, and the files in the workdir."""

import errno
import json
import pathlib
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from sfocus_tf import distribution
from sfocus_tf.data import Data
from sfocus_tf.data.formats import UNSUPPORTED
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training import build, checkpoints, interruption, results
from sfocus_tf.training.config import Config, resolve
from sfocus_tf.training.fit import fit
from sfocus_tf.training.workdir import WorkdirError, prepare, refuse_other

_NOT_WRITABLE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM)


def run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any] | None:
    """Trains and evaluates a classifier, or resumes an interrupted run in the same workdir.

    Writes to the workdir: `config.json`, `data.json`, `history.csv`, `tensorboard/`, `last.keras`, `best.keras` (on
    the validation images, if there are any), `results.json` and `attention.png`. With several workers, all call this
    with the same folder on a shared file system, and the chief writes.

    Args:
        config: a config with every key of `configs/common.py`.
        workdir: the folder; created if it does not exist.

    Returns:
        The contents of `results.json`; `None` for a worker that is not the chief.

    Raises:
        ValueError: an invalid setting, invalid data, or data that differ between workers.
        WorkdirError: the workdir has a run of another config, or cannot be written.
        FloatingPointError: a loss or a weight became NaN or infinite.
        StoppedError: stopped by SIGTERM; the same call resumes the run.
        WorkerLostError: another worker was lost.
    """
    folder = pathlib.Path(workdir).expanduser()
    resolved = resolve(config)
    strategy = distribution.strategy(resolved.strategy, resolved.devices)
    chief = distribution.is_chief(strategy)
    stop = interruption.Stop()
    with stop.caught():  # after the strategy: TensorFlow's multi-worker service installs handlers too
        prepare(folder, resolved.identity(), chief)
        try:
            if not (folder / "results.json").exists():
                with interruption.told_of_lost_workers(strategy):
                    _run(resolved, folder, strategy, stop)
            return json.loads((folder / "results.json").read_text()) if chief else None
        except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
            if not _of_writing(error, folder):
                raise
            raise WorkdirError(f"workdir={str(folder)!r} can no longer be written: {error}") from error
        except tf.errors.InvalidArgumentError as error:
            undecodable = any(text in str(error).lower() for text in ("decodeimage", UNSUPPORTED.lower()))
            if resolved.check_images or not undecodable:
                raise
            raise ValueError(
                "an image cannot be decoded. Run once with --config.check_images=true to find it before training, or "
                "with --skip_corrupt too, to skip such images."
            ) from error


def _of_writing(error: Exception, folder: pathlib.Path) -> bool:
    """Whether an error is about writing files in a folder, not about reading others."""
    if not isinstance(error, OSError):
        return str(folder) in str(error)
    # Writing to an open file on a full disk fails without a file name.
    inside = error.filename is None or pathlib.Path(str(error.filename)).resolve().is_relative_to(folder.resolve())
    return error.errno in _NOT_WRITABLE and inside


def _run(config: Config, folder: pathlib.Path, strategy: tf.distribute.Strategy, stop: interruption.Stop) -> None:
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)
    chief = distribution.is_chief(strategy)
    resumed = (folder / "last.keras").exists()
    # Before reading the data, which may take long. A resumed run has its own weights.
    start = None if resumed else build.start_file(config.weights)
    splits = build.splits(config)
    with strategy.scope():
        model = build.model(config, splits["train"], start)
    _refuse_empty_replicas(model, splits["train"], strategy.num_replicas_in_sync)
    if chief:
        print(_about_replicas(config, strategy, splits), flush=True)
    position = _resume(folder, model, splits, strategy) if resumed else checkpoints.Position(0)
    _refuse_disagreement(folder, position, splits, strategy)
    if chief:
        checkpoints.write_text(folder / "data.json", json.dumps(_about(splits), indent=2) + "\n")
        if position.epochs == 0:
            (folder / "best.keras").unlink(missing_ok=True)  # from a run that was killed before its first checkpoint
    with distribution.folder_to_write(strategy, folder) as written, stop.after_saving(), strategy.scope():
        seconds = fit(config, model, splits, folder, written, position, stop)
    if chief:
        collected = results.collect(config, model, splits, folder, seconds)
        checkpoints.write_text(folder / "results.json", json.dumps(collected, indent=2) + "\n")
    distribution.any_worker(strategy, False)  # keeps the others waiting: a worker that leaves would count as lost


def _about(splits: dict[str, Data]) -> dict[str, Any]:
    """The facts about the data that must not change when a run resumes."""
    about: dict[str, Any] = {"class_names": list(splits["train"].class_names)}
    return about | {split: part.source.size for split, part in splits.items()}


def _resume(
    folder: pathlib.Path, model: SharpenFocus, splits: dict[str, Data], strategy: tf.distribute.Strategy
) -> checkpoints.Position:
    """Loads the last checkpoint and returns its position."""
    refuse_other(folder, "data", json.loads((folder / "data.json").read_text()), _about(splits))
    with strategy.scope():
        checkpoints.load(model, folder / "last.keras")
    return checkpoints.position(folder / "last.keras")


def _refuse_disagreement(
    folder: pathlib.Path, position: checkpoints.Position, splits: dict[str, Data], strategy: tf.distribute.Strategy
) -> None:
    """Raises a `ValueError` if workers would start at different positions or read different images."""
    known = {"workdir": (folder / "config.json").exists(), "position": position, "data": _about(splits)}
    known["files"] = [pathlib.Path(file).name for part in splits.values() for file in part.source.files]
    if not distribution.all_agree(strategy, json.dumps(known)):
        raise ValueError(
            f"the workers differ in the workdir or in the data. This one: workdir={str(folder)!r} at epoch "
            f"{position.epochs}, step {position.steps}; {_about(splits)}. Expected one --workdir and the same "
            "--data_dir, on a file system that all workers share."
        )


def _about_replicas(config: Config, strategy: tf.distribute.Strategy, splits: dict[str, Data]) -> str:
    """A text about skipped images, replicas, batch size and learning rate, for the start of the run."""
    lines = [
        f"{name}: skipped {len(part.source.skipped)} corrupt image(s), such as {part.source.skipped[0]}"
        for name, part in splits.items()
        if part.source.skipped
    ]
    replicas, settings, size = strategy.num_replicas_in_sync, config.optimizer, splits["train"].image_size
    rate = f"learning rate {settings.rate:g}"
    if settings.rate_for_batch:
        rate += f" ({settings.learning_rate:g} for {settings.rate_for_batch} images per batch)"
    rate += f"; {config.backbone}, {size}x{size} pixels"
    if replicas == 1:
        return "\n".join([*lines, f"one device; {config.batch_size} images per batch; {rate}"])
    workers = strategy.extended._num_workers if distribution.several_workers(strategy) else 1
    spread = f"{config.batch_size} images per batch, {config.batch_size // replicas} per replica"
    return "\n".join([*lines, f"{replicas} replicas on {workers} worker(s); {spread}; {rate}"])


def _refuse_empty_replicas(model: SharpenFocus, train: Data, replicas: int) -> None:
    """Raises a `ValueError` if a replica would get no images, which turns BatchNormalization's averages to NaN."""
    rest = train.source.size % train.batch_size
    unsynchronized = [layer for layer in distribution.normalisations(model.classifier) if not layer.synchronized]
    if 0 < rest < replicas and unsynchronized:
        raise ValueError(
            f"batch_size={train.batch_size}: the last batch of {train.source.size} images would have {rest} for "
            f"{replicas} replicas, and BatchNormalization needs one for each. Try another multiple of {replicas}, or "
            "--config.synchronized."
        )
