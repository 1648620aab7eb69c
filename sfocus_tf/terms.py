"""The three attention terms of a picture, from its maps at both layers."""

import dataclasses

import tensorflow as tf

from sfocus_tf import attention, losses
from sfocus_tf.attention import Attention
from sfocus_tf.explanation import Maps
from sfocus_tf.naming import unknown

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
        minimum_mass: a picture whose target map holds less than this share of the evidence in its features counts as
            zero in all losses but the margin, in [0, 1]; 0 leaves none out. See `sfocus_tf.attention.Attention`.
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
        has_region = tf.cast(last_alive, mask.dtype)[:, tf.newaxis, tf.newaxis]
        region = attention.graded_region(maps.target_last.map)

        def separation(
            target: Attention, rival: Attention, mask: tf.Tensor, region: tf.Tensor, floor: tf.Tensor
        ) -> tf.Tensor:
            if self.separation == "margin":
                return losses.margin_loss(target.evidence, rival.evidence, region)
            if self.separation in ("outside", "rival"):
                # Where the last layer found nothing there is no region, and no outside of it.
                part = has_region * (1 - mask) if self.separation == "outside" else mask
                return losses.rival_loss(target.map, rival.map, part, probability, floor)
            return losses.separation_loss(target.map, rival.map, mask, floor)

        inner_region = attention.resize_map(region, inner_size)
        terms = [
            separation(maps.target_inner, maps.rival_inner, inner_mask, inner_region, floor_inner),
            separation(maps.target_last, maps.rival_last, mask, region, floor_last),
            losses.consistency_loss(maps.target_inner.map, inner_mask, self.theta, floor_inner, last_alive),
        ]
        dead = [tf.reduce_all(each.map <= 0, axis=(1, 2)) & (tf.size(each.map) > 0) for each in maps]
        weak_inner = ~inner_alive & (tf.size(maps.target_inner.map) > 0)
        return terms, [*dead, weak_inner, ~last_alive]
