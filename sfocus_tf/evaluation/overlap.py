"""Attentional confusion: how much the attention of two classes, or of two layers, coincides, at any scale of the maps.

The separation loss can fall just because one map shrinks. These metrics are invariant to scaling a map by a positive
factor, and undefined (NaN), not perfect, for a map without attention; `no_target` and `no_rival` in
`Evaluation.confusion` tell how often that is. All take raw maps and return one value per image, so their mean does not
depend on the batches.
"""

import numpy as np
import tensorflow as tf
from scipy import stats

from sfocus_tf.attention import resize_map, soft_mask, spatial_size
from sfocus_tf.losses import consistency_loss


def region_iou(target_maps: np.ndarray, rival_maps: np.ndarray, threshold: float = 0.55) -> np.ndarray:
    """Intersection over union of the regions where each map reaches a share of its own maximum.

    The threshold is that of the paper's target region (arXiv 1811.07484).

    Args:
        target_maps: `[images, height, width]`, not negative.
        rival_maps: of the same shape.
        threshold: share of the maximum, in (0, 1].

    Returns:
        `[images]` in [0, 1]; NaN if a map has no attention.
    """
    regions = [_region(maps, threshold) for maps in (target_maps, rival_maps)]
    union = (regions[0] | regions[1]).sum(axis=(1, 2))
    both = (regions[0] & regions[1]).sum(axis=(1, 2))
    known = regions[0].any(axis=(1, 2)) & regions[1].any(axis=(1, 2))
    return np.where(known, both / np.maximum(union, 1), np.nan)


def rank_correlation(target_maps: np.ndarray, rival_maps: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the two maps over their positions, as in the sanity checks of Adebayo et al.,
    NeurIPS 2018, arXiv 1810.03292.

    Args:
        target_maps: `[images, height, width]`.
        rival_maps: of the same shape.

    Returns:
        `[images]` in [-1, 1]; NaN if a map is constant.
    """
    ranks = [
        stats.rankdata(maps.reshape(len(maps), -1), axis=1) if len(maps) else np.zeros((0, 1))
        for maps in (target_maps, rival_maps)
    ]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1.0), np.nan)


def same_peak(target_maps: np.ndarray, rival_maps: np.ndarray) -> np.ndarray:
    """Whether the two maps have their maximum at the same position.

    Args:
        target_maps: `[images, height, width]`, not negative.
        rival_maps: of the same shape.

    Returns:
        `[images]`, 0 or 1; NaN if a map has no attention.
    """
    flat = [maps.reshape(len(maps), int(np.prod(maps.shape[1:]))) for maps in (target_maps, rival_maps)]
    known = (flat[0].max(axis=1, initial=0.0) > 0) & (flat[1].max(axis=1, initial=0.0) > 0)
    return np.where(known, flat[0].argmax(axis=1) == flat[1].argmax(axis=1), np.nan)


def inside_region(inner_maps: np.ndarray, last_maps: np.ndarray) -> np.ndarray:
    """The share of the inner layer's attention that lies inside the region of the last layer's map.

    What the paper's consistency loss aims at: `sum(A_inner(T) * Mask) / sum(A_inner(T))`, arXiv 1811.07484.

    Args:
        inner_maps: `[images, height, width]`, not negative.
        last_maps: `[images, h, w]`, of the same class.

    Returns:
        `[images]` in [0, 1]; NaN if a map has no attention.
    """
    peaks = [maps.max(axis=(1, 2), initial=0.0) for maps in (inner_maps, last_maps)]
    known = (peaks[0] > 0) & (peaks[1] > 0)
    inner, last = (
        tf.convert_to_tensor(maps / np.where(known, peak, 1)[:, np.newaxis, np.newaxis])
        for maps, peak in zip((inner_maps, last_maps), peaks, strict=True)
    )
    mask = resize_map(soft_mask(last), spatial_size(inner))
    return np.where(known, -consistency_loss(inner, mask, theta=0.0), np.nan)


def _region(maps: np.ndarray, threshold: float) -> np.ndarray:
    peak = maps.max(axis=(1, 2), keepdims=True)
    return (maps >= threshold * peak) & (peak > 0)


def rival_share(target: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """The share of the evidence of a contrast map that speaks for the rival.

    Args:
        target: `[images, h, w]`, the evidence for the target, not negative.
        rival: `[images, h, w]`, the evidence for the rival, not negative.

    Returns:
        `[images]` in [0, 1]; NaN without evidence.
    """
    sums = [np.asarray(np.sum(side, axis=(1, 2), dtype=np.float64)) for side in (target, rival)]
    total = sums[0] + sums[1]
    return np.divide(sums[1], total, out=np.full(len(total), np.nan), where=total > 0)
