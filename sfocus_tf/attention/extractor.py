"""Computes a classifier's scores and the attention for two classes at two layers, in one forward pass."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sfocus_tf.attention import cam as cams
from sfocus_tf.attention import channel_gradients, derivatives, moments
from sfocus_tf.attention.cam import Attention
from sfocus_tf.attention.classes import Classes
from sfocus_tf.classifier import graph
from sfocus_tf.classifier.token_grids import Grid
from sfocus_tf.errors import unknown

# What a map explains; see `AttentionExtractor.extract`.
EXPLAINED = ("score", "relative", "contrast")


def explained_by_default(num_classes: int, multi_label: bool) -> str:
    """What maps explain in training and evaluation unless told otherwise: "score" or "relative".

    Relative maps ignore shifts of all scores, as softmax does; sigmoids do not. Of two classes each relative map is the
    negative of the other, so that they never overlap, whatever the network has learned.
    """
    return "score" if multi_label or num_classes == 2 else "relative"


class AttentionPair(NamedTuple):
    """The attention for target and rival at one layer; `[batch, 0, 0]` maps if the layer was left out."""

    target: Attention
    rival: Attention


class Extracted(NamedTuple):
    """The result of `AttentionExtractor.extract`.

    Attributes:
        scores: `[batch, classes]`, the classifier's output.
        classes: the classes that the attention is for.
        inner, last: the attention at each layer.
    """

    scores: tf.Tensor
    classes: Classes
    inner: AttentionPair
    last: AttentionPair


class _End(NamedTuple):
    """Where the backward pass to an attention layer ends: at a layer that reads it, or at itself."""

    layer: Any
    output: tf.Tensor


class _Forward(NamedTuple):
    """The results of a forward pass: scores, and features and ends by path of the attention layer."""

    scores: tf.Tensor
    features: dict[str, tf.Tensor]
    ends: dict[str, list[_End]]


@dataclasses.dataclass(frozen=True)
class AttentionExtractor:
    """Extracts the attention of a classifier.

    Attributes:
        classifier: `[batch, height, width, channels]` -> scores, `[batch, classes]`.
        inner_layer, last_layer: paths of the attention layers.
        multi_label: whether images may have several classes.
        readers: the layers that read each attention layer, if `sfocus_tf.attention.channel_gradients` supports them
            all.
        dtype: dtype of the differentiated scores and of the attention, float32 or float64.
        cam: the CAM method, one of `sfocus_tf.attention.CAMS`.
        second_order: differentiate the attention through its own channel weights.
        rival_features: differentiate the rival's attention through the features too, not its channel weights alone.
        grids: how the attention layers that output tokens lie in the image, by path.
    """

    classifier: keras.Model
    inner_layer: str
    last_layer: str
    multi_label: bool
    readers: dict[str, frozenset[str]]
    dtype: str
    cam: str = "grad_cam"
    second_order: bool = True
    rival_features: bool = True
    grids: Mapping[str, Grid] = dataclasses.field(default_factory=dict)

    def check(self, of: str) -> None:
        """Raises a `ValueError` if this classifier or this `cam` does not support `of`."""
        cams.check_cam(self.cam)
        if of not in EXPLAINED:
            raise unknown("of", of, EXPLAINED)
        if of == "relative" and self.multi_label:
            raise ValueError("of='relative': expected a classifier of one class an image, got a multi-label one.")
        if of == "contrast" and self.cam not in cams.LINEAR:
            raise ValueError(
                f"of='contrast': cam={self.cam!r} has no negative side; expected {' or '.join(cams.LINEAR)}."
            )

    def extract(
        self,
        images: Any,
        training: bool,
        choose: Callable[[tf.Tensor], Classes],
        of: str = "score",
        inner: bool = True,
    ) -> Extracted:
        """Computes the classifier's scores and the attention for two classes.

        Args:
            images: `[batch, height, width, channels]`.
            training: as in `classifier(images, training=...)`.
            choose: maps scores to target and rival, such as `sfocus_tf.attention.trained_classes` with labels.
            of: what the maps explain. "score": the score of each class. "relative": that score minus the mean over
                the classes, which ignores shifts of all scores, as softmax does. "contrast": the target's score minus
                the rival's, with the positive part as the target's map and the negative part as the rival's, in one
                backward pass.
            inner: compute attention at the inner layer too. Without it, if the network ends in pooling and a dense
                layer, only a row of the dense layer's kernel is left of the backward pass.

        Raises:
            ValueError: see `check`; or the scores do not depend on an attention layer, or only through an operation
                without a derivative.
        """
        self.check(of)
        paths = (self.inner_layer, self.last_layer) if inner else (self.last_layer,)
        readers = {path: self._readers_now(path) for path in paths}
        # Not eagerly, where each pass would be retraced, and not under a strategy: communication cannot be vectorized,
        # and a replica without images would get wrong shapes.
        in_one_pass = not (of == "contrast" or tf.executing_eagerly() or tf.distribute.has_strategy())
        # The tape watches only the ends of the backward pass: nothing before them is differentiated here.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            forward = self._forward(tape, _one_or_more(images) if in_one_pass else images, training, readers)
            scores = tf.cast(forward.scores, self.dtype)
        classes = choose(tf.stop_gradient(scores))
        sources = {path: [end.output for end in forward.ends[path]] for path in paths}
        try:
            slopes = _slopes(tape, scores, sources, _directions(classes, scores, of), in_one_pass)
        except derivatives.MISSING as error:
            raise derivatives.no_derivative(error, self.classifier, paths) from error
        no_map = tf.zeros([tf.shape(scores)[0], 0, 0], self.dtype)
        nothing = Attention(no_map, no_map, tf.zeros_like(scores[:, 0]))
        pairs = {
            path: self._pair(path, forward, readers[path], [by_path[path] for by_path in slopes]) for path in paths
        }
        return Extracted(
            forward.scores,
            classes,
            pairs.get(self.inner_layer, AttentionPair(nothing, nothing)),
            pairs[self.last_layer],
        )

    def _readers_now(self, path: str) -> frozenset[str]:
        """The layers at which the backward pass to an attention layer can end; empty if it must go all the way."""
        if self.cam != "grad_cam":  # other CAMs need the gradient at each position
            return frozenset()
        return channel_gradients.still_readers(self.classifier, self.readers[path])

    def _forward(
        self, tape: tf.GradientTape, images: Any, training: bool, readers: dict[str, frozenset[str]]
    ) -> _Forward:
        """Runs the classifier while the tape watches the ends of the backward pass."""
        features: dict[str, tf.Tensor] = {}
        ends: dict[str, list[_End]] = {path: [] for path in readers}
        exact = contextlib.ExitStack()

        def watch(path: str, layer: Any, arguments: Any, output: Any) -> None:
            if path in readers:
                # From the first attention layer on: what comes before is differentiated once.
                if self.second_order and not features:
                    exact.enter_context(moments.differentiable_twice())
                features[path] = output
            for watched, reading in readers.items():
                if path in (reading or (watched,)):
                    tape.watch(output)
                    ends[watched].append(_End(layer, output))

        with exact:
            scores = graph.run(self.classifier, images, watch, training, inside=tuple(readers))
        return _Forward(scores, features, ends)

    def _pair(
        self, path: str, forward: _Forward, readers: frozenset[str], slopes: list[list[tf.Tensor | None]]
    ) -> AttentionPair:
        """The attention at one layer, from the slopes of each class's score or of their difference."""
        features, ends = forward.features[path], forward.ends[path]
        target = self._attention(path, features, ends, readers, slopes[0])
        if len(slopes) == 1:
            return AttentionPair(target, cams.opposite(target))
        features = features if self.rival_features else tf.stop_gradient(features)
        return AttentionPair(target, self._attention(path, features, ends, readers, slopes[1]))

    def _attention(
        self,
        path: str,
        features: tf.Tensor,
        ends: list[_End],
        readers: frozenset[str],
        slopes: list[tf.Tensor | None],
    ) -> Attention:
        """The attention at one layer, from the gradients of a score at the ends of the backward pass."""
        # The scores may not depend on every end.
        at_ends = [(end.layer, slope) for end, slope in zip(ends, slopes, strict=True) if slope is not None]
        if not at_ends:
            raise ValueError(
                f"attention layer {path!r}: the scores do not depend on it, or a stop_gradient lies between."
            )
        if readers:
            total = tf.add_n([channel_gradients.summed(layer, features, slope) for layer, slope in at_ends])
            # Not by a constant, for which TensorFlow would multiply by its rounded reciprocal.
            alpha = total / tf.cast(tf.reduce_prod(tf.shape(features)[1:3]), total.dtype)
            attended = cams.weighted(features, alpha if self.second_order else tf.stop_gradient(alpha))
        else:
            ((_, slope),) = at_ends
            slope = slope if self.second_order else tf.stop_gradient(slope)
            if path in self.grids:
                features, slope = (self.grids[path].on_grid(tokens) for tokens in (features, slope))
            attended = cams.class_activation(features, slope, self.cam)
        # Features and scores may differ in precision: float64 before a float32 output.
        return Attention(*(tf.cast(tensor, self.dtype) for tensor in attended))


def _directions(classes: Classes, scores: tf.Tensor, of: str) -> list[tf.Tensor]:
    """What the maps explain, as a linear form of the scores; each `[batch, classes]`.

    Of target and rival, or of their difference.
    """
    count = scores.shape[-1]
    target, rival = (tf.one_hot(ids, count, dtype=scores.dtype) for ids in (classes.target, classes.rival))
    if of == "contrast":
        return [target - rival]
    return [target - 1 / count, rival - 1 / count] if of == "relative" else [target, rival]


def _one_or_more(images: Any) -> Any:
    """The images, after a check that there are any."""
    count = tf.shape(tf.nest.flatten(images)[0])[0]
    not_empty = tf.debugging.assert_positive(count, "images: expected one or more, got none.")
    with tf.control_dependencies([not_empty]):
        return tf.nest.map_structure(tf.identity, images)


def _slopes(
    tape: tf.GradientTape,
    scores: tf.Tensor,
    sources: dict[str, list[tf.Tensor]],
    directions: list[tf.Tensor],
    in_one_pass: bool,
) -> list[dict[str, list[tf.Tensor | None]]]:
    """The gradients of the scores at the sources, along each direction.

    One backward pass computes all, `[directions, batch, ...]`. That is faster than two passes, and takes less memory
    for the second derivatives of kernels.
    """

    def along(direction: tf.Tensor) -> dict[str, list[tf.Tensor | None]]:
        return tape.gradient(scores, sources, output_gradients=direction)

    if not in_one_pass:
        return [along(direction) for direction in directions]
    together = tf.vectorized_map(along, tf.stack(directions), warn=False)
    # Unstack, not index: the gradient is one stack, instead of adding to zeros for each index.
    unstacked = {
        path: [[None] * len(directions) if slope is None else tf.unstack(slope, len(directions)) for slope in slopes]
        for path, slopes in together.items()
    }
    return [
        {path: [slope[number] for slope in slopes] for path, slopes in unstacked.items()}
        for number in range(len(directions))
    ]
