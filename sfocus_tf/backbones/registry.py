"""Creates classifiers by name: our own CIFAR networks, and everything in `keras.applications`."""

import inspect
import re
from collections.abc import Callable

import keras
from keras import layers

from sfocus_tf.backbones import efficientnet_lite, resnet, vit
from sfocus_tf.errors import unknown

# Mean and standard deviation of ImageNet's pixels, in [0, 255].
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CAFFE_MEAN = (103.939, 116.779, 123.68)
PREPROCESSING = ("none", "unit", "tf", "torch", "caffe")
_CIFAR_RESNET = re.compile(r"resnet(8|14|20|32|44|56|110)")


# Networks of this package without pretrained weights.
_OWN = (
    "resnet20", "resnet32", "resnet56", "resnet8", "resnet14", "resnet44", "resnet110", "resnet18", "resnet18_cifar",
    "vit_tiny",
)  # fmt: skip


def names() -> list[str]:
    """All names that `create` accepts."""
    return [*_OWN, "efficientnet_lite0", *sorted(_applications())]


def check(name: str, weights: str | None) -> str:
    """The backbone's name as in `names`; raises a `ValueError` if it is unknown or lacks these weights."""
    known = {_fold(known): known for known in names()}
    if _fold(name) not in known:
        raise unknown("backbone", name, names())
    if weights not in (None, "imagenet"):
        raise unknown("weights", weights, ["imagenet", "None"])
    name = known[_fold(name)]
    if name in _OWN and weights is not None:
        raise ValueError(f"backbone={name!r} has no {weights!r} weights: set weights=None.")
    if name == "efficientnet_lite0" and weights is not None:
        efficientnet_lite.weights_file()
    return name


def create(
    name: str,
    num_classes: int,
    image_size: int | tuple[int, int] | None,
    weights: str | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """Creates a classifier of images in [0, 255] that outputs logits.

    Args:
        name: one of `names()`; case and underscores are ignored.
        num_classes: number of classes.
        image_size: height and width of the images, in pixels; a single number for square images, `None` for any size.
        weights: "imagenet" for pretrained weights (in the extra `pretrained` for `efficientnet_lite0`, otherwise
            downloaded by `keras.applications`), or `None` for random initialisation.
        dropout: rate before the last layer, in [0, 1).

    Returns:
        A flat functional model, `[batch, height, width, 3]` -> `[batch, num_classes]` (float32). It includes
        preprocessing, so a saved or served model takes raw images.

    Raises:
        ValueError: the name is unknown, has no pretrained weights, or does not take images of this size.
        ModuleNotFoundError: the package with the ImageNet weights of `efficientnet_lite0` is not installed.
    """
    name = check(name, weights)
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    inputs = keras.Input((height, width, 3), name="image")
    features = _features(name, inputs, weights)
    of_tokens = len(features.shape) == 3
    x = (layers.GlobalAveragePooling1D if of_tokens else layers.GlobalAveragePooling2D)(name="pool")(features)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    # float32 under any policy: the logits feed the softmax and the attention.
    scores = layers.Dense(num_classes, dtype="float32", name="scores")(x)
    model = keras.Model(inputs, scores, name=name)
    if name == "efficientnet_lite0" and weights == "imagenet":
        efficientnet_lite.load_imagenet(model)
    return model


def _features(name: str, inputs: keras.KerasTensor, weights: str | None) -> keras.KerasTensor:
    if name == "efficientnet_lite0":
        x = layers.Rescaling(1 / 128, offset=-127 / 128, name="preprocess")(inputs)
        return efficientnet_lite.efficientnet_lite0(x)
    if name in _OWN:
        x = preprocess("torch", inputs)
        if name == "vit_tiny":
            return vit.vit_tiny(x)
        if cifar := _CIFAR_RESNET.fullmatch(name):
            return resnet.cifar_resnet(int(cifar.group(1)), x)
        return resnet.resnet18(x, "cifar" if name.endswith("_cifar") else "imagenet")
    module, constructor = _applications()[name]
    x = preprocess(_mode(module), inputs)
    return constructor(include_top=False, weights=weights, input_tensor=x).output


def preprocess(mode: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """Maps pixels in [0, 255] to the range a network was trained on, as a layer.

    Args:
        mode: one of `PREPROCESSING`: "none"; "unit": in [0, 1]; and, named as in `keras.applications`, "tf": in
            [-1, 1]; "torch": standardised by ImageNet's mean and deviation; "caffe": BGR, minus ImageNet's mean.
        x: symbolic RGB images.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in PREPROCESSING:
        raise unknown("preprocessing", mode, PREPROCESSING)
    if mode == "none":
        return x
    if mode == "torch":
        offset = [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)]
        return layers.Rescaling([1 / std for std in _STD], offset=offset, name="preprocess")(x)
    if mode == "caffe":
        bgr = keras.ops.flip(x, axis=-1)
        offset = [-mean for mean in _CAFFE_MEAN]
        return layers.Rescaling([1.0, 1.0, 1.0], offset=offset, name="preprocess")(bgr)
    if mode == "unit":
        return layers.Rescaling(1 / 255, name="preprocess")(x)
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocess")(x)


def _mode(module: str) -> str:
    """The mode of `preprocess_input` in a module of `keras.applications`."""
    if module in ("efficientnet", "efficientnet_v2", "convnext", "mobilenet_v3"):
        return "none"  # these networks include preprocessing
    if module == "densenet":
        return "torch"
    return "caffe" if module in ("resnet", "vgg16", "vgg19") else "tf"


def _applications() -> dict[str, tuple[str, Callable[..., keras.Model]]]:
    """Name -> (module, constructor) of every classifier in `keras.applications`."""
    classifiers: dict[str, tuple[str, Callable[..., keras.Model]]] = {}
    for name, constructor in inspect.getmembers(keras.applications, inspect.isfunction):
        if "include_top" in inspect.signature(constructor).parameters:
            classifiers[name.lower()] = (constructor.__module__.rsplit(".", 1)[-1], constructor)
    return classifiers


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
