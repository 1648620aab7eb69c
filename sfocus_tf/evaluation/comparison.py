"""Compares two classifiers on the same images, with bootstrap confidence intervals."""

import dataclasses

import numpy as np

from sfocus_tf.evaluation import Evaluation, confusion_matrix
from sfocus_tf.evaluation.evaluate import averaged_over_classes

_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference in one metric between two models.

    Attributes:
        name: as in `Evaluation.summary`.
        a, b: values of the two models.
        low, high: 95 % interval of `b - a`, from a paired bootstrap over the images (Efron and Tibshirani 1993,
            chapter 13). It holds for these two models and does not cover the variation between training runs.
    """

    name: str
    a: float
    b: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """How often models `a` and `b` confuse class `true` with class `other`."""

    true: int
    other: int
    a: int
    b: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The differences between two models.

    Attributes:
        differences: one for each metric, the headline metric first.
        pairs: every pair of classes that either model confuses, most frequent first.
        mended, broken: numbers of the images that went from wrong to right, and from right to wrong.
        wrong: numbers of the images that both models get wrong.
    """

    differences: list[Difference]
    pairs: list[ConfusedPair]
    mended: np.ndarray
    broken: np.ndarray
    wrong: np.ndarray


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Compares two evaluations of the same split.

    Args:
        a: evaluation of the first model.
        b: evaluation of the second model.

    Raises:
        ValueError: the evaluations are not of the same images in the same order, their maps explain different things,
            or one alone has some of the measures.
    """
    if a.class_names != b.class_names or not np.array_equal(a.labels, b.labels, equal_nan=True):
        raise ValueError("a and b: expected two models evaluated on the same images with the same classes.")
    if a.of != b.of:
        raise ValueError(f"a and b: expected maps of the same, got {a.of!r} and {b.of!r}.")
    _refuse_other_measures(a, b)
    size = len(a.labels)
    counts = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), _RESAMPLES)
    # Metrics are compared over the images for which they are defined in both models.
    common = [_of_common_images(a, b), _of_common_images(b, a)]
    drawn = [_resampled(evaluation, counts.astype(np.float32)) for evaluation in common]
    summaries = [evaluation.summary() for evaluation in common]
    differences = []
    for name in summaries[0]:
        spread = drawn[1][name] - drawn[0][name]
        low, high = np.nanpercentile(spread, [2.5, 97.5]) if not np.isnan(spread).all() else (np.nan, np.nan)
        differences.append(Difference(name, summaries[0][name], summaries[1][name], float(low), float(high)))
    matrices = [confusion_matrix(evaluation.explanation.scores, evaluation.labels) for evaluation in (a, b)]
    for matrix in matrices:
        np.fill_diagonal(matrix, 0)
    confused = np.argwhere(matrices[0] + matrices[1] > 0)
    pairs = [
        ConfusedPair(int(row), int(column), int(matrices[0][row, column]), int(matrices[1][row, column]))
        for row, column in confused
    ]
    pairs.sort(key=lambda pair: (-(pair.a + pair.b), pair.true, pair.other))
    a_right, b_right = a.correct(), b.correct()
    known = a.valid & b.valid
    groups = (~a_right & b_right, a_right & ~b_right, ~a_right & ~b_right)
    return Comparison(differences, pairs, *(np.flatnonzero(known & group) for group in groups))


def _refuse_other_measures(a: Evaluation, b: Evaluation) -> None:
    """Raises a `ValueError` if one evaluation has measures that the other lacks."""
    kinds = ("confusion", "localisation", "faithfulness")
    one, other = ({f"{kind}: {name}" for kind in kinds for name in getattr(each, kind)} for each in (a, b))
    if one != other:
        raise ValueError(f"a and b: expected the same measures; one alone has {', '.join(sorted(one ^ other))}.")


def _of_common_images(evaluation: Evaluation, other: Evaluation) -> Evaluation:
    """The evaluation, with NaN wherever the other evaluation has NaN."""

    def masked(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: np.where(np.isnan(theirs[key]), np.nan, values) for key, values in ours.items()}

    return dataclasses.replace(
        evaluation,
        confusion=masked(evaluation.confusion, other.confusion),
        faithfulness=masked(evaluation.faithfulness, other.faithfulness),
    )


def _resampled(evaluation: Evaluation, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of `Evaluation.summary` for every resample; `counts` is how often it contains each image."""
    name, _ = evaluation.headline()
    if evaluation.multi_label:
        result = {name: _mean_average_precision(evaluation.explanation.scores, evaluation.labels, counts)}
    else:
        best = np.argsort(-evaluation.explanation.scores, axis=1, kind="stable")[:, :5]
        among = (best == evaluation.labels[:, np.newaxis]).any(axis=1)
        result = {
            name: _means(evaluation.correct().astype(float), counts),
            "top-5 accuracy": _means(among.astype(float), counts),
        }
    per_image = evaluation.confusion | evaluation.faithfulness
    result |= {key: _means(np.where(evaluation.valid, values, np.nan), counts) for key, values in per_image.items()}
    pair_counts = counts[:, evaluation.pairs[:, 0]]
    for key, values in evaluation.localisation.items():
        if averaged_over_classes(key) and len(values):
            of_class = [evaluation.pairs[:, 1] == number for number in np.unique(evaluation.pairs[:, 1])]
            means = np.stack([_means(values[chosen], pair_counts[:, chosen]) for chosen in of_class])
            known = ~np.isnan(means)
            result[key] = np.where(known, means, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        else:
            result[key] = _means(values, pair_counts)
    return result


def _means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`[resamples]`, the mean over the known values; NaN if there are none."""
    known = ~np.isnan(values)
    total = counts @ known.astype(np.float32)
    return np.where(total > 0, counts @ np.where(known, values, 0.0) / np.maximum(total, 1), np.nan)


def _mean_average_precision(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`[resamples]`; `sfocus_tf.evaluation.mean_average_precision` with each image weighted by its count."""
    results = [np.full(len(counts), np.nan)]
    for number in np.flatnonzero((labels == 1).any(axis=0)):
        order = np.argsort(-scores[:, number], kind="stable")
        order = order[~np.isnan(labels[order, number])]
        ends = np.append(np.diff(scores[order, number]) != 0, True)  # equal scores count at once
        hits = np.cumsum(counts[:, order] * labels[order, number], axis=1)[:, ends]
        precision = hits / np.maximum(np.cumsum(counts[:, order], axis=1)[:, ends], 1e-9)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = hits[:, -1]
        area = (np.diff(hits, axis=1, prepend=0.0) * envelope).sum(axis=1)
        results.append(np.where(total > 0, area / np.maximum(total, 1), np.nan))
    known = ~np.isnan(results)
    return np.where(known, results, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
