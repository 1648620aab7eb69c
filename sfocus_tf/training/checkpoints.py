"""Checkpoints that are whole or not there, and a run's history."""

import csv
import io
import json
import math
import os
import pathlib
import shutil
import zipfile
from typing import Any, NamedTuple

import keras
import numpy as np

# Beside Keras' own members of the archive, so that the file is one with them.
_POSITION, _METRICS = "position.json", "metrics.npz"


class Position(NamedTuple):
    """How far a run has come.

    Attributes:
        epochs: epochs that are complete.
        steps: steps of the next one that are done, where the run was stopped in the middle of it.
        seconds: that these steps took.
    """

    epochs: int
    steps: int = 0
    seconds: float = 0.0


class Checkpoint(keras.callbacks.Callback):
    """Writes `last.keras` after each epoch, and `best.keras` when the validation measure has improved.

    A file is written beside its place and then moved there, so that whenever the process dies or the disk fills up,
    the checkpoint before it is intact. A model that has gone to NaN is never written. Under a strategy with several
    workers all of them save, each where it is told to; see `sfocus_tf.distribution.folder_to_write`.
    """

    def __init__(self, folder: pathlib.Path, monitor: str | None, best: float = -math.inf):
        """Sets up the callback.

        Args:
            folder: where the files go.
            monitor: the log that decides which epoch is best (higher is better); `None` to keep no best.
            best: its best value so far, in a run that is resumed.
        """
        super().__init__()
        self.folder, self.monitor, self.best = folder, monitor, best

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves.

        Raises:
            FloatingPointError: a loss or a weight is NaN or infinite; nothing is written.
            OSError: the file could not be written; the message says what is left.
        """
        logs = logs or {}
        bad = [name for name in ("loss", "val_loss") if not math.isfinite(logs.get(name, 0.0))]
        value = -math.inf if self.monitor is None else logs[self.monitor]
        self._write(Position(epoch + 1), bad, better=value > self.best)
        self.best = max(self.best, value)

    def save(self, epoch: int, steps: int, seconds: float = 0.0) -> None:
        """Saves in the middle of an epoch, with the metrics as they stand; raises as `on_epoch_end` does.

        Args:
            epoch: number of the epoch.
            steps: its steps so far.
            seconds: that they took.
        """
        self._write(Position(epoch, steps, seconds), [], better=False)

    def _write(self, position: Position, bad: list[str], better: bool) -> None:
        last, new, new_best = (self.folder / name for name in ("last.keras", "new.keras", "new_best.keras"))
        kept = f"{last}, written before, is intact" if last.exists() else "nothing was saved before"
        bad += [weight.path for weight in self.model.weights if not np.isfinite(weight.numpy()).all()]
        where = f"epoch {position.epochs + (position.steps > 0)}"
        if bad:
            raise FloatingPointError(
                f"{bad[0]} became NaN or infinite in {where}; {kept}. A lower "
                "config.optimizer.learning_rate or config.optimizer.clip_norm may help."
            )
        try:
            self.model.save(new)
            with zipfile.ZipFile(new, "a") as archive:
                archive.writestr(_POSITION, json.dumps(position._asdict()))
                if position.steps:
                    archive.writestr(_METRICS, _packed(_metric_variables(self.model)))
            if better:
                replace(shutil.copyfile(new, new_best), self.folder / "best.keras")
            replace(new, last)
        except OSError as error:
            new.unlink(missing_ok=True)
            new_best.unlink(missing_ok=True)
            message = f"workdir: the checkpoint of {where} could not be written ({error}); {kept}."
            raise OSError(error.errno, message) from error


class RestoreMetrics(keras.callbacks.Callback):
    """Lets the metrics of an epoch go on from where a run stopped in its middle."""

    def __init__(self, path: pathlib.Path, multi_label: bool):
        """Sets up the callback, with a checkpoint that was saved in the middle of an epoch."""
        super().__init__()
        self.multi_label = multi_label
        with zipfile.ZipFile(path) as archive, np.load(io.BytesIO(archive.read(_METRICS))) as values:
            self.values: list[np.ndarray] | None = [values[name] for name in values.files]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restores, once, what Keras has just reset."""
        if self.values is not None:
            if len(self.values) > len(_metric_variables(self.model)):
                # Without a strategy Keras makes some of them in the first step only.
                scores = np.zeros((1, *self.model.classifier.output_shape[1:]), np.float32)
                labels = scores if self.multi_label else np.zeros(1, np.int32)
                self.model.compute_metrics(None, labels, scores)
            for variable, value in zip(_metric_variables(self.model), self.values, strict=True):
                variable.assign(value)
            self.values = None


def _metric_variables(model: keras.Model) -> list[keras.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _packed(variables: list[keras.Variable]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, *(variable.numpy() for variable in variables))
    return buffer.getvalue()


def position(path: pathlib.Path) -> Position:
    """How far the run had come when a checkpoint was written."""
    with zipfile.ZipFile(path) as archive:
        return Position(**json.loads(archive.read(_POSITION)))


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Moves a file that has just been written over another one, once its content is on the disk."""
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    replace(new, path)


def read_history(path: pathlib.Path, epochs: int) -> list[dict[str, float]]:
    """The rows of the first `epochs` epochs of a CSV log."""
    _, rows = _history(path, epochs)
    # CSVLogger adds columns of NA where there is no validation.
    return [{name: float(value) for name, value in row.items() if value != "NA"} for row in rows]


def cut_history(path: pathlib.Path, epochs: int) -> None:
    """Leaves the rows of the first `epochs` epochs in a CSV log: the rest will be run again."""
    names, rows = _history(path, epochs)
    lines = [",".join(names), *(",".join(row[name] for name in names) for row in rows)]
    if names:
        write_text(path, "\n".join(lines) + "\n" if rows else "")


def _history(path: pathlib.Path, epochs: int) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if None not in row.values() and int(row["epoch"]) < epochs]
        return list(reader.fieldnames or []), rows


def load(model: keras.Model, path: pathlib.Path) -> None:
    """Weights, optimizer and random state into a model made anew.

    A model that Keras loads has forgotten which variables have no weight decay.
    """
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
