"""One forward pass of a classifier, and from it the attention of two classes at two layers."""

import dataclasses
import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf import attention, channel_gradients, layers
from sfocus_tf.attention import Attention, Classes


class Explanation(NamedTuple):
    """What a classifier looked at, picture by picture; arrays of NumPy.

    Attributes:
        scores: `[pictures, classes]` float32, before softmax or sigmoid.
        target, rival: `[pictures]` int32, the two classes that are explained.
        target_inner, rival_inner: `[pictures, h, w]` float32, their raw attention at the inner layer, not negative.
        target_last, rival_last: `[pictures, h', w']` float32, at the last layer.
    """

    scores: np.ndarray
    target: np.ndarray
    rival: np.ndarray
    target_inner: np.ndarray
    rival_inner: np.ndarray
    target_last: np.ndarray
    rival_last: np.ndarray


class Maps(NamedTuple):
    """Attention of target and rival at both layers."""

    target_inner: Attention
    rival_inner: Attention
    target_last: Attention
    rival_last: Attention


@dataclasses.dataclass(frozen=True)
class Observer:
    """How the attention of a classifier is taken.

    Attributes:
        classifier: `[batch, height, width, channels]` -> scores, `[batch, classes]`.
        inner_layer, last_layer: paths of the attention layers.
        mechanism: one of `sfocus_tf.attention.MECHANISMS`.
        second_order: differentiate the attention through its own weights.
        multi_label: several classes a picture.
        dtype: of the scores that attention is taken of, float32 or float64.
    """

    classifier: keras.Model
    inner_layer: str
    last_layer: str
    mechanism: str
    second_order: bool
    multi_label: bool
    dtype: str

    def observe(
        self, x: Any, training: bool, labels: Any = None, wanted: tuple[tf.Tensor, tf.Tensor] | None = None
    ) -> tuple[tf.Tensor, Maps, Classes]:
        """Scores as the classifier gives them, and the attention of two classes at both layers.

        Args:
            x: pictures.
            training: as in `classifier(x, training=...)`.
            labels: their labels, to take the labelled class and its most confusing rival.
            wanted: numbers of target and rival instead, each `[batch]`; below 0 they are chosen by the scores.
        """
        features: dict[str, tf.Tensor] = {}
        sources: dict[str, tf.Tensor] = {}
        # Recording begins where the inner layer is watched: nothing before it is differentiated here.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:

            def watch(path: str, layer: Any, arguments: Any, output: Any) -> Any:
                for watched, readers in self._readers.items():
                    if path in readers:
                        output = channel_gradients.tapped(layer, features[watched], output, sources[watched])
                if path in (self.inner_layer, self.last_layer):
                    features[path] = output
                    sources[path] = self._source(path, output)
                    tape.watch(sources[path])
                return output

            raw_scores = layers.run(self.classifier, x, watch, training)
            scores = tf.cast(raw_scores, self.dtype)
            classes = self._classes(tf.stop_gradient(scores), labels, wanted)
            chosen = [tf.gather(scores, ids, batch_dims=1) for ids in (classes.target, classes.rival)]
        maps = []
        for score in chosen:
            gradients = tape.gradient(score, sources)
            for path in (self.inner_layer, self.last_layer):
                gradient = gradients[path] if self.second_order else tf.stop_gradient(gradients[path])
                maps.append(self._attention(path, features[path], gradient))
        target_inner, target_last, rival_inner, rival_last = maps
        return raw_scores, Maps(target_inner, rival_inner, target_last, rival_last), classes

    @functools.cached_property
    def _readers(self) -> dict[str, frozenset[str]]:
        """Of each attention layer, the layers that read it, where all are known; see `channel_gradients`."""
        if self.mechanism != "grad_cam":
            return {}
        found = {path: channel_gradients.readers(self.classifier, path) for path in (self.inner_layer, self.last_layer)}
        return {path: readers for path, readers in found.items() if readers}

    def _source(self, path: str, features: tf.Tensor) -> tf.Tensor:
        """What the score is differentiated by: the features, or one number for each channel where that does."""
        if path not in self._readers:
            return features
        dtype = tf.float64 if features.dtype == tf.float64 else tf.float32  # that of sums over positions
        return tf.zeros([tf.shape(features)[0], features.shape[-1]], dtype)

    def _attention(self, path: str, features: tf.Tensor, gradient: tf.Tensor) -> Attention:
        if path not in self._readers:
            return attention.attention(features, gradient, self.mechanism)
        positions = tf.reduce_prod(tf.shape(features)[1:3])
        return attention.weighted(features, gradient / tf.cast(positions, gradient.dtype))

    def _classes(self, scores: tf.Tensor, labels: Any, wanted: tuple[tf.Tensor, tf.Tensor] | None) -> Classes:
        if wanted is None and not self.multi_label:
            return attention.labelled_classes(scores, labels)
        chosen = attention.predicted_classes(scores, self.multi_label)
        if wanted is None:
            labelled = attention.labelled_classes(scores, labels, multi_label=True)
            target = tf.where(labelled.valid, labelled.target, chosen.target)
            return Classes(target, tf.where(labelled.valid, labelled.rival, chosen.rival), labelled.valid)
        target = tf.where(wanted[0] < 0, chosen.target, wanted[0])
        rival = tf.where(tf.equal(target, chosen.target), chosen.rival, attention.rival_of(scores, target))
        chosen_here = (wanted[1] < 0) | tf.equal(wanted[1], target)
        return Classes(target, tf.where(chosen_here, rival, wanted[1]), chosen.valid)
