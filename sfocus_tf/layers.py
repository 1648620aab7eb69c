"""Finding the two attention layers of a classifier, and running it while they are watched.

A classifier may be nested: a model used as one layer of another, to any depth. A layer inside is named by its path,
such as "resnet50/conv4_block6_out".
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from sfocus_tf.feature_maps import FeatureMap, Shape, no_layers, resolve
from sfocus_tf.spatial import Positions

# Operations that are an activation without being an Activation layer, by class name.
_ACTIVATIONS = {
    "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Softplus",
    "HardSilu", "Mish", "Celu", "SquaredRelu",
}  # fmt: skip
# Operations whose output is activated where all their inputs are.
_KEEPS_ACTIVATION = ("Concatenate", "Pooling", "ZeroPadding", "Cropping", "Dropout", "Identity")

Visit = Callable[[str, Any, Any, Any], None]


class AttentionLayers(NamedTuple):
    """Paths of the two layers.

    Attributes:
        inner: the last activated feature map at the next finer resolution.
        last: the last activated feature map.
    """

    inner: str
    last: str


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


def find(classifier: keras.Model, inner: str | None = None, last: str | None = None) -> AttentionLayers:
    """The two attention layers of a classifier.

    Left to itself, `last` is the last activated feature map with more than one position, and `inner` the last one at
    the next finer resolution. Of several at one resolution, those win through which every path to the output leads:
    a whole stage's output before one branch of it.

    Args:
        classifier: a model that `sfocus_tf.classifiers.check` accepts.
        inner: name or path of the inner layer, or `None` to have it found.
        last: name or path of the last layer, or `None` to have it found.

    Returns:
        The paths of both.

    Raises:
        ValueError: no such layer, a layer that has no feature map or is run more than once, two that are in the wrong
            order, or a network with no two usable layers.
    """
    every_map, others = _feature_maps(classifier)
    paths = [map_.path for map_ in every_map]
    # The output of a layer that is run several times is no one feature map.
    shared = {path for path in paths if paths.count(path) > 1}
    maps = [map_ for map_ in every_map if map_.path not in shared]
    by_path = {map_.path: map_ for map_ in maps}
    order = list(by_path)
    last_map: FeatureMap | None = by_path[resolve("last_layer", last, order, shared, others)] if last else _choose(maps)
    if last_map is None:
        raise no_layers(classifier.name, maps, None, shared, others)
    if inner:
        inner_map: FeatureMap | None = by_path[resolve("inner_layer", inner, order, shared, others)]
    else:
        before = maps[: order.index(last_map.path)]
        area = last_map.size[0] * last_map.size[1]
        finer = [map_ for map_ in before if map_.activated and map_.size[0] * map_.size[1] > area]
        nearest = min((map_.size[0] * map_.size[1] for map_ in finer), default=None)
        inner_map = _choose([map_ for map_ in finer if map_.size[0] * map_.size[1] == nearest])
    if inner_map is None:
        raise no_layers(classifier.name, maps, last_map, shared, others)
    if order.index(inner_map.path) >= order.index(last_map.path):
        raise ValueError(f"inner_layer={inner_map.path!r} must come before last_layer={last_map.path!r}.")
    return AttentionLayers(inner_map.path, last_map.path)


def _choose(maps: list[FeatureMap]) -> FeatureMap | None:
    """The last cut among the activated maps of the last one's resolution; the last one where there is no cut."""
    usable = [map_ for map_ in maps if map_.activated and map_.size != (1, 1)]
    if not usable:
        return None
    same = [map_ for map_ in usable if map_.size == usable[-1].size]
    return ([map_ for map_ in same if map_.is_cut] or same)[-1]


def steps(classifier: keras.Model) -> tuple[list[Step], keras.KerasTensor, keras.KerasTensor]:
    """Every step of a classifier on symbolic pictures, in order; of nested models, those inside.

    Args:
        classifier: a model that `sfocus_tf.classifiers.check` accepts.

    Returns:
        The steps, the symbolic pictures, and the classifier's output for them.
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


def _feature_maps(classifier: keras.Model) -> tuple[list[FeatureMap], dict[str, Shape]]:
    """Every layer's output of shape `[batch, height, width, channels]` with positions of the image, in order of
    execution; and of every other layer, what its output is.
    """
    run_steps, symbolic, result = steps(classifier)
    last_use = {id(t): position for position, step in enumerate(run_steps) for t in step.inputs}
    last_use[id(result)] = len(run_steps)
    activated: dict[int, bool] = {}
    live: set[int] = {id(symbolic)}
    maps = []
    others = {}
    positions = Positions(symbolic)
    for position, (path, layer, tensors, output) in enumerate(run_steps):
        activated[id(output)] = _activates(layer) or (
            any(part in type(layer).__name__ for part in _KEEPS_ACTIVATION)
            and all(activated.get(id(t), False) for t in tensors)
        )
        live |= {id(t) for t in keras.tree.flatten(output)}
        live = {tensor for tensor in live if last_use.get(tensor, -1) > position}
        if positions.follow(layer, tensors, output) and isinstance(output, keras.KerasTensor):
            usable = _activates(layer) or (activated[id(output)] and type(layer).__name__ == "Concatenate")
            size = (int(output.shape[1]), int(output.shape[2]))
            maps.append(FeatureMap(path, size, usable, live == {id(output)}))
        else:
            others[path] = tuple(output.shape) if isinstance(output, keras.KerasTensor) else None
    return maps, others


def _activates(layer: Any) -> bool:
    if type(layer).__name__ in _ACTIVATIONS:
        return True
    activation = getattr(layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear


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
