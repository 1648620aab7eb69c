"""Image files: checks that all of them decode before any long work starts."""

import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.data.augmentation import central_crop
from sfocus_tf.data.formats import decode, fault
from sfocus_tf.data.listing import require_utf8, shown
from sfocus_tf.data.source import Part, Record, Source, indexed_keys

_SLOW = 5000  # show a progress bar from this many images on


class CorruptImageError(ValueError):
    """Raised for images that cannot be decoded; `paths` lists them and `reasons` says why, one for each path."""

    def __init__(self, paths: Sequence[str], reasons: Sequence[str] | None = None):
        self.paths = tuple(paths)
        self.reasons = tuple(map(fault, self.paths) if reasons is None else reasons)
        described = [f"{path} ({reason})" for path, reason in zip(self.paths, self.reasons, strict=True)]
        super().__init__(
            f"{len(paths)} image(s) cannot be decoded: {shown(described)}. Fix or remove them, or skip them with "
            "--skip_corrupt (skip_corrupt=True)."
        )

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...], tuple[str, ...]]]:
        # By default an exception is pickled as its message; and the files may be gone, or on another machine.
        return type(self), (self.paths, self.reasons)


def usable(paths: Sequence[str], part: Part) -> np.ndarray:
    """Which images of a part to use: those that are `readable`, or all of them with `check_images` off."""
    if part.check_images:
        return readable(paths, part.skip_corrupt)
    _all_there(paths)
    return np.ones(len(paths), bool)


def labelled(
    class_names: tuple[str, ...], paths: Sequence[str], labels: Sequence[int], numbers: np.ndarray, part: Part
) -> Source:
    """A source of images with one label each.

    Args:
        class_names: class names, indexed by label.
        paths: paths of all images.
        labels: their class numbers.
        numbers: positions of the images to take.
        part: how to treat corrupt images; see `usable`.

    Raises:
        FileNotFoundError: an image is missing.
        CorruptImageError: an image cannot be decoded.
    """
    good = usable([paths[number] for number in numbers], part)
    skipped = tuple(paths[number] for number in numbers[~good])
    table, label_table = tf.constant(paths), tf.constant(labels, tf.int32)

    def read(number: tf.Tensor) -> Record:
        return {"image": decode(tf.io.read_file(table[number])), "label": label_table[number]}

    kept = numbers[good]
    files = tuple(paths[number] for number in kept)
    return Source(class_names, len(kept), indexed_keys(kept), read, files=files, skipped=skipped)


def readable(paths: Sequence[str], skip_corrupt: bool) -> np.ndarray:
    """Decodes every image once to find those that can be used.

    Args:
        paths: the files.
        skip_corrupt: skip corrupt images instead of raising an error.

    Returns:
        `[paths]` bool, whether each image decodes.

    Raises:
        FileNotFoundError: an image is missing.
        CorruptImageError: an image cannot be decoded and `skip_corrupt` is off, or no image can.
    """
    _all_there(paths)
    good = np.zeros(len(paths), bool)
    if not paths:
        return good
    numbered = tf.data.Dataset.from_tensor_slices(list(paths)).enumerate()

    def touch(number: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
        # The minimum depends on the pixels, so the graph cannot skip decoding.
        lowest = tf.reduce_min(tf.cast(decode(tf.io.read_file(path)), tf.int64))
        return number + tf.minimum(lowest, 0)

    checked = numbered.map(touch, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors().batch(256)
    bar = None
    if len(paths) >= _SLOW and sys.stdout.isatty():
        bar = keras.utils.Progbar(len(paths), unit_name="image")
    for batch in checked.prefetch(2).as_numpy_iterator():
        good[batch] = True
        if bar is not None:
            bar.update(int(good.sum()))
    bad = [path for path, is_good in zip(paths, good, strict=True) if not is_good]
    if bad and (not skip_corrupt or len(bad) == len(paths)):
        raise CorruptImageError(bad)
    return good


def _all_there(paths: Sequence[str]) -> None:
    missing = [path for path in map(require_utf8, paths) if not pathlib.Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} image(s) are missing, such as {missing[0]}.")


def existing_folder(argument: str, path: str | pathlib.Path | None, expected: str) -> pathlib.Path:
    """`path` as a `Path`; raises an error if it is unset, missing or not a folder."""
    if not path:
        raise ValueError(f"{argument} is not set. Expected {expected}.")
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{argument}={str(path)!r} {kind}. Expected {expected}.")
    return folder


def text_lines(argument: str, path: pathlib.Path) -> list[str]:
    """The lines of a text file without trailing blank ones; accepts CRLF and a byte-order mark.

    Raises:
        ValueError: the file is not UTF-8; the message names `argument` and the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{argument}: {path} is not UTF-8 (at byte {error.start}): save it as UTF-8.") from error
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def read_images(files: Sequence[pathlib.Path], size: tuple[int, int], center_crop: float | None = None) -> np.ndarray:
    """Reads image files into one batch: `[files, *size, 3]` float32 in [0, 255].

    Args:
        files: in the formats of `sfocus_tf.data.formats`; `readable` checks them.
        size: height and width of the result, in pixels.
        center_crop: side of a central square crop, as a share of the shorter side, in (0, 1]; `None` for the whole
            image, stretched.

    Raises:
        CorruptImageError: a file cannot be decoded.
    """
    images = []
    for file in files:
        try:
            record = {"image": decode(tf.io.read_file(require_utf8(str(file))))}
        except tf.errors.InvalidArgumentError as error:
            raise CorruptImageError([str(file)]) from error
        if center_crop is not None:
            record = central_crop(record, center_crop)
        images.append(tf.image.resize(record["image"], size, antialias=True).numpy())
    return np.clip(np.stack(images), 0.0, 255.0)
