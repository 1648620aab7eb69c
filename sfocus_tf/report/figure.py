"""Draws attention maps over images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from matplotlib import cm, colors
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import special

from sfocus_tf.attention import Explanation
from sfocus_tf.evaluation import Evaluation, label_text, region_iou

# Blue and vermilion of Okabe and Ito's palette, which is safe for colour-blind readers.
TARGET_COLOUR, RIVAL_COLOUR = (0, 114, 178), (213, 94, 0)
_DIVERGING = colors.LinearSegmentedColormap.from_list(
    "contrast", ["#{:02x}{:02x}{:02x}".format(*colour) for colour in (RIVAL_COLOUR, (255, 255, 255), TARGET_COLOUR)]
)
_STRENGTH = 0.75  # opacity of the colour at the peak, so that the image stays visible


def tint(map_: np.ndarray) -> np.ndarray:
    """Opacity of the colour at each position: attention relative to the map's maximum, scaled to [0, 0.75]."""
    peak = float(map_.max())
    return _STRENGTH * np.asarray(map_ / peak if peak > 0 else map_, np.float32)


def signed_tint(target: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """Opacity of the target's colour, or if negative of the rival's: a contrast map on one scale, in [-0.75, 0.75]."""
    peak = max(float(target.max()), float(rival.max()))
    return np.asarray(_STRENGTH * (target - rival) / (peak if peak > 0 else 1.0), np.float32)


def overlay(image: np.ndarray, map_: np.ndarray, colour: tuple[int, int, int] = TARGET_COLOUR) -> np.ndarray:
    """Overlays attention in colour on the image in grey.

    Args:
        image: `[height, width, 3]`, in [0, 255].
        map_: `[h, w]`, not negative; normalised by its maximum.
        colour: RGB in [0, 255].

    Returns:
        `[height, width, 3]` float in [0, 1].
    """
    return _blended(image, tint(map_), colour)


def contrast_overlay(image: np.ndarray, target: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """Overlays the two sides of a contrast map, on one scale, on the image in grey.

    Args:
        image: `[height, width, 3]`, in [0, 255].
        target: `[h, w]`, not negative: the evidence for the target, in blue.
        rival: `[h, w]`, not negative: the evidence for the rival, in orange.

    Returns:
        `[height, width, 3]` float in [0, 1].
    """
    return _blended(image, signed_tint(target, rival))


def rgba(
    tinted: np.ndarray,
    above: tuple[int, int, int] = TARGET_COLOUR,
    below: tuple[int, int, int] = RIVAL_COLOUR,
) -> np.ndarray:
    """A tint as colour and opacity, `[h, w, 4]` float in [0, 1]; `above` and `below` zero have a colour each."""
    colour = np.where(tinted[..., np.newaxis] > 0, np.array(above), np.array(below)) / 255.0
    return np.concatenate([colour, np.abs(tinted)[..., np.newaxis]], axis=-1)


def contrast_figure(
    images: np.ndarray,
    explanation: Explanation,
    class_names: tuple[str, ...],
    labels: Sequence[Any] | None = None,
    multi_label: bool = False,
) -> Figure:
    """Draws one row per image: the image, and what speaks for the target and for its rival at each layer.

    Blue speaks for the target, orange for the rival; the scale below a map is in units of the score at one position.

    Args:
        images: `[images, height, width, 3]`, in [0, 255], or floats in [0, 1].
        explanation: explanation of these images, of "contrast".
        class_names: class names, indexed by label.
        labels: the label to show above each image.
        multi_label: whether probabilities are sigmoids of the scores, instead of softmax.

    Returns:
        The figure; titles have both classes with their probabilities and, per map, the rival's share of the evidence.

    Raises:
        ValueError: images, explanation, names and labels do not belong together, or the maps of both classes overlap:
            they are not of "contrast".
    """
    images = _in_pixels(images)
    _refuse_mismatch(images, explanation, class_names, labels)
    if any(np.any((maps.target > 0) & (maps.rival > 0)) for maps in (explanation.inner, explanation.last)):
        raise ValueError("explanation: expected contrast maps, explain(images, of='contrast'); in these both overlap.")
    inner = {"inner": explanation.inner} if explanation.inner.target.size else {}
    layers = {"last": explanation.last} | inner
    figure, axes = _grid(len(images), 1 + len(layers), width=2.9)
    scores = explanation.scores
    chances = special.expit(scores) if multi_label else special.softmax(scores, axis=-1)
    for row, image in enumerate(images):
        axes[row, 0].imshow(image / 255.0)
        target, rival = int(explanation.target[row]), int(explanation.rival[row])
        lines = [] if labels is None else [f"label: {labels[row]}"]
        for number, colour in ((target, "blue"), (rival, "orange")):
            lines.append(f"{class_names[number]} ({colour}): probability {_percent(chances[row, number])}")
        axes[row, 0].set_title("\n".join(lines), fontsize=8)
        for axis, (layer, maps) in zip(axes[row, 1:], layers.items(), strict=True):
            sides = (np.asarray(maps.target[row]), np.asarray(maps.rival[row]))
            axis.imshow(contrast_overlay(image, *sides))
            total = float(sides[0].sum() + sides[1].sum())
            share = float(sides[1].sum()) / total if total > 0 else np.nan
            axis.set_title(f"{layer} layer\n{_evidence(share, class_names[rival])}", fontsize=8)
            _draw_scale(figure, axis, max(float(side.max()) for side in sides))
    return figure


def comparison_figure(
    images: Sequence[np.ndarray], numbers: Sequence[int], a: Evaluation, b: Evaluation, names: tuple[str, str]
) -> Figure:
    """Draws images, four in a row, with the last layer's contrast maps of two models below each.

    Args:
        images: images of the split, each `[height, width, 3]` in [0, 255].
        numbers: their numbers in the split.
        a: evaluation of the first model on that split.
        b: evaluation of the second.
        names: names of the models.

    Returns:
        The figure; each map has what the model answers, and the rival's share of the evidence.
    """
    columns = min(4, len(images))
    blocks = -(-len(images) // columns)
    figure, axes = _grid(3 * blocks, columns, width=2.6)
    for axis in axes[3 * (blocks - 1) :, len(images) - columns * (blocks - 1) :].flat:  # places that are left over
        axis.axis("off")
    for place, (number, image) in enumerate(zip(numbers, images, strict=True)):
        block, column = divmod(place, columns)
        at_image, *at_maps = axes[3 * block : 3 * block + 3, column]
        at_image.imshow(image)
        at_image.set_title(label_text(a.labels[number], a.class_names), fontsize=10, fontweight="bold")
        for axis, model in zip(at_maps, (a, b), strict=True):
            one = model.contrast.rows(number)
            axis.imshow(contrast_overlay(image, one.last.target, one.last.rival))
            axis.set_title(_answer(model, number, one), fontsize=8)
        if column == 0:
            for axis, name in zip((at_image, *at_maps), ("label", *names), strict=True):
                axis.set_ylabel(name, fontsize=11)
    sides = {"for the label": TARGET_COLOUR, "for its rival": RIVAL_COLOUR}
    patches = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=f"evidence {side}") for side, colour in sides.items()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _answer(model: Evaluation, number: int, explained: Explanation) -> str:
    """What a model answers to an image, and how much of the evidence at the last layer speaks for the rival."""
    right = "right" if model.correct()[number] else "wrong"
    evidence = _evidence(model.confusion["rival_share_last"][number], model.class_names[explained.rival])
    return f"{right}: {model.class_names[int(explained.scores.argmax())]}\n{evidence}"


def _evidence(share: float, rival: str) -> str:
    """How much of the evidence speaks for the rival; `share` is NaN if there is none."""
    return "no evidence" if np.isnan(share) else f"evidence: {_percent(share)} for {rival}"


def _blended(image: np.ndarray, tinted: np.ndarray, colour: tuple[int, int, int] = TARGET_COLOUR) -> np.ndarray:
    """An image in grey under a tint, resized to it; see `rgba`."""
    height, width = image.shape[:2]
    resized = PIL.Image.fromarray(tinted).resize((width, height), PIL.Image.Resampling.BILINEAR)
    coloured = rgba(np.clip(np.asarray(resized), -_STRENGTH, _STRENGTH), colour)
    grey = np.mean(image, axis=-1, keepdims=True) / 255.0
    return np.clip(grey * (1.0 - coloured[..., 3:]) + coloured[..., :3] * coloured[..., 3:], 0.0, 1.0)


def _draw_scale(figure: Figure, axis: Any, peak: float) -> None:
    """Draws the scale of a contrast map below it, from `peak` for the rival to `peak` for the target."""
    if peak <= 0:
        return
    scale = cm.ScalarMappable(colors.Normalize(-peak, peak), _DIVERGING)
    bar = figure.colorbar(scale, ax=axis, location="bottom", shrink=0.8, ticks=[-peak, 0, peak])
    bar.ax.set_xticklabels([f"{abs(tick):.2g}" for tick in (-peak, 0, peak)], fontsize=7)
    bar.set_label("evidence at a position, in units of the score", fontsize=6)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _in_pixels(images: np.ndarray) -> np.ndarray:
    """Images in [0, 255], from those in [0, 255] or floats in [0, 1]."""
    images = np.asarray(images)
    return images * 255.0 if np.issubdtype(images.dtype, np.floating) and images.max(initial=0) <= 1 else images


def _refuse_mismatch(
    images: np.ndarray, explanation: Explanation, class_names: Sequence[str], labels: Sequence[Any] | None
) -> None:
    """Raises a `ValueError` if images, names or labels are not as many as those explained."""
    if np.ndim(explanation.scores) != 2:
        raise ValueError("explanation: expected that of several images; for one, explanation.rows(slice(n, n + 1)).")
    count, classes = explanation.scores.shape
    if images.ndim != 4 or len(images) != count:
        raise ValueError(f"images: expected the {count} that were explained, got an array of shape {images.shape}.")
    if len(class_names) != classes:
        raise ValueError(f"class_names: expected {classes}, one for each class, got {len(class_names)}.")
    if labels is not None and len(labels) != count:
        raise ValueError(f"labels: expected {count}, one for each image, got {len(labels)}.")


def _grid(rows: int, columns: int, width: float = 2.2) -> tuple[Figure, np.ndarray]:
    """A figure with axes for images, `[rows, columns]`."""
    figure = Figure(figsize=(width * columns, 1.15 * width * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


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

    Raises:
        ValueError: images, explanation, names and labels do not belong together.
    """
    images = _in_pixels(images)
    _refuse_mismatch(images, explanation, class_names, labels)
    if not layers:
        inner = {"inner": "inner layer"} if explanation.inner.target.size else {}
        layers = {"last": "last layer"} | inner
    figure, axes = _grid(len(images), 1 + 2 * len(layers))
    for row in range(len(images)):
        axes[row, 0].imshow(images[row] / 255.0)
        axes[row, 0].set_title("image" if labels is None else f"label: {labels[row]}", fontsize=8)
        column = 1
        for layer, caption in layers.items():
            maps = [layer_maps[row] for layer_maps in (explanation.inner if layer == "inner" else explanation.last)]
            overlap = float(region_iou(maps[0][np.newaxis], maps[1][np.newaxis])[0])
            numbers = (int(explanation.target[row]), int(explanation.rival[row]))
            predicted = numbers[0] == int(np.argmax(explanation.scores[row]))
            for role, map_, number, colour in zip(
                ("predicted" if predicted else "target", "rival"),
                maps,
                numbers,
                (TARGET_COLOUR, RIVAL_COLOUR),
                strict=True,
            ):
                score = f"score {explanation.scores[row][number]:.1f}"
                extra = "no attention" if map_.max() <= 0 else f"overlap {overlap:.2f}" if role == "rival" else ""
                extra = f", {extra}" if extra else ""
                axes[row, column].imshow(overlay(images[row], map_, colour))
                title = f"{role}: {class_names[number]}\n{score}, {caption}{extra}"
                axes[row, column].set_title(title, fontsize=7, color=np.array(colour) / 255.0)
                column += 1
    return figure
