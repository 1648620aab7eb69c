"""From records to batches: cropping, flipping and resizing, with boxes and masks following the picture.

Every random choice is a function of (seed, epoch, position in the epoch), so that a run can be repeated, and resumed
at any epoch, whatever the number of threads.
"""

import dataclasses
import functools

import tensorflow as tf

from sfocus_tf.data.source import Record, Source
from sfocus_tf.naming import unknown

AUGMENTATIONS = ("none", "flip", "pad_crop_flip", "random_resized_crop")


@dataclasses.dataclass(frozen=True)
class Data:
    """A split of a data set, ready for a model.

    Attributes:
        source: what the pictures come from.
        batch_size: pictures a batch; the last batch of an epoch may have fewer.
        image_size: height and width, in pixels.
        training: shuffled and augmented, or in the source's order and unchanged.
        augmentation: one of `AUGMENTATIONS`; only in training.
        seed: decides order and augmentation.
        regions: batches are dictionaries with boxes and masks, instead of `(images, labels)`.
        center_crop: not in training: share of the shorter side that a central square window takes, in (0, 1]; the whole
            picture, stretched to a square, for `None`.
    """

    source: Source
    batch_size: int
    image_size: int
    training: bool = False
    augmentation: str = "none"
    seed: int = 0
    regions: bool = False
    center_crop: float | None = None

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise unknown("augmentation", self.augmentation, AUGMENTATIONS)
        for argument in ("batch_size", "image_size"):
            if getattr(self, argument) < 1:
                raise ValueError(f"{argument}={getattr(self, argument)}: expected a positive number.")
        if self.center_crop is not None and not 0 < self.center_crop <= 1:
            raise ValueError(f"center_crop={self.center_crop}: expected a share of the shorter side, from 0 to 1.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the label numbers."""
        return self.source.class_names

    @property
    def multi_label(self) -> bool:
        """Whether labels are rows of 0 and 1 instead of class numbers."""
        return self.source.multi_label

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-self.source.size // self.batch_size)

    @functools.cached_property
    def batches(self) -> tf.data.Dataset:
        """One epoch of batches for `fit`, `evaluate` or `predict`; in training, in a new order each time it is read.

        Elements are `(images, labels)`: `[batch, image_size, image_size, 3]` float32 in [0, 255], and `[batch]` int32
        or `[batch, classes]` float32. With `regions` they are dictionaries of `image`, `label`, and `boxes`,
        `box_labels`, `difficult`, `mask`, `part_mask` where the source has them (see `Source`).
        """
        if not self.training:
            return self.epochs(0, 1)
        epochs = tf.data.Dataset.random(seed=self.seed, rerandomize_each_iteration=True).take(1)
        batches = self._batches_of(epochs)
        return batches.apply(tf.data.experimental.assert_cardinality(self.steps)).prefetch(tf.data.AUTOTUNE)

    def epochs(self, first: int, last: int) -> tf.data.Dataset:
        """The batches of epochs `first` to `last - 1`, one after the other; the same in every process."""
        count = self.steps * (last - first)
        batches = self._batches_of(tf.data.Dataset.range(first, last))
        return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)

    def _batches_of(self, epochs: tf.data.Dataset) -> tf.data.Dataset:
        @tf.autograph.experimental.do_not_convert
        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            seed = self.seed * 1_000_003 + epoch if self.training else None
            numbered = self.source.keys(seed).enumerate()
            records = numbered.map(
                lambda position, key: self._example(key, tf.stack([epoch, position])),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            return records.batch(self.batch_size, num_parallel_calls=tf.data.AUTOTUNE)

        return epochs.flat_map(one_epoch)

    def _example(self, key: tf.Tensor, place: tf.Tensor) -> Record | tuple[tf.Tensor, tf.Tensor]:
        record = self.source.read(key)
        if self.training:
            seed = tf.random.fold_in(tf.constant([self.seed, 7], tf.int64), place[0])
            seed = tf.random.fold_in(seed, place[1])
            record = augment(record, self.augmentation, self.image_size, seed)
        else:
            if self.center_crop is not None:
                record = crop(record, _central_window(tf.shape(record["image"])[:2], self.center_crop))
            record = resize(record, self.image_size)
        return record if self.regions else (record["image"], record["label"])


def augment(record: Record, augmentation: str, size: int, seed: tf.Tensor) -> Record:
    """One of the usual augmentations, at random.

    - "flip": left and right are exchanged half of the time.
    - "pad_crop_flip": CIFAR's (He et al. 2016): the picture is resized, padded by an eighth of its size on each side
      (4 pixels of 32), and a window of its size cut out; then "flip".
    - "random_resized_crop": ImageNet's (Szegedy et al. 2015): a window of 8 to 100 % of the area with an aspect ratio
      from 3/4 to 4/3; then "flip".

    Args:
        record: see `Source`.
        augmentation: one of `AUGMENTATIONS`.
        size: height and width of the result, in pixels.
        seed: `[2]`, decides every choice.

    Returns:
        The record, with `image` float32 in [0, 255], and boxes and masks changed with it.
    """
    if augmentation == "pad_crop_flip":
        record = _shifted(resize(record, size), size // 8, seed)
    elif augmentation == "random_resized_crop":
        record = resize(crop(record, _random_window(tf.shape(record["image"])[:2], seed)), size)
    else:
        record = resize(record, size)
    if augmentation == "none":
        return record
    flip = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1)) < 0.5
    return tf.cond(flip, lambda: flip_left_right(record), lambda: dict(record))


def resize(record: Record, size: int) -> Record:
    """The whole picture and its masks at `size` x `size` pixels (boxes are shares, and stay); `image` as float32."""
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
    """The mirrored record."""
    record = dict(record)
    for key in record.keys() & {"image", "mask", "part_mask"}:
        record[key] = tf.reverse(record[key], axis=[1])
    if "boxes" in record:
        y0, x0, y1, x1 = tf.unstack(record["boxes"], axis=-1)
        flipped = tf.stack([y0, 1 - x1, y1, 1 - x0], axis=-1)
        record["boxes"] = tf.where(record["box_labels"][:, tf.newaxis] >= 0, flipped, record["boxes"])
    return record


def crop(record: Record, window: tf.Tensor) -> Record:
    """The part of a record inside a window.

    Args:
        record: see `Source`.
        window: `[4]` int32, `ymin, xmin, ymax, xmax` in pixels, inside the picture.

    Returns:
        The record; boxes are cut at the window, and those outside it are dropped (label -1).
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
    """The picture moved by up to `pad` pixels each way, zeros coming in."""
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


def _central_window(shape: tf.Tensor, share: float) -> tf.Tensor:
    """The central square window with a share of the shorter side; `[4]` int32 in pixels."""
    extent = tf.cast(tf.round(share * tf.cast(tf.reduce_min(shape), tf.float32)), tf.int32)
    extent = tf.maximum(extent, 1)
    start = (shape - extent) // 2
    return tf.concat([start, start + extent], axis=0)


def _random_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A window of random area, aspect ratio and place; `[4]` int32 in pixels."""
    area, log_ratio, *place = tf.unstack(tf.random.stateless_uniform([4], seed))
    size = tf.cast(shape, tf.float32)
    area = (0.08 + 0.92 * area) * size[0] * size[1]
    ratio = tf.exp((2.0 * log_ratio - 1.0) * tf.math.log(4.0 / 3.0))
    extent = tf.round(tf.stack([tf.sqrt(area / ratio), tf.sqrt(area * ratio)]))
    extent = tf.clip_by_value(extent, tf.minimum(2.0, size), size)
    start = tf.floor(tf.stack(place) * (size - extent + 1.0))
    start = tf.minimum(start, size - extent)
    return tf.cast(tf.concat([start, start + extent], axis=0), tf.int32)
