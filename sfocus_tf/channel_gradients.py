"""Gradients of a score summed over the positions of a feature map, without the gradient at each position.

Grad-CAM's channel weights are means over positions of `dY/dF`. Their sum is the derivative with respect to a number
added to a whole channel of `F`, and what such a number does to the layers that read `F` is known beforehand: a pooling
passes it on, and a convolution multiplies it with the sum of those taps that lie inside the picture. So the backward
pass can end at the readers' outputs, which are often a quarter as large; where a network ends in pooling and one dense
layer nothing is left of it but a row of the dense layer's kernel.
"""

from typing import Any

import keras
import tensorflow as tf

from sfocus_tf import layers

_POOLINGS = (
    keras.layers.AveragePooling2D, keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D,
)  # fmt: skip
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def readers(classifier: keras.Model, path: str) -> frozenset[str]:
    """The layers that read a feature map, if all of them are such as this module knows; else none.

    Args:
        classifier: a model that `sfocus_tf.layers.check_classifier` accepts.
        path: of the layer that gives the feature map.
    """
    steps, result = layers.steps(classifier)
    outputs = [step.output for step in steps if step.path == path]
    if len(outputs) != 1 or outputs[0] is result:
        return frozenset()
    found = [step for step in steps if any(tensor is outputs[0] for tensor in step.inputs)]
    times_run = [step.path for step in steps]
    if all(len(step.inputs) == 1 and _is_known(step.layer) and times_run.count(step.path) == 1 for step in found):
        return frozenset(step.path for step in found)
    return frozenset()


def _is_known(layer: Any) -> bool:
    if type(layer) in _CONVOLUTIONS:
        grouped = type(layer) is keras.layers.Conv2D and layer.groups != 1
        return layer.activation is keras.activations.linear and not grouped
    return type(layer) in _POOLINGS


def tapped(layer: Any, features: tf.Tensor, output: tf.Tensor, probe: tf.Tensor) -> tf.Tensor:
    """The output of a reader, unchanged, which also depends on `probe` as if that were added to `features`.

    The derivative of a score with respect to `probe` is then the reader's part of `sum over i,j of dY/dF[i,j]`. Both it
    and what it is made of can be differentiated again.

    Args:
        layer: a reader that `readers` found.
        features: `F`, its input, `[batch, height, width, channels]`.
        output: its output.
        probe: `[batch, channels]`, zeros, float32 or float64: the type in which sums are taken.
    """
    size = tf.shape(features)[1:3]
    kernel = tf.cast(tf.convert_to_tensor(layer.kernel), probe.dtype) if hasattr(layer, "kernel") else None

    @tf.custom_gradient
    def identity(output: tf.Tensor, probe: tf.Tensor) -> Any:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return upstream, _summed(layer, kernel, size, tf.cast(upstream, probe.dtype))

        return tf.identity(output), gradients

    return identity(output, probe)


def _summed(layer: Any, kernel: tf.Tensor | None, size: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """What `upstream`, a gradient at the layer's output, gives at its input, summed over positions."""
    if kernel is None:
        return tf.reduce_sum(upstream, axis=list(range(1, upstream.shape.rank - 1)))
    rows, columns = (_inside(size[axis], tf.shape(upstream)[1 + axis], axis, layer, upstream.dtype) for axis in (0, 1))
    by_tap = tf.einsum("iy,jx,bijo->byxo", rows, columns, upstream)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        by_tap = tf.reshape(by_tap, tf.concat([tf.shape(by_tap)[:1], tf.shape(kernel)], axis=0))
        return tf.reduce_sum(by_tap * kernel, axis=(1, 2, 4))
    return tf.einsum("byxo,yxco->bc", by_tap, kernel)


def _inside(old: tf.Tensor, new: tf.Tensor, axis: int, layer: Any, dtype: tf.DType) -> tf.Tensor:
    """`[new, taps]`, 1 where a tap of a convolution lies inside the picture at that output position, else 0."""
    taps, stride, dilation = (getattr(layer, key)[axis] for key in ("kernel_size", "strides", "dilation_rate"))
    before = 0
    if layer.padding == "same":
        before = tf.maximum((new - 1) * stride + (taps - 1) * dilation + 1 - old, 0) // 2
    places = tf.range(new)[:, tf.newaxis] * stride + tf.range(taps) * dilation - before
    return tf.cast((places >= 0) & (places < old), dtype)
