"""Early ends of a run: NaN loss, SIGTERM or Ctrl-C, a lost worker."""

import json
import math
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from sfocus_tf import distribution
from sfocus_tf.losses import TERMS
from sfocus_tf.training import checkpoints

# Exit codes from sysexits.h: EX_TEMPFAIL, run the same command again to resume; EX_UNAVAILABLE, see the other workers.
INTERRUPTED, WORKER_LOST = 75, 69
_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_AGREE_EVERY = 10  # steps between checks whether any worker requested a stop
# Errors of the surviving workers when one is lost; the last three also have other causes.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
_PERHAPS_LOST = (tf.errors.InternalError, tf.errors.UnknownError, tf.errors.OutOfRangeError)
_OF_THE_CLUSTER = ("collective", "connection", "coordination", "socket", "peer")


class StoppedError(Exception):
    """The run was stopped by SIGTERM or Ctrl-C; running the same command again resumes it."""


class WorkerLostError(Exception):
    """Another worker has ended; see its output, unless it was killed."""


class Stop:
    """Handles SIGTERM, which batch systems and clouds send before they take a machine away, and Ctrl-C.

    Attributes:
        requested: what requested a stop, "SIGTERM" or "Ctrl-C"; "" if nothing did.
    """

    requested = ""
    _can_save = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Makes the signals stop the run: at once, or during training after a checkpoint. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._came) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _came(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait any longer
        self.requested = _SIGNALS[signal.Signals(number)]
        if not self._can_save:
            raise StoppedError(f"stopped by {self.requested}")
        if number == signal.SIGINT:
            print("\nsaving after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    @contextmanager
    def after_saving(self) -> Iterator[None]:
        """Makes the signals wait until `SaveAndStop` has saved."""
        self._can_save = True
        try:
            yield
        finally:
            self._can_save = False
        if self.requested:
            raise StoppedError(f"stopped by {self.requested}")


class _InEpoch(keras.callbacks.Callback):
    """Tracks the epoch and step, also in a run that resumed in mid-epoch."""

    def __init__(self, first_step: int):
        super().__init__()
        self.before, self.epoch = first_step, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Records the epoch."""
        self.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Resets the offset: the next epoch starts at step 0."""
        self.before = 0


class SaveAndStop(_InEpoch):
    """Once any worker requests a stop, saves after the step and raises `StoppedError`."""

    def __init__(
        self, stop: Stop, checkpoint: checkpoints.Checkpoint, seconds: Callable[[], float], first_step: int = 0
    ):
        """Sets up the callback.

        Args:
            stop: the stop request to check.
            checkpoint: the callback that saves.
            seconds: returns the seconds of the epoch so far.
            first_step: steps of the first epoch done before a resume.
        """
        super().__init__(first_step)
        self.stop, self.checkpoint, self.seconds = stop, checkpoint, seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops in mid-epoch; after its last step, the epoch is completed first."""
        if batch + 1 == self.params["steps"]:
            return
        requested = bool(self.stop.requested)
        ask = (batch + 1) % _AGREE_EVERY == 0 if distribution.several_workers() else requested
        steps = self.before + batch + 1
        if ask and distribution.any_worker(requested):
            self.checkpoint.save(self.epoch, steps, self.seconds())
            by = self.stop.requested or "another worker"
            raise StoppedError(f"stopped by {by}; saved after step {steps} of epoch {self.epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops between epochs. Must come after the checkpoint callback, which saves the epoch."""
        super().on_epoch_end(epoch, logs)
        if distribution.any_worker(bool(self.stop.requested)):
            raise StoppedError(f"stopped by {self.stop.requested or 'another worker'}; saved after epoch {epoch + 1}")


class StopAtNaN(_InEpoch):
    """Ends a run whose loss becomes NaN or infinite, and records where it began.

    Writes the first step with such a loss to `nan.json`: epoch, step, the losses and terms that are not finite, and the
    images of that step and of the one before (whose gradient may be the cause).
    """

    def __init__(self, folder: pathlib.Path, names: Callable[[int, int], list[str]], first_step: int = 0):
        """Sets up the callback.

        Args:
            folder: the workdir, for `nan.json`.
            names: `Data.place_names` of the training images.
            first_step: steps of the first epoch done before a resume.
        """
        super().__init__(first_step)
        self.folder, self.names = folder, names

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the epoch's running means, which stay NaN or infinite once a step was.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        logs = logs or {}
        if math.isfinite(float(logs.get("loss", 0.0))):
            return
        step = self.before + batch
        shown = ("classification_loss", *TERMS)
        not_finite = [name for name in shown if not math.isfinite(float(logs.get(name, 0.0)))] or ["loss"]
        record: dict[str, Any] = {"epoch": self.epoch + 1, "step": step + 1, "not_finite": not_finite}
        record["images"] = self.names(self.epoch, step)
        record["images_of_the_step_before"] = self.names(self.epoch, step - 1) if step else []
        path = self.folder / "nan.json"
        if distribution.is_chief():
            checkpoints.write_text(path, json.dumps(record, indent=2) + "\n")
        last = self.folder / "last.keras"
        kept = f"{last} is intact" if last.exists() else "nothing was saved before"
        raise FloatingPointError(
            f"{', '.join(not_finite)} became NaN or infinite in step {step + 1} of epoch {self.epoch + 1}; its images "
            f"are listed in {path}; {kept}. A lower config.optimizer.learning_rate or config.optimizer.clip_norm may "
            "help."
        )


@contextmanager
def told_of_lost_workers() -> Iterator[None]:
    """Turns the errors that a lost worker causes in the others into `WorkerLostError`."""
    try:
        yield
    except (*_LOST, *_PERHAPS_LOST) as error:
        text = str(error)
        of_cluster = isinstance(error, _LOST) or any(word in text.lower() for word in _OF_THE_CLUSTER)
        if not distribution.several_workers() or not of_cluster:
            raise
        raise WorkerLostError(f"another worker was lost ({type(error).__name__}).\n{text}") from error
