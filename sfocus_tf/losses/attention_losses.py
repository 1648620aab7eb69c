"""The attention losses, image by image.

Pure functions of tensors. Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019,
arXiv 1811.07484.

The paper's two losses are ratios of sums over a map, and are differentiated twice in training. Where a map has (nearly)
no mass such a ratio means nothing and its gradient has no bound, so an image whose target map sums to less than
`floor` counts as zero, in value and gradient. Both are then bounded by their definition: values lie in [0, 1] and
[theta - 1, theta], and the derivative with respect to any position of a map, the mask's part in it included, is at
most (3 + omega * positions / 2) / floor.
"""

import tensorflow as tf

from sfocus_tf.attention import SMALLEST_FLOOR, has_mass


def separation_loss(
    target_map: tf.Tensor, rival_map: tf.Tensor, mask: tf.Tensor, floor: tf.Tensor | float = SMALLEST_FLOOR
) -> tf.Tensor:
    """How much the attention of target and rival overlap inside the target's region, the paper's L_AS.

        L_AS = 2 * sum(min(A(T), A(C)) * Mask) / sum(A(T) + A(C))

    The maps must be raw: with each divided by its own maximum, training collapsed when it was tried.

    Args:
        target_map: `A(T)`, `[batch, height, width]`, not negative.
        rival_map: `A(C)` at the same layer, of the same shape.
        mask: the target's region at this layer's resolution, in [0, 1], of the same shape.
        floor: the least sum of `target_map` that counts, scalar or `[batch]`; see `has_mass`.

    Returns:
        `[batch]`, in [0, 1].
    """
    alive = has_mass(target_map, floor)
    overlap = tf.reduce_sum(tf.minimum(target_map, rival_map) * mask, axis=(1, 2))
    total = tf.reduce_sum(target_map + rival_map, axis=(1, 2))
    return 2.0 * _ratio(overlap, total, alive)


def rival_loss(
    target_map: tf.Tensor,
    rival_map: tf.Tensor,
    mask: tf.Tensor,
    probability: tf.Tensor,
    floor: tf.Tensor | float = SMALLEST_FLOOR,
) -> tf.Tensor:
    """The rival's attention inside the target's region, if the two are confused; another form of separation.

        L = min(1, 4 p(C)) * 2 * sum(A(C) * Mask) / sum(A(T) + A(C)), where all but the first A(C) are constants

    Not the paper's. L_AS pulls at both maps, and where the rival's is the higher one it falls as that grows; here the
    rival gives way everywhere in the region, and nothing else is pulled at directly.

    Args:
        target_map: `A(T)`, `[batch, height, width]`, not negative.
        rival_map: `A(C)` at the same layer, of the same shape.
        mask: the target's region at this layer's resolution, in [0, 1], of the same shape.
        probability: `p(C)` by softmax (for several labels, by sigmoid), `[batch]`.
        floor: the least sum of `target_map` that counts, scalar or `[batch]`; see `has_mass`.

    Returns:
        `[batch]`, in [0, 2].
    """
    alive = has_mass(tf.stop_gradient(target_map), floor)
    within = tf.reduce_sum(rival_map * tf.stop_gradient(mask), axis=(1, 2))
    total = tf.stop_gradient(tf.reduce_sum(target_map + rival_map, axis=(1, 2)))
    return tf.minimum(8.0 * tf.stop_gradient(probability), 2.0) * _ratio(within, total, alive)


def consistency_loss(
    inner_target_map: tf.Tensor,
    mask: tf.Tensor,
    theta: float = 0.8,
    floor: tf.Tensor | float = SMALLEST_FLOOR,
    has_region: tf.Tensor | bool = True,
) -> tf.Tensor:
    """How much of the inner layer's attention lies outside the region that the last layer found, the paper's L_AC.

        L_AC = theta - sum(A_inner(T) * Mask) / sum(A_inner(T))

    Args:
        inner_target_map: `A_inner(T)`, `[batch, height, width]`, not negative.
        mask: the last layer's region, resized to the inner resolution, in [0, 1], of the same shape.
        theta: share of the attention that should lie inside, in [0, 1].
        floor: the least sum of the map that counts, scalar or `[batch]`; see `has_mass`.
        has_region: `[batch]` bool, false where the last layer's map has no mass and the mask means nothing: there is no
            region to be consistent with, and the image counts as zero.

    Returns:
        `[batch]`, in [theta - 1, theta].
    """
    alive = has_mass(inner_target_map, floor) & has_region
    total = tf.reduce_sum(inner_target_map, axis=(1, 2), keepdims=True)
    # Divided first: the mask's slope, times a map of 1e30, overflows where the last layer's map is small.
    share = _ratio(inner_target_map, total, alive[:, tf.newaxis, tf.newaxis])
    inside = tf.reduce_sum(share * mask, axis=(1, 2))
    return tf.where(alive, theta - inside, tf.zeros_like(inside))


def _ratio(part: tf.Tensor, whole: tf.Tensor, alive: tf.Tensor) -> tf.Tensor:
    """`part / whole`, and zero with zero gradient where not alive (both are replaced, so that no NaN can arise)."""
    zero, one = tf.zeros_like(whole), tf.ones_like(whole)
    return tf.where(alive, part, zero) / tf.where(alive, whole, one)
