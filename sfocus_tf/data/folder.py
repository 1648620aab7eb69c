"""A folder of class folders: `<data_dir>/{train,validation,test}/<class>/*.jpg`."""

import pathlib

import numpy as np
import tensorflow as tf

from sfocus_tf.data.files import EXTENSIONS, existing_folder, readable
from sfocus_tf.data.source import Record, Source, decode, indexed_keys, part_of

_EXPECTED = "a folder with class folders of pictures in train/ and in test/ (or validation/), as <split>/<class>/*.jpg"


def source(
    data_dir: str | pathlib.Path | None, split: str, validation_fraction: float = 0.0, skip_corrupt: bool = False
) -> Source:
    """One split of a folder of class folders.

    Where there is no `validation` folder, validation pictures are taken from `train`; where there is no `test`
    folder, `validation` is the test split.

    Args:
        data_dir: the folder.
        split: "train", "validation" or "test".
        validation_fraction: share of `train` held out, in [0, 1), where there is no `validation` folder.
        skip_corrupt: leave corrupt pictures out instead of raising.

    Returns:
        The source; classes are in the order of their names in `train`.

    Raises:
        FileNotFoundError: the folder, or `train` or `test` in it, is missing.
        ValueError: a split is empty, or its class folders are not those of `train`.
        CorruptPictureError: a picture cannot be decoded.
    """
    root = existing_folder("data_dir", data_dir, _EXPECTED)
    train = existing_folder("data_dir", root / "train", _EXPECTED)
    class_names = _classes(train)
    has_test, has_validation = (root / "test").is_dir(), (root / "validation").is_dir()
    held_out = split == "validation" and not (has_validation and has_test)
    folder = train if held_out else root / split
    if split == "test" and not has_test:
        folder = root / "validation"
    existing_folder("data_dir", folder, _EXPECTED)
    _same_classes(folder, class_names)
    paths, labels = _pictures(folder, class_names)
    fraction = 0.0 if has_validation and has_test else validation_fraction
    numbers = part_of(len(paths), split, fraction) if held_out or split == "train" else np.arange(len(paths))
    good = readable([paths[number] for number in numbers], skip_corrupt)
    skipped = tuple(paths[number] for number in numbers[~good])
    table, label_table = tf.constant(paths), tf.constant(labels, tf.int32)

    def read(number: tf.Tensor) -> Record:
        return {"image": decode(tf.io.read_file(table[number])), "label": label_table[number]}

    kept = numbers[good]
    files = tuple(paths[number] for number in kept)
    return Source(class_names, len(kept), indexed_keys(kept), read, files=files, skipped=skipped)


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if len(names) < 2:
        raise ValueError(f"data_dir: {folder} has {len(names)} class folder(s), expected two or more: {_EXPECTED}.")
    return names


def _same_classes(folder: pathlib.Path, class_names: tuple[str, ...]) -> None:
    found = set(_classes(folder))
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
        found = sorted(str(path) for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not found:
            raise ValueError(f"data_dir: {folder / name} has no pictures ({', '.join(EXTENSIONS)}).")
        paths += found
        labels += [label] * len(found)
    return paths, labels
