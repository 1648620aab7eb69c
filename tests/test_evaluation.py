"""Measures against examples worked out by hand."""

import numpy as np
import pytest

from sfocus_tf import evaluation

SCORES = np.array([[0.1, 0.9, 0.5], [0.8, 0.1, 0.7], [0.2, 0.3, 0.9]])


def test_accuracy():
    assert evaluation.accuracy(SCORES, np.array([1, 2, 0])) == pytest.approx(1 / 3)
    assert evaluation.accuracy(SCORES, np.array([1, 2, 0]), top=2) == pytest.approx(2 / 3)
    assert evaluation.accuracy(SCORES, np.array([1, 2, 0]), top=3) == 1


def test_average_precision_worked_out_by_hand():
    """Ranked: hit, miss, miss, hit, hit. Precision at the hits 1, 2/4, 3/5; the second is lifted to 3/5."""
    scores, present = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 0, 1, 1])
    assert evaluation.average_precision(scores, present) == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)


def test_average_precision_of_perfect_worst_and_no_class():
    scores = np.arange(4.0)
    assert evaluation.average_precision(scores, scores > 1) == 1
    assert evaluation.average_precision(scores, scores < 1) == pytest.approx(1 / 4)
    assert np.isnan(evaluation.average_precision(scores, np.zeros(4)))


def test_mean_average_precision_leaves_absent_classes_out():
    labels = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    expected = (
        evaluation.average_precision(SCORES[:, 0], labels[:, 0])
        + evaluation.average_precision(SCORES[:, 1], labels[:, 1])
    ) / 2
    assert evaluation.mean_average_precision(SCORES, labels) == pytest.approx(expected)
    assert np.isnan(evaluation.mean_average_precision(SCORES, np.zeros((3, 3))))


def test_images_that_do_not_count_for_a_class():
    """As if the third image were not there for the second class, and only there."""
    labels = np.array([[0, 1, 0], [1, 0, 1], [0, np.nan, 1]])
    second = evaluation.average_precision(SCORES[:2, 1], labels[:2, 1])
    assert evaluation.average_precision(SCORES[:, 1], labels[:, 1]) == second == 1
    expected = np.mean([evaluation.average_precision(SCORES[:, n], labels[:, n]) for n in range(3)])
    assert evaluation.headline(SCORES, labels) == ("mAP", expected)
    assert [row["images"] for row in evaluation.class_table(SCORES, labels)] == [1, 1, 2]
    # Nor is an image confused with a class for which it does not count.
    assert evaluation.confusion_matrix(np.array([[0.1, 0.9]]), np.array([[1, np.nan]])).tolist() == [[0, 0], [0, 0]]
