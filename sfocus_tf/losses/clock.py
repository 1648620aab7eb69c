"""How far a run of training is: the steps that the times of the terms are shares of."""

import inspect
from typing import Any

import keras
import tensorflow as tf

_UNKNOWN = 2**30  # steps an epoch is taken to have until one has been counted: then shares go by whole epochs


class Clock:
    """The step of the present `fit`, and how many it will have, in the optimizer's count.

    Without a `fit`, as with `train_on_batch`, the number of steps is 0: not known.
    """

    def __init__(self, steps: int | None):
        """Sets up the clock; to be called in the strategy's scope.

        Args:
            steps: of the whole run where `fit` cannot know them; then they are counted from the optimizer's first.
        """
        self.steps = steps
        # No Keras variable, so that files and `get_weights` do not hold it.
        self._run = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="run")

    def now(self, iterations: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | int]:
        """The step of the run, and the steps it has, for the optimizer's iterations; int64 scalars."""
        if self.steps is not None:
            return iterations, self.steps
        return iterations - self._run[0], self._run[1]

    def begin(self, first: int, steps: int) -> None:
        """A run of so many steps began at the optimizer's iteration `first`."""
        self._run.assign([first, steps])


class _SetClock(keras.callbacks.Callback):
    """Sets the clock from what `fit` knows: its epochs, and their steps."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock
        self._counted: int | None = None
        self._epoch_began = 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Sets the clock; once an epoch of unknown length has been counted, by its length."""
        optimizer = self.model.optimizer
        self._epoch_began = int(tf.convert_to_tensor(optimizer.iterations))
        batches = self.params["steps"]
        updates = batches and -(-batches // (optimizer.gradient_accumulation_steps or 1))
        steps = updates or self._counted or _UNKNOWN
        self.clock.begin(self._epoch_began - epoch * steps, self.params["epochs"] * steps)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Counts the epoch's steps."""
        self._counted = int(tf.convert_to_tensor(self.model.optimizer.iterations)) - self._epoch_began


class TimedModel(keras.Model):
    """A model whose `fit` sets its clock."""

    _clock: Clock

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`."""
        if self._clock.steps is not None:
            return super().fit(*args, **kwargs)
        bound = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs)
        set_clock, callbacks = _SetClock(self._clock), bound.arguments.get("callbacks")
        if isinstance(callbacks, keras.callbacks.CallbackList):
            set_clock.set_params(callbacks.params)
            set_clock.set_model(self)
            callbacks.callbacks.append(set_clock)
        else:
            bound.arguments["callbacks"] = [set_clock, *keras.tree.flatten(callbacks or [])]
        return super().fit(*bound.args[1:], **bound.kwargs)
