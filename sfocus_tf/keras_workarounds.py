"""What Keras 3 lacks for a model with metrics of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers import compile_utils

from sfocus_tf.distribution import several_workers

_PREFIX = "random_"


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


class ReplicatedModel(keras.Model):
    """A Keras model that can be trained by several workers, too.

    Keras 3 fails in two places, which are mended here (Keras issue 20585): it builds a model from the mean of the
    replicas' first batches, which there is not where they are uneven or on several workers; and with several workers it
    averages scalar logs along an axis that they lack.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None and self.distribute_strategy.num_replicas_in_sync > 1:
            spec = iterator._distributed_dataset.element_spec
            data_batch = tf.nest.map_structure(_of_one_replica, spec)
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Any:
        if not several_workers(self.distribute_strategy):
            return super()._make_function(step_function)

        def with_vectors(data: Any) -> Any:
            return tf.nest.map_structure(lambda value: tf.reshape(value, [1]), step_function(data))

        return super()._make_function(with_vectors)


def _of_one_replica(spec: Any) -> tf.TensorSpec:
    """The specification of one replica's part of a distributed tensor."""
    return getattr(spec, "_value_specs", (spec,))[0]


class RandomStateModel(keras.Model):
    """A model whose files keep the state of its random numbers (dropout's): a loaded one draws what would have come."""

    def save_own_variables(self, store: Any) -> None:
        """As every Keras layer's, with the state of the random numbers."""
        super().save_own_variables(store)
        for number, state in enumerate(self._random_states()):
            store[f"{_PREFIX}{number}"] = state

    def load_own_variables(self, store: Any) -> None:
        """The counterpart of `save_own_variables`."""
        own = [key for key in store.keys() if not key.startswith(_PREFIX)]  # noqa: SIM118 (not a dict)
        super().load_own_variables({key: store[key] for key in own})
        for number, state in enumerate(self._random_states()):
            state.assign(store[f"{_PREFIX}{number}"])

    def _random_states(self) -> list[keras.Variable]:
        """The variables of the seed generators inside, which Keras counts among no layer's weights."""
        others = [*self.weights, *(variable for metric in self.metrics for variable in metric.variables)]
        known = {id(variable) for variable in others}
        return [variable for variable in self.non_trainable_variables if id(variable) not in known]
