"""Training from a config: data, model, fit, checkpoints and results."""

from sfocus_tf.training.config import Config, resolve
from sfocus_tf.training.interruption import StoppedError, WorkerLostError
from sfocus_tf.training.results import table
from sfocus_tf.training.run import run
from sfocus_tf.training.workdir import WorkdirError

__all__ = [
    "Config",
    "StoppedError",
    "WorkdirError",
    "WorkerLostError",
    "resolve",
    "run",
    "table",
]
