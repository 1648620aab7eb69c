"""Small transformers and mixers in plain Keras: `[batch, height, width, 3]` -> scores."""

import keras

L, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable(package="sfocus_tf_benchmarks")
class Patches(L.Layer):
    """As in the example of keras.io: `[batch, height, width, 3]` -> `[batch, tokens, pixels]`."""

    def __init__(self, patch_size, **options):
        super().__init__(**options)
        self.patch_size = patch_size

    def call(self, images):
        _, height, width, channels = ops.shape(images)
        patches = ops.image.extract_patches(images, size=self.patch_size)
        count = (height // self.patch_size) * (width // self.patch_size)
        return ops.reshape(patches, (-1, count, self.patch_size**2 * channels))

    def get_config(self):
        return super().get_config() | {"patch_size": self.patch_size}


@keras.saving.register_keras_serializable(package="sfocus_tf_benchmarks")
class PatchEncoder(L.Layer):
    """A projection of patches, and an embedding of their positions, as in the example of keras.io."""

    def __init__(self, count, channels, **options):
        super().__init__(**options)
        self.count, self.channels = count, channels
        self.projection = L.Dense(channels)
        self.positions = L.Embedding(count, channels)

    def build(self, shape):
        self.projection.build(shape)
        self.positions.build((1, self.count))

    def call(self, patch):
        positions = ops.expand_dims(ops.arange(0, self.count), axis=0)
        return self.projection(patch) + self.positions(positions)

    def get_config(self):
        return super().get_config() | {"count": self.count, "channels": self.channels}


@keras.saving.register_keras_serializable(package="sfocus_tf_benchmarks")
class ClassToken(L.Layer):
    """Puts learned tokens before the others."""

    def __init__(self, count=1, **options):
        super().__init__(**options)
        self.count = count

    def build(self, shape):
        self.tokens = self.add_weight((1, self.count, shape[-1]), "random_normal", name="tokens")

    def call(self, x):
        return ops.concatenate([ops.tile(self.tokens, (ops.shape(x)[0], 1, 1)), x], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] + self.count, shape[2])

    def get_config(self):
        return super().get_config() | {"count": self.count}


def vit(head="flatten", size=(16, 16), patch=4, blocks=2, channels=16, patches="layer", registers=0, activation="gelu"):
    """A vision transformer.

    Args:
        head: what reads the tokens: "flatten", "mean" (of all), "class" (the class token alone), "patches" (the mean
            without the class token).
        size: height and width.
        patch: side of a patch.
        blocks, channels: of the transformer.
        patches: how patches are made: "layer" (of keras.io's example), "convolution" or "operation".
        registers: tokens beside the class token.
        activation: of the MLPs.
    """
    images = keras.Input((*size, 3))
    grid = (size[0] // patch, size[1] // patch)
    count = grid[0] * grid[1]
    if patches == "layer":
        x = Patches(patch, name="patches")(images)
    elif patches == "operation":
        x = L.Reshape((count, patch**2 * 3))(ops.image.extract_patches(images, patch))
    else:
        x = L.Conv2D(channels, patch, patch, name="patches")(images)
        x = L.Reshape((count, channels), name="tokens")(x)
    x = PatchEncoder(count, channels, name="embedding")(x)
    if head in ("class", "patches"):
        x = ClassToken(1 + registers, name="class_token")(x)
    for number in range(blocks):
        y = L.LayerNormalization(epsilon=1e-6, name=f"norm{number}a")(x)
        y = L.MultiHeadAttention(2, channels // 2, name=f"attention{number}")(y, y)
        x = L.Add(name=f"attended{number}")([y, x])
        y = L.LayerNormalization(epsilon=1e-6, name=f"norm{number}b")(x)
        y = L.Dense(2 * channels, activation=activation, name=f"mlp{number}a")(y)
        y = L.Dense(channels, name=f"mlp{number}b")(y)
        x = L.Add(name=f"block{number}")([y, x])
    x = L.LayerNormalization(epsilon=1e-6, name="norm")(x)
    if head == "flatten":
        x = L.Dropout(0.5)(L.Flatten()(x))
        x = L.Dense(8, activation="gelu")(x)
    elif head == "mean":
        x = L.GlobalAveragePooling1D()(x)
    elif head == "class":
        x = x[:, 0]
    else:
        x = ops.mean(x[:, 1 + registers :], axis=1)
    return keras.Model(images, L.Dense(3, name="scores")(x), name=f"vit_{head}")


@keras.saving.register_keras_serializable(package="sfocus_tf_benchmarks")
class MixerBlock(L.Layer):
    """A block of a mixer as one layer, with a normalisation that is called twice, as in the example of keras.io."""

    def __init__(self, count, channels, **options):
        super().__init__(**options)
        self.count, self.channels = count, channels
        self.mlp1 = keras.Sequential([L.Dense(count, activation="gelu"), L.Dense(count)])
        self.mlp2 = keras.Sequential([L.Dense(count, activation="gelu"), L.Dense(channels)])
        self.normalize = L.LayerNormalization(epsilon=1e-6)

    def build(self, shape):
        self.normalize.build(shape)
        self.built = True

    def call(self, inputs):
        x = ops.transpose(self.normalize(inputs), (0, 2, 1))
        x = ops.transpose(self.mlp1(x), (0, 2, 1)) + inputs
        return x + self.mlp2(self.normalize(x))

    def get_config(self):
        return super().get_config() | {"count": self.count, "channels": self.channels}


def mixer(kind="layers", side=16, patch=4, channels=16, blocks=2, norm=True):
    """An MLP-Mixer, with its blocks as "layers" of their own class or in the "graph"."""
    images = keras.Input((side, side, 3))
    count = (side // patch) ** 2
    x = L.Dense(channels, name="projection")(Patches(patch, name="patches")(images))
    for number in range(blocks):
        if kind == "layers":
            x = MixerBlock(count, channels, name=f"block{number}")(x)
            continue
        y = L.LayerNormalization(name=f"norm{number}a")(x)
        y = L.Permute((2, 1), name=f"turned{number}")(y)
        y = L.Dense(count, name=f"mixed{number}b")(L.Dense(24, activation="gelu", name=f"mixed{number}a")(y))
        x = L.Add(name=f"mixed{number}")([x, L.Permute((2, 1))(y)])
        y = L.LayerNormalization(name=f"norm{number}b")(x)
        y = L.Dense(channels)(L.Dense(24, activation="gelu")(y))
        x = L.Add(name=f"block{number}")([x, y])
    if norm:
        x = L.LayerNormalization(name="norm")(x)
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(images, L.Dense(3, name="scores")(x), name="mixer")
