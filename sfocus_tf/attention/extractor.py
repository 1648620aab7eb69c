"""One forward pass of a classifier that yields its scores and the attention of two classes at two layers."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sfocus_tf.attention import cam as cams
from sfocus_tf.attention import channel_gradients, derivatives
from sfocus_tf.attention.cam import Attention
from sfocus_tf.attention.classes import Classes
from sfocus_tf.classifier import graph
from sfocus_tf.errors import unknown

# What a map explains; see `AttentionExtractor.extract`.
EXPLAINED = ("score", "relative", "contrast")


class AttentionPair(NamedTuple):
    """The attention of target and rival at one layer; maps have no positions where the layer was left out."""

    target: Attention
    rival: Attention


class Extracted(NamedTuple):
    """What `AttentionExtractor.extract` yields.

    Attributes:
        scores: `[batch, classes]`, as the classifier gives them.
        classes: which the attention is of.
        inner, last: attention at each layer.
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
    """What a forward pass leaves for the attention: features and ends by the path of the attention layer."""

    scores: tf.Tensor
    features: dict[str, tf.Tensor]
    ends: dict[str, list[_End]]


@dataclasses.dataclass(frozen=True)
class AttentionExtractor:
    """How the attention of a classifier is taken.

    Attributes:
        classifier: `[batch, height, width, channels]` -> scores, `[batch, classes]`.
        inner_layer, last_layer: paths of the attention layers.
        multi_label: several classes an image.
        readers: of each attention layer, the layers that read it, where `sfocus_tf.attention.channel_gradients` knows
            them all.
        dtype: of the scores that attention is taken of, float32 or float64.
        cam: how maps are made, one of `sfocus_tf.attention.CAMS`.
        second_order: differentiate the attention through its own weights.
    """

    classifier: keras.Model
    inner_layer: str
    last_layer: str
    multi_label: bool
    readers: dict[str, frozenset[str]]
    dtype: str
    cam: str = "grad_cam"
    second_order: bool = True

    def check(self, of: str) -> None:
        """Raises a `ValueError` for what cannot be explained of this classifier, or not by this `cam`."""
        cams.check_cam(self.cam)
        if of not in EXPLAINED:
            raise unknown("of", of, EXPLAINED)
        if of == "relative" and self.multi_label:
            raise ValueError("of='relative': expected a classifier of one class an image, got one of several.")
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
        """Scores as the classifier gives them, and the attention of two classes.

        Args:
            images: `[batch, height, width, channels]`.
            training: as in `classifier(images, training=...)`.
            choose: scores -> target and rival, such as `sfocus_tf.attention.labelled_classes` of the labels.
            of: what the maps explain. "score": the score of each class. "relative": that less the mean over the
                classes; softmax takes no notice of what is added to all scores, which changes maps of the scores alone.
                "contrast": the target's score less the rival's, whose positive part is the target's map and whose
                negative part the rival's, in one backward pass.
            inner: take it at the inner layer too. Without it, where the network ends in pooling and a dense layer,
                nothing is left of the backward pass but a row of the dense layer's kernel.

        Raises:
            ValueError: see `check`; an attention layer that the scores do not depend on; or an operation without a
                derivative between one and the scores.
        """
        self.check(of)
        paths = (self.inner_layer, self.last_layer) if inner else (self.last_layer,)
        readers = {path: self._readers_now(path) for path in paths}
        # Outside of graphs a Jacobian would be traced anew each time. What replicas exchange has none, and of a replica
        # without images it gets the shapes wrong.
        in_one_pass = not (of == "contrast" or tf.executing_eagerly() or tf.distribute.has_strategy())
        # Recording begins at the first of the ends: nothing before it is differentiated here.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            forward = self._forward(tape, _one_or_more(images) if in_one_pass else images, training, readers)
            scores = tf.cast(forward.scores, self.dtype)
            classes = choose(tf.stop_gradient(scores))
            chosen = _explained(scores, classes, of)
            sums = tf.stack([tf.reduce_sum(score) for score in chosen]) if in_one_pass else None
        sources = {path: [end.output for end in forward.ends[path]] for path in paths}
        try:
            if in_one_pass:
                slopes = _slopes_in_one_pass(tape, sums, sources)
            else:
                slopes = [tape.gradient(score, sources) for score in chosen]
        except derivatives.MISSING as error:
            raise derivatives.no_derivative(error, self.classifier, paths) from error
        no_map = tf.zeros([tf.shape(scores)[0], 0, 0], self.dtype)
        nothing = Attention(no_map, no_map, tf.zeros_like(scores[:, 0]))
        pairs = {path: self._pair(path, forward, readers[path], [each[path] for each in slopes]) for path in paths}
        return Extracted(
            forward.scores,
            classes,
            pairs.get(self.inner_layer, AttentionPair(nothing, nothing)),
            pairs[self.last_layer],
        )

    def _readers_now(self, path: str) -> frozenset[str]:
        """The layers that the backward pass to an attention layer ends at; none where it has to go all the way."""
        if self.cam != "grad_cam":  # others want the gradient at each position
            return frozenset()
        return channel_gradients.still_readers(self.classifier, self.readers[path])

    def _forward(
        self, tape: tf.GradientTape, images: Any, training: bool, readers: dict[str, frozenset[str]]
    ) -> _Forward:
        """Runs the classifier, and has the tape watch what attention is taken of."""
        features: dict[str, tf.Tensor] = {}
        ends: dict[str, list[_End]] = {path: [] for path in readers}

        def watch(path: str, layer: Any, arguments: Any, output: Any) -> None:
            if path in readers:
                features[path] = output
            for watched, reading in readers.items():
                if path in (reading or (watched,)):
                    tape.watch(output)
                    ends[watched].append(_End(layer, output))

        scores = graph.run(self.classifier, images, watch, training)
        return _Forward(scores, features, ends)

    def _pair(
        self, path: str, forward: _Forward, readers: frozenset[str], slopes: list[list[tf.Tensor | None]]
    ) -> AttentionPair:
        """At one layer, from the slopes of each class's score, or those of their difference."""
        found = [self._attention(path, forward, readers, each) for each in slopes]
        return AttentionPair(found[0], found[1] if len(found) > 1 else cams.opposite(found[0]))

    def _attention(
        self, path: str, forward: _Forward, readers: frozenset[str], slopes: list[tf.Tensor | None]
    ) -> Attention:
        """At one layer, from the gradients of a class's score at the ends of the backward pass."""
        features = forward.features[path]
        # The scores may not depend on each of the ends.
        at_ends = [
            (end.layer, slope) for end, slope in zip(forward.ends[path], slopes, strict=True) if slope is not None
        ]
        if not at_ends:
            raise ValueError(
                f"attention layer {path!r}: the scores do not depend on it, or a stop_gradient lies between."
            )
        if readers:
            total = tf.add_n([channel_gradients.summed(layer, features, slope) for layer, slope in at_ends])
            alpha = total / tf.cast(tf.reduce_prod(tf.shape(features)[1:3]), total.dtype)
            found = cams.weighted(features, alpha if self.second_order else tf.stop_gradient(alpha))
        else:
            ((_, slope),) = at_ends
            slope = slope if self.second_order else tf.stop_gradient(slope)
            found = cams.class_activation(features, slope, self.cam)
        # Features may be of another precision than scores: float64 before a float32 output.
        return Attention(*(tf.cast(each, self.dtype) for each in found))


def _explained(scores: tf.Tensor, classes: Classes, of: str) -> list[tf.Tensor]:
    """What is differentiated, `[batch]` each: for target and rival, or for both at once."""
    if of == "relative":
        scores -= tf.reduce_mean(scores, axis=-1, keepdims=True)
    target, rival = (tf.gather(scores, ids, batch_dims=1) for ids in (classes.target, classes.rival))
    return [target - rival] if of == "contrast" else [target, rival]


def _one_or_more(images: Any) -> Any:
    """The images, with a check that there are any."""
    count = tf.shape(tf.nest.flatten(images)[0])[0]
    refused = tf.debugging.assert_positive(count, "images: expected one or more, got none.")
    with tf.control_dependencies([refused]):
        return tf.nest.map_structure(tf.identity, images)


def _slopes_in_one_pass(
    tape: tf.GradientTape, scores: tf.Tensor, sources: dict[str, list[tf.Tensor]]
) -> list[dict[str, list[tf.Tensor | None]]]:
    """For each of the two scores, its gradients at the sources.

    One backward pass has both in each operation, `[2, batch, ...]`, instead of two passes: less memory for the kernels'
    second derivatives, and faster.
    """
    of_each: list[dict[str, list[tf.Tensor | None]]] = [{}, {}]
    for path, slopes in tape.jacobian(scores, sources).items():
        # Not by indices: the gradient of unstacking is one stack, that of each index a tensor of zeros to add to.
        unstacked = [(None, None) if slope is None else tf.unstack(slope, 2) for slope in slopes]
        for number, by_path in enumerate(of_each):
            by_path[path] = [each[number] for each in unstacked]
    return of_each
