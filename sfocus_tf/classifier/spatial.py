"""Finds which layer outputs are feature maps: tensors whose positions correspond to positions in the image.

`[batch, heads, tokens, tokens]` has four axes too, but its positions are not those of the image. So feature maps are
followed from the image on: known layers such as convolutions keep positions in place, and unknown layers are run on
random numbers, to test whether a change on one side of the input appears on the same side of the output.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras layers and operations that keep positions in place, by class name.
KEEP_POSITIONS = {
    "Conv2D", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D", "Conv", "ConvTranspose", "SeparableConv",
    "DepthwiseConv", "MaxPooling2D", "AveragePooling2D", "MaxPool", "AveragePool", "BatchNormalization",
    "LayerNormalization", "GroupNormalization", "UnitNormalization", "RMSNormalization", "SpectralNormalization",
    "Normalization", "Rescaling", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu",
    "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "HardSigmoid", "HardSilu", "Softplus", "Tanh", "Mish", "Celu",
    "SquaredRelu", "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Average", "Dropout",
    "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity",
    "Cast", "Dense", "ZeroPadding2D", "Cropping2D", "UpSampling2D", "Resizing", "CenterCrop", "LayerScale",
    "StochasticDepth", "Square", "Sqrt", "Absolute", "Negative", "Power", "Exp", "Log",
}  # fmt: skip
_ROWS = 5  # unchanged, and with the upper, lower, left or right half changed


class Positions:
    """Follows the positions of the image through the steps of a classifier, in order of execution.

    Attributes:
        image: the symbolic images, `[batch, height, width, channels]`, or with channels first if the network
            transposes them itself.
        maps: the feature maps found so far, and the images, by id.
    """

    def __init__(self, image: keras.KerasTensor):
        self.image = image
        channels = (1, 3)
        self._channels_first = image.shape[3] not in channels and image.shape[1] in channels
        self._size = tuple(image.shape[2:4] if self._channels_first else image.shape[1:3])
        self.maps = {id(image): image}
        self._made_by: dict[int, tuple[Any, list[keras.KerasTensor]]] = {}

    def follow(self, layer: Any, inputs: list[keras.KerasTensor], output: Any) -> bool:
        """Records a step, and returns whether its output is a feature map."""
        tensors = [tensor for tensor in keras.tree.flatten(output) if isinstance(tensor, keras.KerasTensor)]
        for tensor in tensors:
            self._made_by[id(tensor)] = (layer, inputs)
            if len(tensor.shape) == 4 and None not in tensor.shape[1:] and self._is_map(layer, inputs, tensor):
                self.maps[id(tensor)] = tensor
        return any(id(tensor) in self.maps for tensor in tensors)

    def _is_map(self, layer: Any, inputs: list[keras.KerasTensor], output: keras.KerasTensor) -> bool:
        maps = [tensor for tensor in inputs if id(tensor) in self.maps and not self.has_channels_first(tensor)]
        if is_known(layer):
            # With several inputs, one must have the output's size: the others may be scales of the channels.
            return any(len(inputs) == 1 or tensor.shape[1:3] == output.shape[1:3] for tensor in maps)
        if not self.plausible(*output.shape[1:3]):
            return False
        if getattr(layer, "weights", None) and any(_same_proportions(tensor, output) for tensor in maps):
            return True  # e.g. a custom layer around convolutions
        sources = self.nearest(output, self.maps)
        if not sources or 1 in output.shape[1:3]:
            return False
        try:
            verdict = _on_the_same_side(self._changed(sources, output))
        except Exception:  # e.g. a custom layer that only takes this network's values
            return any(_same_proportions(tensor, output) for tensor in maps)
        if verdict is None:  # all positions are mixed; tokens reshaped to rows and columns keep their order
            return _are_tokens(inputs, output) and any(_same_proportions(tensor, output) for tensor in sources)
        return verdict

    def has_channels_first(self, tensor: keras.KerasTensor) -> bool:
        """Whether a tensor is the images with channels first."""
        return tensor is self.image and self._channels_first

    def plausible(self, height: int, width: int) -> bool:
        """Whether this size is that of the image with both sides reduced by about the same factor."""
        rows, columns = (side / whole for side, whole in zip((height, width), self._size, strict=True))
        return 1 / 3 < rows / columns < 3 and rows <= 2

    def _changed(self, sources: list[keras.KerasTensor], output: keras.KerasTensor) -> np.ndarray:
        """The output for random values of its source maps, unchanged and changed on each side."""
        function = keras.Function(sources, output)
        with keras.StatelessScope():  # keeps the state of seed generators unchanged
            values = [
                changed_on_each_side(tuple(tensor.shape[1:]), tensor.dtype, seed, self.has_channels_first(tensor))
                for seed, tensor in enumerate(sources)
            ]
            return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(function(values), "float32")))

    def nearest(self, output: keras.KerasTensor, known: Mapping[int, Any]) -> list[keras.KerasTensor]:
        """The nearest tensors with an id in `known` that an output is computed from."""
        sources: dict[int, keras.KerasTensor] = {}
        seen: set[int] = set()
        waiting = list(self._made_by[id(output)][1])
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in known:
                sources[id(tensor)] = tensor
            elif id(tensor) not in seen and id(tensor) in self._made_by:
                seen.add(id(tensor))
                waiting += self._made_by[id(tensor)][1]
        return list(sources.values())


def is_known(layer: Any) -> bool:
    """Whether a layer or operation of Keras keeps positions in place."""
    if not type(layer).__module__.startswith("keras."):
        return False
    if "image_preprocessing" in type(layer).__module__:
        return True  # e.g. RandomFlip, which does nothing outside training
    if type(layer).__name__ == "Concatenate":
        return layer.axis in (-1, 3)
    return type(layer).__name__ in KEEP_POSITIONS


def _are_tokens(inputs: list[keras.KerasTensor], output: keras.KerasTensor) -> bool:
    """Whether a feature map is reshaped from tokens, `[batch, height * width, channels]`."""
    rows, columns, channels = output.shape[1:]
    return len(inputs) == 1 and tuple(inputs[0].shape[1:]) == (rows * columns, channels)


def _same_proportions(before: keras.KerasTensor, after: keras.KerasTensor) -> bool:
    """Whether both sides shrink by the same factor, up to rounding, or stay the same."""
    rows, columns = (new / old for new, old in zip(after.shape[1:3], before.shape[1:3], strict=True))
    rounding = 2 / min(before.shape[1:3])
    return max(rows, columns) <= 1 and abs(rows - columns) <= rounding


def changed_on_each_side(shape: tuple[int, ...], dtype: str, seed: int, channels_first: bool = False) -> tf.Tensor:
    """Random numbers for a map of a shape without batch, and four copies with new numbers in one half."""
    generator = np.random.default_rng(seed)
    if channels_first:
        shape = (*shape[1:], shape[0])
    rows, columns = (math.ceil(side / 2) for side in shape[:2])
    numbers = np.repeat(generator.normal(size=(1, *shape)), _ROWS, axis=0)
    others = generator.normal(size=shape)
    halves: tuple[Any, ...] = (np.s_[:rows], np.s_[-rows:], np.s_[:, :columns], np.s_[:, -columns:])
    for row, half in enumerate(halves, start=1):
        numbers[row][half] = others[half]
    if channels_first:
        numbers = np.moveaxis(numbers, 3, 1)
    return tf.cast(tf.constant(numbers, tf.float32), dtype)


def _on_the_same_side(values: np.ndarray) -> bool | None:
    """Whether the four changes of `changed_on_each_side` appear on the side of the change; `None` if unclear."""
    along, across = sides_of_change(values)
    if np.isnan(along):
        return None
    if across > max(0.1, along) or along < -0.1:
        return False
    return True if along > 0.1 and across < 0.5 * along else None


def sides_of_change(values: np.ndarray) -> tuple[float, float]:
    """How far the four changes of `changed_on_each_side` appear on the side of the change, and on the other axis.

    Args:
        values: the output for them, `[5, height, width, channels]`.

    Returns:
        The smaller of the distances between the centres of opposite changes along their own axis, and the larger along
        the other one, as shares of a side. NaN if a change does not appear.
    """
    with np.errstate(invalid="ignore"):
        # Equal values first: infinite ones, such as the padding before a maximum, have no difference.
        change = np.where(values[1:] == values[:1], 0, np.abs(values[1:] - values[:1])).sum(-1)
    if not np.isfinite(change).all() or (change.sum((1, 2)) == 0).any():
        return np.nan, np.nan
    share = change / change.sum((1, 2), keepdims=True)
    centres = [(share.sum(3 - axis) * np.linspace(0, 1, share.shape[axis])).sum(-1) for axis in (1, 2)]
    upper_lower = [centre[1] - centre[0] for centre in centres]
    left_right = [centre[3] - centre[2] for centre in centres]
    return min(upper_lower[0], left_right[1]), max(abs(upper_lower[1]), abs(left_right[0]))
