"""Cost of explaining images, relative to `predict`.

  python benchmarks/explain.py                                                  ResNet-18, 32 pixels, batches of 64
  python benchmarks/explain.py --backbone=efficientnet_lite0 --image_size=160 --batch_size=32

Timed in turns in one process: Keras' `predict`; `explain`, which adds the maps of two classes at two layers, and with
the last layer only; the same with contrast maps, of the difference of the two scores; the four maps by tf-keras-vis'
Gradcam (which runs eagerly, one forward pass per map); the classifier in a bare tf.function; and the SavedModel's two
signatures. Ratios are medians over the rounds. The last line is JSON: ratios to `predict`; `explain_to_bare`, the ratio
of `explain` to the bare function; `contrast_to_explain`; and `served`, that of the two signatures.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags
from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.utils.scores import CategoricalScore

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # makes `benchmarks` importable from a script

import sfocus_tf as sf
from benchmarks import stepping
from sfocus_tf import backbones

_BACKBONE = flags.DEFINE_string("backbone", "resnet18_cifar", "Network.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Height and width, in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per batch.")
_BATCHES = flags.DEFINE_integer("batches", 4, "Batches per round.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Number of rounds.")


def by_tf_keras_vis(classifier, explanation, images, layers):
    """Computes the maps of both classes at both layers, batch by batch."""
    gradcam = Gradcam(classifier, clone=False)
    maps = []
    for role in ("target", "rival"):
        ids = getattr(explanation, role)
        for layer in layers:
            for start in range(0, len(images), _BATCH_SIZE.value):
                rows = slice(start, start + _BATCH_SIZE.value)
                options = {"normalize_cam": False, "expand_cam": False, "seek_penultimate_conv_layer": False}
                score = CategoricalScore([int(number) for number in ids[rows]])
                maps.append(gradcam(score, images[rows], penultimate_layer=layer, **options))
    return maps


def main(_):
    warnings.filterwarnings("ignore", message="The structure of `inputs`")
    size, batch = _IMAGE_SIZE.value, _BATCH_SIZE.value
    classifier = backbones.create(_BACKBONE.value, 10, size)
    model = sf.SharpenFocus(classifier)
    images = np.random.default_rng(0).uniform(0, 255, (_BATCHES.value * batch, size, size, 3)).astype(np.float32)
    explanation = model.explain(images, batch_size=batch)
    parts = [tf.constant(images[start : start + batch]) for start in range(0, len(images), batch)]
    ids = tf.fill([batch], -1)
    with tempfile.TemporaryDirectory() as folder:
        model.export(f"{folder}/1")
        served = tf.saved_model.load(f"{folder}/1").signatures
    bare = tf.function(lambda part: classifier(part, training=False))
    answers = {
        "predict": lambda: classifier.predict(images, batch, verbose=0),
        "bare": lambda: [bare(part).numpy() for part in parts],
        "explain": lambda: model.explain(images, batch_size=batch),
        "explain_last": lambda: model.explain(images, batch_size=batch, inner=False),
        "contrast": lambda: model.explain(images, batch_size=batch, of="contrast"),
        "contrast_last": lambda: model.explain(images, batch_size=batch, of="contrast", inner=False),
        "tf_keras_vis": lambda: by_tf_keras_vis(classifier, explanation, images, (model.inner_layer, model.last_layer)),
        "served_scores": lambda: [served["serving_default"](images=part)["logits"].numpy() for part in parts],
        "served_explain": lambda: [
            {key: value.numpy() for key, value in served["explain"](images=part, class_ids=ids).items()}
            for part in parts
        ],
    }
    seconds = {name: [] for name in answers}
    for round_ in range(1 + _ROUNDS.value):
        for name, answer in answers.items():
            begin = time.perf_counter()
            answer()
            if round_:  # the first round compiles
                seconds[name].append(time.perf_counter() - begin)

    def ratio(name, other):
        return round(stepping.ratio(seconds[name], seconds[other]), 3)

    result = {name: ratio(name, "predict") for name in seconds if name != "predict"}
    for name, times in seconds.items():
        print(
            f"{name:<15} {len(images) / statistics.median(times):9.1f} images/s  {result.get(name, 1):7.3f} x predict"
        )
    result |= {"explain_to_bare": ratio("explain", "bare"), "contrast_to_explain": ratio("contrast", "explain")}
    result |= {"served": ratio("served_explain", "served_scores")}
    keys = ("backbone", "image_size", "batch_size")
    print(json.dumps(result | {key: flags.FLAGS[key].value for key in keys}))


if __name__ == "__main__":
    app.run(main)
