"""train.py with a fault: `python -m tests.faulty_train sigterm|nan EPOCH BATCH flags...`, both counted from 0.

The process sends itself SIGTERM after that batch, or a weight becomes NaN before the next.
"""

import os
import signal
import sys

import train
from sfocus_tf.training import interruption


def main(fault, epoch, batch):
    watched = interruption.SaveAndStop.on_train_batch_end

    def on_train_batch_end(self, number, logs=None):
        if (self.epoch, number) == (epoch, batch):
            if fault == "nan":
                weight = self.model.trainable_variables[0]
                weight.assign(weight * float("nan"))
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        watched(self, number, logs)

    interruption.SaveAndStop.on_train_batch_end = on_train_batch_end
    train.cli()


if __name__ == "__main__":
    fault, epoch, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.argv[1:4] = []
    main(fault, epoch, batch)
