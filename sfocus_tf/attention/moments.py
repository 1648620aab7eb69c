"""Makes Keras' normalisations differentiable twice.

`tf.nn.moments`, which Keras' normalisations call, takes the mean as a constant where it computes the variance. The
first derivative is right, as that of the variance with respect to the mean is zero, but the second one is wrong: it
misses the change of the mean. Training attention differentiates the gradient of a score, through every normalisation
behind an attention layer that uses the statistics of its input.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import nn

_ORIGINAL = nn._compute_moments
_in_thread = threading.local()  # replicas take turns, each in its own thread


@contextlib.contextmanager
def differentiable_twice() -> Iterator[None]:
    """Within this context, normalisations of Keras have right second derivatives; values are the same to the bit."""
    nn._compute_moments = _compute_moments  # stays, and does as before outside of this context
    before, _in_thread.exact = getattr(_in_thread, "exact", False), True
    try:
        yield
    finally:
        _in_thread.exact = before


def _compute_moments(x: tf.Tensor, axes: Any, keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """As the function of Keras: the mean and variance of a float32 or float64 tensor over some axes."""
    if not getattr(_in_thread, "exact", False):
        return _ORIGINAL(x, axes, keepdims)
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(_squared_distance(x, mean), axes, keepdims=True)
    if keepdims:
        return mean, variance
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


@tf.custom_gradient
def _squared_distance(x: tf.Tensor, mean: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """`(x - mean)^2` for the mean of `x`, as cheap to differentiate as with a constant mean.

    The derivative with respect to the mean is left out: summed over the positions that the mean is taken over, it is
    zero. The one with respect to `x` depends on the mean, which is the difference to `tf.nn.moments`.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return 2 * upstream * (x - mean), None

    return tf.math.squared_difference(x, mean), gradient
