"""A Keras model that trains a classifier with attention separation and consistency (ICASC)."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sfocus_tf import attention
from sfocus_tf.attention import channel_gradients
from sfocus_tf.classifier import attention_layers, checks, graph
from sfocus_tf.classifier.token_grids import Grid
from sfocus_tf.keras_workarounds import MeansOfLosses, RandomStateModel, ReplicatedModel, ShortLogsModel
from sfocus_tf.losses import SHARES, TERMS, Objective, Term, former, named
from sfocus_tf.losses.clock import Clock, TimedModel
from sfocus_tf.losses.term_weights import StepKind, TermWeights
from sfocus_tf.serving import ServedModel
from sfocus_tf.training_step import LOGGED, SupervisedModel


@keras.saving.register_keras_serializable(package="sfocus_tf")
class SharpenFocus(SupervisedModel, ReplicatedModel, TimedModel, ShortLogsModel, ServedModel, RandomStateModel):
    """Trains a classifier to separate its attention for the true class from that for its rival.

    Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019, arXiv 1811.07484. The loss
    of each batch is

        L = L_classification + w1 * L_AS(inner) + w2 * L_AS(last) + w3 * L_AC

    with the attention for the labelled class T and the most confusing class C at two layers; see `sfocus_tf.losses`
    for the equations and `sfocus_tf.losses.Objective` for the weights and their timing. Calls and `predict` return the
    classifier's scores (logits); `classifier` itself stays an ordinary Keras model that shares the weights. Pass
    `compile` losses with `from_logits=True`; a cross-entropy that takes probabilities raises a `ValueError` at the
    first step.

    Example:
        ```python
        classifier = keras.applications.ResNet50(weights=None, classes=10, classifier_activation=None)
        model = sfocus_tf.SharpenFocus(classifier)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        model.fit(train, validation_data=validation)
        ```

    Logged in training and validation, in addition to the loss and the user's metrics:

    - `classification_loss`: the loss of plain Keras, including weight regularisation;
    - `separation_inner`, `separation_last`, `consistency`: the terms before weighting, averaged over the steps that
      computed them; 0 if none did, as for the inner layer in training with "light";
    - `dead_target_inner`, `dead_rival_inner`, `dead_target_last`, `dead_rival_last`: the share of images whose map is
      zero everywhere;
    - `weak_inner`, `weak_last`: the share of images whose target map is below `minimum_mass`; these count as zero in
      all terms.

    The progress bar shows the three terms after an epoch, and none of the others; `verbose=2` and the history have all.
    Without `return_dict`, `evaluate` and `..._on_batch` return the loss and the user's metrics, as in plain Keras.

    As a layer of another Keras model it only predicts: training that model trains no attention. See `around`.

    Attributes:
        classifier: the wrapped model.
        objective: the training objective; `set_term_weight` changes a weight during training.
        inner_layer: path of the inner attention layer.
        last_layer: path of the last attention layer.
        grid: rows and columns of the tokens, as they were given.
        multi_label: whether images may have several classes.
    """

    _after_epochs = TERMS
    _unshown = ("classification_loss", *SHARES)

    def __init__(
        self,
        classifier: keras.Model,
        objective: str | Objective = "default",
        *,
        inner_layer: str | None = None,
        last_layer: str | None = None,
        grid: tuple[int, int] | None = None,
        multi_label: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ):
        """Wraps a classifier.

        Args:
            classifier: a built functional or Sequential model, possibly nested: `[batch, height, width, channels]` ->
                scores before softmax or sigmoid, `[batch, classes]`.
            objective: a name, or an `Objective`; see `sfocus_tf.objective`.
            inner_layer: name or path of the inner attention layer; chosen automatically if `None`.
            last_layer: name or path of the last attention layer; chosen automatically if `None`.
            grid: rows and columns of a transformer's tokens, `None` to infer them; an error says when they cannot be
                inferred and must be given. Refused if both attention layers output feature maps.
            multi_label: whether images may have several classes (labels are rows of 0 and 1, the loss is binary
                cross-entropy).
            name: name of the model.
            **kwargs: arguments of `keras.Model`.

        Raises:
            TypeError: the classifier is not a functional or Sequential Keras model, or the objective not an
                `Objective`.
            ValueError: the classifier ends in softmax or sigmoid, or lacks two usable layers; a name is unknown; the
                grid of its tokens is unclear, or `grid` does not fit them; or the objective explains relative maps of a
                multi-label classifier or of two classes.
        """
        super().__init__(name=name or f"sharpen_focus_{getattr(classifier, 'name', '')}", **kwargs)
        self.objective = named(objective)
        _refuse_wrapped(classifier)
        self.num_classes = checks.check(classifier)
        self.classifier = classifier
        self.grid = _as_grid(grid)
        located = attention_layers.locate(classifier, inner_layer, last_layer, self.grid)
        self.inner_layer, self.last_layer = located.layers
        self.multi_label = multi_label
        # Maps and losses are at least float32, float64 for a float64 classifier.
        self._float = "float64" if classifier.outputs[0].dtype == "float64" else "float32"
        paths = (self.inner_layer, self.last_layer)
        self._extractor = attention.AttentionExtractor(
            classifier,
            *paths,
            multi_label,
            channel_gradients.readers(classifier, paths),
            self._float,
            second_order=self.objective.second_order,
            rival_features=self.objective.rival_features,
            grids=located.grids,
        )
        self._of = self.objective.explained(self.num_classes, multi_label)
        self._extractor.check(self._of)
        self._traced = attention.Traced(self._extractor)
        # Binary cross-entropy is a mean over the classes.
        scale = 1 / self.num_classes if multi_label and self.objective.per_class else 1.0
        variables = {
            key: self.add_weight(
                (), keras.initializers.Constant(scale * term.weight), "float32", trainable=False, name=f"{key}_weight"
            )
            for key, term in self.objective.terms.items()
        }
        self._term_weights = TermWeights(variables, self.objective.terms, scale, Clock(self.objective.steps))
        self._means = MeansOfLosses(LOGGED, self._float)
        self._step_kind = StepKind(supervised=True, always=False, inner=True)
        self._chooses_jit = False
        self._former: dict[str, Any] | None = None  # settings of a former version that can no longer train
        self.build(classifier.input_shape)

    @property
    def token_grids(self) -> Mapping[str, Grid]:
        """How the attention layers that output tokens lie in the image, by path; empty for feature maps."""
        return self._extractor.grids

    @property
    def output_names(self) -> list[str]:
        """The name of the classifier's output, for losses and metrics by name."""
        return list(self.classifier.output_names)

    def build(self, input_shape: Any) -> None:
        """Does nothing: the classifier is already built."""
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

        "auto" compiles with XLA where plain Keras would, except steps with attention terms, whose second derivatives
        were 32 times slower with XLA on a CPU; `jit_compile=True` always compiles. Compiling again does not restart
        the schedule of the terms, except with `Objective.steps`, which counts the new optimizer's steps.

        Warns of metrics that take probabilities: an AUC or a cross-entropy with `from_logits=False`, and binary
        accuracy, precision or recall with their default threshold of 0.5.

        Raises:
            ValueError: a metric has the name of one of the logs above.
        """
        parts = [part for part in self.classifier._flatten_layers() if not isinstance(part, keras.Model)]
        for metric in keras.tree.flatten((metrics, weighted_metrics, [part.metrics for part in parts])):
            name = getattr(metric, "name", getattr(metric, "__name__", metric))
            if name in LOGGED:
                raise ValueError(f"metrics: {name!r} is logged by SharpenFocus itself. Give the metric another name.")
        checks.warn_of_probability_metrics((metrics, weighted_metrics))
        self._term_weights.clock.begin(0, 0)  # of no run: a new optimizer counts its own steps
        self._chooses_jit = jit_compile == "auto"
        if self._chooses_jit and self._term_weights.step_kind().supervised:
            jit_compile = False
        super().compile(
            optimizer, loss, loss_weights, metrics, weighted_metrics, run_eagerly, steps_per_execution, jit_compile,
            **kwargs,
        )  # fmt: skip

    def get_compile_config(self) -> dict[str, Any]:
        """The config for `compile_from_config`, as saved in a file."""
        config = super().get_compile_config()
        return config | {"jit_compile": "auto"} if config and self._chooses_jit else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles from `get_compile_config`; Keras leaves this to classes that override `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def set_term_weight(self, term: str, weight: float) -> None:
        """Changes the weight of a term from the next step on, without compiling again.

        Term weights are variables of the model: files keep a changed one, and `load_weights` and `set_weights` restore
        it.

        Args:
            term: one of `TERMS`.
            weight: the factor in the total loss, 0 or more.

        Raises:
            ValueError: an unknown term or a negative weight.
        """
        self._term_weights.change(term, weight)
        if self.train_function is not None:
            self.make_train_function()

    def make_train_function(self, force: bool = False) -> Any:
        """As `keras.Model.make_train_function`; called by Keras before training.

        The graph contains only the kinds of step that the weights need. With all weights zero it has no attention
        terms: a graph with both kinds of step rounds differently in the last bit. If every step has them, it has no
        plain step, which would cost memory. Attention at the inner layer is left out if no term needs it.

        Raises:
            ValueError: the model is of a former version whose settings can no longer train.
        """
        if self._former is not None:
            raise ValueError(
                f"model {self.name!r} can be used, but not trained: {former.objective_of(self._former)[1]}. Train "
                "SharpenFocus(model.classifier) instead."
            )
        kind = self._term_weights.step_kind()
        force = force or kind != self._step_kind
        self._step_kind = kind
        if kind.supervised and self._chooses_jit:  # all weights may have been zero at compile time
            self.jit_compile = False
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        checks.refuse_probability_loss(self.loss)  # its own error, which may come from its shapes, would tell less
        super()._maybe_symbolic_build(iterator, data_batch)

    def around(self, classifier: keras.Model) -> "SharpenFocus":
        """Wraps a classifier that contains this one's, with the settings of this model.

        Args:
            classifier: a functional or Sequential model with `self.classifier` as a layer.
        """
        inner, last = (f"{self.classifier.name}/{path}" for path in (self.inner_layer, self.last_layer))
        model = SharpenFocus(
            classifier,
            self.objective,
            inner_layer=inner,
            last_layer=last,
            grid=self.grid,
            multi_label=self.multi_label,
        )
        model._former, model.cam = self._former, self.cam
        return model

    def load_own_variables(self, store: Any) -> None:
        """As `keras.Layer.load_own_variables`; called by Keras when it loads a file."""
        super().load_own_variables(store)
        off = [key for key, term in self.objective.terms.items() if term.weight and not self._term_weights.value(key)]
        if off:
            warnings.warn(
                f"model {self.name!r}: the loaded weights of {', '.join(off)} are 0, as after cross-entropy "
                "alone. To train these terms, call set_term_weight, or load the weights into model.classifier.",
                stacklevel=2,
            )
        if self.train_function is not None:  # the weights of the terms may have changed
            self.make_train_function()

    def get_config(self) -> dict[str, Any]:
        """The config for `from_config`, without weights."""
        return super().get_config() | (self._former or {"objective": dataclasses.asdict(self.objective)}) | {
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "inner_layer": self.inner_layer,
            "last_layer": self.last_layer,
            "grid": self.grid,
            "multi_label": self.multi_label,
            "name": self.name,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SharpenFocus":
        """The model of a `get_config`, of this version or version 0.1."""
        config = dict(config)
        classifier = keras.saving.deserialize_keras_object(config.pop("classifier"), custom_objects)
        if not former.is_former(config):
            chosen = config.pop("objective")
            terms = {key: Term(**value) for key, value in chosen.items() if isinstance(value, dict)}
            return cls(classifier, Objective(**chosen | terms), **config)
        chosen, reason = former.objective_of(config)
        own = ("inner_layer", "last_layer", "grid", "multi_label", "name", "trainable", "dtype")
        model = cls(classifier, chosen, **{key: config[key] for key in own if key in config})
        if reason:
            model._former = {key: value for key, value in config.items() if key not in own}
            model.cam = config.get("attention", "grad_cam")
        return model


def _as_grid(grid: Any) -> tuple[int, int] | None:
    """Two positive whole numbers, from any sequence (a list, from a file)."""
    if grid is None:
        return None
    numbers = np.asarray(grid)
    if numbers.shape != (2,) or not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 1:
        raise ValueError(f"grid={grid!r}: expected rows and columns, two positive whole numbers.")
    return int(numbers[0]), int(numbers[1])


def _refuse_wrapped(classifier: Any) -> None:
    """Raises a `TypeError` for a model that is or contains a `SharpenFocus`."""
    for path, layer in [("", classifier), *graph.operations(classifier)]:
        if isinstance(layer, SharpenFocus):
            where = f"layer {path!r}" if path else f"{layer.name!r}"
            raise TypeError(
                f"classifier: {where} is a SharpenFocus already. Pass the classifier inside it: "
                "SharpenFocus(model.classifier, ...)."
            )
