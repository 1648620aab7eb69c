"""Which outputs of a network's layers are feature maps: one position for each part of the image, in the same order.

`[batch, heads, tokens, tokens]` has four axes too, but nothing lies where it lies in the image. So feature maps are
followed from the image on: known layers such as convolutions keep positions in place, and what is not known is run on
random numbers, to see whether a change on one side of its input shows on the same side of its output.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Layers and operations of Keras whose output has positions where its inputs have them, by class name.
_KEEP_POSITIONS = {
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
_ROWS = 5  # as they are, and with the upper, lower, left and right half changed


class Positions:
    """Follows the positions of the image through the steps of a classifier, in order of execution.

    Attributes:
        image: the symbolic images, `[batch, height, width, channels]`, or with the channels first where the network
            brings them into this order itself.
    """

    def __init__(self, image: keras.KerasTensor):
        self.image = image
        channels = (1, 3)
        self._channels_first = image.shape[3] not in channels and image.shape[1] in channels
        self._size = tuple(image.shape[2:4] if self._channels_first else image.shape[1:3])
        self._maps = {id(image): image}
        self._made_by: dict[int, tuple[Any, list[keras.KerasTensor]]] = {}

    def follow(self, layer: Any, inputs: list[keras.KerasTensor], output: Any) -> bool:
        """Takes note of a step; whether its output is a feature map."""
        tensors = [tensor for tensor in keras.tree.flatten(output) if isinstance(tensor, keras.KerasTensor)]
        for tensor in tensors:
            self._made_by[id(tensor)] = (layer, inputs)
            if len(tensor.shape) == 4 and None not in tensor.shape[1:] and self._is_map(layer, inputs, tensor):
                self._maps[id(tensor)] = tensor
        return any(id(tensor) in self._maps for tensor in tensors)

    def _is_map(self, layer: Any, inputs: list[keras.KerasTensor], output: keras.KerasTensor) -> bool:
        maps = [tensor for tensor in inputs if id(tensor) in self._maps and not self._has_channels_first(tensor)]
        if _is_known(layer):
            # Of several, one whose positions are those of the output: the others may be factors of the channels.
            return any(len(inputs) == 1 or tensor.shape[1:3] == output.shape[1:3] for tensor in maps)
        if not self._plausible(output):
            return False
        if getattr(layer, "weights", None) and any(_same_proportions(tensor, output) for tensor in maps):
            return True  # a layer that somebody wrote around convolutions
        sources = self._sources(output)
        if not sources or 1 in output.shape[1:3]:
            return False
        try:
            verdict = _on_the_same_side(self._changed(sources, output))
        except Exception:  # of a layer that somebody wrote for the numbers of this network alone
            return any(_same_proportions(tensor, output) for tensor in maps)
        if verdict is None:  # all positions are mixed: tokens that are put back into rows and columns are in order
            return _are_tokens(inputs, output) and any(_same_proportions(tensor, output) for tensor in sources)
        return verdict

    def _has_channels_first(self, tensor: keras.KerasTensor) -> bool:
        return tensor is self.image and self._channels_first

    def _plausible(self, output: keras.KerasTensor) -> bool:
        """Whether the image can have been reduced to these positions: both sides by about the same factor."""
        rows, columns = (side / whole for side, whole in zip(output.shape[1:3], self._size, strict=True))
        return 1 / 3 < rows / columns < 3 and rows <= 2

    def _changed(self, sources: list[keras.KerasTensor], output: keras.KerasTensor) -> np.ndarray:
        """An output for random numbers at the maps it is made of, and for others on each side of these maps."""
        function = keras.Function(sources, output)
        with keras.StatelessScope():  # states of random generators keep their values
            given = [
                _changed_on_each_side(tensor, self._has_channels_first(tensor), seed)
                for seed, tensor in enumerate(sources)
            ]
            return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(function(given), "float32")))

    def _sources(self, output: keras.KerasTensor) -> list[keras.KerasTensor]:
        """The nearest feature maps that an output is made of."""
        found: dict[int, keras.KerasTensor] = {}
        seen: set[int] = set()
        waiting = list(self._made_by[id(output)][1])
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in self._maps:
                found[id(tensor)] = tensor
            elif id(tensor) not in seen and id(tensor) in self._made_by:
                seen.add(id(tensor))
                waiting += self._made_by[id(tensor)][1]
        return list(found.values())


def _is_known(layer: Any) -> bool:
    if not type(layer).__module__.startswith("keras."):
        return False
    if "image_preprocessing" in type(layer).__module__:
        return True  # such as RandomFlip, which does nothing outside of training
    if type(layer).__name__ == "Concatenate":
        return layer.axis in (-1, 3)
    return type(layer).__name__ in _KEEP_POSITIONS


def _are_tokens(inputs: list[keras.KerasTensor], output: keras.KerasTensor) -> bool:
    """Whether a feature map is made of tokens, `[batch, height * width, channels]`."""
    rows, columns, channels = output.shape[1:]
    return len(inputs) == 1 and tuple(inputs[0].shape[1:]) == (rows * columns, channels)


def _same_proportions(before: keras.KerasTensor, after: keras.KerasTensor) -> bool:
    """Whether both sides shrink by the same factor, up to rounding, or stay as they are."""
    rows, columns = (new / old for new, old in zip(after.shape[1:3], before.shape[1:3], strict=True))
    rounding = 2 / min(before.shape[1:3])
    return max(rows, columns) <= 1 and abs(rows - columns) <= rounding


def _changed_on_each_side(tensor: keras.KerasTensor, channels_first: bool, seed: int) -> tf.Tensor:
    """Random numbers for a map, and four times the same with others in one half."""
    generator = np.random.default_rng(seed)
    shape = tuple(tensor.shape[1:])
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
    return tf.cast(tf.constant(numbers, tf.float32), tensor.dtype)


def _on_the_same_side(values: np.ndarray) -> bool | None:
    """Whether the four changes of `_changed_on_each_side` lie where they were made; `None` where it is not clear."""
    change = np.abs(values[1:] - values[:1]).sum(-1)
    if not np.isfinite(change).all() or (change.sum((1, 2)) == 0).any():
        return None
    share = change / change.sum((1, 2), keepdims=True)
    centres = [(share.sum(3 - axis) * np.linspace(0, 1, share.shape[axis])).sum(-1) for axis in (1, 2)]
    upper_lower = [centre[1] - centre[0] for centre in centres]
    left_right = [centre[3] - centre[2] for centre in centres]
    along, across = (upper_lower[0], left_right[1]), (upper_lower[1], left_right[0])
    if max(map(abs, across)) > max(0.1, min(along)) or min(along) < -0.1:
        return False
    return True if min(along) > 0.1 and max(map(abs, across)) < 0.5 * min(along) else None
