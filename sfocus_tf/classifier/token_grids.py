"""Finds the grid of tokens: how `[batch, tokens, channels]` becomes a feature map `[batch, height, width, channels]`.

Tokens are made of an image's patches, row by row; class and register tokens stand before or behind them. The grid is
followed from the image on: most layers keep tokens where they are, and layers that make, merge or join tokens are run
on random numbers, to test which tokens change with which side of the image.
"""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.classifier import graph
from sfocus_tf.classifier.spatial import Positions, changed_on_each_side, is_known, sides_of_change

# Operations without weights that may put tokens in another order, although their number stays the same.
_REORDER = {
    "Permute", "Transpose", "Swapaxes", "Moveaxis", "Reshape", "Flip", "Roll", "Sort", "Take", "Matmul", "Einsum",
    "Dot",
}  # fmt: skip
_EXTRA_TOKENS = 8  # class, distillation and register tokens that a layer may add


@dataclasses.dataclass(frozen=True)
class Grid:
    """How tokens lie in the image.

    Attributes:
        height, width: rows and columns of the patch tokens.
        skip: tokens before them, such as a class token.
    """

    height: int
    width: int
    skip: int = 0

    @property
    def patches(self) -> int:
        """The number of patch tokens."""
        return self.height * self.width

    def on_grid(self, tokens: tf.Tensor) -> tf.Tensor:
        """`[batch, tokens, channels]` as `[batch, height, width, channels]`, without class and register tokens."""
        patches = tokens[:, self.skip : self.skip + self.patches]
        return tf.reshape(patches, [-1, self.height, self.width, tokens.shape[-1]])


class TokenGrids:
    """Follows the grids of tokens through the steps of a classifier, in order of execution.

    Attributes:
        ambiguous: grids that the first tokens of unknown grid may have, by path of the layer that makes them.
    """

    def __init__(self, positions: Positions, grid: tuple[int, int] | None = None):
        """Starts at the image.

        Args:
            positions: the feature maps, whose `follow` is called with each step before this one's.
            grid: rows and columns of the tokens that are made from the image or a feature map, or `None` to find them.
        """
        self.ambiguous: dict[str, list[Grid]] = {}
        self._positions = positions
        self._grid = grid
        self._grids: dict[int, Grid] = {}
        self._known: dict[int, keras.KerasTensor] = {}

    def follow(self, step: graph.Step) -> Grid | None:
        """Records a step, and returns the grid of its output if that is one tensor of tokens.

        Raises:
            ValueError: `grid` does not fit the number of tokens.
        """
        for tensor in keras.tree.flatten(step.output):
            if not _may_be_tokens(tensor) or id(tensor) in self._grids:
                continue
            found = self._found(step, tensor)
            if found:
                self._grids[id(tensor)] = found
                self._known[id(tensor)] = tensor
        return self._grids.get(id(step.output))

    def grid(self, tensor: Any) -> Grid | None:
        """The grid of a tensor, or `None` if it is none of tokens."""
        return self._grids.get(id(tensor))

    def _found(self, step: graph.Step, output: keras.KerasTensor) -> Grid | None:
        layer, inputs = step.layer, step.inputs
        before = [tensor for tensor in inputs if id(tensor) in self._grids]
        same = next((tensor for tensor in before if tensor.shape[1] == output.shape[1]), None)
        if before:
            if type(layer).__name__ == "Concatenate" and layer.axis in (1, -2):
                return self._joined(inputs)
            if same is not None and (is_known(layer) or _keeps_order(layer)):
                return self._grids[id(same)]
        # Several inputs: such as the product of attention weights and values. A known layer does not make tokens.
        if len(inputs) != 1 or (is_known(layer) and len(inputs[0].shape) == 3):
            return None
        known = self._known | self._positions.maps
        sources = self._positions.nearest(output, known)
        if not sources:
            return None
        made_here = not any(id(tensor) in self._grids for tensor in sources)
        if made_here and self._grid:
            return self._named(step.path, sources, output)
        return self._measured(sources, output) or self._counted(step, sources, output, made_here)

    def _joined(self, inputs: list[keras.KerasTensor]) -> Grid:
        """The grid of concatenated tokens, of which one tensor has a grid."""
        number = next(number for number, tensor in enumerate(inputs) if id(tensor) in self._grids)
        grid = self._grids[id(inputs[number])]
        return dataclasses.replace(grid, skip=grid.skip + sum(tensor.shape[1] or 0 for tensor in inputs[:number]))

    def _named(self, path: str, sources: list[keras.KerasTensor], output: keras.KerasTensor) -> Grid:
        """The user's grid; warns if changes in the image appear on another one."""
        height, width = self._grid or (0, 0)
        skip = output.shape[1] - height * width
        if not 0 <= skip <= _EXTRA_TOKENS:
            raise ValueError(
                f"grid={self._grid}: expected rows and columns of the {output.shape[1]} tokens of layer {path!r}, of "
                f"which at most {_EXTRA_TOKENS} may lie outside the grid, as a class token does."
            )
        found, named = self._measured(sources, output), Grid(height, width, skip)
        if found and found != named:
            warnings.warn(
                f"grid={self._grid}: changes in the image appear on a grid of {found.height} rows and {found.width} "
                f"columns in layer {path!r}. Leave grid out to use that one.",
                stacklevel=2,
            )
        return named

    def _measured(self, sources: list[keras.KerasTensor], output: keras.KerasTensor) -> Grid | None:
        """The grid on which changes on a side of the source maps or tokens appear on that side, if there is one."""
        try:
            with keras.StatelessScope():  # keeps the state of seed generators unchanged
                values = [self._changed(tensor, seed) for seed, tensor in enumerate(sources)]
                result = keras.Function(sources, output)(values)
                result = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(result, "float32")))
        except Exception:  # e.g. a custom layer that only takes this network's values
            return None
        changes = (np.abs(result[1:] - result[:1]).sum(-1) > 0).any(0)  # of each token, also behind attention
        if not changes.any():
            return None
        skip, end = int(changes.argmax()), len(changes) - int(changes[::-1].argmax())
        best, distance = None, 0.25
        for height, width in self._sizes(end - skip):
            along, across = sides_of_change(result[:, skip:end].reshape(5, height, width, -1))
            if along > distance and across < 0.5 * along:
                best, distance = Grid(height, width, skip), along
        return best

    def _changed(self, source: keras.KerasTensor, seed: int) -> tf.Tensor:
        """Random numbers for a map or for tokens, and copies with new numbers in one half of the image."""
        shape = tuple(source.shape[1:])
        grid = self._grids.get(id(source))
        if grid is None:
            return changed_on_each_side(shape, source.dtype, seed, self._positions.has_channels_first(source))
        patches = changed_on_each_side((grid.height, grid.width, shape[1]), source.dtype, seed)
        others = tf.random.stateless_normal([1, *shape], [seed, seed])
        before, behind = others[:, : grid.skip], others[:, grid.skip + grid.patches :]
        kept = [tf.repeat(tf.cast(tokens, source.dtype), patches.shape[0], axis=0) for tokens in (before, behind)]
        return tf.concat([kept[0], tf.reshape(patches, [-1, grid.patches, shape[1]]), kept[1]], axis=1)

    def _counted(
        self, step: graph.Step, sources: list[keras.KerasTensor], output: keras.KerasTensor, made_here: bool
    ) -> Grid | None:
        """The grid by the number of tokens, of a layer with weights that mixes all positions."""
        if not getattr(step.layer, "weights", None) or len(sources) != 1:
            return None
        count = output.shape[1]
        if made_here:
            candidates = self._by_patches(step.layer, sources[0], count)
            if len(candidates) == 1:
                return candidates[0]
            self.ambiguous[step.path] = candidates
            return None
        grid = self._grids[id(sources[0])]
        if 0 < count - sources[0].shape[1] <= _EXTRA_TOKENS:
            return dataclasses.replace(grid, skip=grid.skip + count - sources[0].shape[1])
        merged = [
            Grid(-(-grid.height // factor), -(-grid.width // factor), grid.skip) for factor in (2, 3, 4)
        ]  # sides that do not divide evenly are padded
        return next((each for each in merged if each.patches + each.skip == count), None)

    def _by_patches(self, layer: Any, source: keras.KerasTensor, count: int) -> list[Grid]:
        """Grids that tokens of patches of a map may have: that of the layer's convolution, or else of its size."""
        sides = tuple(source.shape[1:3])
        by_convolution = set()
        for part in graph.parts(layer, "").values():
            strides = getattr(part, "strides", None)
            if isinstance(part, keras.layers.Conv2D) and strides == part.kernel_size:
                height, width = (side // stride for side, stride in zip(sides, strides, strict=True))
                if 0 <= count - height * width <= _EXTRA_TOKENS:
                    by_convolution.add(Grid(height, width, count - height * width))
        if by_convolution:
            return sorted(by_convolution, key=lambda grid: grid.skip)
        candidates = [
            Grid(height, width, skip)
            for skip in range(min(_EXTRA_TOKENS, count - 1) + 1)
            for height, width in self._sizes(count - skip)
            if not sides[0] % height and not sides[1] % width
        ]
        square = [grid for grid in candidates if sides[0] // grid.height == sides[1] // grid.width and grid.skip <= 2]
        return square if len(square) == 1 else candidates

    def _sizes(self, count: int) -> list[tuple[int, int]]:
        """The sizes with this many positions and about the sides' proportions of the image."""
        sizes = [(height, count // height) for height in range(1, count + 1) if count % height == 0]
        return [size for size in sizes if min(size) > 1 and self._positions.plausible(*size)]


def _may_be_tokens(tensor: Any) -> bool:
    if not isinstance(tensor, keras.KerasTensor) or len(tensor.shape) != 3:
        return False
    batch, tokens, channels = tensor.shape
    return batch is None and tokens is not None and tokens > 1 and channels is not None


def _keeps_order(layer: Any) -> bool:
    """Whether a layer or operation outside of `is_known` keeps the order of tokens, if it keeps their number."""
    if type(layer).__name__ in _REORDER:
        return False
    return bool(getattr(layer, "weights", None))  # such as attention, or a whole block
