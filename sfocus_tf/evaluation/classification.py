"""How often a classifier is right."""

import numpy as np
from sklearn import metrics


def accuracy(scores: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
    """The share of pictures whose class is among those with the highest scores.

    Args:
        scores: `[pictures, classes]`.
        labels: `[pictures]`, class numbers.
        top: how many classes count.

    Returns:
        A number in [0, 1]. Of equal scores, the class with the lower number comes first.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return float((best == np.asarray(labels).reshape(-1, 1)).any(axis=1).mean())


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """The area under the precision-recall curve, as PASCAL VOC has computed it since 2010.

    Precision at each recall is the highest at that recall or any above it; the area is exact, not sampled.

    Args:
        scores: `[pictures]`, of one class.
        present: `[pictures]`, 0 or 1; NaN for a picture that does not count, as one in which all objects of the class
            are difficult.

    Returns:
        A number in [0, 1]; NaN where no picture has the class.
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
        scores: `[pictures, classes]`.
        labels: `[pictures, classes]`, 0 or 1, or NaN where a picture does not count for a class.

    Returns:
        A number in [0, 1]; NaN where no class occurs.
    """
    occurring = np.flatnonzero(np.any(labels == 1, axis=0))
    if not len(occurring):
        return float("nan")
    return float(np.mean([average_precision(scores[:, number], labels[:, number]) for number in occurring]))


def headline(scores: np.ndarray, labels: np.ndarray) -> tuple[str, float]:
    """Name and value of the measure that the field reports: "accuracy", or "mAP" where pictures have several classes.

    Args:
        scores: `[pictures, classes]`.
        labels: `[pictures]` class numbers, or `[pictures, classes]` of 0, 1 and NaN; see `mean_average_precision`.
    """
    if labels.ndim == 2:
        return "mAP", mean_average_precision(scores, labels)
    return "accuracy", accuracy(scores, labels)


def class_table(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """How well each class does.

    Args:
        scores: `[pictures, classes]`.
        labels: `[pictures]` class numbers, or `[pictures, classes]` of 0, 1 and NaN.

    Returns:
        A row a class: `pictures` (that have it), and `recall` and `precision` of the highest score, or
        `average_precision` where pictures have several classes. NaN where it is not defined.
    """
    if labels.ndim == 2:
        return [
            {
                "pictures": int((labels[:, number] == 1).sum()),
                "average_precision": average_precision(scores[:, number], labels[:, number]),
            }
            for number in range(scores.shape[1])
        ]
    precision, recall, _, pictures = metrics.precision_recall_fscore_support(
        labels, scores.argmax(axis=1), labels=np.arange(scores.shape[1]), zero_division=np.nan
    )
    return [
        {"pictures": int(count), "recall": float(each_recall), "precision": float(each_precision)}
        for count, each_recall, each_precision in zip(pictures, recall, precision, strict=True)
    ]


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many pictures of each class were taken for each other one.

    Args:
        scores: `[pictures, classes]`.
        labels: `[pictures]` class numbers, or `[pictures, classes]` of 0, 1 and NaN.

    Returns:
        `[classes, classes]` int, true class by predicted class. Where pictures have several classes: how often the
        absent class (column) has a higher score than the present one (row), and no diagonal.
    """
    if labels.ndim == 1:
        return metrics.confusion_matrix(labels, scores.argmax(axis=1), labels=np.arange(scores.shape[1]))
    matrix = np.zeros((scores.shape[1],) * 2, int)
    for row in range(scores.shape[1]):
        of_row = labels[:, row] == 1
        higher = (scores[of_row] > scores[of_row, row : row + 1]) & (labels[of_row] == 0)
        matrix[row] = higher.sum(axis=0)
    return matrix
