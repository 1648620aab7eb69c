"""One forward pass of a classifier, and from it the attention of two classes at two layers."""

import dataclasses
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sfocus_tf.attention import cam, channel_gradients, derivatives
from sfocus_tf.attention import classes as classes_lib
from sfocus_tf.attention.cam import Attention
from sfocus_tf.attention.classes import Classes
from sfocus_tf.classifier import graph


class Maps(NamedTuple):
    """Attention of target and rival at both layers; maps have no positions where a layer was left out."""

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
        readers: of each attention layer, the layers that read it, where `sfocus_tf.channel_gradients` knows them all.
    """

    classifier: keras.Model
    inner_layer: str
    last_layer: str
    mechanism: str
    second_order: bool
    multi_label: bool
    dtype: str
    readers: dict[str, frozenset[str]]

    def observe(
        self,
        x: Any,
        training: bool,
        labels: Any = None,
        wanted: tuple[tf.Tensor, tf.Tensor] | None = None,
        inner: bool = True,
        relative: bool = False,
        contrast: bool = False,
        ignore_class: int | None = None,
    ) -> tuple[tf.Tensor, Maps, Classes]:
        """Scores as the classifier gives them, and the attention of two classes at both layers.

        Args:
            x: pictures.
            training: as in `classifier(x, training=...)`.
            labels: their labels, to take the labelled class and its most confusing rival.
            wanted: numbers of target and rival instead, each `[batch]`; below 0 they are chosen by the scores.
            inner: take it at the inner layer too. Without, where the network ends in pooling and a dense layer, nothing
                is left of the backward pass but a row of the dense layer's kernel (or that less their mean).
            relative: take it of the scores less their mean over the classes. Softmax gives the same probabilities when
                the same is added to all scores, so that maps of the scores themselves can be changed by what changes
                no answer.
            contrast: take the target's of its score less the rival's, and the rival's of the opposite, for which one
                backward pass is enough; for a mechanism of `sfocus_tf.attention.LINEAR`.
            ignore_class: the label that says "no label"; see `sfocus_tf.attention.labelled_classes`.

        Raises:
            ValueError: `relative` with several labels, whose sigmoids do take notice of what is added; or an operation
                without a derivative between an attention layer and the scores.
        """
        if relative and self.multi_label:
            raise ValueError("relative=True: expected a classifier of one class a picture, got one of several.")
        paths = (self.inner_layer, self.last_layer) if inner else (self.last_layer,)
        # Outside of graphs a Jacobian would be traced anew each time. What replicas exchange has none, and of a replica
        # without pictures it gets the shapes wrong.
        in_one_pass = not (contrast or tf.executing_eagerly() or tf.distribute.has_strategy())
        x = _one_or_more(x) if in_one_pass else x
        readers = {path: channel_gradients.still_readers(self.classifier, self.readers[path]) for path in paths}
        features: dict[str, tf.Tensor] = {}
        # By attention layer: where the backward pass ends, at its readers or, where they are not known, at itself.
        ends: dict[str, list[tuple[Any, tf.Tensor]]] = {path: [] for path in paths}
        # Recording begins at the first of these: nothing before it is differentiated here.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:

            def watch(path: str, layer: Any, arguments: Any, output: Any) -> None:
                """Keeps what `paths` need of a layer that has just been run."""
                if path in paths:
                    features[path] = output
                for watched in paths:
                    if path in (readers[watched] or (watched,)):
                        tape.watch(output)
                        ends[watched].append((layer, output))

            raw_scores = graph.run(self.classifier, x, watch, training)
            scores = tf.cast(raw_scores, self.dtype)
            classes = self._classes(tf.stop_gradient(scores), labels, wanted, ignore_class)
            explained = scores - tf.reduce_mean(scores, axis=-1, keepdims=True) if relative else scores
            chosen = [tf.gather(explained, ids, batch_dims=1) for ids in (classes.target, classes.rival)]
            chosen = [chosen[0] - chosen[1]] if contrast else chosen
            sums = tf.stack([tf.reduce_sum(score) for score in chosen]) if in_one_pass else None
        sources = {path: [output for _, output in ends[path]] for path in paths}
        try:
            if in_one_pass:
                slopes = _slopes_in_one_pass(tape, sums, sources)
            else:
                slopes = [tape.gradient(score, sources) for score in chosen]
        except derivatives.MISSING as error:
            raise derivatives.no_derivative(error, self.classifier, paths) from error
        no_map = tf.zeros([tf.shape(scores)[0], 0, 0], self.dtype)
        nothing = Attention(no_map, no_map, tf.zeros_like(scores[:, 0]))
        maps = dict.fromkeys(Maps._fields, nothing)
        for path in paths:
            layer = "inner" if path == self.inner_layer else "last"
            found = [
                self._attention(path, features[path], ends[path], of_role[path], bool(readers[path]))
                for of_role in slopes
            ]
            maps[f"target_{layer}"] = found[0]
            maps[f"rival_{layer}"] = cam.opposite(found[0]) if contrast else found[1]
        return raw_scores, Maps(**maps), classes

    def _attention(
        self,
        path: str,
        features: tf.Tensor,
        ends: list[tuple[Any, tf.Tensor]],
        slopes: list[tf.Tensor | None],
        at_readers: bool,
    ) -> Attention:
        """At one layer, from the gradients of a class's score at the ends of the backward pass."""
        # The scores may not depend on each of the ends.
        at_ends = [(layer, slope) for (layer, _), slope in zip(ends, slopes, strict=True) if slope is not None]
        if not at_ends:
            raise ValueError(
                f"attention layer {path!r}: the scores do not depend on it, or a stop_gradient lies between."
            )
        if at_readers:
            total = tf.add_n([channel_gradients.summed(layer, features, slope) for layer, slope in at_ends])
            alpha = total / tf.cast(tf.reduce_prod(tf.shape(features)[1:3]), total.dtype)
            found = cam.weighted(features, alpha if self.second_order else tf.stop_gradient(alpha))
        else:
            ((_, slope),) = at_ends
            slope = slope if self.second_order else tf.stop_gradient(slope)
            found = cam.attention(features, slope, self.mechanism)
        # Features may be of another precision than scores: float64 before a float32 output.
        return Attention(*(tf.cast(each, self.dtype) for each in found))

    def _classes(
        self, scores: tf.Tensor, labels: Any, wanted: tuple[tf.Tensor, tf.Tensor] | None, ignore_class: int | None
    ) -> Classes:
        if wanted is None and not self.multi_label:
            return classes_lib.labelled_classes(scores, labels, ignore_class=ignore_class)
        chosen = classes_lib.predicted_classes(scores, self.multi_label)
        if wanted is None:
            labelled = classes_lib.labelled_classes(scores, labels, multi_label=True)
            target = tf.where(labelled.valid, labelled.target, chosen.target)
            return Classes(target, tf.where(labelled.valid, labelled.rival, chosen.rival), labelled.valid)
        target = tf.where(wanted[0] < 0, chosen.target, wanted[0])
        rival = tf.where(wanted[0] < 0, chosen.rival, classes_lib.rival_of(scores, target))
        chosen_here = (wanted[1] < 0) | tf.equal(wanted[1], target)
        return Classes(target, tf.where(chosen_here, rival, wanted[1]), chosen.valid)


def _one_or_more(x: Any) -> Any:
    """The pictures, with a check that there are any."""
    pictures = tf.shape(tf.nest.flatten(x)[0])[0]
    refused = tf.debugging.assert_positive(pictures, "images: expected one or more, got none.")
    with tf.control_dependencies([refused]):
        return tf.nest.map_structure(tf.identity, x)


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
