"""Training on several devices and machines: what Keras 3 lacks for it."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class ReplicatedModel(keras.Model):
    """A Keras model that can be trained by several workers, too.

    Under MultiWorkerMirroredStrategy Keras 3 fails in two places (Keras issue 20585), which are mended here: it builds
    a model from a batch that it cannot reduce to one, and it averages scalar logs along an axis that they lack.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None and several_workers(self.distribute_strategy):
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


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy spans several processes with MultiWorkerMirroredStrategy."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and strategy.extended._in_multi_worker_mode()


def replica_share(pictures: tf.Tensor, dtype: str) -> tf.Tensor | float:
    """How many pictures this replica has over how many they have on average, a scalar.

    Each replica takes means over its own pictures, and gradients are averaged over replicas. Where an incomplete batch
    is dealt unevenly, what goes into the average has to be multiplied with this to give the mean over all pictures.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return 1.0
    here = tf.cast(pictures, dtype)
    everywhere = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)
    return here * replicas / everywhere


def has_collectives(model: keras.Model) -> bool:
    """Whether a call of the model in training communicates between replicas.

    Synchronised BatchNormalization does, under any strategy but the default one.
    """
    synchronised = any(getattr(layer, "synchronized", False) for layer in model._flatten_layers())
    return synchronised and tf.distribute.has_strategy()
