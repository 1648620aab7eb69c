"""What a classifier looked at, and a model that tells it."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf.attention import Classes
from sfocus_tf.observer import Maps, Observer


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

    @tf.function(reduce_retracing=True, autograph=False)
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
        wanted = (class_ids, rival_ids)
        observed = self._observer.observe(images, training=False, wanted=wanted, inner=inner, relative=relative)
        return _as_explanation(*observed)

    @tf.function(reduce_retracing=True, autograph=False)
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
        observed = self._observer.observe(images, training=False, labels=labels, inner=inner, relative=relative)
        return _as_explanation(*observed) | {"valid": observed[2].valid}

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


def _as_explanation(scores: tf.Tensor, maps: Maps, classes: Classes) -> dict[str, tf.Tensor]:
    """The fields of `Explanation`."""
    scores = tf.cast(scores, maps.target_last.map.dtype)
    result = {"scores": scores, "target": classes.target, "rival": classes.rival}
    return result | {key: attended.map for key, attended in maps._asdict().items()}
