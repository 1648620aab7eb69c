"""The three attention terms of a picture, from its maps at both layers."""

import dataclasses
from typing import Any

import tensorflow as tf

from sfocus_tf import attention
from sfocus_tf.attention import Attention, Classes, Maps
from sfocus_tf.errors import unknown
from sfocus_tf.losses import attention_losses as losses

TERMS = ("separation_inner", "separation_last", "consistency")
# Logged beside the terms: shares of the pictures, in the order in which they are computed.
SHARES = (*(f"dead_{key}" for key in Maps._fields), "weak_inner", "weak_last")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the terms are made.

    Attributes:
        separation: the form of the separation loss, one of `sfocus_tf.losses.SEPARATIONS`.
        sigma: threshold of the soft mask, in [0, 1]; see `sfocus_tf.attention.soft_mask`.
        omega: its steepness, in [0, 10000].
        theta: target of the consistency loss, in [0, 1]; see `sfocus_tf.losses.consistency_loss`.
        minimum_mass: a picture whose target map holds less than this share of the evidence in its features (with
            "difference": the difference of the evidence less than this share of that of both classes) counts as zero in
            all losses but the margin, in [0, 1]; 0 leaves none out. See `sfocus_tf.attention.Attention`.
    """

    separation: str = "rival"
    sigma: float = 0.55
    omega: float = 100.0
    theta: float = 0.8
    minimum_mass: float = 0.05

    def __post_init__(self) -> None:
        if self.separation not in losses.SEPARATIONS:
            raise unknown("separation", self.separation, losses.SEPARATIONS)
        for argument, high in (("sigma", 1), ("theta", 1), ("minimum_mass", 1), ("omega", 1e4)):
            value = getattr(self, argument)
            if not 0 <= value <= high:
                raise ValueError(f"{argument}={value!r}: expected a number from 0 to {high:g}.")

    def terms(self, maps: Maps, probability: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The terms of each picture.

        Args:
            maps: attention of target and rival at both layers; what needs a layer that was left out is 0 or false.
            probability: `p(C)`, that of the rival, `[batch]`.

        Returns:
            A list of `[batch]` floats in the order of `TERMS`, and one of `[batch]` bools in that of `SHARES`.
        """
        floor_inner = self.minimum_mass * maps.target_inner.capacity
        floor_last = self.minimum_mass * maps.target_last.capacity
        inner_alive = attention.has_mass(maps.target_inner.map, floor_inner)
        last_alive = attention.has_mass(maps.target_last.map, floor_last)
        inner_size = tf.shape(maps.target_inner.map)[1:]
        mask = attention.soft_mask(maps.target_last.map, self.sigma, self.omega, floor_last)
        inner_mask = attention.resize_map(mask, inner_size)
        part = self._part(maps.target_last.map, mask, last_alive)
        inner_part = attention.resize_map(part, inner_size)
        terms = [
            self._separation(maps.target_inner, maps.rival_inner, inner_part, probability, floor_inner),
            self._separation(maps.target_last, maps.rival_last, part, probability, floor_last),
            losses.consistency_loss(maps.target_inner.map, inner_mask, self.theta, floor_inner, last_alive),
        ]
        dead = [tf.reduce_all(each.map <= 0, axis=(1, 2)) & (tf.size(each.map) > 0) for each in maps]
        weak_inner = ~inner_alive & (tf.size(maps.target_inner.map) > 0)
        return terms, [*dead, weak_inner, ~last_alive]

    def _part(self, target_map: tf.Tensor, mask: tf.Tensor, has_region: tf.Tensor) -> tf.Tensor:
        """The part of each picture in which the separation losses look at the rival's attention."""
        if self.separation == "margin":
            return attention.graded_region(target_map)
        if self.separation == "outside":
            # Where the last layer found nothing there is no region, and no outside of it.
            return tf.cast(has_region, mask.dtype)[:, tf.newaxis, tf.newaxis] * (1 - mask)
        return mask

    def _separation(
        self, target: Attention, rival: Attention, part: tf.Tensor, probability: tf.Tensor, floor: tf.Tensor
    ) -> tf.Tensor:
        """The separation loss at one layer, `[batch]`."""
        if self.separation == "margin":
            return losses.margin_loss(target.evidence, rival.evidence, part)
        if self.separation == "difference":
            both = self.minimum_mass * (target.capacity + rival.capacity)
            return losses.difference_loss(target.evidence, rival.evidence, both)
        if self.separation == "overlap":
            return losses.separation_loss(target.map, rival.map, part, floor)
        return losses.rival_loss(target.map, rival.map, part, probability, floor)

    def summary(
        self, scores: tf.Tensor, maps: Maps, classes: Classes, sample_weight: Any, multi_label: bool
    ) -> list[tf.Tensor]:
        """What a batch comes to.

        Args:
            scores: `[batch, classes]`, before softmax or sigmoid.
            maps: attention of target and rival at both layers.
            classes: which these are; pictures without them count as zero.
            sample_weight: as in `keras.Model.fit`, or `None`.
            multi_label: several classes a picture.

        Returns:
            Scalars: the terms' means over the batch (in the order of `TERMS`), the `SHARES` of the pictures that have
            both classes, and the share of these.
        """
        dtype = maps.target_last.map.dtype
        scores = tf.cast(scores, dtype)
        chances = tf.sigmoid(scores) if multi_label else tf.nn.softmax(scores)
        terms, found = self.terms(maps, tf.gather(chances, classes.rival, batch_dims=1))
        valid = tf.cast(classes.valid, dtype)
        weight = valid
        if sample_weight is not None:
            sample_weight = tf.cast(sample_weight, dtype)
            weight *= tf.reduce_mean(tf.reshape(sample_weight, [tf.shape(valid)[0], -1]), axis=-1)
        # As Keras' losses: the sum of weighted values over the number of pictures (0 for a replica that got none).
        means = [_mean(term * weight) for term in terms]
        share = _mean(valid)
        shares = [tf.math.divide_no_nan(_mean(tf.cast(each, dtype) * valid), share) for each in found]
        return [*means, *shares, share]


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean of a vector; 0 of an empty one."""
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
