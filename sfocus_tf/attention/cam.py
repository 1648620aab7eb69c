"""Attention maps of given classes, the soft mask made from one, and which classes to look at.

Pure functions of tensors. Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019,
arXiv 1811.07484, whose maps are those of Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391).

All sums and divisions are in float32 (or float64 where that came in), whatever the precision policy.
"""

from typing import NamedTuple

import tensorflow as tf

from sfocus_tf.errors import unknown

MECHANISMS = ("grad_cam", "grad_cam_positive", "grad_cam_plus_plus", "hires_cam", "layer_cam")

# Those whose evidence is linear in the score: the evidence of a difference of scores is the difference of the evidence.
LINEAR = ("grad_cam", "hires_cam")


class Attention(NamedTuple):
    """The attention of one class at one layer.

    Attributes:
        map: `A = ReLU(E)`, `[batch, height, width]`, not negative and not normalised.
        evidence: `E = sum_k alpha_k * F_k`, of the same shape, below 0 where the features speak against the class.
        capacity: `[batch]`, what the map would sum to if no channel's evidence cancelled another's, ignoring sign:
            `sum over i,j,k of |alpha_k * F_k[i,j]|`. A scale of the picture's own to measure `map` against;
            no gradient flows through it.
    """

    map: tf.Tensor
    evidence: tf.Tensor
    capacity: tf.Tensor


def check_mechanism(mechanism: str) -> str:
    """Returns `mechanism`, or raises a `ValueError` with the nearest of `MECHANISMS`."""
    if mechanism not in MECHANISMS:
        raise unknown("attention", mechanism, MECHANISMS)
    return mechanism


def attention(features: tf.Tensor, gradients: tf.Tensor, mechanism: str = "grad_cam") -> Attention:
    """The attention `A = ReLU(sum_k alpha_k * F_k)` of one class.

    What `alpha` is depends on the mechanism, with `g = dY/dF`:

    - "grad_cam": the mean of `g` over positions (Grad-CAM, equation 1).
    - "grad_cam_positive": the mean of `ReLU(g)`, as the public reproduction of the paper has it.
    - "grad_cam_plus_plus": the sum of `ReLU(g) * g^2 / (2 g^2 + g^3 * sum F)` over positions (Chattopadhay et al.,
      WACV 2018, arXiv 1710.11063, equations 10, 11 and 19), without its factor `exp(Y)`, which scales a whole map.
    - "hires_cam": `g` at each position (HiResCAM, Draelos and Carin 2020, arXiv 2011.08891): what each position adds to
      the score, to first order. The same as "grad_cam" at the last layer of a network that ends in average pooling
      and one dense layer.
    - "layer_cam": `ReLU(g)` at each position (Jiang et al., IEEE TIP 2021, equation 5).

    Args:
        features: `F`, feature maps after their activation, `[batch, height, width, channels]`, any float type.
        gradients: `dY/dF` of one class's score, of the same shape.
        mechanism: one of `MECHANISMS`.

    Returns:
        The map, its evidence and its capacity. Differentiable with respect to both arguments.

    Raises:
        ValueError: unknown mechanism.
    """
    features, gradients = _at_least_float32(features), _at_least_float32(gradients)
    if check_mechanism(mechanism) in ("hires_cam", "layer_cam"):
        evidence = (gradients if mechanism == "hires_cam" else tf.nn.relu(gradients)) * features
        total = tf.reduce_sum(evidence, axis=-1)
        capacity = tf.reduce_sum(tf.abs(evidence), axis=(1, 2, 3))
        return Attention(tf.nn.relu(total), total, tf.stop_gradient(capacity))
    return weighted(features, _channel_weights(features, gradients, mechanism))


def weighted(features: tf.Tensor, alpha: tf.Tensor) -> Attention:
    """The attention map `A = ReLU(sum_k alpha_k * F_k)` of given channel weights.

    Args:
        features: `F`, `[batch, height, width, channels]`, any float type.
        alpha: `[batch, channels]`, float32 or float64.

    Returns:
        The map, its evidence and its capacity. Differentiable with respect to both arguments.
    """
    features = _at_least_float32(features)
    total = tf.einsum("bhwk,bk->bhw", features, alpha)
    capacity = tf.reduce_sum(tf.abs(alpha) * tf.reduce_sum(tf.abs(features), axis=(1, 2)), axis=-1)
    return Attention(tf.nn.relu(total), total, tf.stop_gradient(capacity))


def opposite(attended: Attention) -> Attention:
    """The attention of minus the score, where the mechanism is one of `LINEAR`; of the same shapes."""
    return Attention(tf.nn.relu(-attended.evidence), -attended.evidence, attended.capacity)


def _channel_weights(features: tf.Tensor, gradients: tf.Tensor, mechanism: str) -> tf.Tensor:
    """`alpha`, `[batch, channels]`."""
    if mechanism == "grad_cam":
        return tf.reduce_mean(gradients, axis=(1, 2))
    positive = tf.nn.relu(gradients)
    if mechanism == "grad_cam_positive":
        return tf.reduce_mean(positive, axis=(1, 2))
    # Only positions with g > 0 count, so g^2 cancels: no underflow, and nothing to divide by near zero.
    mass = tf.nn.relu(tf.reduce_sum(features, axis=(1, 2), keepdims=True))
    return tf.reduce_sum(positive / (2.0 + mass * positive), axis=(1, 2))


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
