"""Maps by other explanation methods, from tf-keras-vis, to look at beside ours."""

import warnings
from typing import Any

import keras
import numpy as np
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.scorecam import Scorecam
from tf_keras_vis.utils.scores import CategoricalScore

from sfocus_tf.attention import Explanation
from sfocus_tf.classifier import graph
from sfocus_tf.errors import unknown
from sfocus_tf.model import SharpenFocus

OTHER_METHODS = ("vis:score_cam", "vis:grad_cam_plus_plus", "vis:saliency")
_SCORE_CAM_CHANNELS = 32  # those with the highest variance; all of a thousand would take minutes a picture
_NOISY_SAMPLES = 20  # SmoothGrad


def explain_by(method: str, model: SharpenFocus, images: np.ndarray, explanation: Explanation) -> Explanation:
    """The same classes of the same pictures, explained by a method of tf-keras-vis.

    Args:
        method: one of `OTHER_METHODS`. "vis:score_cam" is Faster-Score-CAM; "vis:saliency" is SmoothGrad, which has one
            map for the pixels instead of one a layer: it is given as that of both layers.
        model: whose classifier is explained.
        images: `[pictures, height, width, channels]`, in [0, 255].
        explanation: of these pictures, by `model.explain`; says which classes.

    Returns:
        The explanation, with other maps.

    Raises:
        ValueError: no such method.
    """
    if method not in OTHER_METHODS:
        raise unknown("method", method, OTHER_METHODS)
    with warnings.catch_warnings():
        # tf-keras-vis hands a network its one input in a list, which Keras remarks on each time.
        warnings.filterwarnings("ignore", message="The structure of `inputs`", category=UserWarning)
        return explanation._replace(**_maps(method, model, np.asarray(images, np.float32), explanation))


def _maps(method: str, model: SharpenFocus, images: np.ndarray, explanation: Explanation) -> dict[str, np.ndarray]:
    network = graph.flat(model.classifier)
    maps: dict[str, np.ndarray] = {}
    for role in ("target", "rival"):
        score = CategoricalScore([int(number) for number in getattr(explanation, role)])
        if method == "vis:saliency":
            saliency = Saliency(network, clone=False)(score, images, smooth_samples=_NOISY_SAMPLES, smooth_noise=0.2)
            maps |= {f"{role}_{layer}": saliency for layer in ("inner", "last")}
            continue
        for layer, path in (("inner", model.inner_layer), ("last", model.last_layer)):
            maps[f"{role}_{layer}"] = _class_map(method, network, graph.flat_name(path), score, images)
    return maps


def _class_map(method: str, network: keras.Model, layer: str, score: Any, images: np.ndarray) -> np.ndarray:
    common = {
        "penultimate_layer": layer, "seek_penultimate_conv_layer": False, "normalize_cam": False, "expand_cam": False
    }  # fmt: skip
    if method == "vis:grad_cam_plus_plus":
        return np.asarray(GradcamPlusPlus(network, clone=False)(score, images, **common))
    channels = network.get_layer(layer).output.shape[-1]
    count = min(_SCORE_CAM_CHANNELS, channels)
    return np.asarray(Scorecam(network, clone=False)(score, images, max_N=count, **common))
