"""Checkpoints that are whole or not there, and a run's history."""

import csv
import math
import os
import pathlib
import shutil

import keras


class Checkpoint(keras.callbacks.Callback):
    """Writes `last.keras` after each epoch, and `best.keras` when the validation measure has improved.

    A file is written beside its place and then moved there, so that whenever the process dies or the disk fills up,
    the checkpoint before it is intact. A model whose loss is not finite is never written.
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
            OSError: the file could not be written; the message says what is left.
        """
        logs = logs or {}
        if not math.isfinite(logs.get("loss", 0.0)):
            return
        last, new = self.folder / "last.keras", self.folder / "new.keras"
        try:
            self.model.save(new)
            if self.monitor is not None and logs[self.monitor] > self.best:
                self.best = logs[self.monitor]
                replace(shutil.copyfile(new, self.folder / "new_best.keras"), self.folder / "best.keras")
            replace(new, last)
        except OSError as error:
            kept = f"{last} of an earlier epoch is intact" if last.exists() else "there is none of an earlier epoch"
            raise OSError(
                error.errno, f"workdir: the checkpoint of epoch {epoch + 1} could not be written ({error}); {kept}."
            ) from error


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
    return [{name: float(value) for name, value in row.items()} for row in rows]
