"""Checks that Keras runs on TensorFlow, before anything imports it."""

import json
import os
import pathlib
import sys


def require_tensorflow() -> None:
    """Raises an `ImportError` if Keras runs, or would run, on a backend other than TensorFlow."""
    name, place = _backend()
    if name != "tensorflow":
        raise ImportError(
            f"sfocus_tf needs Keras on TensorFlow, but {place} selects the backend {name!r}. Set "
            "KERAS_BACKEND=tensorflow in the environment before Keras is first imported."
        )


def _backend() -> tuple[str, str]:
    """The backend, and what selects it. Does not import Keras, which fails if its backend is not installed."""
    chosen = os.environ.get("KERAS_BACKEND")
    place = f"KERAS_BACKEND={chosen}"
    if not chosen:
        folder = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        file = folder / "keras.json"
        place = str(file)
        try:
            chosen = json.loads(file.read_text()).get("backend")
        except (OSError, ValueError, AttributeError):  # no such file, or one that Keras ignores too
            chosen = None
    keras = sys.modules.get("keras")
    if keras and hasattr(keras, "config"):  # already imported: its backend can no longer change
        running = str(keras.config.backend())
        return running, place if running == chosen else "Keras, which was imported before,"
    return chosen or "tensorflow", place
