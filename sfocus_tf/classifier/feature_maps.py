"""Feature maps of a classifier, the lookup of layers by name, and errors with advice."""

from typing import NamedTuple

from sfocus_tf.classifier.token_grids import Grid
from sfocus_tf.errors import unknown

Shape = tuple[int | None, ...] | None  # shape of an output that is not a feature map; None for several outputs


class FeatureMap(NamedTuple):
    """A feature map, a candidate for an attention layer.

    Attributes:
        path: path of the layer that outputs it.
        size: rows and columns.
        activated: whether the layer is, or ends in, an activation.
        is_cut: whether every path from input to output leads through it.
        grid: how it is put together from tokens; `None` if it is `[batch, height, width, channels]` already.
        normalised: whether the layer is a normalisation.
        passed_on: whether they are the tokens of the layer before, such as behind dropout.
        alive: whether the scores depend on positions of the map, as far as that was measured.
    """

    path: str
    size: tuple[int, int]
    activated: bool
    is_cut: bool
    grid: Grid | None = None
    normalised: bool = False
    passed_on: bool = False
    alive: bool = True

    @property
    def area(self) -> int:
        """The number of positions."""
        return self.size[0] * self.size[1]


def resolve(argument: str, name: str, paths: list[str], shared: set[str], others: dict[str, Shape]) -> str:
    """The path of a layer, given its path or its unique name.

    Args:
        argument: name of the argument, "inner_layer" or "last_layer".
        name: the path or name that the user set.
        paths: paths of all feature maps.
        shared: paths of layers that are run more than once.
        others: shapes of outputs that are not feature maps, by path.

    Raises:
        TypeError: not a name.
        ValueError: no layer, several, or one without a feature map of its own.
    """
    if not isinstance(name, str):
        own = f"; its name is {name.name!r}" if hasattr(name, "name") else ""
        raise TypeError(f"{argument}: expected the name or path of a layer, got {type(name).__name__}{own}.")
    matches = [path for path in paths if path == name] or [path for path in paths if path.split("/")[-1] == name]
    several = [path for path in shared if name in (path, path.split("/")[-1])]
    if several:
        raise ValueError(f"{argument}={name!r} is run more than once. Expected a layer that is run once.")
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"{argument}={name!r} names several layers: {', '.join(matches)}. Use one of these paths.")
    other = next((path for path in others if name in (path, path.split("/")[-1])), None)
    if other:
        valid = f" Valid: {', '.join(paths[-40:])}." if paths else ""
        raise ValueError(f"{argument}={name!r} {_why_not(others[other])}.{valid}")
    raise unknown(argument, name, paths)


def no_layers(
    classifier: str, maps: list[FeatureMap], last: FeatureMap | None, shared: set[str], others: dict[str, Shape]
) -> ValueError:
    """The error for a network without two attention layers: the reason and what to do.

    Args:
        classifier: name of the network.
        maps: its feature maps, in order of execution.
        last: the last attention layer, if only the inner one is missing.
        shared: paths of layers that are left out because they are run more than once.
        others: shapes of outputs that are not feature maps, by path.
    """
    if last:
        reason = f"before {last.path!r} no activated feature map has a finer resolution than its {_sides(last)}"
    else:
        reason = "it has no activated feature map with more than one position"
    elsewhere = [path for path, shape in others.items() if shape and len(shape) == 4 and shape[1:3] != (1, 1)]
    if elsewhere:
        reason += f" (the positions of {', '.join(elsewhere[:5])} are not those of the image)"
    if shared:
        reason += f" (left out, as they are run more than once: {', '.join(sorted(shared))})"
    advice = _advice(maps, last, others)
    return ValueError(f"classifier {classifier!r} has no two layers for attention: {reason}. {advice}.")


def no_grid(classifier: str, ambiguous: dict[str, list[Grid]]) -> ValueError:
    """The error for a network whose tokens may lie on several grids, by path of the layer that makes them."""
    path, grids = next(iter(ambiguous.items()))
    listed = ", ".join(
        f"({grid.height}, {grid.width})" + (f" behind {grid.skip}" if grid.skip else "") for grid in grids[:12]
    )
    return ValueError(
        f"classifier {classifier!r}: how the tokens of layer {path!r} lie in the image is unclear. "
        f"Pass their rows and columns, SharpenFocus(classifier, grid=(height, width)); possible are "
        f"{listed or 'any that have as many positions'}."
    )


def _advice(maps: list[FeatureMap], last: FeatureMap | None, others: dict[str, Shape]) -> str:
    """What to do about a network without two attention layers."""
    large = [map_ for map_ in maps if map_.size != (1, 1)]
    tokens = ""
    without_grid = next((path for path, shape in others.items() if shape and len(shape) == 3), None)
    if without_grid:
        tokens = (
            f"The tokens of {without_grid!r}, {others[without_grid]}, lie on no grid that is known: "
            "SharpenFocus(classifier, grid=(height, width))"
        )
    names = "SharpenFocus(classifier, inner_layer=..., last_layer=...)"
    if last:
        number = maps.index(last)
        before = [map_ for map_ in maps[:number] if map_ in large]
        finer = [map_ for map_ in before if map_.size[0] * map_.size[1] > last.size[0] * last.size[1]]
        if finer:
            return f"{finer[-1].path!r} is finer, but no activation: name it or another one, {names}"
        if before:
            return f"No map before it is finer: name one that is not, such as {before[0].path!r}, {names}"
        if maps[number + 1 :] and maps[-1].size == (1, 1):
            return f"Behind it, maps such as {maps[-1].path!r} have one position: use a larger input"
        return tokens or f"Two layers are needed: add a convolution with an activation before it, or name two, {names}"
    if tokens:
        return tokens
    if large:
        return f"Feature maps such as {large[-1].path!r} have no activation behind them: name two layers, {names}"
    if maps:
        return f"All feature maps, such as {maps[-1].path!r}, have one position: use a larger input"
    return "Expected convolutions with activations, whose output is [batch, height, width, channels]"


def _sides(map_: FeatureMap) -> str:
    return f"{map_.size[0]}x{map_.size[1]}"


def _why_not(shape: Shape) -> str:
    """Why an output is not a feature map."""
    if shape is None:
        return "gives several outputs, not one feature map"
    if len(shape) != 4 or None in shape[1:]:
        return f"gives {shape}: expected a feature map [batch, height, width, channels]"
    return f"is no feature map: the positions of {shape} are not those of the image, as with attention between tokens"
