"""Generates images of look-alike class pairs, to try a method without any data.

Each class shares its object's colour and texture with one other class; only a small mark, clear in some images and
faint in others, tells the two apart. In the background a patch agrees with the mark in 80 % of the training images but
only half of the test images: a spurious cue. Every image comes with masks of the object and the mark, so attention can
be scored exactly.
"""

import functools
import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from sfocus_tf.data.source import Record, Source, indexed_keys

NUM_CLASSES = 16
EXAMPLES = {"train": 4096, "validation": 512, "test": 1024}
_AGREEMENT = {"train": 0.8, "validation": 0.8, "test": 0.5}
_SPLIT_NUMBER = {"train": 0, "validation": 1, "test": 2}
_KEPT_BYTES = 2**28  # most memory for images and masks: all training images up to 114 pixels
_MARK_RADIUS = 0.42  # relative to the object's
_MARK_CONTRAST = (0.05, 0.65)  # of the strokes to their disc, from 0 to 1: faint to clear
_BLOBS, _BLOB_OPACITY = 8, 0.5
_NOISE = 0.04  # standard deviation, of pixels in [0, 1]
_COLOURS = {"red": (0.9, 0.25, 0.2), "green": (0.25, 0.7, 0.25), "blue": (0.25, 0.35, 0.95), "yellow": (0.9, 0.8, 0.2)}
_COLOUR_SPREAD = 0.1  # of each channel, around these
_TEXTURES = ("striped", "checked")


def class_names() -> tuple[str, ...]:
    """The names of the 16 classes; 2n and 2n + 1 are look-alikes."""
    bodies = [f"{texture} {colour}" for texture in _TEXTURES for colour in _COLOURS]
    return tuple(f"{body}, {mark} mark" for body in bodies for mark in ("ring", "cross"))


def source(split: str, size: int = 48, examples: int | None = None) -> Source:
    """One split of the scenes, drawn once and kept if it needs little memory, else drawn at each read.

    Args:
        split: "train", "validation" or "test".
        size: height and width of the images, in pixels, 16 or more.
        examples: maximum number of images; `EXAMPLES` by default.

    Returns:
        The source; each record has `mask` (the object) and `part_mask` (the mark).

    Raises:
        ValueError: a size below 16.
    """
    if size < 16:
        raise ValueError(f"image_size={size}: scenes need 16 pixels or more.")
    count = min(EXAMPLES[split], examples or EXAMPLES[split])

    def read(number: tf.Tensor) -> Record:
        return scene(number, split, size)

    def read_drawn(number: tf.Tensor) -> Record:
        return {key: values[number] for key, values in _drawn(split, size, count).items()}

    small = 0 < count * size * size * 5 <= _KEPT_BYTES  # three colours and two masks, one byte each
    return Source(class_names(), count, indexed_keys(np.arange(count)), read_drawn if small else read)


@functools.lru_cache(maxsize=4)
def _drawn(split: str, size: int, count: int) -> Record:
    """All images, drawn once; drawing them each epoch would take half as long as training a small network."""
    with tf.init_scope():  # also where a graph reads them first
        drawn = tf.data.Dataset.range(count).map(
            lambda number: scene(number, split, size), num_parallel_calls=tf.data.AUTOTUNE
        )
        return drawn.batch(count).get_single_element()


def scene(number: tf.Tensor, split: str, size: int = 48) -> Record:
    """The scene with this number, in `[0, 2^31)`; its class is `number % 16`. See `source`."""
    seed = _seed(number, split)
    numbers = iter(tf.unstack(tf.random.stateless_uniform([40], tf.random.fold_in(seed, 1))))
    label = tf.cast(number % NUM_CLASSES, tf.int32)
    mark_kind = label % 2
    line = (tf.range(size, dtype=tf.float32) + 0.5) / size * 2.0 - 1.0
    x, y = tf.meshgrid(line, line)

    image = _background(x, y, seed, numbers)
    radius, angle = _between(numbers, 0.42, 0.58), _between(numbers, -0.35, 0.35)
    cx, cy = _between(numbers, -0.3, 0.3), _between(numbers, -0.3, 0.3)
    patch_kind = tf.where(patch_agrees(number, split), mark_kind, 1 - mark_kind)
    image = _add_patch(image, x, y, cx, cy, patch_kind, numbers)

    u, v = _turned(x - cx, y - cy, angle)
    mask = _outline(u, v, radius, tf.cast(4.0 * next(numbers), tf.int32))
    pattern = _texture(u, v, (label // 8), _between(numbers, 0.0, 6.0))
    colour = tf.gather(list(_COLOURS.values()), (label // 2) % 4)
    colour += tf.stack([_between(numbers, -_COLOUR_SPREAD, _COLOUR_SPREAD) for _ in range(3)])
    image = _paint(image, mask, colour * (0.55 + 0.45 * pattern[..., tf.newaxis]))
    where = _between(numbers, 0.0, 2.0 * math.pi)
    mu, mv = u - 0.4 * radius * tf.cos(where), v - 0.4 * radius * tf.sin(where)
    part, strokes = _mark(mu, mv, _MARK_RADIUS * radius, mark_kind)
    contrast = _between(numbers, *_MARK_CONTRAST)
    image = _paint(image, part, tf.ones([3]) * (0.15 + contrast * strokes[..., tf.newaxis]))

    noise = tf.random.stateless_normal([size, size, 3], tf.random.fold_in(seed, 2), stddev=_NOISE)
    pixels = tf.cast(tf.clip_by_value(tf.round((image + noise) * 255.0), 0, 255), tf.uint8)
    value = tf.cast(1 + label, tf.uint8)
    return {
        "image": pixels,
        "label": label,
        "mask": tf.where(mask > 0.5, value, 0)[..., tf.newaxis],
        "part_mask": tf.where(part > 0.5, value, 0)[..., tf.newaxis],
    }


def patch_agrees(number: tf.Tensor, split: str) -> tf.Tensor:
    """Whether the patch of a scene is the one that goes with its class, a scalar bool; arguments as for `scene`."""
    seed = tf.random.fold_in(_seed(number, split), 4)
    return tf.random.stateless_uniform([], seed) < _AGREEMENT[split]


def _seed(number: tf.Tensor, split: str) -> tf.Tensor:
    # The zero keeps the images what they have always been.
    return tf.random.fold_in(tf.constant([0, _SPLIT_NUMBER[split]], tf.int64), tf.cast(number, tf.int64))


def _background(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor, numbers: Iterator[tf.Tensor]) -> tf.Tensor:
    """Smooth colours with striped blobs."""
    image = _colour(numbers) + 0.15 * tf.sin(3.0 * x * _between(numbers, -1, 1) + 3.0 * y)[..., tf.newaxis]
    blobs = tf.random.stateless_uniform([_BLOBS, 8], tf.random.fold_in(seed, 3))
    for blob in tf.unstack(blobs):
        u, v = x - (2.0 * blob[0] - 1.0), y - (2.0 * blob[1] - 1.0)
        region = _inside(0.1 + 0.25 * blob[2] - tf.sqrt(u * u + v * v))
        turned, _ = _turned(u, v, blob[3] * 2.0 * math.pi)
        stripes = 0.5 + 0.5 * tf.sin(turned * (8.0 + 30.0 * blob[4]))
        image = _paint(image, _BLOB_OPACITY * region, blob[5:8] * (0.4 + 0.6 * stripes[..., tf.newaxis]))
    return image


def _add_patch(
    image: tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor,
    cx: tf.Tensor,
    cy: tf.Tensor,
    kind: tf.Tensor,
    numbers: Iterator[tf.Tensor],
) -> tf.Tensor:
    """The distractor: a bright dotted or a dark hatched square on the far side of the object."""
    direction = tf.atan2(-cy, -cx) + _between(numbers, -0.6, 0.6)
    px, py = 0.78 * tf.cos(direction), 0.78 * tf.sin(direction)
    region = _inside(0.17 - tf.maximum(tf.abs(x - px), tf.abs(y - py)))
    dots = tf.sin(38.0 * (x - px)) * tf.sin(38.0 * (y - py))
    hatching = tf.sin(27.0 * (x + y))
    pattern = 0.5 + 0.5 * tf.where(tf.equal(kind, 0), dots, hatching)
    brightness = tf.where(tf.equal(kind, 0), 1.0, 0.4)
    return _paint(image, region, tf.ones([3]) * brightness * (0.3 + 0.7 * pattern[..., tf.newaxis]))


def _outline(u: tf.Tensor, v: tf.Tensor, radius: tf.Tensor, kind: tf.Tensor) -> tf.Tensor:
    """A rounded triangle, a square, a star or a flower."""
    angle, distance = tf.atan2(v, u), tf.sqrt(u * u + v * v)
    lobes = tf.gather([3.0, 4.0, 5.0, 6.0], kind)
    depth = tf.gather([0.18, 0.10, 0.22, 0.14], kind)
    return _inside(radius * (1.0 + depth * tf.cos(lobes * angle)) - distance)


def _texture(u: tf.Tensor, v: tf.Tensor, kind: tf.Tensor, phase: tf.Tensor) -> tf.Tensor:
    stripes = tf.sin(18.0 * u + phase)
    return 0.5 + 0.5 * tf.where(tf.equal(kind, 0), stripes, tf.sign(stripes) * tf.sin(18.0 * v))


def _mark(u: tf.Tensor, v: tf.Tensor, radius: tf.Tensor, kind: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The masks of a disc and of the ring or cross on it."""
    distance = tf.sqrt(u * u + v * v)
    ring = _inside(0.22 * radius - tf.abs(distance - 0.62 * radius))
    cross = _inside(0.2 * radius - tf.minimum(tf.abs(u), tf.abs(v))) * _inside(0.8 * radius - distance)
    return _inside(radius - distance), tf.where(tf.equal(kind, 0), ring, cross)


def _inside(signed_distance: tf.Tensor) -> tf.Tensor:
    """1 inside, 0 outside, with a soft edge."""
    return tf.sigmoid(60.0 * signed_distance)


def _paint(image: tf.Tensor, region: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    region = region[..., tf.newaxis]
    return image * (1.0 - region) + colour * region


def _turned(u: tf.Tensor, v: tf.Tensor, angle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    cos, sin = tf.cos(angle), tf.sin(angle)
    return u * cos + v * sin, v * cos - u * sin


def _between(numbers: Iterator[tf.Tensor], low: float, high: float) -> tf.Tensor:
    return low + (high - low) * next(numbers)


def _colour(numbers: Iterator[tf.Tensor]) -> tf.Tensor:
    return tf.stack([_between(numbers, 0.25, 0.95) for _ in range(3)])
