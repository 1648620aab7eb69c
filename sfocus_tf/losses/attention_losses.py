"""The attention losses, per image.

Pure functions of tensors. Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019,
arXiv 1811.07484.

The paper's two losses are ratios of sums over a map, and training differentiates them twice. For a map with almost no
mass such a ratio is meaningless and its gradient unbounded, so the loss of an image whose target map sums to less than
`floor` is zero, in value and gradient. This bounds both losses: values lie in [0, 1] and [theta - 1, theta], and the
derivative with respect to any position of a map, including through the mask, is at most
(3 + omega * positions / 2) / floor.
"""

import tensorflow as tf

from sfocus_tf.attention import SMALLEST_FLOOR, has_mass


def separation_loss(
    target_map: tf.Tensor, rival_map: tf.Tensor, mask: tf.Tensor, floor: tf.Tensor | float = SMALLEST_FLOOR
) -> tf.Tensor:
    """Overlap of the attention of target and rival inside the target's region, the paper's L_AS.

        L_AS = 2 * sum(min(A(T), A(C)) * Mask) / sum(A(T) + A(C))

    The maps must be raw: in a trial with each map divided by its maximum, training collapsed.

    Args:
        target_map: `A(T)`, `[batch, height, width]`, 0 or more.
        rival_map: `A(C)` at the same layer, of the same shape.
        mask: the target's region at this layer's resolution, in [0, 1], of the same shape.
        floor: the minimum sum of `target_map`, scalar or `[batch]`; see `has_mass`.

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
    """Attention of the rival inside the target's region, weighted by its probability; not from the paper.

        L = min(1, 4 p(C)) * 2 * sum(A(C) * Mask) / sum(A(T) + A(C)), where only the first A(C) is differentiated

    L_AS acts on both maps, and falls as the rival's map grows where it is the higher one. This loss acts only on the
    rival's map, and reduces it everywhere in the region. `SharpenFocus` passes a map that can be differentiated through
    its channel weights alone; see `Objective.separation`.

    Args:
        target_map: `A(T)`, `[batch, height, width]`, 0 or more.
        rival_map: `A(C)` at the same layer, of the same shape.
        mask: the target's region at this layer's resolution, in [0, 1], of the same shape.
        probability: `p(C)` from softmax (multi-label: from sigmoid), `[batch]`.
        floor: the minimum sum of `target_map`, scalar or `[batch]`; see `has_mass`.

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
    """Share of the inner layer's attention outside the last layer's region, the paper's L_AC.

        L_AC = theta - sum(A_inner(T) * Mask) / sum(A_inner(T))

    Args:
        inner_target_map: `A_inner(T)`, `[batch, height, width]`, 0 or more.
        mask: the last layer's region resized to the inner resolution, in [0, 1], of the same shape.
        theta: share of the attention that should lie inside, in [0, 1].
        floor: the minimum sum of the map, scalar or `[batch]`; see `has_mass`.
        has_region: `[batch]` bool, false if the last layer's map has no mass and thus no region; the loss is then zero.

    Returns:
        `[batch]`, in [theta - 1, theta].
    """
    alive = has_mass(inner_target_map, floor) & has_region
    total = tf.reduce_sum(inner_target_map, axis=(1, 2), keepdims=True)
    # Divide first: the mask's slope times a map of 1e30 overflows if the last layer's map is small.
    share = _ratio(inner_target_map, total, alive[:, tf.newaxis, tf.newaxis])
    inside = tf.reduce_sum(share * mask, axis=(1, 2))
    return tf.where(alive, theta - inside, tf.zeros_like(inside))


def _ratio(part: tf.Tensor, whole: tf.Tensor, alive: tf.Tensor) -> tf.Tensor:
    """`part / whole`, or zero with zero gradient if not alive (replaces both operands, so that no NaN arises)."""
    zero, one = tf.zeros_like(whole), tf.ones_like(whole)
    return tf.where(alive, part, zero) / tf.where(alive, whole, one)
