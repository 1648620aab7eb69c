"""Trains a run: epochs, callbacks, and resuming in mid-epoch."""

import math
import pathlib

import keras

from sfocus_tf import distribution, report
from sfocus_tf.data import Data
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training import checkpoints, interruption, results
from sfocus_tf.training.checkpoints import Position
from sfocus_tf.training.config import Config
from sfocus_tf.training.progress import Progress, Seconds


def fit(
    config: Config,
    model: SharpenFocus,
    splits: dict[str, Data],
    folder: pathlib.Path,
    written: pathlib.Path,
    position: Position,
    stop: interruption.Stop,
) -> float:
    """Trains from a position to the end; called in the scope of the strategy.

    Args:
        config: config of the run.
        model: the compiled model, in its state at `position`.
        splits: "train", and "validation" if there is one.
        folder: the workdir.
        written: folder that this worker writes to: the workdir, or a temporary folder unless it is the chief.
        position: progress of the run so far.
        stop: tells when a signal requested a stop.

    Returns:
        Seconds of training in all epochs, including those before a resume.

    Raises:
        StoppedError: a stop was requested, and the run was saved.
        FloatingPointError: a loss or a weight became NaN or infinite.
        OSError: a file could not be written.
    """
    strategy = model.distribute_strategy
    train, validation = splits["train"], splits.get("validation")
    history = folder / "history.csv"
    if distribution.is_chief():
        checkpoints.cut_history(history, position.epochs)
    checkpoint = _checkpoint(splits, written, checkpoints.read_history(history, position.epochs))
    seconds = Seconds(position.seconds)
    # An interrupted epoch has fewer steps left than the others.
    spans = [(position.epochs, position.epochs + 1, position.steps)] if position.steps else []
    spans.append((position.epochs + len(spans), config.epochs, 0))
    for first, last, done in spans:
        if first == last:
            continue
        model.fit(
            train.replicated(strategy, first, last, done),
            epochs=last,
            initial_epoch=first,
            steps_per_epoch=train.steps - done,
            validation_data=validation.replicated(strategy, 0, None) if validation else None,
            validation_steps=validation.steps if validation else None,
            shuffle=False,  # the data are already shuffled
            verbose=0,
            callbacks=[
                *([checkpoints.RestoreMetrics(folder / "last.keras", train.multi_label)] if done else []),
                interruption.StopAtNaN(folder, train.place_names, done),
                seconds,
                *(_logs(config, validation, written, first > 0) if distribution.is_chief() else []),
                checkpoint,
                interruption.SaveAndStop(stop, checkpoint, seconds.so_far, done),
            ],
        )
    return sum(row["seconds"] for row in checkpoints.read_history(history, config.epochs))


def _checkpoint(splits: dict[str, Data], written: pathlib.Path, rows: list[dict[str, float]]) -> checkpoints.Checkpoint:
    """The checkpoint callback, with the best value in the history."""
    if "validation" not in splits:
        return checkpoints.Checkpoint(written, None)
    monitor = "val_pr_auc" if splits["train"].multi_label else "val_accuracy"
    return checkpoints.Checkpoint(written, monitor, max([row[monitor] for row in rows], default=-math.inf))


def _logs(
    config: Config, validation: Data | None, folder: pathlib.Path, append: bool
) -> list[keras.callbacks.Callback]:
    """The callbacks that show and log progress."""
    return [
        Progress(config.epochs),
        keras.callbacks.CSVLogger(str(folder / "history.csv"), append=append),
        keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False),
        *_attention_images(config, validation, folder),
    ]


def _attention_images(config: Config, validation: Data | None, folder: pathlib.Path) -> list[keras.callbacks.Callback]:
    """The callback that logs attention on validation images, if the config asks for it and there are any."""
    if not config.attention_images_every or validation is None:
        return []
    images, labels = results.examples(validation)
    logs = folder / "tensorboard" / "attention"
    every = config.attention_images_every
    return [report.AttentionImages(logs, images, validation.class_names, labels, every)]
