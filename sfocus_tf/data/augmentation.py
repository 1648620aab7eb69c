"""Crops, flips and resizes one record: the image with its boxes and masks."""

import tensorflow as tf

from sfocus_tf.data.source import Record

AUGMENTATIONS = ("none", "flip", "pad_crop_flip", "random_resized_crop")


def augment(record: Record, augmentation: str, size: int, seed: tf.Tensor, min_crop_area: float = 0.08) -> Record:
    """Applies a random augmentation.

    - "flip": a horizontal flip with probability 1/2.
    - "pad_crop_flip": CIFAR's (He et al. 2016): resize, pad by an eighth of the size on each side (4 pixels at 32),
      crop to the size before padding, then "flip".
    - "random_resized_crop": ImageNet's (Szegedy et al. 2015): crop a share of the area, from `min_crop_area` (8 %
      there) to 1, at an aspect ratio from 3/4 to 4/3, resize, then "flip".

    Args:
        record: see `Source`.
        augmentation: one of `AUGMENTATIONS`.
        size: height and width of the result, in pixels.
        seed: `[2]`, determines every random choice.
        min_crop_area: smallest share of the area that "random_resized_crop" crops to, in (0, 1].

    Returns:
        The record, with `image` float32 in [0, 255] and boxes and masks transformed alike.
    """
    if augmentation == "pad_crop_flip":
        record = _shifted(resize(record, size), size // 8, seed)
    elif augmentation == "random_resized_crop":
        record = resize(crop(record, _random_window(tf.shape(record["image"])[:2], seed, min_crop_area)), size)
    else:
        record = resize(record, size)
    if augmentation == "none":
        return record
    flip = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1)) < 0.5
    return tf.cond(flip, lambda: flip_left_right(record), lambda: dict(record))


def resize(record: Record, size: int) -> Record:
    """Resizes the image (to float32) and its masks to `size` x `size` pixels; boxes are relative and do not change."""
    record = dict(record)
    image = record["image"]
    shape = tf.constant([size, size])

    def scaled() -> tf.Tensor:
        return tf.clip_by_value(tf.image.resize(image, shape, antialias=True), 0.0, 255.0)

    same = tf.reduce_all(tf.shape(image)[:2] == shape)
    record["image"] = tf.ensure_shape(tf.cond(same, lambda: tf.cast(image, tf.float32), scaled), [size, size, 3])
    for key in record.keys() & {"mask", "part_mask"}:
        record[key] = tf.image.resize(record[key], shape, method="nearest")
    return record


def flip_left_right(record: Record) -> Record:
    """Flips the record horizontally."""
    record = dict(record)
    for key in record.keys() & {"image", "mask", "part_mask"}:
        record[key] = tf.reverse(record[key], axis=[1])
    if "boxes" in record:
        y0, x0, y1, x1 = tf.unstack(record["boxes"], axis=-1)
        flipped = tf.stack([y0, 1 - x1, y1, 1 - x0], axis=-1)
        record["boxes"] = tf.where(record["box_labels"][:, tf.newaxis] >= 0, flipped, record["boxes"])
    return record


def crop(record: Record, window: tf.Tensor) -> Record:
    """Crops a record to a window.

    Args:
        record: see `Source`.
        window: `[4]` int32, `ymin, xmin, ymax, xmax` in pixels, inside the image.

    Returns:
        The record; boxes are clipped to the window, and those outside it are dropped (label -1).
    """
    record = dict(record)
    height, width = tf.unstack(tf.cast(tf.shape(record["image"])[:2], tf.float32))
    y0, x0, y1, x1 = tf.unstack(window)
    for key in record.keys() & {"image", "mask", "part_mask"}:
        record[key] = record[key][y0:y1, x0:x1]
    if "boxes" in record:
        scale = tf.stack([height, width, height, width])
        start = tf.cast(tf.stack([y0, x0, y0, x0]), tf.float32)
        extent = tf.cast(tf.stack([y1 - y0, x1 - x0, y1 - y0, x1 - x0]), tf.float32)
        record.update(_kept_boxes((record["boxes"] * scale - start) / extent, record["box_labels"]))
    return record


def _kept_boxes(boxes: tf.Tensor, labels: tf.Tensor) -> Record:
    boxes = tf.clip_by_value(boxes, 0.0, 1.0)
    kept = (labels >= 0) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return {
        "boxes": tf.where(kept[:, tf.newaxis], boxes, tf.zeros_like(boxes)),
        "box_labels": tf.where(kept, labels, -tf.ones_like(labels)),
    }


def _shifted(record: Record, pad: int, seed: tf.Tensor) -> Record:
    """Shifts the image by up to `pad` pixels in each direction, filling with zeros."""
    record = dict(record)
    size = tf.shape(record["image"])[0]
    offset = tf.random.stateless_uniform([2], seed, 0, 2 * pad + 1, tf.int32)
    for key in record.keys() & {"image", "mask", "part_mask"}:
        shape = record[key].shape
        padded = tf.pad(record[key], [[pad, pad], [pad, pad], [0, 0]])
        record[key] = tf.ensure_shape(padded[offset[0] : offset[0] + size, offset[1] : offset[1] + size], shape)
    if "boxes" in record:
        move = tf.cast(pad - tf.tile(offset, [2]), tf.float32) / tf.cast(size, tf.float32)
        record.update(_kept_boxes(record["boxes"] + move, record["box_labels"]))
    return record


def central_crop(record: Record, share: float) -> Record:
    """Crops a record to its central square of `share` times the shorter side; see `crop`."""
    return crop(record, central_window(tf.shape(record["image"])[:2], share))


def central_window(shape: tf.Tensor, share: float) -> tf.Tensor:
    """The central square window of `share` times the shorter side, for `crop`; `[4]` int32 in pixels."""
    extent = tf.cast(tf.round(share * tf.cast(tf.reduce_min(shape), tf.float32)), tf.int32)
    extent = tf.maximum(extent, 1)
    start = (shape - extent) // 2
    return tf.concat([start, start + extent], axis=0)


def _random_window(shape: tf.Tensor, seed: tf.Tensor, min_area: float) -> tf.Tensor:
    """A window of random area (a share from `min_area` to 1), aspect ratio and position; `[4]` int32 in pixels."""
    area, log_ratio, *place = tf.unstack(tf.random.stateless_uniform([4], seed))
    size = tf.cast(shape, tf.float32)
    area = (min_area + (1.0 - min_area) * area) * size[0] * size[1]
    ratio = tf.exp((2.0 * log_ratio - 1.0) * tf.math.log(4.0 / 3.0))
    extent = tf.round(tf.stack([tf.sqrt(area / ratio), tf.sqrt(area * ratio)]))
    extent = tf.clip_by_value(extent, tf.minimum(2.0, size), size)
    start = tf.floor(tf.stack(place) * (size - extent + 1.0))
    start = tf.minimum(start, size - extent)
    return tf.cast(tf.concat([start, start + extent], axis=0), tf.int32)
