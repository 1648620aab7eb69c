"""Images in class folders: `<data_dir>/{train,validation,test}/<class>/*.jpg`, and ImageNet's.

See `sfocus_tf.data.listing` for the files and folders that are left out.
"""

import dataclasses
import pathlib
import re

from sfocus_tf.data.files import existing_folder, labelled
from sfocus_tf.data.formats import EXTENSIONS
from sfocus_tf.data.listing import folders_in, images_below, images_in
from sfocus_tf.data.source import Part, Source

_EXPECTED = "a folder with class folders in train/ and in test/ (or validation/, val/), as <split>/<class>/*.jpg"
_EXPECTED_OF_IMAGENET = "class folders in train/ and val/, such as train/n01440764/*.JPEG and val/n01440764/*.JPEG"
_SYNSET = re.compile("n[0-9]")


def find_imagenet(data_dir: str | pathlib.Path | None) -> pathlib.Path | None:
    """The folder with ILSVRC2012's `train/n01440764`, ... in or below `data_dir`, or `None`."""
    if not data_dir:
        return None
    root = pathlib.Path(data_dir).expanduser()
    for folder in (root, root / "ILSVRC" / "Data" / "CLS-LOC"):
        # By `val` also, so that what is missing beside it is named.
        splits = (folder / split for split in ("train", "val", "validation"))
        if any(_SYNSET.match(entry.name) for split in splits if split.is_dir() for entry in folders_in(split)):
            return folder
    return None


def source(data_dir: str | pathlib.Path | None, part: Part) -> Source:
    """A part of a folder of class folders.

    Where there is no `validation` (or `val`) folder, validation pictures are taken from `train`; where there is no
    `test` folder, `validation` is the test split.

    Args:
        data_dir: the folder.
        part: which pictures; `validation_fraction` counts where there is no `validation` folder beside `test`.

    Returns:
        The source; classes are in the order of their names in `train`.

    Raises:
        FileNotFoundError: the folder, or `train` or `test` in it, is missing.
        ValueError: a split is empty, or its class folders are not those of `train`.
        CorruptPictureError: a picture cannot be decoded.
    """
    root = existing_folder("data_dir", data_dir, _EXPECTED)
    folders = {"train": existing_folder("data_dir", root / "train", _EXPECTED), "test": root / "test"}
    own_validation = root / ("val" if (root / "val").is_dir() else "validation")
    if not folders["test"].is_dir():
        folders["test"] = own_validation
    elif own_validation.is_dir():
        folders["validation"] = own_validation
        part = dataclasses.replace(part, validation_fraction=0.0)
    return _source(folders, part, _EXPECTED)


def imagenet(data_dir: str | pathlib.Path, part: Part) -> Source:
    """A part of ILSVRC2012: its `val` (or `validation`) is the test split, its own unlabelled `test` is left alone.

    Args:
        data_dir: what `find_imagenet` found.
        part: which pictures; "validation" is held out of `train`.

    Returns:
        The source; classes are the numbers of their WordNet synsets, in order.

    Raises:
        As `source`.
    """
    root = pathlib.Path(data_dir)
    test = root / ("validation" if (root / "validation").is_dir() else "val")
    return _source({"train": root / "train", "test": test}, part, _EXPECTED_OF_IMAGENET)


def _source(folders: dict[str, pathlib.Path], part: Part, expected: str) -> Source:
    """A part of the splits in these folders; "validation" is held out of "train" where it has none of its own."""
    folder = existing_folder("data_dir", folders.get(part.split, folders["train"]), expected)
    class_names = _classes(folders["train"], expected)
    _same_classes(folder, class_names, expected)
    paths, labels = _pictures(folder, class_names)
    whole = part.split in folders and part.split != "train"
    numbers = (dataclasses.replace(part, split="test") if whole else part).numbers(len(paths))
    return labelled(class_names, paths, labels, numbers, part)


def _classes(folder: pathlib.Path, expected: str) -> tuple[str, ...]:
    names = tuple(entry.name for entry in folders_in(folder))
    if len(names) < 2:
        loose = bool(images_in(folder))
        raise ValueError(
            f"data_dir: {folder} has {len(names)} class folder(s){' and pictures outside of them' if loose else ''}, "
            f"expected two or more: {expected}."
        )
    return names


def _same_classes(folder: pathlib.Path, class_names: tuple[str, ...], expected: str) -> None:
    found = set(_classes(folder, expected))
    missing, extra = sorted(set(class_names) - found), sorted(found - set(class_names))
    if missing or extra:
        raise ValueError(
            f"data_dir: the class folders of {folder} are not those of train: "
            f"missing {', '.join(missing) or 'none'}; not in train {', '.join(extra) or 'none'}."
        )


def _pictures(folder: pathlib.Path, class_names: tuple[str, ...]) -> tuple[list[str], list[int]]:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = images_below(folder / name)
        if not found:
            raise ValueError(f"data_dir: {folder / name} has no pictures ({', '.join(EXTENSIONS)}).")
        paths += found
        labels += [label] * len(found)
    return paths, labels
