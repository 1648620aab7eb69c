"""Loads any data set by name."""

import pathlib

from sfocus_tf.data import caltech256, cub, folder, scenes, tfds_source, voc
from sfocus_tf.data.pipeline import Data
from sfocus_tf.data.source import Part, Source
from sfocus_tf.errors import check_count, unknown

SPLITS = ("train", "validation", "test")
# Default image size in pixels and augmentation, as usual for each set.
_DEFAULTS = {
    "scenes": (48, "flip"),
    "cifar10": (32, "pad_crop_flip"),
    "cifar100": (32, "pad_crop_flip"),
    "caltech256": (224, "random_resized_crop"),
    "voc2012": (224, "random_resized_crop"),
    "cub200": (224, "random_resized_crop"),
    "ilsvrc2012": (224, "random_resized_crop"),
    "folder": (32, "pad_crop_flip"),
}
# Finder and reader of the unpacked archive, and the path looked for; without an archive, TFDS is used.
_UNPACKED = {
    "caltech256": (caltech256.find_folder, caltech256.source, "256_ObjectCategories/001.ak47"),
    "cub200": (cub.find_folder, cub.source, "CUB_200_2011/images.txt"),
    "ilsvrc2012": (folder.find_imagenet, folder.imagenet, "train/n01440764"),
    "voc2012": (voc.find_devkit, voc.source, "VOCdevkit/VOC2012/JPEGImages"),
}


def names() -> list[str]:
    """The names that `load` accepts, besides `tfds:<name>` for any labelled TFDS data set."""
    return list(_DEFAULTS)


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | pathlib.Path | None = None,
    batch_size: int = 128,
    image_size: int | None = None,
    training: bool | None = None,
    augmentation: str | None = None,
    center_crop: float | None = None,
    min_crop_area: float = 0.08,
    validation_fraction: float = 0.0,
    examples: int | None = None,
    skip_corrupt: bool = False,
    check_images: bool = True,
    seed: int = 0,
    regions: bool = False,
) -> Data:
    """Loads a split of a data set as batches.

    Example:
        ```python
        train = sfocus_tf.data.load("folder", "train", data_dir="cifar10", batch_size=128)
        test = sfocus_tf.data.load("folder", "test", data_dir="cifar10")
        model.fit(train.batches, epochs=10, validation_data=test.batches)
        ```

    Args:
        name: one of `names()`, or `tfds:<name>`. "folder" reads class folders. "voc2012", "cub200",
            "caltech256" and "ilsvrc2012" read the unpacked archive in `data_dir` if there is one, and data prepared by
            TFDS otherwise. "scenes" needs no data.
        split: "train", "validation" or "test".
        data_dir: folder of the data. TFDS downloads to its default folder for `None`, or else to this one if it is
            empty or TFDS has used it before.
        batch_size: images per batch.
        image_size: height and width of the images, in pixels; by default the usual size for the data set.
        training: shuffle and augment; by default for `split="train"` only.
        augmentation: one of `sfocus_tf.data.AUGMENTATIONS`; by default the usual one for the data set.
        center_crop: outside training, the side of a central square crop as a share of the shorter side, in (0, 1];
            0.875 is usual for ImageNet. By default the whole image is used, stretched to a square.
        min_crop_area: smallest crop of "random_resized_crop", as a share of the image's area, in (0, 1].
        validation_fraction: share of the training images to hold out of `train` as `validation`, in [0, 1). The
            selection depends on nothing else. Not needed for sets with their own validation images: scenes, and folders
            with both `validation` and `test`.
        examples: maximum number of images, selected by a fixed shuffle (for scenes and TFDS, the first ones); all by
            default.
        skip_corrupt: skip images that cannot be decoded (see `Source.skipped`) instead of raising an error.
        check_images: decode every image file once at the start, to find corrupt ones.
        seed: determines order and augmentation.
        regions: return dictionaries with boxes and masks instead of `(images, labels)`.

    Returns:
        The data; `.batches` is the `tf.data.Dataset`.

    Raises:
        ValueError: an unknown name, split or augmentation, an argument out of range, or malformed data.
        FileNotFoundError: files are missing.
        CorruptImageError: an image cannot be decoded.
        DataUnavailableError: a TFDS data set is not prepared and cannot be downloaded, or `data_dir` has other files.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction}: expected a number in [0, 1).")
    default_size, default_augmentation = _DEFAULTS.get(name, (224, "random_resized_crop"))
    size = default_size if image_size is None else image_size
    check_count("batch_size", batch_size)
    check_count("image_size", size)
    if examples is not None:
        check_count("examples", examples)
    if skip_corrupt and not check_images:
        raise ValueError(
            "skip_corrupt=True needs check_images=True (train.py: --config.check_images=true), which finds corrupt "
            "images."
        )
    part = Part(split, validation_fraction, examples, skip_corrupt, check_images)
    source = _source(name, part, data_dir, size)
    if source.size == 0:
        raise ValueError(f"dataset={name!r}: split={split!r} is empty (validation_fraction={validation_fraction}).")
    return Data(
        source,
        batch_size,
        size,
        split == "train" if training is None else training,
        default_augmentation if augmentation is None else augmentation,
        seed,
        regions,
        center_crop,
        min_crop_area,
    )


def _source(name: str, part: Part, data_dir: str | pathlib.Path | None, size: int) -> Source:
    if name == "scenes":
        if data_dir is not None:
            raise ValueError(
                f"data_dir={str(data_dir)!r}: dataset='scenes' is generated and reads no folder. For images in class "
                "folders, set dataset='folder' (--dataset=folder or --dataset=folder:photos)."
            )
        return scenes.source(part.split, size, part.examples)
    if name == "folder":
        return folder.source(data_dir, part)
    looked_for = None
    if name in _UNPACKED:
        find, read, looked_for = _UNPACKED[name]
        archive = find(data_dir)
        if archive is not None:
            return read(archive, part)
    if name in tfds_source.NAMES or name.startswith("tfds:"):
        if part.skip_corrupt:
            raise ValueError(f"skip_corrupt: not available for dataset={name!r}, whose images are not files.")
        return tfds_source.source(name, data_dir, part, looked_for)
    raise unknown("dataset", name, [*names(), "tfds:<name>"])
