"""Classification metrics: accuracy, average precision and confusion."""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics


def accuracy(scores: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """Top-k accuracy: the share of images whose class is among the `top` highest scores.

    Args:
        scores: `[images, classes]`.
        labels: `[images]`, class numbers.
        top: number of highest scores to consider.

    Returns:
        A number in [0, 1]. Ties are broken in favour of the lower class number.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return float((best == np.asarray(labels).reshape(-1, 1)).any(axis=1).mean())


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """The area under the precision-recall curve, as PASCAL VOC has computed it since 2010.

    Precision at each recall is interpolated as the maximum at that recall or above; the area is exact, not sampled.

    Args:
        scores: `[images]`, the scores of one class.
        present: `[images]`, 0 or 1; NaN for an ignored image, such as one in which all objects of the class are
            difficult.

    Returns:
        A number in [0, 1]; NaN if no image has the class.
    """
    known = ~np.isnan(present)
    if not np.any(present[known]):
        return float("nan")
    precision, recall, _ = metrics.precision_recall_curve(present[known], scores[known])
    envelope = np.maximum.accumulate(precision)  # both arrays run from recall 1 down to 0
    return float(-np.sum(np.diff(recall) * envelope[:-1]))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean of `average_precision` over the classes that occur.

    Args:
        scores: `[images, classes]`.
        labels: `[images, classes]`, 0 or 1, or NaN where an image is ignored for a class.

    Returns:
        A number in [0, 1]; NaN if no class occurs.
    """
    occurring = np.flatnonzero(np.any(labels == 1, axis=0))
    if not len(occurring):
        return float("nan")
    return float(np.mean([average_precision(scores[:, number], labels[:, number]) for number in occurring]))


def label_text(label: np.ndarray, class_names: Sequence[str]) -> str:
    """The names of the classes of an image.

    Args:
        label: a class number, or `[classes]` of 0, 1 and NaN.
        class_names: class names, indexed by label.
    """
    numbers = np.flatnonzero(np.asarray(label) > 0.5) if np.ndim(label) else [label]
    return ", ".join(class_names[int(number)] for number in numbers) or "none of the classes"


def headline(scores: np.ndarray, labels: np.ndarray) -> tuple[str, float]:
    """Name and value of the standard metric: "accuracy", or "mAP" for multi-label data.

    Args:
        scores: `[images, classes]`.
        labels: `[images]` class numbers, or `[images, classes]` of 0, 1 and NaN; see `mean_average_precision`.
    """
    if labels.ndim == 2:
        return "mAP", mean_average_precision(scores, labels)
    return "accuracy", accuracy(scores, labels)


def class_table(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Metrics of each class.

    Args:
        scores: `[images, classes]`.
        labels: `[images]` class numbers, or `[images, classes]` of 0, 1 and NaN.

    Returns:
        One row per class: `images` (how many have it), and `recall` and `precision` of the top prediction, or
        `average_precision` for multi-label data. NaN where undefined.
    """
    if labels.ndim == 2:
        return [
            {
                "images": int((labels[:, number] == 1).sum()),
                "average_precision": average_precision(scores[:, number], labels[:, number]),
            }
            for number in range(scores.shape[1])
        ]
    precision, recall, _, images = metrics.precision_recall_fscore_support(
        labels, scores.argmax(axis=1), labels=np.arange(scores.shape[1]), zero_division=np.nan
    )
    return [
        {"images": int(count), "recall": float(class_recall), "precision": float(class_precision)}
        for count, class_recall, class_precision in zip(images, recall, precision, strict=True)
    ]


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts how often each class is confused with each other.

    Args:
        scores: `[images, classes]`.
        labels: `[images]` class numbers, or `[images, classes]` of 0, 1 and NaN.

    Returns:
        `[classes, classes]` int, true class by predicted class. For multi-label data: how often the absent class
        (column) scores higher than the present class (row); the diagonal is 0.
    """
    if labels.ndim == 1:
        return metrics.confusion_matrix(labels, scores.argmax(axis=1), labels=np.arange(scores.shape[1]))
    matrix = np.zeros((scores.shape[1],) * 2, int)
    for row in range(scores.shape[1]):
        present = labels[:, row] == 1
        higher = (scores[present] > scores[present, row : row + 1]) & (labels[present] == 0)
        matrix[row] = higher.sum(axis=0)
    return matrix
