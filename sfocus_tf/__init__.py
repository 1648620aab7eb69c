"""Image classifiers whose attention tells confusable classes apart: ICASC for TensorFlow and Keras 3."""

from sfocus_tf.keras_backend import require_tensorflow

require_tensorflow()  # before anything imports Keras

from sfocus_tf import data, distribution, evaluation, report  # noqa: E402
from sfocus_tf.attention import Explanation  # noqa: E402
from sfocus_tf.losses import Objective, Term, objective  # noqa: E402
from sfocus_tf.model import SharpenFocus  # noqa: E402

__version__ = "0.1.0"

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
