"""Loads data sets by name, as batches for training and evaluation."""

from sfocus_tf.data.augmentation import AUGMENTATIONS
from sfocus_tf.data.files import CorruptImageError, read_images
from sfocus_tf.data.pipeline import Data
from sfocus_tf.data.registry import load, names
from sfocus_tf.data.source import Source
from sfocus_tf.data.tfds_source import DataUnavailableError

__all__ = [
    "AUGMENTATIONS",
    "CorruptImageError",
    "Data",
    "DataUnavailableError",
    "Source",
    "load",
    "names",
    "read_images",
]
