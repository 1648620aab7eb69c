"""Attention layers found in networks of many kinds: the table of docs/networks.md.

  python benchmarks/networks.py           prints the table
  python benchmarks/networks.py --write   writes it into docs/networks.md

Every network is built without weights, wrapped, and explains two random images; those of KerasHub and the transformers
in plain Keras are small. The last line is JSON: how many networks were `found`, and the messages of those `refused`.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `benchmarks` importable from a script

import sfocus_tf as sf
from benchmarks import keras_hub_networks, vision_transformers
from sfocus_tf import backbones

_WRITE = flags.DEFINE_bool("write", False, "Write the table into docs/networks.md.")
_PAGE = _ROOT / "docs" / "networks.md"
_MARK = "<!-- python benchmarks/networks.py --write -->\n"
_HEAD = """| network | images | inner | its grid | last | its grid | tokens left out |
|---|---|---|---|---|---|---|
"""


def application(name, size):
    """A network of keras.applications."""
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=3, classifier_activation=None
    )


def groups():
    """Networks by group and name, each a function that builds one."""
    plain = vision_transformers
    of_keras = {
        "ResNet50": 224, "VGG16": 224, "DenseNet121": 224, "MobileNetV2": 224, "MobileNetV3Small": 224,
        "EfficientNetB0": 224, "EfficientNetV2B0": 224, "InceptionV3": 299, "Xception": 299, "ConvNeXtTiny": 224,
    }  # fmt: skip
    return {
        "This package, 32 pixels": {
            name: lambda name=name: backbones.create(name, 3, 32) for name in ("resnet20", "resnet18_cifar", "vit_tiny")
        },
        "keras.applications": {
            name: lambda name=name, size=size: application(name, size) for name, size in of_keras.items()
        },
        "Transformers and mixers in plain Keras, two blocks": {
            "ViT of keras.io (flattened tokens)": plain.vit,
            "ViT, mean of the tokens": lambda: plain.vit("mean", patches="convolution"),
            "ViT, class token": lambda: plain.vit("class"),
            "ViT, class token and 4 registers": lambda: plain.vit("class", registers=4),
            "ViT, mean of the patches, class token unread": lambda: plain.vit("patches"),
            "MLP-Mixer of keras.io": plain.mixer,
            "MLP-Mixer as a graph": lambda: plain.mixer("graph"),
        },
        "KerasHub, transformers": keras_hub_networks.TRANSFORMERS,
        "KerasHub, convolutional": keras_hub_networks.CONVOLUTIONAL,
    }


def row(name, classifier):
    """A network's row of the table."""
    model = sf.SharpenFocus(classifier)
    height, width = classifier.input_shape[1:3]
    images = np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    found = model.explain(images)
    sizes = ["x".join(map(str, maps.target.shape[1:])) for maps in (found.inner, found.last)]
    grids = model.token_grids
    skipped = grids[model.last_layer].skip if model.last_layer in grids else ""
    cells = (name, f"{height}x{width}", f"`{model.inner_layer}`", sizes[0], f"`{model.last_layer}`", sizes[1], skipped)
    return "| " + " | ".join(map(str, cells)) + " |\n"


def main(_):
    text, found, refused = "", 0, {}
    for group, networks in groups().items():
        text += f"\n## {group}\n\n{_HEAD}"
        for name, make in networks.items():
            keras.backend.clear_session()  # names of layers are numbered
            try:
                text += row(name, make())
                found += 1
            except ValueError as error:
                refused[name] = str(error)
                text += f"| {name} | | refused | | | | |\n"
    print(text)
    if _WRITE.value:
        before = _PAGE.read_text(encoding="utf-8").split(_MARK)[0]
        _PAGE.write_text(before + _MARK + text, encoding="utf-8")
    print(json.dumps({"found": found, "refused": refused}))


if __name__ == "__main__":
    app.run(main)
