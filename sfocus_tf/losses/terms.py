"""The attention terms of a batch: batch means of the losses and of the logged shares."""

from typing import Any, NamedTuple

import tensorflow as tf

from sfocus_tf.attention import AttentionPair, Extracted, has_mass, resize_map, soft_mask, spatial_size
from sfocus_tf.losses.attention_losses import consistency_loss, rival_loss, separation_loss
from sfocus_tf.losses.objective import Objective

TERMS = ("separation_inner", "separation_last", "consistency")
# Logged shares of the images, in the order of `image_terms`.
SHARES = ("dead_target_inner", "dead_rival_inner", "dead_target_last", "dead_rival_last", "weak_inner", "weak_last")


class BatchTerms(NamedTuple):
    """Batch means of the terms and of the logged shares, all scalars.

    Attributes:
        terms: each term's mean over the images, in the order of `TERMS`.
        shares: shares of the images with target and rival, in the order of `SHARES`.
        valid: share of images with target and rival.
    """

    terms: tuple[tf.Tensor, ...]
    shares: tuple[tf.Tensor, ...]
    valid: tf.Tensor


def no_terms(dtype: str) -> BatchTerms:
    """The batch means without attention: zeros."""
    zero = tf.zeros((), dtype)
    return BatchTerms((zero,) * len(TERMS), (zero,) * len(SHARES), zero)


def batch_terms(objective: Objective, extracted: Extracted, sample_weight: Any, multi_label: bool) -> BatchTerms:
    """Computes the terms of a batch.

    Args:
        objective: the training objective.
        extracted: scores, classes and attention; images without both classes count as zero.
        sample_weight: as in `keras.Model.fit`, or `None`.
        multi_label: whether images may have several classes.

    Returns:
        The batch means. As in Keras' losses, the sum of weighted values over the number of images (0 for a replica
        without images).
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
        means, tuple(tf.math.divide_no_nan(_mean(tf.cast(flag, dtype) * valid), share) for flag in shares), share
    )


def image_terms(
    objective: Objective, inner: AttentionPair, last: AttentionPair, probability: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Computes the terms of each image.

    Args:
        objective: the training objective.
        inner: attention at the inner layer; if it was left out, what depends on it is 0 or false.
        last: attention at the last layer.
        probability: `p(C)` of the rival, `[batch]`.

    Returns:
        A list of `[batch]` floats in the order of `TERMS`, and one of `[batch]` bools in the order of `SHARES`.
    """
    floor_inner = objective.minimum_mass * inner.target.capacity
    floor_last = objective.minimum_mass * last.target.capacity
    inner_alive = has_mass(inner.target.map, floor_inner)
    last_alive = has_mass(last.target.map, floor_last)
    mask = soft_mask(last.target.map, objective.sigma, objective.omega, floor_last)
    mask = mask if objective.mask_gradient else tf.stop_gradient(mask)
    inner_mask = resize_map(mask, spatial_size(inner.target.map))

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
    dead = [tf.reduce_all(attended.map <= 0, axis=(1, 2)) for attended in (*inner, *last)]
    shares = [*(flag & has_inner for flag in dead[:2]), *dead[2:], ~inner_alive & has_inner, ~last_alive]
    return terms, shares


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean of a vector; 0 if it is empty."""
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
