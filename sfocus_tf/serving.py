"""Exports a classifier and its explanations as a SavedModel for TF Serving.

The SavedModel needs only TensorFlow's own operations, neither this package nor Keras. Its signatures:

- `serving_default`: `images` -> `probabilities`, `logits`, `class_id`, `class_name`;
- `serving_bytes`: `image_bytes`, encoded JPEG or PNG images -> the same;
- `explain` and `explain_bytes`: the same inputs and `class_ids` (the class to explain, one per image or one for all;
  -1 for the predicted class, the default over gRPC) -> the same outputs and `target_class_id`, `target_class_name`,
  `rival_class_id`, `rival_class_name`; for each layer ("inner" and "last") and role ("target" and "rival")
  `attention_<role>_<layer>` at the images' resolution, in [0, 1], and `raw_attention_<role>_<layer>` as from
  `SharpenFocus.explain`; `overlap_<layer>`, the overlap of both regions (0 if a map has no attention); and
  `contrast_<layer>`, the evidence for the target rather than the rival, at the images' resolution, in [-1, 1]: above
  zero for the target, below zero for the rival, and `raw_contrast_<layer>`, target less rival of
  `SharpenFocus.explain(of="contrast")`.
"""

import dataclasses
import functools
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.attention import (
    LINEAR,
    AttentionExtractor,
    Classes,
    ExplainingModel,
    named_classes,
    resize_map,
    spatial_size,
)
from sfocus_tf.errors import check_count

# Above the resolution of common cameras; a few kilobytes of PNG can unpack to gigabytes.
MOST_PIXELS = 50_000_000
_WARM_UP_SIZES = (1, 8)  # images a request
_REGION = 0.55  # as in `sfocus_tf.evaluation.region_iou`


class ServedModel(ExplainingModel):
    """A model that exports its classifier and its explanations."""

    classifier: keras.Model
    _extractor: AttentionExtractor

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        *,
        class_names: tuple[str, ...] | None = None,
        image_size: tuple[int, int] | None = None,
        center_crop: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes the classifier and its explanations as a SavedModel for TF Serving; see `sfocus_tf.serving`.

        The classifier receives encoded images as pixels from 0 to 255. If it was trained on other values, add a
        `keras.layers.Rescaling`, or export it with `python -m sfocus_tf export --preprocessing=...`.

        Args:
            filepath: the folder, such as "served/1".
            format: "tf_saved_model", or another format of `keras.Model.export`, which writes only the scores.
            class_names: one name per class, in order of the class numbers; by default the numbers.
            image_size: height and width, or one number for both, to resize encoded images to; by default the
                classifier's input size.
            center_crop: side of a central square crop of encoded images, as a share of their shorter side, in (0, 1];
                by default the whole image, stretched. As in `sfocus_tf.data.load`.
            **kwargs: arguments of `keras.Model.export`, for other formats.

        Raises:
            TypeError: an argument that the format does not have, or a string as names.
            ValueError: the number of names is not that of the classes, the image size is missing or not the
                classifier's, or `center_crop` is out of range.
            FileExistsError: the path is a file, or a folder that is not empty.
        """
        if format != "tf_saved_model":
            self.classifier.export(filepath, format=format, **kwargs)
            return
        if kwargs:
            raise TypeError(f"export: unexpected arguments {', '.join(kwargs)} for format='tf_saved_model'.")
        size = self.classifier.input_shape[1:3] if image_size is None else image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if len(size) != 2 or None in size:
            why = ", as this classifier takes images of any size" if image_size is None else ""
            raise ValueError(f"image_size={image_size}: expected height and width{why}.")
        for side in size:
            check_count("image_size", side)
        if isinstance(class_names, str):
            raise TypeError(f"class_names={class_names!r}: expected a sequence of names, got a string.")
        names = range(self.num_classes) if class_names is None else class_names
        extractor = dataclasses.replace(self._extractor, cam=self.cam)
        save(extractor, filepath, tuple(str(name) for name in names), size, center_crop)


def save(
    extractor: AttentionExtractor,
    path: str | pathlib.Path,
    class_names: tuple[str, ...],
    image_size: tuple[int, int],
    center_crop: float | None = None,
) -> pathlib.Path:
    """Writes a SavedModel; its signatures are in the module docstring.

    Args:
        extractor: the classifier and its attention settings.
        path: the folder, such as "served/1"; TF Serving uses its last part as the version.
        class_names: one name per class, in order of the class numbers.
        image_size: height and width in pixels to resize encoded images to.
        center_crop: side of a central square crop of encoded images, as a share of their shorter side, in (0, 1], as
            in `sfocus_tf.data.load`; the whole image by default.

    Returns:
        The folder.

    Raises:
        ValueError: the number of names is not that of the classes, the classifier takes another image size, or
            `center_crop` is out of range.
        FileExistsError: the path is a file, or a folder that is not empty.
    """
    folder = pathlib.Path(path).expanduser()
    classes = extractor.classifier.output_shape[-1]
    sides = extractor.classifier.input_shape[1:3]
    if any(side not in (None, new) for side, new in zip(sides, image_size, strict=True)):
        raise ValueError(f"image_size={image_size}: the classifier takes images of {sides[0]}x{sides[1]} pixels.")
    if center_crop is not None and not 0 < center_crop <= 1:
        raise ValueError(f"center_crop={center_crop}: expected a share of the shorter side, from 0 to 1.")
    if len(class_names) != classes:
        raise ValueError(f"class_names: expected {classes}, one for each class, got {len(class_names)}.")
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise FileExistsError(f"path={str(path)!r} is there already. Choose a new version, such as the next number.")
    module = tf.Module()
    module.kept = [variable.value for variable in extractor.classifier.variables]
    decode = functools.partial(decode_images, image_size=image_size, center_crop=center_crop)
    signatures = _signatures(extractor, class_names, decode)
    # Written next to its place and then moved there, so that a server never loads half of a version.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as temporary:
        written = pathlib.Path(temporary) / "model"
        tf.saved_model.save(module, str(written), signatures=signatures)
        _write_warm_up(written, folder.parent.name, image_size, extractor.classifier.input_shape[-1])
        written.rename(folder)
    return folder


def decode_images(image_bytes: tf.Tensor, image_size: tuple[int, int], center_crop: float | None = None) -> tf.Tensor:
    """Decodes and resizes images for a classifier.

    Args:
        image_bytes: `[batch]` strings, JPEG (including grey and CMYK) or PNG (including 16 bits, grey, palette and
            alpha).
        image_size: height and width of the result.
        center_crop: as in `save`.

    Returns:
        `[batch, *image_size, 3]` float32 in [0, 255].

    Raises:
        tf.errors.InvalidArgumentError: one is not a JPEG or PNG image, is damaged, or has more than `MOST_PIXELS`
            pixels. The whole batch fails.
    """
    shape = tf.TensorSpec([*image_size, 3], tf.float32)
    # Few at a time: each may unpack to a hundred megabytes.
    return tf.map_fn(
        lambda data: _decode(data, image_size, center_crop),
        image_bytes,
        parallel_iterations=2,
        fn_output_signature=shape,
    )


def _decode(data: tf.Tensor, image_size: tuple[int, int], center_crop: float | None) -> tf.Tensor:
    start = tf.strings.substr(tf.strings.join([tf.strings.substr(data, 0, 24), bytes(24)]), 0, 24)
    is_jpeg = tf.equal(tf.strings.substr(start, 0, 3), b"\xff\xd8\xff")
    # A PNG begins with its header, with width and height in bytes 16 to 23.
    is_png = tf.equal(tf.strings.substr(start, 0, 16), b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
    known = tf.Assert(is_jpeg | is_png, ["not a JPEG or PNG image"])
    with tf.control_dependencies([known]):
        sides = tf.cond(
            is_jpeg,
            lambda: tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64),
            lambda: tf.cast(tf.io.decode_raw(tf.strings.substr(start, 16, 8), tf.int32, little_endian=False), tf.int64),
        )
    pixels = tf.reduce_prod(sides)
    fits = tf.Assert(
        (tf.reduce_min(sides) > 0) & (pixels <= MOST_PIXELS), ["image of too many pixels: height and width", sides]
    )
    with tf.control_dependencies([fits]):
        image = tf.cond(
            is_jpeg,
            lambda: tf.io.decode_jpeg(data, channels=3),
            lambda: tf.io.decode_png(data, channels=3),
        )
    if center_crop is not None:
        from sfocus_tf.data.augmentation import central_crop  # noqa: PLC0415 (loads TFDS)

        image = central_crop({"image": image}, center_crop)["image"]
    image = tf.image.resize(tf.ensure_shape(image, [None, None, 3]), image_size, antialias=True)
    return tf.clip_by_value(image, 0.0, 255.0)


def _signatures(
    extractor: AttentionExtractor, class_names: tuple[str, ...], decode: Callable[[tf.Tensor], tf.Tensor]
) -> dict[str, Callable[..., Any]]:
    channels = extractor.classifier.input_shape[-1]
    images_spec = tf.TensorSpec([None, *extractor.classifier.input_shape[1:3], channels], tf.float32, "images")
    bytes_spec = tf.TensorSpec([None], tf.string, "image_bytes")
    ids_spec = tf.TensorSpec([None], tf.int32, "class_ids")
    names = np.array([name.encode() for name in class_names])
    predicted = tf.constant([-1])  # TF Serving fills it in if a request has no class_ids

    # All signatures share one function, so that the file has the network once; unused outputs are pruned when it runs.
    @tf.function(input_signature=[images_spec, ids_spec], autograph=False)
    def everything(images: tf.Tensor, class_ids: tf.Tensor = predicted) -> dict[str, tf.Tensor]:
        images = tf.ensure_shape(images, images_spec.shape)  # which loaded signatures do not check
        return _explained(extractor, tf.constant(names), images, class_ids)

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = everything(images, predicted)
        return {key: outputs[key] for key in ("probabilities", "logits", "class_id", "class_name")}

    def answer_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(decode(image_bytes))

    def explain_bytes(image_bytes: tf.Tensor, class_ids: tf.Tensor = predicted) -> dict[str, tf.Tensor]:
        return everything(decode(image_bytes), class_ids)

    signatures = {
        "serving_default": tf.function(answer, input_signature=[images_spec], autograph=False),
        "explain": everything,
    }
    if channels == 3:
        signatures["serving_bytes"] = tf.function(answer_bytes, input_signature=[bytes_spec], autograph=False)
        signatures["explain_bytes"] = tf.function(
            explain_bytes, input_signature=[bytes_spec, ids_spec], autograph=False
        )
    return signatures


def _explained(
    extractor: AttentionExtractor, names: tf.Tensor, images: tf.Tensor, class_ids: tf.Tensor
) -> dict[str, tf.Tensor]:
    """All outputs of `explain`."""
    classes = extractor.classifier.output_shape[-1]
    valid = tf.reduce_all((class_ids >= -1) & (class_ids < classes))
    checks = [
        tf.Assert(valid, [f"class_ids: expected numbers from -1 to {classes - 1}, got", class_ids], summarize=10),
    ]
    with tf.control_dependencies(checks):
        class_ids = tf.broadcast_to(class_ids, tf.shape(images)[:1])

    def choose(scores: tf.Tensor) -> Classes:
        return named_classes(scores, class_ids, tf.fill(tf.shape(class_ids), -1), extractor.multi_label)

    extracted = extractor.extract(images, training=False, choose=choose)
    chosen = extracted.classes
    logits = tf.cast(extracted.scores, tf.float32)
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    result = {
        "logits": logits,
        "probabilities": tf.sigmoid(logits) if extractor.multi_label else tf.nn.softmax(logits),
        "class_id": best,
        "class_name": tf.gather(names, best),
        "target_class_id": chosen.target,
        "target_class_name": tf.gather(names, chosen.target),
        "rival_class_id": chosen.rival,
        "rival_class_name": tf.gather(names, chosen.rival),
    }
    for layer, pair in (("inner", extracted.inner), ("last", extracted.last)):
        for role, attended in pair._asdict().items():
            raw = tf.cast(attended.map, tf.float32)
            resized = resize_map(raw, spatial_size(images))
            peak = tf.reduce_max(resized, axis=(1, 2), keepdims=True)
            result[f"raw_attention_{role}_{layer}"] = raw
            result[f"attention_{role}_{layer}"] = tf.math.divide_no_nan(resized, peak)
        result[f"overlap_{layer}"] = _overlap(*(tf.cast(attended.map, tf.float32) for attended in pair))
        if extractor.cam in LINEAR:  # the evidence for a difference of scores is the difference of their evidence
            contrast = tf.cast(pair.target.evidence - pair.rival.evidence, tf.float32)
            resized = resize_map(contrast, spatial_size(images))
            peak = tf.reduce_max(tf.abs(resized), axis=(1, 2), keepdims=True)
            result[f"raw_contrast_{layer}"] = contrast
            result[f"contrast_{layer}"] = tf.math.divide_no_nan(resized, peak)
    return result


def _overlap(target: tf.Tensor, rival: tf.Tensor) -> tf.Tensor:
    """`sfocus_tf.evaluation.region_iou` in a graph; 0 if undefined."""

    def region(map_: tf.Tensor) -> tf.Tensor:
        peak = tf.reduce_max(map_, axis=(1, 2), keepdims=True)
        return (map_ >= _REGION * peak) & (peak > 0)

    both, either = region(target) & region(rival), region(target) | region(rival)
    counts = [tf.reduce_sum(tf.cast(area, tf.float32), axis=(1, 2)) for area in (both, either)]
    return tf.math.divide_no_nan(*counts)


def _write_warm_up(folder: pathlib.Path, name: str, image_size: tuple[int, int], channels: int) -> None:
    """Writes warmup requests, one per signature and batch size, which TF Serving runs before it accepts others.

    See "SavedModel Warmup" in TF Serving's documentation. Without tensorflow-serving-api, which has their format, a
    warning says that they are left out.
    """
    try:
        from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2  # noqa: PLC0415 (optional)
    except ImportError:
        warnings.warn(
            "export: without warmup requests, so the first requests to TF Serving will be slow. To write them, install "
            "tensorflow-serving-api, as pip install -e '.[serving]' does.",
            stacklevel=4,
        )
        return
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for size in _WARM_UP_SIZES:
            images = {"images": tf.make_tensor_proto(0.0, shape=(size, *image_size, channels))}
            ids = {"class_ids": tf.make_tensor_proto(-1, tf.int32, (size,))}
            requests = {"serving_default": images, "explain": images | ids}
            if channels == 3:
                image = tf.io.encode_png(np.zeros((*image_size, 3), np.uint8)).numpy()
                encoded = {"image_bytes": tf.make_tensor_proto([image] * size)}
                requests |= {"serving_bytes": encoded, "explain_bytes": encoded | ids}
            for signature, inputs in requests.items():
                spec = model_pb2.ModelSpec(name=name, signature_name=signature)
                request = predict_pb2.PredictRequest(model_spec=spec, inputs=inputs)
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())
