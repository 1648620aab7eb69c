"""Progress of training: a bar on a terminal, one or two lines per epoch in a file; and the time of epochs."""

import sys
import time
from typing import Any

import keras

from sfocus_tf.losses import TERMS

_HIDDEN = ("dead_", "weak_", "classification_loss", "learning_rate", "seconds", *TERMS)


class Progress(keras.callbacks.Callback):
    """Shows loss, metrics and attention terms; the rest is in the CSV log."""

    def __init__(self, epochs: int):
        """Sets up the callback for a run of `epochs` epochs in total."""
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts a bar."""
        self.bar = None
        self.begin = time.monotonic()
        if sys.stdout.isatty():
            print(f"epoch {epoch + 1}/{self.epochs}")
            self.bar = keras.utils.Progbar(self.params["steps"], stateful_metrics=["loss"])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        if self.bar is not None:
            values = _shown(logs or {})
            self.bar.stateful_metrics = {name for name, _ in values}
            self.bar.update(batch + 1, values, finalize=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the epoch's values, including validation."""
        values = _shown(logs or {})
        if self.bar is not None:
            self.bar.stateful_metrics = {name for name, _ in values}
            self.bar.update(self.params["steps"], values, finalize=True)
            return
        seconds = time.monotonic() - self.begin
        print(_lines(f"epoch {epoch + 1}/{self.epochs}  {seconds:.0f} s", dict(values)), flush=True)


class Seconds(keras.callbacks.Callback):
    """Logs the training time of each epoch, without validation."""

    def __init__(self, before: float = 0.0):
        """Sets up the callback; `before` is the time of the first epoch before a resume, in seconds."""
        super().__init__()
        self.before = before

    def so_far(self) -> float:
        """Seconds of the current epoch."""
        return self.elapsed or self.before + time.monotonic() - self.begin

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the timer."""
        self.begin = time.monotonic()
        self.elapsed = 0.0

    def on_test_begin(self, logs: Any = None) -> None:
        """Stops the timer before validation."""
        self.elapsed = self.so_far()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the seconds."""
        logs["seconds"] = self.so_far()
        self.before = 0.0


def _lines(start: str, values: dict[str, float]) -> str:
    """The values of an epoch, each with that of validation, in lines that fit a terminal of 80 columns."""
    parts = [start]
    for name, value in values.items():
        if name in TERMS or (name.startswith("val_") and name.removeprefix("val_") in values):
            continue
        validated = values.get(f"val_{name}")
        parts.append(f"{name} {value:.4f}" + ("" if validated is None else f" (val {validated:.4f})"))
    lines = ["  ".join(parts)]
    if terms := [f"{name} {value:.4f}" for name, value in values.items() if name in TERMS]:
        lines.append("    " + "  ".join(terms))
    return "\n".join(lines)


def _shown(logs: dict[str, Any]) -> list[tuple[str, float]]:
    values = [(name, float(value)) for name, value in logs.items()]
    # The terms come last, once they are computed.
    main = [(name, value) for name, value in values if not name.removeprefix("val_").startswith(_HIDDEN)]
    return main + [(name, value) for name, value in values if name in TERMS and value]
