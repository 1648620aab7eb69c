"""The ways of looking at an image that benchmarks/second_look.py compares."""

import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sfocus_tf import saved_models
from sfocus_tf.data import cub
from sfocus_tf.data.source import Part

# Tested at another size than trained, so that the network takes images of every size.
RECIPE = (
    "--dataset=folder:photos", "--method=cross_entropy", "--config.image_size=192", "--config.test_image_size=240",
    "--config.min_crop_area=0.3", "--batch_size=16", "--epochs=20", "--config.validation_fraction=0",
    "--config.attention_images_every=0", "--deterministic",
)  # fmt: skip
SIZES = (192, 208, 224, 240, 272, 288, 336)  # of one look at the whole image
BASES = (192, 240)  # of the first look and its second
THRESHOLDS = (0.2, 0.3, 0.45)
MAPS = (
    ("relative", "last", "target"), ("relative", "last", "rival"), ("relative", "inner", "target"),
    ("score", "last", "target"), ("contrast", "last", "target"),
)  # fmt: skip
SIDES = (0.6, 0.7, 0.8, 0.9)
_BATCH = 32
_ROUNDING = 1e-3  # of an edge on a whole pixel, in pixels
_FINE = 96  # rows and columns of the map that a region is read from


class Image(NamedTuple):
    """An image of CUB-200-2011, its label, and its box (top, left, bottom, right, in shares of the image)."""

    path: pathlib.Path
    label: int
    box: tuple[float, ...]


def listing(folder):
    """All images, in the order of their paths."""
    images = []
    for split in ("train", "test"):
        source = cub.source(folder, Part(split, check_images=False))
        for number, path in enumerate(source.files):
            record = source.read(tf.constant(number))
            images.append(Image(pathlib.Path(path), int(record["label"]), tuple(record["boxes"][0].numpy())))
    return sorted(images)


def all_looks(workdir, images, random):
    """The probabilities of every look, `[images, classes]` by name: "one:<size>" or "<size>:<region>:<amount>"."""
    model = saved_models.find(str(workdir)).load()
    full = [tf.image.decode_jpeg(tf.io.read_file(str(image.path)), 3).numpy() for image in images]
    found = {f"one:{size}": _probabilities(model, _resized(full, size)) for size in SIZES}
    for base in BASES:
        for name, regions in _regions(model, images, full, base, random).items():
            parts = [_cropped(pixels, region) for pixels, region in zip(full, regions, strict=True)]
            found[f"{base}:{name}"] = _probabilities(model, _resized(parts, base))
    return found


def _regions(model, images, full, base, random):
    """What to look at again, by name; a region is (top, left, bottom, right) in shares of the image."""
    first = _resized(full, base)
    regions = {}
    for of in dict.fromkeys(of for of, _, _ in MAPS):
        explained = [model.explain(first[start : start + _BATCH], of=of) for start in range(0, len(first), _BATCH)]
        for layer, role in [(layer, role) for kind, layer, role in MAPS if kind == of]:
            maps = np.concatenate([getattr(getattr(each, layer), role) for each in explained])
            for threshold in THRESHOLDS:
                regions[f"{of}-{layer}-{role}:{threshold}"] = [_attended(map_, threshold) for map_ in maps]
    for threshold in THRESHOLDS:
        like = regions[f"relative-last-target:{threshold}"]
        regions[f"random:{threshold}"] = [_elsewhere(region, random) for region in like]
    for side in SIDES:
        margin = (1 - side) / 2
        regions[f"central:{side}"] = [(margin, margin, 1 - margin, 1 - margin)] * len(full)
    regions["box:1"] = [image.box for image in images]
    return regions


def _attended(map_, threshold):
    """The smallest region with every position where a map reaches a share of its maximum."""
    if map_.max() <= 0:
        return 0.0, 0.0, 1.0, 1.0
    fine = tf.image.resize(map_[..., np.newaxis], (_FINE, _FINE)).numpy()[..., 0]
    rows, columns = (np.flatnonzero((fine >= threshold * fine.max()).any(axis)) for axis in (1, 0))
    return rows[0] / _FINE, columns[0] / _FINE, (rows[-1] + 1) / _FINE, (columns[-1] + 1) / _FINE


def _elsewhere(region, random):
    """A region of the same size, anywhere."""
    height, width = region[2] - region[0], region[3] - region[1]
    top, left = random.uniform(0, 1 - height), random.uniform(0, 1 - width)
    return top, left, top + height, left + width


def _cropped(pixels, region):
    """The pixels of a region, at least eight each way."""
    height, width = pixels.shape[:2]
    top, left = int(max(region[0], 0) * height + _ROUNDING), int(max(region[1], 0) * width + _ROUNDING)
    bottom, right = (int(np.ceil(region[edge] * side - _ROUNDING)) for edge, side in ((2, height), (3, width)))
    return pixels[min(top, height - 8) : max(bottom, top + 8), min(left, width - 8) : max(right, left + 8)]


def _resized(images, size):
    return np.stack([tf.image.resize(image.astype(np.float32), (size, size), antialias=True) for image in images])


def _probabilities(model, images):
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return np.concatenate([tf.nn.softmax(model.classifier(batch, training=False)).numpy() for batch in batches])
