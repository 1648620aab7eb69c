"""Atomic checkpoints, and the history of a run."""

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

from sfocus_tf.saved_models import POSITION

# A member added to the .keras archive, beside `POSITION`, so that a checkpoint is one file.
_METRICS = "metrics.npz"


class Position(NamedTuple):
    """The progress of a run.

    Attributes:
        epochs: complete epochs.
        steps: steps done in the next epoch, if the run stopped in mid-epoch.
        seconds: training time of these steps.
    """

    epochs: int
    steps: int = 0
    seconds: float = 0.0


class Checkpoint(keras.callbacks.Callback):
    """Writes `last.keras` after each epoch, and `best.keras` when the validation metric improves.

    A file is written next to its place and then moved there, so that the last checkpoint stays intact if the process
    dies or the disk is full. A model with NaN is never written. Of several workers, all save, each to its own folder;
    see `sfocus_tf.distribution.folder_to_write`.
    """

    def __init__(self, folder: pathlib.Path, monitor: str | None, best: float = -math.inf):
        """Sets up the callback.

        Args:
            folder: folder for the files.
            monitor: the log that selects the best epoch (higher is better); `None` for no `best.keras`.
            best: its best value so far, in a resumed run.
        """
        super().__init__()
        self.folder, self.monitor, self.best = folder, monitor, best

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves the checkpoint.

        Raises:
            FloatingPointError: a loss or a weight is NaN or infinite; nothing is written.
            OSError: the file could not be written; the message says which checkpoint is left.
        """
        logs = logs or {}
        bad = [name for name in ("loss", "val_loss") if not math.isfinite(logs.get(name, 0.0))]
        value = -math.inf if self.monitor is None else logs[self.monitor]
        self._write(Position(epoch + 1), bad, better=value > self.best)
        self.best = max(self.best, value)

    def save(self, epoch: int, steps: int, seconds: float = 0.0) -> None:
        """Saves in mid-epoch, with the current state of the metrics; raises the same errors as `on_epoch_end`.

        Args:
            epoch: number of the epoch.
            steps: steps of the epoch so far.
            seconds: training time of these steps.
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
                archive.writestr(POSITION, json.dumps(position._asdict()))
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
    """Restores the metrics of an epoch that was stopped midway."""

    def __init__(self, path: pathlib.Path, multi_label: bool):
        """Sets up the callback from a checkpoint that was saved in mid-epoch."""
        super().__init__()
        self.multi_label = multi_label
        with zipfile.ZipFile(path) as archive, np.load(io.BytesIO(archive.read(_METRICS))) as values:
            self.values: list[np.ndarray] | None = [values[name] for name in values.files]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restores the metrics once, after Keras has reset them."""
        if self.values is not None:
            if len(self.values) > len(_metric_variables(self.model)):
                # Without a strategy Keras creates some of them only in the first step.
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
    """The position of the run when a checkpoint was written."""
    with zipfile.ZipFile(path) as archive:
        return Position(**json.loads(archive.read(POSITION)))


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Moves a newly written file over another, after flushing its content to disk."""
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    replace(new, path)


def read_history(path: pathlib.Path, epochs: int) -> list[dict[str, float]]:
    """The rows of the first `epochs` epochs of a CSV log."""
    _, rows = _history(path, epochs)
    # CSVLogger adds columns of NA without validation.
    return [{name: float(value) for name, value in row.items() if value != "NA"} for row in rows]


def cut_history(path: pathlib.Path, epochs: int) -> None:
    """Removes all rows after the first `epochs` epochs from a CSV log, as these epochs run again."""
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
    """Loads weights, optimizer state and random state into a newly built model.

    Not `keras.models.load_model`, which forgets the variables that are excluded from weight decay.
    """
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
