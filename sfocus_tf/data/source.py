"""What every data source gives to the input pipeline."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Record = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of one data set, not yet decoded.

    Attributes:
        class_names: in the order of the label numbers.
        size: number of pictures.
        keys: `keys(seed)` is a `tf.data.Dataset` of one epoch's keys, in an order that the seed (a scalar int64
            tensor) decides; in the source's own order for `None`.
        read: turns a key into a record, inside the graph:
            `image`: `[height, width, 3]` uint8;
            `label`: scalar int32, or `[classes]` float32 of 0 and 1 in a multi-label set;
            `boxes` (where the set has them): `[most boxes a picture, 4]` float32, `ymin, xmin, ymax, xmax` as shares of
            height and width, zeros where there are fewer, and `box_labels`, `[most boxes a picture]` int32, -1 there;
            `difficult` (in multi-label sets that mark objects as hard to recognise): `[classes]` float32, 1 for a class
            of which all objects in the picture are marked; evaluation leaves the picture out for that class;
            `mask` (where it has them): `[height, width, 1]` uint8, 0 background, 1 + class number, 255 void;
            `part_mask`: the same of the part that tells a class from its look-alike.
        multi_label: whether a picture may have several classes.
        files: path of each picture, where pictures are files.
        skipped: paths of corrupt pictures that were left out.
    """

    class_names: tuple[str, ...]
    size: int
    keys: Callable[[tf.Tensor | None], tf.data.Dataset]
    read: Callable[[Any], Record]
    multi_label: bool = False
    files: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def indexed_keys(numbers: np.ndarray) -> Callable[[tf.Tensor | None], tf.data.Dataset]:
    """`Source.keys` for a source whose records can be read by number, in any order.

    Args:
        numbers: `[size]`, the keys.

    Returns:
        The function. Its shuffle is a permutation of all keys, computed element by element: nothing is held in memory
        and nothing has to be read to begin in the middle.
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
    """Which pictures of a data set are wanted.

    Attributes:
        split: "train", "validation" or "test".
        validation_fraction: share of the training pictures that make up "validation" and are left out of "train", in
            [0, 1).
        examples: at most so many pictures, `None` for all.
        skip_corrupt: leave corrupt picture files out instead of raising.
        check_pictures: decode every picture file once beforehand, to find corrupt ones.
    """

    split: str
    validation_fraction: float = 0.0
    examples: int | None = None
    skip_corrupt: bool = False
    check_pictures: bool = True

    def numbers(self, size: int) -> np.ndarray:
        """Which of `size` pictures belong to the part, in ascending order; of the training ones for "validation".

        The pictures are dealt by a fixed shuffle, the same in every run and for every seed.
        """
        order = np.random.RandomState(0).permutation(size)
        held_out = round(size * self.validation_fraction)
        if self.split == "train":
            order = order[held_out:]
        elif self.split == "validation":
            order = order[:held_out]
        return np.sort(order[: self.examples])
