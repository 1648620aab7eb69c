"""train.py with a fault: `python -m tests.faulty_train sigterm|sigint|nan EPOCH BATCH flags...`, counted from 0."""

import os
import signal
import sys
from contextlib import contextmanager

from sfocus_tf.training import command, interruption


@contextmanager
def fault(kind, epoch, batch):
    """This process gets SIGTERM or SIGINT after that batch, or a weight becomes NaN before the next."""
    watched = interruption.SaveAndStop.on_train_batch_end

    def on_train_batch_end(self, number, logs=None):
        if (self.epoch, number) == (epoch, batch):
            if kind == "nan":
                weight = self.model.trainable_variables[0]
                weight.assign(weight * float("nan"))
            else:
                os.kill(os.getpid(), signal.Signals[kind.upper()])
        watched(self, number, logs)

    interruption.SaveAndStop.on_train_batch_end = on_train_batch_end
    try:
        yield
    finally:
        interruption.SaveAndStop.on_train_batch_end = watched


if __name__ == "__main__":
    kind, epoch, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.argv[1:4] = []
    with fault(kind, epoch, batch):
        command.main()
