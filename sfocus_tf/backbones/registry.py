"""One name for each classifier, from CIFAR ResNets to everything in `keras.applications`."""

import inspect
import re
from collections.abc import Callable

import keras
from keras import layers

from sfocus_tf.backbones import efficientnet_lite, resnet
from sfocus_tf.errors import unknown

# Mean and standard deviation of ImageNet's pixels, in [0, 255].
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CAFFE_MEAN = (103.939, 116.779, 123.68)
PREPROCESSING = ("none", "unit", "tf", "torch", "caffe")
_CIFAR_RESNET = re.compile(r"resnet(8|14|20|32|44|56|110)")


# Networks of this package without pretrained weights.
_OWN = (
    "resnet20", "resnet32", "resnet56", "resnet8", "resnet14", "resnet44", "resnet110", "resnet18", "resnet18_cifar"
)  # fmt: skip


def names() -> list[str]:
    """Every name that `create` accepts."""
    return [*_OWN, "efficientnet_lite0", *sorted(_applications())]


def check(name: str, weights: str | None) -> str:
    """The backbone's name as `names` has it, or a `ValueError` if there is none, or none with these weights."""
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
    image_size: int | tuple[int, int],
    weights: str | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """A classifier for pictures with pixels in [0, 255], ending in scores before softmax or sigmoid.

    Args:
        name: one of `names()`; upper and lower case and underscores do not matter.
        num_classes: length of the score vector.
        image_size: height and width of the pictures, in pixels; a single number for square ones.
        weights: "imagenet" for pretrained ones (`keras.applications` downloads them; `efficientnet_lite0` takes
            them from the package of the extra `pretrained`), or `None` for random ones.
        dropout: rate before the last layer, in [0, 1).

    Returns:
        A flat functional model, `[batch, height, width, 3]` -> `[batch, num_classes]` (float32). Preprocessing is
        part of it, so that what is saved or served takes pictures as they are.

    Raises:
        ValueError: no such name, or no pretrained weights for it.
        ModuleNotFoundError: `efficientnet_lite0` with ImageNet weights, without the package that has them.
    """
    name = check(name, weights)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    inputs = keras.Input((height, width, 3), name="image")
    features = _features(name, inputs, weights)
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    # float32 whatever the policy: the scores feed the softmax and the attention.
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
        if cifar := _CIFAR_RESNET.fullmatch(name):
            return resnet.cifar_resnet(int(cifar.group(1)), x)
        return resnet.resnet18(x, "cifar" if name.endswith("_cifar") else "imagenet")
    module, constructor = _applications()[name]
    x = preprocess(_mode(module), inputs)
    return constructor(include_top=False, weights=weights, input_tensor=x).output


def preprocess(mode: str, x: keras.KerasTensor) -> keras.KerasTensor:
    """Pixels in [0, 255] as a network was trained to take them, as a layer.

    Args:
        mode: one of `PREPROCESSING`: "none"; "unit": in [0, 1]; and as `keras.applications` names them: "tf": in
            [-1, 1]; "torch": standardised by ImageNet's mean and deviation; "caffe": blue first, less its mean.
        x: symbolic pictures, red first.

    Raises:
        ValueError: no such mode.
    """
    if mode not in PREPROCESSING:
        raise unknown("preprocessing", mode, PREPROCESSING)
    if mode == "none":
        return x
    if mode == "torch":
        offset = [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)]
        return layers.Rescaling([1 / std for std in _STD], offset=offset, name="preprocess")(x)
    if mode == "caffe":
        blue_first = keras.ops.flip(x, axis=-1)
        offset = [-mean for mean in _CAFFE_MEAN]
        return layers.Rescaling([1.0, 1.0, 1.0], offset=offset, name="preprocess")(blue_first)
    if mode == "unit":
        return layers.Rescaling(1 / 255, name="preprocess")(x)
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocess")(x)


def _mode(module: str) -> str:
    """What the `preprocess_input` of a module of `keras.applications` does."""
    if module in ("efficientnet", "efficientnet_v2", "convnext", "mobilenet_v3"):
        return "none"  # these networks have it inside
    if module == "densenet":
        return "torch"
    return "caffe" if module in ("resnet", "vgg16", "vgg19") else "tf"


def _applications() -> dict[str, tuple[str, Callable[..., keras.Model]]]:
    """Name -> (module, constructor) of every classifier in `keras.applications`."""
    found: dict[str, tuple[str, Callable[..., keras.Model]]] = {}
    for name, constructor in inspect.getmembers(keras.applications, inspect.isfunction):
        if "include_top" in inspect.signature(constructor).parameters:
            found[name.lower()] = (constructor.__module__.rsplit(".", 1)[-1], constructor)
    return found


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
