"""The steps of training and evaluation: one forward pass, the attention terms, one backward pass."""

import functools
import warnings
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sfocus_tf import attention, distribution
from sfocus_tf.attention import derivatives
from sfocus_tf.classifier import checks
from sfocus_tf.keras_workarounds import MeansOfLosses
from sfocus_tf.losses import SHARES, TERMS, BatchTerms, Objective, batch_terms, no_terms
from sfocus_tf.losses.term_weights import StepKind, TermWeights

# Logged in addition to the loss and the user's metrics.
LOGGED = ("classification_loss", *TERMS, *SHARES)


class _Step(NamedTuple):
    """The results of a training step.

    Attributes:
        scores: `[batch, classes]`.
        loss: the classification loss as Keras computes it on a replica.
        terms: the attention terms.
        gradients: gradients of the trainable variables that the loss depends on, by index.
    """

    scores: tf.Tensor
    loss: tf.Tensor
    terms: BatchTerms
    gradients: dict[str, tf.Tensor]


class SupervisedModel(keras.Model):
    """A model whose steps add the attention terms to the classification loss; `SharpenFocus` sets it up."""

    objective: Objective
    classifier: keras.Model
    multi_label: bool
    _extractor: attention.AttentionExtractor
    _term_weights: TermWeights
    _step_kind: StepKind
    _means: MeansOfLosses
    _former: dict[str, Any] | None
    _float: str
    _of: str

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One training step; computes the attention terms only if one is due."""
        x, y, sample_weight = self._unpacked(data)
        weights = tf.cast(
            self._term_weights.at(tf.cast(self.optimizer.iterations, tf.int64), training=True), self._float
        )
        share = distribution.replica_share(tf.shape(tf.nest.flatten(x)[0])[0], self._float)
        plain = functools.partial(self._step, x, y, sample_weight, None, share)
        attentive = functools.partial(self._step, x, y, sample_weight, weights, share)
        attend = tf.reduce_any(weights > 0)
        if not self._step_kind.supervised:
            step = plain()
        elif self._step_kind.always or distribution.has_collectives(self.classifier):
            # Replicas cannot communicate inside a tf.cond, so compute the terms in every step, at times with weights 0.
            step = attentive()
        else:
            step = tf.cond(attend, attentive, plain)
        self._apply(step.gradients)
        taken = tf.cast(attend, self._float)
        taken_at = {"last": taken, "inner": taken if self._step_kind.inner else tf.zeros_like(taken)}
        return self._report(x, y, sample_weight, step, weights, taken_at)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One evaluation step: the same losses, with the current weights of the terms (including warmup)."""
        x, y, sample_weight = self._unpacked(data)
        iterations = tf.cast(self.optimizer.iterations, tf.int64) if self.optimizer else tf.constant(2**62, tf.int64)
        extracted = self._extract(x, y, training=False, inner=True)
        loss = self._compute_loss(x=x, y=y, y_pred=extracted.scores, sample_weight=sample_weight, training=False)
        terms = batch_terms(self.objective, extracted, sample_weight, self.multi_label)
        weights = tf.cast(self._term_weights.at(iterations, training=False), self._float)
        if self._former is not None:  # its terms no longer exist
            weights = tf.zeros_like(weights)
        taken_at = dict.fromkeys(("last", "inner"), tf.ones((), self._float))
        return self._report(x, y, sample_weight, _Step(extracted.scores, loss, terms, {}), weights, taken_at)

    def _unpacked(self, data: Any) -> tuple[Any, Any, Any]:
        """Images, labels and sample weights of a batch, after checks of the losses and labels."""
        checks.refuse_probability_loss(self.loss)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("y: expected labels, got none. The attention losses need the labelled class.")
        return x, y, sample_weight

    def _extract(self, x: Any, y: Any, training: bool, inner: bool) -> attention.Extracted:
        """Scores, and the attention for the labelled class and its rival."""
        choose = functools.partial(
            attention.trained_classes,
            labels=y,
            multi_label=self.multi_label,
            ignore_class=checks.ignored_class(self.loss),
        )
        return self._extractor.extract(x, training, choose, self._of, inner)

    def _step(self, x: Any, y: Any, sample_weight: Any, weights: tf.Tensor | None, share: Any) -> _Step:
        """A forward and a backward pass, with attention terms of these weights, or without attention if `None`.

        The differentiated loss is multiplied by `share`; see `sfocus_tf.distribution.replica_share`.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            if weights is None:
                scores, terms = self(x, training=True), no_terms(self._float)
            else:
                extracted = self._extract(x, y, training=True, inner=self._step_kind.inner)
                scores = extracted.scores
                terms = batch_terms(self.objective, extracted, sample_weight, self.multi_label)
            loss = self._compute_loss(x=x, y=y, y_pred=scores, sample_weight=sample_weight, training=True)
            total = loss
            if weights is not None:
                attention_loss = tf.reduce_sum(tf.stack(terms.terms) * weights)
                # Keras divides losses of `compile(loss=...)` by the number of replicas; divide this one too.
                total = loss + tf.cast(attention_loss / replicas, loss.dtype)
            if replicas > 1:
                total *= tf.cast(share, total.dtype)
            total = self.optimizer.scale_loss(total)
        try:
            gradients = tape.gradient(total, self.trainable_variables)
        except derivatives.MISSING as error:
            if weights is None or not self.objective.second_order:  # plain Keras cannot train it either
                raise
            raise derivatives.no_second_derivative(error, self.classifier) from error
        connected = {str(index): gradient for index, gradient in enumerate(gradients) if gradient is not None}
        return _Step(scores, loss, terms, connected)

    def _apply(self, gradients: dict[str, tf.Tensor]) -> None:
        """Applies gradients to the variables with these indices."""
        if not self.trainable_variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)  # as in plain Keras
            return
        # Without any gradient, let Keras raise its own error.
        pairs = [(gradient, self.trainable_variables[int(index)]) for index, gradient in gradients.items()]
        self.optimizer.apply_gradients(pairs or [(None, variable) for variable in self.trainable_variables])

    def _report(
        self, x: Any, y: Any, sample_weight: Any, step: _Step, weights: tf.Tensor, taken_at: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics with a batch and returns their results.

        `taken_at["inner"]` and `taken_at["last"]` are 1 if this step computed attention at that layer, else 0.
        """
        images = tf.cast(tf.shape(step.scores)[0], self._float)
        classification = tf.cast(step.loss, self._float) * tf.distribute.get_strategy().num_replicas_in_sync
        total = classification + tf.reduce_sum(tf.stack(step.terms.terms) * weights)
        counts = {key: images * taken_at["last" if key.endswith("_last") else "inner"] for key in (*TERMS, *SHARES)}
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(total, sample_weight=images)
        self._means.update("classification_loss", classification, images)
        for key, value in zip(TERMS, step.terms.terms, strict=True):
            self._means.update(key, value, counts[key])
        for key, value in zip(SHARES, step.terms.shares, strict=True):
            self._means.update(key, value, counts[key] * step.terms.valid)
        return self.compute_metrics(x, y, step.scores, sample_weight=sample_weight)
