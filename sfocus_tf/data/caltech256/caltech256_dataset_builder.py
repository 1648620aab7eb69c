"""Adds Caltech-256 to TensorFlow Datasets: importing this module enables `tfds.load("caltech256")`."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from sfocus_tf.data.caltech256.images import LABELS, split_images

_URL = "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar?download=1"


class Builder(tfds.core.GeneratorBasedBuilder):
    """Caltech-256, 60 training images per class, without the clutter class.

    If the archive cannot be downloaded, put `256_ObjectCategories.tar` into `<data_dir>/downloads/manual`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "60 training images a class, by the SHA-256 of their file names."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names_file=LABELS),
                    "image/file_name": tfds.features.Text(),  # such as 001_0001.jpg
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.22002/D1.20087",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # TFDS looks for the archive in downloads/manual first, by the name in checksums.tsv.
        folder = dl_manager.download_and_extract(_URL) / "256_ObjectCategories"
        return {split: self._generate_examples(folder, split == "train") for split in ("train", "test")}

    def _generate_examples(self, folder: epath.Path, train: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, label in split_images(folder, train):
            yield path.name, {"image": path, "label": label, "image/file_name": path.name}
