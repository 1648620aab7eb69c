"""Attention laid over pictures."""

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from sfocus_tf.model import Explanation

# Both are even in lightness and told apart by people who do not see red and green alike.
TARGET_COLOURS, RIVAL_COLOURS = "viridis", "plasma"
_COLUMNS = ("target_inner", "rival_inner", "target_last", "rival_last")


def overlay(image: np.ndarray, map_: np.ndarray, colours: str = TARGET_COLOURS) -> np.ndarray:
    """A picture in grey with attention in colour: the more attention, the more colour.

    Args:
        image: `[height, width, 3]`, in [0, 255].
        map_: `[h, w]`, not negative; shown relative to its own maximum.
        colours: a colour map of matplotlib.

    Returns:
        `[height, width, 3]` float in [0, 1].
    """
    height, width = image.shape[:2]
    peak = float(map_.max())
    scaled = np.asarray(map_ / peak if peak > 0 else map_, np.float32)
    resized = PIL.Image.fromarray(scaled).resize((width, height), PIL.Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(resized), 0.0, 1.0)[..., np.newaxis]
    grey = np.mean(image, axis=-1, keepdims=True) / 255.0
    colour = matplotlib.colormaps[colours](strength[..., 0])[..., :3]
    return np.clip(grey * (1.0 - 0.6 * strength) + colour * 0.6 * strength, 0.0, 1.0)


def attention_figure(
    images: np.ndarray, explanation: Explanation, class_names: tuple[str, ...], labels: list[str] | None = None
) -> Figure:
    """One row a picture: the picture, and the attention of target and rival at the inner and the last layer.

    Args:
        images: `[pictures, height, width, 3]`, in [0, 255].
        explanation: of these pictures.
        class_names: in the order of the class numbers.
        labels: what each picture shows, written beside it.

    Returns:
        The figure.
    """
    rows = len(images)
    figure = Figure(figsize=(11, 2.15 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 5, squeeze=False)
    for row in range(rows):
        target, rival = (class_names[int(ids[row])] for ids in (explanation.target, explanation.rival))
        scores = explanation.scores[row]
        for axis in axes[row]:
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row, 0].imshow(images[row] / 255.0)
        axes[row, 0].set_title(f"label: {labels[row]}" if labels else "picture", fontsize=8)
        for axis, key in zip(axes[row, 1:], _COLUMNS, strict=True):
            role, layer = key.split("_")
            is_target = role == "target"
            map_ = getattr(explanation, key)[row]
            axis.imshow(overlay(images[row], map_, TARGET_COLOURS if is_target else RIVAL_COLOURS))
            name, number = (target, explanation.target[row]) if is_target else (rival, explanation.rival[row])
            dead = "" if map_.max() > 0 else ", no attention"
            axis.set_title(f"{role}: {name}\n{layer} layer, score {scores[int(number)]:.1f}{dead}", fontsize=7)
    return figure
