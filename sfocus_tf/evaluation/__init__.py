"""Metrics of classifiers: accuracy, localisation, attentional confusion and faithfulness."""

from sfocus_tf.evaluation.classification import (
    accuracy,
    average_precision,
    class_table,
    confusion_matrix,
    headline,
    label_text,
    mean_average_precision,
)
from sfocus_tf.evaluation.evaluate import Evaluation, countable, evaluate
from sfocus_tf.evaluation.faithfulness import deletion, insertion
from sfocus_tf.evaluation.localisation import (
    box_iou,
    boxes_of_masks,
    energy_pointing_game,
    inside_boxes,
    pointing_game,
)
from sfocus_tf.evaluation.measures import KEY_MEASURES, LAYERS, MAPS, Measure, describe
from sfocus_tf.evaluation.overlap import inside_region, rank_correlation, region_iou, rival_share, same_peak

__all__ = [
    "KEY_MEASURES",
    "LAYERS",
    "MAPS",
    "Evaluation",
    "Measure",
    "accuracy",
    "average_precision",
    "box_iou",
    "boxes_of_masks",
    "class_table",
    "confusion_matrix",
    "countable",
    "deletion",
    "describe",
    "energy_pointing_game",
    "evaluate",
    "headline",
    "insertion",
    "inside_boxes",
    "inside_region",
    "label_text",
    "mean_average_precision",
    "pointing_game",
    "rank_correlation",
    "region_iou",
    "rival_share",
    "same_peak",
]
