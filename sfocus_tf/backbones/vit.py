"""A vision transformer that is small enough to train from scratch on small images.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929, with the changes of Beyer et
al., "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580: the mean of the tokens instead of a class token.
"""

from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable(package="sfocus_tf")
class PositionEmbedding(layers.Layer):
    """Adds a learned vector to each token."""

    def build(self, input_shape: Any) -> None:
        """Creates the vectors."""
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.embedding = self.add_weight((1, *input_shape[1:]), start, name="embedding")

    def call(self, x: Any) -> Any:
        """`[batch, tokens, channels]` of the same shape."""
        return x + self.embedding


def vit_tiny(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Patches of 4x4 pixels, 6 blocks, 128 channels, 4 heads: 1.2 million weights, 64 tokens of 32x32 pixels.

    Args:
        inputs: normalised images, `[batch, height, width, 3]`, with sides that are multiples of 4.

    Returns:
        The normalised tokens, `[batch, height/4 * width/4, 128]`.

    Raises:
        ValueError: a side is no multiple of 4, or left open.
    """
    patch, channels = 4, 128
    if None in inputs.shape[1:3]:
        raise ValueError(
            "vit_tiny takes images of one size: expected the same for training and test, --config.image_size and "
            "--config.test_image_size."
        )
    if inputs.shape[1] % patch or inputs.shape[2] % patch:
        raise ValueError(f"image_size={tuple(inputs.shape[1:3])}: expected multiples of {patch} for vit_tiny.")
    rows, columns = inputs.shape[1] // patch, inputs.shape[2] // patch
    x = layers.Conv2D(channels, patch, patch, name="patches")(inputs)
    x = layers.Reshape((rows * columns, channels), name="tokens")(x)
    x = PositionEmbedding(name="positions")(x)
    for number in range(1, 7):
        x = _block(x, channels, 4, f"block{number}")
    return layers.LayerNormalization(epsilon=1e-6, name="norm")(x)


def _block(x: keras.KerasTensor, channels: int, heads: int, name: str) -> keras.KerasTensor:
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    y = layers.MultiHeadAttention(heads, channels // heads, name=f"{name}_attention")(y, y)
    x = layers.Add(name=f"{name}_attended")([x, y])
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    y = layers.Dense(4 * channels, activation="gelu", name=f"{name}_mlp1")(y)
    y = layers.Dense(channels, name=f"{name}_mlp2")(y)
    return layers.Add(name=f"{name}_out")([x, y])
