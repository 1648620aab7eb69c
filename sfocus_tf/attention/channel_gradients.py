"""Computes the gradient of a score, summed over the positions of a feature map, without the gradient at each position.

Grad-CAM's channel weights are means over positions of `dY/dF`. Their sum is the derivative with respect to a constant
added to a whole channel of `F`, and the effect of such a constant on the layers that read `F` has a closed form: a
pooling passes it on, and a convolution multiplies it by the sum of the taps that lie inside the image. So the backward
pass can end at the readers' outputs, which are often a quarter as large; in a network that ends in pooling and one
dense layer, only a row of the dense layer's kernel is left of it.
"""

from typing import Any

import keras
import tensorflow as tf

from sfocus_tf.attention.resizing import operations_for, spatial_size
from sfocus_tf.classifier import graph

_POOLINGS = (
    keras.layers.AveragePooling2D, keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D,
)  # fmt: skip
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def readers(classifier: keras.Model, paths: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """The layers that read each feature map, if this module supports all of them.

    Call it before training the classifier: it runs the classifier once on symbolic images.

    Args:
        classifier: a model that `sfocus_tf.classifier.checks.check` accepts.
        paths: paths of the layers that output the feature maps.

    Returns:
        The paths of the readers, by feature map; empty for a map with an unsupported reader.
    """
    steps, _, result = graph.steps(classifier)
    times_run = [step.path for step in steps]
    by_map = {}
    for path in paths:
        outputs = [step.output for step in steps if step.path == path]
        # No output: a layer inside of another one that is no model.
        reading = [step for step in steps if any(tensor is outputs[-1] for tensor in step.inputs)] if outputs else []
        alone = len(outputs) == 1 and outputs[0] is not result
        known = all(
            len(step.inputs) == 1 and _is_known(step.layer) and times_run.count(step.path) == 1 for step in reading
        )
        by_map[path] = frozenset(step.path for step in reading) if alone and known else frozenset()
    return by_map


def still_readers(classifier: keras.Model, paths: frozenset[str]) -> frozenset[str]:
    """The result of `readers` for one map; empty if a reader has since changed into an unsupported one."""
    return paths if all(_is_known(_at(classifier, path)) for path in paths) else frozenset()


def _at(classifier: keras.Model, path: str) -> Any:
    """The layer with a path."""
    layer: Any = classifier
    for name in path.split("/"):
        layer = layer.get_layer(name)
    return layer


def _is_known(layer: Any) -> bool:
    if getattr(layer, "quantization_mode", None) is not None:  # its kernel is scaled
        return False
    if type(layer) in _CONVOLUTIONS:
        ungrouped = getattr(layer, "groups", 1) == 1 or isinstance(layer, keras.layers.DepthwiseConv2D)
        linear = layer.activation is keras.activations.linear
        return linear and ungrouped and layer.data_format == "channels_last"
    return type(layer) in _POOLINGS and layer.data_format == "channels_last"


def summed(layer: Any, features: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """The contribution of one reader to `sum over i,j of dY/dF[i,j]`.

    Args:
        layer: a layer whose path `readers` returned.
        features: `F`, its input, `[batch, height, width, channels]`, any float type.
        gradient: `dY/dz` at its output `z`, of the output's shape.

    Returns:
        `[batch, channels]` float32 (float64 for float64 features). Differentiable with respect to the gradient and the
        layer's kernel.
    """
    dtype = tf.float64 if features.dtype == tf.float64 else tf.float32  # whatever the precision policy
    gradient = tf.cast(gradient, dtype)
    if not isinstance(layer, _CONVOLUTIONS):
        return tf.reduce_sum(gradient, axis=list(range(1, gradient.shape.rank - 1)))
    kernel = tf.cast(tf.convert_to_tensor(layer.kernel), dtype)
    sizes = zip(spatial_size(features), spatial_size(gradient), strict=True)
    rows, columns = (tf.cast(_inside(old, new, axis, layer), dtype) for axis, (old, new) in enumerate(sizes))
    by_tap = tf.einsum("iy,jx,bijo->byxo", rows, columns, gradient)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        by_tap = tf.reshape(by_tap, tf.concat([tf.shape(by_tap)[:1], tf.shape(kernel)], axis=0))
        return tf.reduce_sum(by_tap * kernel, axis=(1, 2, 4))
    return tf.einsum("byxo,yxco->bc", by_tap, kernel)


def _inside(old: int | tf.Tensor, new: int | tf.Tensor, axis: int, layer: Any) -> Any:
    """`[new, taps]` bool, whether a tap of a convolution lies inside the image at that output position."""
    xp = operations_for(old, new)
    taps, stride, dilation = (getattr(layer, key)[axis] for key in ("kernel_size", "strides", "dilation_rate"))
    before = 0
    if layer.padding == "same":
        before = xp.maximum((new - 1) * stride + (taps - 1) * dilation + 1 - old, 0) // 2
    places = xp.arange(new)[:, None] * stride + xp.arange(taps) * dilation - before
    return (places >= 0) & (places < old)
