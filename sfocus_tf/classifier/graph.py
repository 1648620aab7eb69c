"""Runs, lists and rebuilds the graph of a functional or Sequential model, including nested models.

A nested model is a layer of another model, to any depth. A path names a layer inside one, such as
"resnet50/conv4_block6_out". Layers that other layers call, such as a normalisation inside a transformer's encoder, have
paths too, but no place in the graph: they are visited when asked for by path.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import keras

Visit = Callable[[str, Any, Any, Any], None]


class Step(NamedTuple):
    """One run of a layer or other operation of the classifier.

    Attributes:
        path: path of the layer.
        layer: the layer or operation.
        inputs: its symbolic input tensors.
        output: its output.
    """

    path: str
    layer: Any
    inputs: list[keras.KerasTensor]
    output: Any


def run(
    model: keras.Model, inputs: Any, visit: Visit, training: bool | None = None, inside: Collection[str] = ()
) -> Any:
    """Runs a functional or Sequential model and visits the output of every layer, including those of nested models.

    Args:
        model: the model.
        inputs: its inputs, tensors or symbolic tensors.
        visit: called as `visit(path, layer, arguments, output)` after each layer, in order of execution.
        training: as in `model(inputs, training=...)`.
        inside: paths of layers that other layers call, to visit as well; see `parts`.

    Returns:
        The output of the model.

    Raises:
        ValueError: the model does not take inputs of this shape.
    """
    # As `model(inputs)` does around its graph: otherwise each layer would drop its losses when it is called again.
    model._assert_input_compatibility(inputs)
    model._get_call_context()
    try:
        return _run(model, inputs, visit, training, inside=inside)
    finally:
        model._maybe_reset_call_context()


def _run(
    model: keras.Model,
    inputs: Any,
    visit: Visit,
    training: bool | None,
    prefix: str = "",
    instead: Callable[[str, Any], Any] = lambda path, layer: layer,
    inside: Collection[str] = (),
) -> Any:
    """`run` without the checks and call context around it.

    Paths start with `prefix`; `instead(path, layer)` runs in place of each layer.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        path = prefix + layer.name
        if "training" in getattr(layer, "_call_context_args", {}) and training is not None:
            kwargs["training"] = training  # as in Keras, the outer call decides
        if is_transparent(layer):
            output = _run(layer, args[0], visit, kwargs.get("training"), path + "/", instead, inside)
        else:
            with _visited_inside(layer, path, inside, visit):
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


def parts(layer: Any, prefix: str) -> dict[str, keras.Layer]:
    """The layers inside a layer, to any depth, by path; without those whose name a sibling has too.

    Args:
        layer: any layer.
        prefix: its path and a slash.
    """
    inside: dict[str, keras.Layer] = {}
    if not isinstance(layer, keras.Layer):  # another operation
        return inside
    children = list(layer._flatten_layers(recursive=False, include_self=False))
    names = [child.name for child in children]
    for child in children:
        if names.count(child.name) == 1:
            inside[prefix + child.name] = child
            inside |= parts(child, f"{prefix}{child.name}/")
    return inside


@contextlib.contextmanager
def _visited_inside(layer: Any, path: str, wanted: Collection[str], visit: Visit) -> Iterator[None]:
    """Visits the outputs of layers inside a layer while it is called.

    Their `call` is replaced on the instance for as long: Keras has no hook for calls, and the tensors that a layer
    computes with are seen nowhere else.
    """
    wanted = [each for each in wanted if each.startswith(path + "/")]
    inside = {each: part for each, part in (parts(layer, path + "/") if wanted else {}).items() if each in wanted}
    thread = threading.get_ident()  # replicas take turns, each in its own thread

    def watched(each: str, part: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def call_and_visit(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if threading.get_ident() == thread:
                visit(each, part, (args, kwargs), output)
            return output

        return call_and_visit

    before = {each: vars(part).get("call") for each, part in inside.items()}
    for each, part in inside.items():
        vars(part)["call"] = watched(each, part, part.call)  # not by setattr, which Keras tracks
    try:
        yield
    finally:
        for each, part in inside.items():
            vars(part).pop("call", None)
            if before[each] is not None:
                vars(part)["call"] = before[each]


def is_transparent(layer: Any) -> bool:
    """Whether the layers inside are accessible: the layer is a built functional or Sequential model."""
    if isinstance(layer, keras.Sequential):
        return layer.built and len(layer.inputs) == 1
    # A subclass of a functional model with its own `call` does not follow its graph.
    return isinstance(layer, keras.Model) and type(layer).call.__qualname__ == "Functional.call"


def operations(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The layers and other operations of a model with their paths, including those of nested models."""
    if is_transparent(model):
        # A Sequential has only layers.
        for operation in getattr(model, "operations", None) or model.layers:
            yield prefix + operation.name, operation
            yield from operations(operation, prefix + operation.name + "/")


def steps(classifier: keras.Model, size: int = 224) -> tuple[list[Step], keras.KerasTensor, keras.KerasTensor]:
    """Every step of a classifier on symbolic images, in order, with nested models replaced by their steps.

    Args:
        classifier: a model that `sfocus_tf.classifier.checks.check` accepts.
        size: height and width of the images in pixels, where the classifier takes any.

    Returns:
        The steps, the symbolic images, and the classifier's output for them.
    """
    recorded: list[Step] = []

    def record(path: str, layer: Any, arguments: Any, output: Any) -> None:
        tensors = [t for t in keras.tree.flatten(arguments) if isinstance(t, keras.KerasTensor)]
        if not is_transparent(layer):  # the output of a nested model is that of its last layer
            recorded.append(Step(path, layer, tensors, output))

    shape = [side or size for side in classifier.inputs[0].shape[1:3]]
    symbolic = keras.Input((*shape, classifier.inputs[0].shape[3]), dtype=classifier.inputs[0].dtype)
    result = run(classifier, symbolic, record)
    return recorded, symbolic, result


def rebuilt(model: keras.Model, instead: Callable[[str, Any], Any]) -> keras.Model:
    """Rebuilds a network with `instead(path, layer)` in place of each layer, without nested models."""
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    return keras.Model(inputs, _run(model, inputs, lambda *step: None, None, instead=instead), name=model.name)


def flat(classifier: keras.Model) -> keras.Model:
    """A float32 copy of a network without nested models, for tools that do not support them.

    `flat_name` names its layers by their paths.
    """
    inputs = keras.Input(classifier.input_shape[1:], name="image")
    copies: dict[int, Any] = {}

    def copied(path: str, layer: Any) -> Any:
        if id(layer) not in copies:  # else the layer is run again
            change = {"name": flat_name(path)}
            if isinstance(layer, keras.Layer):  # other operations are functions of tensors
                change["dtype"] = "float32"
            copies[id(layer)] = type(layer).from_config(layer.get_config() | change)
        return copies[id(layer)]

    def fill(path: str, layer: Any, arguments: Any, output: Any) -> None:
        if id(layer) in copies and isinstance(layer, keras.Layer):  # the copy has weights now
            copies[id(layer)].set_weights(layer.get_weights())

    return keras.Model(inputs, _run(classifier, inputs, fill, None, instead=copied))


def flat_name(path: str) -> str:
    """The name of a layer in a `flat` copy; its own unless it is in a nested model."""
    return path.replace("/", ".")
