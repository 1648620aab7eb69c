"""Hides the notes that TensorFlow prints when it starts, which no setting turns off; errors are shown."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# About the processor, and about GPUs that are not there.
_NOTES = re.compile(
    rb"I0000 |WARNING: All log messages before absl|To enable the following instructions|E0000 .*failed call to cuInit"
)


@contextmanager
def without_notes() -> Iterator[None]:
    """Drops TensorFlow's notes from standard error, at the level of the process, and passes on all else."""
    try:
        saved = os.dup(2)
    except OSError:  # closed
        yield
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            for line in file:
                if not _NOTES.match(line):
                    os.write(2, line)


def import_tensorflow() -> None:
    """Imports TensorFlow quietly, unless it is there already."""
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
        with without_notes():
            import tensorflow  # noqa: F401, PLC0415


def find_gpus() -> None:
    """Makes TensorFlow look for GPUs quietly; where there are none it would print an error later."""
    import tensorflow as tf  # noqa: PLC0415

    with without_notes():
        tf.config.list_physical_devices("GPU")
