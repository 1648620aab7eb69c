"""All measures of one classifier on one split, from one pass over its pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from sfocus_tf.attention import Explanation, LayerMaps
from sfocus_tf.data import Data
from sfocus_tf.evaluation import classification, faithfulness, localisation, overlap
from sfocus_tf.model import SharpenFocus

LAYERS = ("inner", "last")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a classifier does on a split, picture by picture; measures are NaN where they are not defined.

    Attributes:
        class_names: in the order of the class numbers.
        labels: `[pictures]` class numbers, or `[pictures, classes]` of 0 and 1, with NaN for classes of which all
            objects in a picture are difficult: the picture does not count for these.
        explanation: of the labelled class and its most confusing rival.
        valid: `[pictures]` bool, whether a picture has both.
        confusion: `[pictures]` each; see `sfocus_tf.evaluation.overlap`.
        pairs: `[pairs, 2]`, picture and class of each object class in a picture whose place is known.
        localisation: `[pairs]` each; see `sfocus_tf.evaluation.localisation`.
        faithfulness: `[pictures]` each, of the labelled class at the last layer; see
            `sfocus_tf.evaluation.faithfulness`. Empty where it was not asked for.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    explanation: Explanation
    valid: np.ndarray
    confusion: dict[str, np.ndarray]
    pairs: np.ndarray
    localisation: dict[str, np.ndarray]
    faithfulness: dict[str, np.ndarray]

    @property
    def multi_label(self) -> bool:
        """Whether pictures may have several classes."""
        return self.labels.ndim == 2

    def correct(self) -> np.ndarray:
        """`[pictures]` bool: the highest score is that of a class the picture has."""
        best = self.explanation.scores.argmax(axis=1)
        if self.multi_label:
            return self.labels[np.arange(len(best)), best] != 0
        return best == self.labels

    def headline(self) -> tuple[str, float]:
        """Name and value of the measure that the field reports for such data."""
        return classification.headline(self.explanation.scores, self.labels)

    def summary(self) -> dict[str, float]:
        """Every measure as one number: the mean over pictures (or pairs), and for the pointing game the mean over
        classes of the means over their pairs, as its paper has it.
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
        """The summary, the table of classes, and the confusion matrix as pairs of classes, most often confused
        first; `None` for NaN.
        """
        scores = self.explanation.scores
        table = [
            {"class": name} | {key: _plain(value) for key, value in row.items()}
            for name, row in zip(self.class_names, classification.class_table(scores, self.labels), strict=True)
        ]
        matrix = classification.confusion_matrix(scores, self.labels)
        np.fill_diagonal(matrix, 0)
        found = np.argwhere(matrix)
        found = found[np.argsort(-matrix[tuple(found.T)], kind="stable")]
        confused = [
            {
                "class": self.class_names[true],
                "taken for": self.class_names[other],
                "pictures": int(matrix[true, other]),
            }
            for true, other in found
        ]
        summary = {key: _plain(value) for key, value in self.summary().items()}
        return {"pictures": len(self.labels), "summary": summary, "classes": table, "confused": confused}


def averaged_over_classes(measure: str) -> bool:
    """Whether a measure of localisation is the mean of its classes' means, as the paper of the pointing game has it."""
    return measure.startswith(("pointing", "part_pointing"))


def evaluate(
    model: SharpenFocus,
    data: Data,
    faithfulness_steps: int = 0,
    on_batch: Callable[[int], None] | None = None,
    of: str = "score",
) -> Evaluation:
    """Runs a classifier over a split once and measures everything that the data allow.

    Args:
        model: the classifier; wrap one that was trained without attention supervision in `SharpenFocus` as it is.
        data: a split loaded with `regions=True` and without training augmentation. Localisation is measured where it
            has boxes or masks of the objects, for every class that a picture has.
        faithfulness_steps: steps of insertion and deletion (16 is usual; each costs two passes), 0 for neither.
        on_batch: called with the number of batches done, after each.
        of: what the maps explain, as in `SharpenFocus.explain`. What is added to all scores of a picture changes no
            measure of "relative" maps.

    Returns:
        The measures.

    Raises:
        TypeError: data that `sfocus_tf.data.load` did not give.
        ValueError: data in training order, without `regions`, or with another number of classes than the model; or
            relative maps of several labels.
    """
    if not isinstance(data, Data):
        raise TypeError(f"data: expected sfocus_tf.data.load(..., regions=True), got {type(data).__name__}.")
    if data.training or not data.regions:
        raise ValueError("data: expected a split loaded with training=False and regions=True.")
    if len(data.class_names) != model.num_classes or data.multi_label != model.multi_label:
        raise ValueError(
            f"data: {len(data.class_names)} classes, {_several(data.multi_label)}; the model has {model.num_classes}, "
            f"{_several(model.multi_label)}."
        )
    parts: list[dict[str, np.ndarray]] = []
    explanations: list[Explanation] = []
    pictures = 0
    for done, batch in enumerate(data.batches.as_numpy_iterator(), start=1):
        explanation, measured = _measure_batch(model, batch, faithfulness_steps, of)
        explanations.append(explanation)
        parts.append(measured)
        parts[-1]["pairs"][:, 0] += pictures
        pictures += len(batch["label"])
        if on_batch is not None:
            on_batch(done)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def group(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): value for key, value in joined.items() if key.startswith(prefix)}

    return Evaluation(
        data.class_names,
        joined["label"],
        keras.tree.map_structure(lambda *values: np.concatenate(values), *explanations),
        joined["valid"],
        group("confusion/"),
        joined["pairs"],
        group("localisation/"),
        group("faithfulness/"),
    )


def countable(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The labels of a batch of a split loaded with `regions=True`, as `Evaluation.labels` has them."""
    if "difficult" not in batch:
        return batch["label"]
    return np.where(batch["difficult"] > 0.5, np.nan, batch["label"])


def _measure_batch(
    model: SharpenFocus, batch: dict[str, np.ndarray], steps: int, of: str
) -> tuple[Explanation, dict[str, np.ndarray]]:
    images, label = batch["image"], countable(batch)
    explanation, valid = keras.tree.map_structure(np.asarray, model.explain_labelled_on_batch(images, label, of=of))
    result = {"label": label, "valid": valid}
    for layer, (target, rival) in _by_layer(explanation).items():
        result |= {
            f"confusion/overlap_{layer}": overlap.region_iou(target, rival),
            f"confusion/rank_correlation_{layer}": overlap.rank_correlation(target, rival),
            f"confusion/same_peak_{layer}": overlap.same_peak(target, rival),
            f"confusion/no_target_{layer}": (target.max(axis=(1, 2)) <= 0).astype(float),
            f"confusion/no_rival_{layer}": (rival.max(axis=(1, 2)) <= 0).astype(float),
        }
    result |= _localise(model, batch, explanation, valid, of)
    if steps:

        def probabilities(pictures: np.ndarray) -> np.ndarray:
            scores = keras.ops.cast(model.predict_on_batch(pictures), "float32")
            squash = keras.ops.sigmoid if model.multi_label else keras.ops.softmax
            return keras.ops.convert_to_numpy(squash(scores))

        arguments = (probabilities, images, explanation.last.target, explanation.target, steps)
        result["faithfulness/insertion"] = faithfulness.insertion(*arguments)
        result["faithfulness/deletion"] = faithfulness.deletion(*arguments)
    return explanation, result


def _by_layer(explanation: Explanation) -> dict[str, LayerMaps]:
    return dict(zip(LAYERS, (explanation.inner, explanation.last), strict=True))


def _localise(
    model: SharpenFocus, batch: dict[str, np.ndarray], explanation: Explanation, valid: np.ndarray, of: str
) -> dict[str, Any]:
    """Localisation of every class of every picture whose place is known, with `pairs`."""
    images, label = batch["image"], countable(batch)
    size = images.shape[1:3]
    if not batch.keys() & {"boxes", "mask"}:
        return {"pairs": np.zeros((0, 2), int)}
    present = label > 0.5 if label.ndim == 2 else label[:, np.newaxis] == np.arange(model.num_classes)
    pairs = np.argwhere(present & valid[:, np.newaxis])
    if "boxes" in batch:
        boxes, box_labels, wanted = batch["boxes"][pairs[:, 0]], batch["box_labels"][pairs[:, 0]], pairs[:, 1]
        inside = localisation.inside_boxes(boxes, box_labels, wanted, size)
    if "mask" in batch:  # says more exactly what is inside
        inside = batch["mask"][pairs[:, 0], ..., 0] == pairs[:, 1, np.newaxis, np.newaxis] + 1
    if "boxes" not in batch:
        boxes, box_labels = localisation.boxes_of_masks(inside)
        wanted = np.zeros(len(pairs), int)
    known = inside.any(axis=(1, 2))
    pairs, inside, boxes, box_labels, wanted = (array[known] for array in (pairs, inside, boxes, box_labels, wanted))
    maps = _maps_of(model, images, pairs, explanation, of)
    result: dict[str, Any] = {"pairs": pairs}
    for layer in LAYERS:
        resized = localisation.at_resolution(maps[layer], size)
        result[f"localisation/pointing_{layer}"] = localisation.pointing_game(resized, inside)
        result[f"localisation/energy_pointing_{layer}"] = localisation.energy_pointing_game(resized, inside)
        overlaps = localisation.box_iou(resized, boxes, box_labels, wanted, size)
        for threshold, column in zip(localisation.BOX_THRESHOLDS, overlaps.T, strict=True):
            result[f"localisation/box_iou_{100 * threshold:.0f}_{layer}"] = column
        if "part_mask" in batch:
            part = batch["part_mask"][pairs[:, 0], ..., 0] == pairs[:, 1, np.newaxis, np.newaxis] + 1
            result[f"localisation/part_pointing_{layer}"] = localisation.pointing_game(resized, part)
    return result


def _maps_of(
    model: SharpenFocus, images: np.ndarray, pairs: np.ndarray, explanation: Explanation, of: str
) -> dict[str, np.ndarray]:
    """Maps of each pair by layer; those of the labelled classes are there, only others' are computed."""
    maps = {layer: pair.target[pairs[:, 0]] for layer, pair in _by_layer(explanation).items()}
    others = np.flatnonzero(explanation.target[pairs[:, 0]] != pairs[:, 1])
    if len(others):
        found = model.explain(images[pairs[others, 0]], class_ids=pairs[others, 1], batch_size=len(images), of=of)
        for layer, pair in _by_layer(found).items():
            maps[layer][others] = pair.target
    return maps


def _several(multi_label: bool) -> str:
    return "several a picture" if multi_label else "one a picture"


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
