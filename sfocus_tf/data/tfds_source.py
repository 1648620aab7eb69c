"""Reads TensorFlow Datasets (TFDS), and Caltech-256 in that form, by our name or as `tfds:<name>`."""

import pathlib
import re
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from sfocus_tf.data.caltech256 import caltech256_dataset_builder  # noqa: F401  registers Caltech-256
from sfocus_tf.data.files import existing_folder
from sfocus_tf.data.formats import decode
from sfocus_tf.data.listing import is_data, shown
from sfocus_tf.data.source import Part, Record, Source
from sfocus_tf.errors import unknown

# Our name -> (TFDS name, train split, test split).
NAMES = {
    "cifar10": ("cifar10", "train", "test"),
    "cifar100": ("cifar100", "train", "test"),
    "caltech256": ("caltech256", "train", "test"),
    "cub200": ("caltech_birds2011", "train", "test"),
    "ilsvrc2012": ("imagenet2012", "train", "validation"),
    "voc2012": ("voc/2012", "train", "validation"),
}
_SHUFFLE_BUFFER = 20_000  # encoded images; larger than most sets, 2 GB at ImageNet's size
_MOST_BOXES = 64


class DataUnavailableError(OSError):
    """A data set is not prepared and cannot be downloaded; the message says where to put it by hand."""


def source(name: str, data_dir: str | pathlib.Path | None, part: Part, looked_for: str | None = None) -> Source:
    """A part of a TFDS data set.

    Args:
        name: one of `NAMES`, or `tfds:<name>` of a data set with a single label ("label"), or with objects that have
            boxes and labels.
        data_dir: where TFDS keeps prepared data; `None` for its default.
        part: which images; "validation" is the end of `train`. Images are not checked beforehand.
        looked_for: path of an unpacked archive that `data_dir` lacks, for error messages.

    Returns:
        The source.

    Raises:
        FileNotFoundError: `data_dir` does not exist.
        ValueError: TFDS has no such data set, or it lacks labelled images or a test split.
        DataUnavailableError: the data are missing and cannot be downloaded, or `data_dir` has other files.
    """
    tfds_name, train, test = NAMES.get(name, (name.removeprefix("tfds:"), "train", "test"))
    if data_dir is not None:
        existing_folder("data_dir", data_dir, "a folder of data prepared by TFDS, or one to prepare them in")
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
    label_feature, multi_label = _labels(name, builder.info.features)
    dataset, size = _images(builder, test if part.split == "test" else train)
    if part.split == "validation" or (part.split == "train" and part.validation_fraction):
        kept = size - round(size * part.validation_fraction)
        dataset, size = _images(builder, f"{train}[:{kept}]" if part.split == "train" else f"{train}[{kept}:]")
    if part.examples is not None:
        dataset, size = dataset.take(part.examples), min(size, part.examples)

    def keys(seed: tf.Tensor | None) -> tf.data.Dataset:
        if seed is None:
            return dataset
        # Sets the seed of this function's graph only. TensorFlow compares (global seed, seed) with (0, 0), which fails
        # for a tensor as seed if the global seed is 0.
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
    """Class numbers, possibly repeated or none, as `[classes]` of 0 and 1."""
    # Without labels the maximum is the lowest float.
    return tf.maximum(tf.reduce_max(tf.one_hot(labels, classes), axis=0), 0.0)


def _class_names(builder: Any, label_feature: Any, train: str) -> tuple[str, ...]:
    """The class names; for CUB, TFDS only has numbers, so the names come from the image paths."""
    names = list(label_feature.names)
    if builder.name != "caltech_birds2011":
        return tuple(names)
    kept = {"label": True, "image/filename": True}
    for example in builder.as_dataset(split=train, decoders=tfds.decode.PartialDecoding(kept)).as_numpy_iterator():
        match = re.search(r"\d{3}\.([^/]+)/", example["image/filename"].decode())
        if match:
            names[example["label"]] = match.group(1)
    return tuple(names)


def _builder(name: str, data_dir: str | pathlib.Path | None) -> Any:
    try:
        return tfds.builder(name, data_dir=None if data_dir is None else str(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        raise unknown("dataset: TFDS name", name, tfds.list_builders()) from error


def _images(builder: Any, split: str) -> tuple[tf.data.Dataset, int]:
    """The examples of a split, with encoded images, and their number."""
    dataset = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    if list(builder.info.splits):
        return dataset, builder.info.splits[split].num_examples
    known = int(dataset.cardinality())  # TFDS has not recorded the size
    return dataset, known if known >= 0 else int(dataset.reduce(0, lambda count, _: count + 1))


def _require_free(folder: pathlib.Path, name: str, tfds_name: str, looked_for: str | None) -> None:
    """Raises an error if the folder has files that are not TFDS's, so that nothing is downloaded among them."""
    entries = sorted(entry.name for entry in folder.iterdir() if is_data(entry.name))
    prepared = (next(folder.glob(f"{depth}/dataset_info.json"), None) for depth in ("*/*", "*/*/*"))
    if not entries or (folder / "downloads").is_dir() or any(prepared):
        return
    unpacked = f"{looked_for} of the unpacked archive, or " if looked_for else ""
    raise DataUnavailableError(
        f"data_dir={str(folder)!r} has no data of dataset={name!r}: expected {unpacked}{tfds_name}/ as prepared "
        f"by TFDS; it contains {shown(entries)}. To download the data, give an empty folder or one that TFDS has used."
    )


def _prepare(builder: Any, name: str, looked_for: str | None) -> None:
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS, its downloaders and the network raise many types
        reason = (str(error).splitlines() or ["no message"])[0]
        root = pathlib.Path(str(builder.data_dir).removesuffix(builder.info.full_name))
        unpacked = f"Nor is there an unpacked {looked_for} in data_dir.\n" if looked_for else ""
        raise DataUnavailableError(
            f"dataset={name!r} is not prepared in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {reason}).\n{unpacked}"
            f"Run the same command on a machine with network and copy {builder.data_dir} from there; or put the "
            f"original archive in {root / 'downloads' / 'manual'}; or point --data_dir at existing data."
        ) from error


def _labels(name: str, features: Any) -> tuple[Any, bool]:
    """The label feature, and whether an image may have several labels."""
    if "image" in features and "label" in features and hasattr(features["label"], "names"):
        return features["label"], False
    if "image" in features and "objects" in features and "label" in features["objects"]:
        return features["objects"]["label"], True
    raise ValueError(f"dataset={name!r} has features {', '.join(features)}: expected an image, and a label or objects.")


def _regions(example: dict[str, Any], label: tf.Tensor) -> Record:
    """The boxes and masks, if the data set has any."""
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
