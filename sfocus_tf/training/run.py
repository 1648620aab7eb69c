"""Runs a config: data, model, fit, evaluation, and the files in the workdir."""

import errno
import json
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from sfocus_tf import distribution
from sfocus_tf.classifier import attention_layers
from sfocus_tf.data import Data
from sfocus_tf.data.formats import UNSUPPORTED
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training import build, checkpoints, interruption, results
from sfocus_tf.training.config import Config, resolve
from sfocus_tf.training.fit import fit
from sfocus_tf.training.workdir import WorkdirError, begin, prepare

_COARSE = 4  # rows and columns of a last map below which it says little of where
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
        StoppedError: stopped by SIGTERM or Ctrl-C; the same call resumes the run.
        WorkerLostError: another worker was lost.
    """
    folder = pathlib.Path(workdir).expanduser()
    resolved = resolve(config)
    strategy = distribution.strategy(resolved.strategy, resolved.devices)
    stop = interruption.Stop()
    # After the strategy, as TensorFlow's multi-worker service installs signal handlers too.
    with stop.caught(), _errors_named(folder, resolved.check_images):
        with strategy.scope(), interruption.told_of_lost_workers():
            chief = distribution.is_chief()
            prepare(folder, resolved.identity(), {"check_images": resolved.check_images})
            trained = None if (folder / "results.json").exists() else _train(resolved, folder, stop)
        if trained and chief:  # outside the scope, where reading some variables would need all workers
            print(f"measuring accuracy and attention on {trained[1]['test'].source.size:,} test images", flush=True)
            collected = results.collect(resolved, *trained, folder)
            checkpoints.write_text(folder / "results.json", json.dumps(collected, indent=2) + "\n")
        if trained:
            with strategy.scope(), interruption.told_of_lost_workers():
                distribution.wait_for_all()
        return json.loads((folder / "results.json").read_text()) if chief else None


@contextmanager
def _errors_named(folder: pathlib.Path, check_images: bool) -> Iterator[None]:
    """Says what a user can do about errors of writing files and of decoding images."""
    try:
        yield
    except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        if not _of_writing(error, folder):
            raise
        raise WorkdirError(f"workdir={str(folder)!r} can no longer be written: {error}") from error
    except tf.errors.InvalidArgumentError as error:
        undecodable = any(text in str(error).lower() for text in ("decodeimage", UNSUPPORTED.lower()))
        if check_images or not undecodable:
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


def _train(
    config: Config, folder: pathlib.Path, stop: interruption.Stop
) -> tuple[SharpenFocus, dict[str, Data], float]:
    """Trains, or goes on from the last checkpoint; returns the model, the data and the seconds of training."""
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)
    # Before reading the data, which may take long. A resumed run has its own weights.
    start = None if (folder / "last.keras").exists() else build.start(config)
    splits = build.splits(config)
    model = build.model(config, splits, start)
    if distribution.is_chief():
        print(_about_data(splits), _about_replicas(config, splits), _about_maps(model, splits), sep="\n", flush=True)
    position = begin(folder, model, splits)
    if (position.epochs or position.steps) and distribution.is_chief():
        print(f"resuming after step {position.steps} of epoch {position.epochs + 1}", flush=True)
    with distribution.folder_to_write(folder) as written, stop.after_saving():
        return model, splits, fit(config, model, splits, folder, written, position, stop)


def _about_data(splits: dict[str, Data]) -> str:
    """A text about classes, images and skipped images."""
    images = ", ".join(f"{part.source.size:,} {name}" for name, part in splits.items())
    lines = [f"{len(splits['train'].class_names)} classes; images: {images}", splits["train"].source.note]
    lines += [
        f"{name}: skipped {len(part.source.skipped)} corrupt image(s), such as {part.source.skipped[0]}"
        for name, part in splits.items()
        if part.source.skipped
    ]
    return "\n".join(filter(None, lines))


def _about_maps(model: SharpenFocus, splits: dict[str, Data]) -> str:
    """A text about the resolution of the attention maps."""
    size = splits["train"].image_size
    located = attention_layers.locate(model.classifier, model.inner_layer, model.last_layer, model.grid, size)
    inner, last = (f"{rows}x{columns}" for rows, columns in located.sizes)
    text = f"attention maps: {inner} positions at the inner layer, {last} at the last"
    coarse = max(located.sizes[-1]) < _COARSE
    return text + ("; larger images would give finer ones (--image_size)" if coarse else "")


def _about_replicas(config: Config, splits: dict[str, Data]) -> str:
    """A text about replicas, batch size and learning rate."""
    strategy = tf.distribute.get_strategy()
    replicas, settings = strategy.num_replicas_in_sync, config.optimizer
    size, test_size = splits["train"].image_size, splits["test"].image_size
    rate = f"learning rate {settings.rate:g}"
    if settings.rate_for_batch:
        rate += f" ({settings.learning_rate:g} for {settings.rate_for_batch} images per batch)"
    about = f"{config.backbone}, {size}x{size} pixels"
    if test_size != size:
        about += f", tested at {test_size}x{test_size}"
    if replicas == 1:
        return f"{about}\none device; {config.batch_size} images per batch; {rate}"
    workers = strategy.extended._num_workers if distribution.several_workers() else 1
    spread = f"{config.batch_size} images per batch, {config.batch_size // replicas} per replica"
    return f"{about}\n{replicas} replicas on {workers} worker(s); {spread}; {rate}"
