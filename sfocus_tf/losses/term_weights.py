"""The weights of the terms in training: variables that can be changed at any time, times their schedule."""

from typing import NamedTuple

import keras
import tensorflow as tf

from sfocus_tf.errors import unknown
from sfocus_tf.losses.clock import Clock
from sfocus_tf.losses.schedule import Term
from sfocus_tf.losses.terms import TERMS


class StepKind(NamedTuple):
    """What a training step must compute, given the terms with a nonzero weight.

    Attributes:
        supervised: whether any step has attention terms.
        always: whether all steps have them.
        inner: whether any term needs attention at the inner layer.
    """

    supervised: bool
    always: bool
    inner: bool


class TermWeights:
    """The weights of the terms of a model in training."""

    def __init__(self, variables: dict[str, keras.Variable], terms: dict[str, Term], scale: float, clock: Clock):
        """Combines the variables with the schedule.

        Args:
            variables: scalar weights of the model by term, already multiplied by `scale`.
            terms: the terms, whose schedule applies.
            scale: factor of all weights.
            clock: the clock of the run.
        """
        self.variables, self.terms, self.scale, self.clock = variables, terms, scale, clock

    def change(self, term: str, weight: float) -> None:
        """Changes a weight; raises a `ValueError` for an unknown term or a negative weight."""
        if term not in TERMS:
            raise unknown("term", term, TERMS)
        if not weight >= 0:
            raise ValueError(f"{term}: weight={weight!r}: expected a number of 0 or more.")
        self.variables[term].assign(self.scale * weight)

    def value(self, term: str) -> float:
        """The weight of a term at present, without its schedule."""
        return float(tf.convert_to_tensor(self.variables[term]))

    def scheduled(self) -> bool:
        """Whether any term with a nonzero weight has a warm-up or ramp."""
        return any((term.warmup or term.ramp) and self.value(key) for key, term in self.terms.items())

    def at(self, iterations: tf.Tensor, training: bool) -> tf.Tensor:
        """The weights at a step, `[3]` float32 in the order of `TERMS`.

        Args:
            iterations: the optimizer's iterations, an int64 scalar.
            training: account for skipped steps; evaluation reports the weights without them.
        """
        step, steps = self.clock.now(iterations)
        weights = []
        for key, term in self.terms.items():
            weight = tf.convert_to_tensor(self.variables[key])
            if not term.always_due:
                weight *= term.ramp_at(step, steps)
                if training:
                    weight *= term.boost_at(step, steps)
            weights.append(weight)
        return tf.stack(weights)

    def step_kind(self) -> StepKind:
        """What a training step must compute with the current weights."""
        active = [key for key in TERMS if self.value(key) > 0]
        return StepKind(
            supervised=bool(active),
            always=any(self.terms[key].always_due for key in active),
            inner=active not in ([], ["separation_last"]),
        )
