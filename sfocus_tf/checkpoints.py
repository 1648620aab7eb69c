"""Checkpoints that are whole or not there, and a run's history."""

import csv
import math
import os
import pathlib
import shutil
import zipfile

import keras
import numpy as np

_EPOCHS = "epochs.txt"  # beside Keras' own members of the archive, so that the file is one with the number


class Checkpoint(keras.callbacks.Callback):
    """Writes `last.keras` after each epoch, and `best.keras` when the validation measure has improved.

    A file is written beside its place and then moved there, so that whenever the process dies or the disk fills up,
    the checkpoint before it is intact. A model that has gone to NaN is never written.
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
        last, new, new_best = (self.folder / name for name in ("last.keras", "new.keras", "new_best.keras"))
        kept = f"{last} of an earlier epoch is intact" if last.exists() else "no earlier epoch was saved"
        self._refuse_not_finite(epoch, logs, kept)
        try:
            self.model.save(new)
            with zipfile.ZipFile(new, "a") as archive:
                archive.writestr(_EPOCHS, str(epoch + 1))
            if self.monitor is not None and logs[self.monitor] > self.best:
                self.best = logs[self.monitor]
                replace(shutil.copyfile(new, new_best), self.folder / "best.keras")
            replace(new, last)
        except OSError as error:
            new.unlink(missing_ok=True)
            new_best.unlink(missing_ok=True)
            message = f"workdir: the checkpoint of epoch {epoch + 1} could not be written ({error}); {kept}."
            raise OSError(error.errno, message) from error

    def _refuse_not_finite(self, epoch: int, logs: dict[str, float], kept: str) -> None:
        bad = [name for name in ("loss", "val_loss") if not math.isfinite(logs.get(name, 0.0))]
        bad += [weight.path for weight in self.model.weights if not np.isfinite(weight.numpy()).all()]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} became NaN or infinite in epoch {epoch + 1}; {kept}. A lower "
                "config.optimizer.learning_rate or config.optimizer.clip_norm may help."
            )


def epochs_done(path: pathlib.Path) -> int:
    """How many epochs the model in a checkpoint has been trained for."""
    with zipfile.ZipFile(path) as archive:
        return int(archive.read(_EPOCHS))


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
    """The rows of the first `epochs` epochs of a CSV log, which is cut to them: the rest will be run again."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if None not in row.values() and int(row["epoch"]) < epochs]
        names = reader.fieldnames or []
    lines = [",".join(names), *(",".join(row[name] for name in names) for row in rows)]
    write_text(path, "\n".join(lines) + "\n" if rows else "")
    # CSVLogger adds columns of NA where there is no validation.
    return [{name: float(value) for name, value in row.items() if value != "NA"} for row in rows]


def load(model: keras.Model, path: pathlib.Path) -> None:
    """Weights, optimizer and random state into a model made anew.

    A model that Keras loads has forgotten which variables have no weight decay.
    """
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
