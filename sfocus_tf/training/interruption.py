"""What ends a run before its time: numbers that are none, a signal to stop, a worker that is gone."""

import json
import math
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from sfocus_tf import distribution
from sfocus_tf.losses import TERMS
from sfocus_tf.training import checkpoints

# Exit codes, of sysexits.h: EX_TEMPFAIL, nothing is wrong and the same command goes on; EX_UNAVAILABLE, see the others.
INTERRUPTED, WORKER_LOST = 75, 69
_AGREE_EVERY = 10  # steps between two questions to the other workers
# What the surviving workers get to see when one is gone; the last three can mean much else.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
_PERHAPS_LOST = (tf.errors.InternalError, tf.errors.UnknownError, tf.errors.OutOfRangeError)
_OF_THE_CLUSTER = ("collective", "connection", "coordination", "socket", "peer")


class StoppedError(Exception):
    """A run that was stopped from outside, and goes on when the same command is given again."""


class WorkerLostError(Exception):
    """Another worker has ended; its own output says why, unless it was killed."""


class Stop:
    """SIGTERM, as a batch system or cloud sends it before it takes a machine away.

    Attributes:
        requested: whether it came.
    """

    requested = False
    _can_save = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """While in it, SIGTERM stops the run: at once, or in training after a checkpoint. In the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._came)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _came(self, number: int, frame: Any) -> None:
        self.requested = True
        if not self._can_save:
            raise StoppedError("stopped by SIGTERM")

    @contextmanager
    def after_saving(self) -> Iterator[None]:
        """While in it, SIGTERM waits until `SaveAndStop` has seen it."""
        self._can_save = True
        try:
            yield
        finally:
            self._can_save = False
        if self.requested:
            raise StoppedError("stopped by SIGTERM")


class _InEpoch(keras.callbacks.Callback):
    """Knows which step of which epoch it is, in a run that may have begun in the middle of one."""

    def __init__(self, first_step: int):
        super().__init__()
        self.before, self.epoch = first_step, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch."""
        self.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The next epoch begins at its first step."""
        self.before = 0


class SaveAndStop(_InEpoch):
    """Once a stop is requested, of any worker, saves after the step and raises `StoppedError`."""

    def __init__(
        self, stop: Stop, checkpoint: checkpoints.Checkpoint, seconds: Callable[[], float], first_step: int = 0
    ):
        """Sets up the callback.

        Args:
            stop: what is asked.
            checkpoint: what saves.
            seconds: how long the epoch has taken so far.
            first_step: steps of the first epoch that an earlier run has done.
        """
        super().__init__(first_step)
        self.stop, self.checkpoint, self.seconds = stop, checkpoint, seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops in mid-epoch; after its last step the epoch is brought to its end."""
        if batch + 1 == self.params["steps"]:
            return
        strategy = self.model.distribute_strategy
        ask = (batch + 1) % _AGREE_EVERY == 0 if distribution.several_workers(strategy) else self.stop.requested
        steps = self.before + batch + 1
        if ask and distribution.any_worker(strategy, self.stop.requested):
            self.checkpoint.save(self.epoch, steps, self.seconds())
            raise StoppedError(f"stopped by SIGTERM; saved after step {steps} of epoch {self.epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops between epochs; the epoch is saved. Has to come after the checkpoint's callback."""
        super().on_epoch_end(epoch, logs)
        if distribution.any_worker(self.model.distribute_strategy, self.stop.requested):
            raise StoppedError(f"stopped by SIGTERM; saved after epoch {epoch + 1}")


class StopAtNaN(_InEpoch):
    """Ends a run whose loss is no number, and says where it began.

    The first step whose loss is NaN or infinite is written to `nan.json`: epoch, step, which losses and terms are no
    number, and the images of that step and of the one before (whose gradient may have caused it).
    """

    def __init__(self, folder: pathlib.Path, names: Callable[[int, int], list[str]], first_step: int = 0):
        """Sets up the callback.

        Args:
            folder: the workdir, where the file goes.
            names: `Data.place_names` of the training images.
            first_step: steps of the first epoch that an earlier run has done.
        """
        super().__init__(first_step)
        self.folder, self.names = folder, names

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the epoch's running means, which stay no numbers once a step's value was none.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        logs = logs or {}
        if math.isfinite(float(logs.get("loss", 0.0))):
            return
        step = self.before + batch
        shown = ("classification_loss", *TERMS)
        found = [name for name in shown if not math.isfinite(float(logs.get(name, 0.0)))] or ["loss"]
        record: dict[str, Any] = {"epoch": self.epoch + 1, "step": step + 1, "not_finite": found}
        record["images"] = self.names(self.epoch, step)
        record["images_of_the_step_before"] = self.names(self.epoch, step - 1) if step else []
        path = self.folder / "nan.json"
        if distribution.is_chief(self.model.distribute_strategy):
            checkpoints.write_text(path, json.dumps(record, indent=2) + "\n")
        last = self.folder / "last.keras"
        kept = f"{last} is intact" if last.exists() else "nothing was saved before"
        raise FloatingPointError(
            f"{', '.join(found)} became NaN or infinite in step {step + 1} of epoch {self.epoch + 1}; its images are "
            f"named in {path}; {kept}. A lower config.optimizer.learning_rate or config.optimizer.clip_norm may help."
        )


@contextmanager
def told_of_lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """While in it, the errors that a lost worker causes in the others are raised as `WorkerLostError`."""
    try:
        yield
    except (*_LOST, *_PERHAPS_LOST) as error:
        text = str(error)
        of_cluster = isinstance(error, _LOST) or any(word in text.lower() for word in _OF_THE_CLUSTER)
        if not distribution.several_workers(strategy) or not of_cluster:
            raise
        raise WorkerLostError(f"another worker is gone ({type(error).__name__}).\n{text}") from error
