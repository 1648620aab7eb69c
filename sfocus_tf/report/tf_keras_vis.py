"""Attention maps by other methods, from tf-keras-vis, for comparison with ours."""

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
_SCORE_CAM_CHANNELS = 32  # with the highest variance; a thousand channels would take minutes per image
_NOISY_SAMPLES = 20  # of SmoothGrad


def explain_by(cam: str, model: SharpenFocus, images: np.ndarray, explanation: Explanation) -> Explanation:
    """Explains the same classes of the same images by a method of tf-keras-vis.

    Args:
        cam: one of `VIS_CAMS`. "vis:score_cam" is Faster-Score-CAM; "vis:saliency" is SmoothGrad, whose single
            pixel map is returned for both layers.
        model: the model whose classifier is explained.
        images: `[images, height, width, channels]`, in [0, 255].
        explanation: explanation of these images by `model.explain`, which determines the classes.

    Returns:
        The explanation, with its maps replaced.

    Raises:
        ValueError: `cam` is unknown, or takes feature maps and the attention layers output tokens.
    """
    if cam not in VIS_CAMS:
        raise unknown("cam", cam, VIS_CAMS)
    if model.token_grids and cam != "vis:saliency":
        raise ValueError(
            f"cam={cam!r}: tf-keras-vis takes no tokens, which layer {next(iter(model.token_grids))!r} outputs. "
            "Expected 'vis:saliency' or a CAM of this package, such as 'hires_cam'."
        )
    with warnings.catch_warnings():
        # tf-keras-vis passes the one input in a list, which Keras warns about at each call.
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
