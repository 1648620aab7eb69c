"""Attention maps of a classifier: CAM methods, choice of classes, extraction and explanations."""

from sfocus_tf.attention.cam import CAMS, LINEAR, Attention, check_cam, class_activation, opposite, weighted
from sfocus_tf.attention.classes import (
    Classes,
    labelled_classes,
    named_classes,
    predicted_classes,
    trained_classes,
)
from sfocus_tf.attention.explanation import ExplainingModel, Explanation, LayerMaps, Traced
from sfocus_tf.attention.extractor import (
    EXPLAINED,
    AttentionExtractor,
    AttentionPair,
    Extracted,
    explained_by_default,
)
from sfocus_tf.attention.regions import SMALLEST_FLOOR, has_mass, soft_mask
from sfocus_tf.attention.resizing import resize_map, spatial_size

__all__ = [
    "CAMS",
    "EXPLAINED",
    "LINEAR",
    "SMALLEST_FLOOR",
    "Attention",
    "AttentionExtractor",
    "AttentionPair",
    "Classes",
    "ExplainingModel",
    "Explanation",
    "Extracted",
    "LayerMaps",
    "Traced",
    "check_cam",
    "class_activation",
    "explained_by_default",
    "has_mass",
    "labelled_classes",
    "named_classes",
    "opposite",
    "predicted_classes",
    "resize_map",
    "soft_mask",
    "spatial_size",
    "trained_classes",
    "weighted",
]
