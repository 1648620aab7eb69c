"""Finds and removes a softmax or sigmoid at the end of a classifier.

The end of a network follows its last layer with unbounded output, such as a `Dense` layer before its activation. Its
outputs for random numbers are tested, not the names of its layers: this finds a softmax from `keras.layers.Softmax`,
`tf.nn.softmax`, a lambda or three operations, also with layers behind it that change nothing.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.classifier import graph

# Layers whose output before the activation is unbounded. No subclasses: these may differ.
_LINEAR = (
    keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv1D, keras.layers.Conv2D,
    keras.layers.SeparableConv2D, keras.layers.DepthwiseConv2D, keras.layers.Conv2DTranspose,
    keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization,
)  # fmt: skip
_EXACT = {"softmax": keras.ops.softmax, "sigmoid": keras.ops.sigmoid, "log_softmax": keras.ops.log_softmax}
# Values of the tensors of the end for random numbers of growing scale, by place and whether activated.
_Measured = dict[tuple[tuple[int, ...], bool], list[np.ndarray]]
_ROWS = 16
_SCALES = (1.0, 10.0, 100.0, 1000.0)  # of the random numbers


class Probabilities(NamedTuple):
    """Probabilities at the output of a classifier, where scores are expected.

    Attributes:
        kind: "softmax" if rows have a constant sum, "sigmoid" for other numbers in [0, 1], or "log_softmax".
        path: path of the layer that computes them.
        has_weights: whether that layer has weights, so that the activation is one of its options.
        changed_by: path of a later layer that changes them, or `None`.
    """

    kind: str
    path: str
    has_weights: bool
    changed_by: str | None


class _Place(NamedTuple):
    """A tensor of the graph and the operation that computes it."""

    tensor: Any
    operation: Any
    node: Any
    position: int  # among the operation's outputs
    models: tuple[tuple[Any, Any], ...]  # nested models around it, outermost first, each with its node

    @property
    def path(self) -> str:
        return "/".join([model.name for model, _ in self.models] + [self.operation.name])

    @property
    def key(self) -> tuple[int, ...]:
        return (id(self.tensor), *(id(node) for _, node in self.models))


def find(classifier: keras.Model) -> Probabilities | None:
    """The probabilities that a classifier ends in, or `None` if it outputs scores.

    Changes no weights or random state of the classifier.

    Args:
        classifier: a functional or Sequential model with one output, `[batch, classes]`.
    """
    end = _end(classifier)
    return _identify(classifier, end, _measured(end))


def take_off(classifier: keras.Model) -> tuple[keras.Model, str | None]:
    """Removes a final softmax or sigmoid from a classifier.

    Args:
        classifier: a functional or Sequential model with one output, `[batch, classes]`.

    Returns:
        The classifier with scores as output, and what was removed: a key of `_EXACT`, or `None`. A layer that lost its
        activation has a copy of its weights, all others are shared.

    Raises:
        ValueError: it ends in probabilities that are not the softmax or sigmoid of scores inside it.
    """
    end = _end(classifier)
    measured = _measured(end)
    ending = _identify(classifier, end, measured)
    if measured is None or ending is None:
        return classifier, None
    for key, values in measured.items():
        if _kind(values, classifier.outputs[0].shape[-1], _tolerance(end)):
            continue  # e.g. a log-softmax, which is its own log-softmax
        for name, function in _EXACT.items():
            if _same(function, values, measured[end[0].key, True], _tolerance(end)):
                place = next(place for place in end if place.key == key[0])
                return _ending_at(classifier, place, key[1], classifier.outputs[0]), name
    change = f", changed by layer {ending.changed_by!r}" if ending.changed_by else ""
    raise ValueError(
        f"classifier {classifier.name!r} ends in probabilities (layer {ending.path!r}{change}) that are no softmax or "
        "sigmoid of scores inside it, so there is nothing to take off. Build it without that layer."
    )


def _end(classifier: keras.Model) -> list[_Place]:
    """The tensors of the end of a network, from the output backwards."""
    end = [_place(classifier.outputs[0])]
    known = {end[0].key}
    for place in end:  # grows during the loop
        for tensor in [] if _begins(place) else place.node.input_tensors:
            before = _place(tensor, place.models)
            if before.key not in known:
                known.add(before.key)
                end.append(before)
    return end


def _place(tensor: Any, models: tuple[tuple[Any, Any], ...] = ()) -> _Place:
    """The place of a tensor, inside nested models if it comes from one."""
    while True:
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if graph.is_transparent(history.operation):
            models += ((history.operation, node),)
            tensor = history.operation.outputs[history.tensor_index]
        elif node.is_input and models:
            (model, outer), models = models[-1], models[:-1]
            tensor = outer.input_tensors[[id(entry) for entry in model.inputs].index(id(tensor))]
        else:
            return _Place(tensor, history.operation, node, history.tensor_index, models)


def _begins(place: _Place) -> bool:
    """Whether the end of the network begins at this place."""
    if place.node.is_input or type(place.operation) in _LINEAR:
        return True
    # A layer with weights may output any numbers, unless it only changes scores, such as by a temperature.
    changes_scores = len(place.tensor.shape) == 2 and all(
        tuple(tensor.shape) == tuple(place.tensor.shape) for tensor in place.node.input_tensors
    )
    return bool(getattr(place.operation, "weights", None)) and not changes_scores


def _tolerance(end: list[_Place]) -> float:
    """The rounding error allowed between equal numbers."""
    dtypes = {keras.backend.standardize_dtype(place.tensor.dtype) for place in end}
    dtypes |= {getattr(place.operation, "compute_dtype", None) or "float32" for place in end}
    return 1e-5 if dtypes <= {"float32", "float64"} else 2e-2


def _measured(end: list[_Place]) -> _Measured | None:
    """The values in the end of a network for random numbers at its beginning.

    `None` if it is a linear layer without activation, with unbounded output, or cannot be run on random numbers.
    """
    if type(end[0].operation) in _LINEAR and _activation(end[0].operation) is None:
        return None
    keys: list[tuple[tuple[int, ...], bool]] = []

    @tf.function(autograph=False)
    def run(scale: tf.Tensor) -> list[tf.Tensor]:
        values = _run(end, scale)
        keys[:] = values
        return [tf.cast(value, tf.float64) for value in values.values()]

    try:
        # The scope keeps Keras variables and seed generators unchanged, the graph those of TensorFlow.
        with keras.StatelessScope(_random_weights(end)):
            by_scale = [[value.numpy() for value in run(tf.constant(scale))] for scale in _SCALES]
    except Exception:  # e.g. a custom layer that only takes this network's values
        return None
    return dict(zip(keys, map(list, zip(*by_scale, strict=True)), strict=True))


def _run(end: list[_Place], scale: tf.Tensor) -> dict[tuple[tuple[int, ...], bool], Any]:
    """The tensors of the end, also before activations, for random numbers of a given scale at its beginning."""
    generator = np.random.default_rng(0)
    values: dict[tuple[tuple[int, ...], bool], Any] = {}

    def numbers(tensor: Any) -> tf.Tensor:
        shape = (_ROWS, *(side or 4 for side in tensor.shape[1:]))
        return tf.cast(scale * tf.constant(generator.normal(size=shape), tf.float32), tensor.dtype)

    def value(place: _Place) -> Any:
        key = (place.key, True)
        if key in values:
            return values[key]
        if place.node.is_input or type(place.operation) in _LINEAR:
            activation = _activation(place.operation)
            before = numbers(place.tensor)
            if activation:
                values[place.key, False] = before
            result = activation(before) if activation else before
        else:
            tensors = place.node.input_tensors
            inputs = {
                id(tensor): numbers(tensor) if _begins(place) else value(_place(tensor, place.models))
                for tensor in tensors
            }
            arguments, options = place.node.arguments.fill_in(inputs)
            result = keras.tree.flatten(place.operation(*arguments, **options))[place.position]
        values[key] = result
        return result

    value(end[0])
    order = {place.key: number for number, place in enumerate(end)}
    return dict(sorted(values.items(), key=lambda item: (order[item[0][0]], not item[0][1])))


def _activation(operation: Any) -> Any:
    activation = getattr(operation, "activation", None)
    return None if activation is keras.activations.linear else activation


def _random_weights(end: list[_Place]) -> list[tuple[Any, np.ndarray]]:
    """Random weights for unknown layers, which may output a constant with their own weights, such as zeros."""
    generator = np.random.default_rng(1)
    variables = {
        id(variable): variable
        for place in end
        if type(place.operation) not in _LINEAR
        for variable in getattr(place.operation, "trainable_variables", ())
        if "float" in variable.dtype
    }.values()
    return [(var, generator.normal(size=var.shape) / math.sqrt((*var.shape, 1)[0] or 1)) for var in variables]


def _identify(classifier: keras.Model, end: list[_Place], measured: _Measured | None) -> Probabilities | None:
    if measured is None:
        return None
    output = measured[end[0].key, True]
    classes, tolerance = classifier.outputs[0].shape[-1], _tolerance(end)
    # Follow the chain from the output back to the first operation with several inputs.
    straight = next((number for number, place in enumerate(end) if len(place.node.input_tensors) != 1), len(end) - 1)
    kinds = [_kind(measured[place.key, True], classes, tolerance) for place in end[: straight + 1]]
    number = next((number for number, kind in enumerate(kinds) if kind), None)
    if number is None or (kinds[0] is None and _grows(output)):  # e.g. the logarithm of a softmax with a temperature
        return None
    changed_by = end[number - 1].path if number else None
    kind = kinds[number]
    while number + 1 < len(kinds) and kinds[number + 1] == kind:
        number += 1
    place = end[number]
    return Probabilities(str(kind), place.path, bool(getattr(place.operation, "weights", None)), changed_by)


def _kind(values: list[np.ndarray], classes: int, tolerance: float) -> str | None:
    """The kind of probabilities in outputs for numbers of growing scale, or `None`."""
    if values[0].shape[-1] != classes and values[0].size != _ROWS * classes:
        return None
    finite = [array.reshape(-1, classes) for array in values if np.isfinite(array).all()]
    if not finite:
        return None
    if finite[0].max() <= tolerance and np.allclose(np.exp(finite[0]).sum(-1), 1, atol=tolerance):
        return "log_softmax"
    lowest, highest = min(array.min() for array in finite), max(array.max() for array in finite)
    sums = np.concatenate([array.sum(-1) for array in finite[:2]])
    if lowest >= -tolerance and sums[0] > 0 and np.allclose(sums, sums[0], rtol=tolerance, atol=0):
        return "softmax"  # or a multiple of one
    # Normalisation, such as to unit length after a ReLU, does not squash: it is invariant to scale.
    normalised = finite[-1].min() == 0 and np.allclose(finite[-1], finite[0], atol=tolerance)
    squashed = lowest >= -tolerance and highest <= 1 + tolerance and np.ptp(finite[-1]) > 0
    return "sigmoid" if squashed and not normalised and not _grows(values) else None


def _grows(values: list[np.ndarray]) -> bool:
    """Whether the output grows without bound with the scale of the numbers, as with a ReLU but not a sigmoid."""
    peaks = [np.abs(array).max() for array in values if np.isfinite(array).all()]
    return len(peaks) < 2 or peaks[-1] >= 3 * peaks[-2]


def _same(function: Any, scores: list[np.ndarray], output: list[np.ndarray], tolerance: float) -> bool:
    """Whether the output equals this function of the scores."""
    pairs = [
        (function(one.reshape(other.shape)), other)
        for one, other in list(zip(scores, output, strict=True))[:2]
        if one.size == other.size and np.isfinite(one).all() and np.isfinite(other).all()
    ]
    return bool(pairs) and all(np.allclose(one, other, rtol=tolerance, atol=tolerance) for one, other in pairs)


def _ending_at(model: keras.Model, place: _Place, activated: bool, like: Any) -> keras.Model:
    """A model that ends at a place inside, with the shape and dtype of `like`; nested models stay nested."""
    inside = place.models
    if inside:
        (nested, node), *rest = inside
        inner = _ending_at(nested, place._replace(models=tuple(rest)), activated, like)
        arguments, options = node.arguments.fill_in({id(tensor): tensor for tensor in node.input_tensors})
        scores = inner(*arguments, **options)
    else:
        scores = place.tensor if activated else _without_activation(place)
    if scores.shape[1:] != like.shape[1:]:
        scores = keras.layers.Reshape(like.shape[1:], name=f"{model.name}_rows_of_scores")(scores)
    if scores.dtype != like.dtype:
        scores = keras.layers.Activation("linear", dtype=like.dtype, name=f"{model.name}_scores")(scores)
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.input
    return keras.Model(inputs, scores, name=model.name)


def _without_activation(place: _Place) -> Any:
    """The output of a copy of the layer without activation."""
    layer = place.operation
    try:
        linear = type(layer).from_config(layer.get_config() | {"activation": "linear"})
    except (TypeError, ValueError) as error:  # an activation without a config
        raise ValueError(f"the activation of layer {place.path!r} cannot be taken off: {error}") from error
    arguments, options = place.node.arguments.fill_in({id(tensor): tensor for tensor in place.node.input_tensors})
    scores = linear(*arguments, **options)
    linear.set_weights(layer.get_weights())
    return scores
