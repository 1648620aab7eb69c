"""When and how strongly a term of the objective is applied."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Term:
    """The weight of one loss term over the steps of training.

    Attributes:
        weight: its factor in the total loss, not negative; 1.0 in the paper.
        warmup_steps: steps before it is applied at all.
        ramp_steps: steps in which its weight then grows linearly from 0 to `weight`.
        every_steps: k to apply it each k-th step only, with k times the weight (lazy regularisation; Karras et al.,
            CVPR 2020, arXiv 1912.04958, appendix B). No attention is computed in a step in which no term is due.
    """

    weight: float = 1.0
    warmup_steps: int = 0
    ramp_steps: int = 0
    every_steps: int = 1

    def __post_init__(self) -> None:
        for name, least in (("weight", 0), ("warmup_steps", 0), ("ramp_steps", 0), ("every_steps", 1)):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name}={value!r}: expected a number of {least} or more.")

    @property
    def always_due(self) -> bool:
        """Whether it counts in each step, the first one included."""
        return self.warmup_steps == 0 and self.ramp_steps == 0 and self.every_steps == 1

    def ramp(self, step: tf.Tensor) -> tf.Tensor:
        """The share of the weight that counts at `step` (a scalar integer): 0 in warm-up, 1 after the ramp."""
        into = tf.cast(step - self.warmup_steps, tf.float32)
        if self.ramp_steps == 0:
            return tf.cast(into >= 0, tf.float32)
        return tf.clip_by_value(into / self.ramp_steps, 0.0, 1.0)

    def boost(self, step: tf.Tensor) -> tf.Tensor:
        """What makes up for the steps left out: `every_steps` where `step` is one of the k-th, else 0."""
        due = tf.equal((step - self.warmup_steps) % self.every_steps, 0)
        return tf.cast(due, tf.float32) * float(self.every_steps)
