"""What a classifier has to be, above all that it gives scores and no probabilities."""

import inspect
from typing import Any

import keras

from sfocus_tf import layers

# Losses of probabilities that have no form for scores.
_OF_PROBABILITIES = (
    keras.losses.KLDivergence, keras.losses.Poisson, keras.losses.kl_divergence, keras.losses.poisson,
)  # fmt: skip


def check(classifier: Any) -> int:
    """Checks that a model can be wrapped, and returns its number of classes.

    Raises:
        TypeError: not a functional or sequential Keras model with one input.
        ValueError: not built, no `[batch, classes]` output, or the output is a softmax's or sigmoid's.
    """
    if not isinstance(classifier, keras.Model):
        raise TypeError(f"classifier: expected a keras.Model, got {type(classifier).__name__}.")
    if isinstance(classifier, keras.Sequential) and not classifier.built:
        raise ValueError("classifier: this Sequential has no input shape yet. Begin it with keras.Input((h, w, 3)).")
    if not layers.is_transparent(classifier) or len(classifier.inputs) != 1:
        raise TypeError(
            f"classifier: expected a functional or Sequential model with one input, got {type(classifier).__name__}. "
            "Attention needs the layers inside; of a subclassed model they cannot be seen."
        )
    if keras.config.image_data_format() != "channels_last" or len(classifier.inputs[0].shape) != 4:
        raise ValueError(
            f"classifier: expected pictures [batch, height, width, channels], got {classifier.inputs[0].shape}."
        )
    outputs = keras.tree.flatten(classifier.outputs)
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or (outputs[0].shape[-1] or 0) < 2:
        shapes = [tuple(output.shape) for output in outputs]
        raise ValueError(f"classifier: expected one output [batch, classes] with two classes or more, got {shapes}.")
    _refuse_probabilities(classifier)
    return int(outputs[0].shape[-1])


def without_probabilities(classifier: keras.Model) -> tuple[keras.Model, str | None]:
    """A classifier that gives the scores before its last softmax or sigmoid; the same, where it has neither.

    Returns:
        The classifier, with the same layers but the last, and the name of what was taken off or `None`. A layer
        whose activation was taken off has a copy of its weights.
    """
    if not layers.is_transparent(classifier):
        return classifier, None
    history = classifier.outputs[0]._keras_history
    layer = history.operation
    arguments = layer._inbound_nodes[history.node_index].input_tensors
    if layers.is_transparent(layer):
        inner, name = without_probabilities(layer)
        return (keras.Model(classifier.inputs, inner(arguments[0])), name) if name else (classifier, None)
    name = _probabilities(layer)
    if name is None:
        return classifier, None
    if not getattr(layer, "weights", None):  # nothing but the activation
        return keras.Model(classifier.inputs, arguments[0]), name
    linear = type(layer).from_config(layer.get_config() | {"activation": "linear"})
    scores = linear(arguments[0])
    linear.set_weights(layer.get_weights())
    return keras.Model(classifier.inputs, scores), name


def _probabilities(layer: Any) -> str | None:
    """The name of the activation that turns scores into probabilities, if this is or has one."""
    name = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__).lower()
    return name if name in ("softmax", "sigmoid", "logsoftmax", "log_softmax") else None


def _refuse_probabilities(classifier: keras.Model) -> None:
    layer: Any = classifier
    names = []
    history = classifier.outputs[0]._keras_history
    while layers.is_transparent(layer):
        layer = history.operation
        names.append(layer.name)
        if layers.is_transparent(layer):
            history = layer.outputs[history.tensor_index]._keras_history
    activation = _probabilities(layer)
    if activation:
        raise ValueError(
            f"classifier {classifier.name!r} ends in a {activation} (layer {'/'.join(names)!r}); attention is taken of "
            "the scores before it. Build it with classifier_activation=None (keras.applications) or without that "
            "activation, and use a loss with from_logits=True."
        )


def refuse_probability_loss(losses: Any) -> None:
    """Raises a `ValueError` for a loss that takes probabilities, while classifiers here give scores."""
    for loss in keras.tree.flatten(losses):
        named = keras.losses.get(loss) if isinstance(loss, str) else loss
        if isinstance(named, keras.losses.Loss):
            from_logits = named.get_config().get("from_logits")
        else:  # a function, with the option where it is a cross-entropy
            option = inspect.signature(named).parameters.get("from_logits") if callable(named) else None
            from_logits = option and option.default
        if type(named) in _OF_PROBABILITIES or named in _OF_PROBABILITIES:
            raise ValueError(
                f"loss={loss!r} takes probabilities, but the classifier gives scores before softmax or sigmoid. For "
                "soft labels there is keras.losses.CategoricalCrossentropy(from_logits=True)."
            )
        if from_logits is False:
            name = getattr(named, "__name__", type(named).__name__)
            if "_" in name:  # of a function; the class is called the same in capitals
                name = "".join(part.capitalize() for part in name.split("_"))
            raise ValueError(
                f"loss={loss!r} takes probabilities, but the classifier gives scores before softmax or sigmoid. Pass "
                f"keras.losses.{name}(from_logits=True)."
            )


def ignored_class(loss: Any) -> int | None:
    """The label that says "no label" to a loss (`ignore_class` of sparse cross-entropies), or `None`."""
    if isinstance(loss, str) or loss is None:
        return None
    options = loss.get_config() if isinstance(loss, keras.losses.Loss) else getattr(loss, "keywords", {})
    return options.get("ignore_class", getattr(loss, "ignore_class", None))
