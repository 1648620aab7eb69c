"""Regions of attention maps: a test for mass, the soft mask of the target, and resizing."""

from typing import Any

import keras
import numpy as np
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


def spatial_size(images: tf.Tensor) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Height and width of `[batch, height, width, ...]`, as numbers where the shape has them, else as scalars."""
    height, width = (tf.shape(images)[axis] if images.shape[axis] is None else images.shape[axis] for axis in (1, 2))
    return height, width


def operations_for(*sizes: int | tf.Tensor) -> Any:
    """NumPy for sizes that are known while a function is traced, so that the graph gets a constant; else Keras' ops."""
    return np if all(isinstance(size, int) for size in sizes) else keras.ops


def resize_map(map_: tf.Tensor, size: tf.Tensor | tuple[int | tf.Tensor, int | tf.Tensor]) -> tf.Tensor:
    """Bilinear resizing of `[batch, height, width]` to `[batch, *size]`, equal to `tf.image.resize`.

    Uses two matrix products, which keep float64, run on every device, and are cheap to differentiate twice.
    """
    height, width = spatial_size(map_)
    rows, columns = (_interpolation(*sizes, map_.dtype.name) for sizes in ((height, size[0]), (width, size[1])))
    return tf.einsum("Hh,bhw,Ww->bHW", rows, map_, columns)


def _interpolation(old: int | tf.Tensor, new: int | tf.Tensor, dtype: str) -> tf.Tensor:
    """Weights of the old positions for each new one, `[new, old]`; positions are pixel centres."""
    xp = operations_for(old, new)
    positions, centres = xp.arange(old, dtype=dtype), xp.arange(new, dtype=dtype) + 0.5
    old, new = xp.array(old, dtype), xp.array(new, dtype)
    places = xp.clip(centres * old / new - 0.5, 0, old - 1)
    return tf.convert_to_tensor(xp.maximum(1 - xp.abs(places[:, None] - positions), 0), dtype)
