"""Reads images from class folders: `<data_dir>/{train,validation,test}/<class>/*.jpg`, or `<data_dir>/<class>/*.jpg`;
and ImageNet's layout.

See `sfocus_tf.data.listing` for the files and folders it ignores.
"""

import dataclasses
import pathlib
import re

import numpy as np

from sfocus_tf.data.files import existing_folder, labelled
from sfocus_tf.data.formats import EXTENSIONS
from sfocus_tf.data.listing import folders_in, images_below, images_in
from sfocus_tf.data.source import Part, Source

_EXPECTED = (
    "a folder with class folders, <class>/*.jpg, or with class folders in train/ and in test/, <split>/<class>/*.jpg"
)
_SPLITS = ("train", "validation", "val", "test")
_EVERY = 5  # of unsplit images of a class, which one is for testing
_EXPECTED_OF_IMAGENET = "class folders in train/ and val/, such as train/n01440764/*.JPEG and val/n01440764/*.JPEG"
_SYNSET = re.compile("n[0-9]")


def find_imagenet(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """The folder that holds ILSVRC2012's `train/n01440764`, ..., at or below `data_dir`; `None` if there is none."""
    if not data_dir:
        return None
    root = pathlib.Path(data_dir).expanduser()
    for folder in (root, root / "ILSVRC" / "Data" / "CLS-LOC"):
        # `val` alone is enough: the error then names the missing `train`.
        splits = (folder / split for split in ("train", "val", "validation"))
        if any(_SYNSET.match(entry.name) for split in splits if split.is_dir() for entry in folders_in(split)):
            return folder
    return None


def source(data_dir: str | pathlib.Path | None, part: Part) -> Source:
    """A part of a folder of class folders.

    Without a `validation` (or `val`) folder, validation images are held out of `train`; without a `test` folder,
    `validation` is the test split. If the folder has none of these but class folders, every fifth image of a class, by
    file name, is a test image.

    Args:
        data_dir: the folder.
        part: which images; `validation_fraction` is ignored if there are both `validation` and `test` folders.

    Returns:
        The source; classes are the folders of `train`, sorted by name, or of the folder itself.

    Raises:
        FileNotFoundError: the folder, or `train` or `test` in it, is missing.
        ValueError: a class folder is empty, or the class folders of a split differ from those of `train`.
        CorruptImageError: an image cannot be decoded.
    """
    root = existing_folder("data_dir", data_dir, _EXPECTED)
    is_split = root.name in _SPLITS and _splits_in(root.parent) != [root.name]
    if not _splits_in(root) and not is_split:
        return _unsplit(root, part)
    folders = {"train": existing_folder("data_dir", root / "train", _EXPECTED), "test": root / "test"}
    own_validation = root / ("val" if (root / "val").is_dir() else "validation")
    if not folders["test"].is_dir():
        folders["test"] = own_validation
    elif own_validation.is_dir():
        folders["validation"] = own_validation
        part = dataclasses.replace(part, validation_fraction=0.0)
    return _source(folders, part, _EXPECTED)


def imagenet(data_dir: str | pathlib.Path, part: Part) -> Source:
    """A part of ILSVRC2012: its `val` (or `validation`) is the test split; its unlabelled `test` is not used.

    Args:
        data_dir: the folder from `find_imagenet`.
        part: which images; "validation" is held out of `train`.

    Returns:
        The source; classes are WordNet synset ids, sorted.

    Raises:
        As `source`.
    """
    root = pathlib.Path(data_dir)
    test = root / ("validation" if (root / "validation").is_dir() else "val")
    return _source({"train": root / "train", "test": test}, part, _EXPECTED_OF_IMAGENET)


def _splits_in(folder: pathlib.Path) -> list[str]:
    return [name for name in _SPLITS if (folder / name).is_dir()]


def _unsplit(root: pathlib.Path, part: Part) -> Source:
    """A part of the class folders in `root`."""
    class_names = tuple(entry.name for entry in folders_in(root))
    # Images directly inside, so that a folder of data sets is not taken for one.
    if len(class_names) < 2 or not all(images_in(root / name) for name in class_names):
        raise FileNotFoundError(f"data_dir={str(root)!r} has no train/, and no class folders. Expected {_EXPECTED}.")
    paths, labels = _images(root, class_names)
    place_in_class = np.arange(len(labels)) - np.searchsorted(labels, labels)
    for_test = place_in_class % _EVERY == _EVERY - 1
    chosen = np.flatnonzero(for_test == (part.split == "test"))
    found = labelled(class_names, paths, labels, chosen[part.numbers(len(chosen))], part)
    note = f"{root} has no train/ and test/: every fifth image of a class, by file name, is a test image"
    return dataclasses.replace(found, note=note)


def _source(folders: dict[str, pathlib.Path], part: Part, expected: str) -> Source:
    """A part of the splits in these folders; "validation" is held out of "train" if it has no folder of its own."""
    folder = existing_folder("data_dir", folders.get(part.split, folders["train"]), expected)
    class_names = _classes(folders["train"], expected)
    _same_classes(folder, class_names, expected)
    paths, labels = _images(folder, class_names)
    whole = part.split in folders and part.split != "train"
    numbers = (dataclasses.replace(part, split="test") if whole else part).numbers(len(paths))
    return labelled(class_names, paths, labels, numbers, part)


def _classes(folder: pathlib.Path, expected: str) -> tuple[str, ...]:
    names = tuple(entry.name for entry in folders_in(folder))
    if len(names) < 2:
        loose = bool(images_in(folder))
        raise ValueError(
            f"data_dir: {folder} has {len(names)} class folder(s){' and images outside of them' if loose else ''}, "
            f"expected two or more: {expected}."
        )
    return names


def _same_classes(folder: pathlib.Path, class_names: tuple[str, ...], expected: str) -> None:
    own = set(_classes(folder, expected))
    missing, extra = sorted(set(class_names) - own), sorted(own - set(class_names))
    if missing or extra:
        raise ValueError(
            f"data_dir: the class folders of {folder} differ from those of train: "
            f"missing {', '.join(missing) or 'none'}; not in train {', '.join(extra) or 'none'}."
        )


def _images(folder: pathlib.Path, class_names: tuple[str, ...]) -> tuple[list[str], list[int]]:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        images = images_below(folder / name)
        if not images:
            raise ValueError(f"data_dir: {folder / name} has no images ({', '.join(EXTENSIONS)}).")
        paths += images
        labels += [label] * len(images)
    return paths, labels
