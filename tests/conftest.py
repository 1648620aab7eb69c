"""What the tests share: quiet logs, small classifiers, and the real images where they are at hand."""

import dataclasses
import gc
import io
import os
import pathlib
import tarfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

import sfocus_tf as sf
from sfocus_tf.data import Data

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Archives of real images; the tests that need them are skipped where they are not.
SHARED = pathlib.Path(os.environ.get("SFOCUS_TEST_IMAGES", ROOT.parent / "shared" / "data"))
# Modules that train or export many networks; `make fast` leaves them out.
SLOW = {
    "archives", "backbones", "benchmarks", "both", "browser", "commands", "compile", "data", "devices", "evaluate",
    "explanation", "files", "image_formats", "image_sizes", "keras_hub", "layers", "model", "random_networks", "readme",
    "report", "schedule", "serving", "settings", "training", "vision_transformers", "ways_to_train",
}  # fmt: skip

tf.config.threading.set_inter_op_parallelism_threads(2)
gc.freeze()  # what is imported stays: collections need not look at it
gc.set_threshold(100_000, 20, 20)  # and tracing makes many objects, few of them in circles


def pytest_collection_modifyitems(items):
    # Short modules last: they fill what is left of the time when the workers have done the long ones.
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in SLOW)
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _fresh_keras():
    _reset_keras()  # also from what fixtures of the module did
    keras.utils.set_random_seed(0)
    yield
    _reset_keras()


def _reset_keras():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session(free_memory=False)  # a full garbage collection would take longer than most tests
    disable_op_determinism()  # Keras would not compile with XLA from then on


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Unpacks an archive of real images, or skips the test."""
    unpacked = {}

    def folder(name: str) -> pathlib.Path:
        archive = SHARED / f"{name}.tar"
        if not archive.exists():
            pytest.skip(f"the real images are not here: {archive}")
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked[name], filter="data")
        return unpacked[name]

    return folder


def first_images(data: Data, images: int, batch_size: int) -> Data:
    """The beginning of a split."""
    source = dataclasses.replace(data.source, size=images, keys=lambda seed: data.source.keys(seed).take(images))
    return dataclasses.replace(data, source=source, batch_size=batch_size)


# The paper's losses at both layers; images with next to no attention are left out.
PAPER = sf.objective("paper", minimum_mass=0.05)
ZERO = sf.objective("paper", inner=0.0, last=0.0, consistency=0.0)
LABELS = np.array([0, 1, 2, 1, 0, 2])  # of six images, for a tiny classifier


def tiny_classifier(
    classes: int = 3, size: int = 8, activation: str = "relu", channels: int = 3, **kwargs
) -> keras.Model:
    """Two resolutions, no normalisation: `[batch, size, size, channels]` -> scores."""
    inputs = keras.Input((size, size, channels))
    x = keras.layers.Conv2D(4, 3, padding="same", name="fine_conv", **kwargs)(inputs)
    x = keras.layers.Activation(activation, name="fine")(x)
    x = keras.layers.Conv2D(6, 3, 2, padding="same", name="coarse_conv", **kwargs)(x)
    x = keras.layers.Activation(activation, name="coarse")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="scores")(x), name="tiny")


def random_images(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    """Random images with pixels in [0, 1]."""
    return np.random.default_rng(seed).random((count, size, size, 3), dtype=np.float32)


def crossentropy() -> keras.losses.Loss:
    """The usual single-label loss on scores."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3))  # of an image to encode


def encoded(image: np.ndarray, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.astype(np.uint8)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def compiled(model, rate=0.1, loss=None, **kwargs):
    """The model, ready to be trained by gradient descent with momentum."""
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss or crossentropy(), **kwargs)
    return model
