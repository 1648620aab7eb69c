"""Finds the two attention layers of a classifier."""

from typing import Any, NamedTuple

import keras

from sfocus_tf.classifier import token_layers
from sfocus_tf.classifier.feature_maps import FeatureMap, Shape, no_grid, no_layers, resolve
from sfocus_tf.classifier.graph import steps
from sfocus_tf.classifier.spatial import Positions
from sfocus_tf.classifier.token_grids import Grid, TokenGrids

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
        inner: the last activated feature map at the next finer resolution, or tokens some blocks before the last.
        last: the last activated feature map, or the last tokens.
    """

    inner: str
    last: str


class Located(NamedTuple):
    """The two attention layers.

    Attributes:
        layers: their paths.
        grids: how those of them that output tokens lie in the image, by path.
        sizes: rows and columns of their maps, the inner one's first.
    """

    layers: AttentionLayers
    grids: dict[str, Grid]
    sizes: tuple[tuple[int, int], ...]


class _Followed(NamedTuple):
    """What a classifier's layers output.

    Attributes:
        maps: the feature maps in order of execution, also those that consist of tokens.
        containers: layers of tokens with other layers inside, by path.
        others: the output shapes of all other layers by path.
        ambiguous: grids that tokens may have, by path of the layer that makes them.
    """

    maps: list[FeatureMap]
    containers: dict[str, token_layers.Container]
    others: dict[str, Shape]
    ambiguous: dict[str, list[Grid]]


def find(
    classifier: keras.Model, inner: str | None = None, last: str | None = None, size: int = 224
) -> AttentionLayers:
    """The layers of `locate`."""
    return locate(classifier, inner, last, size=size).layers


def locate(
    classifier: keras.Model,
    inner: str | None = None,
    last: str | None = None,
    grid: tuple[int, int] | None = None,
    size: int = 224,
) -> Located:
    """Finds the two attention layers of a classifier.

    By default `last` is the last activated feature map with more than one position, and `inner` the last one at the
    next finer resolution. At each resolution, feature maps on every path to the output come first: the output of a
    whole stage before that of one branch.

    If these do not exist, as in transformers and mixers, layers of tokens are chosen; see
    `sfocus_tf.classifier.token_layers.choose`.

    Args:
        classifier: a model that `sfocus_tf.classifier.checks.check` accepts.
        inner: name or path of the inner layer, or `None` for the default.
        last: name or path of the last layer, or `None` for the default.
        grid: rows and columns of the tokens that are made from the image, or `None` to find them.
        size: height and width in pixels at which to compare resolutions, if the classifier takes images of any size.

    Returns:
        The paths of both, and their grids.

    Raises:
        ValueError: a layer does not exist, has no feature map or is run more than once; the two are in the wrong order;
            the network has no two usable layers; a grid is unclear; or `grid` is given and both output feature maps.
    """
    followed = _follow(classifier, grid, size)
    maps = [map_ for map_ in followed.maps if map_.grid is None]
    try:
        found = _located(classifier, maps, followed.others, inner, last)
    except ValueError:  # not without tokens
        if len(maps) == len(followed.maps) and not followed.containers:
            if followed.ambiguous and not (inner or last):
                raise no_grid(classifier.name, followed.ambiguous) from None
            raise
        every_map = token_layers.measured(classifier, followed.maps, followed.containers)
        found = _located(classifier, every_map, followed.others, inner, last)
    else:
        if grid:
            layers = " and ".join(map(repr, found.layers))
            raise ValueError(
                f"grid={tuple(grid)}: the attention layers {layers} output feature maps, whose rows and columns are "
                "known. Leave grid out, or name layers that output tokens."
            )
        return found
    if None in classifier.inputs[0].shape[1:3]:
        raise ValueError(
            f"classifier {classifier.name!r} takes images of any size. Expected one size, as the attention layers "
            f"{', '.join(found.grids)} output tokens: keras.Input((height, width, channels))."
        ) from None
    return found


def _located(
    classifier: keras.Model, every_map: list[FeatureMap], others: dict[str, Shape], inner: str | None, last: str | None
) -> Located:
    """`locate` among these maps."""
    paths = [map_.path for map_ in every_map]
    # A layer that is run several times has several feature maps.
    shared = {path for path in paths if paths.count(path) > 1}
    maps = [map_ for map_ in every_map if map_.path not in shared]
    by_path = {map_.path: map_ for map_ in maps}
    order = list(by_path)
    tokens = any(map_.grid for map_ in maps)
    if last:
        last_map: FeatureMap | None = by_path[resolve("last_layer", last, order, shared, others)]
    else:
        last_map = token_layers.choose(maps) if tokens else _choose(maps)
    if last_map is None:
        raise no_layers(classifier.name, maps, None, shared, others)
    if inner:
        inner_map: FeatureMap | None = by_path[resolve("inner_layer", inner, order, shared, others)]
    else:
        before = maps[: order.index(last_map.path)]
        inner_map = token_layers.before(before, last_map) if tokens else _finer(before, last_map)
    if inner_map is None:
        raise no_layers(classifier.name, maps, last_map, shared, others)
    if order.index(inner_map.path) >= order.index(last_map.path):
        raise ValueError(f"inner_layer={inner_map.path!r} must come before last_layer={last_map.path!r}.")
    for argument, map_ in (("last_layer", last_map), ("inner_layer", inner_map)):
        if not map_.alive:
            raise ValueError(
                f"{argument}={map_.path!r}: the scores depend on none of its patch tokens, as with a head that reads "
                "the class token. Expected a layer before the last attention."
            )
    chosen = (inner_map, last_map)
    grids = {map_.path: map_.grid for map_ in chosen if map_.grid}
    return Located(AttentionLayers(*(map_.path for map_ in chosen)), grids, tuple(map_.size for map_ in chosen))


def _choose(maps: list[FeatureMap]) -> FeatureMap | None:
    """The last cut among the activated maps of the last resolution, or the last map if there is no cut."""
    usable = [map_ for map_ in maps if map_.activated and map_.size != (1, 1)]
    if not usable:
        return None
    same = [map_ for map_ in usable if map_.size == usable[-1].size]
    return ([map_ for map_ in same if map_.is_cut] or same)[-1]


def _finer(maps: list[FeatureMap], last: FeatureMap) -> FeatureMap | None:
    """The choice among the activated maps at the next finer resolution."""
    finer = [map_ for map_ in maps if map_.activated and map_.area > last.area]
    nearest = min((map_.area for map_ in finer), default=None)
    return _choose([map_ for map_ in finer if map_.area == nearest])


def _follow(classifier: keras.Model, grid: tuple[int, int] | None, size: int) -> _Followed:
    """Follows the image through the classifier."""
    run_steps, symbolic, result = steps(classifier, size)
    last_use = {id(t): position for position, step in enumerate(run_steps) for t in step.inputs}
    last_use[id(result)] = len(run_steps)
    activated: dict[int, bool] = {}
    live: set[int] = {id(symbolic)}
    positions = Positions(symbolic)
    grids = TokenGrids(positions, grid)
    followed = _Followed([], {}, {}, grids.ambiguous)
    for position, step in enumerate(run_steps):
        path, layer, tensors, output = step
        activated[id(output)] = _activates(layer) or (
            any(part in type(layer).__name__ for part in _KEEPS_ACTIVATION)
            and all(activated.get(id(t), False) for t in tensors)
        )
        live |= {id(t) for t in keras.tree.flatten(output)}
        live = {tensor for tensor in live if last_use.get(tensor, -1) > position}
        is_cut = live == {id(output)}
        is_map = positions.follow(layer, tensors, output)
        of_tokens = grids.follow(step)
        followed.containers.update(token_layers.container(step, grids))
        if is_map and isinstance(output, keras.KerasTensor):
            usable = _activates(layer) or (activated[id(output)] and type(layer).__name__ == "Concatenate")
            sides = (int(output.shape[1]), int(output.shape[2]))
            followed.maps.append(FeatureMap(path, sides, usable, is_cut))
        elif of_tokens:
            followed.maps.append(token_layers.feature_map(step, of_tokens, is_cut, grids))
        else:
            followed.others[path] = tuple(output.shape) if isinstance(output, keras.KerasTensor) else None
    return followed


def _activates(layer: Any) -> bool:
    if type(layer).__name__ in _ACTIVATIONS:
        return True
    activation = getattr(layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear
