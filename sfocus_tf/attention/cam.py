"""CAM methods: attention maps from the feature maps of a layer and the gradients of a class's score.

Pure functions of tensors. Training uses Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391), as in "Sharpen Focus:
Learning with Attention Separability and Consistency", ICCV 2019, arXiv 1811.07484.

All sums and divisions are in float32 (float64 for float64 inputs), whatever the precision policy.
"""

from typing import NamedTuple

import tensorflow as tf

from sfocus_tf.errors import unknown


class Attention(NamedTuple):
    """The attention for one class at one layer.

    Attributes:
        map: `A = ReLU(E)`, `[batch, height, width]`, 0 or more, not normalised.
        evidence: `E = sum_k alpha_k * F_k`, of the same shape, negative where the features are evidence against the
            class.
        capacity: `[batch]`, the sum of absolute evidence, `sum over i,j,k of |alpha_k * F_k[i,j]|`. A per-image
            scale to compare `map` with; no gradient flows through it.
    """

    map: tf.Tensor
    evidence: tf.Tensor
    capacity: tf.Tensor


def grad_cam(features: tf.Tensor, gradients: tf.Tensor) -> Attention:
    """`alpha` is the mean of `g` over positions (Grad-CAM, equation 1)."""
    return weighted(features, tf.reduce_mean(gradients, axis=(1, 2)))


def grad_cam_positive(features: tf.Tensor, gradients: tf.Tensor) -> Attention:
    """`alpha` is the mean of `ReLU(g)` over positions, as in the public reproduction of the paper."""
    return weighted(features, tf.reduce_mean(tf.nn.relu(gradients), axis=(1, 2)))


def grad_cam_plus_plus(features: tf.Tensor, gradients: tf.Tensor) -> Attention:
    """`alpha` is the sum of `ReLU(g) * g^2 / (2 g^2 + g^3 * sum F)` over positions.

    Chattopadhay et al., WACV 2018, arXiv 1710.11063, equations 10, 11 and 19, without the factor `exp(Y)`, which only
    scales the map.
    """
    positive = tf.nn.relu(gradients)
    # Only positions with g > 0 count, so cancel g^2, to avoid underflow and division by almost zero.
    mass = tf.nn.relu(tf.reduce_sum(features, axis=(1, 2), keepdims=True))
    return weighted(features, tf.reduce_sum(positive / (2.0 + mass * positive), axis=(1, 2)))


def hires_cam(features: tf.Tensor, gradients: tf.Tensor) -> Attention:
    """`alpha` is `g` at each position: the contribution of each position to the score, to first order.

    HiResCAM, Draelos and Carin 2020, arXiv 2011.08891. Equal to Grad-CAM at the last layer of a network that ends in
    average pooling and one dense layer.
    """
    return _summed(gradients * features)


def layer_cam(features: tf.Tensor, gradients: tf.Tensor) -> Attention:
    """`alpha` is `ReLU(g)` at each position (LayerCAM, Jiang et al., IEEE TIP 2021, equation 5)."""
    return _summed(tf.nn.relu(gradients) * features)


_CAMS = {function.__name__: function for function in (
    grad_cam, grad_cam_positive, grad_cam_plus_plus, hires_cam, layer_cam
)}  # fmt: skip
CAMS = tuple(_CAMS)

# CAMs whose evidence is linear in the score: a difference of scores has the difference of their evidence.
LINEAR = ("grad_cam", "hires_cam")


def check_cam(cam: str) -> str:
    """Returns `cam`; raises a `ValueError` with the nearest of `CAMS` if it is unknown."""
    if cam not in CAMS:
        raise unknown("cam", cam, CAMS)
    return cam


def class_activation(features: tf.Tensor, gradients: tf.Tensor, cam: str = "grad_cam") -> Attention:
    """The attention map `A = ReLU(sum_k alpha_k * F_k)` for one class.

    Args:
        features: `F`, activated feature maps, `[batch, height, width, channels]`, any float type.
        gradients: `g = dY/dF` of one class's score, of the same shape.
        cam: the CAM method, which defines `alpha`; one of `CAMS`, see the functions of these names.

    Returns:
        The map, its evidence and its capacity. Differentiable with respect to both arguments.

    Raises:
        ValueError: an unknown `cam`.
    """
    return _CAMS[check_cam(cam)](_at_least_float32(features), _at_least_float32(gradients))


def weighted(features: tf.Tensor, alpha: tf.Tensor) -> Attention:
    """The attention map `A = ReLU(sum_k alpha_k * F_k)` for given channel weights.

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
    """The attention for the negated score, for a `cam` in `LINEAR`; same shapes."""
    return Attention(tf.nn.relu(-attended.evidence), -attended.evidence, attended.capacity)


def _summed(evidence: tf.Tensor) -> Attention:
    """The attention from `[batch, height, width, channels]` evidence per channel."""
    total = tf.reduce_sum(evidence, axis=-1)
    capacity = tf.reduce_sum(tf.abs(evidence), axis=(1, 2, 3))
    return Attention(tf.nn.relu(total), total, tf.stop_gradient(capacity))


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
