"""Checks that a model can be wrapped: one image input, channels last, one output of logits."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras

from sfocus_tf.classifier import graph, probabilities

# Losses that only take probabilities.
_OF_PROBABILITIES = (
    keras.losses.KLDivergence, keras.losses.Poisson, keras.losses.kl_divergence, keras.losses.poisson,
    keras.losses.CategoricalGeneralizedCrossEntropy, keras.losses.categorical_generalized_cross_entropy,
)  # fmt: skip
# Metrics that take probabilities or scores.
_METRICS_OF_EITHER = (
    keras.metrics.AUC, keras.metrics.BinaryCrossentropy, keras.metrics.CategoricalCrossentropy,
    keras.metrics.SparseCategoricalCrossentropy,
)  # fmt: skip


def check(classifier: Any) -> int:
    """Checks that a model can be wrapped, and returns its number of classes.

    Raises:
        TypeError: not a functional or sequential Keras model with one input.
        ValueError: not built, no `[batch, classes]` output, an output of probabilities, or channels first.
    """
    if not isinstance(classifier, keras.Model):
        raise TypeError(f"classifier: expected a keras.Model, got {type(classifier).__name__}.")
    if isinstance(classifier, keras.Sequential) and not classifier.built:
        raise ValueError("classifier: this Sequential has no input shape yet. Begin it with keras.Input((h, w, 3)).")
    _refuse_other_structure(classifier)
    if keras.config.image_data_format() != "channels_last" or len(classifier.inputs[0].shape) != 4:
        raise ValueError(
            f"classifier: expected images [batch, height, width, channels], got {classifier.inputs[0].shape}."
        )
    _refuse_other_output(classifier)
    _refuse_channels_first(classifier)
    ending = probabilities.find(classifier)
    if ending:
        raise ValueError(_message(classifier, ending))
    return int(classifier.outputs[0].shape[-1])


def without_probabilities(classifier: keras.Model) -> tuple[keras.Model, str | None]:
    """Removes a final softmax or sigmoid from a classifier.

    Args:
        classifier: any model; one that cannot be wrapped is returned unchanged.

    Returns:
        The classifier with scores as output, and what was removed: "softmax", "sigmoid", "log_softmax" or `None`. A
        layer that lost its activation has a copy of its weights, all others are shared.

    Raises:
        ValueError: it ends in probabilities that are not the softmax or sigmoid of scores inside it.
    """
    outputs = keras.tree.flatten(classifier.outputs) if graph.is_transparent(classifier) else []
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or not outputs[0].shape[-1]:
        return classifier, None
    return probabilities.take_off(classifier)


def _refuse_other_structure(classifier: keras.Model) -> None:
    inputs = getattr(classifier, "inputs", None) or []
    if len(inputs) > 1:
        names = ", ".join(repr(tensor.name) for tensor in inputs)
        raise TypeError(f"classifier {classifier.name!r} has {len(inputs)} inputs ({names}): expected one, of images.")
    if not graph.is_transparent(classifier):
        raise TypeError(
            f"classifier: expected a functional or Sequential model with one input, got {type(classifier).__name__}. "
            "Attention needs the layers inside; of a subclassed model they cannot be seen."
        )


def _refuse_other_output(classifier: keras.Model) -> None:
    outputs = classifier.outputs
    structure = outputs if isinstance(classifier, keras.Sequential) else classifier.output
    by_name = structure if isinstance(structure, dict) else {}
    if by_name or len(outputs) != 1:
        shapes = {name: tensor.shape for name, tensor in by_name.items() if hasattr(tensor, "shape")} or {
            number: tensor.shape for number, tensor in enumerate(outputs)
        }
        scores = [name for name, shape in shapes.items() if len(shape) == 2 and (shape[-1] or 0) > 1]
        listed = ", ".join(f"{name!r} {tuple(shape)}" for name, shape in shapes.items())
        several = "the outputs" if len(shapes) > 1 else "a dict of outputs:"
        raise ValueError(
            f"classifier {classifier.name!r} has {several} {listed}: "
            "expected one output [batch, classes]. Select it: keras.Model(classifier.inputs, "
            f"classifier.output[{next(iter(scores or shapes))!r}])."
        )
    shape = tuple(outputs[0].shape)
    if len(shape) == 2 and shape[-1] == 1:
        raise ValueError(
            f"classifier {classifier.name!r} has one output, {shape}: expected one output [batch, classes] with two "
            "classes or more. For binary classification, end it in Dense(2) and use "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )
    if len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            f"classifier {classifier.name!r}: expected one output [batch, classes] with two classes or more, "
            f"got {shape}."
        )


def _refuse_channels_first(classifier: keras.Model) -> None:
    for path, operation in graph.operations(classifier):
        opaque = isinstance(operation, keras.Layer) and not graph.is_transparent(operation)
        parts = operation._flatten_layers() if opaque else [operation]  # such as a layer that wraps a convolution
        for part in parts:
            first = getattr(part, "data_format", None) in ("channels_first", "NCHW")
            if first and not isinstance(part, keras.layers.Flatten):
                inside = "" if part is operation else f", by {part.name!r} inside it"
                raise ValueError(
                    f"classifier: layer {path!r} has data_format='channels_first'{inside}. Attention needs "
                    "feature maps [batch, height, width, channels]: build the network with "
                    "data_format='channels_last', and begin it with keras.layers.Permute((2, 3, 1)) if its images "
                    "have their channels first."
                )


def _message(classifier: keras.Model, ending: probabilities.Probabilities) -> str:
    """The error message for a classifier that ends in probabilities."""
    changed = f", changed by layer {ending.changed_by!r} behind it" if ending.changed_by else ""
    change = (
        f"build layer {ending.path!r} with activation=None"
        if ending.has_weights
        else f"leave layer {ending.path!r} out"
    )
    return (
        f"classifier {classifier.name!r} ends in a {ending.kind} (layer {ending.path!r}{changed}); attention needs "
        f"the scores before it: {change} (in keras.applications: classifier_activation=None), and use a loss "
        "with from_logits=True."
    )


def refuse_probability_loss(losses: Any) -> None:
    """Raises a `ValueError` for a loss that takes probabilities, as wrapped classifiers output scores."""
    for loss in keras.tree.flatten(losses):
        named = keras.losses.get(loss) if isinstance(loss, str) else loss
        if isinstance(named, keras.losses.Loss):
            from_logits = named.get_config().get("from_logits")
        else:  # a function; cross-entropies have the option
            from_logits = _from_logits_by_default(named) if callable(named) else None
        if type(named) in _OF_PROBABILITIES or named in _OF_PROBABILITIES:
            raise ValueError(
                f"loss={loss!r} takes probabilities, but the classifier outputs scores before softmax or sigmoid. "
                "For soft labels use keras.losses.CategoricalCrossentropy(from_logits=True)."
            )
        if from_logits is False:
            name = getattr(named, "__name__", type(named).__name__)
            if "_" in name:  # a function; its class has the same name in CamelCase
                name = "".join(part.capitalize() for part in name.split("_"))
            raise ValueError(
                f"loss={loss!r} takes probabilities, but the classifier outputs scores before softmax or sigmoid. "
                f"Pass keras.losses.{name}(from_logits=True)."
            )


def warn_of_probability_metrics(metrics: Any) -> None:
    """Warns of an AUC, a cross-entropy or a threshold of probabilities, as wrapped classifiers output scores.

    Not an error, as saved models may have such metrics.
    """
    for metric in keras.tree.flatten(metrics):
        if option := _option_for_scores(metric):
            name = getattr(metric, "name", getattr(metric, "__name__", metric))
            warnings.warn(
                f"metrics: {name!r} takes probabilities, but the classifier outputs scores before softmax or sigmoid. "
                f"Pass the class of keras.metrics with {option}.",
                stacklevel=3,
            )


def _option_for_scores(metric: Any) -> str | None:
    """The option with which a metric, in any form that `compile` takes, would take scores; `None` if it does."""
    if isinstance(metric, str):
        if metric.lower() in ("ce", "crossentropy"):  # Keras chooses one of three, by the labels
            return "from_logits=True"
        try:
            metric = keras.metrics.get(metric)
        except ValueError:  # unknown: Keras raises its own error, or means the accuracy
            return None
    if _takes_probabilities(metric):
        return "from_logits=True"
    if metric is keras.metrics.binary_accuracy:
        return "threshold=0.0"
    if isinstance(metric, keras.metrics.BinaryAccuracy):
        return "threshold=0.0" if metric.threshold == 0.5 else None
    if isinstance(metric, (keras.metrics.Precision, keras.metrics.Recall)):
        return "thresholds=0.0" if list(metric.thresholds) == [0.5] and metric.top_k is None else None
    return None


def _takes_probabilities(metric: Any) -> bool:
    """Whether a metric is an AUC or a cross-entropy without `from_logits`."""
    if isinstance(metric, _METRICS_OF_EITHER):
        return metric.get_config()["from_logits"] is False
    if isinstance(metric, keras.metrics.Metric) or not getattr(metric, "__module__", "").startswith("keras."):
        return False
    return _from_logits_by_default(metric) is False


def _from_logits_by_default(function: Callable[..., Any]) -> Any:
    """The default of a function's argument `from_logits`, `None` if it has none."""
    option = inspect.signature(function).parameters.get("from_logits")
    return option and option.default


def ignored_class(loss: Any) -> int | None:
    """The label that a loss ignores (`ignore_class` of sparse cross-entropies), or `None`."""
    for one in keras.tree.flatten(loss):
        options = one.get_config() if isinstance(one, keras.losses.Loss) else getattr(one, "keywords", {})
        ignored: int | None = options.get("ignore_class", getattr(one, "ignore_class", None))
        if ignored is not None:
            return ignored
    return None
