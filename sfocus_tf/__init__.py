"""Image classifiers whose attention tells confusable classes apart: ICASC for TensorFlow and Keras 3."""

from sfocus_tf import data, distribution, evaluation, report
from sfocus_tf.explanation import Explanation
from sfocus_tf.losses import Term
from sfocus_tf.model import SharpenFocus
from sfocus_tf.recipes import recipe

__version__ = "0.1.0"

__all__ = [
    "Explanation",
    "SharpenFocus",
    "Term",
    "__version__",
    "data",
    "distribution",
    "evaluation",
    "recipe",
    "report",
]
