"""Data sets of TensorFlow Datasets (and Caltech-256, in its form), by our name or as `tfds:<name>`."""

import pathlib
import re
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from sfocus_tf.data.caltech256 import caltech256_dataset_builder  # noqa: F401  tells TFDS of Caltech-256
from sfocus_tf.data.files import existing_folder
from sfocus_tf.data.formats import decode
from sfocus_tf.data.listing import is_data, shown
from sfocus_tf.data.source import Part, Record, Source
from sfocus_tf.errors import unknown

# Our name -> (TFDS' name, train split, test split).
NAMES = {
    "cifar10": ("cifar10", "train", "test"),
    "cifar100": ("cifar100", "train", "test"),
    "caltech256": ("caltech256", "train", "test"),
    "cub200": ("caltech_birds2011", "train", "test"),
    "ilsvrc2012": ("imagenet2012", "train", "validation"),
    "voc2012": ("voc/2012", "train", "validation"),
}
_SHUFFLE_BUFFER = 20_000  # encoded pictures; larger than most sets, 2 GB at ImageNet's size
_MOST_BOXES = 64


class DataUnavailableError(OSError):
    """A data set is neither prepared nor to be downloaded; the message says where to put it by hand."""


def source(name: str, data_dir: str | pathlib.Path | None, part: Part, looked_for: str | None = None) -> Source:
    """A part of a data set of TFDS.

    Args:
        name: one of `NAMES`, or `tfds:` and a name of TFDS, whose set has a single label ("label"), or objects with
            boxes and labels.
        data_dir: where TFDS keeps prepared data; `None` for its own default.
        part: which pictures; "validation" is the end of `train`. Pictures are not checked beforehand.
        looked_for: what of an unpacked archive was not found in `data_dir`, for the message of an error.

    Returns:
        The source.

    Raises:
        FileNotFoundError: `data_dir` does not exist.
        ValueError: TFDS has no such set, it is no set of labelled pictures, or it has no split to test on.
        DataUnavailableError: the data are not there and cannot be downloaded, or `data_dir` has other files.
    """
    tfds_name, train, test = NAMES.get(name, (name.removeprefix("tfds:"), "train", "test"))
    if data_dir is not None:
        existing_folder("data_dir", data_dir, "a folder with data that TFDS has prepared, or can prepare there")
    builder = _builder(tfds_name, data_dir)
    if data_dir is not None and not builder.is_prepared():
        _require_free(pathlib.Path(data_dir).expanduser(), name, tfds_name, looked_for)
    _prepare(builder, name, looked_for if data_dir is not None else None)
    splits = list(builder.info.splits)
    if splits and test not in splits:
        test = next((other for other in ("validation", "val") if other in splits), test)
    if splits and not {train, test} <= set(splits):
        raise ValueError(
            f"dataset={name!r} has the splits {', '.join(splits)}: expected train, and test or validation."
        )
    held_out = round(100 * (1 - part.validation_fraction))
    kept = f"{train}[:{held_out}%]" if part.validation_fraction else train
    split = {"train": kept, "validation": f"{train}[{held_out}%:]", "test": test}[part.split]
    label_feature, multi_label = _labels(name, builder.info.features)
    dataset = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    size = builder.info.splits[split].num_examples if splits else _count(dataset)
    if part.examples is not None:
        dataset, size = dataset.take(part.examples), min(size, part.examples)

    def keys(seed: tf.Tensor | None) -> tf.data.Dataset:
        if seed is None:
            return dataset
        # Of this function's graph alone. TensorFlow compares (global seed, seed) with (0, 0), and where the first is 0
        # cannot go on to the second, which is a tensor here.
        tf.random.set_seed(1)
        return dataset.shuffle(min(size, _SHUFFLE_BUFFER), seed, reshuffle_each_iteration=False)

    def read(example: dict[str, Any]) -> Record:
        record: Record = {"image": decode(example["image"]), "label": tf.cast(example.get("label", -1), tf.int32)}
        if multi_label:
            record["label"] = _present(example["objects"]["label"], label_feature.num_classes)
            if "labels_no_difficult" in example:
                easy = _present(example["labels_no_difficult"], label_feature.num_classes)
                record["difficult"] = record["label"] - easy
        record.update(_regions(example, record["label"]))
        if builder.name == "voc":
            # VOC counts pixels from 1 and includes the last; TFDS divides by the size only.
            height, width = tf.unstack(tf.cast(tf.shape(record["image"])[:2], tf.float32))
            first = tf.stack([1.0 / height, 1.0 / width, 0.0, 0.0])
            record["boxes"] -= tf.where(record["box_labels"][:, tf.newaxis] >= 0, first, 0.0)
        return record

    return Source(_class_names(builder, label_feature, train), size, keys, read, multi_label=multi_label)


def _present(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Class numbers, some perhaps several times or none at all, as `[classes]` of 0 and 1."""
    # The maximum over no labels is the lowest number.
    return tf.maximum(tf.reduce_max(tf.one_hot(labels, classes), axis=0), 0.0)


def _class_names(builder: Any, label_feature: Any, train: str) -> tuple[str, ...]:
    """The names of the classes; TFDS has numbers for CUB's, whose names are in the paths of its pictures."""
    names = list(label_feature.names)
    if builder.name != "caltech_birds2011":
        return tuple(names)
    kept = {"label": True, "image/filename": True}
    for example in builder.as_dataset(split=train, decoders=tfds.decode.PartialDecoding(kept)).as_numpy_iterator():
        found = re.search(r"\d{3}\.([^/]+)/", example["image/filename"].decode())
        if found:
            names[example["label"]] = found.group(1)
    return tuple(names)


def _builder(name: str, data_dir: str | pathlib.Path | None) -> Any:
    try:
        return tfds.builder(name, data_dir=None if data_dir is None else str(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        raise unknown("dataset: TFDS name", name, tfds.list_builders()) from error


def _count(dataset: tf.data.Dataset) -> int:
    """Number of elements, where TFDS has not recorded it."""
    known = int(dataset.cardinality())
    return known if known >= 0 else int(dataset.reduce(0, lambda count, _: count + 1))


def _require_free(folder: pathlib.Path, name: str, tfds_name: str, looked_for: str | None) -> None:
    """Raises an error unless a folder is empty or TFDS's own: nothing is downloaded among other files."""
    found = sorted(entry.name for entry in folder.iterdir() if is_data(entry.name))
    prepared = (next(folder.glob(f"{depth}/dataset_info.json"), None) for depth in ("*/*", "*/*/*"))
    if not found or (folder / "downloads").is_dir() or any(prepared):
        return
    unpacked = f"{looked_for} of the unpacked archive, or " if looked_for else ""
    raise DataUnavailableError(
        f"data_dir={str(folder)!r} has no data of dataset={name!r}: expected {unpacked}{tfds_name}/ as TFDS prepares "
        f"it; there is {shown(found)}. To download the data, give an empty folder or one that TFDS has used."
    )


def _prepare(builder: Any, name: str, looked_for: str | None) -> None:
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS, its downloaders and the network raise many kinds
        reason = (str(error).splitlines() or ["no message"])[0]
        root = pathlib.Path(str(builder.data_dir).removesuffix(builder.info.full_name))
        unpacked = f"Nor is there an unpacked {looked_for} in data_dir.\n" if looked_for else ""
        raise DataUnavailableError(
            f"dataset={name!r} is not prepared in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {reason}).\n{unpacked}"
            f"Give the same command on a machine with network and copy {builder.data_dir} from there to here; or put "
            f"the original archive in {root / 'downloads' / 'manual'}; or point --data_dir at data that are there."
        ) from error


def _labels(name: str, features: Any) -> tuple[Any, bool]:
    """The feature that names the classes, and whether a picture may have several."""
    if "image" in features and "label" in features and hasattr(features["label"], "names"):
        return features["label"], False
    if "image" in features and "objects" in features and "label" in features["objects"]:
        return features["objects"]["label"], True
    raise ValueError(f"dataset={name!r} has features {', '.join(features)}: expected an image, and a label or objects.")


def _regions(example: dict[str, Any], label: tf.Tensor) -> Record:
    """Boxes and masks, where the set has them."""
    if "objects" in example:
        boxes, labels = example["objects"]["bbox"][:_MOST_BOXES], example["objects"]["label"][:_MOST_BOXES]
    elif "bbox" in example:
        boxes, labels = example["bbox"][tf.newaxis], label[tf.newaxis]
    else:
        return {}
    if "segmentation_mask" in example:
        inside = tf.cast(example["segmentation_mask"], tf.int32) > 127
        mask = {"mask": tf.where(inside, tf.cast(1 + label, tf.uint8), tf.zeros([], tf.uint8))}
    else:
        mask = {}
    missing = _MOST_BOXES - tf.shape(boxes)[0]
    padded = tf.pad(boxes, [[0, missing], [0, 0]])
    numbers = tf.pad(tf.cast(labels, tf.int32), [[0, missing]], constant_values=-1)
    return {
        "boxes": tf.ensure_shape(padded, [_MOST_BOXES, 4]),
        "box_labels": tf.ensure_shape(numbers, [_MOST_BOXES]),
        **mask,
    }
