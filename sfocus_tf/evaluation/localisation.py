"""Localisation metrics: whether attention lies on the object, according to boxes or masks.

The metrics take maps of any resolution and the regions of the explained class at the images' resolution (`inside`, from
`inside_boxes` or a segmentation mask), and return one value per image. A map without attention scores 0.
"""

import numpy as np
import tensorflow as tf
from scipy import ndimage

from sfocus_tf.attention import resize_map

BOX_THRESHOLDS = (0.3, 0.5, 0.7)


def at_resolution(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes maps `[images, h, w]` bilinearly to `[images, *size]`."""
    if maps.shape[1:] == tuple(size):
        return maps
    return resize_map(tf.constant(maps), size).numpy()


def inside_boxes(boxes: np.ndarray, box_labels: np.ndarray, class_ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks the pixels inside the boxes of one class per image.

    Args:
        boxes: `[images, boxes, 4]`, `ymin, xmin, ymax, xmax` relative to height and width.
        box_labels: `[images, boxes]`, class numbers; -1 for padding.
        class_ids: `[images]`, the class of interest.
        size: height and width in pixels.

    Returns:
        `[images, height, width]` bool. A pixel is inside if its centre is; a box that contains no pixel centre
        gets its middle pixel.
    """
    inside = np.zeros((len(boxes), *size), bool)
    for row, column in np.argwhere(box_labels == class_ids[:, np.newaxis]):
        y0, x0, y1, x1 = boxes[row, column]
        inside[row, _span(y0, y1, size[0]), _span(x0, x1, size[1])] = True
    return inside


def boxes_of_masks(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounding boxes of the connected regions in masks `[images, height, width]`.

    Returns:
        Boxes and labels in the form of `inside_boxes`: label 0, or -1 for padding.
    """
    objects = [ndimage.find_objects(ndimage.label(mask)[0]) for mask in inside]
    most = max([1, *(len(regions) for regions in objects)])
    boxes = np.zeros((len(inside), most, 4), np.float32)
    labels = np.full((len(inside), most), -1, np.int32)
    for row, regions in enumerate(objects):
        for column, (rows, columns) in enumerate(regions):
            boxes[row, column] = _share(rows, columns, inside.shape[1:])
            labels[row, column] = 0
    return boxes, labels


def pointing_game(maps: np.ndarray, inside: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """Pointing game: whether the maximum of the map hits an object.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, arXiv 1608.00507.

    Args:
        maps: `[images, h, w]`, not negative; resized bilinearly to the images.
        inside: `[images, height, width]` bool, the objects.
        tolerance: distance in pixels from an object that still counts as a hit; 15 in the paper, on full-size images.

    Returns:
        `[images]`, 0 or 1.
    """
    resized = at_resolution(maps, inside.shape[1:])
    rows, columns = np.unravel_index(
        resized.reshape(len(maps), int(np.prod(inside.shape[1:]))).argmax(axis=1), inside.shape[1:]
    )
    if tolerance > 0:
        y, x = np.mgrid[: inside.shape[1], : inside.shape[2]]
        distances = (y - rows[:, np.newaxis, np.newaxis]) ** 2 + (x - columns[:, np.newaxis, np.newaxis]) ** 2
        hit = (inside & (distances <= tolerance**2)).any(axis=(1, 2))
    else:
        hit = inside[np.arange(len(maps)), rows, columns]
    return (hit & (maps.max(axis=(1, 2)) > 0)).astype(float)


def energy_pointing_game(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Energy-based pointing game: the share of attention on the objects (Wang et al., "Score-CAM", CVPR Workshops 2020,
    arXiv 1910.01279, section 4.3).

    Args:
        maps: `[images, h, w]`, not negative; resized bilinearly to the images.
        inside: `[images, height, width]` bool, the objects.

    Returns:
        `[images]` in [0, 1].
    """
    resized = at_resolution(maps, inside.shape[1:]).astype(np.float64)
    total = resized.sum(axis=(1, 2))
    return (resized * inside).sum(axis=(1, 2)) / np.where(total > 0, total, 1.0)


def box_iou(
    maps: np.ndarray,
    boxes: np.ndarray,
    box_labels: np.ndarray,
    class_ids: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Best intersection over union of the map's box with a box of the class (Zhou et al., "Learning Deep
    Features for Discriminative Localization", CVPR 2016, arXiv 1512.04150, section 3.2).

    The map's box bounds the largest connected region where the map reaches a share of its maximum.

    Args:
        maps: `[images, h, w]`, not negative; resized bilinearly to `size`.
        boxes: `[images, boxes, 4]`; this and the next three as in `inside_boxes`.
        box_labels: `[images, boxes]`.
        class_ids: `[images]`.
        size: height and width in pixels.

    Returns:
        `[images, 3]` in [0, 1], for a share of 30, 50 and 70 % of the maximum.
    """
    resized = at_resolution(maps, size)
    result = np.zeros((len(maps), len(BOX_THRESHOLDS)))
    for row, map_ in enumerate(resized):
        objects = boxes[row][box_labels[row] == class_ids[row]]
        if map_.max() <= 0 or not len(objects):
            continue
        for column, threshold in enumerate(BOX_THRESHOLDS):
            regions, _ = ndimage.label(map_ >= threshold * map_.max())
            largest = int(np.argmax(np.bincount(regions.ravel())[1:]))
            rows, columns = ndimage.find_objects(regions)[largest]
            map_box = _share(rows, columns, size)
            result[row, column] = max(_iou(map_box, box) for box in objects)
    return result


def _span(start: float, end: float, pixels: int) -> slice:
    """The pixels whose centres lie between two relative coordinates, or the middle pixel if there are none."""
    first, last = int(np.ceil(start * pixels - 0.5)), int(np.floor(end * pixels - 0.5))
    if first > last:
        first = last = min(int((start + end) / 2 * pixels), pixels - 1)
    return slice(max(first, 0), last + 1)


def _share(rows: slice, columns: slice, size: tuple[int, ...]) -> np.ndarray:
    return np.array([rows.start / size[0], columns.start / size[1], rows.stop / size[0], columns.stop / size[1]])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.maximum(high - low, 0.0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / union if union > 0 else 0.0
