"""Residual networks missing from `keras.applications`: CIFAR ResNets and ResNet-18.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
"""

import keras
from keras import layers


def cifar_resnet(depth: int, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """The ResNet for 32x32 images, section 4.2 of the paper: 6n+2 layers, parameter-free shortcuts.

    Args:
        depth: number of weighted layers, 6n+2: 20, 32, 44, 56, ...
        inputs: normalised images, `[batch, height, width, 3]`.

    Returns:
        The last feature map, after its ReLU, `[batch, height/4, width/4, 64]`.

    Raises:
        ValueError: `depth` is not 6n+2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth={depth} is not a CIFAR ResNet: expected 6n+2, such as 20, 32 or 56.")
    x = _convolution(inputs, 16, 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            shortcut = x
            if stride == 2:
                # Option A of the paper: subsample, and pad the new channels with zeros.
                shortcut = layers.AveragePooling2D(1, strides=2, name=f"{name}_shortcut")(x)
                added = filters // 4
                shortcut = keras.ops.pad(shortcut, [[0, 0], [0, 0], [0, 0], [added, added]])
            x = _basic_block(x, shortcut, filters, stride, name)
    return x


def resnet18(inputs: keras.KerasTensor, stem: str) -> keras.KerasTensor:
    """ResNet-18, table 1 of the paper, with projection shortcuts where the shape changes.

    Args:
        inputs: normalised images, `[batch, height, width, 3]`.
        stem: "imagenet" (7x7 convolution with stride 2, then pooling) or "cifar" (3x3, stride 1).

    Returns:
        The last feature map, after its ReLU, `[batch, h, w, 512]`, where h is height/32 or height/8.
    """
    if stem == "imagenet":
        x = layers.ReLU(name="stem_relu")(_convolution(inputs, 64, 7, 2, "stem"))
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    else:
        x = layers.ReLU(name="stem_relu")(_convolution(inputs, 64, 3, 1, "stem"))
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            shortcut = _convolution(x, filters, 1, 2, f"{name}_shortcut") if stride == 2 else x
            x = _basic_block(x, shortcut, filters, stride, name)
    return x


def _basic_block(
    x: keras.KerasTensor, shortcut: keras.KerasTensor, filters: int, stride: int, name: str
) -> keras.KerasTensor:
    x = layers.ReLU(name=f"{name}_relu")(_convolution(x, filters, 3, stride, f"{name}_conv1"))
    x = _convolution(x, filters, 3, 1, f"{name}_conv2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_out")(x)


def _convolution(x: keras.KerasTensor, filters: int, size: int, stride: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(
        x
    )
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
