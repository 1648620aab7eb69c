"""What a classifier looked at, and a model that tells it."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.attention.classes import Classes, named_classes, trained_classes
from sfocus_tf.attention.extractor import AttentionExtractor


class LayerMaps(NamedTuple):
    """Raw attention at one layer, `[images, h, w]` float32 each, not negative; `[images, 0, 0]` where it was left out.

    Attributes:
        target, rival: of the two classes that are explained.
    """

    target: Any
    rival: Any


class Explanation(NamedTuple):
    """What a classifier looked at, image by image; arrays of NumPy, or of one batch tensors.

    Attributes:
        scores: `[images, classes]` float32, before softmax or sigmoid.
        target, rival: `[images]` int32, the two classes that are explained.
        inner, last: their maps at each layer.
    """

    scores: Any
    target: Any
    rival: Any
    inner: LayerMaps
    last: LayerMaps

    def rows(self, rows: Any) -> "Explanation":
        """The explanation of some of the images: an index array or a slice."""
        return keras.tree.map_structure(lambda values: values[rows], self)


class ExplainingModel(keras.Model):
    """A model that explains its classifier's answers.

    Attributes:
        num_classes: length of the score vector.
    """

    num_classes: int
    multi_label: bool
    _traced: "Traced"
    _cam = "grad_cam"

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
        """What the classifier looks at for a class and for its rival, at both layers.

        Args:
            images: `[images, height, width, channels]`, or one image without the first axis; for a classifier of
                one channel also `[images, height, width]`.
            class_ids: the class to explain, one for all or `[images]`; `None` or -1 for the predicted one.
            rival_ids: the class to compare it with, in the same form; `None`, -1 or the explained class itself for the
                best of the others.
            batch_size: images at a time.
            labels: instead of class numbers, the images' labels as in training, or one number for all: explains the
                labelled class and the most confusing other one (of several labels, the present class and the absent
                class with the highest scores). Images without both classes are explained by their prediction.
            of: what the maps explain. "score": the score of each class. "relative": that less the mean over the
                classes, which what is added to all scores, and changes no probability of softmax, cannot change.
                "contrast": the target's score less the rival's; the target's map is what speaks for the target, the
                rival's what speaks for the rival, on one scale, and the two cannot overlap.
            cam: how maps are made, one of `sfocus_tf.attention.CAMS`; Grad-CAM by default.
            inner: take the maps at the inner layer too. Those at the last layer alone cost next to nothing where the
                network ends in pooling and a dense layer.

        Returns:
            Scores, class numbers and raw maps.

        Raises:
            ValueError: no images, a class number outside [-1, classes), not one for each image, labels and class
                numbers together, a batch size below 1, an unknown `of` or `cam`, "relative" for several labels,
                "contrast" by a `cam` that is not linear in the score, or an attention layer that the scores do not
                depend on.
        """
        self._traced.check(of, cam or self._cam)
        images = self._images(images)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a positive number.")
        chosen: list[np.ndarray]
        if labels is None:
            on_batch: Callable[..., Any] = self.explain_on_batch
            chosen = [self._ids("class_ids", class_ids, len(images)), self._ids("rival_ids", rival_ids, len(images))]
        else:
            labels = np.asarray(labels)
            chosen = [np.broadcast_to(labels, (len(images),)) if labels.ndim == 0 else labels]
            on_batch = self._explain_labelled
            if class_ids is not None or rival_ids is not None or len(chosen[0]) != len(images):
                given = "class numbers too" if len(chosen[0]) == len(images) else f"{len(chosen[0])}"
                raise ValueError(f"labels: expected {len(images)} of them and no class_ids or rival_ids, got {given}.")
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            arguments = [tf.convert_to_tensor(values[rows]) for values in (images, *chosen)]
            parts.append(on_batch(*arguments, of=of, cam=cam, inner=inner))
        return keras.tree.map_structure(lambda *values: np.concatenate([np.asarray(each) for each in values]), *parts)

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
        """`explain` for one batch of tensors, for use in graphs.

        Args:
            images: `[batch, height, width, channels]`.
            class_ids: `[batch]` int32; below 0 chosen by the scores.
            rival_ids: the same of the rival.
            of: as in `explain`.
            cam: as in `explain`.
            inner: as in `explain`.

        Returns:
            The explanation, of tensors.
        """
        return self._traced(images, (class_ids, rival_ids), "ids", of, cam or self._cam, inner)[0]

    def explain_labelled_on_batch(
        self, images: tf.Tensor, labels: tf.Tensor, *, of: str = "score", cam: str | None = None, inner: bool = True
    ) -> tuple[Explanation, tf.Tensor]:
        """`explain(images, labels=labels)` for one batch of tensors.

        Args:
            images: `[batch, height, width, channels]`.
            labels: in any form that training takes.
            of: as in `explain`.
            cam: as in `explain`.
            inner: as in `explain`.

        Returns:
            The explanation, of tensors, and `[batch]` bool: whether an image has a target and a rival.
        """
        return self._traced(images, (labels,), "labels", of, cam or self._cam, inner)

    def _explain_labelled(self, *arguments: tf.Tensor, **options: Any) -> Explanation:
        return self.explain_labelled_on_batch(*arguments, **options)[0]

    def _images(self, images: Any) -> np.ndarray:
        """Images with all four axes."""
        images = np.asarray(images)
        if images.ndim == 3:
            grey = self._traced.channels == 1 != images.shape[-1]
            images = images[..., np.newaxis] if grey else images[np.newaxis]
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images: expected [images, height, width, channels], got shape {images.shape}.")
        return images

    def _ids(self, argument: str, ids: Any, images: int) -> np.ndarray:
        """Class numbers, one for each image."""
        ids = np.asarray(-1 if ids is None else ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{argument}: expected whole numbers, got {ids.dtype}.")
        ids = ids.astype(np.int32)
        if ids.ndim > 1 or (ids.ndim == 1 and len(ids) != images):
            raise ValueError(f"{argument}: expected one class number or {images} of them, got shape {ids.shape}.")
        if ids.size and (ids.min() < -1 or ids.max() >= self.num_classes):
            raise ValueError(f"{argument}: expected class numbers from -1 to {self.num_classes - 1}, got {ids}.")
        return np.broadcast_to(ids, (images,))


class Traced:
    """`AttentionExtractor.extract` as a TensorFlow function, traced anew once the network has changed.

    Keras forgets its own functions when a model is compiled or quantized; adapters (LoRA), new activations and other
    precisions come with such a change.
    """

    def __init__(self, extractor: AttentionExtractor):
        self._extractor = extractor
        self._state: list[Any] = []
        self._function: Any = None

    @property
    def channels(self) -> int:
        """Of the images that the network takes."""
        return self._extractor.classifier.input_shape[-1]

    def check(self, of: str, cam: str) -> None:
        """As `AttentionExtractor.check`."""
        dataclasses.replace(self._extractor, cam=cam).check(of)

    def __call__(
        self, images: tf.Tensor, chosen: tuple[tf.Tensor, ...], by: str, of: str, cam: str, inner: bool
    ) -> tuple[Explanation, tf.Tensor]:
        """The explanation, and which images have both classes; `chosen` are labels or ids, as `by` says."""
        now = self._network()
        if len(now) == len(self._state) and all(map(operator.is_, now, self._state)):
            return self._function(images, chosen, by, of, cam, inner)
        self._function = tf.function(self._explanation, reduce_retracing=True, autograph=False)
        found = self._function(images, chosen, by, of, cam, inner)
        self._state = self._network()  # only now, as layers may take notes while they are traced
        return found

    def _network(self) -> list[Any]:
        """All that decides what the network computes, values of variables apart: its variables and layers, and what
        the layers were set to.
        """
        state = list(self._extractor.classifier.variables)
        for layer in self._extractor.classifier._flatten_layers():
            state += [layer, layer.dtype_policy]
            if not isinstance(layer, keras.Model):  # a model also has its state of training
                state += [value for name, value in vars(layer).items() if name[0] != "_"]
        return state

    def _explanation(
        self, images: tf.Tensor, chosen: tuple[tf.Tensor, ...], by: str, of: str, cam: str, inner: bool
    ) -> tuple[Explanation, tf.Tensor]:
        extractor = dataclasses.replace(self._extractor, cam=cam)

        def choose(scores: tf.Tensor) -> Classes:
            if by == "ids":
                return named_classes(scores, chosen[0], chosen[1], extractor.multi_label)
            return trained_classes(scores, chosen[0], extractor.multi_label)

        extracted = extractor.extract(images, training=False, choose=choose, of=of, inner=inner)
        pairs = [LayerMaps(pair.target.map, pair.rival.map) for pair in (extracted.inner, extracted.last)]
        scores = tf.cast(extracted.scores, extractor.dtype)
        classes = extracted.classes
        return Explanation(scores, classes.target, classes.rival, *pairs), classes.valid
