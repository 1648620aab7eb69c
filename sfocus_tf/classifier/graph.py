"""Finding the two attention layers of a classifier, and running it while they are watched.

A classifier may be nested: a model used as one layer of another, to any depth. A layer inside is named by its path,
such as "resnet50/conv4_block6_out".
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

Visit = Callable[[str, Any, Any, Any], None]


class Step(NamedTuple):
    """One layer, or other operation, as it is run for an output of the classifier.

    Attributes:
        path: its path.
        layer: the layer or operation.
        inputs: the symbolic tensors that it takes.
        output: what it gives.
    """

    path: str
    layer: Any
    inputs: list[keras.KerasTensor]
    output: Any


def run(model: keras.Model, inputs: Any, visit: Visit, training: bool | None = None) -> Any:
    """Runs a functional or sequential model, showing every layer's output, those inside nested models too.

    Args:
        model: the model.
        inputs: its inputs: tensors, or symbolic ones.
        visit: called as `visit(path, layer, arguments, output)` after each layer, in order of execution.
        training: as in `model(inputs, training=...)`.

    Returns:
        The output of the model.

    Raises:
        ValueError: inputs of another shape than the model takes.
    """
    # What `model(inputs)` does around its graph: without, each layer would forget its losses when it is called again.
    model._assert_input_compatibility(inputs)
    model._get_call_context()
    try:
        return _run(model, inputs, visit, training)
    finally:
        model._maybe_reset_call_context()


def _run(
    model: keras.Model,
    inputs: Any,
    visit: Visit,
    training: bool | None,
    prefix: str = "",
    instead: Callable[[str, Any], Any] = lambda path, layer: layer,
) -> Any:
    """`run` without what is done once around it.

    `prefix` begins the paths; `instead(path, layer)` is run in the place of each layer.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        path = prefix + layer.name
        if "training" in getattr(layer, "_call_context_args", {}) and training is not None:
            kwargs["training"] = training  # as Keras has it: the outer call decides
        if is_transparent(layer):
            output = _run(layer, args[0], visit, kwargs.get("training"), path + "/", instead)
        else:
            output = instead(path, layer)(*args, **kwargs)
        visit(path, layer, (args, kwargs), output)
        return output

    symbolic = any(isinstance(tensor, keras.KerasTensor) for tensor in keras.tree.flatten(inputs))
    if isinstance(model, keras.Sequential):
        output = inputs if symbolic else keras.ops.convert_to_tensor(inputs, model.inputs[0].dtype)
        for layer in model.layers:
            output = call(layer, output)
        return output
    flat = keras.tree.flatten(inputs) if symbolic else model._standardize_inputs(inputs)
    outputs = model._run_through_graph(flat, call_fn=call)
    return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs


def is_transparent(layer: Any) -> bool:
    """Whether the layers inside can be seen: a functional or sequential model that has been built."""
    if isinstance(layer, keras.Sequential):
        return layer.built and len(layer.inputs) == 1
    # A subclass of a functional model with a `call` of its own does something else than its graph.
    return isinstance(layer, keras.Model) and type(layer).call.__qualname__ == "Functional.call"


def operations(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The layers and other operations of a model with their paths, those inside nested models too."""
    if is_transparent(model):
        # Those of a Sequential are its layers.
        for operation in getattr(model, "operations", None) or model.layers:
            yield prefix + operation.name, operation
            yield from operations(operation, prefix + operation.name + "/")


def steps(classifier: keras.Model) -> tuple[list[Step], keras.KerasTensor, keras.KerasTensor]:
    """Every step of a classifier on symbolic images, in order; of nested models, those inside.

    Args:
        classifier: a model that `sfocus_tf.classifiers.check` accepts.

    Returns:
        The steps, the symbolic images, and the classifier's output for them.
    """
    found: list[Step] = []

    def record(path: str, layer: Any, arguments: Any, output: Any) -> None:
        tensors = [t for t in keras.tree.flatten(arguments) if isinstance(t, keras.KerasTensor)]
        if not is_transparent(layer):  # what a nested model gives, its last layer gave already
            found.append(Step(path, layer, tensors, output))

    shape = [side or 224 for side in classifier.inputs[0].shape[1:3]]
    symbolic = keras.Input((*shape, classifier.inputs[0].shape[3]), dtype=classifier.inputs[0].dtype)
    result = run(classifier, symbolic, record)
    return found, symbolic, result


def rebuilt(model: keras.Model, instead: Callable[[str, Any], Any]) -> keras.Model:
    """The network of a model with other layers: `instead(path, layer)` in the place of each, with no nested models."""
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    return keras.Model(inputs, _run(model, inputs, lambda *step: None, None, instead=instead), name=model.name)


def flat(classifier: keras.Model) -> keras.Model:
    """A copy of a network in float32 with no model inside another, for tools that cannot see into nested models.

    Its layers are called what `flat_name` makes of their paths.
    """
    inputs = keras.Input(classifier.input_shape[1:], name="image")
    copies: dict[int, Any] = {}

    def copied(path: str, layer: Any) -> Any:
        if id(layer) not in copies:  # else it is run once more
            change = {"name": flat_name(path)}
            if isinstance(layer, keras.Layer):  # others are functions of tensors
                change["dtype"] = "float32"
            copies[id(layer)] = type(layer).from_config(layer.get_config() | change)
        return copies[id(layer)]

    def fill(path: str, layer: Any, arguments: Any, output: Any) -> None:
        if id(layer) in copies and isinstance(layer, keras.Layer):  # by now the copy has weights
            copies[id(layer)].set_weights(layer.get_weights())

    return keras.Model(inputs, _run(classifier, inputs, fill, None, instead=copied))


def flat_name(path: str) -> str:
    """The name of a layer in `flat` copies; its own where it is in no nested model."""
    return path.replace("/", ".")
