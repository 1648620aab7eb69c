"""The clock of a training run: the current step and the total, for the schedule of the terms."""

import inspect
import warnings
from typing import Any

import keras
import tensorflow as tf

_UNKNOWN = 2**30  # steps assumed per epoch until one has been counted; shares then advance by whole epochs
_BY_BATCH = (
    "train_on_batch does not know the length of the run, so the attention terms count fully from the first step, "
    "without their warm-up. Pass the total number of steps to the Objective: sf.objective(steps=...)."
)
_ONE_EPOCH = (
    "The number of batches is not known, so the attention terms count fully from the first step of this epoch, without "
    "their warm-up. Pass steps_per_epoch to fit, or steps to the Objective."
)


class Clock:
    """The current step of a `fit` and its total, in optimizer steps.

    Outside `fit`, as with `train_on_batch`, the total is 0: unknown.
    """

    def __init__(self, steps: int | None):
        """Creates the clock; call it in the strategy's scope.

        Args:
            steps: total of the run if `fit` cannot know it, counted from the optimizer's first step; else `None`.
        """
        self.steps = steps
        # Not a Keras variable, to keep it out of files and `get_weights`.
        self._run = tf.Variable([0, 0], dtype=tf.int64, trainable=False, name="run")

    def now(self, iterations: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | int]:
        """The step of the run and the total, int64 scalars, given the optimizer's iterations."""
        if self.steps is not None:
            return iterations, self.steps
        return iterations - self._run[0], self._run[1]

    def knows_the_total(self) -> bool:
        """Whether the total is known."""
        return self.steps is not None or int(self._run[1]) > 0

    def begin(self, first: int, steps: int) -> None:
        """Starts a run of `steps` steps at the optimizer's iteration `first`."""
        self._run.assign([first, steps])


class _SetClock(keras.callbacks.Callback):
    """Sets the clock from the epochs of `fit` and their steps."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock
        self._counted: int | None = None
        self._epoch_began = 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Sets the clock; if the steps per epoch are unknown, from those counted in the last epoch."""
        optimizer = self.model.optimizer
        self._epoch_began = int(tf.convert_to_tensor(optimizer.iterations))
        batches, epochs = self.params.get("steps"), self.params.get("epochs", epoch + 1)
        # A LossScaleOptimizer has the iterations of the one inside, but not its accumulation.
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        updates = batches and -(-batches // (inner.gradient_accumulation_steps or 1))
        steps = updates or self._counted or _UNKNOWN
        if steps == _UNKNOWN and epochs == 1:  # nothing to learn the length from
            if self.model._term_weights.scheduled():
                warnings.warn(_ONE_EPOCH, stacklevel=2)
            self.clock.begin(0, 0)
            return
        self.clock.begin(self._epoch_began - epoch * steps, epochs * steps)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Counts the epoch's steps."""
        self._counted = int(tf.convert_to_tensor(self.model.optimizer.iterations)) - self._epoch_began


class TimedModel(keras.Model):
    """A model whose `fit` sets the clock of its term weights."""

    _term_weights: Any

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`; warns at its first call if the schedule of the terms cannot be kept."""
        first = self.train_function is None  # not at every step, where reading variables would take time
        if first and self._term_weights.scheduled() and not self._term_weights.clock.knows_the_total():
            warnings.warn(_BY_BATCH, stacklevel=2)
        return super().train_on_batch(*args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`."""
        clock = self._term_weights.clock
        if clock.steps is not None:
            return super().fit(*args, **kwargs)
        bound = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs)
        set_clock, callbacks = _SetClock(clock), bound.arguments.get("callbacks")
        if isinstance(callbacks, keras.callbacks.CallbackList):
            set_clock.set_params(callbacks.params)
            set_clock.set_model(self)
            others = [each for each in callbacks.callbacks if not isinstance(each, _SetClock)]  # of another fit
            callbacks.callbacks[:] = [*others, set_clock]
        else:
            bound.arguments["callbacks"] = [set_clock, *keras.tree.flatten(callbacks or [])]
        return super().fit(*bound.args[1:], **bound.kwargs)
