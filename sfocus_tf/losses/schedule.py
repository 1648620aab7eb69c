"""The schedule of a term of the objective: its weight at each step."""

import dataclasses
import numbers

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Term:
    """The weight of a loss term over a training run.

    Attributes:
        weight: factor in the total loss, 0 or more; 1.0 in the paper.
        warmup: share of the run before the term starts, in [0, 1].
        ramp: share of the run over which the weight then grows linearly from 0 to `weight`, in [0, 1].
        every_steps: k to apply the term only every k-th step, with k times the weight (lazy regularisation; Karras et
            al., CVPR 2020, arXiv 1912.04958, appendix B). A step without a due term computes no attention.

    Raises:
        ValueError: a value out of range.
    """

    weight: float = 1.0
    warmup: float = 0.0
    ramp: float = 0.0
    every_steps: int = 1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight!r}: expected a number of 0 or more.")
        for name in ("warmup", "ramp"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a share of the run, from 0 to 1.")
        if not isinstance(self.every_steps, numbers.Integral) or self.every_steps < 1:
            raise ValueError(f"every_steps={self.every_steps!r}: expected a whole number of 1 or more.")

    @property
    def always_due(self) -> bool:
        """Whether the term applies in every step, including the first."""
        return self.warmup == 0 and self.ramp == 0 and self.every_steps == 1

    def ramp_at(self, step: tf.Tensor, steps: tf.Tensor | int) -> tf.Tensor:
        """The share of the weight at a step: 0 during warmup, 1 after the ramp.

        Args:
            step: number of the step in the run, an int64 scalar.
            steps: total of the run, an int64 scalar; 0 if unknown, for the full weight.
        """
        elapsed, ramp = tf.cast(step - _share(self.warmup, steps), tf.float32), _share(self.ramp, steps)
        begun = tf.cast(elapsed >= 0, tf.float32)
        if isinstance(ramp, int):
            return tf.clip_by_value(elapsed / ramp, 0.0, 1.0) if ramp else begun
        grown = tf.clip_by_value(tf.math.divide_no_nan(elapsed, tf.cast(ramp, tf.float32)), 0.0, 1.0)
        return tf.where(ramp > 0, grown, begun)

    def boost_at(self, step: tf.Tensor, steps: tf.Tensor | int) -> tf.Tensor:
        """The factor for skipped steps: `every_steps` if the term is due at `step`, else 0."""
        due = tf.equal((step - _share(self.warmup, steps)) % self.every_steps, 0)
        return tf.cast(due, tf.float32) * float(self.every_steps)


def _share(share: float, steps: tf.Tensor | int) -> tf.Tensor | int:
    """A share of the run in whole steps."""
    if isinstance(steps, int):
        return round(share * steps)
    return tf.cast(tf.round(share * tf.cast(steps, tf.float64)), tf.int64)
