"""What a classifier looked at, and a model that tells it."""

import operator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.attention.classes import Classes
from sfocus_tf.attention.extractor import Maps, Observer


class Explanation(NamedTuple):
    """What a classifier looked at, picture by picture; arrays of NumPy.

    Attributes:
        scores: `[pictures, classes]` float32, before softmax or sigmoid.
        target, rival: `[pictures]` int32, the two classes that are explained.
        target_inner, rival_inner: `[pictures, h, w]` float32, their raw attention at the inner layer, not negative;
            `[pictures, 0, 0]` where it was left out.
        target_last, rival_last: `[pictures, h', w']` float32, at the last layer.
    """

    scores: np.ndarray
    target: np.ndarray
    rival: np.ndarray
    target_inner: np.ndarray
    rival_inner: np.ndarray
    target_last: np.ndarray
    rival_last: np.ndarray


class ExplainingModel(keras.Model):
    """A model that explains its classifier's answers.

    Attributes:
        num_classes: length of the score vector.
    """

    num_classes: int
    _observer: Observer
    _traced: "Traced"

    def explain(
        self,
        images: Any,
        class_ids: Any = None,
        rival_ids: Any = None,
        batch_size: int = 32,
        labels: Any = None,
        *,
        inner: bool = True,
        relative: bool = False,
    ) -> Explanation:
        """What the classifier looks at for a class and for its rival, at both layers.

        Args:
            images: `[pictures, height, width, channels]`, or one picture without the first axis; for a classifier of
                one channel also `[pictures, height, width]`.
            class_ids: the class to explain, one for all or `[pictures]`; `None` or -1 for the predicted one.
            rival_ids: the class to compare it with, in the same form; `None`, -1 or the explained class itself for the
                best of the others.
            batch_size: pictures at a time.
            labels: instead of class numbers, the pictures' labels as in training, or one number for all: explains the
                labelled class and the most confusing other one (of several labels, the present class and the absent
                class with the highest scores). A picture that has not both is explained as if it had no label.
            inner: take the maps at the inner layer too. Those at the last layer alone cost next to nothing where the
                network ends in pooling and a dense layer.
            relative: take the maps of the scores less their mean over the classes: of what tells a class from the
                others. What is added to all scores of a picture changes no probability of softmax, but the maps of the
                scores themselves; it does not change these.

        Returns:
            Scores, class numbers and raw maps.

        Raises:
            ValueError: no pictures, a class number outside [-1, classes), not one for each picture, labels and class
                numbers together, a batch size below 1, `relative` with several labels, or an attention layer that the
                scores do not depend on.
        """
        images = np.asarray(images)
        if images.ndim == 3:
            grey = self._observer.classifier.input_shape[-1] == 1 != images.shape[-1]
            images = images[..., np.newaxis] if grey else images[np.newaxis]
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images: expected [pictures, height, width, channels], got shape {images.shape}.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a positive number.")
        if labels is not None:
            labels = np.asarray(labels)
            labels = np.broadcast_to(labels, (len(images),)) if labels.ndim == 0 else labels
        if labels is None:
            wanted = [
                self._wanted("class_ids", class_ids, len(images)),
                self._wanted("rival_ids", rival_ids, len(images)),
            ]
        elif class_ids is not None or rival_ids is not None or len(labels) != len(images):
            given = "class numbers too" if len(labels) == len(images) else f"{len(labels)}"
            raise ValueError(f"labels: expected {len(images)} of them and no class_ids or rival_ids, got {given}.")
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            batch = tf.convert_to_tensor(images[rows])
            if labels is None:
                parts.append(self.explain_on_batch(batch, wanted[0][rows], wanted[1][rows], inner, relative))
            else:
                parts.append(self.explain_labelled_on_batch(batch, tf.convert_to_tensor(labels[rows]), inner, relative))
        return Explanation(*(np.concatenate([np.asarray(part[key]) for part in parts]) for key in Explanation._fields))

    def explain_on_batch(
        self,
        images: tf.Tensor,
        class_ids: tf.Tensor,
        rival_ids: tf.Tensor,
        inner: bool = True,
        relative: bool = False,
    ) -> dict[str, tf.Tensor]:
        """`explain` for one batch of tensors, for use in graphs.

        Args:
            images: `[batch, height, width, channels]`.
            class_ids: `[batch]` int32; below 0 chosen by the scores.
            rival_ids: the same of the rival.
            inner: take the maps at the inner layer too; a Python bool.
            relative: as in `explain`; a Python bool.

        Returns:
            The fields of `Explanation`.
        """
        return self._traced(images, wanted=(class_ids, rival_ids), inner=inner, relative=relative)

    def explain_labelled_on_batch(
        self, images: tf.Tensor, labels: tf.Tensor, inner: bool = True, relative: bool = False
    ) -> dict[str, tf.Tensor]:
        """`explain(images, labels=labels)` for one batch of tensors.

        Args:
            images: `[batch, height, width, channels]`.
            labels: in any form that training takes.
            inner: take the maps at the inner layer too; a Python bool.
            relative: as in `explain`; a Python bool.

        Returns:
            The fields of `Explanation`, and `valid`, `[batch]` bool: whether a picture has a target and a rival.
        """
        return self._traced(images, labels=labels, inner=inner, relative=relative)

    def _wanted(self, argument: str, ids: Any, pictures: int) -> np.ndarray:
        ids = np.asarray(-1 if ids is None else ids)
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{argument}: expected whole numbers, got {ids.dtype}.")
        ids = ids.astype(np.int32)
        if ids.ndim > 1 or (ids.ndim == 1 and len(ids) != pictures):
            raise ValueError(f"{argument}: expected one class number or {pictures} of them, got shape {ids.shape}.")
        if ids.size and (ids.min() < -1 or ids.max() >= self.num_classes):
            raise ValueError(f"{argument}: expected class numbers from -1 to {self.num_classes - 1}, got {ids}.")
        return np.broadcast_to(ids, (pictures,))


class Traced:
    """`observe` as a TensorFlow function, which is traced anew once the network is another than it was.

    Keras forgets its own functions when a model is compiled or quantized; adapters (LoRA), new activations and other
    precisions come with such a change.
    """

    def __init__(self, observer: Observer):
        self._observer = observer
        self._state: list[Any] = []
        self._function: Any = None

    def __call__(self, images: tf.Tensor, **options: Any) -> dict[str, tf.Tensor]:
        """The fields of `Explanation`; of labelled images also `valid`."""
        now = self._network()
        if len(now) == len(self._state) and all(map(operator.is_, now, self._state)):
            return self._function(images, **options)
        self._function = tf.function(self._explanation, reduce_retracing=True, autograph=False)
        found = self._function(images, **options)
        self._state = self._network()  # only now, as layers may take notes while they are traced
        return found

    def _network(self) -> list[Any]:
        """All that decides what the network computes, values of variables apart: its variables and layers, and what
        the layers were set to.
        """
        state = list(self._observer.classifier.variables)
        for layer in self._observer.classifier._flatten_layers():
            state += [layer, layer.dtype_policy]
            if not isinstance(layer, keras.Model):  # a model also has its state of training
                state += [value for name, value in vars(layer).items() if name[0] != "_"]
        return state

    def _explanation(self, images: tf.Tensor, **options: Any) -> dict[str, tf.Tensor]:
        scores, maps, classes = self._observer.observe(images, training=False, **options)
        found = _as_explanation(scores, maps, classes)
        return found | {"valid": classes.valid} if "labels" in options else found


def _as_explanation(scores: tf.Tensor, maps: Maps, classes: Classes) -> dict[str, tf.Tensor]:
    """The fields of `Explanation`."""
    scores = tf.cast(scores, maps.target_last.map.dtype)
    result = {"scores": scores, "target": classes.target, "rival": classes.rival}
    return result | {key: attended.map for key, attended in maps._asdict().items()}
