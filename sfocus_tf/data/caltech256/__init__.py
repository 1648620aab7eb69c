"""Caltech-256: its training split, read from the unpacked archive (`source`) or prepared by TFDS."""

from sfocus_tf.data.caltech256.images import find_folder, source

__all__ = ["find_folder", "source"]
