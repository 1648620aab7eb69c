"""Maps by other explanation methods, from tf-keras-vis, to look at beside ours."""

import warnings
from typing import Any

import keras
import numpy as np
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.scorecam import Scorecam
from tf_keras_vis.utils.scores import CategoricalScore

from sfocus_tf.attention import Explanation, LayerMaps
from sfocus_tf.classifier import graph
from sfocus_tf.errors import unknown
from sfocus_tf.model import SharpenFocus

VIS_CAMS = ("vis:score_cam", "vis:grad_cam_plus_plus", "vis:saliency")
_SCORE_CAM_CHANNELS = 32  # those with the highest variance; all of a thousand would take minutes a picture
_NOISY_SAMPLES = 20  # SmoothGrad


def explain_by(cam: str, model: SharpenFocus, images: np.ndarray, explanation: Explanation) -> Explanation:
    """The same classes of the same pictures, explained by a method of tf-keras-vis.

    Args:
        cam: one of `VIS_CAMS`. "vis:score_cam" is Faster-Score-CAM; "vis:saliency" is SmoothGrad, which has one
            map for the pixels instead of one a layer: it is given as that of both layers.
        model: whose classifier is explained.
        images: `[pictures, height, width, channels]`, in [0, 255].
        explanation: of these pictures, by `model.explain`; says which classes.

    Returns:
        The explanation, with other maps.

    Raises:
        ValueError: no such way to make maps.
    """
    if cam not in VIS_CAMS:
        raise unknown("cam", cam, VIS_CAMS)
    with warnings.catch_warnings():
        # tf-keras-vis hands a network its one input in a list, which Keras remarks on each time.
        warnings.filterwarnings("ignore", message="The structure of `inputs`", category=UserWarning)
        return _with_maps(cam, model, np.asarray(images, np.float32), explanation)


def _with_maps(cam: str, model: SharpenFocus, images: np.ndarray, explanation: Explanation) -> Explanation:
    network = graph.flat(model.classifier)
    by_role: list[tuple[np.ndarray, ...]] = []
    for numbers in (explanation.target, explanation.rival):
        score = CategoricalScore([int(number) for number in numbers])
        if cam == "vis:saliency":
            saliency = Saliency(network, clone=False)(score, images, smooth_samples=_NOISY_SAMPLES, smooth_noise=0.2)
            by_role.append((saliency, saliency))
        else:
            paths = (graph.flat_name(path) for path in (model.inner_layer, model.last_layer))
            by_role.append(tuple(_class_map(cam, network, path, score, images) for path in paths))
    inner, last = (LayerMaps(*maps) for maps in zip(*by_role, strict=True))
    return explanation._replace(inner=inner, last=last)


def _class_map(cam: str, network: keras.Model, layer: str, score: Any, images: np.ndarray) -> np.ndarray:
    common = {
        "penultimate_layer": layer, "seek_penultimate_conv_layer": False, "normalize_cam": False, "expand_cam": False
    }  # fmt: skip
    if cam == "vis:grad_cam_plus_plus":
        return np.asarray(GradcamPlusPlus(network, clone=False)(score, images, **common))
    channels = network.get_layer(layer).output.shape[-1]
    count = min(_SCORE_CAM_CHANNELS, channels)
    return np.asarray(Scorecam(network, clone=False)(score, images, max_N=count, **common))
