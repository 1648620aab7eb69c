"""Measures of classifiers, on arrays of scores and labels."""

from sfocus_tf.evaluation.classification import accuracy, average_precision, mean_average_precision

__all__ = ["accuracy", "average_precision", "mean_average_precision"]
