"""Reads Caltech-256 from its unpacked archive: `256_ObjectCategories/001.ak47/001_0001.jpg`, ...

Source: Griffin, Holub and Perona, "Caltech-256 Object Category Dataset", CNS-TR-2007-001.
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Iterator

from etils import epath

from sfocus_tf.data.files import labelled
from sfocus_tf.data.listing import folders_in, images_in
from sfocus_tf.data.source import Part, Source

LABELS = epath.Path(__file__).parent / "labels.txt"
TRAIN_IMAGES = 60  # per class, as in section 4 of its paper
_FOLDER = "256_ObjectCategories"


def find_folder(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """The folder that holds `001.ak47`, ..., at or below `data_dir`; `None` if there is none."""
    if not data_dir:
        return None
    root = pathlib.Path(data_dir).expanduser()
    return next((folder for folder in (root, root / _FOLDER) if folder.is_dir() and _class_folders(folder)), None)


def _class_folders(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    return [entry for entry in folders_in(folder) if re.match(r"[0-9]{3}\.", entry.name)]


def split_images(folder: epath.Path, train: bool) -> Iterator[tuple[epath.Path, int]]:
    """The images of `train` (60 per class) or `test` (all others) with their labels, class by class.

    A class's training images are those whose file names have the lowest SHA-256, so the split is the same on any
    machine. Clutter is left out, as are the archive's stray files and folders (`056.dog/greg`,
    `198.spider/RENAME2`).

    Args:
        folder: the folder with class folders such as `001.ak47`; it may hold only some of the classes.
        train: which split.

    Raises:
        ValueError: a folder is no class of Caltech-256, or has 60 images or fewer.
    """
    names = LABELS.read_text().split()
    for class_folder in _class_folders(folder):
        number, _, name = class_folder.name.partition(".")
        if name == "clutter":
            continue
        if int(number) not in range(1, len(names) + 1) or names[int(number) - 1] != name:
            raise ValueError(f"{class_folder} is no class of Caltech-256: expected folders such as 001.ak47.")
        images = [epath.Path(path) for path in images_in(class_folder) if path.endswith(".jpg")]
        images.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
        if len(images) <= TRAIN_IMAGES:
            raise ValueError(
                f"{class_folder} has {len(images)} images: expected more than {TRAIN_IMAGES}. Is it all there?"
            )
        chosen = images[:TRAIN_IMAGES] if train else images[TRAIN_IMAGES:]
        for path in sorted(chosen, key=lambda path: path.name):
            yield path, int(number) - 1


def source(data_dir: str | pathlib.Path, part: Part) -> Source:
    """A part of Caltech-256; see `split_images` for its split.

    Args:
        data_dir: the folder that contains `256_ObjectCategories`, or that folder itself.
        part: which images; "validation" is held out of the training images.

    Returns:
        The source; it always has all 256 classes.

    Raises:
        FileNotFoundError: there are no class folders.
        ValueError: a folder is no class of Caltech-256, or has too few images.
        CorruptImageError: an image cannot be decoded.
    """
    folder = find_folder(data_dir)
    if folder is None:
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} has no {_FOLDER}/001.ak47.")
    images = list(split_images(epath.Path(folder), part.split != "test"))
    paths, labels = [str(path) for path, _ in images], [label for _, label in images]
    return labelled(tuple(LABELS.read_text().split()), paths, labels, part.numbers(len(images)), part)
