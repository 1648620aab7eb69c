"""What Keras 3 lacks for a model with metrics of its own."""

from collections.abc import Sequence
from typing import Any

import keras
from keras.src.trainers import compile_utils


class MeansOfLosses(compile_utils.MetricsList):
    """Means that are logged under names of their own, and of which less is better.

    `EarlyStopping`, `ModelCheckpoint` and `ReduceLROnPlateau` look for the direction of what they monitor in such lists
    only, and ask for `mode=` where they find none.
    """

    def __init__(self, names: Sequence[str], dtype: str):
        """Sets up a mean for each name.

        Args:
            names: as they are logged.
            dtype: of the means.
        """
        super().__init__([keras.metrics.Mean(name, dtype) for name in names], name="means_of_losses")
        for metric in self.metrics:
            metric._direction = "down"

    def result(self) -> dict[str, Any]:
        """The means by name."""
        return self.get_result()

    def update(self, name: str, value: Any, weight: Any) -> None:
        """Adds a value, which counts as much as its weight."""
        next(metric for metric in self.metrics if metric.name == name).update_state(value, sample_weight=weight)
