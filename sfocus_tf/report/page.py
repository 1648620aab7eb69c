"""Renders the comparison of two classifiers as one self-contained HTML page."""

import base64
import collections
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import PIL.Image

from sfocus_tf.evaluation import KEY_MEASURES, LAYERS, MAPS, Evaluation, describe, label_text
from sfocus_tf.evaluation.comparison import Comparison, Difference, compare
from sfocus_tf.report.figure import RIVAL_COLOUR, TARGET_COLOUR, rgba, signed_tint, tint

_PAIRS = 15  # confused pairs in the table
_BINS = 20


def comparison_page(
    a: Evaluation,
    b: Evaluation,
    images: Callable[[Sequence[int]], Mapping[int, np.ndarray]],
    names: tuple[str, str],
    dataset: str,
    most: int = 60,
    comparison: Comparison | None = None,
) -> str:
    """Renders a page that compares two models.

    Args:
        a: evaluation of the first model.
        b: evaluation of the second model, on the same split.
        images: returns images of that split by number, each `[height, width, 3]` in [0, 255]; called once, for the
            images on the page.
        names: names of the models.
        dataset: description of the images.
        most: maximum number of images per section.
        comparison: `compare(a, b)`, if it is known already.

    Returns:
        The HTML text.

    Raises:
        ValueError: the evaluations are not of the same images.
    """
    comparison = comparison or compare(a, b)
    rendered = _sections(a, b, comparison, names, images, most)
    with_images = {key for section in rendered for card in section["cards"] for key in card["keys"].split()}
    by_name = {difference.name: difference for difference in comparison.differences}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sfocus_tf.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("comparison.html").render(
        names=names,
        dataset=dataset,
        images=len(a.labels),
        maps=MAPS[a.of],
        several=a.multi_label,
        rows=[_row(by_name[name]) for name in KEY_MEASURES if name in by_name],
        other_rows=[_row(difference) for name, difference in by_name.items() if name not in KEY_MEASURES],
        pairs=_pair_rows(comparison, a.class_names, with_images),
        more_pairs=max(len(comparison.pairs) - _PAIRS, 0),
        histograms=[
            {"layer": layer, "bars": _histogram(a, b, layer)} for layer in LAYERS if f"overlap_{layer}" in b.confusion
        ],
        sections=rendered,
        target_colour=_css(TARGET_COLOUR),
        rival_colour=_css(RIVAL_COLOUR),
    )


def _sections(
    a: Evaluation,
    b: Evaluation,
    comparison: Comparison,
    names: tuple[str, str],
    images: Callable[[Sequence[int]], Mapping[int, np.ndarray]],
    most: int,
) -> list[dict[str, Any]]:
    """The groups of images: mended, broken, both wrong, and those of most overlap, each with a card for an image."""
    a_right, b_right = a.correct(), b.correct()
    in_turn = "taking turns between the confused pairs of classes"
    sections = [
        ("mended", f"{names[0]} wrong, {names[1]} right", comparison.mended, in_turn),
        ("broken", f"{names[0]} right, {names[1]} wrong", comparison.broken, in_turn),
        ("wrong", "Both wrong", comparison.wrong, in_turn),
    ]
    if "overlap_last" in b.confusion:  # not of contrast maps
        sections.append(("worst", f"Highest overlap of {names[1]}", _worst(b), "highest first"))
    shown = {
        key: [int(number) for number in (_in_turn(numbers, a, b) if order == in_turn else numbers)[:most]]
        for key, _, numbers, order in sections
    }
    shown_images = images(sorted({number for numbers in shown.values() for number in numbers}))
    return [
        {
            "key": key,
            "title": title,
            "total": len(numbers),
            "order": order,
            "cards": [
                _card(number, shown_images[number], a, b, names, (bool(a_right[number]), bool(b_right[number])))
                for number in shown[key]
            ],
        }
        for key, title, numbers, order in sections
    ]


def _row(difference: Difference) -> dict[str, Any]:
    measure = describe(difference.name)
    change = difference.b - difference.a
    verdict = ""
    if measure.more_is_better is not None and (difference.low > 0 or difference.high < 0):
        verdict = "better" if (change > 0) == measure.more_is_better else "worse"
    return {
        "name": measure.full_text,
        "a": _percent(difference.a),
        "b": _percent(difference.b),
        "change": _percent(change, sign=True),
        "interval": f"{_percent(difference.low, sign=True)} to {_percent(difference.high, sign=True)}",
        "verdict": verdict,
    }


def _percent(value: float, sign: bool = False) -> str:
    if math.isnan(value):
        return "not defined"
    return f"{round(100 * value, 1) + 0.0:{'+' if sign else ''}.1f}"  # without "-0.0"


def _pair_rows(comparison: Comparison, class_names: tuple[str, ...], with_images: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "key": f"{pair.true}-{pair.other}",
            "true": class_names[pair.true],
            "other": class_names[pair.other],
            "a": pair.a,
            "b": pair.b,
            "change": pair.b - pair.a,
            "has_images": f"{pair.true}-{pair.other}" in with_images,
        }
        for pair in comparison.pairs[:_PAIRS]
    ]


def _worst(evaluation: Evaluation) -> np.ndarray:
    """The images whose two regions overlap at the last layer, largest overlap first."""
    overlap = np.where(evaluation.valid, np.nan_to_num(evaluation.confusion["overlap_last"]), 0.0)
    order = np.argsort(-overlap, kind="stable")
    return order[overlap[order] > 0]


def _in_turn(numbers: np.ndarray, a: Evaluation, b: Evaluation) -> np.ndarray:
    """Orders images in turns: the first image of every confused pair of classes, then the second of each, and so on."""
    seen: collections.Counter[str] = collections.Counter()
    turns = []
    for number in numbers:
        pair = min(_confused(int(number), a, b), default="")
        turns.append(seen[pair])
        seen[pair] += 1
    return numbers[np.argsort(turns, kind="stable")]


def _confused(number: int, *evaluations: Evaluation) -> set[str]:
    """The pairs of classes, as "true-other", that the models confuse in an image; see `confusion_matrix`."""
    pairs = set()
    for evaluation in evaluations:
        scores, label = evaluation.explanation.scores[number], evaluation.labels[number]
        if not evaluation.multi_label:
            pairs |= {f"{label}-{scores.argmax()}"} if scores.argmax() != label else set()
            continue
        pairs |= {
            f"{true}-{other}"
            for true in np.flatnonzero(label == 1)
            for other in np.flatnonzero((label == 0) & (scores > scores[true]))
        }
    return pairs


def _histogram(a: Evaluation, b: Evaluation, layer: str) -> list[dict[str, float]]:
    """Histogram bars of both models' overlaps, as shares of the images where both maps have attention."""
    edges = np.linspace(0, 1, _BINS + 1)
    shares = []
    for evaluation in (a, b):
        values = evaluation.confusion[f"overlap_{layer}"][evaluation.valid]
        counts, _ = np.histogram(values[~np.isnan(values)], edges)
        shares.append(counts / max(counts.sum(), 1))
    highest = max(float(np.max(shares)), 1e-9)
    return [
        {"from": edge, "a": 100 * first, "b": 100 * second, "a_height": first / highest, "b_height": second / highest}
        for edge, first, second in zip(edges[:-1], *shares, strict=True)
    ]


def _card(
    number: int, image: np.ndarray, a: Evaluation, b: Evaluation, names: tuple[str, str], rights: tuple[bool, bool]
) -> dict[str, Any]:
    """One image with both models' predictions and their attention at both layers."""
    models = []
    for name, evaluation, right in zip(names, (a, b), rights, strict=True):
        explanation = evaluation.explanation
        scores = explanation.scores[number]
        predicted, target, rival = int(scores.argmax()), int(explanation.target[number]), int(explanation.rival[number])
        models.append(
            {
                "name": name,
                "right": right,
                "predicted": evaluation.class_names[predicted],
                "target": evaluation.class_names[target],
                "rival": evaluation.class_names[rival],
                "overlap": {layer: _overlap(evaluation, layer, number) for layer in LAYERS},
                "maps": {
                    layer: {
                        "target": _coloured(rgba(tint(pair.target[number]), TARGET_COLOUR)),
                        "rival": _coloured(rgba(tint(pair.rival[number]), RIVAL_COLOUR)),
                    }
                    for layer, pair in (("inner", explanation.inner), ("last", explanation.last))
                },
                "contrast": _contrast(number, evaluation),
            }
        )
    return {
        "label": label_text(a.labels[number], a.class_names),
        "keys": " ".join(sorted(_confused(number, a, b))),
        "image": _data_url(PIL.Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)), "JPEG", quality=80),
        "models": models,
    }


def _contrast(number: int, evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """The contrast maps of an image by layer, with the rival's share of the evidence."""
    result = {}
    for layer, (targets, rivals) in (("inner", evaluation.contrast.inner), ("last", evaluation.contrast.last)):
        share = evaluation.confusion[f"rival_share_{layer}"][number]
        text = "no evidence" if math.isnan(share) else f"{100 * share:.0f} %"
        result[layer] = {"map": _coloured(rgba(signed_tint(targets[number], rivals[number]))), "share": text}
    return result


def _overlap(evaluation: Evaluation, layer: str, number: int) -> str:
    values = evaluation.confusion.get(f"overlap_{layer}")
    if values is None:
        return ""
    return ", no overlap: no attention" if math.isnan(values[number]) else f", overlap {values[number]:.2f}"


def _coloured(pixels: np.ndarray) -> str:
    """A map as a small PNG in colour, of a `rgba`; the browser scales it up smoothly."""
    return _data_url(PIL.Image.fromarray(np.round(255 * pixels).astype(np.uint8)), "PNG")


def _data_url(image: PIL.Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _css(colour: tuple[int, int, int]) -> str:
    return f"rgb({colour[0]}, {colour[1]}, {colour[2]})"
