"""Faithfulness of attention: insertion and deletion.

Source: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models",
BMVC 2018, arXiv 1806.07421.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from sfocus_tf.evaluation.localisation import at_resolution

Probabilities = Callable[[np.ndarray], np.ndarray]


def insertion(
    probabilities: Probabilities, images: np.ndarray, maps: np.ndarray, class_ids: np.ndarray, steps: int = 16
) -> np.ndarray:
    """Insertion: area under the class's probability as pixels of a blurred image are restored, most attended first.

    Args:
        probabilities: images `[n, height, width, channels]` -> `[n, classes]`.
        images: `[images, height, width, channels]`.
        maps: `[images, h, w]`; resized bilinearly to the images.
        class_ids: `[images]`, the explained classes.
        steps: number of steps in which the pixels change, 1 or more.

    Returns:
        `[images]` in [0, 1], by the trapezoidal rule; higher is better. NaN for a map without attention.
    """
    # The paper blurs with an 11-pixel kernel of deviation 5 at 224 pixels.
    deviation = 5.0 * images.shape[1] / 224
    blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, deviation, deviation, 0), truncate=1.0)
    return _area(probabilities, blurred, images, maps, class_ids, steps)


def deletion(
    probabilities: Probabilities, images: np.ndarray, maps: np.ndarray, class_ids: np.ndarray, steps: int = 16
) -> np.ndarray:
    """Deletion: area under the class's probability as pixels become the image's mean colour, most attended first.

    Arguments as for `insertion`. (The paper fills with zeros, the mean of its normalised images.)

    Returns:
        `[images]` in [0, 1], by the trapezoidal rule; lower is better. NaN for a map without attention.
    """
    empty = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
    return _area(probabilities, images, empty, maps, class_ids, steps)


def _area(
    probabilities: Probabilities,
    start: np.ndarray,
    end: np.ndarray,
    maps: np.ndarray,
    class_ids: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Area under the probability as pixels change from `start` to `end`, most attended first."""
    if steps < 1:
        raise ValueError(f"steps={steps}: expected 1 or more.")
    resized = at_resolution(maps, start.shape[1:3])
    flat = resized.reshape(len(maps), -1)
    # Rank of each pixel, 0 for the most attended; ties in reading order.
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[np.newaxis], axis=1)
    ranks = ranks.reshape(*resized.shape, 1)
    curve = []
    for step in range(steps + 1):
        images = np.where(ranks < step * flat.shape[1] / steps, end, start)
        scores = probabilities(images.astype(np.float32))
        curve.append(scores[np.arange(len(scores)), class_ids])
    area = np.trapezoid(np.stack(curve), dx=1.0 / steps, axis=0)
    return np.where((flat != 0).any(axis=1), area, np.nan)
