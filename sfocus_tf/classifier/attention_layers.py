"""Finds the two attention layers of a classifier."""

from typing import Any, NamedTuple

import keras

from sfocus_tf.classifier.feature_maps import FeatureMap, Shape, no_layers, resolve
from sfocus_tf.classifier.graph import steps
from sfocus_tf.classifier.spatial import Positions

# Activations other than the Activation layer, by class name.
_ACTIVATIONS = {
    "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Softplus",
    "HardSilu", "Mish", "Celu", "SquaredRelu",
}  # fmt: skip


# Operations whose output is activated if all their inputs are.
_KEEPS_ACTIVATION = ("Concatenate", "Pooling", "ZeroPadding", "Cropping", "Dropout", "Identity")


class AttentionLayers(NamedTuple):
    """The paths of the two attention layers.

    Attributes:
        inner: the last activated feature map at the next finer resolution.
        last: the last activated feature map.
    """

    inner: str
    last: str


def find(classifier: keras.Model, inner: str | None = None, last: str | None = None) -> AttentionLayers:
    """Finds the two attention layers of a classifier.

    By default `last` is the last activated feature map with more than one position, and `inner` the last one at the
    next finer resolution. At each resolution, feature maps on every path to the output come first: the output of a
    whole stage before that of one branch.

    Args:
        classifier: a model that `sfocus_tf.classifier.checks.check` accepts.
        inner: name or path of the inner layer, or `None` for the default.
        last: name or path of the last layer, or `None` for the default.

    Returns:
        The paths of both.

    Raises:
        ValueError: a layer does not exist, has no feature map or is run more than once; the two are in the wrong order;
            or the network has no two usable layers.
    """
    every_map, others = _feature_maps(classifier)
    paths = [map_.path for map_ in every_map]
    # A layer that is run several times has several feature maps.
    shared = {path for path in paths if paths.count(path) > 1}
    maps = [map_ for map_ in every_map if map_.path not in shared]
    by_path = {map_.path: map_ for map_ in maps}
    order = list(by_path)
    last_map: FeatureMap | None = by_path[resolve("last_layer", last, order, shared, others)] if last else _choose(maps)
    if last_map is None:
        raise no_layers(classifier.name, maps, None, shared, others)
    if inner:
        inner_map: FeatureMap | None = by_path[resolve("inner_layer", inner, order, shared, others)]
    else:
        before = maps[: order.index(last_map.path)]
        area = last_map.size[0] * last_map.size[1]
        finer = [map_ for map_ in before if map_.activated and map_.size[0] * map_.size[1] > area]
        nearest = min((map_.size[0] * map_.size[1] for map_ in finer), default=None)
        inner_map = _choose([map_ for map_ in finer if map_.size[0] * map_.size[1] == nearest])
    if inner_map is None:
        raise no_layers(classifier.name, maps, last_map, shared, others)
    if order.index(inner_map.path) >= order.index(last_map.path):
        raise ValueError(f"inner_layer={inner_map.path!r} must come before last_layer={last_map.path!r}.")
    return AttentionLayers(inner_map.path, last_map.path)


def _choose(maps: list[FeatureMap]) -> FeatureMap | None:
    """The last cut among the activated maps of the last resolution, or the last map if there is no cut."""
    usable = [map_ for map_ in maps if map_.activated and map_.size != (1, 1)]
    if not usable:
        return None
    same = [map_ for map_ in usable if map_.size == usable[-1].size]
    return ([map_ for map_ in same if map_.is_cut] or same)[-1]


def _feature_maps(classifier: keras.Model) -> tuple[list[FeatureMap], dict[str, Shape]]:
    """The feature maps in order of execution, and the output shapes of all other layers by path."""
    run_steps, symbolic, result = steps(classifier)
    last_use = {id(t): position for position, step in enumerate(run_steps) for t in step.inputs}
    last_use[id(result)] = len(run_steps)
    activated: dict[int, bool] = {}
    live: set[int] = {id(symbolic)}
    maps = []
    others = {}
    positions = Positions(symbolic)
    for position, (path, layer, tensors, output) in enumerate(run_steps):
        activated[id(output)] = _activates(layer) or (
            any(part in type(layer).__name__ for part in _KEEPS_ACTIVATION)
            and all(activated.get(id(t), False) for t in tensors)
        )
        live |= {id(t) for t in keras.tree.flatten(output)}
        live = {tensor for tensor in live if last_use.get(tensor, -1) > position}
        if positions.follow(layer, tensors, output) and isinstance(output, keras.KerasTensor):
            usable = _activates(layer) or (activated[id(output)] and type(layer).__name__ == "Concatenate")
            size = (int(output.shape[1]), int(output.shape[2]))
            maps.append(FeatureMap(path, size, usable, live == {id(output)}))
        else:
            others[path] = tuple(output.shape) if isinstance(output, keras.KerasTensor) else None
    return maps, others


def _activates(layer: Any) -> bool:
    if type(layer).__name__ in _ACTIVATIONS:
        return True
    activation = getattr(layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear
