"""Caltech-256: which of its pictures are for training, read as unpacked (`source`) or prepared by TFDS."""

from sfocus_tf.data.caltech256.pictures import find_folder, source

__all__ = ["find_folder", "source"]
