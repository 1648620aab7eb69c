"""Insertion and deletion on a classifier whose answer is known."""

import numpy as np
import pytest

from sfocus_tf import evaluation


def brightness_of_first_pixel(images: np.ndarray) -> np.ndarray:
    """Class 1 is as probable as the first pixel is bright."""
    bright = images[:, 0, 0, 0]
    return np.stack([1 - bright, bright], axis=1)


IMAGES = np.zeros((1, 2, 2, 1), np.float32)
IMAGES[0, 0, 0] = 1.0


def test_deletion_worked_out_by_hand():
    """Four steps of one pixel; the mean is 0.25. Named first, the pixel is gone after one step: 1, then 0.25."""
    first, last = np.array([[[4.0, 3], [2, 1]]]), np.array([[[1.0, 2], [3, 4]]])
    for map_, curve in ((first, [1, 0.25, 0.25, 0.25, 0.25]), (last, [1, 1, 1, 1, 0.25])):
        area = evaluation.deletion(brightness_of_first_pixel, IMAGES, map_, np.array([1]), steps=4)
        assert area == pytest.approx(np.trapezoid(curve, dx=0.25))


def test_insertion_goes_from_blurred_to_sharp():
    images = np.zeros((1, 32, 32, 1), np.float32)
    images[0, 0, 0] = 1.0
    order = np.arange(1024.0).reshape(1, 32, 32)
    first, last = (
        float(evaluation.insertion(brightness_of_first_pixel, images, map_, np.array([1]), steps=4)[0])
        for map_ in (order.max() - order, order)
    )
    # Named last, the pixel stays blurred at four of five points, the first of which counts half.
    blurred = (last - 1 / 8) / (7 / 8)
    assert 0 < blurred < 0.9
    assert first == pytest.approx(blurred / 8 + 7 / 8)


def test_attention_on_what_matters_is_better_than_on_what_does_not_whatever_its_scale():
    rng = np.random.default_rng(0)
    images = rng.random((3, 64, 64, 3)).astype(np.float32)
    ids = np.array([0, 1, 1])

    def probabilities(images):
        value = np.clip(images[:, :32, :32].std(axis=(1, 2, 3)) * 3, 0, 1)
        return np.stack([value, value], axis=1)

    matters, other = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    matters[:, 0, 0], other[:, 1, 1] = 1, 1
    for measure, sign in ((evaluation.insertion, 1), (evaluation.deletion, -1)):
        good, bad = (measure(probabilities, images, map_, ids) for map_ in (matters, other))
        assert (sign * (good - bad) > 0.1).all()
        np.testing.assert_allclose(measure(probabilities, images, 1e5 * matters, ids), good, rtol=1e-6)
    with pytest.raises(ValueError, match="steps=0"):
        evaluation.deletion(probabilities, images, matters, ids, steps=0)
