"""Caltech-256 as it is unpacked from its archive: `256_ObjectCategories/001.ak47/001_0001.jpg`, ...

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
TRAIN_PICTURES = 60  # a class, as in section 4 of its paper
_FOLDER = "256_ObjectCategories"


def find_folder(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """The folder with `001.ak47`, ... in or below `data_dir`, or `None`."""
    if not data_dir:
        return None
    root = pathlib.Path(data_dir).expanduser()
    return next((folder for folder in (root, root / _FOLDER) if folder.is_dir() and _class_folders(folder)), None)


def _class_folders(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    return [entry for entry in folders_in(folder) if re.match(r"[0-9]{3}\.", entry.name)]


def split_pictures(folder: epath.Path, train: bool) -> Iterator[tuple[epath.Path, int]]:
    """The pictures of `train` (60 a class) or of `test` (all others) with their labels, class by class.

    A class's training pictures are those whose file names have the lowest SHA-256: the same in any order of files, on
    any machine. Clutter is left out, as are the stray files and folders of the archive (`056.dog/greg`,
    `198.spider/RENAME2`).

    Args:
        folder: with the folders of the classes, such as `001.ak47`; it may have some classes only.
        train: which split.

    Raises:
        ValueError: a folder that is no class of Caltech-256, or one with 60 pictures or fewer.
    """
    names = LABELS.read_text().split()
    for class_folder in _class_folders(folder):
        number, _, name = class_folder.name.partition(".")
        if name == "clutter":
            continue
        if int(number) not in range(1, len(names) + 1) or names[int(number) - 1] != name:
            raise ValueError(f"{class_folder} is no class of Caltech-256: expected folders such as 001.ak47.")
        found = [epath.Path(path) for path in images_in(class_folder) if path.endswith(".jpg")]
        found.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
        if len(found) <= TRAIN_PICTURES:
            raise ValueError(
                f"{class_folder} has {len(found)} pictures: expected more than {TRAIN_PICTURES}. Is it all there?"
            )
        chosen = found[:TRAIN_PICTURES] if train else found[TRAIN_PICTURES:]
        for path in sorted(chosen, key=lambda path: path.name):
            yield path, int(number) - 1


def source(data_dir: str | pathlib.Path, part: Part) -> Source:
    """A part of Caltech-256; see `split_pictures` for its split.

    Args:
        data_dir: the folder that has `256_ObjectCategories` in it, or that folder itself.
        part: which pictures; "validation" is held out of the training ones.

    Returns:
        The source; it always has all 256 classes.

    Raises:
        FileNotFoundError: there are no folders of classes.
        ValueError: a folder that is no class of Caltech-256, or one with too few pictures.
        CorruptPictureError: a picture cannot be decoded.
    """
    folder = find_folder(data_dir)
    if folder is None:
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} has no {_FOLDER}/001.ak47.")
    pictures = list(split_pictures(epath.Path(folder), part.split != "test"))
    paths, labels = [str(path) for path, _ in pictures], [label for _, label in pictures]
    return labelled(tuple(LABELS.read_text().split()), paths, labels, part.numbers(len(pictures)), part)
