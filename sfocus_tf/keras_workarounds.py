"""Workarounds for Keras 3: metrics with a direction, several workers, seed generators in files, a short bar."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers import compile_utils

from sfocus_tf.distribution import several_workers

_PREFIX = "random_"


class MeansOfLosses(compile_utils.MetricsList):
    """Logged means that are better when lower.

    `EarlyStopping`, `ModelCheckpoint` and `ReduceLROnPlateau` look up the direction of a metric in such lists only, and
    require `mode=` if they find none.
    """

    def __init__(self, names: Sequence[str], dtype: str):
        """Creates a mean for each name.

        Args:
            names: the log names.
            dtype: dtype of the means.
        """
        super().__init__([keras.metrics.Mean(name, dtype) for name in names], name="means_of_losses")
        for metric in self.metrics:
            metric._direction = "down"

    def result(self) -> dict[str, Any]:
        """The means by name."""
        return self.get_result()

    def update(self, name: str, value: Any, weight: Any) -> None:
        """Adds a scalar with a weight; without the twenty operations by which `Mean.update_state` reduces a batch."""
        mean = next(metric for metric in self.metrics if metric.name == name)
        mean.total.assign_add(value * weight)
        mean.count.assign_add(weight)


class ReplicatedModel(keras.Model):
    """A Keras model that several workers can train, and whose training step is traced once.

    Works around three properties of Keras 3. With a strategy it builds a model from the mean of the replicas' first
    batches, which does not exist if they are uneven or on several workers, and with several workers it averages scalar
    logs along an axis that they lack (Keras issue 20585). Without a strategy it creates the variables of metrics and
    optimizer while it traces the first step, so that TensorFlow traces that step twice.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None:
            data_batch = tf.nest.map_structure(_of_one_replica, iterator._distributed_dataset.element_spec)
        if self._distribute_strategy is not None:
            super()._maybe_symbolic_build(data_batch=data_batch)
        elif _is_usual(data_batch) and self.loss is not None:
            self._symbolic_build(data_batch=data_batch)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Any:
        if not several_workers(self.distribute_strategy):
            return super()._make_function(step_function)

        def with_vectors(data: Any) -> Any:
            return tf.nest.map_structure(lambda value: tf.reshape(value, [1]), step_function(data))

        return super()._make_function(with_vectors)


def _of_one_replica(spec: Any) -> tf.TensorSpec:
    """The specification of one replica's part of a distributed tensor."""
    return getattr(spec, "_value_specs", (spec,))[0]


def _is_usual(data_batch: Any) -> bool:
    """Whether a batch has images and labels, and all its shapes are known up to their sizes."""
    if not isinstance(data_batch, tuple) or len(data_batch) < 2 or data_batch[1] is None:
        return False
    parts = [part for part in tf.nest.flatten(data_batch) if part is not None]
    arrays = all(isinstance(part, (tf.TensorSpec, tf.Tensor, np.ndarray)) for part in parts)
    return arrays and all(tf.TensorShape(part.shape).rank is not None for part in parts)


class RandomStateModel(keras.Model):
    """Saves the state of seed generators (as in dropout), which Keras leaves out, so that loaded models continue it."""

    def save_own_variables(self, store: Any) -> None:
        """As `keras.Layer.save_own_variables`, with the state of the seed generators."""
        super().save_own_variables(store)
        for number, state in enumerate(self._random_states()):
            store[f"{_PREFIX}{number}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        own = [key for key in store.keys() if not key.startswith(_PREFIX)]  # noqa: SIM118 (not a dict)
        super().load_own_variables({key: store[key] for key in own})
        for number, state in enumerate(self._random_states()):
            state.assign(store[f"{_PREFIX}{number}"])

    def _random_states(self) -> list[keras.Variable]:
        """The variables of the seed generators, which Keras does not include in any layer's weights."""
        others = [*self.weights, *(variable for metric in self.metrics for variable in metric.variables)]
        known = {id(variable) for variable in others}
        return [variable for variable in self.non_trainable_variables if id(variable) not in known]


class ShortLogsModel(keras.Model):
    """A Keras model that logs more than a line of a terminal holds.

    Keras' progress bar cannot refresh a line that was wrapped: it prints it again with each batch. And scripts unpack
    the list that `evaluate` returns without `return_dict`: it has the loss and the user's metrics alone.
    """

    # Names of logs that the bar shows only after an epoch of training, or not at all.
    _after_epochs: tuple[str, ...] = ()
    _unshown: tuple[str, ...] = ()

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`."""
        bound = self._with_bar(inspect.signature(keras.Model.fit).bind(self, *args, **kwargs))
        return super().fit(*bound.args[1:], **bound.kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`."""
        bound = self._with_bar(inspect.signature(keras.Model.evaluate).bind(self, *args, **kwargs))
        return super().evaluate(*bound.args[1:], **bound.kwargs)

    def _flatten_metrics_in_order(self, logs: Mapping[str, Any]) -> Any:
        return super()._flatten_metrics_in_order(_without({*self._after_epochs, *self._unshown}, logs))

    def _with_bar(self, bound: inspect.BoundArguments) -> inspect.BoundArguments:
        """Adds a bar to the callbacks where Keras would add its own."""
        callbacks = bound.arguments.get("callbacks")
        shown = bound.arguments.get("verbose", "auto") in ("auto", 1)
        if shown and not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.tree.flatten(callbacks or [])
            if not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in callbacks):
                callbacks.append(_ShortBar(self._after_epochs, self._unshown))
            bound.arguments["callbacks"] = callbacks
        return bound


class _ShortBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar without some of the logs; see `ShortLogsModel`."""

    async_safe = True  # as the bar that Keras adds: training does not wait for it

    def __init__(self, after_epochs: Sequence[str], unshown: Sequence[str]):
        super().__init__()
        self._unshown = {*unshown, *(f"val_{name}" for name in (*after_epochs, *unshown))}
        self._unshown_before = self._unshown | set(after_epochs)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Shows what plain Keras logs."""
        super().on_train_batch_end(batch, _without(self._unshown_before, logs))

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Shows what plain Keras logs."""
        super().on_test_batch_end(batch, _without(self._unshown_before, logs))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Shows the whole epoch's logs."""
        super().on_epoch_end(epoch, _without(self._unshown, logs))

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Shows the logs of all batches."""
        super().on_test_end(_without(self._unshown, logs))


def _without(names: set[str], logs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (logs or {}).items() if name not in names}
