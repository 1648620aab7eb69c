"""Explanations: the attention maps behind a classifier's answers, and the model class that computes them."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.attention.cam import LINEAR
from sfocus_tf.attention.classes import Classes, named_classes, trained_classes
from sfocus_tf.attention.extractor import AttentionExtractor


class LayerMaps(NamedTuple):
    """Raw attention at one layer, `[images, h, w]` float32 maps, 0 or more; `[images, 0, 0]` if it was left out.

    Attributes:
        target: map of the target.
        rival: map of the rival.
    """

    target: Any
    rival: Any


class Explanation(NamedTuple):
    """The attention maps behind a classifier's answers; NumPy arrays, or tensors for one batch.

    Attributes:
        scores: `[images, classes]` float32, before softmax or sigmoid.
        target: `[images]` int32, the class that each image is explained for.
        rival: `[images]` int32, the class that it might be confused with.
        inner: maps of both at the inner layer.
        last: maps of both at the last layer.
    """

    scores: Any
    target: Any
    rival: Any
    inner: LayerMaps
    last: LayerMaps

    def __repr__(self) -> str:
        shapes = (np.shape(values) for values in (self.scores, self.inner.target, self.last.target))
        return "Explanation(scores {}, inner maps {}, last maps {})".format(*shapes)

    def rows(self, rows: Any) -> "Explanation":
        """The explanation of the images in an index array or slice."""
        return keras.tree.map_structure(lambda values: values[rows], self)


class ExplainingModel(keras.Model):
    """A model that explains its classifier's answers.

    Attributes:
        num_classes: length of the score vector.
        multi_label: whether images may have several classes.
        cam: the CAM method of explanations that name none.
    """

    num_classes: int
    multi_label: bool
    _traced: "Traced"
    cam = "grad_cam"

    def explain(
        self,
        images: Any,
        class_ids: Any = None,
        rival_ids: Any = None,
        batch_size: int = 32,
        labels: Any = None,
        *,
        of: str = "score",
        cam: str | None = None,
        inner: bool = True,
    ) -> Explanation:
        """Computes the attention maps of a class and its rival, at both layers.

        Args:
            images: `[images, height, width, channels]`, or one image without the first axis; for a classifier with
                one channel also `[images, height, width]`.
            class_ids: the class to explain, one for all images or `[images]`; `None` or -1 for the predicted class.
            rival_ids: the class to compare it with, in the same form; `None`, -1 or the explained class itself for the
                best of the other classes.
            batch_size: images per batch.
            labels: instead of class numbers, the images' labels as in training, or one number for all: explains the
                labelled class and its most confusing rival (multi-label: the present and the absent class with the
                highest scores). Images without both classes are explained by their prediction.
            of: what the maps explain. "score": the score of each class. "relative": that score minus the mean over the
                classes, which ignores shifts of all scores, as softmax does. "contrast": the target's score minus the
                rival's; the maps show the evidence for the target and for the rival on one scale, without overlap.
            cam: the CAM method, one of `sfocus_tf.attention.CAMS`; Grad-CAM by default.
            inner: compute the maps at the inner layer too. Those at the last layer alone are almost free if the network
                ends in pooling and a dense layer.

        Returns:
            Scores, class numbers and raw maps.

        Raises:
            ValueError: no images, or not finite; class numbers outside [-1, classes) or not one per image; labels with
                class numbers; a batch size below 1; an unknown `of` or `cam`; "relative" for a multi-label classifier;
                "contrast" with a `cam` that is not linear in the score; or an attention layer that the scores do not
                depend on.
        """
        self._traced.check(of, cam or self.cam)
        images = self._images(images)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a positive number.")
        chosen: list[np.ndarray]
        if labels is None:
            on_batch: Callable[..., Any] = self.explain_on_batch
            chosen = [self._ids("class_ids", class_ids, len(images)), self._ids("rival_ids", rival_ids, len(images))]
        else:
            chosen = [self._labels(labels, len(images))]
            on_batch = self._explain_labelled
            if class_ids is not None or rival_ids is not None or len(chosen[0]) != len(images):
                problem = "class numbers too" if len(chosen[0]) == len(images) else f"{len(chosen[0])}"
                raise ValueError(f"labels: expected {len(images)} labels and no class_ids or rival_ids, got {problem}.")
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            arguments = [tf.convert_to_tensor(values[rows]) for values in (images, *chosen)]
            parts.append(on_batch(*arguments, of=of, cam=cam, inner=inner))
        return keras.tree.map_structure(lambda *values: np.concatenate([np.asarray(value) for value in values]), *parts)

    def explain_on_batch(
        self,
        images: tf.Tensor,
        class_ids: tf.Tensor,
        rival_ids: tf.Tensor,
        *,
        of: str = "score",
        cam: str | None = None,
        inner: bool = True,
    ) -> Explanation:
        """`explain` for one batch of tensors, also inside graphs.

        Args:
            images: `[batch, height, width, channels]`.
            class_ids: `[batch]` int32; negative for the predicted class.
            rival_ids: `[batch]` int32; negative for the best of the other classes.
            of: as in `explain`.
            cam: as in `explain`.
            inner: as in `explain`.

        Returns:
            The explanation, as tensors.
        """
        return self._traced(images, (class_ids, rival_ids), "ids", of, cam or self.cam, inner).explanation

    def explain_labelled_on_batch(
        self, images: tf.Tensor, labels: tf.Tensor, *, of: str = "score", cam: str | None = None, inner: bool = True
    ) -> tuple[Explanation, tf.Tensor]:
        """`explain(images, labels=labels)` for one batch of tensors.

        Args:
            images: `[batch, height, width, channels]`.
            labels: labels in any form that training accepts.
            of: as in `explain`.
            cam: as in `explain`.
            inner: as in `explain`.

        Returns:
            The explanation, as tensors, and `[batch]` bool: whether an image has a target and a rival.
        """
        result = self._traced(images, (labels,), "labels", of, cam or self.cam, inner)
        return result.explanation, result.valid

    def explain_with_contrast_on_batch(
        self, images: tf.Tensor, labels: tf.Tensor, *, of: str = "score", cam: str = "grad_cam"
    ) -> tuple[Explanation, Explanation, tf.Tensor]:
        """As `explain_labelled_on_batch`, with the contrast maps of the same classes from the same pass.

        Args:
            images: `[batch, height, width, channels]`.
            labels: labels in any form that training accepts.
            of: as in `explain`.
            cam: one of `sfocus_tf.attention.LINEAR`.

        Returns:
            The explanation and that of "contrast", as tensors, and `[batch]` bool: whether an image has both classes.

        Raises:
            ValueError: a `cam` that is not linear in the score; or see `explain`.
        """
        self._traced.check("contrast", cam)
        result = self._traced(images, (labels,), "labels", of, cam, True)
        maps = {"inner": result.contrast[0], "last": result.contrast[1]}
        return result.explanation, result.explanation._replace(**maps), result.valid

    def _explain_labelled(self, *arguments: tf.Tensor, **options: Any) -> Explanation:
        return self.explain_labelled_on_batch(*arguments, **options)[0]

    def _images(self, images: Any) -> np.ndarray:
        """Images with all four axes."""
        passed, images = images, np.asarray(images)
        if images.ndim == 3:
            grey = self._traced.channels == 1 != images.shape[-1]
            images = images[..., np.newaxis] if grey else images[np.newaxis]
        if images.ndim != 4 or not len(images):
            got = f"shape {images.shape}" if images.ndim else type(passed).__name__
            raise ValueError(f"images: expected an array [images, height, width, channels], got {got}.")
        if np.issubdtype(images.dtype, np.floating):
            broken = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
            if len(broken):
                raise ValueError(f"images: expected finite numbers, got NaN or infinity in image {broken[0]}.")
        return images

    def _ids(self, argument: str, ids: Any, images: int) -> np.ndarray:
        """Class numbers, one for each image."""
        ids = np.asarray(-1 if ids is None else ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{argument}: expected whole numbers, got {ids.dtype}.")
        if ids.ndim > 1 or (ids.ndim == 1 and len(ids) != images):
            raise ValueError(f"{argument}: expected one class number or {images} of them, got shape {ids.shape}.")
        if ids.size and (ids.min() < -1 or ids.max() >= self.num_classes):
            raise ValueError(f"{argument}: expected class numbers from -1 to {self.num_classes - 1}, got {ids}.")
        return np.broadcast_to(ids.astype(np.int32), (images,))

    def _labels(self, labels: Any, images: int) -> np.ndarray:
        """Labels as in training, one for each image."""
        labels = np.asarray(labels)
        if labels.ndim == 0:
            labels = np.broadcast_to(labels, (images,))
        if labels.dtype != bool and not np.issubdtype(labels.dtype, np.number):
            raise ValueError(f"labels: expected numbers, got {labels.dtype}.")
        if not np.isfinite(labels).all():
            raise ValueError("labels: expected finite numbers, got NaN or infinity.")
        if not self.multi_label and labels.size == len(labels):  # class numbers, not rows
            wrong = labels[(labels < 0) | (labels >= self.num_classes)]
            if wrong.size:
                raise ValueError(f"labels: expected class numbers from 0 to {self.num_classes - 1}, got {wrong[0]}.")
        return labels


class Traced:
    """`AttentionExtractor.extract` as a `tf.function` that is retraced when the network changes.

    The network changes with new adapters (LoRA), activations or precisions, after which users compile or quantize the
    model again, and Keras resets its own functions.
    """

    def __init__(self, extractor: AttentionExtractor):
        self._extractor = extractor
        self._state: list[Any] = []
        self._functions: dict[tuple[Any, ...], Any] = {}

    @property
    def channels(self) -> int:
        """Channels of the images that the network takes."""
        return self._extractor.classifier.input_shape[-1]

    def check(self, of: str, cam: str) -> None:
        """As `AttentionExtractor.check`."""
        dataclasses.replace(self._extractor, cam=cam).check(of)

    def __call__(
        self, images: tf.Tensor, chosen: tuple[tf.Tensor, ...], by: str, of: str, cam: str, inner: bool
    ) -> "_Result":
        """Explains the chosen classes; `chosen` has labels or ids, depending on `by`."""
        state = self._network()
        if len(state) != len(self._state) or not all(map(operator.is_, state, self._state)):
            self._functions = {}
        images, chosen = tf.convert_to_tensor(images), tuple(map(tf.convert_to_tensor, chosen))
        # For batches of any size, as the last one of a split is smaller.
        signature = [_of_any_number(tensor) for tensor in (images, *chosen)]
        key = (by, of, cam, inner, *signature)
        if key in self._functions:
            return self._functions[key](images, *chosen)
        explain = functools.partial(self._explanation, by=by, of=of, cam=cam, inner=inner)
        function = tf.function(explain, input_signature=signature, autograph=False)
        result = function(images, *chosen)
        self._functions[key] = function
        self._state = self._network()  # after tracing, which may set attributes of layers
        return result

    def _network(self) -> list[Any]:
        """What determines the network's computation, except values: its variables, layers and their attributes."""
        state = list(self._extractor.classifier.variables)
        for layer in self._extractor.classifier._flatten_layers():
            state += [layer, layer.dtype_policy]
            if not isinstance(layer, keras.Model):  # a model also has training state
                state += [value for name, value in vars(layer).items() if name[0] != "_"]
        return state

    def _explanation(self, images: tf.Tensor, *chosen: tf.Tensor, by: str, of: str, cam: str, inner: bool) -> "_Result":
        extractor = dataclasses.replace(self._extractor, cam=cam)

        def choose(scores: tf.Tensor) -> Classes:
            if by == "ids":
                return named_classes(scores, chosen[0], chosen[1], extractor.multi_label)
            return trained_classes(scores, chosen[0], extractor.multi_label)

        extracted = extractor.extract(images, training=False, choose=choose, of=of, inner=inner)
        layers = (extracted.inner, extracted.last)
        pairs = [LayerMaps(pair.target.map, pair.rival.map) for pair in layers]
        scores = tf.cast(extracted.scores, extractor.dtype)
        classes = extracted.classes
        if of == "contrast":
            sides = pairs
        else:
            signed = [pair.target.evidence - pair.rival.evidence for pair in layers] if cam in LINEAR else []
            sides = [LayerMaps(tf.nn.relu(evidence), tf.nn.relu(-evidence)) for evidence in signed]
        return _Result(Explanation(scores, classes.target, classes.rival, *pairs), sides, classes.valid)


def _of_any_number(tensor: tf.Tensor) -> tf.TensorSpec:
    """The kind of a tensor, but for its first dimension."""
    return tf.TensorSpec(tf.TensorShape([None]).concatenate(tensor.shape[1:]), tensor.dtype)


class _Result(NamedTuple):
    """An explanation, the contrast maps at both layers (none if the CAM is not linear), and who has both classes."""

    explanation: Explanation
    contrast: list[LayerMaps]
    valid: tf.Tensor
