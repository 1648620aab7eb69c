"""Draws attention maps over images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from sfocus_tf.attention import Explanation
from sfocus_tf.evaluation import region_iou

# Blue and vermilion of Okabe and Ito's palette, which is safe for colour-blind readers.
TARGET_COLOUR, RIVAL_COLOUR = (0, 114, 178), (213, 94, 0)
_STRENGTH = 0.75  # opacity of the colour at the peak, so that the image stays visible


def tint(map_: np.ndarray) -> np.ndarray:
    """Opacity of the colour at each position: attention relative to the map's maximum, scaled to [0, 0.75]."""
    peak = float(map_.max())
    return _STRENGTH * np.asarray(map_ / peak if peak > 0 else map_, np.float32)


def overlay(image: np.ndarray, map_: np.ndarray, colour: tuple[int, int, int] = TARGET_COLOUR) -> np.ndarray:
    """Overlays attention in colour on the image in grey.

    Args:
        image: `[height, width, 3]`, in [0, 255].
        map_: `[h, w]`, not negative; normalised by its maximum.
        colour: RGB in [0, 255].

    Returns:
        `[height, width, 3]` float in [0, 1].
    """
    height, width = image.shape[:2]
    resized = PIL.Image.fromarray(tint(map_)).resize((width, height), PIL.Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(resized), 0.0, _STRENGTH)[..., np.newaxis]
    grey = np.mean(image, axis=-1, keepdims=True) / 255.0
    return np.clip(grey * (1.0 - strength) + np.array(colour) / 255.0 * strength, 0.0, 1.0)


def attention_figure(
    images: np.ndarray,
    explanation: Explanation,
    class_names: tuple[str, ...],
    labels: Sequence[Any] | None = None,
    layers: dict[str, str] | None = None,
) -> Figure:
    """Draws one row per image: the image, and the attention of target and rival at each layer.

    Args:
        images: `[images, height, width, 3]`, in [0, 255], or floats in [0, 1].
        explanation: explanation of these images.
        class_names: class names, indexed by label.
        labels: the label to show above each image.
        layers: which of "inner" and "last" to show, with their captions; by default those that the explanation has.

    Returns:
        The figure; captions of the rival's maps give the overlap of both regions.
    """
    images = np.asarray(images)
    if np.issubdtype(images.dtype, np.floating) and images.max(initial=0) <= 1:
        images = images * 255.0
    if not layers:
        inner = {"inner": "inner layer"} if explanation.inner.target.size else {}
        layers = inner | {"last": "last layer"}
    rows, columns = len(images), 1 + 2 * len(layers)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row in range(rows):
        axes[row, 0].imshow(images[row] / 255.0)
        axes[row, 0].set_title("image" if labels is None else f"label: {labels[row]}", fontsize=8)
        column = 1
        for layer, caption in layers.items():
            maps = [layer_maps[row] for layer_maps in (explanation.inner if layer == "inner" else explanation.last)]
            overlap = float(region_iou(maps[0][np.newaxis], maps[1][np.newaxis])[0])
            numbers = (int(explanation.target[row]), int(explanation.rival[row]))
            for role, map_, number, colour in zip(
                ("target", "rival"), maps, numbers, (TARGET_COLOUR, RIVAL_COLOUR), strict=True
            ):
                score = f"score {explanation.scores[row][number]:.1f}"
                extra = "no attention" if map_.max() <= 0 else f"overlap {overlap:.2f}" if role == "rival" else ""
                extra = f", {extra}" if extra else ""
                axes[row, column].imshow(overlay(images[row], map_, colour))
                title = f"{role}: {class_names[number]}\n{score}, {caption}{extra}"
                axes[row, column].set_title(title, fontsize=7, color=np.array(colour) / 255.0)
                column += 1
    return figure
