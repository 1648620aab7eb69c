"""The attention terms of a batch: the losses of its images, and what is logged beside them."""

from typing import Any, NamedTuple

import tensorflow as tf

from sfocus_tf.attention import AttentionPair, Extracted, has_mass, resize_map, soft_mask
from sfocus_tf.losses.attention_losses import consistency_loss, rival_loss, separation_loss
from sfocus_tf.losses.objective import Objective

TERMS = ("separation_inner", "separation_last", "consistency")
# Logged beside the terms: shares of the images, in the order of `image_terms`.
SHARES = ("dead_target_inner", "dead_rival_inner", "dead_target_last", "dead_rival_last", "weak_inner", "weak_last")


class BatchTerms(NamedTuple):
    """Means of a batch, all scalars.

    Attributes:
        terms: each term's mean over the images, in the order of `TERMS`.
        shares: of the images that have target and rival, in the order of `SHARES`.
        valid: share of the images that have target and rival.
    """

    terms: tuple[tf.Tensor, ...]
    shares: tuple[tf.Tensor, ...]
    valid: tf.Tensor


def no_terms(dtype: str) -> BatchTerms:
    """The means of a batch whose attention was not computed."""
    zero = tf.zeros((), dtype)
    return BatchTerms((zero,) * len(TERMS), (zero,) * len(SHARES), zero)


def batch_terms(objective: Objective, extracted: Extracted, sample_weight: Any, multi_label: bool) -> BatchTerms:
    """The terms of a batch.

    Args:
        objective: how they are made.
        extracted: scores, classes and attention; images without both classes count as zero.
        sample_weight: as in `keras.Model.fit`, or `None`.
        multi_label: several classes an image.

    Returns:
        Their means. As in Keras' losses, the sum of weighted values over the number of images (0 for a replica that
        got none).
    """
    dtype = extracted.last.target.map.dtype
    scores = tf.cast(extracted.scores, dtype)
    probabilities = tf.sigmoid(scores) if multi_label else tf.nn.softmax(scores)
    probability = tf.gather(probabilities, extracted.classes.rival, batch_dims=1)
    terms, shares = image_terms(objective, extracted.inner, extracted.last, probability)
    valid = tf.cast(extracted.classes.valid, dtype)
    weight = valid
    if sample_weight is not None:
        sample_weight = tf.cast(sample_weight, dtype)
        weight *= tf.reduce_mean(tf.reshape(sample_weight, [tf.shape(valid)[0], -1]), axis=-1)
    means = tuple(_mean(term * weight) for term in terms)
    share = _mean(valid)
    return BatchTerms(
        means, tuple(tf.math.divide_no_nan(_mean(tf.cast(each, dtype) * valid), share) for each in shares), share
    )


def image_terms(
    objective: Objective, inner: AttentionPair, last: AttentionPair, probability: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The terms of each image.

    Args:
        objective: how they are made.
        inner: attention at the inner layer; without positions where it was left out, and what needs it is 0 or false.
        last: attention at the last layer.
        probability: `p(C)`, of the rival, `[batch]`.

    Returns:
        A list of `[batch]` floats in the order of `TERMS`, and one of `[batch]` bools in that of `SHARES`.
    """
    floor_inner = objective.minimum_mass * inner.target.capacity
    floor_last = objective.minimum_mass * last.target.capacity
    inner_alive = has_mass(inner.target.map, floor_inner)
    last_alive = has_mass(last.target.map, floor_last)
    mask = soft_mask(last.target.map, objective.sigma, objective.omega, floor_last)
    inner_mask = resize_map(mask, tf.shape(inner.target.map)[1:])

    def separation(pair: AttentionPair, mask: tf.Tensor, floor: tf.Tensor) -> tf.Tensor:
        if objective.separation == "overlap":
            return separation_loss(pair.target.map, pair.rival.map, mask, floor)
        return rival_loss(pair.target.map, pair.rival.map, mask, probability, floor)

    terms = [
        separation(inner, inner_mask, floor_inner),
        separation(last, mask, floor_last),
        consistency_loss(inner.target.map, inner_mask, objective.theta, floor_inner, last_alive),
    ]
    has_inner = tf.size(inner.target.map) > 0
    dead = [tf.reduce_all(each.map <= 0, axis=(1, 2)) for each in (*inner, *last)]
    shares = [*(each & has_inner for each in dead[:2]), *dead[2:], ~inner_alive & has_inner, ~last_alive]
    return terms, shares


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean of a vector; 0 of an empty one."""
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
