"""Finds layers of tokens for attention, in transformers and mixers, also inside of layers such as a whole encoder."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.classifier import graph
from sfocus_tf.classifier.feature_maps import FeatureMap
from sfocus_tf.classifier.token_grids import Grid, TokenGrids


class Container(NamedTuple):
    """A layer of tokens with other layers inside.

    Attributes:
        normalisations: paths of the normalisations inside.
        grids: the grids at its input and output, by number of tokens.
    """

    normalisations: tuple[str, ...]
    grids: dict[int, Grid]


def choose(maps: list[FeatureMap]) -> FeatureMap | None:
    """The last tokens that suit Grad-CAM.

    These are the output of a normalisation or the only tokens at that point of the network, and the scores depend on
    the patches among them: the tokens that the head pools, normalised if the network does that; with a head that reads
    the class token alone, the normalised input of the last attention.

    Args:
        maps: feature maps, in order of execution; those without a grid of tokens are left out.
    """
    usable = [map_ for map_ in maps if map_.grid and map_.alive and map_.area > 1]
    suited = [map_ for map_ in usable if map_.normalised or (map_.is_cut and not map_.passed_on)]
    found = suited or usable
    return found[-1] if found else None


def before(maps: list[FeatureMap], last: FeatureMap) -> FeatureMap | None:
    """The tokens for the inner attention layer.

    If there are tokens on a finer grid, as in hierarchical transformers, they are the last ones at the next finer grid.
    A plain transformer has one grid. There they are the normalised tokens three quarters of the way to the last ones:
    less attention has mixed them, so each is still more about its own patch, and they are late enough to tell classes
    apart. Of two blocks that is the input of the second, of twelve that of the MLP in the eighth or ninth.

    Args:
        maps: feature maps before the last attention layer, in order of execution.
        last: the last attention layer.
    """
    usable = [map_ for map_ in maps if map_.grid and map_.alive]
    finer = [map_ for map_ in usable if map_.area > last.area]
    if finer:
        nearest = min(map_.area for map_ in finer)
        return choose([map_ for map_ in finer if map_.area == nearest])
    same = [map_ for map_ in usable if map_.size == last.size]
    suited = [map_ for map_ in same if map_.normalised] or [map_ for map_ in same if map_.is_cut] or same
    return suited[3 * (len(suited) - 1) // 4] if suited else None


def feature_map(step: graph.Step, grid: Grid, is_cut: bool, grids: TokenGrids) -> FeatureMap:
    """The feature map that consists of the tokens of a step."""
    passed_on = not getattr(step.layer, "weights", None) and len(step.inputs) == 1
    passed_on = passed_on and grids.grid(step.inputs[0]) is not None
    size = (grid.height, grid.width)
    return FeatureMap(step.path, size, False, is_cut, grid, _normalises(step.layer), passed_on)


def container(step: graph.Step, grids: TokenGrids) -> dict[str, Container]:
    """The layer of a step by its path, if it takes or gives tokens and there are normalisations inside."""
    tensors = [*step.inputs, *keras.tree.flatten(step.output)]
    by_count: dict[int, Grid] = {}
    for tensor in tensors:
        grid = grids.grid(tensor)
        if grid:  # some layers declare one token more than they output
            by_count |= {tensor.shape[1]: grid, grid.skip + grid.patches: grid}
    if not by_count:
        return {}
    inside = graph.parts(step.layer, step.path + "/")
    normalisations = tuple(path for path, part in inside.items() if _normalises(part))
    return {step.path: Container(normalisations, by_count)} if normalisations else {}


def measured(classifier: keras.Model, maps: list[FeatureMap], containers: dict[str, Container]) -> list[FeatureMap]:
    """The feature maps and the normalised tokens inside of containers, after a run on one random image.

    The run tells what the graph does not: which tokens the scores depend on, and what layers inside of others do. It
    changes neither weights nor random state.

    Args:
        classifier: the network.
        maps: the feature maps of its graph.
        containers: the layers of tokens with other layers inside, by path.

    Returns:
        The feature maps in order of execution, with `alive` as measured.
    """
    by_path = {map_.path: map_ for map_ in maps}
    inside = {path: each.grids for each in containers.values() for path in each.normalisations}
    order: list[str] = []
    seen: dict[str, tuple[FeatureMap, tf.Tensor]] = {}

    def visit(path: str, layer: Any, arguments: Any, output: Any) -> None:
        map_ = by_path.get(path)
        if path in inside and tf.is_tensor(output) and output.shape.rank == 3 and output.shape[0] == 1:
            # Windows of tokens have more rows than images.
            grid = inside[path].get(output.shape[1])
            map_ = FeatureMap(path, (grid.height, grid.width), False, False, grid, True) if grid else None
        if map_ is not None:
            order.append(path)
            if map_.grid:
                for other, (part, tokens) in list(seen.items()):
                    if tokens is output:  # of the last layer inside of this one
                        map_ = map_._replace(normalised=part.normalised or map_.normalised)
                        order.remove(other)
                        del seen[other]
                tape.watch(output)
                seen[path] = (map_, output)

    image, variables = _random_image(classifier), _instead_of_zeros(classifier)
    with keras.StatelessScope(variables), tf.GradientTape(watch_accessed_variables=False) as tape:
        scores = graph.run(classifier, image, visit, False, inside)
        total = tf.reduce_sum(scores * tf.cast(np.random.default_rng(1).normal(size=scores.shape), scores.dtype))
    try:
        slopes = tape.gradient(total, [output for _, output in seen.values()])
    except (LookupError, NotImplementedError):  # an operation without derivative: `explain` raises the error
        slopes = [output for _, output in seen.values()]
    for (path, (map_, _)), slope in zip(list(seen.items()), slopes, strict=True):
        by_path[path] = map_._replace(alive=_any_patch(map_.grid, slope))
    return [by_path[path] for path in order]


def _any_patch(grid: Grid | None, slope: tf.Tensor | None) -> bool:
    """Whether a gradient is other than zero at patch tokens."""
    return slope is not None and grid is not None and bool(tf.reduce_any(grid.on_grid(slope) != 0))


def _random_image(classifier: keras.Model) -> tf.Tensor:
    images = classifier.inputs[0]
    shape = (1, *(side or 224 for side in images.shape[1:]))
    pixels = np.random.default_rng(0).random(shape)
    return tf.cast(pixels if "float" in images.dtype else 255 * pixels, images.dtype)


def _instead_of_zeros(classifier: keras.Model) -> list[tuple[Any, np.ndarray]]:
    """Small random numbers for weights that are all zero, such as those of a new head, which would hide dependence."""
    generator = np.random.default_rng(2)
    return [
        (variable, generator.normal(scale=0.02, size=variable.shape))
        for variable in classifier.trainable_variables
        if "float" in variable.dtype and not np.any(keras.ops.convert_to_numpy(variable))
    ]


def _normalises(layer: Any) -> bool:
    return "Norm" in type(layer).__name__
