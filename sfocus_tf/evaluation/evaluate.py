"""Computes all metrics of a classifier on a split in one pass."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from sfocus_tf.attention import LINEAR, Explanation, LayerMaps, explained_by_default
from sfocus_tf.data import Data
from sfocus_tf.evaluation import classification, faithfulness, localisation, overlap
from sfocus_tf.evaluation.measures import LAYERS
from sfocus_tf.model import SharpenFocus


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Per-image results of a classifier on a split; NaN where a metric is undefined.

    Attributes:
        class_names: class names, indexed by label.
        labels: `[images]` class numbers, or `[images, classes]` of 0 and 1, with NaN for a class whose objects in the
            image are all difficult: the image is ignored for that class.
        explanation: maps of the labelled class and its most confusing rival.
        valid: `[images]` bool, whether an image has both classes.
        confusion: metric -> `[images]`; see `sfocus_tf.evaluation.overlap`. Contrast maps have no overlap, rank
            correlation or common peak, as their two sides cannot overlap. `rival_share_<layer>` is the share of the
            evidence of a contrast map that speaks for the rival; `inside_region` the share of the inner attention
            inside the last layer's region.
        pairs: `[pairs, 2]`, image and class for every class of an image whose location is known.
        localisation: metric -> `[pairs]`; see `sfocus_tf.evaluation.localisation`.
        faithfulness: metric -> `[images]`, for the labelled class at the last layer; see
            `sfocus_tf.evaluation.faithfulness`. Of "contrast" maps it is `contrast_insertion` and `contrast_deletion`,
            of the probability of the labelled class against the rival alone, `sigmoid(Y_T - Y_C)`. Empty unless
            requested.
        contrast: contrast maps of the same classes: what speaks for the labelled class, and what for its rival.
        of: what the maps explain: "score", "relative" or "contrast".
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    explanation: Explanation
    valid: np.ndarray
    confusion: dict[str, np.ndarray]
    pairs: np.ndarray
    localisation: dict[str, np.ndarray]
    faithfulness: dict[str, np.ndarray]
    contrast: Explanation
    of: str

    @property
    def multi_label(self) -> bool:
        """Whether images may have several classes."""
        return self.labels.ndim == 2

    def correct(self) -> np.ndarray:
        """`[images]` bool: whether the image has the class with the highest score."""
        best = self.explanation.scores.argmax(axis=1)
        if self.multi_label:
            return self.labels[np.arange(len(best)), best] != 0
        return best == self.labels

    def headline(self) -> tuple[str, float]:
        """Name and value of the standard metric: "accuracy", or "mAP" for multi-label data."""
        return classification.headline(self.explanation.scores, self.labels)

    def summary(self) -> dict[str, float]:
        """Every metric as one number: its mean over images (or pairs), or for the pointing game, as in its paper, the
        mean of the class means.
        """
        name, value = self.headline()
        result = {name: value}
        if not self.multi_label and len(self.class_names) > 10:
            result["top-5 accuracy"] = classification.accuracy(self.explanation.scores, self.labels, top=5)
        result |= {key: _mean(values[self.valid]) for key, values in self.confusion.items()}
        for key, values in self.localisation.items():
            if averaged_over_classes(key):
                classes = np.unique(self.pairs[:, 1])
                result[key] = _mean(np.array([_mean(values[self.pairs[:, 1] == number]) for number in classes]))
            else:
                result[key] = _mean(values)
        return result | {key: _mean(values[self.valid]) for key, values in self.faithfulness.items()}

    def as_json(self) -> dict[str, Any]:
        """The summary, the class table, and the confused pairs of classes, most frequent first; NaN becomes `None`."""
        scores = self.explanation.scores
        table = [
            {"class": name} | {key: _plain(value) for key, value in row.items()}
            for name, row in zip(self.class_names, classification.class_table(scores, self.labels), strict=True)
        ]
        matrix = classification.confusion_matrix(scores, self.labels)
        np.fill_diagonal(matrix, 0)
        pairs = np.argwhere(matrix)
        pairs = pairs[np.argsort(-matrix[tuple(pairs.T)], kind="stable")]
        confused = [
            {
                "class": self.class_names[true],
                "taken for": self.class_names[other],
                "images": int(matrix[true, other]),
            }
            for true, other in pairs
        ]
        summary = {key: _plain(value) for key, value in self.summary().items()}
        return {"images": len(self.labels), "of": self.of, "summary": summary, "classes": table, "confused": confused}


def averaged_over_classes(measure: str) -> bool:
    """Whether a localisation metric is averaged within each class first, as in the paper of the pointing game."""
    return measure.removeprefix("contrast_").startswith(("pointing", "part_pointing"))


def evaluate(
    model: SharpenFocus,
    data: Data,
    faithfulness_steps: int = 0,
    on_batch: Callable[[int], None] | None = None,
    of: str | None = None,
) -> Evaluation:
    """Evaluates a classifier on a split, with every metric that the data allow.

    Args:
        model: the classifier; wrap one trained without attention supervision in `SharpenFocus` first.
        data: a split loaded with `regions=True` and without training augmentation. Localisation is
            measured if it has boxes or masks, for every class of an image.
        faithfulness_steps: steps of insertion and deletion (16 is usual; each costs two passes), 0 to skip them.
        on_batch: called after each batch with the number of batches done.
        of: what the maps explain, as in `SharpenFocus.explain`; by default "relative", whose metrics are invariant to
            adding a constant to all scores of an image, as the classes are; for a multi-label model or two classes
            "score". Relative maps of two classes never overlap.

    Returns:
        The evaluation.

    Raises:
        TypeError: the model is no `SharpenFocus`, or `data` does not come from `sfocus_tf.data.load`.
        ValueError: `data` was loaded for training or without `regions`, its classes do not match the model's, or
            relative maps are requested of a multi-label model.
    """
    _refuse_mismatch(model, data)
    of = of or explained_by_default(model.num_classes, model.multi_label)
    parts: list[dict[str, np.ndarray]] = []
    explanations: list[tuple[Explanation, Explanation]] = []
    images = 0
    for done, batch in enumerate(data.batches.as_numpy_iterator(), start=1):
        *explained, measured = _measure_batch(model, batch, faithfulness_steps, of)
        explanations.append((explained[0], explained[1]))
        parts.append(measured)
        parts[-1]["pairs"][:, 0] += images
        images += len(batch["label"])
        if on_batch is not None:
            on_batch(done)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def group(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): value for key, value in joined.items() if key.startswith(prefix)}

    explanation, contrast = keras.tree.map_structure(lambda *values: np.concatenate(values), *explanations)
    return Evaluation(
        data.class_names,
        joined["label"],
        explanation,
        joined["valid"],
        group("confusion/"),
        joined["pairs"],
        group("localisation/"),
        group("faithfulness/"),
        contrast,
        of,
    )


def _refuse_mismatch(model: Any, data: Any) -> None:
    """Raises an error for a model or data that cannot be evaluated, or not together."""
    if not isinstance(model, SharpenFocus):
        raise TypeError(f"model: expected a SharpenFocus, got {type(model).__name__}. Wrap it: SharpenFocus(model).")
    if not isinstance(data, Data):
        raise TypeError(f"data: expected sfocus_tf.data.load(..., regions=True), got {type(data).__name__}.")
    if data.training or not data.regions:
        raise ValueError("data: expected a split loaded with training=False and regions=True.")
    if len(data.class_names) != model.num_classes or data.multi_label != model.multi_label:
        raise ValueError(
            f"data: {len(data.class_names)} classes, {_several(data.multi_label)}; the model has {model.num_classes}, "
            f"{_several(model.multi_label)}."
        )


def countable(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The labels of a batch loaded with `regions=True`, in the form of `Evaluation.labels`."""
    if "difficult" not in batch:
        return batch["label"]
    return np.where(batch["difficult"] > 0.5, np.nan, batch["label"])


def _measure_batch(
    model: SharpenFocus, batch: dict[str, np.ndarray], steps: int, of: str
) -> tuple[Explanation, Explanation, dict[str, np.ndarray]]:
    """The explanation, the contrast maps of the same classes, and all metrics of a batch."""
    images, label = batch["image"], countable(batch)
    explanation, contrast, valid = keras.tree.map_structure(np.asarray, _explained(model, images, label, of))
    result = {"label": label, "valid": valid}
    for layer, (target, rival) in _by_layer(explanation).items():
        if of != "contrast":  # whose two sides cannot overlap
            result |= {
                f"confusion/overlap_{layer}": overlap.region_iou(target, rival),
                f"confusion/rank_correlation_{layer}": overlap.rank_correlation(target, rival),
                f"confusion/same_peak_{layer}": overlap.same_peak(target, rival),
            }
        result |= {
            f"confusion/no_target_{layer}": (target.max(axis=(1, 2)) <= 0).astype(float),
            f"confusion/no_rival_{layer}": (rival.max(axis=(1, 2)) <= 0).astype(float),
            f"confusion/rival_share_{layer}": overlap.rival_share(*_by_layer(contrast)[layer]),
        }
    result["confusion/inside_region"] = overlap.inside_region(explanation.inner.target, explanation.last.target)
    result |= _localise(model, batch, explanation, contrast, valid, of)
    if steps:
        result |= _faithfulness(model, images, explanation, steps, of)
    return explanation, contrast, result


def _explained(
    model: SharpenFocus, images: np.ndarray, label: np.ndarray, of: str
) -> tuple[Explanation, Explanation, tf.Tensor]:
    """The explanation by the model's own CAM, contrast maps of the same classes, and which images have both."""
    if model.cam in LINEAR:
        return model.explain_with_contrast_on_batch(images, label, of=of, cam=model.cam)
    explanation, valid = model.explain_labelled_on_batch(images, label, of=of)
    contrast, _ = model.explain_labelled_on_batch(images, label, of="contrast", cam=_contrast_cam(model))
    return explanation, contrast, valid


def _contrast_cam(model: SharpenFocus) -> str:
    """The CAM method of contrast maps, which have to be linear in the score."""
    return model.cam if model.cam in LINEAR else "grad_cam"


def _faithfulness(
    model: SharpenFocus, images: np.ndarray, explanation: Explanation, steps: int, of: str
) -> dict[str, np.ndarray]:
    """Insertion and deletion by the last layer's maps, of what these explain: of "contrast", target against rival."""

    def probabilities(changed: np.ndarray) -> np.ndarray:
        scores = keras.ops.cast(model.predict_on_batch(changed), "float32")
        squash = keras.ops.sigmoid if model.multi_label else keras.ops.softmax
        return keras.ops.convert_to_numpy(squash(scores))

    rows = np.arange(len(images))

    def against_the_rival(changed: np.ndarray) -> np.ndarray:
        scores = np.asarray(model.predict_on_batch(changed), np.float32)
        difference = scores[rows, explanation.target] - scores[rows, explanation.rival]
        return special.expit(difference)[:, np.newaxis]

    maps = explanation.last
    if of == "contrast":
        given = (against_the_rival, images, maps.target - maps.rival, np.zeros(len(images), int), steps)
        prefix = "faithfulness/contrast_"
    else:
        given, prefix = (probabilities, images, maps.target, explanation.target, steps), "faithfulness/"
    return {f"{prefix}insertion": faithfulness.insertion(*given), f"{prefix}deletion": faithfulness.deletion(*given)}


def _by_layer(explanation: Explanation) -> dict[str, LayerMaps]:
    return {layer: getattr(explanation, layer) for layer in LAYERS}


def _localise(
    model: SharpenFocus,
    batch: dict[str, np.ndarray],
    explanation: Explanation,
    contrast: Explanation,
    valid: np.ndarray,
    of: str,
) -> dict[str, Any]:
    """Localisation metrics, and `pairs`: every class of every image whose location is known."""
    images, label = batch["image"], countable(batch)
    size = images.shape[1:3]
    if not batch.keys() & {"boxes", "mask"}:
        return {"pairs": np.zeros((0, 2), int)}
    present = label > 0.5 if label.ndim == 2 else label[:, np.newaxis] == np.arange(model.num_classes)
    pairs = np.argwhere(present & valid[:, np.newaxis])
    if "boxes" in batch:
        boxes, box_labels, wanted = batch["boxes"][pairs[:, 0]], batch["box_labels"][pairs[:, 0]], pairs[:, 1]
        inside = localisation.inside_boxes(boxes, box_labels, wanted, size)
    if "mask" in batch:  # more exact than boxes
        inside = batch["mask"][pairs[:, 0], ..., 0] == pairs[:, 1, np.newaxis, np.newaxis] + 1
    if "boxes" not in batch:
        boxes, box_labels = localisation.boxes_of_masks(inside)
        wanted = np.zeros(len(pairs), int)
    known = inside.any(axis=(1, 2))
    pairs, inside, boxes, box_labels, wanted = (array[known] for array in (pairs, inside, boxes, box_labels, wanted))
    maps = _maps_of(model, images, pairs, explanation, of, model.cam)
    contrasts = _maps_of(model, images, pairs, contrast, "contrast", _contrast_cam(model))
    result: dict[str, Any] = {"pairs": pairs}
    for layer in LAYERS:
        resized = localisation.at_resolution(maps[layer], size)
        contrasted = localisation.at_resolution(contrasts[layer], size)
        result[f"localisation/contrast_pointing_{layer}"] = localisation.pointing_game(contrasted, inside)
        result[f"localisation/pointing_{layer}"] = localisation.pointing_game(resized, inside)
        result[f"localisation/energy_pointing_{layer}"] = localisation.energy_pointing_game(resized, inside)
        overlaps = localisation.box_iou(resized, boxes, box_labels, wanted, size)
        for threshold, column in zip(localisation.BOX_THRESHOLDS, overlaps.T, strict=True):
            result[f"localisation/box_iou_{100 * threshold:.0f}_{layer}"] = column
        if "part_mask" in batch:
            part = batch["part_mask"][pairs[:, 0], ..., 0] == pairs[:, 1, np.newaxis, np.newaxis] + 1
            result[f"localisation/part_pointing_{layer}"] = localisation.pointing_game(resized, part)
            result[f"localisation/contrast_part_pointing_{layer}"] = localisation.pointing_game(contrasted, part)
    return result


def _maps_of(
    model: SharpenFocus, images: np.ndarray, pairs: np.ndarray, explanation: Explanation, of: str, cam: str
) -> dict[str, np.ndarray]:
    """Maps of each pair by layer; reuses those in `explanation` and computes only the others."""
    maps = {layer: pair.target[pairs[:, 0]] for layer, pair in _by_layer(explanation).items()}
    others = np.flatnonzero(explanation.target[pairs[:, 0]] != pairs[:, 1])
    if len(others):
        shown, class_ids = images[pairs[others, 0]], pairs[others, 1]
        extra = model.explain(shown, class_ids, batch_size=len(images), of=of, cam=cam)
        for layer, pair in _by_layer(extra).items():
            maps[layer][others] = pair.target
    return maps


def _several(multi_label: bool) -> str:
    return "several an image" if multi_label else "one an image"


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
