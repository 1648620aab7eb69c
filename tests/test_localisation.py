"""Localisation, worked out by hand on small images."""

import numpy as np
import pytest

from sfocus_tf import evaluation

# Two objects of class 3 and one of class 5, in an image of 8x8: rows and columns 0-3, rows 4-7 by columns 6-7, and
# rows 0-1 by columns 6-7.
BOXES = np.array([[[0, 0, 0.5, 0.5], [0.5, 0.75, 1, 1], [0, 0.75, 0.25, 1], [0, 0, 0, 0]]], np.float32)
LABELS = np.array([[3, 3, 5, -1]])
SIZE = (8, 8)


def inside(class_id: int) -> np.ndarray:
    return evaluation.inside_boxes(BOXES, LABELS, np.array([class_id]), SIZE)


def peak(row: int, column: int, value: float = 1.0) -> np.ndarray:
    map_ = np.zeros((1, *SIZE))
    map_[0, row, column] = value
    return map_


def test_inside_boxes():
    expected = np.zeros(SIZE, bool)
    expected[:4, :4] = True
    expected[4:, 6:] = True
    np.testing.assert_array_equal(inside(3)[0], expected)
    assert inside(5).sum() == 4 and not inside(7).any() and not inside(0).any()
    speck = evaluation.inside_boxes(np.array([[[0.5, 0.5, 0.505, 0.51]]]), np.array([[1]]), np.array([1]), SIZE)
    assert speck.sum() == 1 and speck[0, 4, 4]


def test_pointing_game_hits_any_object_of_the_class_and_no_other():
    for row, column, class_id, hit in [(1, 2, 3, 1), (5, 7, 3, 1), (0, 7, 3, 0), (0, 7, 5, 1), (4, 3, 3, 0)]:
        assert evaluation.pointing_game(peak(row, column), inside(class_id)) == hit
    # (4, 3) is one pixel below the first object, and (3, 3) is its nearest.
    assert evaluation.pointing_game(peak(4, 3), inside(3), tolerance=1.0) == 1
    assert evaluation.pointing_game(peak(0, 5), inside(3), tolerance=1.9) == 0
    assert evaluation.pointing_game(peak(0, 5), inside(3), tolerance=2.0) == 1


def test_energy_worked_out_by_hand():
    map_ = peak(0, 0, 3.0) + peak(7, 7, 1.0) + peak(0, 7, 4.0)
    assert evaluation.energy_pointing_game(map_, inside(3)) == pytest.approx(0.5)
    assert evaluation.energy_pointing_game(map_, inside(5)) == pytest.approx(0.5)


def test_box_iou_worked_out_by_hand():
    """At 30 % the region is rows 0-3 by columns 0-5 and one pixel apart: its box covers 16 of 24, the object all.
    At 50 % it is the upper half of the object, at 70 % one pixel of 16."""
    map_ = np.zeros((1, *SIZE))
    map_[0, :4, :6] = 0.4
    map_[0, :2, :4] = 0.6
    map_[0, 0, 0] = 1.0
    map_[0, 7, 1] = 0.9
    map_[0, 0, 0] = 1.0
    values = evaluation.box_iou(map_, BOXES, LABELS, np.array([3]), SIZE)
    np.testing.assert_allclose(values, [[16 / 24, 8 / 16, 1 / 16]], rtol=1e-6)
    np.testing.assert_array_equal(evaluation.box_iou(map_, BOXES, LABELS, np.array([7]), SIZE), [[0, 0, 0]])


def test_perfect_maps_score_one_and_maps_of_another_object_zero():
    perfect, other = inside(5).astype(float), np.roll(inside(5), (0, -3), (1, 2)).astype(float)
    for map_, value in ((perfect, 1), (other, 0)):
        assert evaluation.pointing_game(map_, inside(5)) == value
        assert evaluation.energy_pointing_game(map_, inside(5)) == value
        np.testing.assert_allclose(evaluation.box_iou(map_, BOXES, LABELS, np.array([5]), SIZE), value, atol=1e-6)


def test_no_attention_scores_zero():
    nothing = np.zeros((1, *SIZE))
    assert evaluation.pointing_game(nothing, inside(3)) == 0
    assert evaluation.energy_pointing_game(nothing, inside(3)) == 0
    assert not evaluation.box_iou(nothing, BOXES, LABELS, np.array([3]), SIZE).any()


def test_scale_of_a_map_and_batching_change_nothing():
    rng = np.random.default_rng(1)
    maps = rng.random((6, 4, 4)) ** 4
    boxes, labels, ids = np.repeat(BOXES, 6, 0), np.repeat(LABELS, 6, 0), np.array([3, 5, 3, 5, 3, 3])
    objects = evaluation.inside_boxes(boxes, labels, ids, SIZE)

    def measured(rows, scale=1.0):
        chosen = maps[rows] * scale
        return np.column_stack(
            [
                evaluation.pointing_game(chosen, objects[rows]),
                evaluation.energy_pointing_game(chosen, objects[rows]),
                evaluation.box_iou(chosen, boxes[rows], labels[rows], ids[rows], SIZE),
            ]
        )

    whole = measured(slice(None))
    np.testing.assert_allclose(measured(slice(None), 1e-6), whole, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([measured(slice(row, row + 1)) for row in range(6)]), whole, rtol=1e-6)
    assert 0 < whole[:, 1].mean() < 1


def test_boxes_of_masks_finds_each_region():
    boxes, labels = evaluation.boxes_of_masks(np.concatenate([inside(3), inside(5), inside(7)]))
    np.testing.assert_array_equal(labels, [[0, 0], [0, -1], [-1, -1]])
    np.testing.assert_allclose(boxes[0], BOXES[0, :2])
    np.testing.assert_allclose(boxes[1, 0], BOXES[0, 2])
