"""A Keras model that trains a classifier with attention separation and consistency (ICASC)."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sfocus_tf import attention as attention_lib
from sfocus_tf import distribution, serving
from sfocus_tf.attention import ExplainingModel, Observer, Traced, channel_gradients, derivatives
from sfocus_tf.classifier import attention_layers, checks, graph
from sfocus_tf.errors import unknown
from sfocus_tf.keras_workarounds import MeansOfLosses, RandomStateModel, ReplicatedModel
from sfocus_tf.losses import SHARES, TERMS, Settings, Term

# What is logged beside the loss and the user's metrics.
LOGGED = ("classification_loss", *TERMS, *SHARES)


class StepKind(NamedTuple):
    """What a training step has to compute, by the terms whose weight is not zero.

    Attributes:
        supervised: whether any step has attention terms.
        always: whether all steps have them.
        inner: whether a term needs the inner layer's attention.
    """

    supervised: bool
    always: bool
    inner: bool


@keras.saving.register_keras_serializable(package="sfocus_tf")
class SharpenFocus(ReplicatedModel, ExplainingModel, RandomStateModel):
    """Trains a classifier so that its attention to the true class and to its rival part.

    Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019, arXiv 1811.07484. The loss
    of each batch is

        L = L_classification + w1 * L_AS(inner) + w2 * L_AS(last) + w3 * L_AC

    with the attention of the labelled class T and of the most confusing class C at two layers; see
    `sfocus_tf.attention` and `sfocus_tf.losses` for the equations. By default only the separation at the last layer
    counts, in a form that only the rival's attention gives way to, at next to no cost in time. The paper's losses as
    they stand are `SharpenFocus(classifier, **sfocus_tf.recipe("paper").arguments(steps))`, with the steps of the whole
    run. What the model is called on, and what `predict` gives, are the classifier's scores; `classifier` itself stays
    an ordinary Keras model that shares its weights. Losses are given to `compile` as objects with `from_logits=True`; a
    cross-entropy that takes probabilities raises a `ValueError` at the first step.

    Example:
        classifier = keras.applications.ResNet50(weights=None, classes=10, classifier_activation=None)
        model = sfocus_tf.SharpenFocus(classifier)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        model.fit(train, validation_data=validation)

    Logged beside the loss and the user's metrics, in training and validation: `classification_loss` (with the weight
    regularisation, the loss of plain Keras), `separation_inner`, `separation_last`, `consistency` (before their
    weights; over the steps that computed them, 0 where none did, as with the inner layer's in training by default), and
    `dead_target_inner`, `dead_rival_inner`, `dead_target_last`, `dead_rival_last`: the share of pictures whose map is
    all zero; `weak_inner`, `weak_last`: the share whose target map is below `minimum_mass`, which count as zero in all
    terms but the separations "margin" and "difference" (which leaves out by the difference of the evidence instead, and
    whose `dead_rival` says where nothing speaks for the rival).

    Attributes:
        classifier: the wrapped model.
        inner_layer, last_layer: paths of the two attention layers.
        terms: how each term was set up, by the names of `TERMS`; `set_term_weight` changes a weight in training.
        settings: how the terms are made.
    """

    def __init__(
        self,
        classifier: keras.Model,
        inner_layer: str | None = None,
        last_layer: str | None = None,
        *,
        attention: str = "grad_cam",
        second_order: bool = True,
        multi_label: bool = False,
        separation: str = "rival",
        separation_inner: float | Term = 0.0,
        separation_last: float | Term = 0.3,
        consistency: float | Term = 0.0,
        sigma: float = 0.55,
        omega: float = 100.0,
        theta: float = 0.8,
        minimum_mass: float = 0.05,
        name: str | None = None,
        **kwargs: Any,
    ):
        """Wraps a classifier.

        Args:
            classifier: a built functional or Sequential model, nested ones too, `[batch, height, width, channels]` ->
                scores before softmax or sigmoid, `[batch, classes]`.
            inner_layer: name or path of the inner attention layer; found by itself where `None`.
            last_layer: name or path of the last attention layer; found by itself where `None`.
            attention: how maps are made, one of `sfocus_tf.attention.MECHANISMS`.
            second_order: differentiate the attention through its own weights, as the paper does. False takes them as
                constants: cheaper, and a different method.
            multi_label: several classes a picture (labels are rows of 0 and 1, the loss binary cross-entropy).
            separation: the form of the separation losses: "rival", "outside", "difference", "margin", or "overlap",
                which is the paper's; see `rival_loss` (the first two), `difference_loss`, `margin_loss` and
                `separation_loss` of `sfocus_tf.losses`.
                With "outside" and one class a picture, all terms are of the attention of scores less their mean over
                the classes, and with "difference" and a mechanism of `sfocus_tf.attention.LINEAR` of that of the
                target's score less the rival's, and of the opposite; explanations are of the scores themselves.
            separation_inner: weight of the separation loss at the inner layer, or a `Term` with warm-up, ramp and
                "every k steps" too.
            separation_last: the same at the last layer.
            consistency: the same of the consistency loss.
            sigma: of the soft mask; see `sfocus_tf.terms.Settings`.
            omega: of the soft mask.
            theta: of the consistency loss.
            minimum_mass: the least share of a picture's evidence that all losses but the margin take for attention.
            name: name of the model.
            **kwargs: of `keras.Model`.

        Raises:
            TypeError: the classifier is no functional or Sequential Keras model.
            ValueError: the classifier ends in softmax or sigmoid, or lacks two usable layers; a name that is not
                known; a number out of its range.
        """
        super().__init__(name=name or f"sharpen_focus_{getattr(classifier, 'name', '')}", **kwargs)
        _refuse_wrapped(classifier)
        self.num_classes = checks.check(classifier)
        self.classifier = classifier
        self.inner_layer, self.last_layer = attention_layers.find(classifier, inner_layer, last_layer)
        self.attention = attention_lib.check_mechanism(attention)
        self.second_order = second_order
        self.multi_label = multi_label
        self.settings = Settings(separation, sigma, omega, theta, minimum_mass)
        # Softmax alone takes no notice of what is added to all scores; sigmoids do.
        self._relative = separation == "outside" and not multi_label
        # One backward pass instead of two, where it is the same.
        self._contrast = separation == "difference" and attention in attention_lib.LINEAR
        given = dict(zip(TERMS, (separation_inner, separation_last, consistency), strict=True))
        # Sums over maps and all that is made of them: float32 at least, float64 for a float64 classifier.
        self._float = "float64" if classifier.outputs[0].dtype == "float64" else "float32"
        paths = (self.inner_layer, self.last_layer)
        # Other mechanisms want the gradient at each position.
        known = channel_gradients.readers(classifier, paths) if attention == "grad_cam" else {}
        readers = {path: known.get(path, frozenset()) for path in paths}
        self._observer = Observer(classifier, *paths, attention, second_order, multi_label, self._float, readers)
        self._traced = Traced(self._observer)
        self.terms = {key: _term(key, term) for key, term in given.items()}
        self._term_weights = {key: self._weight_variable(key, term.weight) for key, term in self.terms.items()}
        self._means = MeansOfLosses(LOGGED, self._float)
        self._step_kind = StepKind(supervised=True, always=False, inner=True)
        self._chooses_jit = False
        self.build(classifier.input_shape)

    def _weight_variable(self, key: str, weight: float) -> keras.Variable:
        initializer = keras.initializers.Constant(weight)
        return self.add_weight((), initializer, "float32", trainable=False, name=f"{key}_weight")

    def build(self, input_shape: Any) -> None:
        """Nothing to build: the classifier comes built."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The classifier's scores, `[batch, classes]`."""
        return self.classifier(inputs, training=training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`.

        The warm-up of the terms counts the optimizer's steps: with another optimizer it begins again. "auto" compiles
        with XLA where plain Keras would, but never a step with attention terms, whose second derivatives were 32 times
        slower with it on a CPU; `jit_compile=True` is obeyed.

        Raises:
            ValueError: a metric has the name of a term or of another of the logs.
        """
        parts = [part for part in self.classifier._flatten_layers() if not isinstance(part, keras.Model)]
        for metric in keras.tree.flatten((metrics, weighted_metrics, [part.metrics for part in parts])):
            name = getattr(metric, "name", getattr(metric, "__name__", metric))
            if name in LOGGED:
                raise ValueError(f"metrics: {name!r} is logged by SharpenFocus itself. Give the metric another name.")
        self._chooses_jit = jit_compile == "auto"
        if self._chooses_jit and self._step_kind_now().supervised:
            jit_compile = False
        super().compile(
            optimizer, loss, loss_weights, metrics, weighted_metrics, run_eagerly, steps_per_execution, jit_compile,
            **kwargs,
        )  # fmt: skip

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile_from_config` needs, of a file for instance."""
        config = super().get_compile_config()
        return config | {"jit_compile": "auto"} if config and self._chooses_jit else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as `get_compile_config` described it; Keras leaves that to a class with a `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def set_term_weight(self, term: str, weight: float) -> None:
        """Changes the weight of a term, from the next step on; nothing needs to be compiled again.

        The weights of the terms are among the model's weights: `load_weights` and `set_weights` bring back those that
        were saved, and files remember a changed one.

        Args:
            term: one of `TERMS`.
            weight: its factor in the total loss, not negative.

        Raises:
            ValueError: no such term, or a negative weight.
        """
        if term not in TERMS:
            raise unknown("term", term, TERMS)
        self._term_weights[term].assign(_term(term, weight).weight)
        if self.train_function is not None:
            self.make_train_function()

    def make_train_function(self, force: bool = False) -> Any:
        """As `keras.Model.make_train_function`; called by Keras before training.

        With all weights zero the step has no attention terms, not even ones that are never applied: a graph that
        contains both kinds of step is optimised differently, and rounds differently in the last bit. Where every step
        has them there is no plain step beside them, which would cost memory for nothing, and no attention is taken at
        the inner layer where no term needs it.
        """
        kind = self._step_kind_now()
        force = force or kind != self._step_kind
        self._step_kind = kind
        if kind.supervised and self._chooses_jit:  # a weight may have been zero when the model was compiled
            self.jit_compile = False
        return super().make_train_function(force)

    def _step_kind_now(self) -> StepKind:
        """What a training step has to compute with the weights as they stand."""
        weights = {key: float(tf.convert_to_tensor(weight)) for key, weight in self._term_weights.items()}
        counted = [key for key in TERMS if weights[key] > 0]
        return StepKind(
            supervised=bool(counted),
            always=any(self.terms[key].always_due for key in counted),
            inner=counted not in ([], ["separation_last"]),
        )

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of training: with the attention terms where one is due, else without any work for them."""
        x, y, sample_weight = self._unpacked(data)
        step = tf.cast(self.optimizer.iterations, tf.int64)
        weights = self._weights_at(step, training=True)
        connected: list[int] = []
        share = distribution.replica_share(tf.shape(tf.nest.flatten(x)[0])[0], self._float)

        def plain() -> Any:
            return self._gradients(x, y, sample_weight, None, share, connected)

        def attentive() -> Any:
            return self._gradients(x, y, sample_weight, weights, share, connected)

        attend = tf.reduce_any(weights > 0)
        if not self._step_kind.supervised:
            step_taken = plain()
        elif self._step_kind.always or distribution.has_collectives(self.classifier):
            # Replicas cannot meet inside a condition: the terms are computed in every step, with weights of 0 at times.
            step_taken = attentive()
        else:
            step_taken = tf.cond(attend, attentive, plain)
        scores, loss, summary, gradients = step_taken
        if self.trainable_variables:
            pairs = zip(gradients, (self.trainable_variables[index] for index in connected), strict=True)
            # Without any gradient, Keras' own error.
            self.optimizer.apply_gradients(list(pairs) or [(None, each) for each in self.trainable_variables])
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)  # as plain Keras
        taken = tf.cast(attend, self._float)
        taken_at = {"last": taken, "inner": taken if self._step_kind.inner else tf.zeros_like(taken)}
        return self._report(x, y, sample_weight, scores, loss, summary, weights, taken_at)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of evaluation: the same losses, with the terms' weights as they stand (warm-up included)."""
        x, y, sample_weight = self._unpacked(data)
        step = tf.cast(self.optimizer.iterations, tf.int64) if self.optimizer else tf.constant(2**62, tf.int64)
        scores, maps, classes = self._observer.observe(
            x,
            training=False,
            labels=y,
            relative=self._relative,
            contrast=self._contrast,
            ignore_class=checks.ignored_class(self.loss),
        )
        loss = self._compute_loss(x=x, y=y, y_pred=scores, sample_weight=sample_weight, training=False)
        summary = self.settings.summary(scores, maps, classes, sample_weight, self.multi_label)
        weights = self._weights_at(step, training=False)
        taken_at = dict.fromkeys(("last", "inner"), tf.ones((), self._float))
        return self._report(x, y, sample_weight, scores, loss, summary, weights, taken_at)

    def _unpacked(self, data: Any) -> tuple[Any, Any, Any]:
        """Pictures, labels and weights of a batch, known to be what the losses need."""
        checks.refuse_probability_loss(self.loss)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("y: expected labels, got none. Attention is taken of the labelled class.")
        return x, y, sample_weight

    def _gradients(
        self, x: Any, y: Any, sample_weight: Any, weights: tf.Tensor | None, share: Any, connected: list[int]
    ) -> Any:
        """Scores, unscaled loss of the replica, summary, and the gradients of the variables numbered in `connected`;
        the loss that is differentiated counts as much as the replica's `share` of the pictures.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            if weights is None:
                scores = self(x, training=True)
                summary = [tf.zeros((), self._float)] * (len(TERMS) + len(SHARES) + 1)
                loss = self._compute_loss(x=x, y=y, y_pred=scores, sample_weight=sample_weight, training=True)
                total = loss
            else:
                inner = self._step_kind.inner
                scores, maps, classes = self._observer.observe(
                    x,
                    training=True,
                    labels=y,
                    inner=inner,
                    relative=self._relative,
                    contrast=self._contrast,
                    ignore_class=checks.ignored_class(self.loss),
                )
                summary = self.settings.summary(scores, maps, classes, sample_weight, self.multi_label)
                loss = self._compute_loss(x=x, y=y, y_pred=scores, sample_weight=sample_weight, training=True)
                attention_loss = tf.reduce_sum(tf.stack(summary[: len(TERMS)]) * weights)
                # Keras divides what goes through `compile(loss=...)` by the replicas; this does it for the rest.
                total = loss + tf.cast(attention_loss / replicas, loss.dtype)
            if replicas > 1:
                total *= tf.cast(share, total.dtype)
            total = self.optimizer.scale_loss(total)
        try:
            gradients = tape.gradient(total, self.trainable_variables)
        except derivatives.MISSING as error:
            if weights is None or not self.second_order:  # plain Keras could not train it either
                raise
            raise derivatives.no_second_derivative(error, self.classifier) from error
        connected[:] = [index for index, gradient in enumerate(gradients) if gradient is not None]
        return scores, loss, summary, [gradient for gradient in gradients if gradient is not None]

    def _weights_at(self, step: tf.Tensor, training: bool) -> tf.Tensor:
        """The terms' weights at a step, `[3]`, in the order of `TERMS`."""
        weights = []
        for key, term in self.terms.items():
            weight = tf.convert_to_tensor(self._term_weights[key]) * term.ramp(step)
            weights.append(weight * term.boost(step) if training else weight)
        return tf.cast(tf.stack(weights), self._float)

    def _report(
        self, x: Any, y: Any, sample_weight: Any, scores: Any, loss: Any, summary: Any, weights: Any, taken_at: Any
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics with one batch and returns their results; `taken_at` has 1 for each layer, inner and
        last, at which attention was taken in this step, else 0.
        """
        pictures = tf.cast(tf.shape(scores)[0], self._float)
        classification = tf.cast(loss, self._float) * tf.distribute.get_strategy().num_replicas_in_sync
        terms, shares, share = summary[: len(TERMS)], summary[len(TERMS) : -1], summary[-1]
        total = classification + tf.reduce_sum(tf.stack(terms) * weights)
        counts = {key: pictures * taken_at["last" if key.endswith("_last") else "inner"] for key in (*TERMS, *SHARES)}
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(total, sample_weight=pictures)
        self._means.update("classification_loss", classification, pictures)
        for key, value in zip(TERMS, terms, strict=True):
            self._means.update(key, value, counts[key])
        for key, value in zip(SHARES, shares, strict=True):
            self._means.update(key, value, counts[key] * share)
        return self.compute_metrics(x, y, scores, sample_weight=sample_weight)

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

        Encoded pictures reach the classifier as pixels from 0 to 255. One that was trained on others needs a
        `keras.layers.Rescaling` inside, or is exported by `python -m sfocus_tf export --preprocessing=...`.

        Args:
            filepath: the folder, such as "served/1".
            format: "tf_saved_model", or another one of `keras.Model.export`, which then writes the scores only.
            class_names: one for each class, in the order of the class numbers; the numbers by default.
            image_size: height and width that encoded pictures are resized to; by default what the classifier takes.
            center_crop: share of an encoded picture's shorter side that a central square window takes, in (0, 1]; by
                default the whole picture is taken, stretched. As `sfocus_tf.data.load` has it.
            **kwargs: of `keras.Model.export`, for another format.

        Raises:
            ValueError: not one name for each class, no size for a classifier that takes pictures of any, another size
                than it takes, or no share.
            FileExistsError: there is a file of that name, or a folder that is not empty.
        """
        if format != "tf_saved_model":
            self.classifier.export(filepath, format=format, **kwargs)
            return
        if kwargs:
            raise TypeError(f"export: unexpected arguments {', '.join(kwargs)} for format='tf_saved_model'.")
        size = tuple(image_size or self.classifier.input_shape[1:3])
        if len(size) != 2 or None in size:
            raise ValueError("image_size: expected height and width, as this classifier takes pictures of any size.")
        names = range(self.num_classes) if class_names is None else class_names
        serving.save(self._observer, filepath, tuple(str(name) for name in names), size, center_crop)

    def load_own_variables(self, store: Any) -> None:
        """As every Keras layer's; called by Keras when it loads a file."""
        super().load_own_variables(store)
        if self.train_function is not None:  # the weights of the terms may be others now
            self.make_train_function()

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to build the model again; weights apart."""
        terms = {key: dataclasses.asdict(term) for key, term in self.terms.items()}
        return super().get_config() | terms | dataclasses.asdict(self.settings) | {
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "inner_layer": self.inner_layer,
            "last_layer": self.last_layer,
            "attention": self.attention,
            "second_order": self.second_order,
            "multi_label": self.multi_label,
            "name": self.name,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SharpenFocus":
        """The model that `get_config` described."""
        config = dict(config)
        config.setdefault("separation", "overlap")  # the only form in files that do not name one
        config["classifier"] = keras.saving.deserialize_keras_object(config["classifier"], custom_objects)
        for key in TERMS:
            config[key] = Term(**config[key])
        return cls(**config)


def _term(key: str, given: float | Term) -> Term:
    if isinstance(given, Term):
        return given
    if not given >= 0:
        raise ValueError(f"{key}={given!r}: expected a weight of 0 or more.")
    return Term(given)


def _refuse_wrapped(classifier: Any) -> None:
    """Raises a `TypeError` for a model that is wrapped already, or has one inside."""
    for path, layer in [("", classifier), *graph.operations(classifier)]:
        if isinstance(layer, SharpenFocus):
            where = f"layer {path!r}" if path else f"{layer.name!r}"
            raise TypeError(
                f"classifier: {where} is a SharpenFocus already. Pass the classifier inside it: "
                "SharpenFocus(model.classifier, ...)."
            )
