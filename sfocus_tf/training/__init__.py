"""Training from a config: data, model, fit, checkpoints and results."""

from sfocus_tf.training.config import Config, resolve
from sfocus_tf.training.interruption import INTERRUPTED, WORKER_LOST, StoppedError, WorkerLostError
from sfocus_tf.training.results import table
from sfocus_tf.training.run import run
from sfocus_tf.training.workdir import WorkdirError

__all__ = [
    "INTERRUPTED",
    "WORKER_LOST",
    "Config",
    "StoppedError",
    "WorkdirError",
    "WorkerLostError",
    "resolve",
    "run",
    "table",
]
