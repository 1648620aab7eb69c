"""Reads PASCAL VOC from its unpacked archive (`VOCdevkit/VOC2012/...`): multi-label, with boxes and masks.

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

import math
import pathlib
from itertools import compress
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import tensorflow as tf

from sfocus_tf.data.files import existing_folder, text_lines, usable
from sfocus_tf.data.formats import decode
from sfocus_tf.data.source import Part, Record, Source, indexed_keys
from sfocus_tf.errors import unknown

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_EXPECTED = "the folder that has VOCdevkit/VOC2012 in it, or VOC2012 itself"


class _Annotation(NamedTuple):
    boxes: list[tuple[float, float, float, float]]
    box_labels: list[int]
    easy: set[int]  # classes with at least one object that is not difficult


def find_devkit(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """The folder that holds `JPEGImages` and `Annotations`, at or below `data_dir`; `None` if there is none."""
    if not data_dir:
        return None
    root = pathlib.Path(data_dir).expanduser()
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        # Either folder is enough: for an incomplete archive the error then names the missing one.
        if (folder / "JPEGImages").is_dir() or (folder / "Annotations").is_dir():
            return folder
    return None


def source(data_dir: str | pathlib.Path, part: Part) -> Source:
    """A part of a VOCdevkit; "test" is VOC's own `val`, since the labels of its `test` are not public.

    An image is labelled with the classes of its objects. `difficult` marks classes whose objects are all difficult:
    VOC's rules exclude the image from the average precision of such a class. Masks are included if every image of the
    part has one in `SegmentationClass`.

    Args:
        data_dir: the folder that contains `VOCdevkit/VOC2012`, or `VOC2012` itself.
        part: which images; "validation" is held out of VOC's `train`.

    Returns:
        The source.

    Raises:
        FileNotFoundError: the folder, the list of the split, an image or an annotation is missing.
        ValueError: an annotation is malformed, or has an unknown class or a box outside its image.
        CorruptImageError: an image cannot be decoded.
    """
    existing_folder("data_dir", data_dir, _EXPECTED)
    devkit = find_devkit(data_dir)
    if devkit is None:
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} has no VOC2012/JPEGImages. Expected {_EXPECTED}.")
    for name in ("JPEGImages", "Annotations"):
        existing_folder("data_dir", devkit / name, _EXPECTED)
    names = _names(devkit, "val" if part.split == "test" else "train")
    names = [names[number] for number in part.numbers(len(names))]
    paths = [str(devkit / "JPEGImages" / f"{name}.jpg") for name in names]
    masks = [str(devkit / "SegmentationClass" / f"{name}.png") for name in names]
    has_masks = all(pathlib.Path(mask).is_file() for mask in masks)
    good = usable(paths, part)
    if has_masks:
        good &= usable(masks, part)
    kept, skipped = list(compress(names, good)), tuple(compress(paths, ~good))
    paths = list(compress(paths, good))
    arrays = _arrays([_annotation(devkit / "Annotations" / f"{name}.xml") for name in kept])
    table, tables = tf.constant(paths), {key: tf.constant(value) for key, value in arrays.items()}
    mask_table = tf.constant(list(compress(masks, good)))

    def read(number: tf.Tensor) -> Record:
        record = {key: value[number] for key, value in tables.items()}
        record["image"] = decode(tf.io.read_file(table[number]))
        if has_masks:
            record["mask"] = decode_mask(tf.io.read_file(mask_table[number]))
        return record

    keys = indexed_keys(np.arange(len(kept)))
    return Source(CLASS_NAMES, len(kept), keys, read, multi_label=True, files=tuple(paths), skipped=skipped)


def decode_mask(data: tf.Tensor) -> tf.Tensor:
    """Decodes a segmentation PNG to `[height, width, 1]` uint8 palette indices: 0 background, 1 + class, 255 void.

    VOC's palette spreads the bits of an index over the upper bits of red, green and blue, lowest first.
    """
    colours = tf.cast(tf.io.decode_png(data, channels=3), tf.int32)
    number = tf.zeros_like(colours[..., :1])
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        part = tf.bitwise.right_shift(colours[..., channel : channel + 1], place) & 1
        number += tf.bitwise.left_shift(part, bit)
    return tf.cast(number, tf.uint8)


def _names(devkit: pathlib.Path, split: str) -> list[str]:
    path = devkit / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"data_dir: {path} is missing; it lists the images of the split.")
    names = [line.split()[0] for line in text_lines("data_dir", path) if line]
    if not names:
        raise ValueError(f"data_dir: {path} lists no images.")
    return names


def _annotation(path: pathlib.Path) -> _Annotation:
    if not path.is_file():
        raise FileNotFoundError(f"data_dir: the annotation {path} is missing.")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two from unknown encodings
        raise ValueError(f"data_dir: the annotation {path} is not valid XML: {error}.") from error
    width, height = (_number(path, root, f"size/{side}") for side in ("width", "height"))
    annotation = _Annotation([], [], set())
    for entry in root.iter("object"):
        name = entry.findtext("name") or ""
        if name not in CLASS_NAMES:
            raise unknown(f"object in {path}: name", name, CLASS_NAMES)
        label = CLASS_NAMES.index(name)
        # VOC counts pixels from 1 and includes the last.
        x0, y0, x1, y1 = (_number(path, entry, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
        if not (1 <= x0 <= x1 <= width and 1 <= y0 <= y1 <= height):
            raise ValueError(
                f"{path}: the box of {name!r} (xmin={x0:g}, ymin={y0:g}, xmax={x1:g}, ymax={y1:g}) is not inside its "
                f"image of {width:g}x{height:g} pixels."
            )
        annotation.boxes.append(((y0 - 1) / height, (x0 - 1) / width, y1 / height, x1 / width))
        annotation.box_labels.append(label)
        if (entry.findtext("difficult") or "0").strip() != "1":
            annotation.easy.add(label)
    return annotation


def _number(path: pathlib.Path, entry: ElementTree.Element, key: str) -> float:
    """Reads a finite number from an annotation."""
    text = entry.findtext(key)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        of = f" of the object {entry.findtext('name')!r}" if entry.tag == "object" else ""
        raise ValueError(f"data_dir: {path}: {key}{of} is {'missing' if text is None else repr(text)}, not a number.")
    return number


def _arrays(annotations: list[_Annotation]) -> dict[str, np.ndarray]:
    most = max([1, *(len(annotation.boxes) for annotation in annotations)])
    label = np.zeros((len(annotations), len(CLASS_NAMES)), np.float32)
    difficult = np.zeros_like(label)
    boxes = np.zeros((len(annotations), most, 4), np.float32)
    box_labels = np.full((len(annotations), most), -1, np.int32)
    for row, annotation in enumerate(annotations):
        label[row, annotation.box_labels] = 1
        difficult[row, sorted(set(annotation.box_labels) - annotation.easy)] = 1
        count = len(annotation.boxes)
        boxes[row, :count] = np.reshape(annotation.boxes, (count, 4))
        box_labels[row, :count] = annotation.box_labels
    return {"label": label, "difficult": difficult, "boxes": boxes, "box_labels": box_labels}
