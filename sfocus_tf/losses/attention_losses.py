"""The attention losses, picture by picture, and when and how strongly each is applied.

Pure functions of tensors. Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019,
arXiv 1811.07484.

The paper's two losses are ratios of sums over a map, and are differentiated twice in training. Where a map has (nearly)
no mass such a ratio means nothing and its gradient has no bound, so a picture whose target map sums to less than
`floor` counts as zero, in value and gradient. Both are then bounded by their definition: values lie in [0, 1] and
[theta - 1, theta], and the derivative with respect to any position of a map, the mask's part in it included, is at
most (3 + omega * positions / 2) / floor. `margin_loss`, which is not the paper's, needs no floor.
"""

import tensorflow as tf

from sfocus_tf.attention import SMALLEST_FLOOR, has_mass

SEPARATIONS = ("difference", "margin", "outside", "overlap", "rival")


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
    part: tf.Tensor,
    probability: tf.Tensor,
    floor: tf.Tensor | float = SMALLEST_FLOOR,
) -> tf.Tensor:
    """The rival's attention in one part of the picture, if it is confused; two other forms of separation.

        L = min(1, 4 p(C)) * 2 * sum(A(C) * Part) / sum(A(T) + A(C)), where all but the first A(C) are constants

    Not the paper's. L_AS pulls at both maps, and where the rival's is the higher one it grows smaller as that grows;
    this has the rival give way everywhere in the part, and nothing else pulled at directly. The part is the target's
    region (`separation="rival"`), or what lies outside of it ("outside"): a rival that finds its evidence beside the
    object is confused by the context, and pictures of its own class teach it to look there.

    Args:
        target_map: `A(T)`, `[batch, height, width]`, not negative.
        rival_map: `A(C)` at the same layer, of the same shape.
        part: how far each position belongs to it, in [0, 1], of the same shape.
        probability: `p(C)` by softmax (of several labels, by sigmoid), `[batch]`.
        floor: the least sum of `target_map` that counts, scalar or `[batch]`; see `has_mass`.

    Returns:
        `[batch]`, in [0, 2].
    """
    alive = has_mass(tf.stop_gradient(target_map), floor)
    within = tf.reduce_sum(rival_map * tf.stop_gradient(part), axis=(1, 2))
    total = tf.stop_gradient(tf.reduce_sum(target_map + rival_map, axis=(1, 2)))
    return tf.minimum(8.0 * tf.stop_gradient(probability), 2.0) * _ratio(within, total, alive)


def margin_loss(target_evidence: tf.Tensor, rival_evidence: tf.Tensor, region: tf.Tensor) -> tf.Tensor:
    """How clearly the target outdoes the rival at each position of the target's region; another form of separation.

        L = sum(Region * softplus(n * (E(C) - E(T)))) / sum(Region),   n = number of positions

    Not the paper's. L_AS can be lowered by shrinking the rival's map or by shrinking both, and says nothing where
    either of them is zero; this asks at every place that the features there tell the two classes apart. Where a network
    ends in pooling and one dense layer, the mean of `n * E(c)` over a picture is the score of `c` but for the layer's
    bias, so that it is the cross-entropy of target against rival for each position instead of for their mean. Its
    derivative with respect to `n * E` is bounded by 1.

    Args:
        target_evidence: `E(T)`, `[batch, height, width]`; see `sfocus_tf.attention.Attention`.
        rival_evidence: `E(C)` at the same layer, of the same shape.
        region: how far each position belongs to the target, in [0, 1], of the same shape.

    Returns:
        `[batch]`, 0 or more; 0 where the region is empty.
    """
    positions = tf.cast(tf.reduce_prod(tf.shape(region)[1:]), region.dtype)
    loss = tf.nn.softplus(positions * (rival_evidence - target_evidence))
    return tf.math.divide_no_nan(tf.reduce_sum(region * loss, axis=(1, 2)), tf.reduce_sum(region, axis=(1, 2)))


def difference_loss(
    target_evidence: tf.Tensor, rival_evidence: tf.Tensor, floor: tf.Tensor | float = SMALLEST_FLOOR
) -> tf.Tensor:
    """How much of what the picture's positions say about target and rival speaks for the rival; a form of separation.

        L = sum(ReLU(-D)) / sum(|D|),   D = E(T) - E(C)

    Not the paper's. `D` is the evidence of the score difference `Y_T - Y_C`: above 0 a position speaks for the target,
    below 0 for the rival, so that the two cannot share one, but compete for the picture. The share has no scale, and
    cannot be lowered by shrinking a map; what is added to all scores drops out of `D`, so not by what changes no answer
    either. Where cross-entropy is content with a sum over the picture that is right, this goes on until each position
    is. Its derivative with respect to any position of `E` is at most 1 / floor.

    Args:
        target_evidence: `E(T)`, `[batch, height, width]`; see `sfocus_tf.attention.Attention`.
        rival_evidence: `E(C)` at the same layer, of the same shape.
        floor: the least `sum(|D|)` that counts, scalar or `[batch]`; see `has_mass`.

    Returns:
        `[batch]`, in [0, 1]; 1/2 where both have as much of the picture.
    """
    difference = target_evidence - rival_evidence
    size = tf.abs(difference)
    return _ratio(
        tf.reduce_sum(tf.nn.relu(-difference), axis=(1, 2)), tf.reduce_sum(size, axis=(1, 2)), has_mass(size, floor)
    )


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
            region to be consistent with, and the picture counts as zero.

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
