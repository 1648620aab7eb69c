"""Measures of coinciding attention: worked out by hand, and blind to the scale of either map."""

import numpy as np
import pytest

from sfocus_tf import evaluation

MEASURES = [evaluation.region_iou, evaluation.rank_correlation, evaluation.same_peak]


def maps(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(len(rows), 2, 2)


def test_region_iou_worked_out_by_hand():
    """Regions at 0.55 of the maximum: {0, 1} and {1, 2}: one in three. Then the same, and none in common."""
    target = maps([1.0, 0.6, 0.5, 0.0], [1, 0, 0, 0], [1, 0, 0, 0])
    rival = maps([0.1, 2.0, 1.2, 1.0], [3, 1, 0, 1], [0, 0, 0, 5])
    np.testing.assert_allclose(evaluation.region_iou(target, rival), [1 / 3, 1, 0])
    np.testing.assert_allclose(evaluation.region_iou(target, rival, threshold=0.7), [0, 1, 0])


def test_rank_correlation_worked_out_by_hand():
    """Ranks 4 3 2 1 against 3 4 1 2: 1 - 6 * 4 / (4 * 15) = 0.6. Then equal, opposite, and a constant."""
    target = maps([9, 5, 2, 1], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])
    rival = maps([6, 8, 0, 1], [0, 5, 6, 70], [4, 3, 2, 1], [1, 1, 1, 1])
    np.testing.assert_allclose(evaluation.rank_correlation(target, rival), [0.6, 1, -1, np.nan])


def test_same_peak_worked_out_by_hand():
    target = maps([0, 3, 1, 0], [0, 3, 1, 0])
    rival = maps([5, 9, 1, 0], [5, 1, 1, 0])
    np.testing.assert_array_equal(evaluation.same_peak(target, rival), [1, 0])


def test_maps_without_attention():
    none, some = maps([0, 0, 0, 0]), maps([1, 2, 0, 0])
    for measure in (evaluation.region_iou, evaluation.same_peak):
        for pair in ((some, none), (none, some), (none, none)):
            assert np.isnan(measure(*pair))
    assert np.isnan(evaluation.rank_correlation(some, none))


@pytest.mark.parametrize("measure", MEASURES)
def test_scale_and_batching_change_nothing(measure):
    rng = np.random.default_rng(0)
    target, rival = rng.random((2, 7, 5, 4)) ** 3
    value = measure(target, rival)
    scales = np.exp(rng.normal(0, 9, (2, 7, 1, 1)))
    np.testing.assert_allclose(measure(target * scales[0], rival * scales[1]), value)
    one_by_one = [measure(target[row : row + 1], rival[row : row + 1])[0] for row in range(7)]
    np.testing.assert_allclose(one_by_one, value)
    np.testing.assert_allclose(measure(target, target), 1)


def test_share_inside_the_region_worked_out_by_hand():
    """The last layer's region is its left column, so the left half of the inner map; the right half has a quarter."""
    last = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
    inner = np.array([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]], np.float32)
    np.testing.assert_allclose(evaluation.inside_region(inner, last), [0.75, np.nan], atol=1e-6)
    for scales in ((1e-30, 1e6), (1e6, 1e-30)):
        scaled = (np.float32(scale) * maps for scale, maps in zip(scales, (inner, last), strict=True))
        np.testing.assert_allclose(evaluation.inside_region(*scaled), [0.75, np.nan], atol=1e-6)
