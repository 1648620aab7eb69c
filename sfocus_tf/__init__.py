"""Image classifiers whose attention tells confusable classes apart: ICASC for TensorFlow and Keras 3."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from sfocus_tf.keras_backend import require_tensorflow
from sfocus_tf.startup import import_tensorflow

require_tensorflow()  # before anything imports Keras
import_tensorflow()

from sfocus_tf import distribution  # noqa: E402
from sfocus_tf.attention import Explanation  # noqa: E402
from sfocus_tf.losses import Objective, Term, objective  # noqa: E402
from sfocus_tf.model import SharpenFocus  # noqa: E402

if TYPE_CHECKING:
    from sfocus_tf import data, evaluation, report

__version__ = "0.2.0"

__all__ = [
    "Explanation",
    "Objective",
    "SharpenFocus",
    "Term",
    "__version__",
    "data",
    "distribution",
    "evaluation",
    "objective",
    "report",
]

# Packages that load TFDS, scikit-learn or Matplotlib.
_ON_FIRST_USE = ("data", "evaluation", "report")


def __getattr__(name: str) -> ModuleType:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"sfocus_tf.{name}")
    raise AttributeError(f"module 'sfocus_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
