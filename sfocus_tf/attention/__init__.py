"""Attention maps: how one is made, of which classes, and of which layers of a classifier."""

from sfocus_tf.attention.cam import LINEAR, MECHANISMS, Attention, attention, check_mechanism, opposite, weighted
from sfocus_tf.attention.classes import Classes, class_numbers, labelled_classes, predicted_classes, rival_of
from sfocus_tf.attention.explanation import ExplainingModel, Explanation, Traced
from sfocus_tf.attention.extractor import Maps, Observer
from sfocus_tf.attention.regions import SMALLEST_FLOOR, graded_region, has_mass, resize_map, soft_mask

__all__ = [
    "LINEAR",
    "MECHANISMS",
    "SMALLEST_FLOOR",
    "Attention",
    "Classes",
    "ExplainingModel",
    "Explanation",
    "Maps",
    "Observer",
    "Traced",
    "attention",
    "check_mechanism",
    "class_numbers",
    "graded_region",
    "has_mass",
    "labelled_classes",
    "opposite",
    "predicted_classes",
    "resize_map",
    "rival_of",
    "soft_mask",
    "weighted",
]
