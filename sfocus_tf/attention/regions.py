"""Regions of attention maps: a test for mass, and the soft mask of the target."""

import tensorflow as tf

# Maps with less mass are treated as empty, whatever the scale of the network.
SMALLEST_FLOOR = 1e-12


def has_mass(map_: tf.Tensor, floor: tf.Tensor | float = SMALLEST_FLOOR) -> tf.Tensor:
    """Whether a map sums to more than `floor` (scalar or `[batch]`, at least `SMALLEST_FLOOR`); `[batch]` bool.

    Dividing by the sum or maximum of a map without mass is meaningless and has unbounded gradients.
    """
    floor = tf.maximum(tf.cast(floor, map_.dtype), tf.cast(SMALLEST_FLOOR, map_.dtype))
    return tf.reduce_sum(map_, axis=(1, 2)) > floor


def soft_mask(
    target_map: tf.Tensor, sigma: float = 0.55, omega: float = 100.0, floor: tf.Tensor | float = SMALLEST_FLOOR
) -> tf.Tensor:
    """The soft mask of the target object, `Mask = sigmoid(omega * (A / max(A) - sigma))`.

    The paper writes the threshold as `sigma * max(A)`; dividing by the image's own maximum makes `omega` mean the
    same for every image and network.

    Args:
        target_map: `A(T)` of the last layer, `[batch, height, width]`, 0 or more.
        sigma: share of the maximum at which the mask is one half, in [0, 1].
        omega: steepness.
        floor: the minimum sum of a map, scalar or `[batch]`; see `has_mass`.

    Returns:
        `[batch, height, width]` in [0, 1]; `sigmoid(-omega * sigma)`, almost zero, everywhere for a map without mass.
    """
    alive = has_mass(target_map, floor)[:, tf.newaxis, tf.newaxis]
    peak = tf.reduce_max(target_map, axis=(1, 2), keepdims=True)
    share = tf.where(alive, target_map, tf.zeros_like(target_map)) / tf.where(alive, peak, tf.ones_like(peak))
    return tf.sigmoid(omega * (share - sigma))
