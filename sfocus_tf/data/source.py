"""The interface between data sets and the input pipeline."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Record = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a data set, not yet decoded.

    Attributes:
        class_names: class names, indexed by label.
        size: number of images.
        keys: `keys(seed)` is a `tf.data.Dataset` of one epoch's keys, shuffled by the seed (a scalar int64 tensor), or
            in the source's own order for `None`.
        read: reads the record of a key, inside the graph:
            `image`: `[height, width, 3]` uint8;
            `label`: scalar int32, or `[classes]` float32 of 0 and 1 for multi-label data;
            `boxes` (optional): `[max boxes, 4]` float32, `ymin, xmin, ymax, xmax` relative to height and width, padded
            with zeros, and `box_labels`, `[max boxes]` int32, padded with -1;
            `difficult` (optional, multi-label): `[classes]` float32, 1 for a class whose objects in the image are all
            marked as hard to recognise; evaluation ignores the image for that class;
            `mask` (optional): `[height, width, 1]` uint8, 0 background, 1 + class number, 255 void;
            `part_mask` (optional): the same for the part that tells a class from its look-alike.
        multi_label: whether an image may have several classes.
        files: path of each image, if images are files.
        skipped: paths of the corrupt images that were skipped.
        note: what a user should know of how the data were read, or "".
    """

    class_names: tuple[str, ...]
    size: int
    keys: Callable[[tf.Tensor | None], tf.data.Dataset]
    read: Callable[[Any], Record]
    multi_label: bool = False
    files: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    note: str = ""


def indexed_keys(numbers: np.ndarray) -> Callable[[tf.Tensor | None], tf.data.Dataset]:
    """`Source.keys` for a source with random access by number.

    Args:
        numbers: `[size]`, the keys.

    Returns:
        The function. Its shuffle is a full permutation computed element by element: it needs no buffer and can start
        at any position.
    """
    table = tf.constant(numbers, tf.int64)
    size = len(numbers)

    def keys(seed: tf.Tensor | None) -> tf.data.Dataset:
        positions = tf.data.Dataset.range(size)
        if seed is not None and size > 1:
            pair = tf.stack([tf.cast(seed, tf.int64), 0])

            def shuffled(position: tf.Tensor) -> tf.Tensor:
                return tf.random.experimental.index_shuffle(position, pair, max_index=size - 1)

            positions = positions.map(shuffled)
        return positions.map(lambda position: table[position])

    return keys


@dataclasses.dataclass(frozen=True)
class Part:
    """Selects images of a data set.

    Attributes:
        split: "train", "validation" or "test".
        validation_fraction: share of the training images to hold out of "train" as "validation", in [0, 1).
        examples: maximum number of images, `None` for all.
        skip_corrupt: skip corrupt image files instead of raising an error.
        check_images: decode every image file once beforehand, to find corrupt ones.
    """

    split: str
    validation_fraction: float = 0.0
    examples: int | None = None
    skip_corrupt: bool = False
    check_images: bool = True

    def numbers(self, size: int) -> np.ndarray:
        """The numbers of the selected images out of `size`, ascending; "validation" selects from the training images.

        The selection uses a fixed shuffle, the same in every run and for every seed.
        """
        order = np.random.RandomState(0).permutation(size)
        held_out = round(size * self.validation_fraction)
        if self.split == "train":
            order = order[held_out:]
        elif self.split == "validation":
            order = order[:held_out]
        return np.sort(order[: self.examples])
