"""Resizes attention maps, and finds out which of their sizes are known while a function is traced."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def spatial_size(images: tf.Tensor) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Height and width of `[batch, height, width, ...]`, as numbers where the shape has them, else as scalars."""
    height, width = (tf.shape(images)[axis] if images.shape[axis] is None else images.shape[axis] for axis in (1, 2))
    return height, width


def operations_for(*sizes: int | tf.Tensor) -> Any:
    """NumPy for sizes that are known while a function is traced, so that the graph gets a constant; else Keras' ops."""
    return np if all(isinstance(size, int) for size in sizes) else keras.ops


def resize_map(map_: tf.Tensor, size: tuple[int | tf.Tensor, int | tf.Tensor]) -> tf.Tensor:
    """Bilinear resizing of `[batch, height, width]` to `[batch, *size]`, equal to `tf.image.resize`.

    Uses two matrix products, which keep float64, run on every device, and are cheap to differentiate twice.
    """
    rows, columns = (
        _interpolation(old, new, map_.dtype.name) for old, new in zip(spatial_size(map_), size, strict=True)
    )
    return tf.einsum("Hh,bhw,Ww->bHW", rows, map_, columns)


def _interpolation(old: int | tf.Tensor, new: int | tf.Tensor, dtype: str) -> tf.Tensor:
    """Weights of the old positions for each new one, `[new, old]`; positions are pixel centres."""
    xp = operations_for(old, new)
    positions, centres = xp.arange(old, dtype=dtype), xp.arange(new, dtype=dtype) + 0.5
    old, new = xp.array(old, dtype), xp.array(new, dtype)
    places = xp.clip(centres * old / new - 0.5, 0, old - 1)
    return tf.convert_to_tensor(xp.maximum(1 - xp.abs(places[:, None] - positions), 0), dtype)
