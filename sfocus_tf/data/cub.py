"""Reads CUB-200-2011 from its unpacked archive (`CUB_200_2011/images.txt`, ...), with bounding boxes.

Source: Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
"""

import pathlib
from itertools import compress

import numpy as np
import PIL.Image
import tensorflow as tf

from sfocus_tf.data.files import existing_folder, text_lines, usable
from sfocus_tf.data.formats import decode
from sfocus_tf.data.source import Part, Record, Source, indexed_keys

_EXPECTED = "the folder that has CUB_200_2011 in it, or CUB_200_2011 itself"
_Rows = dict[str, list[str]]  # by the number at their beginning
_SPLIT = "train_test_split.txt"


def find_folder(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """The folder that holds `images.txt` and the other lists, at or below `data_dir`; `None` if there is none."""
    if not data_dir:
        return None
    root = pathlib.Path(data_dir).expanduser()
    for folder in (root, root / "CUB_200_2011"):
        # Either file is enough: for an incomplete archive the error then names the missing one.
        if (folder / "images.txt").is_file() or (folder / _SPLIT).is_file():
            return folder
    return None


def source(data_dir: str | pathlib.Path, part: Part) -> Source:
    """A part of CUB-200-2011, split by its own `train_test_split.txt`.

    Args:
        data_dir: the folder that contains `CUB_200_2011`, or that folder itself.
        part: which images to take.

    Returns:
        The source; each image has one box. Classes without images (in a subset of the data set) are left out.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a line is malformed, or a box lies outside its image.
        CorruptImageError: an image cannot be decoded.
    """
    existing_folder("data_dir", data_dir, _EXPECTED)
    root = find_folder(data_dir)
    if root is None:
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} has no CUB_200_2011/images.txt. Expected {_EXPECTED}.")
    files, labels, boxes, trains = (
        _table(root / name) for name in ("images.txt", "image_class_labels.txt", "bounding_boxes.txt", _SPLIT)
    )
    classes = _table(root / "classes.txt")
    occurring = {labels[number][0] for number in files if number in labels}
    numbering = {number: label for label, number in enumerate(number for number in classes if number in occurring)}
    _refuse_incomplete(root, files, labels, boxes, trains, classes)
    ids = [number for number in files if (trains[number][0] == "1") == (part.split != "test")]
    ids = [ids[position] for position in part.numbers(len(ids))]
    if not ids:
        raise ValueError(f"data_dir: {root} lists no images for split={part.split!r}.")
    paths = {number: str(root / "images" / files[number][0]) for number in ids}
    good = usable([paths[number] for number in ids], part)
    skipped = tuple(paths[number] for number in compress(ids, ~good))
    ids = list(compress(ids, good))
    table = tf.constant([paths[number] for number in ids])
    label_table = tf.constant([numbering[labels[number][0]] for number in ids], tf.int32)
    box_table = tf.constant([_box(paths[number], boxes[number]) for number in ids], tf.float32)

    def read(number: tf.Tensor) -> Record:
        label = label_table[number]
        image = decode(tf.io.read_file(table[number]))
        return {"image": image, "label": label, "boxes": box_table[number][tf.newaxis], "box_labels": label[tf.newaxis]}

    names = tuple(classes[number][0].split(".", 1)[-1] for number in numbering)
    kept = tuple(paths[number] for number in ids)
    return Source(names, len(ids), indexed_keys(np.arange(len(ids))), read, files=kept, skipped=skipped)


def _refuse_incomplete(
    root: pathlib.Path, files: _Rows, labels: _Rows, boxes: _Rows, trains: _Rows, classes: _Rows
) -> None:
    """Raises a `ValueError` for the first image that lacks a label of a known class, a split or a box."""
    for number in files:
        if not (number in labels and number in trains and len(boxes.get(number, ())) == 4):
            raise ValueError(
                f"data_dir: image {number} of {root / 'images.txt'} has no label, split or box of 4 numbers."
            )
        if trains[number][0] not in ("0", "1"):
            raise ValueError(
                f"data_dir: {root / _SPLIT} gives image {number} the split {trains[number][0]!r}: expected 1 to train, "
                "0 to test."
            )
        if labels[number][0] not in classes:
            raise ValueError(
                f"data_dir: {root / 'image_class_labels.txt'} gives image {number} the class {labels[number][0]}, "
                f"which is not in classes.txt: expected 1 to {len(classes)}."
            )


def _table(path: pathlib.Path) -> _Rows:
    """Reads a file of `<number> <value> ...` lines into a dictionary keyed by number."""
    if not path.is_file():
        raise FileNotFoundError(f"data_dir: {path} is missing.")
    rows = [line.split() for line in text_lines("data_dir", path) if line]
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None:
        raise ValueError(f"{path}: expected lines of '<number> <value>', got {' '.join(short)!r}.")
    return {row[0]: row[1:] for row in rows}


def _box(path: str, values: list[str]) -> tuple[float, float, float, float]:
    """Converts `x y width height` in pixels to relative `ymin, xmin, ymax, xmax`."""
    try:
        x, y, box_width, box_height = map(float, values)
    except ValueError as error:
        raise ValueError(f"bounding_boxes.txt: the box {' '.join(values)!r} of {path} is not 4 numbers.") from error
    with PIL.Image.open(path) as image:  # reads the header only
        width, height = image.size
    # One pixel of tolerance, since the data set rounds its boxes.
    if not (  # negated, so that NaN fails too
        x >= -1
        and y >= -1
        and box_width > 0
        and box_height > 0
        and x + box_width <= width + 1
        and y + box_height <= height + 1
    ):
        raise ValueError(
            f"bounding_boxes.txt: the box x={x:g} y={y:g} width={box_width:g} height={box_height:g} is not inside its "
            f"image {path} of {width}x{height} pixels."
        )
    y1, x1 = min((y + box_height) / height, 1.0), min((x + box_width) / width, 1.0)
    return max(y / height, 0.0), max(x / width, 0.0), y1, x1
