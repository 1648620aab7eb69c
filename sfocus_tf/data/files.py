"""Pictures that are files: checking that all can be read before any long work starts."""

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

_SLOW = 5000  # pictures from which on a progress bar is shown


class CorruptPictureError(ValueError):
    """Images that cannot be decoded: all their `paths`, and in `reasons` why, such as "palette BMP: save it as PNG"."""

    def __init__(self, paths: Sequence[str], reasons: Sequence[str] | None = None):
        self.paths = tuple(paths)
        self.reasons = tuple(map(fault, self.paths) if reasons is None else reasons)
        each = [f"{path} ({reason})" for path, reason in zip(self.paths, self.reasons, strict=True)]
        super().__init__(
            f"{len(paths)} picture(s) cannot be decoded: {shown(each)}. Mend or remove them, or leave them out with "
            "--skip_corrupt (skip_corrupt=True)."
        )

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...], tuple[str, ...]]]:
        # Not the message, as exceptions are pickled otherwise; and the files may be gone, or on another machine.
        return type(self), (self.paths, self.reasons)


def usable(paths: Sequence[str], part: Part) -> np.ndarray:
    """Which pictures of a part can be used: `readable`, or all that are there where the part is not to be checked."""
    if part.check_pictures:
        return readable(paths, part.skip_corrupt)
    _all_there(paths)
    return np.ones(len(paths), bool)


def labelled(
    class_names: tuple[str, ...], paths: Sequence[str], labels: Sequence[int], numbers: np.ndarray, part: Part
) -> Source:
    """The source of pictures with one label each.

    Args:
        class_names: in the order of the label numbers.
        paths: of all pictures.
        labels: their class numbers.
        numbers: which of them to take, by position.
        part: what it says of corrupt pictures counts; see `usable`.

    Raises:
        FileNotFoundError: a picture is not there.
        CorruptPictureError: a picture cannot be decoded.
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
    """Decodes every picture once and tells which can be used.

    Args:
        paths: the files.
        skip_corrupt: leave corrupt pictures out instead of raising.

    Returns:
        `[paths]` bool.

    Raises:
        FileNotFoundError: a picture is not there.
        CorruptPictureError: a picture cannot be decoded, and `skip_corrupt` is off; or all cannot.
    """
    _all_there(paths)
    good = np.zeros(len(paths), bool)
    if not paths:
        return good
    numbered = tf.data.Dataset.from_tensor_slices(list(paths)).enumerate()

    def touch(number: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
        # The minimum depends on the pixels, so that the graph cannot skip the decoding.
        lowest = tf.reduce_min(tf.cast(decode(tf.io.read_file(path)), tf.int64))
        return number + tf.minimum(lowest, 0)

    checked = numbered.map(touch, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors().batch(256)
    bar = None
    if len(paths) >= _SLOW and sys.stderr.isatty():
        bar = keras.utils.Progbar(len(paths), unit_name="picture")
    for batch in checked.prefetch(2).as_numpy_iterator():
        good[batch] = True
        if bar is not None:
            bar.update(int(good.sum()))
    bad = [path for path, is_good in zip(paths, good, strict=True) if not is_good]
    if bad and (not skip_corrupt or len(bad) == len(paths)):
        raise CorruptPictureError(bad)
    return good


def _all_there(paths: Sequence[str]) -> None:
    missing = [path for path in map(require_utf8, paths) if not pathlib.Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} picture(s) are missing, such as {missing[0]}.")


def existing_folder(argument: str, path: str | pathlib.Path | None, expected: str) -> pathlib.Path:
    """`path` as a `Path`, or a clear error if it is not given, missing or no folder."""
    if not path:
        raise ValueError(f"{argument} is not set. Expected {expected}.")
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{argument}={str(path)!r} {kind}. Expected {expected}.")
    return folder


def text_lines(argument: str, path: pathlib.Path) -> list[str]:
    """The lines of a text file as any editor saves it (CRLF, a byte-order mark), without blank ones at the end.

    Raises:
        ValueError: the file is not UTF-8; the message names `argument` and the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{argument}: {path} is not UTF-8 (at byte {error.start}): save it as UTF-8.") from error
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def read_pictures(files: Sequence[pathlib.Path], size: tuple[int, int], center_crop: float | None = None) -> np.ndarray:
    """Pictures from files, as a network takes them: `[files, *size, 3]` float32 in [0, 255].

    Args:
        files: of the formats in `sfocus_tf.data.formats`; see `readable`, which says whether they can be read.
        size: height and width of the result, in pixels.
        center_crop: share of the shorter side that a central square window takes, in (0, 1]; the whole picture,
            stretched, for `None`.

    Raises:
        CorruptPictureError: a file cannot be decoded.
    """
    images = []
    for file in files:
        try:
            record = {"image": decode(tf.io.read_file(require_utf8(str(file))))}
        except tf.errors.InvalidArgumentError as error:
            raise CorruptPictureError([str(file)]) from error
        if center_crop is not None:
            record = central_crop(record, center_crop)
        images.append(tf.image.resize(record["image"], size, antialias=True).numpy())
    return np.clip(np.stack(images), 0.0, 255.0)
